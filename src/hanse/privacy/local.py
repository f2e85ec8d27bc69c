"""Noise at the client: it protects against the coordinator too (local differential privacy).

Kasiviswanathan et al., SIAM J. Comput. 40(3), 2011; for updates, Geyer, Klein, Nabi,
arXiv:1712.07557, with each client's own noise in the place of the server's.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np

from hanse.core.facts import Facts
from hanse.core.layout import Vector
from hanse.core.step import Kind, Place, Step, Update
from hanse.errors import PipelineError
from hanse.privacy.gaussian import LARGEST_MULTIPLIER, check_sound, rounded

LEAST_MULTIPLIER: Final = 0.01
STEPS: Final = 12
"""log2 of how many steps of the share's own grid a standard deviation has, about."""
TAIL: Final = 12.0
"""Standard deviations that a share has room for: one draw in 10^32 is beyond."""


@dataclass(frozen=True)
class LocalGaussianNoise(Step):
    """At the client, add Gaussian noise to each coordinate of its share, of standard deviation
    ``noise_multiplier`` times the L2 bound C: it protects against everybody, the coordinator too.

    Neighbours are a client's data and none, whose share is zero: that moves the share by at most C.
    Each round in which a client reports is one Gaussian mechanism, against whoever sees the share;
    who sees only sums or models sees a function of it. The mean of n shares has noise of z·C/√n.

    A share T, real numbers, leaves as ⌊T·2^e + G + V⌋/2^e, with G Gaussian and V uniform in [0, 1):
    a function of T + G and of a V that knows nothing of T, so that what leaves tells no more than
    T + G (see :class:`hanse.privacy.GaussianNoise` for how near G is to a continuous one). T is not
    rounded before, which would move it further. The three are added in float64, which has 2^-28
    steps or less there: an integer's probability can be off by so much of itself. e is such that
    z·C is 2^12 to 2^13 steps: then a share is whole numbers below 2^24, which float32 has exactly,
    up to 12 standard deviations beyond C. A share beyond that is refused, as out of range.
    """

    noise_multiplier: float

    name: ClassVar[str] = "local_gaussian_noise"
    kind: ClassVar[Kind] = "noise"

    def __post_init__(self) -> None:
        """Refuse a multiplier outside what a share's numbers have room for."""
        if not LEAST_MULTIPLIER <= self.noise_multiplier <= LARGEST_MULTIPLIER:
            raise PipelineError(
                f"{self}: the noise multiplier is not in [{LEAST_MULTIPLIER:g}, "
                f"{LARGEST_MULTIPLIER:g}]",
                hint="give noise_multiplier around 1; more noise gives more privacy",
            )

    def check(self, facts: Facts) -> Facts:
        """Refuse what would make the claim false; else return ``facts`` with the noise."""
        check_sound(self, facts)
        if facts.beside:
            raise PipelineError(
                f"{self}: the bits of an adaptive clip would leave without noise beside the share",
                hint="use clip, or gaussian_noise at the coordinator",
            )
        largest = facts.linf + TAIL * self.noise_multiplier * facts.l2
        return replace(
            facts,
            l2=math.inf,
            linf=largest,
            l1=math.inf,
            domain="reals",
            local_multiplier=self.noise_multiplier,
            unit="client",
        )

    def encode(self, update: Update, place: Place) -> Update:
        """Return the noised share, no factor pending."""
        vector = update.vector
        stddev = self.noise_multiplier * place.facts.l2
        exponent = STEPS - math.floor(math.log2(stddev))
        share = vector.astype(np.float64) * (update.scale * 2.0**exponent)
        drawn = rounded(vector.size, stddev * 2.0**exponent, place.stream("noise"), share)
        noised: Vector = (drawn * 2.0**-exponent).astype(vector.dtype)
        return replace(update, vector=noised, scale=1.0)
