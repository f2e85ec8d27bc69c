"""The app of tests that fill disks: ``unit`` with a model of 200 kB, which shows any other bit."""

from typing import Any

import numpy as np

from hanse.core.layout import Layout, Vector
from hanse.core.work import Train
from hanse.faultsim.unit import MOST, Rows, Unit, data
from hanse.train.local import Trained, Turn

SITES = ("north", "west")
WIDTH = 50_000


class Wide(Unit):
    """A unit, and numbers behind it that are drawn anew in each round at each site."""

    @property
    def layout(self) -> Layout:
        """The places of ``unit``, then ``WIDTH`` more."""
        shape = (len(self.sites), MOST)
        return Layout.build(
            "float32",
            [
                ("mine", shape, "trainable"),
                ("known", (MOST,), "trainable"),
                ("rest", (WIDTH,), "trainable"),
            ],
        )

    def train(
        self, start: Vector, data: Rows, work: Train, turn: Turn, local: Vector | None
    ) -> Trained:
        """Return the unit's update, and what was drawn."""
        found = super().train(start, data, work, turn, local)
        draw = np.random.default_rng([turn.round, self.sites.index(turn.client)])
        found.update[-WIDTH:] = draw.normal(size=WIDTH).astype(np.float32)
        return found


task: Any = Wide(SITES)
__all__ = ["MOST", "SITES", "data", "task"]
