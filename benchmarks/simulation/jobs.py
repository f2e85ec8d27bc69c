"""The jobs: a model, a population of clients with random data, and how many train in a round.

Sizes as in the federated benchmarks that the peers bring: ``cnn`` is FEMNIST's network with 62
classes and lognormal clients, ``tiny`` a logistic regression where a framework's own work is nearly
all, ``mlp`` one hidden layer, ``silo`` a quarter-width ResNet-18 with GroupNorm at ten sites,
``lstm`` a small language model, ``lenet`` a second convolutional network. Data and cohorts need
numpy alone, so that peers have the same; the networks are in ``nets.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hanse.core.samplers import FixedSize

if TYPE_CHECKING:
    from torch import nn

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Job:
    """``data()``: client → (x, y). ``cohort`` clients a round, one epoch in batches."""

    net: str
    data: Callable[[], Mapping[str, Rows]]
    cohort: int
    batch: int
    lr: float = 0.1
    rounds: int = 1
    """How many rounds make one measurement, so that it is not of the clock."""

    def model(self) -> "nn.Module":
        """Return the job's network; what has no torch can still ask for all the rest."""
        import nets

        return nets.NETS[self.net]()


def named(rows: list[Rows]) -> dict[str, Rows]:
    return {f"client-{number:05d}": one for number, one in enumerate(rows)}


def images(sizes: np.ndarray, shape: tuple[int, ...], classes: int) -> dict[str, Rows]:
    rng = np.random.default_rng(1)
    made = [
        (rng.normal(size=(n, *shape)).astype(np.float32), rng.integers(0, classes, n))
        for n in sizes
    ]
    return named(made)


def lognormal(count: int) -> np.ndarray:
    """Return sizes around 47, from 10 to 200."""
    drawn = np.random.default_rng(0).lognormal(3.75, 0.45, count)
    return np.clip(drawn.astype(int), 10, 200)


def sentences() -> dict[str, Rows]:
    rng = np.random.default_rng(1)
    return named([(rng.integers(0, 500, (48, 24)), rng.integers(0, 500, 48)) for _ in range(200)])


JOBS = {
    "tiny": Job(
        "tiny", lambda: images(np.full(1000, 20), (784,), 10),
        cohort=100, batch=10, rounds=10,
    ),
    "mlp": Job(
        "mlp", lambda: images(np.full(1000, 20), (784,), 10),
        cohort=100, batch=10, rounds=10,
    ),
    "cnn": Job("cnn", lambda: images(lognormal(1000), (1, 28, 28), 62), cohort=50, batch=10),
    "cnn500": Job("cnn", lambda: images(lognormal(1000), (1, 28, 28), 62), cohort=500, batch=10),
    "lenet": Job("lenet", lambda: images(lognormal(300), (3, 32, 32), 10), cohort=50, batch=10),
    "silo": Job("silo", lambda: images(np.full(10, 200), (3, 32, 32), 10), cohort=10, batch=20),
    "lstm": Job("lstm", sentences, cohort=50, batch=16, lr=0.5),
}  # fmt: skip


def cohort(job: Job, clients: list[str], round: int) -> tuple[str, ...]:
    """Return who trains in a round: the same for every runner."""
    return FixedSize(job.cohort).sample(clients, 0, round)
