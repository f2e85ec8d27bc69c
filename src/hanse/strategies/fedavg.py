"""FedAvg: the mean of what clients learnt is the next model (McMahan et al., arXiv:1602.05629)."""

from hanse.core.samplers import All, Sampler
from hanse.strategies.server import Sgd
from hanse.strategies.strategy import Strategy

EVERYONE: Sampler = All()
"""The default sampler of every strategy; one frozen value serves them all."""


def fedavg(*, server_lr: float = 1.0, sampler: Sampler = EVERYONE) -> Strategy:
    """Return FedAvg: x ← x + server_lr·Δ, with Δ the weighted mean of (local model − x).

    Algorithm 1 of arXiv:1602.05629. With ``server_lr`` 1, the paper's, x becomes the weighted mean
    of the local models. The weights are the pipeline's; the paper's are ``Weight(by="examples")``.
    Clients that differ pull the fixed point away from the optimum as they train longer.

    Raises ConfigError if ``server_lr`` is not positive.
    """
    return Strategy("fedavg", Sgd(server_lr), sampler)
