"""What a site and the coordinator sign, and which requests are new (docs/protocol.md §5).

Pure: keys are in ``keys.py``, sessions at the coordinator. A signature covers method, path, body
and order; it covers no other header, so nothing may be decided by one.
"""

import hashlib
from dataclasses import dataclass

from hanse.errors import ProtocolError

SPAN = 1024
LARGEST = 2**53


def digest_of(body: "bytes | bytearray | memoryview") -> str:
    """Return the SHA-256 of a body in hex."""
    return hashlib.sha256(body).hexdigest()


def request_text(
    coordinator_key: str, method: str, path: str, *, session: str, sequence: int, digest: str
) -> bytes:
    """Return what a site signs of a request; ProtocolError if a part is not printable ASCII.

    ``path`` is with its query, as sent. For ``POST /v1/session`` the challenge stands in place of
    the session, and 0 in place of the sequence.
    """
    parts = (coordinator_key, method, path, session, str(sequence), digest)
    return _lines("hanse/1 request", *parts)


def response_text(request_signature: str, status: int, digest: str) -> bytes:
    """Return what the coordinator signs of a response; ProtocolError as in :func:`request_text`.

    ``request_signature`` is the header of the request, empty if it had none (``/v1/challenge``).
    """
    return _lines("hanse/1 response", request_signature, str(status), digest)


def _lines(*parts: str) -> bytes:
    """Join ``parts``, none of which may pass for two, or have more than one form in bytes."""
    for part in parts:
        if not (part.isascii() and part.isprintable()):
            raise ProtocolError(f"{part!r} cannot be signed: it is not printable ASCII")
    return "\n".join(parts).encode("ascii")


@dataclass(frozen=True, slots=True)
class Window:
    """The sequences of a session: the largest, and which of the 1,024 up to it have been seen.

    Bit i of ``seen`` stands for ``largest`` − i (the anti-replay window of RFC 4303 §3.4.3).
    """

    largest: int = 0
    seen: int = 0

    def accept(self, sequence: int) -> "Window":
        """Return the window with ``sequence`` in it; ProtocolError if it is seen, or too old."""
        if not 0 <= sequence <= LARGEST:
            raise ProtocolError(f"sequence {sequence} is not a whole number up to 2^53")
        if sequence > self.largest:
            ahead = min(sequence - self.largest, SPAN)  # a shift by 2^53 would take all memory
            return Window(sequence, (self.seen << ahead | 1) % 2**SPAN)
        behind = self.largest - sequence
        if behind >= SPAN:
            raise ProtocolError(f"sequence {sequence} is {behind} below the largest")
        if self.seen >> behind & 1:
            raise ProtocolError(f"sequence {sequence} was used before")
        return Window(self.largest, self.seen | 1 << behind)
