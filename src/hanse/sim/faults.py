"""Faults on purpose: clients that drop out, come late, or send rubbish, drawn from the seed."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from hanse.core import seeds
from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.errors import ConfigError

Kind = Literal["nan", "inf", "shape"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one client in one round; ``delay_s`` is virtual time."""

    drops: bool
    delay_s: float
    corrupts: bool


NOTHING = Fate(False, 0.0, False)


@dataclass(frozen=True, slots=True)
class Faults:
    """How often things go wrong, per client and round.

    ``dropout``: probability that the client vanishes. ``delay_s``: mean of its exponential delay in
    virtual seconds. ``corrupt``: probability that its update is not a number (``nan``), infinite
    (``inf``) or of the wrong length (``shape``), by ``kind``.
    """

    dropout: float = 0.0
    delay_s: float = 0.0
    corrupt: float = 0.0
    kind: Kind = "nan"

    def __post_init__(self) -> None:
        """Refuse what is no probability or no time."""
        for name in ("dropout", "corrupt"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} = {value} is no probability", hint="give 0 to 1")
        if not 0 <= self.delay_s < math.inf:
            raise ConfigError(f"delay_s = {self.delay_s}", hint="give seconds, 0 or more")
        if self.kind not in ("nan", "inf", "shape"):
            raise ConfigError(f"kind = {self.kind!r}", hint='use "nan", "inf" or "shape"')

    def fate(self, seed: int, round: int, client: str) -> Fate:
        """Return what happens to ``client`` in ``round``."""
        if not (self.dropout or self.delay_s or self.corrupt):
            return NOTHING
        drawn = seeds.uniform(seeds.key(seed, round, client, "fault"), 3)
        delay = -self.delay_s * math.log1p(-float(drawn[1]))
        return Fate(bool(drawn[0] < self.dropout), delay, bool(drawn[2] < self.corrupt))

    def spoil(self, update: Vector) -> Vector:
        """Return a corrupt version of ``update``."""
        if self.kind == "shape":
            return update[:-1].copy()
        spoilt = update.copy()
        spoilt[len(spoilt) // 2] = np.nan if self.kind == "nan" else np.inf
        return spoilt

    def settings(self) -> dict[str, Json]:
        """Return the settings as a table of a run file; empty if nothing goes wrong."""
        return {} if self == Faults() else asdict(self)
