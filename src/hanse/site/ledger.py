"""A site's privacy ledger: what runs may spend of its data, and who else has seen its last entry.

The file lies in the site's home, and so in its backups. An older copy put back would know of less
than was spent. So the coordinator is told the ledger's head before each release that is debited,
and the site asks for it before it does anything: what it does not hold, it has lost.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hanse.core.ledger import Lost, Reserved
from hanse.core.spec import RunSpec
from hanse.errors import ConfigError
from hanse.net.problems import Conflict
from hanse.net.session import SignedConnection
from hanse.privacy.budget import Cap
from hanse.privacy.claims import release_of
from hanse.sim.ledger import UNNAMED, Head, LedgerFile
from hanse.site.policy import Source

HEAD_PATH: Final = "/v1/ledger"


class SiteLedger(LedgerFile):
    """The ledger of one site. ``rolled_back`` says why nothing may leave, and is empty else."""

    def __init__(self, path: Path) -> None:
        """Open the ledger at ``path``, or begin it there. The coordinator is not asked yet."""
        super().__init__(path)
        self._witness_lock, self._witnessed = threading.Lock(), Head()
        self.rolled_back = ""

    def look(self, line: SignedConnection) -> None:
        """Ask the coordinator for the last head that it was told: this ledger must hold it."""
        told: Any = line.request("GET", HEAD_PATH).json()
        head = Head(int(told["seq"]), str(told["hash"]))
        with self._witness_lock:
            self._look(head)

    def _look(self, head: Head) -> None:
        self._witnessed = head
        self.rolled_back = "" if self.holds(head) else (
            f"the privacy ledger is not the newest: the coordinator knows of entry {head.seq} "
            f"({head.hash[:16]}…), and here it ends with entry {self.head.seq}; put the newest "
            "copy back, or say that there is none: hanse site ledger --accept-loss"
        )  # fmt: skip

    def show(self, line: SignedConnection) -> None:
        """Tell the coordinator the last entry on disk, before what it debits leaves.

        ConfigError if it knows of entries that are not here.
        """
        with self._witness_lock:
            while (head := self.durable) != self._witnessed:
                asked = {"after": self._witnessed.json(), "head": head.json()}
                try:
                    line.request("POST", HEAD_PATH, asked)
                    self._witnessed = head
                except Conflict:
                    told: Any = line.request("GET", HEAD_PATH).json()
                    before, now = self._witnessed, Head(int(told["seq"]), str(told["hash"]))
                    self._look(now)
                    if self.rolled_back or now == before:
                        raise ConfigError(
                            self.rolled_back or "the coordinator takes no head of the ledger"
                        ) from None


def accept_loss(path: Path, line: SignedConnection) -> Head:
    """Note in the ledger at ``path`` that entries which the coordinator knows of are lost.

    From then on nobody knows what was spent, so a source with a cap is used by no run. Returns what
    was lost; ConfigError if nothing is.
    """
    ledger = SiteLedger(path)
    try:
        told: Any = line.request("GET", HEAD_PATH).json()
        head = Head(int(told["seq"]), str(told["hash"]))
        if ledger.holds(head):
            raise ConfigError("the privacy ledger is the newest: nothing is lost")
        ledger.note(Lost(head.seq, head.hash))
        return head
    finally:
        ledger.close()


def reservation(run: str, spec: RunSpec) -> Reserved:
    """Return what ``run`` reserves at a site: one release a round, and one more for its counts
    where those may leave.
    """
    tells = release_of(spec)
    releases = spec.rounds if tells else 2 * spec.rounds
    return Reserved(run, spec.sources or (UNNAMED,), releases, tells)


def caps_of(sources: Mapping[str, Source]) -> dict[str, Cap]:
    """Return the caps of a policy's sources."""
    return {name: source.cap for name, source in sources.items() if source.cap is not None}
