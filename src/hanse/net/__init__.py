"""The wire: identity, signatures, TLS, transfers (docs/protocol.md)."""
