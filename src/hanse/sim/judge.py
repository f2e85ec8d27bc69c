"""Judges the model of a round: at the sites, on central data, and against the best so far."""

from dataclasses import dataclass
from typing import Any

from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.sim.evaluation import evaluate, values
from hanse.sim.pool import Pool
from hanse.sim.result import Best
from hanse.sim.run import Run
from hanse.strategies import GlobalModel
from hanse.train.local import Kernel, Prepared, Turn


@dataclass
class Judge:
    """Measures models of one run; ``best`` is the best so far by the run's metric."""

    run: Run
    best: Best | None = None
    bench: tuple[Kernel, Prepared] | None = None

    def measure(self, after: GlobalModel, pool: Pool) -> dict[str, Json]:
        """Return the ``evaluation`` and ``central`` of a history row; None where not due."""
        if not self.run.evaluation.is_due(after.round, self.run.rounds):
            return {"evaluation": None, "central": None}
        metrics, found = self.run.task.metrics, None
        if self.run.evaluation.release != "none" and not self.run.population.is_many:
            found = evaluate(after.vector, self.run.spec, metrics, pool, after.round)
        central: Any = self._central(after.vector, after.round)
        self._keep_best(after, central or (found and found["pooled"]))
        return {"evaluation": found, "central": central}

    def _central(self, vector: Vector, round: int) -> dict[str, Json] | None:
        dataset = self.run.central
        if dataset is None:
            dataset = self.run.population.central()
        if dataset is None:
            return None
        if self.bench is None:
            kernel, turn = self.run.task.kernel(), Turn(self.run.seed, 0, "central")
            self.bench = kernel, kernel.prepare(dataset, turn)
        kernel, prepared = self.bench
        counts = kernel.evaluate(vector, prepared, Turn(self.run.seed, round, "central"), None)
        return values(counts, self.run.task.metrics)

    def _keep_best(self, after: GlobalModel, found: Any) -> None:
        """Keep the model if it is the best so far; a choice by a metric is a release, so not under
        noise.
        """
        if not found or self.run.spec.bound.facts.keeps_counts:
            return
        metrics = {m.name: m.higher_is_better for m in self.run.task.metrics}
        name = self.run.evaluation.best or next(iter(metrics), "loss")
        value, up = found.get(name), metrics.get(name, False)
        if value is None:
            return
        best = self.best
        if best is None or (value > best.value if up else value < best.value):
            self.best = Best(after.round, name, value, after.vector.copy())
