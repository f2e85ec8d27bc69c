"""The database of a journal: opened for the one that writes it, and for those who read it."""

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from hanse.errors import ConfigError

LOCK = int.from_bytes(b"hanse/1", "big")
"""The advisory lock's key; PostgreSQL keeps locks apart per database."""
UNANSWERED = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}
"""PostgreSQL: seconds, seconds and milliseconds after which a silent server is a failed one."""
IN_USE = "end the coordinator that runs already, or give this one a journal of its own"
OF_DISK = (errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
KINDS = "give a path (SQLite), or postgresql://user@host/database"


@dataclass(frozen=True)
class Database:
    """A database. ``name`` is what messages call it (no password); ``write`` makes it if it is not
    there, and holds its lock as long as the resources are open.
    """

    name: str
    write: Callable[[ExitStack], Connection]
    read: Callable[[ExitStack], Engine]


def database(where: str | Path) -> Database:
    """Return the database at a path or URL; ConfigError if that is neither."""
    if isinstance(where, Path) or "://" not in where:
        path = Path(where)
        return Database(
            f"the journal {path}",
            lambda resources: _write_sqlite(path, resources),
            lambda resources: _sqlite(path, "ro", resources),
        )
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):
        raise ConfigError("the journal's URL cannot be read", hint=KINDS) from None
    if url.get_backend_name() != "postgresql":
        raise ConfigError(f"there is no journal in {url.get_backend_name()}", hint=KINDS)
    url = url.set(drivername="postgresql+psycopg")
    return Database(
        f"the journal in the PostgreSQL database {url.database}",
        lambda resources: _write_postgres(url, resources),
        lambda resources: _read_postgres(url, resources),
    )


def _write_sqlite(path: Path, resources: ExitStack) -> Connection:
    """Open a file of 0600 that no other process can open in this way."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    resources.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"the journal {path} is in use", hint=IN_USE) from None
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    writer = _sqlite(path, "rw", resources)
    event.listen(writer, "begin", _begin)
    writing = resources.enter_context(writer.connect())
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "mmap_size = 0"):
        writing.connection.cursor().execute(f"PRAGMA {pragma}").close()
    return writing


def _sqlite(path: Path, mode: str, resources: ExitStack) -> Engine:
    """Return an engine whose driver begins no transaction of its own: tables change in one too."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    engine = create_engine("sqlite:///journal", creator=connect)
    resources.callback(engine.dispose)
    return engine


def _write_postgres(url: URL, resources: ExitStack) -> Connection:
    """Open a connection that holds the database's lock as long as it lives."""
    writer = create_engine(url, connect_args=UNANSWERED)
    resources.callback(writer.dispose)
    writing = resources.enter_context(writer.connect())
    with writing.begin():
        if not writing.scalar(select(func.pg_try_advisory_lock(LOCK))):
            raise ConfigError(
                f"the journal in the PostgreSQL database {url.database} is in use", hint=IN_USE
            )
        if writing.scalar(select(func.current_setting("synchronous_commit"))) == "off":
            writing.exec_driver_sql("SET synchronous_commit = on")
    return writing


def _read_postgres(url: URL, resources: ExitStack) -> Engine:
    reader = create_engine(url, connect_args=UNANSWERED, pool_pre_ping=True)
    event.listen(reader, "connect", _only_read)
    resources.callback(reader.dispose)
    return reader


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _only_read(opened: Any, _: object) -> None:
    opened.read_only = True  # psycopg's, for every transaction of this connection


def check_pages(connection: Connection, name: str) -> None:
    """Raise ConfigError unless SQLite finds its own pages whole; they have no checksums.

    The chain is of the events as they lie in the table: that a search by stream finds all of them,
    the database has to see itself. PostgreSQL does not offer that.
    """
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        if found != "ok":
            raise ConfigError(
                f"{name} is damaged: {' '.join(str(found).split())}",
                hint="restore the last backup, and look after the disk",
            )


@contextmanager
def opening(name: str) -> Generator[None]:
    """Turn what a database says against being opened into a ConfigError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} cannot be opened: {error}", hint="pip install 'hanse[postgres]'"
        ) from error
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise ConfigError(
            f"{name} cannot be opened: {reason(error)}",
            hint="check that it is there, that it is a journal, and who may open it",
        ) from error


def is_of_disk(error: BaseException | None) -> bool:
    """Whether the disk has failed, or is full: it is nothing that another setting would mend."""
    if isinstance(error, DBAPIError):
        error = error.orig
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary one of an extended code
        return code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)
    return isinstance(error, OSError) and error.errno in OF_DISK


def reason(error: Exception) -> str:
    """Return what the database itself said, on one line."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return " ".join(str(said).split()) or type(said).__name__
