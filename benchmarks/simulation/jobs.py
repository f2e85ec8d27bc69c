"""The jobs: a model, a population of clients with random data, and how many train in a round.

Sizes as in the federated benchmarks that the peers bring: ``cnn`` is FEMNIST's network with 62
classes and lognormal clients, ``tiny`` a logistic regression where a framework's own work is nearly
all, ``mlp`` one hidden layer, ``silo`` a quarter-width ResNet-18 with GroupNorm at ten sites,
``lstm`` a small language model, ``lenet`` a second convolutional network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hanse.core.samplers import FixedSize

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Job:
    """``data()``: client → (x, y). ``cohort`` clients a round, one epoch in batches."""

    model: Callable[[], nn.Module]
    data: Callable[[], Mapping[str, Rows]]
    cohort: int
    batch: int
    lr: float = 0.1
    rounds: int = 1
    """How many rounds make one measurement, so that it is not of the clock."""


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


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 62),
    )  # fmt: skip


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 8 * 8, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class Block(nn.Module):
    """A basic block of a ResNet (He et al., 2016), with GroupNorm."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(2, width), nn.GroupNorm(2, width)])
        is_same = stride == 1 and before == width
        self.short = nn.Identity() if is_same else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(y)) + self.short(x))


def resnet() -> nn.Module:
    widths, layers, before = (16, 32, 64, 128), [], 16
    for stage, width in enumerate(widths):
        for number in range(2):
            layers.append(Block(before, width, 2 if stage and not number else 1))
            before = width
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.GroupNorm(2, 16), nn.ReLU()]
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class Words(nn.Module):
    """An LSTM of two layers that names the next of 500 words."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(500, 64), nn.LSTM(64, 100, 2, batch_first=True)
        self.out = nn.Linear(100, 500)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.table(x))[0][:, -1])


def sentences() -> dict[str, Rows]:
    rng = np.random.default_rng(1)
    return named([(rng.integers(0, 500, (48, 24)), rng.integers(0, 500, 48)) for _ in range(200)])


JOBS = {
    "tiny": Job(
        lambda: nn.Sequential(nn.Linear(784, 10)),
        lambda: images(np.full(1000, 20), (784,), 10),
        cohort=100, batch=10, rounds=10,
    ),
    "mlp": Job(
        lambda: nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
        lambda: images(np.full(1000, 20), (784,), 10),
        cohort=100, batch=10, rounds=10,
    ),
    "cnn": Job(cnn, lambda: images(lognormal(1000), (1, 28, 28), 62), cohort=50, batch=10),
    "cnn500": Job(cnn, lambda: images(lognormal(1000), (1, 28, 28), 62), cohort=500, batch=10),
    "lenet": Job(lenet, lambda: images(lognormal(300), (3, 32, 32), 10), cohort=50, batch=10),
    "silo": Job(resnet, lambda: images(np.full(10, 200), (3, 32, 32), 10), cohort=10, batch=20),
    "lstm": Job(Words, sentences, cohort=50, batch=16, lr=0.5),
}  # fmt: skip


def cohort(job: Job, clients: list[str], round: int) -> tuple[str, ...]:
    """Return who trains in a round: the same for every runner."""
    return FixedSize(job.cohort).sample(clients, 0, round)
