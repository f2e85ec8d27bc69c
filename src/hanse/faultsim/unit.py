"""A task whose model shows which update was counted how often: each site and round owns a place.

In round r the site moves its own place of that round by one, and one more place by how many of its
reports were counted before, which only its memory knows. So after n sites were counted, each place
of the first kind is 1/n: 0 is an update that was lost, 2/n one that was counted twice (the trick is
that of Janus, the aggregator of DAP).
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.core.layout import Layout, Vector
from hanse.core.step import Scalar
from hanse.core.work import Train
from hanse.data.site import Site
from hanse.train.local import Trained, Turn, training_scalars

MOST = 16
"""Rounds at most."""


@dataclass(frozen=True)
class Rows:
    """Numbers, one per example."""

    values: Vector

    @property
    def n(self) -> int:
        """How many."""
        return len(self.values)


@dataclass(frozen=True)
class Unit:
    """Unit vectors of ``sites``, in ``MOST`` rounds at most."""

    sites: tuple[str, ...]
    metrics: tuple[Any, ...] = ()

    @property
    def layout(self) -> Layout:
        """The places of the sites [site, round], then those of their memories [round]."""
        shape = (len(self.sites), MOST)
        return Layout.build(
            "float32", [("mine", shape, "trainable"), ("known", (MOST,), "trainable")]
        )

    def describe(self, seed: int) -> tuple[Layout, Vector]:
        """Return the layout, and zeros."""
        return self.layout, np.zeros(self.layout.size, np.float32)

    def kernel(self) -> "Unit":
        """Return itself: it has no state."""
        return self

    def identity(self) -> str:
        """Return what it is."""
        return "unit"

    def training_scalars(self) -> tuple[Scalar, ...]:
        """Return what every task reports."""
        return training_scalars()

    def check(self, work: Train, weight_by: str) -> None:
        """Accept everything."""

    @contextmanager
    def exactly(self, threads: int) -> Generator[str]:
        """Do nothing: it only adds ones."""
        yield f"numpy {np.__version__}"

    def prepare(self, dataset: Any, turn: Turn) -> Rows:
        """Return the data set's rows."""
        return Rows(dataset[0])

    def train(
        self, start: Vector, data: Rows, work: Train, turn: Turn, local: Vector | None
    ) -> Trained:
        """Return the unit vector, and in ``local`` one report more."""
        before = np.zeros(1, np.float32) if local is None else local
        update = np.zeros(self.layout.size, np.float32)
        update[self.sites.index(turn.client) * MOST + turn.round - 1] = 1
        update[len(self.sites) * MOST + turn.round - 1] = before[0]
        counts = {"examples": data.n, "steps": 1, "seen": data.n, "loss": 0}
        return Trained(update, counts, local=before + np.float32(1))

    def evaluate(
        self, vector: Vector, data: Rows, turn: Turn, local: Vector | None
    ) -> Mapping[str, int]:
        """Return the number of examples, and no loss."""
        return {"examples": data.n, "loss": 0}

    def places(self, vector: Vector) -> tuple[Vector, Vector]:
        """Return the places of the sites [site, round] and of their memories [round]."""
        views = self.layout.views(vector)
        return views["mine"], views["known"]


def data(site: Site) -> Any:
    """Return the same eight rows for every site."""
    values = np.zeros(8, np.float32)
    return (values, values > 0), (values, values > 0)
