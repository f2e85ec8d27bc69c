"""Invitation tokens: a secret, and the authority to trust with it (docs/protocol.md §4).

A token is as good as a password until it is used: it is read from a prompt or a file, never from
arguments or the environment, and no text or error here repeats one.
"""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field

from hanse.errors import ConfigError

PREFIX = "ht1_"
LENGTH = 86
"""Characters of 64 bytes in base64url without padding."""

AGAIN = "paste the whole token as it was given to you, or ask for a new one"
BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says: 32 secret bytes, and the SHA-256 of the authority's certificate."""

    secret: bytes = field(repr=False)
    ca_fingerprint: str

    @staticmethod
    def parse(text: str) -> "Token":
        """Return the token in ``text``, blanks around it apart; ConfigError says what is wrong."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise ConfigError(f"a token that does not begin with {PREFIX}", hint=AGAIN)
        body = text.removeprefix(PREFIX)
        if not BASE64URL.fullmatch(body):
            raise ConfigError("a token with characters that are not base64url", hint=AGAIN)
        if len(body) != LENGTH:
            wanted = len(PREFIX) + LENGTH
            raise ConfigError(f"a token of {len(text)} characters, not {wanted}", hint=AGAIN)
        content = base64.urlsafe_b64decode(body + "==")
        if _encoded(content) != body:
            raise ConfigError("a token whose last character is not base64url's", hint=AGAIN)
        return Token(content[:32], content[32:].hex())

    def text(self) -> str:
        """Return the token as it is handed over."""
        return PREFIX + _encoded(self.secret + bytes.fromhex(self.ca_fingerprint))


def new_token(ca_fingerprint: str) -> tuple[str, str]:
    """Return a new token, and the SHA-256 of its secret in hex, which is all that is kept of it.

    ValueError if ``ca_fingerprint`` is not 64 hex digits.
    """
    if len(bytes.fromhex(ca_fingerprint)) != 32:
        raise ValueError(f"{ca_fingerprint!r} is no SHA-256")
    secret = secrets.token_bytes(32)
    return Token(secret, ca_fingerprint).text(), secret_digest(secret)


def secret_digest(secret: bytes) -> str:
    """Return what the coordinator looks a token up by: the SHA-256 of its secret, in hex.

    A plain hash suffices, and a plain lookup too: the secret is 256 random bits, and where a
    comparison of its digest ends tells nothing about the secret.
    """
    return hashlib.sha256(secret).hexdigest()


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
