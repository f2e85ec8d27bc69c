"""A run file as checked values, then as a run.

Two stages, so that a run can be explained where its framework is not installed: :func:`parse` reads
and checks everything that the file says and imports nothing of the user's; :meth:`RunFile.load`
imports the task and the data function, which executes them, and returns the run.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hanse.config.document import Document, override, read
from hanse.config.schema import Keys, build, check, keys_of, shown
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation, Reporting, RunSpec
from hanse.core.step import Step
from hanse.core.work import LocalTraining
from hanse.data import Partitioner
from hanse.data.site import check_id
from hanse.errors import ConfigError
from hanse.names import lookup, nearest, resolve
from hanse.sim.faults import Faults
from hanse.sim.population import Partitioned, Population, Sites
from hanse.sim.run import Run
from hanse.strategies import Strategy
from hanse.train.exact import settle
from hanse.train.local import training_scalars

MOST_ROUNDS: Final = 10**6
MOST_CLIENTS: Final = 10**7
LARGEST_SEED: Final = 2**53 - 1
TABLE = dict[str, Any]
TOP: Final = Keys(
    {
        **{"task": str, "data": str, "name": str, "sites": tuple[str, ...]},
        **{"rounds": int, "seed": int, "inputs": str, "sources": dict[str, str]},
        **{"strategy": TABLE, "sampling": TABLE, "local": TABLE, "pipeline": list[TABLE]},
        **{"evaluation": TABLE, "reporting": TABLE, "faults": TABLE, "population": TABLE},
    },
    frozenset({"task", "data", "rounds"}),
)


@dataclass(frozen=True)
class Split:
    """One data set split into ``clients`` simulated clients, as ``[population]`` says."""

    clients: int
    name: str
    partitioner: Partitioner


@dataclass(frozen=True)
class RunFile:
    """What a run file says, checked. ``sites`` is empty where ``split`` says who the clients are.

    ``task``, ``data``, ``central`` and ``inputs`` are references to the user's code, such as
    ``app:task``; ``overrides`` are the assignments that stood above the file's own values.
    """

    path: Path
    overrides: tuple[str, ...]
    name: str
    task: str
    data: str
    central: str | None
    inputs: str | None
    sites: tuple[str, ...]
    split: Split | None
    sources: Mapping[str, Path]
    strategy: Strategy
    local: LocalTraining
    pipeline: Pipeline
    rounds: int
    seed: int
    evaluation: Evaluation
    reporting: Reporting
    faults: Faults

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
            clients=self.sites or tuple(f"client-{k}" for k in range(self.clients)),
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
            reporting=self.reporting,
            faults=self.faults.settings(),
        )

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
            reporting=self.reporting,
            faults=self.faults,
            central=None if self.central is None else self._function(self.central, "central")(),
            name=self.name,
            references={
                **{"task": self.task, "data": self.data, "run_file": str(self.path)},
                "overrides": json.dumps(self.overrides),
            },
            folder=self.folder,
        )

    def _population(self) -> Population:
        function = self._function(self.data, "data")
        if self.split is None:
            return Sites(function, self.sites, self.sources, self.seed)
        split = self.split
        return Partitioned(function, split.clients, split.partitioner, split.name, self.seed)

    def _function(self, reference: str, key: str) -> Any:
        function = resolve(reference, self.folder, key)
        if not callable(function):
            raise ConfigError(
                f'{key} = "{reference}" is {_kind_of(function)}, not a function',
                hint=f"name a function: def {reference.rpartition(':')[2]}(…)",
            )
        return function


def load(path: str | Path, overrides: Iterable[str] = ()) -> Run:
    """Return the run that the file at ``path`` describes; see :func:`parse`, :meth:`RunFile.load`."""
    return parse(path, overrides).load()


def parse(path: str | Path, overrides: Iterable[str] = ()) -> RunFile:
    """Return what the file at ``path`` says, checked, without importing any of the user's code.

    ``overrides`` are assignments such as ``local.lr=0.1``. Raises ConfigError with one line that
    names key, value and fix, PipelineError for steps that cannot work together.
    """
    path, chosen = Path(path).absolute(), tuple(overrides)
    document = read(path)
    for assignment in chosen:
        override(document, assignment)
    top = check(document, TOP, "the run file")
    for key in ("task", "data", "inputs"):
        _check_reference(key, top.get(key))
    _check_range("rounds", top["rounds"], 1, MOST_ROUNDS)
    _check_range("seed", top.get("seed", 0), 0, LARGEST_SEED)
    split = _split(top)
    strategy = _strategy(top)
    evaluation, central = _evaluation(top.get("evaluation", {}))
    found = RunFile(
        path=path,
        overrides=chosen,
        name=_name(top.get("name"), path),
        task=top["task"],
        data=top["data"],
        central=central,
        inputs=top.get("inputs"),
        sites=() if split else _sites(top.get("sites", ())),
        split=split,
        sources=_sources(top.get("sources", {}), path.parent),
        strategy=strategy,
        local=_local(top.get("local", {}), strategy),
        pipeline=Pipeline(_step(table, place) for place, table in _numbered(top)),
        rounds=top["rounds"],
        seed=top.get("seed", 0),
        evaluation=evaluation,
        reporting=_table(Reporting, top, "reporting"),
        faults=_table(Faults, top, "faults"),
    )
    _check_whole(found)
    return found


def _check_whole(found: RunFile) -> None:
    """Fold the facts over what the run really is, and see that its spec can be written down."""
    try:
        _ = found.sketch.canonical
    except ValueError as error:
        raise ConfigError(f"{found.path.name}: {error}", hint="write a smaller number") from error


def _kind_of(thing: object) -> str:
    kind = type(thing).__name__
    return f"the {kind} {getattr(thing, '__name__', '')}".strip()


def _check_reference(key: str, reference: str | None) -> None:
    if reference is not None and not re.fullmatch(r"[\w.]+:[\w.]+", reference):
        raise ConfigError(
            f'{key} = "{reference}" does not name an object',
            hint=f'write module and name: {key} = "app:{key}" is {key} in app.py',
        )


def _check_range(key: str, value: int, lowest: int, highest: int) -> None:
    if value < lowest:
        nothing = " trains nothing" if key == "rounds" else f" is below {lowest}"
        raise ConfigError(f"{key} = {value}{nothing}", hint=f"give {key} of {lowest} or more")
    if value > highest:
        raise ConfigError(f"{key} = {value} is above {highest}", hint=f"give {key} below that")


def _name(name: str | None, path: Path) -> str:
    """Return the run's name: as given, or after the file, or its folder where it is run.toml."""
    if name is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ConfigError(
                f"name = {shown(name)} cannot name a folder",
                hint="use letters, digits, dots, hyphens and underscores",
            )
        return name
    plain = path.parent.name if path.stem == "run" else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._") or "run"


