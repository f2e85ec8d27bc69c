"""Bodies at the coordinator: refused before they are read if too large, and cut into chunks."""

import itertools
from collections.abc import AsyncIterator, Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError
from hanse.net.guard import Body
from hanse.net.problems import Missing, TooLarge


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


async def chunks_of(
    request: Request, listing: Listing, first: int
) -> AsyncIterator[tuple[int, memoryview]]:
    """Yield (number, bytes) of each chunk from ``first`` on that arrives whole; unverified.

    The bytes are good until the next are asked for. A body that ends early, or is cut, ends the
    iteration: what has come stays good. TooLarge, before it is read, for one that is longer than
    the rest of the blob; ProtocolError for a ``first`` that is none of the chunks.
    """
    if not 0 <= first < max(len(listing.chunks), 1):
        raise ProtocolError(f"chunk {first} of a blob of {len(listing.chunks)}")
    _announced(request, listing.size - first * CHUNK)
    body: Body = request.scope["extensions"]["body"]
    room = memoryview(bytearray(min(CHUNK, listing.size - first * CHUNK)))
    for number in range(first, len(listing.chunks)):
        chunk = room[: listing.length(number)]
        if await body.fill(chunk) < len(chunk):
            return
        yield number, chunk
    if await body.fill(memoryview(bytearray(1))):
        raise TooLarge(f"more than the {listing.size} bytes that were announced")


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
