"""Blobs down and up, chunk by chunk, over lines that break (docs/protocol.md §3, §6).

Both ways go on at the first chunk that has not arrived whole. Between two attempts there is a pause
that doubles, with chance in it so that many sites do not come back in step. One buffer of a chunk
is all that is held.
"""

import hashlib
import mmap
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from secrets import SystemRandom
from typing import Protocol

from hanse.core.canonical import Json
from hanse.core.listing import CHUNK, MOST_CHUNKS, Listing
from hanse.errors import ConfigError, ProtocolError, TransportError
from hanse.net.client import Incoming, Response
from hanse.net.problems import Missing

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
PIECE = 2**16
"""Bytes that are handed to TLS at once: each has the whole time-out, so a slow line is no error."""

KeepGoing = Callable[[], bool]


class Sender(Protocol):
    """What an upload needs of a connection; a ``SignedConnection`` is one."""

    def send(
        self,
        method: str,
        path: str,
        content: Iterable[memoryview],
        digest: str,
        *,
        headers: Mapping[str, str],
    ) -> Response:
        """Send the pieces of ``content`` once, return the answer; its error, if it tells of one."""
        ...


class Receiver(Protocol):
    """What a download needs of a connection; a ``SignedConnection`` and a ``Connection`` are."""

    def stream(self, path: str) -> AbstractContextManager[Incoming]:
        """GET a body as it arrives."""
        ...


@dataclass(slots=True)
class Patience:
    """The pauses between attempts; ``keep_going`` says whether there is another one."""

    keep_going: KeepGoing
    pause_s: float = FIRST_PAUSE_S

    def after(self, error: TransportError, *, progress: bool) -> None:
        """Wait after ``error``, or raise it if nobody wants to go on."""
        self.pause_s = FIRST_PAUSE_S if progress else min(2 * self.pause_s, LONGEST_PAUSE_S)
        until = time.monotonic() + SystemRandom().uniform(0, self.pause_s)
        while self.keep_going():
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, FIRST_PAUSE_S))
        raise error


def download(
    line: Receiver,
    blob: str,
    path: Path,
    *,
    most: int = CHUNK * MOST_CHUNKS,
    keep_going: KeepGoing = lambda: True,
) -> Listing:
    """Fetch the blob with the id ``blob`` into the file ``path`` and return its listing.

    ``path`` appears when it is whole (it is not forced to disk: after a power failure, fetch it
    again); until then what has come lies in ``path`` + ``.part``, and the next call goes on with
    it after checking it. ConfigError if the disk is full; ProtocolError if what comes is not the
    blob, or has more than ``most`` bytes; TransportError when ``keep_going`` says no after one.
    """
    part = path.with_name(path.name + ".part")
    patience = Patience(keep_going)
    with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
        got = Partial(file.fileno(), blob, most)
        while True:
            before = got.first
            try:
                got.go_on(line)
                break
            except Missing:
                if not before:
                    raise
                got.first = 0  # the file is of a longer blob
            except TransportError as error:
                patience.after(error, progress=got.first > before)
    os.replace(part, path)
    return got.listing


