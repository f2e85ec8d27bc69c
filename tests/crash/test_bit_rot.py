"""A byte that a disk gives back as another one is noticed before it is used, or changes nothing.

10,000 flips of one byte each, over what coordinators and sites keep (P11). What is read must be
what was written, or be refused. An event's time is told and never chained, so that it may differ;
the end of a journal in SQLite's log may be lost, as in a power failure, and sites notice that.
"""

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.coordinator.blobs import BlobStore, Damaged
from hanse.coordinator.history import History, JournalBroken
from hanse.coordinator.journal import Journal
from hanse.coordinator.spool import Spool
from hanse.coordinator.total import Memory
from hanse.core.listing import CHUNK, Listing
from hanse.errors import ConfigError, ProtocolError
from hanse.net.transfer import download
from hanse.site.kept import Folder

SEED = int(os.environ.get("HANSE_SEED", "11"))
SMALL, LARGE, SENT, SPOOLED, KEPT, ROWS = 4720, 300, 200, 2200, 500, 1760
OPENED, RAW, LOGGED = 40, 220, 60
assert sum((SMALL, LARGE, SENT, SPOOLED, KEPT, ROWS, OPENED, RAW, LOGGED)) == 10_000
HEAD = 32
"""One in four flips is among the first bytes of a file."""
REFUSED = (Damaged, ConfigError, JournalBroken)


@dataclass
class Rot:
    """Flips of one byte each in files, one after another; ``seen``: how many were refused."""

    name: str
    draw: random.Random = field(init=False)
    seen: int = 0
    unseen: int = 0

    def __post_init__(self) -> None:
        self.draw = random.Random(f"{SEED} {self.name}")
        print(f"HANSE_SEED={SEED}, {self.name}")

    def flips(self, paths: list[Path], count: int) -> Iterator[tuple[Path, int]]:
        """Flip a byte, yield where, and bring back the file as it was."""
        content = {path: path.read_bytes() for path in paths}
        sizes = [len(content[path]) for path in paths]
        for _ in range(count):
            (path,) = self.draw.choices(paths, [size**0.5 for size in sizes])
            most = len(content[path]) if self.draw.randrange(4) else HEAD
            at, bits = self.draw.randrange(most), self.draw.randrange(1, 256)
            overwrite(path, at, content[path][at] ^ bits)
            yield path, at
            overwrite(path, at, content[path][at])
            if path.read_bytes() != content[path]:  # who opened it wrote something
                path.write_bytes(content[path])

    def look(self, read: Callable[[], Any], written: Any, where: str) -> None:
        """Read, and see that it is refused or as it was written."""
        try:
            found = read()
        except REFUSED:
            self.seen += 1
            return
        assert found == written, f"HANSE_SEED={SEED}: {where} is read as something else"
        self.unseen += 1


def overwrite(path: Path, at: int, byte: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes([byte]))


# --- blobs


def memory_in(store: BlobStore) -> str:
    draw = np.random.default_rng(SEED)
    slots = {"m": draw.normal(size=300), "v": draw.normal(size=300)}
    return Memory(slots, {"ef": {"left": draw.normal(size=(3, 5))}}).store(store)


def read_memory(store: BlobStore, id: str) -> Any:
    memory = Memory.load(store, id)
    slots = {name: array.tolist() for name, array in memory.slots.items()}
    return slots, {s: {n: a.tolist() for n, a in got.items()} for s, got in memory.states.items()}


def files_of(folder: Path, id: str) -> list[Path]:
    path = folder / "sha256" / id[:2] / id[2:]
    return [path, path.with_name(path.name + ".listing")]


def test_of_a_small_blob_nothing_else_is_read(tmp_path):
    """A document, a server's memory and a model; each by all ways that there are to read it."""
    store, rot = BlobStore(tmp_path), Rot("small blobs")
    document = json.dumps({"spec": "x" * 2_000, "layout": [*range(90)]}).encode()
    model = rot.draw.randbytes(30_000)
    ids = [memory_in(store), store.put(document).id, store.put(model).id]
    written = {id: bytes(store.map(id)) for id in ids}
    memory = read_memory(store, ids[0])
    files = {path: id for id in ids for path in files_of(tmp_path, id)}
    for path, at in rot.flips([*files], SMALL):
        id, where, before = files[path], f"byte {at} of {path}", rot.seen
        if id == ids[0]:
            rot.look(lambda id=id: read_memory(store, id), memory, where)
        else:
            rot.look(lambda id=id: bytes(store.map(id)), written[id], where)
        assert rot.seen == before + 1, where  # all of a blob is read, so the flip is seen
        ways = [lambda id=id: store.read_chunk(id, 0), lambda id=id: next(store.open_chunks(id))]
        rot.look(rot.draw.choice(ways), written[id], where)
        if path.suffix:
            rot.look(lambda id=id: store.listing(id).id, id, where)


