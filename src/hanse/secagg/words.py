"""What is hashed, derived and signed in a secure sum, byte for byte (docs/protocol.md §11.1).

Every field has its length before it, and every use its label, so that no two different statements
are the same bytes.
"""

import hashlib
import hmac
from typing import Final, Literal, get_args

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DOMAIN: Final = b"fl-sa/1"
SIGNED: Final = b"fl-sa/1/sig"
SIZE: Final = 32
"""Bytes of a digest, a seed, a key."""

Label = Literal[
    "session", "policy", "members", "roster", "hdr", "hdr-list", "ctx", "com-b", "chain", "next",
    "share-enc", "share-aad", "share-leaf", "node", "pair-mask", "self-mask", "seg", "graph",
    "receipt", "survivors", "confirm",
]  # fmt: skip
LABELS: Final = frozenset(get_args(Label))


def fields(*parts: bytes) -> bytes:
    """Return ``parts`` one behind the other, each behind its length in four bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def u16(number: int) -> bytes:
    """Return two bytes, the larger first."""
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    """Return four bytes, the larger first."""
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    """Return eight bytes, the larger first."""
    return number.to_bytes(8, "big")


def digest(label: Label, *parts: bytes) -> bytes:
    """Return SHA-256 of the labelled ``parts``: 32 bytes."""
    return hashlib.sha256(fields(DOMAIN, label.encode(), *parts)).digest()


def derived(secret: bytes, salt: bytes | None, label: Label, *parts: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869); without ``salt``, of zeros as long as a hash."""
    info = fields(DOMAIN, label.encode(), *parts)
    return HKDF(SHA256(), SIZE, salt, info).derive(secret)


def statement(label: Label, *parts: bytes) -> bytes:
    """Return what a client signs."""
    return fields(SIGNED, label.encode(), *parts)


def is_signed(key: bytes, signature: bytes, label: Label, *parts: bytes) -> bool:
    """Return whether ``signature`` is that of the identity ``key`` (Ed25519, 32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, statement(label, *parts))
    except (InvalidSignature, ValueError):
        return False
    return True


def is_same(one: bytes, two: bytes) -> bool:
    """Return whether two digests are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, two)
