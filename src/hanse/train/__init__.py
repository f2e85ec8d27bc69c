"""Training at a client: one adapter per framework, behind the protocol of ``train/local.py``."""
