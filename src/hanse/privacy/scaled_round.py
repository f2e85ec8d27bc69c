"""Whole numbers for the noise of whole numbers: scale a share and round it at random.

Conditional stochastic rounding of Kairouz, Liu, Steinke (arXiv:2102.06387, §4.1). It hides nothing
by itself: noise does.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hanse.core.dp_events import Skellam
from hanse.core.facts import Facts
from hanse.core.seeds import Chance
from hanse.core.step import Kind, Place, Step, Total, Update
from hanse.errors import PipelineError

LEAST_BITS: Final = 4
MOST_BITS: Final = 22
"""With the norm of what rounding adds, integers stay below the 2^24 that float32 has exactly."""
FINE: Final = 3.5
"""Steps in C per √d, at least: with them, D2² is at most D²·(1 + 1/49) + 8·D/7."""
BETA: Final = math.exp(-0.5)
TRIES: Final = 100
"""Each is accepted with a probability of at least 1 − β = 0.39: 100 fail once in 10^21."""


@dataclass(frozen=True)
class ScaledRound(Step):
    """At the client, scale the share so that its L2 bound C is 2^``bits`` steps, and round it at
    random to whole numbers.

    Each coordinate x goes up or down so that its mean is x: ⌊x + U⌋, U uniform in [0, 1). That may
    lengthen a share by up to √d, so all d are drawn again until their L2 norm is at most D2,
    with D = 2^bits, β = e^(−1/2) and

        D2² = min{(D + √d)², D² + d/4 + √(2·ln(1/β))·(D + √d/2)}

    (Theorem 1 there: one draw fails with a probability of at most β). After a hundred failures it
    is rounded towards 0, which lengthens nothing. What leaves is within D2 always, whatever was
    drawn, and its L1 norm within D1 = D2·min(√d, D2), since it is integers.

    Drawing again is a *bias*: roundings that lengthen are left out. Of a share that is accepted
    with probability p it is at most √(1 − p)/(2p) steps in L2 norm, all coordinates together: the
    mean of v·(R − x) over what is left out is, for a unit vector v, at most √(1 − p) times its
    deviation over everything, which is at most 1/2, the coordinates being independent. With
    p ≥ 1 − β that is less than one step; it is none where all roundings of a share are within D2,
    as those of a zero are. A coordinate has a variance of at most 1/4 before that.

    ``bits`` must be such that D ≥ 3.5·√d: then D2 is about a hundredth more than D, at most. A
    share that a step before let be longer than C is shortened to it.
    """

    bits: int = 14

    name: ClassVar[str] = "scaled_round"
    kind: ClassVar[Kind] = "linear"

    def __post_init__(self) -> None:
        """Refuse bits that a share's numbers have no room for."""
        if not LEAST_BITS <= self.bits <= MOST_BITS or self.bits != int(self.bits):
            raise PipelineError(
                f"{self}: bits is no whole number from {LEAST_BITS} to {MOST_BITS}",
                hint="give bits = 14; more is finer",
            )
        object.__setattr__(self, "bits", int(self.bits))

    @property
    def steps(self) -> float:
        """How many steps C has."""
        return 2.0**self.bits

    @property
    def _most(self) -> int:
        """How many coordinates a share may have."""
        return int((self.steps / FINE) ** 2)

    def check(self, facts: Facts) -> Facts:
        """Return ``facts`` of integers; refuse a share without a bound, and too coarse steps.

        Where the model is not known, with as many coordinates as there may be: larger bounds.
        """
        self._check_sound(facts)
        bound = Skellam.rounded(self.steps, facts.coordinates or self._most, 0.0, beta=BETA)
        largest = facts.linf * (self.steps / facts.l2) + 1
        return replace(
            facts,
            l2=bound.l2,
            l1=bound.l1,
            linf=min(largest, bound.l2),
            domain="integers",
            scale=self.steps / facts.l2,
            unrounded=self.steps,
        )

    def _check_sound(self, facts: Facts) -> None:
        if facts.domain == "integers":
            raise PipelineError(f"{self}: these are integers already", hint="leave one out")
        if math.isinf(facts.l2):
            raise PipelineError(
                f"{self} has no scale: the updates before it have no L2 bound",
                hint="put Clip(norm=...) before it",
            )
        if (facts.coordinates or 0) > self._most:
            needed = math.ceil(math.log2(FINE * math.sqrt(facts.coordinates or 0)))
            raise PipelineError(
                f"{self} is too coarse for {facts.coordinates} coordinates: rounding would lengthen"
                " a share by much",
                hint=f"give bits = {needed} or more",
            )

    def encode(self, update: Update, place: Place) -> Update:
        """Return the share in whole numbers, no factor pending."""
        factor = update.scale * (self.steps / place.facts.l2)
        length = update.length * abs(factor)
        if length > self.steps:
            factor *= self.steps / length
        exact = update.vector.astype(np.float64)
        exact *= factor
        integers = _rounded(exact, self.check(place.facts).l2, place.stream("scaled_round"))
        return replace(update, vector=integers.astype(update.vector.dtype), scale=1.0)

    def decode(self, total: Total, place: Place) -> Total:
        """Return the total in the units that it had before; in place: the total is spent."""
        np.multiply(total.vector, place.facts.l2 / self.steps, out=total.vector)
        return total


def _rounded(exact: NDArray[np.float64], most: float, chance: Chance) -> NDArray[np.float64]:
    """Return ``exact``, of an L2 norm below ``most``, in whole numbers of one of at most ``most``.

    The squares are below 2^46: their sum is exact in float64, in any order.
    """
    square = most * most * (1 - 2.0**-50)
    for _ in range(TRIES):
        drawn = chance.random(exact.size)
        drawn += exact
        np.floor(drawn, out=drawn)
        if float(drawn @ drawn) <= square:
            return drawn
    return np.trunc(exact)
