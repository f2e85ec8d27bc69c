"""Uploads that are under way, or complete and not yet summed, encrypted until they are destroyed.

A room holds one round's uploads under one random key, kept in a file of its own and destroyed with
the room. Chunk ``n`` of an upload is AES-256-GCM (NIST SP 800-38D) with nonce ``n`` under a key of
that upload alone: HMAC-SHA-256, by the room's key, of 16 random bytes and the blob's id. So a nonce
is used again for the same plaintext only, and what is read is what was checked against the listing.

An upload's file is the 16 bytes, the 32 bytes of the id, then each chunk followed by its tag.

Overwriting a key does not reach what a disk or a file system has copied by itself (flash cells,
snapshots), nor the memory of the process; the folder belongs in no backup.
"""

import hashlib
import hmac
import mmap
import os
import re
import secrets
import shutil
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hanse.coordinator.blobs import (
    Damaged,
    let_go,
    make_folder,
    open_new,
    sync_file,
    sync_folder,
)
from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError

RUN = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
NAME = re.compile("[a-z0-9][a-z0-9.-]{0,126}")
KEY, SALT, HEADER, TAG = 32, 16, 48, 16
SUFFIX, LISTING, GONE = ".upload", ".listing", ".gone-"


class Scratch(threading.local):
    """Each thread's memory for one encrypted chunk, so that none is made and cleared a chunk."""

    def __init__(self) -> None:
        self.sealed = memoryview(bytearray(CHUNK + TAG))


SCRATCH = Scratch()


class Spool:
    """The rooms under one folder, which is made if it is not there; safe for many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._open = dict[tuple[str, int], Room]()
        self._sweeper = ThreadPoolExecutor(1, "hanse-spool")
        make_folder(folder)
        for left in folder.glob(GONE + "*"):
            self._sweep(left)

    def room(self, run: str, round: int) -> "Room":
        """Return the room of a round, made if it is not there; ValueError for a name that is none.

        What is left of a room that was destroyed only in part is removed first.
        """
        if not RUN.fullmatch(run) or round < 0:
            raise ValueError(f"there is no round {round} of a run {run[:120]!r}")
        with self._lock:
            room = self._open.get((run, round))
            if room is None or not room.is_there:
                room = self._open[run, round] = Room(self._folder / f"{run}@{round}")
            return room

    def rooms(self) -> list[tuple[str, int]]:
        """Return (run, round) of every room on disk, sorted."""
        names = (folder.name.rpartition("@") for folder in self._folder.iterdir())
        return sorted((run, int(round)) for run, at, round in names if at)

    def destroy(self, run: str, round: int) -> None:
        """Destroy the room of a round, if it is there: from here on nobody can read its uploads."""
        if (run, round) in self.rooms():
            self._sweep(self.room(run, round).destroy())
        with self._lock:
            self._open.pop((run, round), None)

    def close(self) -> None:
        """Wait until what was destroyed is off the disk."""
        self._sweeper.shutdown()

    def _sweep(self, folder: Path | None) -> None:
        """Remove a destroyed room in another thread: freeing gigabytes takes a second."""
        if folder is not None:
            self._sweeper.submit(shutil.rmtree, folder, ignore_errors=True)


class Room:
    """One round's uploads under one key. Made by :meth:`Spool.room`; safe for many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.RLock()
        self._uploads = dict[str, Upload]()
        make_folder(folder)
        self._key: bytes | None = self._stored_key() or self._new_key()

    @property
    def is_there(self) -> bool:
        """Whether the room has not been destroyed."""
        return self._key is not None

    def upload(self, name: str, listing: Listing) -> "Upload":
        """Return the upload of that name and listing, with what has arrived of it already.

        One of the same name with another listing is removed. ValueError for a name that is none,
        FileNotFoundError if the room was destroyed.
        """
        if not NAME.fullmatch(name):
            raise ValueError(f"{name[:127]!r} is no name of an upload")
        with self._lock:
            if self._key is None:
                raise FileNotFoundError(f"the room {self._folder.name} was destroyed")
            found = self._uploads.get(name)
            if found is None or found.listing.id != listing.id:
                if found is not None:
                    found.end()
                self._keep(name, listing)
                path = self._folder / (name + SUFFIX)
                found = self._uploads[name] = Upload(path, listing, self._key)
            return found

    def found(self, name: str) -> "Upload":
        """Return the upload of that name as it was announced; FileNotFoundError if none was."""
        return self.upload(name, Listing.unpack((self._folder / (name + LISTING)).read_bytes()))

    def _keep(self, name: str, listing: Listing) -> None:
        """Write the listing beside the upload, so that a restart can go on with it."""
        path = self._folder / (name + LISTING)
        if not path.exists() or path.read_bytes() != listing.packed:
            path.unlink(missing_ok=True)
            with open_new(path) as file:
                file.write(listing.packed)

    def names(self) -> list[str]:
        """Return the names of the uploads that have begun, sorted."""
        return sorted(file.name.removesuffix(SUFFIX) for file in self._folder.glob("*" + SUFFIX))

    def discard(self, name: str) -> None:
        """Remove an upload, if it is there."""
        with self._lock:
            if name in self._uploads:
                self._uploads.pop(name).end()
            if name in self.names():
                (self._folder / (name + SUFFIX)).unlink()
                (self._folder / (name + LISTING)).unlink(missing_ok=True)
                sync_folder(self._folder)

    def destroy(self) -> Path | None:
        """Destroy the key, durably; return the folder of what cannot be read any more.

        None if the room was destroyed before.
        """
        with self._lock:
            if self._key is None:
                return None
            self._key = None
            for upload in self._uploads.values():
                upload.end()
            self._uploads.clear()
            erase(self._folder / "key")
            gone = self._folder.with_name(GONE + secrets.token_hex(8))
            self._folder.rename(gone)
            sync_folder(gone.parent)
            return gone

    def _stored_key(self) -> bytes | None:
        path = self._folder / "key"
        key = path.read_bytes() if path.exists() else b""
        return key if len(key) == KEY else None

    def _new_key(self) -> bytes:
        """Make a key that is on disk as a whole or not at all, in a room without uploads."""
        self._empty()
        key, new = secrets.token_bytes(KEY), self._folder / "key.new"
        with open_new(new) as file:
            file.write(key)
            sync_file(file)
        os.replace(new, self._folder / "key")
        sync_folder(self._folder)
        return key

    def _empty(self) -> None:
        for file in self._folder.iterdir():
            file.unlink()
        sync_folder(self._folder)


