"""What the engine asks of a framework: a task describes the model, a kernel trains it.

A task is what the user writes; it is cheap and says what the model is. A kernel holds one copy of
the model in one flat vector, and is what a simulator's worker and a real site both run: there is no
second training loop anywhere.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hanse.core import seeds
from hanse.core.layout import Layout, Vector
from hanse.core.metrics import FIXED, FIXED_BOUND, Metric
from hanse.core.seeds import Chance, Draw
from hanse.core.step import Integers, Scalar
from hanse.core.work import Train
from hanse.errors import DataError

MOST_EXAMPLES = 2**32


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is: all that a client's randomness depends on.

    ``draw``: where that comes from which a claim of privacy rests on.
    """

    seed: int
    round: int
    client: str
    draw: Draw = seeds.stream

    def stream(self, purpose: str) -> Chance:
        """Return what draws for a private ``purpose``."""
        return self.draw(self.seed, self.round, self.client, purpose)


@dataclass(frozen=True, slots=True)
class Turns:
    """Whose turns they are, of clients that train together."""

    seed: int
    round: int
    clients: Sequence[str]


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training leaves: ``update`` = local − start (the trainable span), and counts.

    ``update`` and ``buffers`` (float64 moments) are only valid until the kernel's next call.
    ``local`` holds the segment that stays with the client, to be kept until its next turn.
    """

    update: Vector
    counts: Mapping[str, int | Integers]
    buffers: Vector | None = None
    local: Vector | None = None


@dataclass(frozen=True, slots=True)
class TrainedBlock:
    """What training K clients at once leaves: ``updates`` [K, d], and ``counts`` [K] each.

    ``updates`` are only valid until the kernel's next call.
    """

    updates: Vector
    counts: Mapping[str, Integers]

    def one(self, place: int) -> Trained:
        """Return what one client of the block leaves."""
        counts = {name: int(numbers[place]) for name, numbers in self.counts.items()}
        return Trained(self.updates[place], counts)


class Prepared(Protocol):
    """A client's data set in the framework's own form."""

    @property
    def n(self) -> int:
        """Number of examples."""
        ...


class Blocks(Protocol):
    """Trains many clients at once: what each would train alone, up to rounding."""

    def unfit(self, work: Train) -> str:
        """Return why clients cannot be trained many at once; empty if they can."""
        ...

    def most(self, data: Prepared, work: Train) -> int:
        """Return how many clients make a block of which this one is the largest.

        No client's bits depend on it.
        """
        ...

    def group(self, data: Prepared, work: Train) -> Hashable | None:
        """Return what the clients of a block have in common; None for one that is in none."""
        ...

    def train(
        self, start: Vector, data: Sequence[Prepared], work: Train, turns: Turns
    ) -> TrainedBlock:
        """Train clients of one group, those with most steps first, all from ``start``."""
        ...


class Kernel(Protocol):
    """One copy of a model, ready to train and to evaluate one client after another."""

    @property
    def blocks(self) -> Blocks | None:
        """What trains many clients at once; None where only the user's own loop trains."""
        ...

    def prepare(self, dataset: object, turn: Turn) -> Prepared:
        """Check ``dataset`` and bring it into the framework's form; DataError if it cannot be."""
        ...

    def train(
        self, start: Vector, data: Prepared, work: Train, turn: Turn, local: Vector | None
    ) -> Trained:
        """Train from ``start`` (flat, in the layout's dtype); TaskError if user code fails."""
        ...

    def evaluate(
        self, vector: Vector, data: Prepared, turn: Turn, local: Vector | None
    ) -> Mapping[str, int | Integers]:
        """Return the counts of every metric, the loss and the number of examples."""
        ...

    def vector(self) -> Vector:
        """Return a copy of the whole flat model as the last call left it."""
        ...

    def pool(self, parts: Sequence[Prepared]) -> Prepared:
        """Return the union of several data sets, in their order."""
        ...


class Task(Protocol):
    """The user's model, loss and metrics."""

    metrics: tuple[Metric, ...]

    def identity(self) -> str:
        """Return what the task is, as text: another model, loss or loop has another one."""
        ...

    def describe(self, seed: int) -> tuple[Layout, Vector]:
        """Return the layout, and the flat vector of the model that ``seed`` initialises."""
        ...

    def kernel(self) -> Kernel:
        """Return a new kernel; one per worker."""
        ...

    def training_scalars(self) -> tuple[Scalar, ...]:
        """Return the schema of the integers that training reports."""
        ...

    def check(self, work: Train, weight_by: str) -> None:
        """Raise ConfigError where this task cannot do what the run asks."""
        ...

    def build(self, vector: Vector) -> object:
        """Return the framework's own model object with the parameters of ``vector``."""
        ...

    def exactly(self, threads: int) -> AbstractContextManager[str]:
        """Set this process up for exact training inside; yield its numeric fingerprint."""
        ...


def whose_rows(client: str) -> DataError:
    """Return what is wrong with a client's data that do not say whose each row is."""
    return DataError(
        f"{client}: the run hides persons, and whose each row is is not said",
        hint="return hanse.data.OfPersons(train, ids) from data(site), with an id for each row",
    )


def real_sum(name: str) -> Scalar:
    """Return the scalar for a sum of real numbers, in units of FIXED."""
    return Scalar(name, FIXED_BOUND, resolution=FIXED, signed=True, elastic=True)


def training_scalars() -> tuple[Scalar, ...]:
    """Return what every training reports: examples, steps, examples seen, and their loss."""
    return (
        Scalar("examples", MOST_EXAMPLES),
        Scalar("steps", MOST_EXAMPLES),
        Scalar("seen", MOST_EXAMPLES),
        real_sum("loss"),
    )


def evaluation_scalars(metrics: tuple[Metric, ...]) -> tuple[Scalar, ...]:
    """Return what every evaluation reports: examples, loss, and the counts of each metric."""
    return (
        Scalar("examples", MOST_EXAMPLES),
        real_sum("loss"),
        *(Scalar(m.name, FIXED_BOUND, size=m.size, elastic=True) for m in metrics),
    )


def no_counts(metrics: tuple[Metric, ...]) -> dict[str, int | Integers]:
    """Return the evaluation counts of no examples."""
    zeros = {m.name: np.zeros(m.size, dtype=np.int64) for m in metrics}
    return {"examples": 0, "loss": 0, **zeros}
