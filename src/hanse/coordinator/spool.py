"""The rooms of uploads, which are under way or complete, until their keys are destroyed.

A room holds one round's uploads under one random key, kept in a file of its own and destroyed with
the room. Overwriting a key does not reach what a disk or a file system has copied by itself (flash
cells, snapshots), nor the memory of the process; the folder belongs in no backup.
"""

import os
import re
import secrets
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hanse.coordinator.blobs import Damaged, make_folder, open_new, sync_file, sync_folder
from hanse.coordinator.uploads import Names, Upload
from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError
from hanse.failpoints import Point, reach

RUN = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
NAME = re.compile("[a-z0-9][a-z0-9.-]{0,126}")
KEY = 32
SUFFIX, GONE = ".upload", ".gone-"


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
        self._uploads, self._names = dict[str, Upload](), Names(folder)
        make_folder(folder)
        self._key: bytes | None = self._stored_key() or self._new_key()

    @property
    def is_there(self) -> bool:
        """Whether the room has not been destroyed."""
        return self._key is not None

    def upload(self, name: str, listing: Listing) -> Upload:
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
                path = self._folder / (name + SUFFIX)
                found = self._uploads[name] = Upload(path, listing, self._key, self._names)
            return found

    def found(self, name: str) -> Upload:
        """Return the upload of that name as it was announced.

        FileNotFoundError if none was, Damaged if its file does not begin with a listing any more.
        """
        path = self._folder / (name + SUFFIX)
        with path.open("rb") as file:
            size = file.read(8)
            chunks = -(-int.from_bytes(size, "little") // CHUNK)
            packed = size + file.read(min(32 * chunks, os.fstat(file.fileno()).st_size))
        try:
            return self.upload(name, Listing.unpack(packed))
        except ProtocolError as error:
            raise Damaged(f"the upload {path} is damaged: {error}") from error

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
            reach(Point.ROOM_RENAMED)
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
        reach(Point.KEY_WRITTEN)
        os.replace(new, self._folder / "key")
        sync_folder(self._folder)
        reach(Point.KEY_NAMED)
        return key

    def _empty(self) -> None:
        for file in self._folder.iterdir():
            file.unlink()
        sync_folder(self._folder)


def erase(path: Path) -> None:
    """Overwrite a small file in its place, then remove it, both durably."""
    with open(path, "r+b") as file:
        file.write(secrets.token_bytes(path.stat().st_size))
        sync_file(file)
        reach(Point.KEY_OVERWRITTEN)
        file.truncate(0)
        sync_file(file)
    path.unlink()
    sync_folder(path.parent)
    reach(Point.KEY_ERASED)
