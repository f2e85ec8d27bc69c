"""Clients with quadratic losses and closed-form answers, summed through the real pipeline.

Local training is the papers' loop, written out; rounds, weights, bounds, exact sums and server
optimisers are Hanse's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hanse.core import seeds
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.program import Ask, drive
from hanse.core.reduce import Share
from hanse.core.step import Total
from hanse.core.work import LocalTraining, Train
from hanse.privacy import Clip
from hanse.strategies import Strategy, StrategyProgram

LAYOUT = Layout.build("float64", [("x", (1,), "trainable")])
SEED = 7
BOUND = Clip(16.0)
"""Longer than any update here, so that it never fires: it gives the exact sum a fine grid."""
UNIFORM = Pipeline([BOUND])


def descent(*, lr: float, steps: int) -> LocalTraining:
    """Full-batch gradient descent: one step an epoch."""
    return LocalTraining(optimizer="sgd", lr=lr, epochs=steps, batch_size=None)


@dataclass(frozen=True)
class Quadratic:
    """f(x) = a/2·(x − b)². ``steps`` replace the run's; ``exact`` solves instead of stepping."""

    a: float
    b: float
    examples: int = 1
    steps: int | None = None
    exact: bool = False

    def train(self, start: float, work: Train) -> float:
        """Return the local model; the proximal term joins the loss (solved) or the gradient."""
        assert work.local.optimizer == "sgd"
        assert work.local.batch_size is None
        mu = work.correction.mu if work.correction else 0.0
        if self.exact:
            return (self.a * self.b + mu * start) / (self.a + mu)
        x = start
        for _ in range(self.steps or work.local.epochs):
            gradient = self.a * (x - self.b)
            if work.correction:
                gradient += mu * (x - start)
            x -= work.local.lr * gradient
        return x


Clients = Sequence[Quadratic]


def federation(
    strategy: Strategy,
    clients: Clients,
    *,
    rounds: int,
    local: LocalTraining | None = None,
    pipeline: Pipeline = UNIFORM,
) -> tuple[StrategyProgram, Callable[[Ask], Total]]:
    """Return the program of a run over ``clients``, and what performs its asks."""
    by_id = {f"client-{i}": client for i, client in enumerate(clients)}
    local = strategy.fixed or local or descent(lr=1.0, steps=1)
    bound = pipeline.bind(LAYOUT, cohort=len(by_id))

    def perform(ask: Ask) -> Total:
        assert isinstance(ask.work, Train)
        x = float(ask.payload["model"][0])
        summed = bound.accumulator()
        for name in ask.cohort.sample(tuple(by_id), SEED, ask.round):
            client, update = by_id[name], LAYOUT.zeros()
            update[0] = client.train(x, ask.work) - x
            counts = {"examples": client.examples, "steps": client.steps or local.epochs}
            share, _ = bound.encode(update, counts, lambda purpose: seeds.stream(SEED, purpose))
            assert isinstance(share, Share), share
            summed.add(share, bound.grids)
        return bound.decode(summed, lambda purpose: seeds.stream(SEED, purpose))[0]

    return StrategyProgram(strategy, LAYOUT, local, pipeline, rounds), perform


def models(strategy: Strategy, clients: Clients, *, start: float = 0.0, **how) -> list[float]:
    """Return x after each round."""
    program, perform = federation(strategy, clients, **how)
    first = program.initial(LAYOUT.pack({"x": np.array([start])}))
    return [float(state.vector[0]) for state in drive(program, first, perform)]


def final(strategy: Strategy, clients: Clients, **how) -> float:
    """Return x after the last round."""
    return models(strategy, clients, **how)[-1]
