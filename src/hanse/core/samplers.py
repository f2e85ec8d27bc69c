"""Who takes part in a round. A sampler says how it samples: an accountant need not guess.

A client's draw is a hash of its name, the seed and the round (:func:`hanse.core.seeds.tickets`),
never its place in a list: that another client is there or not changes no draw of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Protocol

import numpy as np

from hanse.core import seeds
from hanse.core.canonical import Json
from hanse.core.dp_events import Event, FixedSizeSampled, Gaussian, PoissonSampled
from hanse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SamplingLaw:
    """How a cohort comes about: everyone, a fixed size without replacement, or Poisson."""

    kind: Literal["all", "fixed", "poisson"]
    rate: float


class Sampler(Protocol):
    """Draws the cohort of a round from the population."""

    name: ClassVar[str]

    def sample(self, population: Sequence[str], seed: int, round: int) -> tuple[str, ...]:
        """Return the ids of the round's cohort, sorted; ``population`` is sorted too."""
        ...

    def largest(self, population: int) -> int:
        """Return the largest cohort that can come about."""
        ...

    def law(self, population: int) -> SamplingLaw:
        """Return how clients are sampled."""
        ...

    def release(self, population: int, asked: int, noise_multiplier: float) -> Event:
        """Return what one round's noised sum tells of one client, to who does not know the cohort.

        ``asked``: how many clients a round asks at most, of whom not all need be counted.
        ``noise_multiplier``: the noise over the L2 bound C of one client's share.
        """
        ...

    def settings(self) -> dict[str, Json]:
        """Return the sampler as a table of a run file."""
        ...


@dataclass(frozen=True)
class All:
    """Every client, every round."""

    name: ClassVar[str] = "all"

    def sample(self, population: Sequence[str], seed: int, round: int) -> tuple[str, ...]:
        """Return everyone."""
        return tuple(sorted(population))

    def largest(self, population: int) -> int:
        """Return the size of the population."""
        return population

    def law(self, population: int) -> SamplingLaw:
        """Return ``all``."""
        return SamplingLaw("all", 1.0)

    def release(self, population: int, asked: int, noise_multiplier: float) -> Event:
        """Return the noise as it is: a client's share is there or zero, and moves the sum by C."""
        return Gaussian(noise_multiplier)

    def settings(self) -> dict[str, Json]:
        """Return the sampler as a table of a run file."""
        return {"name": self.name}


@dataclass(frozen=True)
class FixedSize:
    """``size`` clients, uniformly without replacement, anew each round."""

    size: int

    name: ClassVar[str] = "fixed"

    def __post_init__(self) -> None:
        """Refuse an empty cohort."""
        if not isinstance(self.size, int) or self.size < 1:  # pyright: ignore[reportUnnecessaryIsInstance] -- users pass anything
            raise ConfigError(f"a cohort of {self.size} clients is empty", hint="give size >= 1")

    def sample(self, population: Sequence[str], seed: int, round: int) -> tuple[str, ...]:
        """Return the ``size`` clients of the smallest tickets; ConfigError if there are fewer."""
        self.largest(len(population))
        drawn = seeds.ticket_pieces(population, seed, round, "cohort")
        tickets, places = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        for first, fresh in drawn:
            tickets = np.concatenate([tickets, fresh])
            places = np.concatenate([places, np.arange(first, first + len(fresh))])
            if len(tickets) > self.size:
                best = np.argpartition(tickets, self.size - 1)[: self.size]
                tickets, places = tickets[best], places[best]
        return tuple(sorted(population[int(place)] for place in places))

    def largest(self, population: int) -> int:
        """Return ``size``; ConfigError if the population is smaller."""
        if self.size > population:
            raise ConfigError(
                f"a cohort of {self.size} is larger than the population of {population}",
                hint=f"set the sampler's size to {population} or less",
            )
        return self.size

    def law(self, population: int) -> SamplingLaw:
        """Return ``fixed`` at size/population."""
        return SamplingLaw("fixed", self.largest(population) / population)

    def release(self, population: int, asked: int, noise_multiplier: float) -> Event:
        """Return a draw without replacement of all who are asked: with over-selection, who is fast
        is counted whenever it is asked. One client fewer would let another in, so neighbours have
        one client replaced, which moves the sum by up to 2C: the accountant knows.
        """
        return FixedSizeSampled(population, asked, Gaussian(noise_multiplier))

    def settings(self) -> dict[str, Json]:
        """Return the sampler as a table of a run file."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Poisson:
    """Each client by itself with probability ``rate``; a cohort may be empty."""

    rate: float

    name: ClassVar[str] = "poisson"

    def __post_init__(self) -> None:
        """Refuse a rate that is no probability."""
        if not (math.isfinite(self.rate) and 0 < self.rate <= 1):
            raise ConfigError(f"rate = {self.rate} is no probability", hint="give 0 < rate <= 1")

    def sample(self, population: Sequence[str], seed: int, round: int) -> tuple[str, ...]:
        """Return the clients whose ticket, as a number in [0, 1), is below ``rate``."""
        picked = list[int]()
        for first, tickets in seeds.ticket_pieces(population, seed, round, "cohort"):
            drawn = (tickets >> np.uint64(11)) * 2.0**-53
            picked += (first + np.flatnonzero(drawn < self.rate)).tolist()
        return tuple(sorted(population[place] for place in picked))

    def largest(self, population: int) -> int:
        """Return the size of the population."""
        return population

    def law(self, population: int) -> SamplingLaw:
        """Return ``poisson`` at ``rate``."""
        return SamplingLaw("poisson", self.rate)

    def release(self, population: int, asked: int, noise_multiplier: float) -> Event:
        """Return a draw of each client by itself: one more or less changes no other's draw."""
        return PoissonSampled(self.rate, Gaussian(noise_multiplier))

    def settings(self) -> dict[str, Json]:
        """Return the sampler as a table of a run file."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}
