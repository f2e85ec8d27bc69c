"""FedAvgM: FedAvg with momentum at the server (Hsu, Qi, Brown, arXiv:1909.06335)."""

from hanse.core.samplers import Sampler
from hanse.strategies.fedavg import EVERYONE
from hanse.strategies.server import Momentum
from hanse.strategies.strategy import Strategy


def fedavgm(
    *, momentum: float = 0.9, server_lr: float = 1.0, sampler: Sampler = EVERYONE
) -> Strategy:
    """Return FedAvgM: v ← momentum·v + Δ; x ← x + server_lr·v.

    arXiv:1909.06335 states it in the text; it is FedOpt (arXiv:2003.00295, Algorithm 1) with SGD
    and momentum at the server. ``momentum`` = 0 is FedAvg to the bit. Defaults: 0.9 as in the
    experiments of arXiv:2003.00295, ``server_lr`` 1 as in arXiv:1909.06335. In the long run a
    constant Δ moves the model by server_lr/(1 − momentum)·Δ per round.

    Raises ConfigError if ``momentum`` is outside [0, 1), or ``server_lr`` not positive.
    """
    return Strategy("fedavgm", Momentum(server_lr, momentum), sampler)
