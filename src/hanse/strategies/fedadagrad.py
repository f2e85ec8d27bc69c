"""FedAdagrad: Adagrad at the server (Reddi et al., arXiv:2003.00295)."""

from hanse.core.samplers import Sampler
from hanse.strategies.fedavg import EVERYONE
from hanse.strategies.server import Adagrad
from hanse.strategies.strategy import Strategy


def fedadagrad(
    *,
    server_lr: float = 0.1,
    beta1: float = 0.0,
    tau: float = 1e-3,
    initial_accumulator: float | None = None,
    sampler: Sampler = EVERYONE,
) -> Strategy:
    """Return FedAdagrad: m ← beta1·m + (1 − beta1)·Δ; v ← v + Δ²; x ← x + server_lr·m/(√v + tau).

    Algorithm 2 of arXiv:2003.00295, per coordinate, without bias correction. m starts at 0, v at
    ``initial_accumulator``: None stands for tau², the least that the algorithm takes; 0 is common
    elsewhere. ``beta1`` 0 and ``tau`` 1e-3 are those of the paper's experiments. It tunes
    ``server_lr`` for each task; 0.1 is ours, more than for FedAdam since steps shrink as 1/√t.

    Raises ConfigError if ``server_lr`` or ``tau`` is not positive, ``beta1`` outside [0, 1), or
    ``initial_accumulator`` negative.
    """
    first = tau * tau if initial_accumulator is None else initial_accumulator
    server = Adagrad(lr=server_lr, beta1=beta1, tau=tau, initial_accumulator=first)
    return Strategy("fedadagrad", server, sampler)