def _sites(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ConfigError(
            "the run file names no sites",
            hint='list them: sites = ["one", "two"]; or split one data set with [population]',
        )
    for name in names:
        check_id(name)
        if names.count(name) > 1:
            raise ConfigError(f'site "{name}" is listed twice', hint="list each site once")
    return names


def _sources(paths: Mapping[str, str], folder: Path) -> dict[str, Path]:
    return {name: folder / Path(path).expanduser() for name, path in paths.items()}


def _split(top: Document) -> Split | None:
    if "population" not in top:
        return None
    for key in ("sites", "sources"):
        if key in top:
            raise ConfigError(
                f"{key} and [population] exclude each other: [population] splits one data set, "
                "which a function of no site returns",
                hint=f"leave out {key} or [population]",
            )
    own = Keys({"clients": int, "partition": str}, frozenset({"clients", "partition"}))
    where, table = "[population]", top["population"]
    name = _name_in("partition", table, where)
    make = lookup("partition", name)
    values = check(table, own | keys_of(make), where, elsewhere=TOP.types)
    clients = values.pop("clients")
    _check_range("clients", clients, 1, MOST_CLIENTS)
    del values["partition"]
    return Split(clients, name, make(**values))


def _name_in(key: str, table: Mapping[str, object], where: str) -> str:
    """Return the name under ``key``, by which the rest of a table is judged."""
    if not isinstance(table.get(key), str):
        known = Keys({key: str}, frozenset({key}))
        check({k: v for k, v in table.items() if k == key}, known, where)
    return str(table[key])


def _strategy(top: Document) -> Strategy:
    table, where = top.get("strategy", {"name": "fedavg"}), "[strategy]"
    make = lookup("strategy", _name_in("name", table, where))
    keys = Keys({"name": str}) | keys_of(make).without("sampler")
    values = check(table, keys, where, elsewhere=TOP.types)
    del values["name"]
    if "sampling" not in top:
        return make(**values)
    table, where = top["sampling"], "[sampling]"
    sampler = lookup("sampler", _name_in("name", table, where))
    chosen = check(table, Keys({"name": str}) | keys_of(sampler), where, elsewhere=TOP.types)
    del chosen["name"]
    return make(**values, sampler=sampler(**chosen))


def _local(table: Document, strategy: Strategy) -> LocalTraining:
    where = "[local]"
    given = {key: None if (key, value) == ("batch_size", "all") else value
             for key, value in table.items()}
    values = check(given, keys_of(LocalTraining), where, elsewhere=TOP.types)
    fixed = strategy.fixed
    if fixed is None:
        return LocalTraining(**values)
    for key, value in values.items():
        if value != getattr(fixed, key):
            raise ConfigError(
                f"{key} = {shown(table[key])} in [local]: {strategy.name} fixes local training, "
                f"{key} to {shown(getattr(fixed, key) or 'all')}",
                hint="leave [local] out; the rate is the server's: [strategy] lr",
            )
    return fixed


def _numbered(top: Document) -> Iterable[tuple[int, Document]]:
    return enumerate(top.get("pipeline", []), start=1)


def _step(table: Document, place: int) -> Step:
    name = _name_in("step", table, f"pipeline step {place}")
    make, where = lookup("step", name), f'pipeline step "{name}"'
    values = check(table, Keys({"step": str}) | keys_of(make), where, elsewhere=TOP.types)
    del values["step"]
    return make(**values)


def _evaluation(table: Document) -> tuple[Evaluation, str | None]:
    keys = keys_of(Evaluation) | Keys({"central": str})
    values = check(table, keys, "[evaluation]", elsewhere=TOP.types)
    central = values.pop("central", None)
    _check_reference("central", central)
    return Evaluation(**values), central


def _table(make: Any, top: Document, key: str) -> Any:
    return build(make, top.get(key, {}), f"[{key}]")
