"""FedYogi: Yogi at the server (Reddi et al., arXiv:2003.00295)."""

from hanse.core.samplers import Sampler
from hanse.strategies.fedavg import EVERYONE
from hanse.strategies.server import Yogi
from hanse.strategies.strategy import Strategy


def fedyogi(
    *,
    server_lr: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
    initial_accumulator: float | None = None,
    sampler: Sampler = EVERYONE,
) -> Strategy:
    """Return FedYogi: m ← beta1·m + (1 − beta1)·Δ; x ← x + server_lr·m/(√v + tau), where
    v ← v − (1 − beta2)·Δ²·sign(v − Δ²).

    Algorithm 2 of arXiv:2003.00295, per coordinate, without bias correction. m starts at 0, v at
    ``initial_accumulator``: None stands for tau², the least that the algorithm takes; 0 is common
    elsewhere. ``beta1`` 0.9, ``beta2`` 0.99 and ``tau`` 1e-3 are those of the paper's experiments.
    It tunes ``server_lr`` for each task; 0.01 is ours, about what a coordinate moves per round.

    Raises ConfigError if ``server_lr`` or ``tau`` is not positive, a beta outside [0, 1), or
    ``initial_accumulator`` negative.
    """
    first = tau * tau if initial_accumulator is None else initial_accumulator
    server = Yogi(lr=server_lr, beta1=beta1, beta2=beta2, tau=tau, initial_accumulator=first)
    return Strategy("fedyogi", server, sampler)
