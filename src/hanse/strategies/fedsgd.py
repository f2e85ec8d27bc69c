"""FedSGD: one gradient per client and round (McMahan et al., arXiv:1602.05629, §2)."""

from hanse.core.samplers import Sampler
from hanse.core.work import LocalTraining
from hanse.strategies.fedavg import EVERYONE
from hanse.strategies.server import Sgd
from hanse.strategies.strategy import Strategy

ONE_GRADIENT = LocalTraining(optimizer="sgd", lr=1.0, epochs=1, batch_size=None)
"""One full-batch step at rate 1: the update is minus the gradient of the client's mean loss."""


def fedsgd(*, lr: float, sampler: Sampler = EVERYONE) -> Strategy:
    """Return FedSGD: x ← x − lr·Σ(n_k/n)·∇F_k(x), gradient descent on the weighted objective.

    The baseline of arXiv:1602.05629, §2: FedAvg with E = 1, B = ∞. Clients take one full-batch
    step at rate 1, which fixes the run's local settings: a bound in the pipeline bounds a gradient.
    ``lr`` is the server's; it has no default, since the paper tunes it for each task.

    Raises ConfigError if ``lr`` is not positive.
    """
    return Strategy("fedsgd", Sgd(lr), sampler, fixed=ONE_GRADIENT)
