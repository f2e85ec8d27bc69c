"""The common case of a program: one ask per round, then a server optimiser.

x ← server(x, mean of the shares), computed in float64 and rounded once to the model's dtype.
Buffers that are aggregated bypass the server optimiser: they are statistics, not directions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from hanse.core.buffers import from_moments
from hanse.core.canonical import Json
from hanse.core.layout import Layout, Vector
from hanse.core.pipeline import Pipeline
from hanse.core.program import Ask, Done
from hanse.core.samplers import All, Sampler
from hanse.core.step import Total
from hanse.core.work import LocalTraining, Proximal, Train

Floats = NDArray[np.float64]
Slots = Mapping[str, Floats]
SLICE = 2**17


class ServerOptimizer(Protocol):
    """Moves the global model along the mean update. Uses + − × ÷ √ in float64 only.

    It works coordinate by coordinate, so that a large model can be moved slice by slice.
    """

    name: ClassVar[str]

    def start(self, size: int) -> Slots:
        """Return the optimiser's slots before the first round, float64 vectors of ``size``."""
        ...

    def apply(self, parameters: Floats, update: Floats, slots: Slots) -> tuple[Floats, Slots]:
        """Return the new parameters and slots; ``update`` points where clients moved."""
        ...

    def settings(self) -> dict[str, Json]:
        """Return name and settings, as canonical JSON takes them."""
        ...


@dataclass(frozen=True)
class Strategy:
    """A federated algorithm: who takes part, how gradients are corrected, how the server moves.

    ``fixed`` holds local settings that the algorithm itself fixes (FedSGD: one full-batch step); a
    run that sets them otherwise is refused.
    """

    name: str
    server: ServerOptimizer
    sampler: Sampler = field(default_factory=All)
    correction: Proximal | None = None
    fixed: LocalTraining | None = None

    def settings(self) -> dict[str, Json]:
        """Return the strategy in full, for the run's spec."""
        correction: Json = None if self.correction is None else {"proximal": self.correction.mu}
        return {
            "name": self.name,
            "server": self.server.settings(),
            "sampler": self.sampler.settings(),
            "correction": correction,
        }


@dataclass(frozen=True, slots=True)
class GlobalModel:
    """State of a strategy's program: the model after ``round`` rounds, and the server's slots."""

    round: int
    vector: Vector
    slots: Slots


@dataclass(frozen=True)
class StrategyProgram:
    """The program that trains ``rounds`` rounds of ``strategy`` over ``layout``."""

    strategy: Strategy
    layout: Layout
    local: LocalTraining
    pipeline: Pipeline
    rounds: int

    def initial(self, vector: Vector) -> GlobalModel:
        """Return the state before round 1."""
        span = self.layout.span("trainable")
        return GlobalModel(0, vector, self.strategy.server.start(span.stop - span.start))

    def ask(self, state: GlobalModel) -> Ask:
        """Ask the cohort of the next round to train from the current model."""
        work = Train(self.strategy.fixed or self.local, self.strategy.correction)
        payload = {"model": state.vector}
        return Ask(state.round + 1, self.strategy.sampler, work, payload, self.pipeline)

    def absorb(self, state: GlobalModel, total: Total) -> GlobalModel | Done[GlobalModel]:
        """Move the model along the mean update; take aggregated buffers as they are.

        A round in which nothing was counted leaves model and slots as they are, unless noise was
        released all the same.
        """
        if total.reports == 0 and not self.pipeline.facts().is_private:
            return self._next(replace(state, round=state.round + 1))
        slots = {name: slot.copy() for name, slot in state.slots.items()}
        vector, at = np.empty_like(state.vector), 0
        for piece in self.moved(state.vector, total, slots):
            vector[at : at + piece.size] = piece
            at += piece.size
        return self._next(GlobalModel(state.round + 1, vector, slots))

    def moved(self, old: Vector, total: Total, slots: Slots) -> Iterator[Vector]:
        """Yield the next model's vector in pieces, from its start; ``slots`` are moved in place.

        So a coordinator can move a model that it never holds as a whole.
        """
        span, buffers = self.layout.span("trainable"), total.extras.get("buffers")
        for start in range(0, total.vector.size, SLICE):
            part = slice(start, start + SLICE)
            ours = {name: slot[part] for name, slot in slots.items()}
            piece = old[span][part]
            moved, fresh = self.strategy.server.apply(
                piece.astype(np.float64), total.vector[part], ours
            )
            for name, slot in ours.items():
                slot[...] = fresh[name]
            yield moved.astype(piece.dtype)
        rest = old[span.stop :].copy()
        if buffers is not None and total.reports > 0:
            stands = self.layout.span("buffer")
            pooled = from_moments(self.layout, buffers)
            rest[stands.start - span.stop : stands.stop - span.stop] = pooled
        yield rest

    def _next(self, after: GlobalModel) -> GlobalModel | Done[GlobalModel]:
        return Done(after) if after.round >= self.rounds else after
