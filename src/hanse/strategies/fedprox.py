"""FedProx: FedAvg whose local steps are pulled back to the start (Li et al., arXiv:1812.06127)."""

from dataclasses import replace

from hanse.core.samplers import Sampler
from hanse.core.work import Proximal
from hanse.strategies.fedavg import EVERYONE, fedavg
from hanse.strategies.strategy import Strategy


def fedprox(*, mu: float, server_lr: float = 1.0, sampler: Sampler = EVERYONE) -> Strategy:
    """Return FedProx: clients minimise F_k(w) + mu/2·‖w − x‖²; then x ← x + server_lr·Δ.

    Algorithm 2 of arXiv:1812.06127: each local gradient gets mu·(w − x) added; ``mu`` = 0 is FedAvg
    to the bit. ``mu`` has no default: the paper tunes it over 0.001 to 1. Local work is inexact as
    ``local`` says; a client may do less of it. The weights are the pipeline's (the paper samples by
    p_k and then weights alike).

    Raises ConfigError if ``mu`` is negative, or ``server_lr`` not positive.
    """
    plain = fedavg(server_lr=server_lr, sampler=sampler)
    return replace(plain, name="fedprox", correction=Proximal(mu))
