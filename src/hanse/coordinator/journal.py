"""The coordinator's memory: an append-only journal of events, in SQLite or PostgreSQL.

One thread owns the connection that writes, and its checkpoints. It takes all that waits and commits
it at once, and an append counts as made only when that commit has returned. A failed commit is
never tried again: what became of it is known after the next start (Rebello et al., ATC'20).

Whoever can write to the database can cut off the journal's end unnoticed by :meth:`Journal.verify`.
"""

import fcntl
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, insert, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from hanse.coordinator.migrations import upgrade
from hanse.coordinator.schema import EVENT, Entry, chain_hash, check_chain
from hanse.core.canonical import Json, encode
from hanse.errors import ConfigError
from hanse.failpoints import Point, reach

TAIL = 1_000
"""How many events at the end of the chain are verified at each start."""
MOST_TAKEN = 1_000
"""How many appends go into one transaction at most."""
MOST_NAME = 255
"""Characters of a stream or a kind at most."""
LOCK = int.from_bytes(b"hanse/1", "big")
"""The advisory lock's key; PostgreSQL keeps locks apart per database."""
UNANSWERED = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}
"""PostgreSQL: seconds, seconds and milliseconds after which a silent server is a failed one."""
IN_USE = "end the coordinator that runs already, or give this one a journal of its own"


class JournalBroken(OSError):
    """The journal cannot write any more, or was closed: the append may or may not be durable."""


WRITE_FAILED = 74
"""Exit status after a failed write (EX_IOERR): whoever supervises starts the process again."""


def fail_stop(error: OSError) -> NoReturn:
    """End the process: what is in memory may be ahead of what is on disk."""
    os.write(2, f"Error: [journal] {error}\n".encode())
    os._exit(WRITE_FAILED)


class Journal:
    """Events in streams (``registry``, ``run/<id>``), all in one order and one hash chain."""

    def __init__(self, writer: "_Writer", reading: Engine, resources: ExitStack) -> None:
        self._writer, self._reading, self._resources = writer, reading, resources

    @classmethod
    def open(
        cls, where: str | Path, *, on_failure: Callable[[JournalBroken], None] | None = None
    ) -> "Journal":
        """Open the journal at a path (SQLite) or a URL ``postgresql://…``, made if it is not there.

        Brings its schema up to date and verifies the last ``TAIL`` events. ConfigError if it cannot
        be opened, is open elsewhere, is newer than this code, or its chain is broken.

        ``on_failure`` is called once, by the writing thread and before those who wait are told,
        when a write fails; it must not close the journal.
        """
        with ExitStack() as resources:
            name, open_both = _database(where)
            with _opening(name):
                writing, reading = open_both(resources)
                with writing.begin():
                    upgrade(writing)
                with writing.begin():
                    last = select(EVENT).order_by(EVENT.c.seq.desc()).limit(TAIL)
                    head = check_chain(reversed(writing.execute(last).all()), name)
            writer = _Writer(name, writing, head, on_failure)
            return cls(writer, reading, resources.pop_all())

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

    def read(self, stream: str, after: int = 0) -> list[Entry]:
        """Return the events of ``stream`` with a ``seq`` above ``after``, in order."""
        found = select(EVENT).where(EVENT.c.stream == stream, EVENT.c.seq > after)
        with self._connection() as connection:
            return [Entry.of(row) for row in connection.execute(found.order_by(EVENT.c.seq))]

    def streams(self, prefix: str = "") -> list[str]:
        """Return the names of the streams that begin with ``prefix``, sorted."""
        stream = EVENT.c.stream  # not LIKE, which SQLite has without regard to case
        begins = func.substr(stream, 1, len(prefix)) == prefix
        with self._connection() as connection:
            return sorted(connection.scalars(select(stream).where(begins).distinct()))

    def verify(self) -> None:
        """Verify the whole chain; ConfigError names the first event that is not as it was."""
        everything = select(EVENT).order_by(EVENT.c.seq).execution_options(yield_per=TAIL)
        with self._connection() as connection:
            check_chain(connection.execute(everything), self._writer.name, whole=True)

    def close(self) -> None:
        """Make the appends that wait, then let go of the database. Later appends fail."""
        self._writer.close()
        self._resources.close()

    @contextmanager
    def _connection(self) -> Generator[Connection]:
        """A connection that only reads; what the database says against it is JournalBroken."""
        try:
            with self._reading.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise JournalBroken(f"{self._writer.name}: {_reason(error)}") from error


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
        self._seq, self._hash = head
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
        at_wall, seq, last = time.time_ns() // 1_000_000, self._seq, self._hash
        rows, made = list[dict[str, Any]](), list[list[Entry]]()
        for append in self._taken:
            made.append([])
            for draft in append.drafts:
                rows.append(row := draft.row(seq + 1, last, at_wall))
                made[-1].append(Entry(**{**row, "body": draft.body}))
                seq, last = row["seq"], row["hash"]
        if rows:
            reach(Point.JOURNAL_WRITING)
            with self._connection.begin():
                self._connection.execute(insert(EVENT), rows)
                reach(Point.JOURNAL_COMMITTING)
            reach(Point.JOURNAL_COMMITTED)
        self._seq, self._hash = seq, last
        taken, self._taken = self._taken, []
        for append, entries in zip(taken, made, strict=True):
            append.done.set_result(entries)

    def _fail(self, error: Exception) -> None:
        broken = JournalBroken(f"{self.name} could not write: {_reason(error)}")
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


