"""A clip norm that follows the updates (Andrew, Thakkar, McMahan, Ramaswamy, arXiv:1905.03871).

Each client also says by one bit whether its update is within the norm; the norm moves toward the
quantile of the lengths that was asked for. The bit is a release like the update: under noise it is
noised too, and paid for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np

from hanse.core.canonical import Json
from hanse.core.facts import Facts
from hanse.core.step import Factor, Kind, Memory, Place, Scalar, Step, Total, Update, Updates
from hanse.errors import PipelineError
from hanse.privacy.clip import ROOM

LARGEST: Final = 2.0**60
BELOW: Final = "below"
SHARE_OF_COHORT: Final = 20.0
"""A cohort of m has noise of m/20 on its count of bits by default, as in the paper."""


@dataclass(frozen=True)
class AdaptiveClip(Step):
    """At the client, shorten an update whose L2 norm exceeds a norm that follows the lengths of
    updates: it starts at ``initial`` and moves to where a part of ``quantile`` is shorter.

    The server announces the norm C of the round. A client sends u·min(1, C/‖u‖)/C, of length 1 at
    most whatever C is, so the bound of a share, its grid and the noise do not move with C, and the
    server multiplies the total by C. The client's bit, 1 within C and −1 beyond, moves the sum of
    bits by at most 1 when the client is added or removed; with b of ``cohort`` m bits within, C
    becomes C·exp(−``lr``·(b/m − ``quantile``)) (Algorithm 1).

    Beside noise, ``cohort`` is public and the sum of bits has Gaussian noise of standard deviation
    ``bit_noise`` in the paper's unit of whole bits (m/20 by default), which is 2·``bit_noise`` for
    bits of ±1. Vector and bits are one Gaussian mechanism over sensitivities of C and 1: with the
    multiplier z that is accounted, the vector's is z_Δ, 1/z² = 1/z_Δ² + 1/(2·``bit_noise``)² (the
    paper's Theorem 1, solved for z_Δ), which is more noise than z, not more privacy.
    """

    initial: float = 1.0
    quantile: float = 0.5
    lr: float = 0.2
    cohort: float | None = None
    bit_noise: float | None = None

    name: ClassVar[str] = "adaptive_clip"
    kind: ClassVar[Kind] = "bound"
    has_state: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not 1 / LARGEST <= self.initial <= LARGEST:
            raise PipelineError(f"{self} starts at no norm", hint="give initial around 1")
        if not 0 < self.quantile < 1:
            raise PipelineError(
                f"{self}: a quantile is between 0 and 1", hint="give quantile = 0.5 for the median"
            )
        if not 0 < self.lr <= 5:
            raise PipelineError(f"{self}: the norm would not follow", hint="give lr around 0.2")
        if self.cohort is not None and not 1 <= self.cohort < math.inf:
            raise PipelineError(
                f"{self}: so many clients are no cohort", hint="give cohort, about what is expected"
            )
        if self.bit_noise is not None and not (self.cohort and 0 < self.bit_noise < math.inf):
            raise PipelineError(
                f"{self}: noise on the bits is for a public cohort, and positive",
                hint="give cohort = the number of clients expected, and bit_noise = cohort/20",
            )

    @property
    def stddev(self) -> float:
        """The noise on the sum of bits of ±1, where the pipeline has noise; 0 without a cohort."""
        if self.cohort is None:
            return 0.0
        return 2 * (self.bit_noise or self.cohort / SHARE_OF_COHORT)

    def check(self, facts: Facts) -> Facts:
        """Return ``facts`` with both norms at most 1, and the bits that noise is needed for."""
        beside = facts.beside + (1 / self.stddev**2 if self.stddev else 0.0)
        return replace(facts, l2=1.0, linf=1.0, beside=beside)

    def scalars(self) -> tuple[Scalar, ...]:
        """Return the schema of the bit."""
        return (Scalar(BELOW, 1, signed=True, noise=self.stddev),)

    def announce(self, state: Memory) -> Json:
        """Return the round's norm."""
        return self._norm(state)

    def _norm(self, state: Memory) -> float:
        return float(state["norm"][0]) if "norm" in state else float(self.initial)

    def encode(self, update: Update, place: Place) -> Update:
        """Divide by the norm, and lower the pending scale further where the update is longer."""
        norm = self._told(place.announced)
        length = update.length * update.scale / norm
        is_below, target = length <= 1, 1 - ROOM
        scale = update.scale / norm * (1.0 if length <= target else target / length)
        return replace(update, scale=scale, counts={**update.counts, BELOW: 1 if is_below else -1})

    def encode_many(self, updates: Updates, announced: Json) -> Updates:
        """Divide by the norm, and lower the pending scales further where updates are longer."""
        norm = self._told(announced)
        lengths, target = updates.lengths * updates.scales / norm, 1 - ROOM
        factors = np.divide(target, lengths, out=np.ones_like(lengths), where=lengths > target)
        bits = np.where(lengths <= 1, 1, -1)
        scales = updates.scales / norm * factors
        return replace(updates, scales=scales, counts={**updates.counts, BELOW: bits})

    def shortens(self, before: Factor, after: Factor, counts: Mapping[str, Any]) -> Any:
        """Return what the bit says: a pending factor may fall for the norm's sake alone."""
        return counts[BELOW] < 0

    def decode(self, total: Total, place: Place) -> tuple[Total, Memory]:
        """Multiply by the norm that the round had, and move it."""
        norm = self._norm(place.kept)
        clients = self.cohort or total.reports
        below = (float(total.counts[BELOW][0]) / clients + 1) / 2 if clients else self.quantile
        moved = norm * math.exp(-self.lr * (below - self.quantile))
        fresh = min(max(moved, 1 / LARGEST), LARGEST)
        return replace(total, vector=total.vector * norm), {"norm": np.array([fresh])}

    def _told(self, announced: object) -> float:
        told = announced if isinstance(announced, int | float) else math.nan
        if not 1 / LARGEST <= told <= LARGEST:
            raise PipelineError(
                f"{self}: the coordinator announced {announced!r}, which is no norm",
                hint="both ends need the same version of Hanse",
            )
        return float(told)
