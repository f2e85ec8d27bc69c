"""An upload on its way in: encrypted piece by piece, so that no more than a piece is in memory.

A chunk is AES-256-GCM (NIST SP 800-38D) under the room's key with a random nonce of 96 bits, and
the blob's id and the chunk's number as additional data: what is read is what was checked against
the listing. Random nonces allow 2^32 chunks under a key (§8.3), which are 2^52 bytes a round.

The file is the listing, then of each chunk the nonce, the ciphertext and the tag.
"""

import hashlib
import mmap
import os
import secrets
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hanse.coordinator.blobs import Damaged, let_go, open_new, sync_folder
from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError
from hanse.failpoints import Point, reach

NONCE, TAG = 12, 16
Bytes = bytes | bytearray | memoryview


class Scratch(threading.local):
    """Each thread's memory for one encrypted piece, so that none is made and cleared a piece."""

    def __init__(self) -> None:
        self.sealed = memoryview(bytearray(NONCE + CHUNK + 2 * TAG))  # the cipher asks for more


SCRATCH = Scratch()


class Upload:
    """One blob on its way in; ``next`` is the first chunk that has not arrived whole.

    Its file may belong to another upload once it has ended, so nothing is written from then on.
    """

    def __init__(self, path: Path, listing: Listing, room_key: bytes, names: "Names") -> None:
        self.listing, self._path, self._names = listing, path, names
        self._lock, self._has_ended = threading.Lock(), False
        self._key = room_key
        self._writer: Writer | None = None  # who sends now
        self._chunk: Chunk | None = None  # what has come of chunk ``next``
        self._is_there = first_bytes(path, len(listing.packed)) == listing.packed
        self.next = self._arrived() if self._is_there else 0
        self._begin()

    def _begin(self) -> None:
        """Make the file, if it is not there."""
        if not self._is_there:
            self._path.unlink(missing_ok=True)
            with open_new(self._path) as file:
                file.write(self.listing.packed)
            self._names.forget(self._path.name)
            self._is_there = True
            reach(Point.UPLOAD_BEGUN)

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has arrived. It is durable only once ``finish`` has returned."""
        return self.next == len(self.listing.chunks)

    def writer(self) -> "Writer":
        """Return what takes the bytes from ``next`` on; the one of before takes nothing more.

        So a site whose line broke goes on at once, even if its old connection still seems to live.
        """
        with self._lock:
            if not self._has_ended:
                self._begin()
            self._writer, self._chunk = Writer(self, self.next), None
            return self._writer

    def _take(self, writer: "Writer", piece: Bytes) -> None:
        with self._lock:
            if self._has_ended:
                raise ProtocolError("the upload has ended, with its round or for another")
            if writer is not self._writer:
                raise ProtocolError("another connection sends this upload now")
            self._writer = None  # until all has gone well
            if self.is_complete:
                raise ProtocolError("bytes behind the last chunk of a blob")
            if self._chunk is None:
                self._chunk = Chunk(self._key, self.listing, self.next)
            sealed, at = self._chunk.seal(piece)
            with self._file(os.O_WRONLY) as file:
                write_at(file, sealed, self._offset(self.next) + at)
            reach(Point.PIECE_WRITTEN)
            if self._chunk.is_whole:
                self.next, self._chunk = self.next + 1, None
            self._writer = writer

    def end(self) -> None:
        """Take nothing more: what is under way is finished, what comes later refused."""
        with self._lock:
            self._has_ended = True

    def finish(self) -> None:
        """Make a complete upload durable; ProtocolError if chunks are missing, or it has ended.

        After an OSError nothing has arrived: what could not be forced to the disk once is not
        believed when a second attempt succeeds (Rebello et al., ATC'20).
        """
        with self._lock:
            try:
                self._finish()
            except OSError:
                self.next, self._is_there, self._writer, self._chunk = 0, False, None, None
                self._path.unlink(missing_ok=True)
                raise

    def _finish(self) -> None:
        if self._has_ended:
            raise ProtocolError("the upload has ended, with its round or for another")
        if not self.is_complete:
            missing = f"{self.next} of {len(self.listing.chunks)} chunks have arrived"
            raise ProtocolError(f"an upload cannot be finished: {missing}")
        with self._file(os.O_RDONLY) as file:
            os.fsync(file)
        reach(Point.UPLOAD_SYNCED)
        self._names.sync(self._path.name)

    def chunks(self) -> Iterator[memoryview]:
        """Yield the chunks that have arrived, decrypted; each view is good until the next one.

        Damaged if the disk gives back something else than was written.
        """
        sealed, plain = self._sealed(), memoryview(bytearray(min(CHUNK, self.listing.size)))
        for number in range(self.next):
            into = plain[: self.listing.length(number)]
            if not self._open(sealed, number, into):
                raise Damaged(f"chunk {number} of the upload {self._path} is damaged")
            let_go(sealed, self._offset(number), self._offset(number + 1))
            yield into

    def read(self) -> bytearray:
        """Return what has arrived as a whole; errors as :meth:`chunks`."""
        found = bytearray()
        for chunk in self.chunks():
            found += chunk
        return found

    def _arrived(self) -> int:
        """Return how many chunks, from the first, are on disk as they were written."""
        sealed, plain = self._sealed(), memoryview(bytearray(CHUNK))
        for number in range(len(self.listing.chunks)):
            if not self._open(sealed, number, plain[: self.listing.length(number)]):
                return number
        return len(self.listing.chunks)

    def _sealed(self) -> mmap.mmap:
        """Map the file: read so, a large upload costs a third."""
        with self._file(os.O_RDONLY) as file:
            return mmap.mmap(file, 0, access=mmap.ACCESS_READ)

    def _open(self, sealed: mmap.mmap, number: int, into: memoryview) -> bool:
        """Decrypt chunk ``number`` of the file; False if it is not as written."""
        start = self._offset(number)
        found = memoryview(sealed)[start : start + NONCE + len(into) + TAG]
        if len(found) != NONCE + len(into) + TAG:
            return False
        told = told_of(self.listing, number)
        try:
            AESGCM(self._key).decrypt_into(found[:NONCE], found[NONCE:], told, into)
        except InvalidTag:
            return False
        return True

    def _offset(self, number: int) -> int:
        """Return where chunk ``number`` begins in the file."""
        return len(self.listing.packed) + number * (NONCE + CHUNK + TAG)

    @contextmanager
    def _file(self, flags: int) -> Generator[int]:
        file = os.open(self._path, flags | os.O_CLOEXEC)
        try:
            yield file
        finally:
            os.close(file)


class Names:
    """Which names of a folder are durable: uploads that end together need one write of it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock, self._durable = folder, threading.Lock(), set[str]()

    def forget(self, name: str) -> None:
        """Note that the name is another file's now.

        Afterwards, not before: a write of the folder in between may still have the old one.
        """
        with self._lock:
            self._durable.discard(name)

    def sync(self, name: str) -> None:
        """Return when ``name``, which is there, is durable."""
        with self._lock:
            if name not in self._durable:
                there = os.listdir(self._folder)
                sync_folder(self._folder)
                self._durable.update(there)


class Writer:
    """What one connection sends of an upload, in pieces of any size. Made by ``Upload.writer``."""

    def __init__(self, upload: Upload, first: int) -> None:
        self._upload = upload
        self.at = first * CHUNK
        """The byte of the blob that comes next."""

    def write(self, piece: Bytes) -> None:
        """Keep the next bytes, all of one chunk.

        ProtocolError for bytes beyond it, or if it has another digest than the listing says; after
        the upload's end, and when another connection sends it. OSError if it cannot be written.
        After either the chunk has not arrived, and this writer takes nothing more.
        """
        self._upload._take(self, piece)  # pyright: ignore[reportPrivateUsage] -- its other half
        self.at += len(piece)


class Chunk:
    """A chunk on its way in: what has come of it is hashed and encrypted.

    Each time that it begins it has another nonce, so that no two texts are under the same one.
    """

    def __init__(self, key: bytes, listing: Listing, number: int) -> None:
        self.number, self._size, self._length = number, 0, listing.length(number)
        self._hash, self._digest = hashlib.sha256(), listing.chunks[number]
        self._nonce = secrets.token_bytes(NONCE)
        self._cipher = Cipher(algorithms.AES256(key), modes.GCM(self._nonce)).encryptor()
        self._cipher.authenticate_additional_data(told_of(listing, number))

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come."""
        return self._size == self._length

    def seal(self, piece: Bytes) -> tuple[memoryview, int]:
        """Return what is to be written of the next bytes, and where in the chunk's record.

        It is good until the thread's next one. ProtocolError as of :meth:`Writer.write`.
        """
        at, size = self._size, len(piece)
        if at + size > self._length:
            raise ProtocolError(f"chunk {self.number} has more than {self._length} bytes")
        room, head = SCRATCH.sealed, 0 if at else NONCE
        room[:head] = self._nonce[:head]
        self._hash.update(piece)
        end = head + self._cipher.update_into(piece, room[head:])
        self._size += size
        if self.is_whole:
            if self._hash.digest() != self._digest:
                raise ProtocolError(f"chunk {self.number} has another digest than its listing says")
            self._cipher.finalize()
            room[end : end + TAG] = self._cipher.tag
            end += TAG
        return room[:end], at + NONCE - head


def told_of(listing: Listing, number: int) -> bytes:
    """Return the additional data of a chunk: whose it is, and which."""
    return bytes.fromhex(listing.id) + number.to_bytes(8, "little")


def first_bytes(path: Path, size: int) -> bytes:
    """Return the first bytes of a file; none if it is not there."""
    if not path.exists():
        return b""
    with open(path, "rb") as file:
        return file.read(size)


def write_at(file: int, content: memoryview, at: int) -> None:
    """Write all of ``content`` at an offset, however many calls that takes."""
    while content:
        written = os.pwrite(file, content, at)
        content, at = content[written:], at + written
