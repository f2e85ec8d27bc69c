"""Content-addressed blobs on disk, verified whenever they are read (docs/protocol.md §3).

A blob is ``sha256/ab/cdef…``, its listing ``sha256/ab/cdef….listing``. Both are whole and durable
when ``commit`` returns. What is damaged on disk is noticed, not repaired.
"""

import hashlib
import mmap
import os
import re
import secrets
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from io import BufferedRandom, BufferedWriter
from pathlib import Path
from types import TracebackType

from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError
from hanse.failpoints import Point, reach

ID = re.compile("[0-9a-f]{64}")
SUFFIX = ".listing"


class Damaged(OSError):
    """The disk gives back other bytes than were written."""


class BlobStore:
    """The blobs under one folder, which is made if it is not there; safe for many threads.

    Opening a store removes what unfinished writers left, so one process opens it at a time; unless
    it is opened to be ``read_only``, which changes nothing.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self._folder, self._unfinished = folder / "sha256", folder / "unfinished"
        if read_only:
            return
        for each in (folder, self._folder, self._unfinished):
            make_folder(each)
        for left in self._unfinished.iterdir():
            left.unlink()

    def writer(self) -> "BlobWriter":
        """Return a writer of one blob; as a context it removes what was not committed."""
        return BlobWriter(self._folder, self._unfinished / secrets.token_hex(16))

    def put(self, content: bytes | bytearray | memoryview) -> Listing:
        """Store ``content``, durably; the same content twice is one blob."""
        with self.writer() as writer:
            writer.write(content)
            return writer.commit()

    def listing(self, id: str) -> Listing:
        """Return the listing of blob ``id``; FileNotFoundError if there is none, Damaged."""
        try:
            found = Listing.unpack(self._path(id, SUFFIX).read_bytes())
        except ProtocolError as error:
            raise Damaged(f"the listing of blob {id} is damaged: {error}") from error
        if found.id != id:
            raise Damaged(f"the listing of blob {id} is that of {found.id}")
        return found

    def has(self, id: str) -> bool:
        """Return whether there is a blob ``id``, damaged or not."""
        return ID.fullmatch(id) is not None and self._path(id, SUFFIX).exists()

    def read_chunk(self, id: str, number: int) -> bytes:
        """Return one chunk; FileNotFoundError, Damaged, or ProtocolError if it has no such one."""
        listing = self.listing(id)
        if not 0 <= number < len(listing.chunks):
            raise ProtocolError(f"chunk {number} of a blob of {len(listing.chunks)} chunks")
        return next(self._chunks(listing, number))

    def open_chunks(self, id: str, first: int = 0) -> Iterator[bytes]:
        """Return chunks ``first`` … to the end, which may be none; errors as ``read_chunk``.

        What is known to be wrong is raised by the call, a damaged chunk when its turn comes.
        """
        listing = self.listing(id)
        if not 0 <= first <= len(listing.chunks):
            raise ProtocolError(f"chunk {first} of a blob of {len(listing.chunks)} chunks")
        self._path(id).stat()
        return self._chunks(listing, first)

    def unverified(self, id: str, first: int, piece: int) -> Iterator[memoryview]:
        """Return the bytes of :meth:`open_chunks`, ``piece`` at once, for a peer that verifies.

        Nothing is copied: the disk is read where a chunk is used. A site checks each chunk against
        the id: hashing them here too would cost a large model more than its encryption.
        """
        listing = self.listing(id)
        mapped = self._mapped(listing)

        def pieces() -> Iterator[memoryview]:
            view = memoryview(mapped)
            for start in range(first * CHUNK, listing.size, piece):
                yield view[start : start + piece]
                let_go(mapped, start, start + piece)

        return pieces()

    def map(self, id: str) -> memoryview:
        """Return a read-only view of the whole blob, which was verified; errors as ``listing``.

        The view begins at a page of memory, and is of the file: nothing is copied.
        """
        for _ in self._chunks(listing := self.listing(id), 0):
            pass
        return memoryview(self._mapped(listing))

    def _mapped(self, listing: Listing) -> "mmap.mmap | bytes":
        if listing.size == 0:
            return b""
        with open(self._path(listing.id), "rb") as file:
            return mmap.mmap(file.fileno(), listing.size, access=mmap.ACCESS_READ)

    def delete(self, id: str) -> None:
        """Remove blob ``id``, if it is there. Views of it stay readable."""
        for suffix in ("", SUFFIX):
            self._path(id, suffix).unlink(missing_ok=True)
            reach(Point.BLOB_UNLISTED)
        if self._path(id).parent.exists():
            sync_folder(self._path(id).parent)

    def sweep(self, kept: Collection[str]) -> None:
        """Remove all but the blobs ``kept``: what a process left that died between two of them."""
        for file in self._folder.glob("??/*"):
            if (file.parent.name + file.name).removesuffix(SUFFIX) not in kept:
                file.unlink()

    def ids(self) -> list[str]:
        """Return the ids of all blobs, sorted."""
        files = (file.parent.name + file.name for file in self._folder.glob("??/*"))
        return sorted(id for id in files if ID.fullmatch(id))

    def _path(self, id: str, suffix: str = "") -> Path:
        if not ID.fullmatch(id):
            raise FileNotFoundError(f"{id[:80]!r} is no id of a blob")
        return self._folder / id[:2] / (id[2:] + suffix)

    def _chunks(self, listing: Listing, first: int) -> Iterator[bytes]:
        with open(self._path(listing.id), "rb", buffering=0) as file:
            file.seek(first * CHUNK)
            for number in range(first, len(listing.chunks)):
                chunk = file.read(listing.length(number))
                if hashlib.sha256(chunk).digest() != listing.chunks[number]:
                    raise Damaged(f"chunk {number} of blob {listing.id} is damaged")
                yield chunk


class BlobWriter:
    """A blob that is being written, in pieces of any size. One thread at a time."""

    def __init__(self, folder: Path, unfinished: Path) -> None:
        self._folder, self._unfinished = folder, unfinished
        self._file = open_new(unfinished)
        self._hash, self._size, self._digests = hashlib.sha256(), 0, list[bytes]()

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append ``piece``; OSError, after which the blob can only be abandoned."""
        view = memoryview(piece).cast("B")
        self._file.write(view)
        while len(view):
            part = view[: CHUNK - self._size % CHUNK]
            self._hash.update(part)
            self._size += len(part)
            if self._size % CHUNK == 0:
                self._end_chunk()
            view = view[len(part) :]

    def commit(self) -> Listing:
        """Make the blob durable and readable under its id, and return its listing."""
        if self._size % CHUNK:
            self._end_chunk()
        listing = Listing(self._size, tuple(self._digests))
        sync_file(self._file)
        self._file.close()
        reach(Point.BLOB_SYNCED)
        path = self._folder / listing.id[:2] / listing.id[2:]
        make_folder(path.parent)
        beside = self._unfinished.with_suffix(SUFFIX)
        with open_new(beside) as file:
            file.write(listing.packed)
            sync_file(file)
        os.replace(beside, path.with_name(path.name + SUFFIX))
        reach(Point.BLOB_LISTED)
        os.replace(self._unfinished, path)
        reach(Point.BLOB_NAMED)
        sync_folder(path.parent)
        reach(Point.BLOB_DURABLE)
        return listing

    def abandon(self) -> None:
        """Remove what was not committed; after a commit, nothing happens."""
        self._file.close()
        self._unfinished.unlink(missing_ok=True)
        self._unfinished.with_suffix(SUFFIX).unlink(missing_ok=True)

    def _end_chunk(self) -> None:
        self._digests.append(self._hash.digest())
        self._hash = hashlib.sha256()


def open_new(path: Path) -> BufferedWriter:
    """Open a file that is not there yet, for its owner alone; FileExistsError."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def let_go(mapped: "mmap.mmap | bytes", start: int, stop: int) -> None:
    """Take pages of a file that were read out of this process's memory; they stay in the cache."""
    first, last = (at // mmap.PAGESIZE * mmap.PAGESIZE for at in (start, min(stop, len(mapped))))
    if isinstance(mapped, mmap.mmap) and last > first:
        mapped.madvise(mmap.MADV_DONTNEED, first, last - first)


def sync_file(file: BufferedWriter | BufferedRandom) -> None:
    """Return when what was written to ``file`` is durable; OSError, which names it."""
    with _naming(file.name):
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder for its owner alone, durably, if it is not there; and those above it."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are durable; OSError, which names it."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _naming(path):
            os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _naming(path: "str | Path") -> Generator[None]:
    """Say of which file an OSError is: a system call that is given a descriptor cannot know."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
