"""Blobs: byte strings in chunks that are hashed once each (docs/protocol.md §3)."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from hanse.errors import ProtocolError

CHUNK = 2**20
MOST_CHUNKS = 2**20
PREFIX = b"hanse/1 blob\n"


@dataclass(frozen=True)
class Listing:
    """The size of a blob, and the SHA-256 of each of its chunks."""

    size: int
    chunks: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Refuse a listing that contradicts itself."""
        if not 0 <= self.size <= CHUNK * MOST_CHUNKS:
            raise ProtocolError(f"a blob of {self.size} bytes")
        if len(self.chunks) != -(-self.size // CHUNK) or any(len(c) != 32 for c in self.chunks):
            raise ProtocolError(f"{len(self.chunks)} chunks of a blob of {self.size} bytes")

    @cached_property
    def packed(self) -> bytes:
        """The listing's own bytes."""
        return self.size.to_bytes(8, "little") + b"".join(self.chunks)

    @cached_property
    def id(self) -> str:
        """The id of the blob."""
        return hashlib.sha256(PREFIX + self.packed).hexdigest()

    def length(self, number: int) -> int:
        """Return the number of bytes of chunk ``number``."""
        return min(CHUNK, self.size - number * CHUNK)

    @staticmethod
    def unpack(packed: bytes) -> "Listing":
        """Return the listing of its bytes; ProtocolError if they are none."""
        if len(packed) < 8 or len(packed) % 32 != 8:
            raise ProtocolError(f"a listing of {len(packed)} bytes")
        chunks = tuple(packed[at : at + 32] for at in range(8, len(packed), 32))
        return Listing(int.from_bytes(packed[:8], "little"), chunks)

    @staticmethod
    def of(content: "bytes | bytearray | memoryview") -> "Listing":
        """Return the listing of ``content``."""
        view = memoryview(content)
        return Listing(
            len(view), tuple(digests(view[at : at + CHUNK] for at in range(0, len(view), CHUNK)))
        )


def digests(chunks: Iterable["bytes | bytearray | memoryview"]) -> Iterable[bytes]:
    """Yield the SHA-256 of each chunk."""
    for chunk in chunks:
        yield hashlib.sha256(chunk).digest()
