"""The reducer that streams: integers in, integers out, constant memory, any arrival order."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hanse.core.accelerate import kernels
from hanse.core.facts import Facts
from hanse.core.layout import Vector
from hanse.core.step import Integers, Kind, Step
from hanse.core.sums import UNBOUNDED, Grid
from hanse.errors import PipelineError

UNBOUNDED_AND_UNCAPPED = 2.0**22
NOISE_STEPS = 40
"""log2 of the most steps of the grid in a standard deviation of noise."""
EXTRA, UNCAPPED_EXTRA = 2.0**24, 2.0**34
"""Largest |coordinate| of a further segment times its weight, with a cap and without."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one client sends: a vector with its factor, exact integers, further segments.

    On the wire the vector is ``on_wire(vector, scale)`` with a scale of 1; in one process the
    factor stays pending, and the sum applies it in its one pass, with the same bits. ``length`` (of
    the vector, before its factor) and ``was_bounded`` (a clip fired) stay with the client.
    """

    vector: Vector
    scale: float
    scalars: Integers
    extras: Mapping[str, Vector] = field(default_factory=dict[str, Vector])
    length: float = 0.0
    was_bounded: bool = False


@dataclass(frozen=True, slots=True)
class Shares:
    """What K clients send: :class:`Share` with an axis of K in front, and no further segments."""

    vectors: Vector
    scales: NDArray[np.float64]
    scalars: Integers
    lengths: NDArray[np.float64]
    were_bounded: NDArray[np.bool_]


@dataclass(frozen=True)
class Sum(Step):
    """Add shares exactly, as integers: the order of arrival changes no bit.

    The integers are on a grid (:mod:`hanse.core.sums`). ``limit`` is the largest |coordinate| of a
    share where no bound gives one (default 2^16, or 2^22 where weights have no cap); a share
    beyond it is refused like one with a NaN.
    """

    limit: float | None = None

    name: ClassVar[str] = "sum"
    kind: ClassVar[Kind] = "reducer"

    def __post_init__(self) -> None:
        """Refuse a limit that is no number of a share."""
        if self.limit is not None and not 2.0**-64 <= self.limit <= 2.0**64:
            raise PipelineError(f"{self}: no such limit", hint="give a limit around 1e4, or none")

    def largest(self, facts: Facts) -> float:
        """Return L, the largest |coordinate| of a share that this sum takes."""
        free = UNBOUNDED if facts.capped else UNBOUNDED_AND_UNCAPPED
        return min(facts.linf, self.limit or (free if np.isinf(facts.linf) else np.inf))

    def check(self, facts: Facts) -> Facts:
        """Return ``facts`` with the limit that the sum holds.

        PipelineError for a limit that would refuse a share by its share of the noise: the others'
        claim counts on it.
        """
        if facts.shared is not None and self.largest(facts) < facts.linf:
            raise PipelineError(
                f"{self} would refuse shares by their noise: they reach to {facts.linf:g}",
                hint="leave the limit out",
            )
        return replace(facts, linf=self.largest(facts))

    def grid(self, facts: Facts) -> Grid:
        """Return the grid for ``facts``, whose cohort a run has bound.

        Integers are their own. Under noise it is so coarse that z·C is at most 2^40 steps: see
        :class:`hanse.privacy.gaussian.GaussianNoise`.
        """
        if facts.domain == "integers":
            return Grid(0, self.largest(facts), facts.cohort or 1)
        grid = Grid.choose(self.largest(facts), facts.cohort or 1)
        if not facts.noise_multiplier:
            return grid
        stddev = math.log2(facts.total_multiplier) + math.log2(facts.l2)
        return grid.coarsened(math.floor(NOISE_STEPS - stddev))


@dataclass(slots=True)
class Accumulator:
    """A running exact sum. Mutable on purpose: it is the one big array of a round."""

    vector: Integers
    scalars: Integers
    extras: dict[str, Integers]
    reports: int = 0
    is_spent: bool = False

    def spend(self) -> None:
        """Give the memory to what is made of it; ValueError for a second time."""
        self._check_unspent()
        self.is_spent = True

    def _check_unspent(self) -> None:
        if self.is_spent:
            raise ValueError("this sum was decoded already")

    def add(self, share: Share, grids: Mapping[str, Grid]) -> None:
        """Add a share that has been checked against ``grids``; ValueError if the sum is spent."""
        self._check_unspent()
        add = kernels().accumulate
        add(self.vector, share.vector, share.scale, grids["model"].exponent)
        for name, vector in share.extras.items():
            add(self.extras[name], vector, 1.0, grids[name].exponent)
        self.scalars += share.scalars
        self.reports += 1

    def add_many(self, shares: Shares, grids: Mapping[str, Grid]) -> None:
        """Add many shares, as :meth:`add` does each."""
        self._check_unspent()
        exponent = grids["model"].exponent
        kernels().accumulate_many(self.vector, shares.vectors, shares.scales, exponent)
        self.scalars += shares.scalars.sum(axis=0)
        self.reports += len(shares.scales)

    def merge(self, other: "Accumulator") -> None:
        """Add another running sum; integers do not mind the order. ValueError if one is spent."""
        self._check_unspent()
        other._check_unspent()
        self.vector += other.vector
        self.scalars += other.scalars
        for name, vector in other.extras.items():
            self.extras[name] += vector
        self.reports += other.reports

    def clear(self) -> None:
        """Start again from zero, in place."""
        self.reports, self.is_spent = 0, False
        for array in (self.vector, self.scalars, *self.extras.values()):
            array.fill(0)
