"""Training at a client: one adapter per framework, behind the protocol of ``train/local.py``."""

from importlib import import_module
from types import ModuleType

ADAPTERS = ("torch",)


def __getattr__(name: str) -> ModuleType:
    """Import an adapter when it is first named, so that nobody needs a framework but its users."""
    if name in ADAPTERS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
