"""The privacy ledger as a file: one entry a line, chained by hashes, on disk before it counts.

Who can write the file can make another one; that entries are missing shows only to who has seen a
later head (docs/protocol.md §6).
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hanse.core.canonical import Json, encode
from hanse.core.ledger import Arrived, Entry, Ledger, Lost, Reserved, body_of, entry_of, step
from hanse.errors import BudgetError, ConfigError
from hanse.failpoints import Point
from hanse.privacy.budget import Cap, check
from hanse.sim.lines import Lines, whole_lines

START: Final = "0" * 64
UNNAMED: Final = "unnamed"
"""The data set of a run that names none."""
POINTS: Final = (Point.SITE_LEDGER_WRITTEN, Point.SITE_LEDGER_DURABLE)


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a ledger: its number, from 1 on, and its hash; (0, 00…) for none."""

    seq: int = 0
    hash: str = START

    def json(self) -> dict[str, Json]:
        """Return it as JSON."""
        return {"seq": self.seq, "hash": self.hash}


class LedgerFile:
    """A ledger and its file; for the threads of one process.

    ``head`` is its last entry, ``durable`` the last that is on disk.

    Errors as of :class:`hanse.sim.lines.Lines`; ConfigError for a file that is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Open the ledger at ``path``, or begin it there."""
        self._lock = threading.Lock()
        self._lines = Lines(path, POINTS, without="nothing leaves")
        try:
            self._load(self._lines.found)
        except ConfigError:
            self._lines.close()
            raise

    def _load(self, lines: list[bytes]) -> None:
        self.ledger, self._hashes, self.head = replayed(self._lines.path, lines)
        self.durable = self.head

    def holds(self, head: Head) -> bool:
        """Whether that entry stands here, or is known to be lost."""
        return self._hashes.get(head.seq) == head.hash

    def close(self) -> None:
        """Give the file to another process."""
        with self._lock:
            self._lines.close()

    def open_anew(self) -> None:
        """Go back to what is on disk after a failed write; does nothing without one."""
        with self._lock:
            if self._lines.is_broken and not self._lines.is_closed:
                self._load(self._lines.cut_back())

    def reserve(self, asked: Reserved, caps: Mapping[str, Cap]) -> None:
        """Reserve, durably; BudgetError if that breaks a cap of a source."""
        with self._lock:
            check(self.ledger, asked, caps)
            self._note(asked)

    def note(self, entry: Entry) -> None:
        """Have ``entry`` in the ledger, on disk; BudgetError if it is a wrong one.

        That something arrived may get lost with the machine: it changes no spending.
        """
        with self._lock:
            self._note(entry)

    def _note(self, entry: Entry) -> None:
        after = step(self.ledger, entry)
        if after is self.ledger:
            return
        head = self.head
        seq = max(head.seq, entry.seq) + 1 if isinstance(entry, Lost) else head.seq + 1
        told: dict[str, Json] = {"body": body_of(entry), "kind": entry.kind, "seq": seq}
        hash = _hash(told, head.hash)
        line = encode({**told, "prev": head.hash, "hash": hash}).encode() + b"\n"
        is_durable = not isinstance(entry, Arrived)
        self._lines.append(line, durable=is_durable)
        self.ledger, self.head = after, Head(seq, hash)
        self.durable = self.head if is_durable else self.durable
        self._hashes[seq] = hash
        if isinstance(entry, Lost):
            self._hashes[entry.seq] = entry.hash


def _hash(told: Mapping[str, Json], prev: str) -> str:
    return hashlib.sha256(encode({**told, "prev": prev}).encode()).hexdigest()


def replayed(path: Path, lines: list[bytes]) -> tuple[Ledger, dict[int, str], Head]:
    """Return the ledger of a file's lines, seq → hash, and the head; ConfigError for a broken
    chain.
    """
    ledger, hashes, head = Ledger(), {0: START}, Head()
    for number, line in enumerate(lines, 1):
        try:
            told: dict[str, Any] = json.loads(line)
            entry = entry_of(told["kind"], told["body"])
            seq, hash, prev = told.pop("seq"), told.pop("hash"), told.pop("prev")
            last = max(head.seq, entry.seq) if isinstance(entry, Lost) else head.seq
            whole = _hash({**told, "seq": seq}, prev) == hash and prev == head.hash
            if not whole or seq != last + 1:
                raise ValueError(number)
            ledger = step(ledger, entry)
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError, BudgetError) as error:
            raise ConfigError(
                f"{path}, line {number}, is not what was written there",
                hint="put the newest copy of the ledger in its place: without it nobody knows what "
                "was spent",
            ) from error
        hashes[seq], head = hash, Head(seq, hash)
        if isinstance(entry, Lost):
            hashes[entry.seq] = entry.hash
    return ledger, hashes, head


def read_ledger(path: Path) -> Ledger:
    """Return the ledger in a file, which another process may write at this moment."""
    return replayed(path, whole_lines(path))[0]
