"""The coordinator's memory: an append-only journal of events, in SQLite or PostgreSQL.

One thread owns the connection that writes, and its checkpoints. It takes all that waits and commits
it at once, and an append counts as made only when that commit has returned. A failed commit is
never tried again: what became of it is known after the next start (Rebello et al., ATC'20).

Whoever can write to the database can cut off the journal's end unnoticed by :meth:`Journal.verify`.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, Row, insert, select

from hanse.coordinator.blobs import sync_folder
from hanse.coordinator.database import check_pages, database, opening, reason
from hanse.coordinator.history import AT_ONCE, History, JournalBroken
from hanse.coordinator.migrations import keep_old, upgrade
from hanse.coordinator.schema import EVENT, Entry, chain_hash, check_chain
from hanse.core.canonical import Json, encode
from hanse.errors import ConfigError
from hanse.failpoints import Point, reach

MOST_TAKEN = 1_000
"""How many appends go into one transaction at most."""
MOST_NAME = 255
"""Characters of a stream or a kind at most."""


WRITE_FAILED = 74
"""Exit status after a failed write (EX_IOERR): whoever supervises starts the process again."""


def fail_stop(error: OSError) -> NoReturn:
    """End the process: what is in memory may be ahead of what is on disk."""
    said = error if error.filename or not error.strerror else error.strerror.lower()
    os.write(2, f"Error: [journal] {said}\n".encode())
    os._exit(WRITE_FAILED)


class Journal(History):
    """Events in streams (``registry``, ``run/<id>``), all in one order and one hash chain."""

    def __init__(self, name: str, writer: "_Writer", reading: Engine, resources: ExitStack) -> None:
        super().__init__(name, reading)
        self._writer, self._resources = writer, resources

    @classmethod
    def open(
        cls, where: str | Path, *, on_failure: Callable[[JournalBroken], None] | None = None
    ) -> "Journal":
        """Open the journal at a path (SQLite) or a URL ``postgresql://…``, made if it is not there.

        Brings its schema up to date and verifies all events: a coordinator that starts uses all of
        them. ConfigError if it cannot be opened, is open elsewhere, is newer than this code, is
        damaged, or its chain is broken.

        ``on_failure`` is called once, by the writing thread and before those who wait are told,
        when a write fails; it must not close the journal.
        """
        with ExitStack() as resources:
            found = database(where)
            with opening(found.name):
                writing, reading = found.write(resources), found.read(resources)
                keep_old(writing)
                with writing.begin():
                    upgrade(writing)
                with writing.begin():
                    head = _verified(writing, found.name)
                    _sync_names(writing)
            writer = _Writer(found.name, writing, head, on_failure)
            return cls(found.name, writer, reading, resources.pop_all())

    @classmethod
    def restore(cls, where: str | Path, rows: "Iterable[Row[Any]]") -> None:
        """Fill a new journal with rows of another one; ConfigError if there is one already."""
        with ExitStack() as resources:
            found = database(where)
            with opening(found.name):
                writing = found.write(resources)
                with writing.begin():
                    upgrade(writing)
                    if writing.scalar(select(EVENT.c.seq).limit(1)) is not None:
                        raise ConfigError(
                            f"{found.name} has events already", hint="restore into an empty one"
                        )
                    for some in _batches(rows):
                        writing.execute(insert(EVENT), some)

    def append(self, stream: str, events: Sequence[tuple[str, Json]]) -> "Future[list[Entry]]":
        """Append (kind, body) pairs, all or none; may be called from any thread.

        The future has their entries once they are durable, JournalBroken if that failed. Appends
        are made in the order of the calls. One that is cancelled before its turn is not made.
        ValueError or TypeError for a body without canonical JSON, or a name that is none.
        """
        texts = [(kind, encode(body)) for kind, body in events]
        for name in (stream, *(kind for kind, _ in texts)):
            if not (0 < len(name) <= MOST_NAME and name.isprintable()):
                raise ValueError(f"{name[:MOST_NAME]!r} is no name of a stream or a kind")
        drafts = tuple(_Draft(stream, kind, text, json.loads(text)) for kind, text in texts)
        return self._writer.take(drafts)

    def append_now(self, stream: str, events: Sequence[tuple[str, Json]]) -> list[Entry]:
        """Append, and wait until it is durable; errors as :meth:`append`, and JournalBroken."""
        return self.append(stream, events).result()

    def close(self) -> None:
        """Make the appends that wait, then let go of the database. Later appends fail."""
        self._writer.close()
        self._resources.close()


def _verified(connection: Connection, name: str) -> tuple[int, str]:
    """Return number and hash of the last event; ConfigError unless all is as it was written."""
    check_pages(connection, name)
    everything = select(EVENT).order_by(EVENT.c.seq).execution_options(yield_per=AT_ONCE)
    return check_chain(connection.execute(everything), name, whole=True)


def _sync_names(connection: Connection) -> None:
    """Return when SQLite's files have durable names; OSError.

    It syncs the name of its log itself, once, and goes on if that fails: after a power failure
    there would be no log, and none of the events in it.
    """
    if connection.dialect.name == "sqlite":
        file = str(connection.exec_driver_sql("PRAGMA database_list").all()[0][2])
        sync_folder(Path(file).parent)


def _batches(rows: "Iterable[Row[Any]]") -> "Iterable[list[dict[str, Any]]]":
    some = list[dict[str, Any]]()
    for row in rows:
        some.append({column.name: getattr(row, column.name) for column in EVENT.columns})
        if len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some


@dataclass(frozen=True, slots=True)
class _Draft:
    """An event that has no place in the chain yet: its body as canonical JSON, and as a value."""

    stream: str
    kind: str
    text: str
    body: Json

    def row(self, seq: int, prev: str, at_wall: int) -> dict[str, Any]:
        """Return the row of ``EVENT`` that it becomes."""
        chained: dict[str, Any] = {"seq": seq, "stream": self.stream, "kind": self.kind}
        chained |= {"body": self.text, "prev": prev}
        return {**chained, "hash": chain_hash(**chained), "at_wall": at_wall}


@dataclass(frozen=True, slots=True)
class _Append:
    drafts: tuple[_Draft, ...]
    done: "Future[list[Entry]]"


class _Writer:
    """The one thread that writes."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        head: tuple[int, str],
        on_failure: Callable[[JournalBroken], None] | None,
    ) -> None:
        self.name, self._connection, self._on_failure = name, connection, on_failure
        self.head = head
        self._queue = queue.SimpleQueue[_Append | None]()
        self._door = threading.Lock()  # held to put into the queue, and to end that
        self._ended: str | None = None
        self._taken: list[_Append] = []
        self._thread = threading.Thread(target=self._run, name="hanse-journal", daemon=True)
        self._thread.start()

    def take(self, drafts: tuple[_Draft, ...]) -> "Future[list[Entry]]":
        """Queue an append."""
        append = _Append(drafts, Future())
        with self._door:
            if self._ended is None:
                self._queue.put(append)
            else:
                append.done.set_exception(JournalBroken(self._ended))
        return append.done

    def close(self) -> None:
        """Write what is queued, then end the thread."""
        with self._door:
            if self._ended is None:
                self._ended = f"{self.name} is closed"
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._gather():
                self._commit()
        except Exception as error:  # a mistake of ours, too, must leave nobody waiting
            self._fail(error)

    def _gather(self) -> bool:
        """Wait for appends and take all that are there; False when there will be no more."""
        found = [self._queue.get()]
        while found[-1] is not None and len(found) < MOST_TAKEN and not self._queue.empty():
            found.append(self._queue.get())
        if found[-1] is None:
            self._queue.put(None)  # to be found again when what came before it is written
        appends = [append for append in found if append is not None]
        self._taken = [append for append in appends if append.done.set_running_or_notify_cancel()]
        return bool(appends)

    def _commit(self) -> None:
        """Write what was taken in one transaction; only then tell those who wait."""
        (seq, last), at_wall = self.head, time.time_ns() // 1_000_000
        rows, made = list[dict[str, Any]](), list[list[Entry]]()
        for append in self._taken:
            made.append([])
            for draft in append.drafts:
                rows.append(row := draft.row(seq + 1, last, at_wall))
                fields: dict[str, Any] = {**row, "body": draft.body}
                made[-1].append(Entry(**fields))
                seq, last = row["seq"], row["hash"]
        if rows:
            reach(Point.JOURNAL_WRITING)
            with self._connection.begin():
                self._connection.execute(insert(EVENT), rows)
                reach(Point.JOURNAL_COMMITTING)
            reach(Point.JOURNAL_COMMITTED)
        self.head = seq, last
        taken, self._taken = self._taken, []
        for append, entries in zip(taken, made, strict=True):
            append.done.set_result(entries)

    def _fail(self, error: Exception) -> None:
        broken = JournalBroken(f"{self.name} could not write: {reason(error)}")
        broken.__cause__ = error
        with self._door:
            self._ended = str(broken)
        try:
            if self._on_failure is not None:
                self._on_failure(broken)
        finally:
            for append in self._taken:
                append.done.set_exception(broken)
            while not self._queue.empty():
                append = self._queue.get()
                if append is not None and append.done.set_running_or_notify_cancel():
                    append.done.set_exception(broken)
