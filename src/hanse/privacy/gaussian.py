"""Central Gaussian noise on the total (McMahan et al., arXiv:1710.06963, Algorithm 1).

It protects a client against those who see only the model. It gives nothing against the
coordinator, which sees the updates before the noise.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hanse.core.facts import Facts
from hanse.core.seeds import Chance
from hanse.core.step import Integers, Kind, Place, Scalar, Step
from hanse.errors import PipelineError

LARGEST_MULTIPLIER = 100.0
COARSE = 2.0**21
"""Steps of the grid in a standard deviation for which one draw is fine enough."""
PIECE = 2**15
"""Numbers that are drawn at once: they stay in a cache."""


@dataclass(frozen=True)
class GaussianNoise(Step):
    """At the coordinator, add Gaussian noise to each coordinate of the total, of standard deviation
    ``noise_multiplier`` times the L2 bound C: it protects against those who see only the model,
    not against the coordinator.

    C is the L2 bound of one client's share on the wire, taken from the facts behind the last step:
    never typed twice. Neighbours are two data sets of which one lacks a client, whose share is then
    zero (add or remove one, zero-out): that moves the integer total by at most C. Replacing one
    client by another moves it by up to 2C, which is also what a cohort of a fixed size would have
    to count. The noise is a continuous Gaussian G rounded to the grid of the exact sum and added
    to the integer total T before anything is divided. It is rounded up or down at random, by a V
    uniform in [0, 1): T + ⌊G + V⌋ = ⌊(T + G) + V⌋, so what leaves is a function of T + G and of a V
    that knows nothing of T. That, and everything after it, is post-processing.

    G is drawn in float64, so it is not continuous, and integers that cannot come out, or come out
    too often, would tell T (Mironov, CCS 2012). One draw of a standard normal is a multiple of at
    most 2^-50 up to 3.7 (a ziggurat scales integers of 52 bits), and coarser further out, where it
    is a logarithm: at 6.5, which one in 10^10 passes, of 2^-40. So

    - z·C is at most 2^40 steps of the grid, and draws lie h = 2^-10 steps apart or less;
    - G is z·C·(N1 + N2)/√2 of two draws (Holohan, Braghin, ESORICS 2021, arXiv:2107.10138): where
      one is coarse, the other fills the gaps;
    - it is rounded by V. To the nearest, one draw in 7,000 would be half-way and go to the even
      integer, which shows over 10^8 coordinates; with V none is half-way. An integer's probability
      is the draws near it under a triangle two steps wide, which misses the triangle's integral by
      no more than about h² = 2^-20 of it. V adds at most 1/4 to a variance of up to 2^80.

    Where z·C is at most 2^21 steps of the grid, as it is in training, one draw N1 is enough: of its
    values there are 2^29 in a step up to 3.7 and 2^19 up to 6.5, so that h is 2^-19 at most, and an
    integer misses its probability by 2^-38 of it. Further out a ziggurat's values, logarithms of 53
    random bits, stand e^(3.65·(x − 6.5)) times as far apart: h reaches 2^-10 at 8.2, which one draw
    in 10^15 passes. (:class:`hanse.privacy.secret.Secret` multiplies a radius by a cosine, of which
    there are 2^53 for each radius.)
    """

    noise_multiplier: float

    name: ClassVar[str] = "gaussian_noise"
    kind: ClassVar[Kind] = "noise"

    def __post_init__(self) -> None:
        """Refuse a multiplier outside what the integers of a sum have room for."""
        if not 0 < self.noise_multiplier <= LARGEST_MULTIPLIER:
            raise PipelineError(
                f"{self}: the noise multiplier is not in (0, {LARGEST_MULTIPLIER:g}]",
                hint="give noise_multiplier around 1; more noise gives more privacy",
            )

    def check(self, facts: Facts) -> Facts:
        """Refuse what would make the claim false; else return ``facts`` with the noise."""
        check_sound(self, facts)
        if facts.beside * self.noise_multiplier**2 >= 1:
            raise PipelineError(
                f"{self}: what is noised beside the total takes all of the privacy",
                hint="put more noise there (adaptive_clip: bit_noise), or less here",
            )
        return replace(facts, noise_multiplier=self.noise_multiplier, unit="client")

    def noise(self, size: int, exponent: int, place: Place) -> Integers:
        """Return the Gaussian on the grid of the sum, rounded up or down at random."""
        facts = replace(place.facts, noise_multiplier=self.noise_multiplier)
        stddev = facts.total_multiplier * facts.l2
        return rounded(size, stddev * 2.0**exponent, place.stream("noise")).astype(np.int64)

    def noise_on(self, scalar: Scalar, place: Place) -> Integers:
        """Return the Gaussian on a sum of whole numbers, rounded up or down at random."""
        drawn = rounded(scalar.size, scalar.noise, place.stream(f"noise on {scalar.name}"))
        return drawn.astype(np.int64)


def check_sound(step: Step, facts: Facts) -> None:
    """Raise PipelineError if noise of ``step`` on shares like these would promise nothing."""
    if not facts.capped:
        raise PipelineError(
            f"{step} gives no privacy: the weights before it have no cap",
            hint='give the weight a cap: Weight(by="examples", cap=300)',
        )
    if math.isinf(facts.l2):
        raise PipelineError(
            f"{step} gives no privacy: the updates it protects have no L2 bound",
            hint="put Clip(norm=...) before it",
        )
    if facts.denominator != "public":
        raise PipelineError(
            f"{step} gives no privacy: the total is divided by the weights that were observed,"
            " which tell who took part",
            hint="give the weight a public denominator, in run units where a client at its "
            "cap counts 1: Weight(..., denominator=4.0)",
        )
    if facts.memory:
        raise PipelineError(
            f"{step} gives no privacy: a step before it keeps memory at the client, which "
            "has no bound",
            hint="leave the step with memory out",
        )


def rounded(
    size: int, stddev: float, chance: Chance, onto: NDArray[Any] | float = 0.0
) -> NDArray[np.float64]:
    """Return ``onto`` plus ``size`` draws of a Gaussian, rounded up or down at random to whole
    numbers.

    See :class:`GaussianNoise` for what that leaves of a continuous one.
    """
    found = np.empty(size)
    factor = stddev * math.sqrt(0.5) if stddev > COARSE else stddev
    for start in range(0, size, PIECE):
        part = slice(start, min(size, start + PIECE))
        drawn = chance.standard_normal(part.stop - start)
        if stddev > COARSE:
            drawn += chance.standard_normal(drawn.size)
        drawn *= factor
        drawn += chance.random(drawn.size)
        drawn += onto[part] if isinstance(onto, np.ndarray) else onto
        np.floor(drawn, out=found[part])
    return found
