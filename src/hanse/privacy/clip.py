"""Bound one client's influence: clip its update to an L2 norm (McMahan et al., arXiv:1710.06963).

It bounds what one *client* can move the total. It hides nothing by itself: noise does.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from hanse.core.canonical import Json
from hanse.core.facts import Facts
from hanse.core.step import Kind, Place, Step, Update, Updates
from hanse.errors import PipelineError

ROOM = 2.0**-20
"""Relative room below the norm that both later roundings (wire, grid) fit into."""


@dataclass(frozen=True)
class Clip(Step):
    """At the client, shorten an update whose L2 norm exceeds ``norm`` to that norm.

    The length is taken in float64 and a longer update is scaled to ``norm``·(1 − 2^-20), so that
    the share, once rounded to the wire's dtype and to the grid of exact sums, is within ``norm``
    without slack (a run refuses a vector so long that the grid would not fit into that room).
    An update between ``norm``·(1 − 2^-20) and ``norm`` is scaled too, for the same reason.
    """

    norm: float

    name: ClassVar[str] = "clip"
    kind: ClassVar[Kind] = "bound"

    def __post_init__(self) -> None:
        """Refuse a norm that bounds nothing, or that float32 cannot keep its claim at."""
        if not isinstance(self.norm, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] -- users pass anything
            raise PipelineError(f"{self} is no bound", hint="give the norm as a number")
        object.__setattr__(self, "norm", float(self.norm))
        if not (2.0**-64 <= self.norm <= 2.0**64):
            raise PipelineError(
                f"{self} is no bound",
                hint="give a norm between 2^-64 and 2^64; 1.0 is a common start",
            )

    def check(self, facts: Facts) -> Facts:
        """Return ``facts`` with both norms bounded."""
        l2 = min(facts.l2, float(self.norm))
        return replace(facts, l2=l2, linf=min(facts.linf, l2))

    def encode(self, update: Update, place: Place) -> Update:
        """Lower the pending scale where the update is too long."""
        length = update.length * update.scale
        target = self.norm * (1 - ROOM)
        if length <= target:
            return update
        return replace(update, scale=update.scale * (target / length))

    def encode_many(self, updates: Updates, announced: Json) -> Updates:
        """Lower the pending scales where updates are too long."""
        lengths, target = updates.lengths * updates.scales, self.norm * (1 - ROOM)
        is_long = lengths > target
        if not is_long.any():
            return updates
        factors = np.divide(target, lengths, out=np.ones_like(lengths), where=is_long)
        return replace(updates, scales=updates.scales * factors)
