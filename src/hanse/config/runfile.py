"""A run file as checked values, and the run that it loads.

Two stages, so that a run can be explained where its framework is not installed:
:func:`hanse.config.parse` reads and checks everything that the file says and imports nothing of the
user's; :meth:`RunFile.load` imports the task and the data function, which executes them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hanse.config.application import manifest
from hanse.core.layout import Layout
from hanse.core.numbered import Numbered
from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation, Privacy, Quorum, RunSpec
from hanse.core.work import LocalTraining
from hanse.data import Partitioner
from hanse.errors import ConfigError
from hanse.names import resolve
from hanse.sim.devices import Devices
from hanse.sim.faults import Faults
from hanse.sim.population import Partitioned, Population, Sites
from hanse.sim.run import Asked, Run
from hanse.strategies import Strategy
from hanse.train.exact import settle
from hanse.train.local import training_scalars
from hanse.train.userland import userland


@dataclass(frozen=True)
class Split:
    """``clients`` simulated clients, as ``[population]`` says: one data set split by
    ``partitioner``, or (None) each with data of its own.
    """

    clients: int
    name: str
    partitioner: Partitioner | None


@dataclass(frozen=True)
class RunFile:
    """What a run file says, checked. ``sites`` is empty where ``split`` says who the clients are.

    ``task``, ``data``, ``central``, ``inputs`` and ``contract`` are references to the user's code,
    such as ``app:task``; ``files`` belong to that code beside its ``*.py``; ``overrides`` are the
    assignments that stood above the file's own values.
    """

    path: Path
    overrides: tuple[str, ...]
    name: str
    task: str
    data: str
    central: str | None
    inputs: str | None
    contract: str | None
    files: tuple[str, ...]
    purpose: str
    sites: tuple[str, ...]
    split: Split | None
    sources: Mapping[str, Path]
    strategy: Strategy
    local: LocalTraining
    pipeline: Pipeline
    rounds: int
    seed: int
    evaluation: Evaluation
    quorum: Quorum
    privacy: Privacy | None
    faults: Faults
    engine: Asked = "exact"

    @property
    def folder(self) -> Path:
        """The folder of the run file, where the user's modules are."""
        return self.path.parent

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self.sites) if self.split is None else self.split.clients

    @cached_property
    def sketch(self) -> RunSpec:
        """The run's spec with a float32 model of no parameters: all that is known without the task.

        Facts, grid, cohort and the integers of a report are those of the run, unless its task
        reports more than every task does.
        """
        return RunSpec(
            name=self.name,
            task=self.task,
            data=self.data,
            clients=self.sites or Numbered("client", self.clients),
            rounds=self.rounds,
            seed=self.seed,
            strategy=self.strategy.settings(),
            sampler=self.strategy.sampler,
            local=self.local,
            pipeline=self.pipeline,
            layout=Layout("float32", ()),
            training=training_scalars(),
            evaluation_scalars=(),
            evaluation=self.evaluation,
            quorum=self.quorum,
            privacy=self.privacy,
            faults=self.faults.settings(),
            sources=self._sources,
            purpose=self.purpose,
        )

    @property
    def _sources(self) -> tuple[str, ...]:
        return tuple(sorted(self.sources))

    def load(self) -> Run:
        """Import the user's task and data function, and return the run.

        Raises ConfigError for a reference that leads nowhere, TaskError if the user's code raises.
        """
        settle()
        task = resolve(self.task, self.folder, "task")
        if not (hasattr(task, "describe") and hasattr(task, "kernel")):
            raise ConfigError(
                f'task = "{self.task}" is {_kind_of(task)}, not a task',
                hint="name a task, such as TorchTask(model=…, loss=…)",
            )
        return Run(
            task=task,
            population=self._population(),
            strategy=self.strategy,
            local=self.local,
            pipeline=self.pipeline,
            rounds=self.rounds,
            seed=self.seed,
            evaluation=self.evaluation,
            quorum=self.quorum,
            privacy=self.privacy,
            faults=self.faults,
            central=self._holdout(),
            name=self.name,
            app=self._app(),
            sources=self._sources,
            purpose=self.purpose,
            references={
                "task": self.task,
                "data": self.data,
                "run_file": str(self.path),
                "overrides": json.dumps(self.overrides),
            },
            folder=self.folder,
            engine=self.engine,
        )

    def _app(self) -> Mapping[str, str]:
        """Return the app's code as digests; nothing where the folder is not an app's own.

        Such a run can be simulated; to submit one says what is wrong with its folder.
        """
        try:
            return manifest(self.folder, self.files)
        except ConfigError:
            if self.files:
                raise
            return {}

    def _population(self) -> Population:
        function = self._function(self.data, "data")
        if self.split is None:
            return Sites(function, self.sites, self.sources, self.seed)
        split = self.split
        if split.partitioner is None:
            return Devices(function, split.clients, self.sources, self.seed)
        return Partitioned(function, split.clients, split.partitioner, self.seed)

    def _holdout(self) -> object | None:
        if self.central is None:
            return None
        function = self._function(self.central, "central")
        with userland(phase="reading the central data set"):
            return function()

    def _function(self, reference: str, key: str) -> Any:
        function = resolve(reference, self.folder, key)
        if not callable(function):
            raise ConfigError(
                f'{key} = "{reference}" is {_kind_of(function)}, not a function',
                hint=f"name a function: def {reference.rpartition(':')[2]}(…)",
            )
        return function


def _kind_of(thing: object) -> str:
    kind = type(thing).__name__
    return f"the {kind} {getattr(thing, '__name__', '')}".strip()
