"""The last head of each site's privacy ledger that the coordinator was told: a witness.

A site that was put back to an older copy of its ledger is shown by it that entries are missing. A
coordinator that lies can hide that, or claim entries that never were, which stops the site.
"""

import threading
from typing import Any, Final

from hanse.coordinator.journal import Journal
from hanse.core.canonical import Json
from hanse.net.problems import Conflict

NONE: Final[dict[str, Json]] = {"seq": 0, "hash": "0" * 64}


class Witness:
    """Keeps the heads in the journal."""

    def __init__(self, journal: Journal) -> None:
        """Nothing is read before it is asked for."""
        self._journal, self._lock = journal, threading.Lock()

    def head(self, site: str) -> dict[str, Json]:
        """Return number and hash of the last entry that ``site`` has shown."""
        entry: Any = self._journal.last(_stream(site))
        return NONE if entry is None else {"seq": entry.body["seq"], "hash": entry.body["hash"]}

    def note(self, site: str, after: dict[str, Json], head: dict[str, Json]) -> None:
        """Journal ``head``; Conflict unless it comes behind ``after``, which was the last one."""
        with self._lock:
            known = self.head(site)
            if head == known:
                return
            if after != known or not _number(head) > _number(known):
                raise Conflict(
                    f"the last entry of {site}'s privacy ledger known here is {known['seq']}",
                    hint="the site asks for it, and looks whether it has it",
                )
            self._journal.append_now(_stream(site), [("ledger_head", head)])


def _number(head: dict[str, Json]) -> int:
    return int(str(head["seq"]))


def _stream(site: str) -> str:
    return f"ledger/{site}"
