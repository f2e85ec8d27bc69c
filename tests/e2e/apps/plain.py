"""A task without a framework: it costs no time to import, and pauses, or is as large, as told."""

import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

import hanse
from hanse.core.layout import Layout
from hanse.train.local import Trained, training_scalars


@dataclass(frozen=True)
class Rows:
    """Numbers, one per example."""

    values: np.ndarray

    @property
    def n(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Mean:
    """Pulls every coordinate towards the mean of the site's numbers, after a pause per site."""

    size: int = 16  # whole pieces of 64 bytes, so that the flat vector has no padding
    pauses: Mapping[str, float] = field(default_factory=dict)
    pause: float = 0.0
    metrics: tuple = ()

    @property
    def layout(self) -> Layout:
        return Layout.build("float32", [("mean", (self.size,), "trainable")])

    def describe(self, seed):
        return self.layout, np.random.default_rng(seed).normal(size=self.size).astype(np.float32)

    def kernel(self):
        return self

    def identity(self):
        return "plain"

    def training_scalars(self):
        return training_scalars()

    def check(self, work, weight_by):
        pass

    @contextmanager
    def exactly(self, threads):
        yield f"numpy {np.__version__}"

    def prepare(self, dataset, turn):
        return Rows(dataset[0])

    def train(self, start, data, work, turn, local):
        if pause := self.pauses.get(turn.client, self.pause):
            time.sleep(pause)
        noise = np.random.default_rng([turn.seed, turn.round]).normal(size=self.size)
        update = (data.values.mean() - start + 0.1 * noise).astype(np.float32)
        return Trained(update, {"examples": data.n, "steps": 1, "seen": data.n, "loss": 0})

    def evaluate(self, vector, data, turn, local):
        return {"examples": data.n, "loss": 0}


task = Mean()
brief = Mean(pause=0.3)
slow = Mean(pause=0.05, pauses={"west": 1.0})
slower = Mean(pause=0.05, pauses={"west": 3.0})
large = Mean(size=2 * 2**20)  # 8 MiB
huge = Mean(size=25 * 2**20)


def both(values):
    return values, values > 0


def data(site: hanse.Site):
    values = np.random.default_rng(site.seed).normal(size=20).astype(np.float32)
    return both(values[:15]), both(values[15:])


def sourced(site: hanse.Site):
    return both(np.loadtxt(site.source("table"), dtype=np.float32)), None
