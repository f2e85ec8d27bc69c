"""A simulated run's place in a ledger of privacy: one release a round, its model."""

import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from hanse.core.dp_events import Event
from hanse.core.layout import Vector
from hanse.core.ledger import Debited, Reserved, Tells, Unit, Void
from hanse.core.spec import Against, RunSpec
from hanse.errors import ConfigError
from hanse.privacy.budget import Cap
from hanse.privacy.claims import claims
from hanse.sim.files import write_whole
from hanse.sim.ledger import UNNAMED, LedgerFile
from hanse.sim.output import LEDGER_ID

DELTA: Final = 1e-6


@dataclass(frozen=True)
class Budget:
    """A ledger's file, shared by all runs on the same data; ``epsilon``: what they may spend.

    The cap is at the run's own δ, or 1e-6, toward whom the run's promise speaks of, or else whoever
    gets the models.
    """

    path: str | Path
    epsilon: float | None = None

    def __post_init__(self) -> None:
        """Refuse a cap that nothing keeps to."""
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise ConfigError(
                f"a budget of ε = {self.epsilon:g} is none", hint="give epsilon from 0.1 to 10"
            )


class Spending:
    """One run in a ledger, which is this process's for as long as it runs."""

    def __init__(self, budget: Budget, spec: RunSpec, folder: Path | None) -> None:
        """Reserve all rounds. BudgetError if they break the cap, ConfigError for a bad file.

        ``folder``: where the run keeps what it is called, so that it goes on as itself.
        """
        self.spec, self.run = spec, _name(spec, folder)
        self.file = LedgerFile(Path(budget.path))
        sources = spec.sources or (UNNAMED,)
        asked = Reserved(self.run, sources, spec.rounds, _told(spec))
        caps = {} if budget.epsilon is None else dict.fromkeys(sources, _cap(budget.epsilon, spec))
        try:
            self.file.reserve(asked, caps)
            if folder is not None:
                write_whole(folder / LEDGER_ID, self.run.encode())
        except BaseException:
            self.file.close()
            raise

    def debit(self, round: int, vector: Vector) -> None:
        """Debit the model of a round, before anybody sees it."""
        self.file.note(Debited(self.run, f"{round}/model", self.spec.layout.digest(vector)))

    def end(self) -> None:
        """Give back what was not used."""
        self.file.note(Void(self.run))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the file to others; what is reserved stays, for a run that goes on."""
        self.file.close()


def _name(spec: RunSpec, folder: Path | None) -> str:
    known = None if folder is None else folder / LEDGER_ID
    if known is not None and known.exists():
        return known.read_text()
    return f"{spec.name}-{secrets.token_hex(4)}"


def _told(spec: RunSpec) -> Tells:
    """Return what a round tells each observer, the secrecy of who is in it counted in."""
    told = dict[Against, dict[Unit, Event]]()
    for claim in claims(spec, 1):
        if claim.event is not None:
            told.setdefault(claim.observer, {})[claim.unit] = claim.event
    return told


def _cap(epsilon: float, spec: RunSpec) -> Cap:
    privacy = spec.privacy
    if privacy is None:
        return Cap(epsilon, DELTA, against="recipients")
    unit: Unit = "client" if privacy.unit == "site" else privacy.unit
    return Cap(epsilon, privacy.delta, unit, privacy.against)
