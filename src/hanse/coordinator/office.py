"""What the handlers of requests share: the parts of a coordinator, each with its own work.

The office decides nothing. It keeps the registry as the journal has it, and who was seen when.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hanse.coordinator.access import Desk
from hanse.coordinator.bell import Bell
from hanse.coordinator.home import Settings
from hanse.coordinator.journal import Journal
from hanse.coordinator.registry import Registry, fold
from hanse.coordinator.runs import Runs
from hanse.coordinator.tally import Tally
from hanse.coordinator.watch import Watch
from hanse.coordinator.witness import Witness
from hanse.core.canonical import Json
from hanse.log import Event, Line, log
from hanse.net import succession
from hanse.net.authority import Authority
from hanse.net.keys import IdentityKey

REGISTRY = "registry"


@dataclass(frozen=True, slots=True)
class Seen:
    """When a site last asked, and what it said that it does."""

    at: float
    doing: str = ""


@dataclass
class Office:
    """The parts of one coordinator; ``folder`` is where it keeps what it has."""

    settings: Settings
    key: IdentityKey
    authority: Authority
    journal: Journal
    runs: Runs
    bell: Bell
    desk: Desk
    folder: Path
    registry: Registry = field(default_factory=Registry)
    seen: dict[str, Seen] = field(default_factory=dict[str, Seen])
    watch: Watch = field(init=False)
    tally: Tally = field(init=False)
    witness: Witness = field(init=False)
    succession: Sequence[Mapping[str, str]] = field(init=False)
    """Which identity key came after which (:mod:`hanse.net.succession`)."""

    def __post_init__(self) -> None:
        """Fold the registry's events."""
        self.watch, self.tally = Watch(self.journal, self.folder), Tally(self.journal)
        self.witness = Witness(self.journal)
        self.succession = succession.read(self.folder)
        for entry in self.journal.read(REGISTRY):
            self.registry = fold(self.registry, entry.kind, entry.body)  # pyright: ignore

    def note(self, kind: str, body: Mapping[str, Json]) -> None:
        """Journal an event of the registry, then let it count."""
        after = fold(self.registry, kind, body)
        self.journal.append_now(REGISTRY, [(kind, body)])
        self.registry = after
        name, role = body.get("name"), body.get("role")
        log(
            Line(
                Event(kind.replace("_", "-")),
                name=name if isinstance(name, str) else None,
                role=role if isinstance(role, str) else None,
            )
        )

    def saw(self, site: str, doing: str | None = None) -> None:
        """Note that a site has asked."""
        known = self.seen.get(site, Seen(0.0))
        self.seen[site] = Seen(time.monotonic(), known.doing if doing is None else doing)

    def away_s(self, site: str) -> float | None:
        """Return for how many seconds a site was not heard of; None: not since the start."""
        known = self.seen.get(site)
        return None if known is None else time.monotonic() - known.at
