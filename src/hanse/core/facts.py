"""What is known of any one client's share at a point of the pipeline.

Facts are claims, and each step answers for its own: :meth:`hanse.core.step.Step.check` takes the
facts before it and returns the facts after it, or refuses. Nothing here is measured.
"""

import math
from dataclasses import dataclass
from typing import Literal

from hanse.core.dp_events import Skellam


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """Noise that is enough only in a sum: each client adds a share of it to its own share.

    ``l1`` and ``l2`` bound the integers before it, ``variance`` is that of one client's noise in
    each, all in steps of the grid. At least ``honest`` shares of noise are in every sum that nobody
    can take off, beside those of ``colluding`` clients, who leave theirs out or tell it.
    """

    l1: float
    l2: float
    variance: float
    honest: int
    colluding: int

    def told_by(self, shares: int) -> Skellam:
        """Return what a sum tells of one client to who lacks ``shares`` shares of the noise."""
        return Skellam(self.l1, self.l2, shares * self.variance)


@dataclass(frozen=True, slots=True)
class Facts:
    """Claims about one client's share as it stands on the wire at this point.

    ``l2``, ``linf``: its norms are at most this, in units of the wire: of the model, until a step
    scales. In a ``domain`` of integers, ``scale`` steps of 1 are a unit of the model, ``l1`` is a
    bound in them too, and ``unrounded`` the L2 bound before they were rounded.
    ``max_weight``: the largest factor by which a weight multiplies it; ``capped`` says that the
    factor is at most 1 by a cap and not merely by the limit of exact sums. ``denominator``: what
    the total is divided by: the ``count`` of clients, their ``observed`` weights, or a ``public``
    number. ``visible``: whether the coordinator sees ``each`` update or only their ``sum``.
    ``noise_multiplier``: standard deviation of the noise on the total over ``l2`` that is
    accounted; ``beside``: 1/m² summed over what is noised beside the total, with multiplier m, and
    accounted with it; ``unit``: whose contribution that noise hides. ``local_multiplier``: the same
    of the noise that a client adds to its own share, over the L2 bound that the share had before;
    ``shared``: such noise where it is enough only in a sum. ``example_multiplier``: the same of the
    noise in each step of a client's training, over the bound of one example's gradient.
    ``bits`` per coordinate on the wire. ``cohort``: the largest number of clients in one sum, and
    ``coordinates`` the length of the vector here; both None until a run binds the pipeline, and 0
    coordinates where its model is not known.
    ``memory``: a step keeps something at the client between rounds.
    """

    l2: float = math.inf
    linf: float = math.inf
    max_weight: float = 1.0
    capped: bool = True
    denominator: Literal["count", "observed", "public"] = "count"
    domain: Literal["reals", "integers"] = "reals"
    scale: float = 1.0
    l1: float = math.inf
    unrounded: float = 0.0
    visible: Literal["each", "sum"] = "each"
    noise_multiplier: float = 0.0
    beside: float = 0.0
    local_multiplier: float = 0.0
    shared: SharedNoise | None = None
    example_multiplier: float = 0.0
    unit: Literal["", "client"] = ""
    bits: int = 32
    cohort: int | None = None
    coordinates: int | None = None
    memory: bool = False

    @property
    def is_private(self) -> bool:
        """Whether there is noise on total or shares, so that who took part may not be told."""
        return self.noise_multiplier > 0 or self.is_noised_by_clients

    @property
    def is_noised_by_clients(self) -> bool:
        """Whether each client adds noise, so that a share has no bound of its own."""
        return self.local_multiplier > 0 or self.shared is not None

    @property
    def keeps_counts(self) -> bool:
        """Whether some noise hides data, and nothing exact that follows from them may leave.

        Where it hides single examples, what is computed of the update may: it is noised already.
        """
        return self.is_private or self.example_multiplier > 0

    @property
    def total_multiplier(self) -> float:
        """Standard deviation of the noise in each coordinate of the total, over ``l2``.

        Gaussian releases of multipliers m_i at once are one of multiplier z, 1/z² = Σ 1/m_i²: their
        sensitivities add as squares once each is divided by its noise.
        """
        return self.noise_multiplier / math.sqrt(1 - self.beside * self.noise_multiplier**2)
