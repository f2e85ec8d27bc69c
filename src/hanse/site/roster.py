"""The roster of a federation, as a site reads it (docs/protocol.md §4)."""

from dataclasses import dataclass
from typing import Any

from hanse.core.canonical import digest
from hanse.errors import ProtocolError
from hanse.net.keys import is_public
from hanse.net.words import site_words


@dataclass(frozen=True, slots=True)
class Roster:
    """The sites with their six words, and the digest that stands for all of it."""

    rows: tuple[tuple[str, str], ...]
    digest: str


def read_roster(told: Any, coordinator: str) -> Roster:
    """Return the roster that the coordinator told; ProtocolError if it is none."""
    try:
        rows = [(str(row["name"]), str(row["key"])) for row in told]
        known = [{"key": key, "name": name} for name, key in sorted(rows)]
        if known != told or not all(is_public(key) for _, key in rows):
            raise ValueError("not sorted, or not a key")
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("a roster that is none") from error
    words = tuple((name, site_words(name, key, coordinator)) for name, key in rows)
    return Roster(words, digest(told))