Opener = Callable[[ExitStack], tuple[Connection, Engine]]


def _database(where: str | Path) -> tuple[str, Opener]:
    """Return what messages call the database at ``where`` (no password), and how to open it."""
    if isinstance(where, Path) or "://" not in where:
        path = Path(where)
        return f"the journal {path}", lambda resources: _sqlite(path, resources)
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        raise ConfigError("the journal's URL cannot be read", hint=_KINDS) from None
    if url.get_backend_name() != "postgresql":
        raise ConfigError(f"there is no journal in {url.get_backend_name()}", hint=_KINDS)
    name = f"the journal in the PostgreSQL database {url.database}"
    return name, lambda resources: _postgres(url, resources)


_KINDS = "give a path (SQLite), or postgresql://user@host/database"


def _sqlite(path: Path, resources: ExitStack) -> tuple[Connection, Engine]:
    """Open a file of 0600 that no other process can open in this way, and a reader of it."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    resources.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"the journal {path} is in use", hint=IN_USE) from None
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    writer = _sqlite_engine(f"{path.absolute().as_uri()}?mode=rw", resources)
    event.listen(writer, "begin", _begin)
    writing = resources.enter_context(writer.connect())
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "mmap_size = 0"):
        writing.connection.cursor().execute(f"PRAGMA {pragma}").close()
    return writing, _sqlite_engine(f"{path.absolute().as_uri()}?mode=ro", resources)


def _sqlite_engine(uri: str, resources: ExitStack) -> Engine:
    """Return an engine whose driver begins no transaction of its own: tables change in one too."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    engine = create_engine("sqlite:///journal", creator=connect)
    resources.callback(engine.dispose)
    return engine


def _postgres(url: URL, resources: ExitStack) -> tuple[Connection, Engine]:
    """Open a connection that holds the database's lock as long as it lives, and readers."""
    url = url.set(drivername="postgresql+psycopg")
    writer = create_engine(url, connect_args=UNANSWERED)
    reader = create_engine(url, connect_args=UNANSWERED, pool_pre_ping=True)
    event.listen(reader, "connect", _only_read)
    resources.callback(reader.dispose)
    resources.callback(writer.dispose)
    writing = resources.enter_context(writer.connect())
    with writing.begin():
        if not writing.scalar(select(func.pg_try_advisory_lock(LOCK))):
            raise ConfigError(
                f"the journal in the PostgreSQL database {url.database} is in use", hint=IN_USE
            )
        if writing.scalar(select(func.current_setting("synchronous_commit"))) == "off":
            writing.exec_driver_sql("SET synchronous_commit = on")
    return writing, reader


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _only_read(opened: Any, _: object) -> None:
    opened.read_only = True  # psycopg's, for every transaction of this connection


@contextmanager
def _opening(name: str) -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} cannot be opened: {error}", hint="pip install 'hanse[postgres]'"
        ) from error
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise ConfigError(
            f"{name} cannot be opened: {_reason(error)}",
            hint="check that it is there, that it is a journal, and who may open it",
        ) from error


def _reason(error: Exception) -> str:
    """Return what the database itself said, on one line."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return " ".join(str(said).split()) or type(said).__name__
