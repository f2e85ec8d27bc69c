"""What is known of any one client's share at a point of the pipeline.

Facts are claims, and each step answers for its own: :meth:`hanse.core.step.Step.check` takes the
facts before it and returns the facts after it, or refuses. Nothing here is measured.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Facts:
    """Claims about one client's share as it stands on the wire at this point, in model units.

    ``l2``, ``linf``: its norms are at most this. ``max_weight``: the largest factor by which a
    weight multiplies it; ``capped`` says that the factor is at most 1 by a cap and not merely by
    the limit of exact sums. ``denominator``: what the total is divided by: the ``count`` of
    clients, their ``observed`` weights, or a ``public`` number. ``visible``: whether the
    coordinator sees ``each`` update or only their ``sum``. ``noise_multiplier``: standard deviation
    of the noise on the total over ``l2`` that is accounted; ``beside``: 1/m² summed over what is
    noised beside the total, with multiplier m, and accounted with it; ``unit``: whose contribution
    that noise hides. ``local_multiplier``: the same of the noise that a client adds to its own
    share, over the L2 bound that the share had before. ``example_multiplier``: the same of the
    noise in each step of a client's training, over the bound of one example's gradient.
    ``bits`` per coordinate on the wire. ``cohort``: the largest number of clients in one sum, and
    ``coordinates`` the length of the vector; both None until a run binds the pipeline.
    ``memory``: a step keeps something at the client between rounds.
    """

    l2: float = math.inf
    linf: float = math.inf
    max_weight: float = 1.0
    capped: bool = True
    denominator: Literal["count", "observed", "public"] = "count"
    domain: Literal["reals", "integers"] = "reals"
    visible: Literal["each", "sum"] = "each"
    noise_multiplier: float = 0.0
    beside: float = 0.0
    local_multiplier: float = 0.0
    example_multiplier: float = 0.0
    unit: Literal["", "client"] = ""
    bits: int = 32
    cohort: int | None = None
    coordinates: int | None = None
    memory: bool = False

    @property
    def is_private(self) -> bool:
        """Whether there is noise on total or shares, so that who took part may not be told."""
        return self.noise_multiplier > 0 or self.local_multiplier > 0

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
