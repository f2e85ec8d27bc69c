"""Everything that a simulation needs, as objects; :mod:`hanse.config` makes one from a run file."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from hanse.core.layout import Layout, Vector
from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation, Privacy, Quorum, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining, Train
from hanse.errors import ConfigError
from hanse.sim.faults import Faults
from hanse.sim.population import Population
from hanse.strategies import Strategy
from hanse.train.local import Task, evaluation_scalars

Asked = Literal["exact", "batched", "auto"]
OnError = Literal["fail", "drop"]


@dataclass(frozen=True)
class Run:
    """Task, population, strategy, local training, pipeline, rounds and seed.

    ``central``: a data set for central evaluation. ``app``, ``sources``, ``purpose``: as in
    :class:`RunSpec`. ``references`` and ``folder`` say where the
    user's objects come from (``{"task": "app:task", "data": "app:data"}``), so that a worker
    process that starts from nothing can find them; None where they exist in this process only.
    ``engine``: ``exact``, the bits of real sites; ``batched``, many clients at once; ``auto``, the
    faster of the two for the first round's clients. ``on_error``: whether a client whose data or
    whose training raises ends the run (``fail``), or is left out of its round as a real site is
    (``drop``); no part of the spec, but who was counted is in the history.
    """

    task: Task
    population: Population
    strategy: Strategy
    local: LocalTraining
    pipeline: Pipeline
    rounds: int
    seed: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    quorum: Quorum = field(default_factory=Quorum)
    privacy: Privacy | None = None
    faults: Faults = field(default_factory=Faults)
    central: object | None = None
    name: str = "run"
    app: Mapping[str, str] = field(default_factory=dict[str, str])
    sources: tuple[str, ...] = ()
    purpose: str = ""
    references: Mapping[str, str] = field(default_factory=dict[str, str])
    folder: Path | None = None
    engine: Asked = "exact"
    on_error: OnError = "fail"

    def __post_init__(self) -> None:
        """Seed the population; refuse what task or strategy cannot do."""
        object.__setattr__(self, "population", self.population.seeded(self.seed))
        best, names = self.evaluation.best, ["loss", *(m.name for m in self.task.metrics)]
        if best is not None and best not in names:
            raise ConfigError(
                f"best = {best!r} is not what the task measures",
                hint=f"it measures {', '.join(names)}",
            )
        check_work(self.task, self.strategy, self.local, self.pipeline)
        if self.engine not in ("exact", "batched", "auto"):
            raise ConfigError(
                f"engine = {self.engine!r} is unknown", hint='use "exact", "batched" or "auto"'
            )
        if self.on_error not in ("fail", "drop"):
            raise ConfigError(
                f"on_error = {self.on_error!r} is unknown", hint='use "fail" or "drop"'
            )

    @property
    def work(self) -> Train:
        """What a client is asked to do in a round."""
        return Train(self.local, self.strategy.correction)

    def with_seed(self, seed: int) -> "Run":
        """Return the same run under another seed, which its splits and partitions follow."""
        return replace(self, seed=seed)

    def deployed(self) -> "Run":
        """Return the run as real sites carry it out: each trains its own client, exactly."""
        return self if self.engine == "exact" else replace(self, engine="exact")

    @cached_property
    def described(self) -> tuple[Layout, Vector]:
        """The model's layout, and the vector that every client starts from."""
        return self.task.describe(self.seed)

    @cached_property
    def spec(self) -> RunSpec:
        """The run's spec; binding it checks the pipeline against the model and the cohort."""
        return RunSpec(
            name=self.name,
            task=self.references.get("task") or _named(self.task),
            data=self.references.get("data", type(self.population).__name__),
            clients=self.population.ids,
            rounds=self.rounds,
            seed=self.seed,
            strategy=self.strategy.settings(),
            sampler=self.strategy.sampler,
            local=self.local,
            pipeline=self.pipeline,
            layout=self.described[0],
            training=self.task.training_scalars(),
            evaluation_scalars=evaluation_scalars(self.task.metrics),
            evaluation=self.evaluation,
            quorum=self.quorum,
            privacy=self.privacy,
            faults=self.faults.settings(),
            population=self.population.settings(),
            app=self.app,
            sources=self.sources,
            purpose=self.purpose,
            engine="batched" if self.engine == "batched" else "exact",
        )


def _named(task: Task) -> str:
    """Return what a spec calls a task that is an object of this process: its type and a digest."""
    text = hashlib.sha256(task.identity().encode()).hexdigest()
    return f"{type(task).__name__}#{text[:16]}"


def check_work(task: Task, strategy: Strategy, local: LocalTraining, pipeline: Pipeline) -> None:
    """Raise ConfigError for local training that strategy or task does not allow."""
    if strategy.fixed is not None and strategy.fixed != local:
        raise ConfigError(
            f"{strategy.name} fixes local training to {strategy.fixed}",
            hint="leave local training out",
        )
    if local.privacy is not None and not getattr(task, "hides_examples", False):
        raise ConfigError(
            f"[local.privacy] asks for clipped and noised steps, and a {type(task).__name__} takes "
            "its own",
            hint="use a TorchTask, or leave [local.privacy] out",
        )
    by = next(step.by for step in pipeline.applied if isinstance(step, Weight))
    task.check(Train(local, strategy.correction), by)


class Callback(Protocol):
    """Sees a run go by; may raise to stop it. What it returns is ignored."""

    def on_start(self, run: Run, spec: RunSpec) -> None:
        """Before the first round."""
        ...

    def on_round(self, row: Mapping[str, object]) -> None:
        """After each round, with its row of the history."""
        ...

    def on_end(self, result: object) -> None:
        """After the last round, with the Result."""
        ...