class Partial:
    """A blob that is arriving in the file of descriptor ``fd``; ``first``: the next chunk."""

    def __init__(self, fd: int, blob: str, most: int) -> None:
        """Begin behind the whole chunks that are in the file; they are not believed yet."""
        self._fd, self._blob, self._most = fd, blob, most
        self._listing: Listing | None = None
        self.first = os.fstat(fd).st_size // CHUNK

    @property
    def listing(self) -> Listing:
        """The listing, once it has come."""
        if self._listing is None:
            raise ValueError("no listing has come")
        return self._listing

    def go_on(self, line: Receiver) -> None:
        """Fetch the rest; errors as of :func:`download`."""
        while not self._fetch(line):
            pass

    def _fetch(self, line: Receiver) -> bool:
        """Fetch from ``first`` on; False if chunks from before turn out to be others."""
        with line.stream(f"/v1/blobs/{self._blob}/chunks/{self.first}") as incoming:
            known = self._listing is not None
            self._listing = self._take_listing(incoming)
            if not known and (good := self._good()) < self.first:
                self.first = good
                return False
            for number in range(self.first, len(self._listing.chunks)):
                self._take(number, incoming.read(self._listing.length(number)))
        os.ftruncate(self._fd, self._listing.size)
        return True

    def _take_listing(self, incoming: Incoming) -> Listing:
        """Read the listing; its length is known before more than 8 bytes of it are read."""
        head = incoming.read(8)
        size = int.from_bytes(head, "little")
        if len(head) < 8 or size > self._most:
            raise ProtocolError(f"blob {self._blob[:16]}: {size} bytes, {self._most} at most")
        listing = Listing.unpack(head + incoming.read(32 * -(-size // CHUNK)))
        if listing.id != self._blob:
            raise ProtocolError(f"blob {self._blob[:16]}: the listing is that of {listing.id[:16]}")
        return listing

    def _take(self, number: int, chunk: bytes) -> None:
        """Write a chunk that is the listing's."""
        if hashlib.sha256(chunk).digest() != self.listing.chunks[number]:
            raise ProtocolError(f"blob {self._blob[:16]}: chunk {number} is not the listing's")
        _write(self._fd, chunk, number * CHUNK)
        self.first = number + 1

    def _good(self) -> int:
        """Return how many chunks at the start of the file are the listing's."""
        for number in range(min(self.first, len(self.listing.chunks))):
            chunk = os.pread(self._fd, self.listing.length(number), number * CHUNK)
            if hashlib.sha256(chunk).digest() != self.listing.chunks[number]:
                return number
        return self.first


def upload(
    line: Sender,
    path: str,
    source: "Path | bytes | bytearray | memoryview",
    listing: Listing,
    *,
    keep_going: KeepGoing = lambda: True,
) -> Json:
    """Send the blob in ``source``, whose listing is ``listing``, to ``path``; return the receipt.

    Sends only what the coordinator names as missing: after an error it is asked, by the listing
    alone. ProtocolError (Conflict for another blob that is there already), or TransportError when
    ``keep_going`` says no after one.
    """
    count, patience = len(listing.chunks), Patience(keep_going)
    first, reached, progress = 0, 0, False
    while True:
        try:
            answer = _answer(_put(line, path, source, listing, first), listing)
            if isinstance(answer, Taken):
                return answer.receipt
            if answer == first:
                raise TransportError(f"{path}: chunk {first} was sent and is still missing")
            progress, first, reached = answer > reached, answer, max(answer, reached)
        except TransportError as error:
            patience.after(error, progress=progress)
            first, progress = count, False


@dataclass(frozen=True, slots=True)
class Taken:
    """What the coordinator says when it has everything."""

    receipt: Json


def _answer(response: Response, listing: Listing) -> int | Taken:
    """Return the first missing chunk, or the receipt; ProtocolError for anything else."""
    match response.json():
        case {"from": int(first), "state": "missing", **rest} if not rest:
            if 0 <= first < len(listing.chunks) and not isinstance(first, bool):
                return first
        case {"receipt": receipt, "state": "taken", **rest} if not rest:
            return Taken(receipt)
        case _:
            pass
    raise ProtocolError(f"{response.asked}: neither a missing chunk of the blob nor a receipt")


def _put(
    line: Sender,
    path: str,
    source: "Path | bytes | bytearray | memoryview",
    listing: Listing,
    first: int,
) -> Response:
    """Send the listing, and the blob from chunk ``first`` to its end, as one body."""
    start, packed = min(first * CHUNK, listing.size), listing.packed
    headers = {
        "Content-Length": str(len(packed) + listing.size - start),
        "Content-Type": "application/octet-stream",
    }
    with _pieces(source, start) as pieces:
        body = chain([memoryview(packed)], pieces)
        return line.send("PUT", f"{path}/chunks/{first}", body, listing.id, headers=headers)


@contextmanager
def _pieces(
    source: "Path | bytes | bytearray | memoryview", start: int
) -> Generator[Iterable[memoryview]]:
    """Give ``source`` from byte ``start`` on, piece by piece and without copies."""
    if isinstance(source, Path):
        with open(source, "rb") as file:
            yield _cut(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), start)
    else:
        yield _cut(memoryview(source).cast("B"), start)


def _cut(view: memoryview, start: int) -> Iterator[memoryview]:
    for at in range(start, len(view), PIECE):
        yield view[at : at + PIECE]


def _write(fd: int, chunk: bytes, at: int) -> None:
    """Write ``chunk`` at byte ``at``; ConfigError if the disk does not take it."""
    rest = memoryview(chunk)
    try:
        while rest:
            written = os.pwrite(fd, rest, at)
            rest, at = rest[written:], at + written
    except OSError as error:
        raise ConfigError(
            f"byte {at} of a blob cannot be written here: {error.strerror}",
            hint="make room on the disk, or give another folder: what has come is kept",
        ) from error
