"""Identity keys: Ed25519 (RFC 8032) in files that only their owner reads (docs/protocol.md §4).

A key in a file is as safe as the account that owns it: who is that user, or root, has the key.
"""

import base64
import binascii
import os
import re
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from hanse.errors import ConfigError

LARGEST = 2**16
"""Bytes of a private file that are looked at: keys and certificates are far smaller."""

HEX_KEY = re.compile(r"[0-9a-f]{64}")
P = 2**255 - 19
EIGHTH = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
WEAK = frozenset({0, 1, P - 1, EIGHTH, P - EIGHTH})
"""The y of the points whose order divides 8: under such a key one signature fits many texts."""


@dataclass(frozen=True)
class IdentityKey:
    """A private identity key. Its ``repr`` shows the public part only."""

    private: Ed25519PrivateKey

    @staticmethod
    def create(path: Path) -> "IdentityKey":
        """Draw a key and keep it in ``path`` (PKCS#8 PEM); ConfigError if the file is there."""
        key = IdentityKey(Ed25519PrivateKey.generate())
        write_private(path, private_pem(key.private).encode())
        return key

    @staticmethod
    def load(path: Path) -> "IdentityKey":
        """Return the key in ``path``; ConfigError if it is missing, open to others, or no key."""
        content = read_private(path)
        try:
            private = load_pem_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None  # what the parser says may quote the file
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError(
                f"{path} holds no Ed25519 private key in PEM without a password",
                hint="restore the file from your backup; a new key is a new identity, to be joined",
            )
        return IdentityKey(private)

    @cached_property
    def public(self) -> str:
        """The public key: 32 bytes in lower-case hex."""
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, text: bytes) -> str:
        """Return the signature of ``text``: 64 bytes in base64 with padding."""
        return base64.b64encode(self.private.sign(text)).decode()

    def __repr__(self) -> str:
        return f"IdentityKey(public={self.public!r})"


def verify(public_hex: str, text: bytes, signature_b64: str) -> bool:
    """Return whether the signature is the key's over ``text``; False for anything malformed.

    One signature has one form: base64 is canonical, S is below the group's order (RFC 8032 §5.1.7).
    """
    if not is_public(public_hex):
        return False
    try:
        signature = base64.b64decode(signature_b64, validate=True)
        if base64.b64encode(signature).decode() != signature_b64:
            return False
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(signature, text)
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def is_public(public_hex: str) -> bool:
    """Return whether this may be an identity key: canonical hex (§5.1.3), and of no small order."""
    if not HEX_KEY.fullmatch(public_hex):
        return False
    y = int.from_bytes(bytes.fromhex(public_hex), "little") % 2**255  # without the sign of x
    return y < P and y not in WEAK


def private_pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> str:
    """Return a private key as PKCS#8 PEM without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def write_private(path: Path, content: bytes, *, replace: bool = False) -> None:
    """Write ``path``, readable for its owner only, so that it is there whole or not at all.

    Durable when this returns. ConfigError if it is there already (unless ``replace``), or cannot be
    written. A machine that stops in between may leave a ``.name.*`` file, which nobody reads.
    """
    with _explained(path, "written"):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600, new
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(name, path)
            else:
                os.link(name, path)  # unlike a rename, it never takes another file's place
        finally:
            Path(name).unlink(missing_ok=True)
        _sync(path.parent)


def read_private(path: Path) -> bytes:
    """Return the content of a private file; ConfigError if missing or if others may read it."""
    with _explained(path, "read"), open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(
                f"{path} is open to others (mode {stat.S_IMODE(mode):04o})",
                hint=f"chmod 600 {path}; if others use this machine, take what is in it as known",
            )
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ConfigError(f"{path} is larger than {LARGEST} bytes", hint="it is no file of Hanse's")
    return content


@contextmanager
def _explained(path: Path, done: str) -> Generator[None]:
    """Turn what the operating system refuses into a ConfigError."""
    try:
        yield
    except FileExistsError as error:
        raise ConfigError(
            f"{path} is there already", hint="it is never overwritten; move it away first"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be {done}: {error.strerror}",
            hint="see that it exists, that its folder does, and that both belong to this user",
        ) from error


def _sync(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
