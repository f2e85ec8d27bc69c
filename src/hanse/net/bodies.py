"""Bodies at the coordinator: refused before they are read if too large, and cut into chunks."""

from collections.abc import AsyncIterator, Iterable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError
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
) -> AsyncIterator[tuple[int, bytearray]]:
    """Yield (number, bytes) of each chunk from ``first`` on that arrives whole; unverified.

    A body that ends early, or is cut, ends the iteration: what has come stays good.
    TooLarge, before it is read, for one that is longer than the rest of the blob; ProtocolError
    for a ``first`` that is none of the chunks.
    """
    if not 0 <= first < max(len(listing.chunks), 1):
        raise ProtocolError(f"chunk {first} of a blob of {len(listing.chunks)}")
    _announced(request, listing.size - first * CHUNK)
    number, filled = first, 0
    chunk = bytearray(_length(listing, number))
    try:
        async for piece in request.stream():
            rest = memoryview(piece)
            while rest:
                if not chunk:
                    raise TooLarge(f"more than the {listing.size} bytes that were announced")
                taken = rest[: len(chunk) - filled]
                chunk[filled : filled + len(taken)] = taken
                filled, rest = filled + len(taken), rest[len(taken) :]
                if filled == len(chunk):
                    yield number, chunk
                    number, filled = number + 1, 0
                    chunk = bytearray(_length(listing, number))
    except ClientDisconnect:
        return


def _length(listing: Listing, number: int) -> int:
    """Return the length of a chunk, 0 behind the last."""
    return max(listing.length(number), 0)


def _announced(request: Request, most: int) -> None:
    """Refuse by what the head announces."""
    announced = int(request.headers.get("content-length", 0))  # the parser has seen digits only
    if announced > most:
        raise TooLarge(f"a body of {announced} bytes where {most} are allowed")


def blob_response(
    listing: Listing, first: int, chunks: Iterable["bytes | memoryview"]
) -> StreamingResponse:
    """Return the answer of §3: the listing, then ``chunks``, which are those from ``first`` on.

    ``chunks`` is iterated in a thread, one at a time, as fast as the peer reads. ``first`` may be
    the number of chunks: the answer is then the listing alone. Missing beyond that.
    """
    if not 0 <= first <= len(listing.chunks):
        raise Missing(f"chunk {first} of a blob of {len(listing.chunks)}")
    size = len(listing.packed) + max(listing.size - first * CHUNK, 0)

    def pieces() -> Iterable["bytes | memoryview"]:
        yield listing.packed
        yield from chunks

    headers = {"content-length": str(size), "cache-control": "no-store"}
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)
