"""Bodies at the coordinator: refused before they are read if too large, and read in pieces."""

import itertools
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError
from hanse.net.guard import Body
from hanse.net.problems import Missing, TooLarge

HELD, LEAST = 2**24, 2**16


async def read_body(request: Request, most: int) -> bytes:
    """Return the whole body; TooLarge for more than ``most`` bytes, before they are read.

    A body whose length is not announced is read up to ``most``. ClientDisconnect if it is cut.
    """
    _announced(request, most)
    parts, size = list[bytes](), 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise TooLarge(f"a body of more than {most} bytes")
        parts.append(piece)
    return b"".join(parts)


def piece_size(peers: int) -> int:
    """Return how much of a body is held at once, where that many peers may send at once.

    A power of two from 64 KiB to a chunk: 16 MiB for all together, where that is 64 KiB for each.
    """
    share = HELD // max(peers, 1)
    return min(max(1 << share.bit_length() - 1, LEAST), CHUNK)


class IncomingBlob:
    """A request's body that is a listing and the chunks from ``first`` on (docs/protocol.md §3).

    ``size``: the bytes of the blob, which the spec says; ``piece``: those that are held at once.
    TooLarge, before a byte is read, for a body that is longer; ProtocolError for a ``first`` beyond
    the number of chunks.
    """

    def __init__(self, request: Request, size: int, first: int, piece: int) -> None:
        count = -(-size // CHUNK)
        if not 0 <= first <= count:
            raise ProtocolError(f"chunk {first} of a blob of {count}")
        self._size, self._at, self._head = size, min(first * CHUNK, size), 8 + 32 * count
        _announced(request, self._head + size - self._at)
        self._body: Body = request.scope["extensions"]["body"]
        self._room = memoryview(bytearray(min(piece, size - self._at)))

    async def listing(self, id: str) -> Listing:
        """Return the listing of the blob ``id``; ProtocolError if what comes is none."""
        packed = memoryview(bytearray(self._head))
        if await self._body.fill(packed) < len(packed):
            raise ProtocolError("a body that ends within its listing")
        listing = Listing.unpack(bytes(packed))
        if (listing.size, listing.id) != (self._size, id):
            raise ProtocolError(f"a listing of {listing.size} bytes where {id[:16]} is to come")
        return listing

    async def piece(self) -> memoryview:
        """Return the next bytes, all of one chunk, good until the next call; none at the end.

        A body that ends early, or is cut, has come to its end: what was given stays good. TooLarge
        for one that goes on behind its last chunk.
        """
        if self._at == self._size:
            if await self._body.fill(memoryview(bytearray(1))):
                raise TooLarge(f"more than the {self._size} bytes that were announced")
            return self._room[:0]
        left = min(CHUNK - self._at % CHUNK, self._size - self._at)
        piece = self._room[:left]
        if await self._body.fill(piece) < len(piece):
            return self._room[:0]
        self._at += len(piece)
        return piece


def _announced(request: Request, most: int) -> None:
    """Refuse by what the head announces."""
    announced = int(request.headers.get("content-length", 0))  # the parser has seen digits only
    if announced > most:
        raise TooLarge(f"a body of {announced} bytes where {most} are allowed")


def blob_response(
    listing: Listing, first: int, chunks: Iterable["bytes | memoryview"]
) -> "BlobResponse":
    """Return the answer of §3: the listing, then ``chunks``, which are those from ``first`` on.

    ``first`` may be the number of chunks: the answer is then the listing alone. Missing beyond.
    """
    if not 0 <= first <= len(listing.chunks):
        raise Missing(f"chunk {first} of a blob of {len(listing.chunks)}")
    return BlobResponse(listing, max(listing.size - first * CHUNK, 0), chunks)


class BlobResponse(Response):
    """A listing and chunks, given to the line one after another, as fast as the peer reads."""

    def __init__(self, listing: Listing, rest: int, chunks: Iterable["bytes | memoryview"]) -> None:
        """``rest``: the bytes of all ``chunks``, which are looked at on the loop: map them."""
        size = len(listing.packed) + rest
        headers = {"content-length": str(size), "cache-control": "no-store"}
        super().__init__(None, media_type="application/octet-stream", headers=headers)
        self._listing, self._chunks = listing, chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; each piece waits until the one before has gone to the system or nearly."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for piece in itertools.chain([self._listing.packed], self._chunks):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