def test_of_a_large_blob_nothing_else_is_read(tmp_path):
    store, rot = BlobStore(tmp_path), Rot("a large blob")
    content = rot.draw.randbytes(2 * CHUNK + 70_000)
    id = store.put(content).id
    parts = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    for path, at in rot.flips(files_of(tmp_path, id), LARGE):
        before, where = rot.seen, f"byte {at} of {path}"
        for number, part in enumerate(parts):
            rot.look(lambda number=number: store.read_chunk(id, number), part, where)
        assert rot.seen == before + (len(parts) if path.suffix else 1), where


class Line:
    """A coordinator that sends what is on its disk, unverified, and the peer that reads it."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    def stream(self, path: str) -> "Line":
        _, _, _, id, _, first = path.split("/")
        listing = self.store.listing(id)
        pieces = [bytes(piece) for piece in self.store.unverified(id, int(first), 2**16)]
        self.body, self.at = listing.packed + b"".join(pieces), 0
        return self

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        self.at += size
        return self.body[self.at - size : self.at]


def test_a_peer_notices_what_is_sent_to_it_unverified(tmp_path):
    store, rot = BlobStore(tmp_path / "blobs"), Rot("what is sent")
    content = rot.draw.randbytes(CHUNK + 5_000)
    id, into = store.put(content).id, tmp_path / "model.frame"
    line: Any = Line(store)
    download(line, id, into)
    assert into.read_bytes() == content
    for path, at in rot.flips(files_of(tmp_path / "blobs", id), SENT):
        into.unlink(missing_ok=True)
        with pytest.raises((ProtocolError, Damaged)):
            download(line, id, into)
        assert not into.exists(), f"byte {at} of {path}"
        into.with_name(into.name + ".part").unlink()


# --- the spool


def read_upload(folder: Path, counted: str) -> bytes:
    """Read a counted update as the driver does after a start; Damaged as it asks for it anew."""
    upload = Spool(folder).room("heart-1", 2).found("ulm")
    if upload.listing.id != counted or not upload.is_complete:
        raise Damaged("the update is asked for once more")
    return bytes(upload.read())


@pytest.mark.parametrize(("size", "count"), [(9_000, SPOOLED - 200), (CHUNK + 9_000, 200)])
def test_of_a_finished_upload_nothing_else_is_read(tmp_path, size, count):
    rot, folder = Rot(f"uploads of {size} bytes"), tmp_path / "spool"
    content = rot.draw.randbytes(size)
    listing = Listing.of(content)
    upload = Spool(folder).room("heart-1", 2).upload("ulm", listing)
    writer = upload.writer()
    for at in range(0, size, CHUNK):
        writer.write(content[at : at + CHUNK])
    upload.finish()
    room = folder / "heart-1@2"
    head = len(listing.packed)
    for path, at in rot.flips([room / "ulm.upload", room / "key"], count):
        before, where = rot.seen, f"byte {at} of {path}"
        rot.look(lambda: read_upload(folder, listing.id), content, where)
        assert rot.seen == before + 1, where
        if path.suffix and at >= head:  # who has the upload open sees it as well
            with pytest.raises(Damaged):
                upload.read()


# --- a site's memory


def test_of_what_a_site_remembers_nothing_else_is_read(tmp_path):
    rot, shelf = Rot("a site's memory"), Folder(tmp_path)
    values = np.random.default_rng(SEED).normal(size=(40, 10)).astype(np.float32)
    shelf.write("kept.safetensors", {"west": {"left": values, "bias": values[0]}}, 3)

    def read() -> Any:
        found = shelf.read("kept.safetensors")
        assert found is not None
        told = {o: {n: a.tolist() for n, a in named.items()} for o, named in found[0].items()}
        return told, found[1]

    written = read()
    for path, at in rot.flips([tmp_path / "kept.safetensors"], KEPT):
        rot.look(read, written, f"byte {at} of {path}")
    assert rot.unseen < KEPT / 10  # blanks between names, for example


# --- the journal

COLUMNS = ("stream", "kind", "body", "prev", "hash")
EVENTS = 60


def make_journal(path: Path, events: int = EVENTS) -> Any:
    """Make a journal of several streams; return what is read of it."""
    with closing(Journal.open(path)) as journal:
        for number in range(events):
            body = {"site": f"s{number % 7}", "round": number, "now": number / 3, "blob": "ab" * 32}
            stream = "registry" if number % 5 == 0 else f"run/heart-{number % 3}"
            journal.append_now(stream, [("reported" if number % 2 else "opened", body)])
        return all_of(journal)


def all_of(journal: History) -> Any:
    """Return all that a coordinator reads of a journal, without the times, in all ways."""
    streams = journal.streams()
    entries = {stream: journal.read(stream) for stream in streams}
    told = {
        stream: [(e.seq, e.kind, e.body, e.prev, e.hash) for e in found]
        for stream, found in entries.items()
    }
    last = max((e for found in entries.values() for e in found), key=lambda e: e.seq).seq
    newest = journal.newest()
    hashes = [journal.hash_of(seq) for seq in range(1, last + 2)]
    return told, journal.streams("run/"), hashes, newest and (newest.seq, newest.hash)


def opened(path: Path) -> Any:
    with closing(Journal.open(path)) as journal:
        return all_of(journal)


def update(connection: sqlite3.Connection, rot: Rot) -> tuple[int, str, Any]:
    """Flip a byte of a column; return which, and what was there."""
    seq = rot.draw.randint(1, EVENTS)
    column = rot.draw.choice((*COLUMNS, "body", "seq"))
    (before,) = connection.execute(f"SELECT {column} FROM event WHERE seq = ?", (seq,)).fetchone()
    if column == "seq":
        connection.execute("UPDATE event SET seq = ? WHERE seq = ?", (seq ^ 64, seq))
        return seq, column, seq
    text = bytearray(before.encode())
    text[rot.draw.randrange(len(text))] ^= rot.draw.randrange(1, 256)
    changed = f"UPDATE event SET {column} = CAST(? AS TEXT) WHERE seq = ?"
    connection.execute(changed, (bytes(text), seq))
    return seq, column, before


def restore(connection: sqlite3.Connection, seq: int, column: str, before: Any) -> None:
    at = seq ^ 64 if column == "seq" else seq
    connection.execute(f"UPDATE event SET {column} = ? WHERE seq = ?", (before, at))


def test_a_row_of_the_journal_that_is_another_one_is_noticed(tmp_path):
    make_journal(tmp_path / "journal.db")
    rot = Rot("rows")
    with (
        closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as connection,
        History.of(tmp_path / "journal.db") as history,
    ):
        connection.execute("PRAGMA synchronous = OFF")
        for _ in range(ROWS):
            changed = update(connection, rot)
            with pytest.raises(REFUSED):
                history.verify()
            restore(connection, *changed)
        assert history.verify() == EVENTS


def test_a_journal_in_which_a_row_is_another_one_is_not_opened(tmp_path):
    path, rot = tmp_path / "journal.db", Rot("opened journals")
    make_journal(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for _ in range(OPENED):
            changed = update(connection, rot)
            with pytest.raises(ConfigError):
                Journal.open(path)
            restore(connection, *changed)


def test_an_old_row_that_is_another_one_is_noticed_before_it_is_used(tmp_path):
    """However many events came after it."""
    path, body = tmp_path / "journal.db", {"counted": 1}
    with closing(Journal.open(path)) as journal:
        journal.append_now("run/a", [("opened", {"round": n}) for n in range(2_000)])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE event SET body = ? WHERE seq = 3", (json.dumps(body),))
    with pytest.raises(ConfigError, match="event 3 of"):
        opened(path)


def test_of_a_database_file_nothing_else_is_read(tmp_path):
    """A flip anywhere in the file: in rows, in an index, in a page's head, in free space."""
    path, rot = tmp_path / "journal.db", Rot("the database file")
    written = make_journal(path)
    assert not path.with_name("journal.db-wal").exists()
    for _, at in rot.flips([path], RAW):
        rot.look(lambda: opened(path), written, f"byte {at} of the database")
        for left in ("-wal", "-shm"):
            path.with_name(path.name + left).unlink(missing_ok=True)
    print(rot.seen, "seen,", rot.unseen, "without effect")
    assert rot.seen > RAW / 2


def test_of_a_log_that_a_killed_coordinator_left_a_part_is_read_or_all(tmp_path):
    """Frames have checksums: from a damaged one on, events are as if they were never written."""
    made, path, rot = tmp_path / "made.db", tmp_path / "copy" / "made.db", Rot("the log")
    path.parent.mkdir()
    journal = Journal.open(made)
    for number in range(20):
        journal.append_now("run/a", [("opened", {"round": number})])
    log = path.with_name("made.db-wal")
    for each in (made, made.with_name(log.name)):
        shutil.copy(each, path.parent)
    with closing(journal):
        hashes = [journal.hash_of(seq) for seq in range(1, 21)]
    for file in (path, log):
        shutil.copy(file, tmp_path / f"kept-{file.name}")
    for _, at in rot.flips([log], LOGGED):
        try:
            with closing(Journal.open(path)) as again:
                found = [entry.hash for entry in again.read("run/a")]
                assert found == hashes[: len(found)], f"HANSE_SEED={SEED}: byte {at} of the log"
        except REFUSED:
            pass
        for file in (path, log):
            shutil.copy(tmp_path / f"kept-{file.name}", file)
        path.with_name("made.db-shm").unlink(missing_ok=True)