class Upload:
    """One blob on its way in, chunk after chunk; ``next`` is the first that has not arrived.

    Its file may belong to another upload once it has ended, so nothing is written from then on.
    """

    def __init__(self, path: Path, listing: Listing, room_key: bytes) -> None:
        self.listing, self._path = listing, path
        self._lock, self._has_ended = threading.Lock(), False
        id = bytes.fromhex(listing.id)
        header = first_bytes(path, HEADER)
        has_begun = len(header) == HEADER and header[SALT:] == id
        if not has_begun:
            header = secrets.token_bytes(SALT) + id
            path.unlink(missing_ok=True)
            with open_new(path) as file:
                file.write(header)
        self._cipher = AESGCM(hmac.digest(room_key, header, "sha256"))
        self.next = self._arrived() if has_begun else 0

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has arrived. It is durable only once ``finish`` has returned."""
        return self.next == len(self.listing.chunks)

    def write(self, number: int, chunk: bytes | bytearray | memoryview) -> None:
        """Keep chunk ``number``, which must be ``next``.

        ProtocolError, and nothing changes, for another number, length or digest than the listing
        says, or after the end. OSError if it cannot be written.
        """
        with self._lock:
            self._check(number, chunk)
            sealed = SCRATCH.sealed[: len(chunk) + TAG]
            self._cipher.encrypt_into(nonce(number), chunk, None, sealed)
            with self._file(os.O_WRONLY) as file:
                write_at(file, sealed, offset(number))
            self.next = number + 1

    def end(self) -> None:
        """Take nothing more: what is under way is finished, what comes later refused."""
        with self._lock:
            self._has_ended = True

    def _check(self, number: int, chunk: bytes | bytearray | memoryview) -> None:
        if self._has_ended:
            raise ProtocolError("the upload has ended, with its round or for another")
        if number != self.next or self.is_complete:
            of = f"chunk {number} of {len(self.listing.chunks)} of a blob"
            raise ProtocolError(f"{of} came where {self.next} was expected")
        if len(chunk) != self.listing.length(number):
            expected = self.listing.length(number)
            raise ProtocolError(f"chunk {number} has {len(chunk)} bytes, not {expected}")
        if hashlib.sha256(chunk).digest() != self.listing.chunks[number]:
            raise ProtocolError(f"chunk {number} has another digest than its listing says")

    def finish(self) -> None:
        """Make a complete upload durable; ProtocolError if chunks are missing, or it has ended."""
        with self._lock:
            self._finish()

    def _finish(self) -> None:
        if self._has_ended:
            raise ProtocolError("the upload has ended, with its round or for another")
        if not self.is_complete:
            missing = f"{self.next} of {len(self.listing.chunks)} chunks have arrived"
            raise ProtocolError(f"an upload cannot be finished: {missing}")
        for path in (self._path, self._path.with_suffix(LISTING)):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        sync_folder(self._path.parent)

    def chunks(self) -> Iterator[memoryview]:
        """Yield the chunks that have arrived, decrypted; each view is good until the next one.

        Damaged if the disk gives back something else than was written.
        """
        sealed, plain = self._sealed(), memoryview(bytearray(CHUNK))
        for number in range(self.next):
            into = plain[: self.listing.length(number)]
            if not self._open(sealed, number, into):
                raise Damaged(f"chunk {number} of the upload {self._path} is damaged")
            let_go(sealed, offset(number), offset(number + 1))
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
        found = memoryview(sealed)[offset(number) : offset(number) + len(into) + TAG]
        if len(found) != len(into) + TAG:
            return False
        try:
            self._cipher.decrypt_into(nonce(number), found, None, into)
        except InvalidTag:
            return False
        return True

    @contextmanager
    def _file(self, flags: int) -> Generator[int]:
        file = os.open(self._path, flags | os.O_CLOEXEC)
        try:
            yield file
        finally:
            os.close(file)


def nonce(number: int) -> bytes:
    """Return the nonce of chunk ``number``, of 12 bytes."""
    return number.to_bytes(12, "big")


def offset(number: int) -> int:
    """Return where chunk ``number`` begins in the file of its upload."""
    return HEADER + number * (CHUNK + TAG)


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


def erase(path: Path) -> None:
    """Overwrite a small file in its place, then remove it, both durably."""
    with open(path, "r+b") as file:
        file.write(secrets.token_bytes(path.stat().st_size))
        sync_file(file)
        file.truncate(0)
        sync_file(file)
    path.unlink()
    sync_folder(path.parent)
