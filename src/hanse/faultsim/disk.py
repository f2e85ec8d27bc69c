"""The coordinator's disk: a journal, blobs and a spool that keep what they promise, and no more.

Each has the interface of the real one. What was not made durable is lost with the machine's power,
and may be; a full disk refuses, a failing one leaves it open whether the last write is there.
"""

import errno
import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hanse.coordinator.blobs import Damaged
from hanse.coordinator.schema import START, Entry, chain_hash, check_chain
from hanse.core.canonical import Json, encode
from hanse.core.listing import CHUNK, Listing, digests
from hanse.errors import ProtocolError
from hanse.failpoints import Point, reach
from hanse.faultsim.world import COORDINATOR, Crashed, World

Bytes = bytes | bytearray | memoryview


@dataclass
class Troubles:
    """What is wrong with a disk now. ``failing``: at which sync from now on it fails; 0: none."""

    full: bool = False
    failing: int = 0

    def write(self) -> None:
        """Refuse a write if the disk is full."""
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Fail a sync if it is its turn."""
        if self.failing:
            self.failing -= 1
            if not self.failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))


class Pending(Future[list[Entry]]):
    """An append that is not durable yet; who waits for it lets the world go on."""

    def __init__(self, journal: "Journal") -> None:
        super().__init__()
        self.journal = journal

    def result(self, timeout: float | None = None) -> list[Entry]:
        """Return the entries; commits all that waits, unless something else did meanwhile."""
        if not self.done():
            self.journal.world.meanwhile()
        if not self.done():
            self.journal.commit()
        return super().result(0)


class Journal:
    """The journal: ``rows`` are durable, ``waiting`` are not."""

    def __init__(self, world: World, troubles: Troubles) -> None:
        self.world, self.troubles = world, troubles
        self.rows, self.hashes = list[Entry](), set[str]()
        self.waiting = list[tuple[str, list[tuple[str, str]], Pending]]()

    def append(self, stream: str, events: Sequence[tuple[str, Json]]) -> Pending:
        """Queue an append."""
        pending = Pending(self)
        self.waiting.append((stream, [(kind, encode(body)) for kind, body in events], pending))
        return pending

    def append_now(self, stream: str, events: Sequence[tuple[str, Json]]) -> list[Entry]:
        """Append, and commit with it all that waits."""
        pending = self.append(stream, events)
        self.commit()
        return pending.result()

    def read(self, stream: str, after: int = 0) -> list[Entry]:
        """Return the events of a stream."""
        return [row for row in self.rows if row.stream == stream and row.seq > after]

    def commit(self) -> None:
        """Make all that waits durable: all of it, or nothing."""
        waiting, made = self.waiting, list[list[Entry]]()
        seq, last = (self.rows[-1].seq, self.rows[-1].hash) if self.rows else (0, START)
        for stream, events, _ in waiting:
            made.append([])
            for kind, body in events:
                seq += 1
                hash = chain_hash(seq=seq, stream=stream, kind=kind, body=body, prev=last)
                made[-1].append(Entry(seq, stream, kind, json.loads(body), last, hash, 0))
                last = hash
        reach(Point.JOURNAL_WRITING)
        reach(Point.JOURNAL_COMMITTING)
        try:
            self.troubles.write()
            self.troubles.sync()
        except OSError as error:  # whether it is there is known after the next start
            if error.errno == errno.EIO and self.world.random.random() < 0.5:
                self._keep(made)
            raise Crashed(COORDINATOR) from error
        self._keep(made)
        reach(Point.JOURNAL_COMMITTED)
        self.waiting = []
        for (_, _, pending), entries in zip(waiting, made, strict=True):
            pending.set_result(entries)

    def _keep(self, made: list[list[Entry]]) -> None:
        for entries in made:
            self.rows += entries
            self.hashes.update(entry.hash for entry in entries)

    def start(self) -> None:
        """Forget what was not durable; ConfigError if the chain is broken."""
        self.waiting = []
        rows: Any = [
            SimpleNamespace(seq=r.seq, stream=r.stream, kind=r.kind, body=encode(r.body),
                            prev=r.prev, hash=r.hash)
            for r in self.rows
        ]  # fmt: skip
        check_chain(rows, "the journal", whole=True)


@dataclass
class Blob:
    """What lies on disk under an id."""

    content: bytearray
    is_durable: bool = False


class Blobs:
    """The store of one run's blobs."""

    def __init__(self, troubles: Troubles) -> None:
        self.troubles, self.found = troubles, dict[str, Blob]()

    def put(self, content: Bytes) -> Listing:
        """Store ``content``, durably."""
        with self.writer() as writer:
            writer.write(content)
            return writer.commit()

    def writer(self) -> "BlobWriter":
        """Return a writer of one blob."""
        return BlobWriter(self)

    def map(self, id: str) -> memoryview:
        """Return a blob's bytes; FileNotFoundError, Damaged."""
        if id not in self.found:
            raise FileNotFoundError(errno.ENOENT, id)
        content = bytes(self.found[id].content)
        if Listing.of(content).id != id:
            raise Damaged(f"blob {id} is damaged")
        return memoryview(content)

    def delete(self, id: str) -> None:
        """Remove a blob, if it is there."""
        self.found.pop(id, None)
        reach(Point.BLOB_UNLISTED)

    def sweep(self, kept: Collection[str]) -> None:
        """Remove all but the blobs ``kept``."""
        for id in [id for id in self.found if id not in kept]:
            del self.found[id]

    def lose_power(self) -> None:
        """Lose what was not synced."""
        for id in [id for id, blob in self.found.items() if not blob.is_durable]:
            del self.found[id]


