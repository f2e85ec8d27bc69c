"""How much each client counts, and what the total is divided by.

The weight is named first, since it says what the total means, but applied after the bounds: a
share is ω·clip(u) with ω in [0, 1], so that its norm is at most the clip norm. Weighting before
clipping would let a large client drown the bound; an unbounded weight after it would break it.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from hanse.core.canonical import Json
from hanse.core.facts import Facts
from hanse.core.step import Kind, Place, Refused, Scalar, Step, Total, Update, Updates
from hanse.errors import PipelineError

RESOLUTION = 2.0**-32
UNCAPPED_LIMIT = 2**20


@dataclass(frozen=True)
class Weight(Step):
    """Let a client count by its weight (``by``); weights of ``cap`` or more count alike.

    The weight w is its examples, its local steps, or 1. With ``cap``, ω = min(w, cap)/cap, kept at
    a resolution of 2^-32. Without one, ω = w, at most 2^20: exact sums need a limit, and an update
    that weighs more is refused. ``denominator`` is ``"observed"`` (the sum of the weights that were
    counted) or a public number in the same unit, where a client at its cap counts 1 (examples,
    steps with a cap; uniform) or its weight (no cap): under noise it must be public, since the
    realised sum tells who took part.
    """

    by: Literal["examples", "uniform", "steps"] = "examples"
    cap: float | None = None
    denominator: float | Literal["observed"] = "observed"

    name: ClassVar[str] = "weight"
    kind: ClassVar[Kind] = "weight"

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if self.by not in ("examples", "uniform", "steps"):
            raise PipelineError(
                f"Weight(by={self.by!r}) is not a weight",
                hint='by is "examples", "steps" or "uniform"',
            )
        if self.cap is not None and not 0 < self.cap < math.inf:
            raise PipelineError(f"{self}: the cap is not positive", hint="give cap > 0, or none")
        if self.cap is not None and self.by == "uniform":
            raise PipelineError(f"{self}: a uniform weight has no cap", hint="leave cap out")
        if self.denominator != "observed" and not (
            not isinstance(self.denominator, str) and 0 < self.denominator < math.inf
        ):
            raise PipelineError(
                f"{self}: the denominator is neither a positive number nor observed",
                hint='give denominator = "observed", or the number to divide by',
            )

    @property
    def is_capped(self) -> bool:
        """Whether ω is at most 1 whatever the client has."""
        return self.by == "uniform" or self.cap is not None

    @property
    def unit(self) -> float:
        """What one unit of the integer weight is worth."""
        return RESOLUTION if self.is_capped else 1.0

    def check(self, facts: Facts) -> Facts:
        """Return ``facts`` with the bounds of a weighted share.

        PipelineError for a weight by examples where a single one of them is hidden: it would scale
        what is noised by their number.
        """
        if self.by == "examples" and facts.example_multiplier:
            raise PipelineError(
                f"{self}: the number of a client's examples would show in its share, and "
                "[local.privacy] hides each of them",
                hint='use Weight(by="uniform"): all clients divide by one batch_size, so that one '
                "with more examples takes longer steps already",
            )
        largest = 1.0 if self.is_capped else float(UNCAPPED_LIMIT)
        return replace(
            facts,
            l2=facts.l2 * largest,
            linf=facts.linf * largest,
            max_weight=largest,
            capped=self.is_capped,
            denominator="observed" if self.denominator == "observed" else "public",
        )

    def scalars(self) -> tuple[Scalar, ...]:
        """Return the weight itself, where the server must see its sum."""
        if self.denominator != "observed":
            return ()
        return (Scalar("weight", round(self._largest / self.unit), resolution=self.unit),)

    @property
    def _largest(self) -> float:
        return 1.0 if self.is_capped else float(UNCAPPED_LIMIT)

    def encode(self, update: Update, place: Place) -> Update | Refused:
        """Leave ω pending on the update; refuse a weight that is out of range."""
        amount = 1 if self.by == "uniform" else update.counts.get(self.by)
        if not isinstance(amount, int | np.integer) or isinstance(amount, bool) or amount < 0:
            return Refused(f"{self.by} is {amount}: it must be a whole number, not negative")
        if not self.is_capped and amount > UNCAPPED_LIMIT:
            return Refused(f"{self.by} is {amount}, and without a cap at most {UNCAPPED_LIMIT}")
        cap = self.cap if self.cap is not None else 1.0
        kept = round(min(int(amount), cap) / cap / self.unit) if self.is_capped else int(amount)
        omega = kept * self.unit
        counts = {**update.counts, "weight": kept}
        return replace(
            update, scale=update.scale * omega, weight=update.weight * omega, counts=counts
        )

    def encode_many(self, updates: Updates, announced: Json) -> Updates | None:
        """Leave each client's ω pending; None where a weight is out of range."""
        if self.by == "uniform":
            amounts = np.ones(len(updates.scales), dtype=np.int64)
        else:
            amounts = updates.counts.get(self.by)
        if amounts is None or (amounts < 0).any():
            return None
        if not self.is_capped and (amounts > UNCAPPED_LIMIT).any():
            return None
        cap = self.cap if self.cap is not None else 1.0
        kept = amounts
        if self.is_capped:
            kept = np.rint(np.minimum(amounts, cap) / cap / self.unit).astype(np.int64)
        omegas = kept * self.unit
        return replace(
            updates,
            scales=updates.scales * omegas,
            weights=updates.weights * omegas,
            counts={**updates.counts, "weight": kept},
        )

    def decode(self, total: Total, place: Place) -> Total:
        """Divide the total, and the extra segments, by the denominator.

        By 0, where all weights were 0, the total is 0 and of the extra segments nothing is known:
        they are left out. In place: the total is spent.
        """
        by = self.denominator
        if by == "observed":
            by = int(total.counts["weight"][0]) * self.unit

        def mean(vector: NDArray[np.float64]) -> NDArray[np.float64]:
            if by > 0:
                return np.divide(vector, by, out=vector)
            vector.fill(0)
            return vector

        extras = {name: mean(vector) for name, vector in total.extras.items() if by > 0}
        return replace(total, vector=mean(total.vector), extras=extras)
