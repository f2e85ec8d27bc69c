"""A journal as those see it who only read: events in streams, one order and one hash chain."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select
from sqlalchemy.exc import SQLAlchemyError

from hanse.coordinator.database import check_pages, database, opening, reason
from hanse.coordinator.migrations import check_known
from hanse.coordinator.schema import EVENT, Entry, chained

AT_ONCE = 1_000
"""How many events are in memory at most while all of them are read."""


class JournalBroken(OSError):
    """The journal cannot be read or written any more: an append may or may not be durable."""


class History:
    """What stands in a journal."""

    def __init__(self, name: str, reading: Engine) -> None:
        """Read by ``reading``; messages call it ``name``."""
        self.name, self._reading = name, reading

    @classmethod
    @contextmanager
    def of(cls, where: str | Path) -> "Generator[History]":
        """Open the journal at a path or URL, whether a coordinator writes it now or not.

        ConfigError if it cannot be opened, or has another schema than this version of Hanse.
        """
        with ExitStack() as resources:
            found = database(where)
            with opening(found.name):
                history = cls(found.name, found.read(resources))
                with history._reading.connect() as connection:
                    check_known(connection, found.name)
            yield history

    def read(self, stream: str, after: int = 0) -> list[Entry]:
        """Return the events of ``stream`` with a ``seq`` above ``after``, in order."""
        found = select(EVENT).where(EVENT.c.stream == stream, EVENT.c.seq > after)
        with self._connection() as connection:
            return [Entry.of(row) for row in connection.execute(found.order_by(EVENT.c.seq))]

    def first(self, stream: str) -> Entry:
        """Return the first event of ``stream``; LookupError if there is none."""
        found = select(EVENT).where(EVENT.c.stream == stream).order_by(EVENT.c.seq).limit(1)
        with self._connection() as connection:
            row = connection.execute(found).first()
        if row is None:
            raise LookupError(stream)
        return Entry.of(row)

    def last(self, stream: str) -> Entry | None:
        """Return the last event of ``stream``; None if there is none."""
        found = select(EVENT).where(EVENT.c.stream == stream).order_by(EVENT.c.seq.desc()).limit(1)
        with self._connection() as connection:
            row = connection.execute(found).first()
        return None if row is None else Entry.of(row)

    def streams(self, prefix: str = "") -> list[str]:
        """Return the names of the streams that begin with ``prefix``, sorted."""
        stream = EVENT.c.stream  # not LIKE, which SQLite has without regard to case
        begins = func.substr(stream, 1, len(prefix)) == prefix
        with self._connection() as connection:
            return sorted(connection.scalars(select(stream).where(begins).distinct()))

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the events of a kind, in order."""
        found = select(EVENT).where(EVENT.c.kind == kind).order_by(EVENT.c.seq)
        with self._connection() as connection:
            return [Entry.of(row) for row in connection.execute(found)]

    def kinds_by_stream(self) -> dict[str, dict[str, int]]:
        """Return stream → kind → how many events."""
        found = select(EVENT.c.stream, EVENT.c.kind, func.count())
        counts = dict[str, dict[str, int]]()
        with self._connection() as connection:
            for stream, kind, count in connection.execute(
                found.group_by(EVENT.c.stream, EVENT.c.kind)
            ):
                counts.setdefault(stream, {})[kind] = count
        return counts

    def hash_of(self, seq: int) -> str | None:
        """Return the hash of event ``seq``; None if there is none."""
        with self._connection() as connection:
            return connection.scalar(select(EVENT.c.hash).where(EVENT.c.seq == seq))

    def newest(self) -> Entry | None:
        """Return the last event; None if there is none."""
        with self._connection() as connection:
            found = connection.execute(select(EVENT).order_by(EVENT.c.seq.desc()).limit(1)).first()
        return None if found is None else Entry.of(found)

    def counts(self, after: int = 0) -> dict[str, tuple[int, int]]:
        """Return kind → (how many events, the ``seq`` of the last) of those above ``after``."""
        found = select(EVENT.c.kind, func.count(), func.max(EVENT.c.seq)).group_by(EVENT.c.kind)
        with self._connection() as connection:
            rows = connection.execute(found.where(EVENT.c.seq > after))
            return {kind: (count, last) for kind, count, last in rows}

    def rows(self) -> Iterator[Row[Any]]:
        """Yield all events as they are on disk, of one moment, each verified.

        ConfigError names the first event that is not as it was.
        """
        everything = select(EVENT).order_by(EVENT.c.seq).execution_options(yield_per=AT_ONCE)
        with self._connection() as connection:
            yield from chained(connection.execute(everything), self.name, whole=True)

    def verify(self) -> int:
        """Verify all that is there; return the number of events.

        ConfigError as of :meth:`rows`, or for a database that is damaged (:func:`check_pages`).
        """
        with self._connection() as connection:
            check_pages(connection, self.name)
        return sum(1 for _ in self.rows())

    @contextmanager
    def _connection(self) -> Generator[Connection]:
        """A connection that only reads; what the database says against it is JournalBroken."""
        try:
            with self._reading.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise JournalBroken(f"{self.name}: {reason(error)}") from error
