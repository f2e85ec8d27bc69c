"""The functional form, for research loops: state in, state and metrics out, nothing hidden."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hanse.core import seeds
from hanse.core.canonical import Json
from hanse.core.layout import Layout, Vector
from hanse.core.metrics import FIXED
from hanse.core.pipeline import BoundPipeline, Kept, Pipeline
from hanse.core.program import Done
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining, Train
from hanse.errors import ConfigError
from hanse.sim.files import Tensors, flat, nested_of, read_tensors, write_tensors
from hanse.sim.population import Given
from hanse.sim.run import check_work
from hanse.sim.station import Station
from hanse.strategies import GlobalModel, Strategy, StrategyProgram, fedavg
from hanse.train.local import Task

ENDLESS = 2**31
DEFAULT_COHORT = 4096
Memory = Mapping[str, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class ProcessState:
    """All that a process carries from round to round."""

    seed: int
    model: GlobalModel
    steps: Kept = field(default_factory=dict[str, Any])
    clients: Memory = field(default_factory=dict[str, Any])

    @property
    def vector(self) -> Vector:
        """The global model as one flat vector."""
        return self.model.vector

    def save(self, path: str | Path) -> None:
        """Write the state to one safetensors file (tensors, and JSON in its metadata)."""
        tensors: Tensors = {"model": self.model.vector}
        tensors |= flat("slot", {"": self.model.slots})
        tensors |= flat("step", self.steps) | flat("client", self.clients)
        write_tensors(Path(path), tensors, {"seed": self.seed, "round": self.model.round})

    @staticmethod
    def load(path: str | Path) -> "ProcessState":
        """Read a state that :meth:`save` wrote."""
        tensors, told = read_tensors(Path(path))
        slots = nested_of("slot", tensors).get("", {})
        model = GlobalModel(told["round"], tensors["model"], slots)
        steps, clients = nested_of("step", tensors), nested_of("client", tensors)
        return ProcessState(told["seed"], model, steps, clients)


@dataclass(frozen=True)
class Process:
    """A federated algorithm as two pure functions, ``initialize`` and ``next``.

    For the same seed and the same clients it makes the same bits as :func:`hanse.simulate`.
    """

    task: Task
    strategy: Strategy
    local: LocalTraining
    pipeline: Pipeline
    cohort: int = DEFAULT_COHORT

    def __post_init__(self) -> None:
        """Refuse what task or strategy cannot do."""
        check_work(self.task, self.strategy, self.local, self.pipeline)

    def initialize(self, seed: int = 0) -> ProcessState:
        """Return the state before round 1: the model that ``seed`` initialises."""
        layout, vector = self.task.describe(seed)
        return ProcessState(seed, self._program(layout).initial(vector))

    def next(
        self, state: ProcessState, data: Mapping[str, object]
    ) -> tuple[ProcessState, dict[str, Json]]:
        """Train one round on ``data`` (client → training data set); return the state after it.

        The metrics are the training loss, examples and steps, the clients counted, and those
        refused with the reason. Raises ConfigError for more clients than ``cohort``.
        """
        if len(data) > self.cohort:
            raise ConfigError(
                f"{len(data)} clients, and the process was made for at most {self.cohort}",
                hint=f"make it with hanse.process(…, cohort={len(data)})",
            )
        with self.task.exactly(self.local.threads):
            return self._round(state, data)

    def _round(
        self, state: ProcessState, data: Mapping[str, object]
    ) -> tuple[ProcessState, dict[str, Json]]:
        layout, _ = self.task.describe(state.seed)
        program, bound = self._program(layout), self._bound(layout)
        given = Given({client: (train, None) for client, train in data.items()})
        station = Station(self.task.kernel(), given, bound, state.seed)
        station.kept = {client: dict(kept) for client, kept in state.clients.items()}
        ask, into = program.ask(state.model), bound.accumulator()
        work, announced = Train(self.local, self.strategy.correction), bound.announce(state.steps)
        outcomes = station.train(state.vector, sorted(data), work, ask.round, announced, into)
        counted = [outcome.client for outcome in outcomes if not outcome.refused]
        station.commit(counted)
        total, steps = bound.decode(
            into, lambda purpose: seeds.stream(state.seed, ask.round, purpose), state.steps
        )
        after = program.absorb(state.model, total)
        model = after.state if isinstance(after, Done) else after
        counts = {name: int(numbers[0]) for name, numbers in total.counts.items()}
        seen = counts.get("seen", 0)
        metrics: dict[str, Json] = {
            "round": model.round,
            "loss": counts["loss"] * FIXED / seen if seen else None,
            "examples": counts.get("examples"),
            "steps": counts.get("steps"),
            "counted": counted,
            "refused": {o.client: o.refused for o in outcomes if o.refused},
        }
        return ProcessState(state.seed, model, steps, station.kept), metrics

    def parameters(self, state: ProcessState) -> dict[str, NDArray[Any]]:
        """Return name → array of the global model."""
        layout, _ = self.task.describe(state.seed)
        return {name: view.copy() for name, view in layout.views(state.vector).items()}

    def model(self, state: ProcessState) -> Any:
        """Return the framework's own model with the global parameters."""
        return self.task.build(state.vector)

    def model_digest(self, state: ProcessState) -> str:
        """Return the digest of the global model."""
        return self.task.describe(state.seed)[0].digest(state.vector)

    def _program(self, layout: Layout) -> StrategyProgram:
        return StrategyProgram(self.strategy, layout, self.local, self.pipeline, ENDLESS)

    def _bound(self, layout: Layout) -> BoundPipeline:
        span = layout.span("buffer")
        extras = {"buffers": span.stop - span.start} if span.stop > span.start else None
        return self.pipeline.bind(
            layout,
            cohort=self.cohort,
            scalars=self.task.training_scalars(),
            extras=extras,
            example_multiplier=self.local.example_multiplier,
        )


def process(
    task: Task,
    strategy: Strategy | None = None,
    *,
    local: LocalTraining | None = None,
    pipeline: Pipeline | None = None,
    cohort: int = DEFAULT_COHORT,
) -> Process:
    """Return a federated algorithm in functional form; defaults as in :func:`hanse.simulate`.

    ``cohort``: the largest number of clients in one round; exact sums keep room for that many.
    """
    strategy = strategy or fedavg()
    return Process(
        task,
        strategy,
        local or strategy.fixed or LocalTraining(),
        pipeline or Pipeline([Weight(by="examples")]),
        cohort,
    )
