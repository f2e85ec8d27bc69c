"""Noise in shares: each client adds a little, and only their sum has enough (distributed DP).

Agarwal, Kairouz, Liu, "The Skellam mechanism for differentially private federated learning",
arXiv:2110.04995. Behind a secure sum, of which the coordinator sees nothing but the total, it
would protect against the coordinator too; sums are plain here, so the coordinator sees each share.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np

from hanse.core.facts import Facts, SharedNoise
from hanse.core.step import Kind, Place, Step, Total, Update
from hanse.errors import PipelineError
from hanse.privacy.gaussian import LARGEST_MULTIPLIER, check_sound
from hanse.privacy.skellam_draws import largest, parts, skellam

LEAST_MULTIPLIER: Final = 0.01
MOST_CLIENTS: Final = 2**20
MOST_PARTS: Final = 256
"""Draws that are added up for one number, at most."""


@dataclass(frozen=True)
class SkellamNoise(Step):
    """At the client, add Skellam noise to each coordinate of its share, such that the noise of
    ``honest`` clients has a standard deviation of ``noise_multiplier`` times the L2 bound C of one
    share: it protects against those who see sums or models.

    Before it, a share is integers (:class:`ScaledRound`), within D1 and D2 in L1 and L2 norm, C
    being D steps. A client adds to each the difference of two Poisson variables of mean σ²/2 each,
    σ² = (z·D)²/``honest``. Such variables add up to such variables, so n clients' noise is the same
    distribution of variance n·σ². Neighbours are a client's data and none, where its share is zero
    and its noise remains: that moves the integers by at most D1 and D2. A round is one Skellam
    mechanism, of Rényi divergence at integer orders α, for noise of variance µ that the observer
    knows nothing of,

        α·D2²/(2µ) + min{((2α − 1)·D2² + 6·D1)/(4µ²), 3·D1/(2µ)}

    at most (their bound for integer orders), and what the observer sees beyond that is noise that
    depends on nobody's data. Who is asked, and who reports, is not hidden, so sampling gains
    nothing. µ is

    - ``honest``·σ² toward who sees totals or models and no noise: at least ``honest`` +
      ``colluding`` shares of noise are in each total, of which those of ``colluding`` clients may
      be missing, or known to the observer;
    - the same toward a site, which knows its own noise, if ``colluding`` counts one; else one σ²
      less;
    - σ² toward the coordinator, which sees each share under its own noise.

    A total of fewer than ``honest`` + ``colluding`` reports has noise for the missing ones from the
    coordinator: so no round is abandoned, and none has less noise than is accounted. One of more
    has more noise than that, by n/``honest``. An update that is not finite is a zero, and is sent
    as noise.

    The draws are not exact, but so near (:mod:`hanse.privacy.skellam_draws`) that a millionth of δ
    pays for it: see :mod:`hanse.privacy.accounting`.
    """

    noise_multiplier: float
    honest: int
    colluding: int = 0

    name: ClassVar[str] = "skellam_noise"
    kind: ClassVar[Kind] = "noise"

    def __post_init__(self) -> None:
        """Refuse a multiplier outside what integers have room for, and numbers of no clients."""
        if not LEAST_MULTIPLIER <= self.noise_multiplier <= LARGEST_MULTIPLIER:
            raise PipelineError(
                f"{self}: the noise multiplier is not in [{LEAST_MULTIPLIER:g}, "
                f"{LARGEST_MULTIPLIER:g}]",
                hint="give noise_multiplier around 1; more noise gives more privacy",
            )
        for name, least in (("honest", 1), ("colluding", 0)):
            value = getattr(self, name)
            if not least <= value <= MOST_CLIENTS or value != int(value):
                raise PipelineError(
                    f"{self}: {name} is no number of clients",
                    hint="of m clients that report at least, of whom c are not to be trusted, give "
                    "honest = m - c and colluding = c",
                )
            object.__setattr__(self, name, int(value))

    @property
    def least(self) -> int:
        """How many shares of noise are in each total, at least."""
        return self.honest + self.colluding

    def check(self, facts: Facts) -> Facts:
        """Refuse what would make the claim false; else return ``facts`` with the noise."""
        check_sound(self, facts)
        self._check_integers(facts)
        shared = SharedNoise(facts.l1, facts.l2, self._variance(facts), self.honest, self.colluding)
        self._check_cohort(facts, shared.variance)
        return replace(
            facts,
            l2=math.inf,
            l1=math.inf,
            linf=math.floor(facts.linf) + largest(shared.variance),
            shared=shared,
            unit="client",
        )

    def _variance(self, facts: Facts) -> float:
        return (self.noise_multiplier * facts.unrounded) ** 2 / self.honest

    def _check_integers(self, facts: Facts) -> None:
        if facts.domain != "integers" or math.isinf(facts.l1):
            raise PipelineError(
                f"{self} is whole numbers, and the shares it joins are not",
                hint="put scaled_round, with bits = 14, before it",
            )
        if facts.beside:
            raise PipelineError(
                f"{self}: the bits of an adaptive clip would leave without noise beside the share",
                hint="use clip, or gaussian_noise at the coordinator",
            )

    def _check_cohort(self, facts: Facts, variance: float) -> None:
        """Refuse, once a run binds the step, more clients than it asks, and too wide noise."""
        if facts.cohort is None:
            return
        if self.least > facts.cohort:
            raise PipelineError(
                f"{self} counts on {self.least} clients, and a round asks {facts.cohort} at most",
                hint=f"give honest + colluding = {facts.cohort} or less",
            )
        if parts(variance) > MOST_PARTS:
            raise PipelineError(
                f"{self}: a standard deviation of {math.sqrt(variance):.0f} steps is too wide",
                hint="give scaled_round fewer bits, or lower the noise multiplier",
            )

    def encode(self, update: Update, place: Place) -> Update:
        """Return the noised share."""
        vector = update.vector
        drawn = skellam(vector.size, self._variance(place.facts), place.stream("noise"))
        noised = vector.astype(np.float64) * update.scale + drawn
        return replace(update, vector=noised.astype(vector.dtype), scale=1.0)

    def decode(self, total: Total, place: Place) -> Total:
        """Add the noise of those who are missing; in place: the total is spent."""
        variance, chance = self._variance(place.facts), place.stream("noise")
        for _ in range(self.least - total.reports):
            np.add(total.vector, skellam(total.vector.size, variance, chance), out=total.vector)
        return total
