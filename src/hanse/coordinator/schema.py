"""The journal's table, its rows, and the hash chain that runs through them."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Row, Table, Text

from hanse.core.canonical import Json, encode
from hanse.errors import ConfigError

PREFIX = b"hanse/1 event\n"
START = "0" * 64
"""What the first event names as the hash before it."""

METADATA = MetaData()
WHOLE = BigInteger().with_variant(Integer, "sqlite")
EVENT = Table(
    "event",
    METADATA,
    Column("seq", WHOLE, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("prev", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    Column("at_wall", WHOLE, nullable=False),
    Index("event_stream", "stream", "seq"),
    sqlite_strict=True,
)
"""``body`` is canonical JSON; ``at_wall`` is in milliseconds since 1970, by the machine's clock."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the journal, as it is on disk; ``at_wall`` in milliseconds since 1970.

    ``seq`` counts from 1 over all streams. The time is told, never chained nor relied on.
    """

    seq: int
    stream: str
    kind: str
    body: Json
    prev: str
    hash: str
    at_wall: int

    @staticmethod
    def of(row: Row[Any]) -> "Entry":
        """Return the entry of a row of ``EVENT``."""
        return Entry(
            row.seq, row.stream, row.kind, json.loads(row.body), row.prev, row.hash, row.at_wall
        )


def chain_hash(*, seq: int, stream: str, kind: str, body: str, prev: str) -> str:
    """Return the hash of an event: SHA-256 of ``PREFIX`` and a canonical JSON object, in hex.

    The object has the five arguments as members, with ``body``, which is canonical JSON already,
    as the value that it stands for.
    """
    members = f'"body":{body},"kind":{encode(kind)},"prev":{encode(prev)},"seq":{seq}'
    chained = f'{{{members},"stream":{encode(stream)}}}'
    return hashlib.sha256(PREFIX + chained.encode()).hexdigest()


def check_chain(rows: Iterable[Row[Any]], name: str, *, whole: bool = False) -> tuple[int, str]:
    """Return (seq, hash) of the last of ``rows``, (0, START) if there are none; as `chained`."""
    seq, last = 0, START
    for row in chained(rows, name, whole=whole):
        seq, last = row.seq, row.hash
    return seq, last


def chained(rows: Iterable[Row[Any]], name: str, *, whole: bool = False) -> Iterator[Row[Any]]:
    """Yield ``rows``, each once it is verified.

    ConfigError unless each hash is that of its row, and each row follows the one before it. Unless
    ``whole``, a first row with another number than 1 is believed about what was before it. An end
    that was cut off cannot be seen from within: that takes a witness outside.
    """
    seq, last = 0, START
    for row in rows:
        if seq == 0 and row.seq > 1 and not whole:
            seq, last = row.seq - 1, row.prev
        for complaint in complaints(row, seq + 1, last):
            raise ConfigError(
                f"event {row.seq} of {name} {complaint}",
                hint="the journal was changed by something else than the coordinator: restore "
                "the last backup, and find out who can write there",
            )
        seq, last = row.seq, row.hash
        yield row


def complaints(row: Row[Any], seq: int, prev: str) -> Iterator[str]:
    """Yield what is wrong with ``row`` as number ``seq`` after an event of hash ``prev``."""
    if row.seq != seq:
        yield f"comes where event {seq} should be"
    if row.prev != prev:
        yield f"names {row.prev[:16]}… as the hash before it, which is {prev[:16]}…"
    found = chain_hash(seq=row.seq, stream=row.stream, kind=row.kind, body=row.body, prev=row.prev)
    if row.hash != found:
        yield f"has hash {found[:16]}…, but {row.hash[:16]}… was written"