class BlobWriter:
    """A blob that is being written."""

    def __init__(self, store: Blobs) -> None:
        self._store, self._content = store, bytearray()

    def __enter__(self) -> "BlobWriter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, piece: Bytes) -> None:
        """Append ``piece``."""
        self._store.troubles.write()
        self._content += piece

    def commit(self) -> Listing:
        """Make the blob durable and readable under its id."""
        listing = Listing.of(self._content)
        self._store.troubles.sync()
        reach(Point.BLOB_SYNCED)
        reach(Point.BLOB_LISTED)
        blob = self._store.found[listing.id] = Blob(self._content)
        reach(Point.BLOB_NAMED)
        self._store.troubles.sync()
        blob.is_durable = True
        reach(Point.BLOB_DURABLE)
        return listing


@dataclass
class File:
    """An upload on disk: its listing, and the chunks that have arrived whole."""

    listing: Listing
    content: bytearray = field(default_factory=bytearray)
    is_durable: bool = False

    @property
    def whole(self) -> int:
        """How many chunks, from the first, are as they were written."""
        view = memoryview(self.content)
        pieces = (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))
        for number, digest in enumerate(digests(pieces)):
            if digest != self.listing.chunks[number]:
                return number
        return -(-len(view) // CHUNK)


class Upload:
    """What a process knows of one upload."""

    def __init__(self, room: "Room", name: str, listing: Listing) -> None:
        self.listing, self._room, self._name = listing, room, name
        self._writer: Writer | None = None
        self._has_ended = False
        file = room.files.get(name)
        if file is None or file.listing.id != listing.id:
            room.troubles.write()
            room.files[name] = file = File(listing)
            reach(Point.UPLOAD_BEGUN)
        self.file, self.next = file, file.whole
        del file.content[self.next * CHUNK :]

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has arrived."""
        return self.next == len(self.listing.chunks)

    def writer(self) -> "Writer":
        """Return what takes the bytes from ``next`` on."""
        self._writer = Writer(self)
        return self._writer

    def take(self, writer: "Writer", piece: Bytes) -> None:
        """Keep the next bytes of a writer."""
        if self._has_ended or writer is not self._writer:
            raise ProtocolError("the upload has ended, or another connection sends it now")
        self._writer = None
        self._room.troubles.write()
        writer.chunk += piece
        reach(Point.PIECE_WRITTEN)
        if len(writer.chunk) == self.listing.length(self.next):
            self.file.content += writer.chunk
            self.next, writer.chunk = self.next + 1, bytearray()
        self._writer = writer

    def end(self) -> None:
        """Take nothing more."""
        self._has_ended = True

    def finish(self) -> None:
        """Make it durable; after an OSError nothing has arrived."""
        if self._has_ended or not self.is_complete:
            raise ProtocolError("the upload has ended, or is not complete")
        try:
            self._room.troubles.write()
            self._room.troubles.sync()
            reach(Point.UPLOAD_SYNCED)
            self._room.troubles.sync()
        except OSError:
            self._writer, self.next = None, 0
            self.file.content.clear()
            raise
        self.file.is_durable = True

    def chunks(self) -> Iterator[memoryview]:
        """Yield what has arrived; Damaged if it is not what was written."""
        if self.file.whole < self.next:
            raise Damaged(f"chunk {self.file.whole} of the upload {self._name} is damaged")
        for number in range(self.next):
            start = number * CHUNK
            yield memoryview(self.file.content)[start : start + self.listing.length(number)]

    def read(self) -> bytearray:
        """Return what has arrived as a whole."""
        return bytearray().join(bytes(chunk) for chunk in self.chunks())


class Writer:
    """What one connection sends of an upload."""

    def __init__(self, upload: Upload) -> None:
        self._upload, self.at, self.chunk = upload, upload.next * CHUNK, bytearray()

    def write(self, piece: Bytes) -> None:
        """Keep the next bytes."""
        self._upload.take(self, piece)
        self.at += len(piece)


class Room:
    """One round's uploads: ``files`` are on disk, ``uploads`` are what the process knows."""

    def __init__(self, troubles: Troubles) -> None:
        self.troubles, self.files = troubles, dict[str, File]()
        self.uploads = dict[str, Upload]()
        self.has_key = False

    def open(self) -> None:
        """Have a key: a new one empties the room."""
        if not self.has_key:
            self.files.clear()
            self.troubles.write()
            self.troubles.sync()
            reach(Point.KEY_WRITTEN)
            self.has_key = True
            reach(Point.KEY_NAMED)

    def upload(self, name: str, listing: Listing) -> Upload:
        """Return the upload of that name and listing."""
        if not self.has_key:
            raise FileNotFoundError(errno.ENOENT, "the room was destroyed")
        found = self.uploads.get(name)
        if found is None or found.listing.id != listing.id:
            if found is not None:
                found.end()
            found = self.uploads[name] = Upload(self, name, listing)
        return found

    def found(self, name: str) -> Upload:
        """Return the upload of that name; FileNotFoundError if there is none."""
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, name)
        return self.upload(name, self.files[name].listing)

    def destroy(self) -> None:
        """Destroy the key, and all with it."""
        for upload in self.uploads.values():
            upload.end()
        self.troubles.sync()
        self.has_key = False
        reach(Point.KEY_OVERWRITTEN)
        reach(Point.KEY_ERASED)
        reach(Point.ROOM_RENAMED)


class Spool:
    """The rooms by (run, number)."""

    def __init__(self, world: World, troubles: Troubles) -> None:
        self.world, self.troubles = world, troubles
        self.on_disk = dict[tuple[str, int], Room]()

    def room(self, run: str, round: int) -> Room:
        """Return a room, made if it is not there."""
        room = self.on_disk.setdefault((run, round), Room(self.troubles))
        room.open()
        return room

    def rooms(self) -> list[tuple[str, int]]:
        """Return the names of all rooms."""
        return sorted(self.on_disk)

    def destroy(self, run: str, round: int) -> None:
        """Destroy a room."""
        if (run, round) in self.on_disk:
            self.on_disk[run, round].destroy()
            del self.on_disk[run, round]

    def start(self, *, power: bool) -> None:
        """Forget what only a process knew; with ``power`` lost, what was not synced, or part."""
        for room in self.on_disk.values():
            room.uploads.clear()
            for name, file in [*room.files.items()]:
                if power and not file.is_durable:
                    left = self.world.random.randint(0, len(file.content))
                    del file.content[left:]  # torn anywhere
                    if self.world.random.random() < 0.5:
                        del room.files[name]  # its name was not synced either
