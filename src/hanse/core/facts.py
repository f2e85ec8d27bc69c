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
    of the noise on the total over ``l2``; ``unit``: whose contribution that noise hides.
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
    unit: Literal["", "client"] = ""
    bits: int = 32
    cohort: int | None = None
    coordinates: int | None = None
    memory: bool = False

    @property
    def is_private(self) -> bool:
        """Whether noise stands behind the total, so that nothing else may leave in the clear."""
        return self.noise_multiplier > 0
