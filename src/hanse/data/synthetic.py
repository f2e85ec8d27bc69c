"""Generated data whose heterogeneity has two dials: synthetic(α, β) of FedProx and LEAF.

Li et al., arXiv:1812.06127, §5.1, and appendix C.1.
"""

import numpy as np
from numpy.typing import NDArray

from hanse.core.seeds import stream
from hanse.errors import ConfigError

DIMENSION = 60
CLASSES = 10
_SPREAD = np.arange(1, DIMENSION + 1) ** -0.6  # the covariance is diag(j^-1.2)


def synthetic(
    alpha: float, beta: float, *, clients: int = 30, seed: int
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return per client inputs, float32 [n, 60], and classes 0 … 9, int64 [n].

    Client k draws u ~ N(0, ``alpha``) and W, b ~ N(u, 1): how its labels follow from inputs; and
    B ~ N(0, ``beta``), v_j ~ N(B, 1), x ~ N(v, diag(j^-1.2)): where its inputs lie. Then
    y = argmax(softmax(xW + b)). ``alpha`` and ``beta`` are standard deviations, as in the authors'
    generator. It has ⌊lognormal(4, 2)⌋ + 50 rows, so sizes have a long tail.

    A client's data depend on ``seed`` and k only, not on ``clients``. Ids are ``client-0``, … .
    Raises ConfigError if ``alpha`` or ``beta`` is negative or not finite, or there are no clients.
    """
    if not (0 <= alpha < np.inf and 0 <= beta < np.inf):
        raise ConfigError(
            f"synthetic(alpha={alpha}, beta={beta}) needs two standard deviations",
            hint="take finite values of 0 or more; the paper takes 0, 0.5 and 1",
        )
    if clients < 1:
        raise ConfigError(f"clients = {clients} is no population", hint="take one client or more")
    return {
        f"client-{k}": _client(stream(seed, "synthetic", k), alpha, beta) for k in range(clients)
    }


def _client(
    rng: np.random.Generator, alpha: float, beta: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    n = int(rng.lognormal(4, 2)) + 50
    u, centre = rng.normal(0, alpha), rng.normal(0, beta)
    weights, bias = rng.normal(u, 1, (DIMENSION, CLASSES)), rng.normal(u, 1, CLASSES)
    inputs = rng.normal(centre, 1, DIMENSION) + rng.standard_normal((n, DIMENSION)) * _SPREAD
    labels = np.argmax(inputs @ weights + bias, axis=1)  # softmax keeps the order
    return inputs.astype(np.float32), labels.astype(np.int64, copy=False)
