"""The door to the simulator: a run in, a Result out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.core.pipeline import Kept as States
from hanse.core.pipeline import Pipeline
from hanse.core.program import Done
from hanse.core.spec import Evaluation, Reporting, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.data.site import Site
from hanse.errors import ConfigError
from hanse.sim.checkpoint import Checkpoint
from hanse.sim.evaluation import evaluate, values
from hanse.sim.faults import Faults
from hanse.sim.output import Folder
from hanse.sim.pool import Pool, StartMethod, open_pool
from hanse.sim.population import Given, Population, Sites
from hanse.sim.result import Best, Result
from hanse.sim.rounds import perform
from hanse.sim.run import Callback, Run
from hanse.strategies import GlobalModel, Strategy, StrategyProgram, fedavg
from hanse.train.local import Kernel, Prepared, Task, Turn


def simulate(
    task: Task | Run | str | Path,
    data: Callable[[Site], object] | Mapping[str, object] | Population | None = None,
    sites: Sequence[str] | None = None,
    *,
    strategy: Strategy | None = None,
    local: LocalTraining | None = None,
    pipeline: Pipeline | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    evaluation: Evaluation | None = None,
    reporting: Reporting | None = None,
    faults: Faults | None = None,
    central: object | None = None,
    sources: Mapping[str, str | Path] | None = None,
    workers: int = 1,
    start_method: StartMethod | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    checkpoint_s: float = 5.0,
) -> Result:
    """Simulate a federated run in this process or in ``workers`` persistent ones; same bits.

    The first argument is a run file (``simulate("run.toml")``), a :class:`Run`, or a task with
    ``data`` (a function of a site with ``sites``, a mapping client → (train, test), or a
    population). Defaults: FedAvg, ``Weight(by="examples")``, one local epoch, ten rounds, seed 0.
    What is given beside a run file replaces what it says. ``out``: a folder to write to, with a
    checkpoint at least every ``checkpoint_s`` seconds; ``resume``: go on from that. Raises
    ConfigError, PipelineError, DataError or TaskError before the first round where it can.
    """
    run = as_run(
        task,
        data,
        sites,
        sources,
        strategy=strategy,
        local=local,
        pipeline=pipeline,
        rounds=rounds,
        seed=seed,
        evaluation=evaluation,
        reporting=reporting,
        faults=faults,
        central=central,
    )
    if resume and out is None:
        raise ConfigError("resume needs the folder of the run", hint="give out=...")
    folder = None if out is None else Folder(Path(out))
    return _Simulation(run, folder, tuple(callbacks), checkpoint_s).run_through(
        workers, start_method, resume
    )


def as_run(
    task: Task | Run | str | Path,
    data: Callable[[Site], object] | Mapping[str, object] | Population | None,
    sites: Sequence[str] | None,
    sources: Mapping[str, str | Path] | None,
    **given: Any,
) -> Run:
    """Return the run that the arguments of :func:`simulate` describe."""
    chosen = {name: value for name, value in given.items() if value is not None}
    seed = chosen.pop("seed", None)
    if isinstance(task, str | Path):
        from hanse.config import parse

        task = parse(Path(task), ()).load()
    if isinstance(task, Run):
        run = task if not chosen else replace(task, **chosen)
        return run if seed is None else run.with_seed(seed)
    strategy = chosen.pop("strategy", None) or fedavg()
    local = chosen.pop("local", None) or strategy.fixed or LocalTraining()
    pipeline = chosen.pop("pipeline", None) or Pipeline([Weight(by="examples")])
    return Run(
        task,
        _population(data, sites, sources or {}, seed or 0),
        strategy,
        local,
        pipeline,
        chosen.pop("rounds", 10),
        seed=seed or 0,
        **chosen,
    )


def _population(
    data: Callable[[Site], object] | Mapping[str, object] | Population | None,
    sites: Sequence[str] | None,
    sources: Mapping[str, str | Path],
    seed: int,
) -> Population:
    if data is None:
        raise ConfigError("no data", hint="give data=, a function of a site, and sites=[...]")
    if isinstance(data, Mapping):
        return Given(data)  # pyright: ignore[reportUnknownArgumentType] -- as the signature says
    if callable(data):
        if not sites:
            raise ConfigError("no sites", hint='name them: sites=["cleveland", …]')
        return Sites(data, sites, {name: Path(path) for name, path in sources.items()}, seed)
    return data


@dataclass
class _Simulation:
    """One run under way: a driver of the strategy's program over a pool."""

    run: Run
    folder: Folder | None
    callbacks: tuple[Callback, ...]
    checkpoint_s: float
    history: list[dict[str, Json]] = field(default_factory=list[dict[str, Json]])
    states: States = field(default_factory=dict[str, Any])
    best: Best | None = None
    saved_at: float = 0.0
    judge: tuple[Kernel, Prepared] | None = None

    def run_through(self, workers: int, start_method: StartMethod | None, resume: bool) -> Result:
        spec, began = self.run.spec, time.monotonic()
        program = StrategyProgram(
            self.run.strategy, spec.layout, self.run.local, self.run.pipeline, self.run.rounds
        )
        state, kept = self._start(program, spec, resume)
        pool = open_pool(self.run, spec, workers, start_method)
        try:
            pool.restore(kept)
            for callback in self.callbacks:
                callback.on_start(self.run, spec)
            state = self._rounds(program, state, spec, pool)
        finally:
            pool.close()
        out = None if self.folder is None else self.folder.path
        seconds = time.monotonic() - began
        result = Result(self.run.task, spec, state.vector, self.history, seconds, self.best, out)
        if self.folder is not None:
            self.folder.end(result)
        for callback in self.callbacks:
            callback.on_end(result)
        return result

    def _start(
        self, program: StrategyProgram, spec: RunSpec, resume: bool
    ) -> tuple[GlobalModel, dict[str, Any]]:
        """Return the state to begin with: of the checkpoint, or of the initial model."""
        state, kept = program.initial(self.run.described[1]), dict[str, Any]()
        if self.folder is None:
            return state, kept
        found = Checkpoint.read(self.folder.path, spec.hash) if resume else None
        if resume and found is None and (self.folder.path / "result.json").exists():
            raise ConfigError(
                f"{self.folder.path} holds a run that has ended",
                hint="nothing is left to resume; start a new one with another --out",
            )
        if found is not None:
            state, kept, self.states = found.model, dict(found.kept), found.states
            self.history = self.folder.history()[: state.round]
            if found.best is not None:
                self.best = Best(**found.facts["best"], vector=found.best)
        from hanse.report.environment import environment

        resumed = state.round if resume else 0
        if resume and not resumed:
            (self.folder.path / "history.jsonl").unlink(missing_ok=True)
        self.folder.begin(self.run, spec, environment(), resumed)
        self.saved_at = time.monotonic()
        return state, kept

    def _rounds(
        self, program: StrategyProgram, state: GlobalModel, spec: RunSpec, pool: Pool
    ) -> GlobalModel:
        while state.round < program.rounds:
            try:
                state = self._round(program, state, spec, pool)
            except BaseException:
                self._save(state, spec, pool)
                raise
            if time.monotonic() - self.saved_at >= self.checkpoint_s:
                self._save(state, spec, pool)
        return state

    def _round(
        self, program: StrategyProgram, state: GlobalModel, spec: RunSpec, pool: Pool
    ) -> GlobalModel:
        began = time.monotonic()
        done = perform(program.ask(state), spec, self.run.faults, pool, self.states)
        outcome = program.absorb(state, done.total)
        after = outcome.state if isinstance(outcome, Done) else outcome
        measured = self._evaluate(after, spec, pool)
        self.states = done.states
        row = {**done.row, **measured, "seconds": time.monotonic() - began}
        self.history.append(row)
        if self.folder is not None:
            self.folder.append(row)
        for callback in self.callbacks:
            callback.on_round(row)
        return after

    def _evaluate(self, after: GlobalModel, spec: RunSpec, pool: Pool) -> dict[str, Json]:
        if not self.run.evaluation.is_due(after.round, self.run.rounds):
            return {"evaluation": None, "central": None}
        metrics = self.run.task.metrics
        found: Any = evaluate(after.vector, spec, metrics, pool, after.round)
        central: Any = self._central(after.vector, after.round)
        self._keep_best(after, central or (found and found["pooled"]), spec)
        return {"evaluation": found, "central": central}

    def _central(self, vector: Vector, round: int) -> dict[str, Json] | None:
        dataset = self.run.central
        if dataset is None:
            dataset = self.run.population.central()
        if dataset is None:
            return None
        if self.judge is None:
            kernel, turn = self.run.task.kernel(), Turn(self.run.seed, 0, "central")
            self.judge = kernel, kernel.prepare(dataset, turn)
        kernel, prepared = self.judge
        counts = kernel.evaluate(vector, prepared, Turn(self.run.seed, round, "central"), None)
        return values(counts, self.run.task.metrics)

    def _keep_best(self, after: GlobalModel, found: Any, spec: RunSpec) -> None:
        """Keep the model if it is the best so far; a choice by a metric is a release, so not under
        noise.
        """
        if not found or spec.bound.facts.is_private:
            return
        metrics = {m.name: m.higher_is_better for m in self.run.task.metrics}
        name = self.run.evaluation.best or next(iter(metrics), "loss")
        value, up = found.get(name), metrics.get(name, False)
        if value is None:
            return
        best = self.best
        if best is None or (value > best.value if up else value < best.value):
            self.best = Best(after.round, name, value, after.vector.copy())

    def _save(self, state: GlobalModel, spec: RunSpec, pool: Pool) -> None:
        if self.folder is None:
            return
        facts: dict[str, Any] = {}
        if self.best is not None:
            chosen = self.best
            facts["best"] = {
                "round": chosen.round,
                "metric": chosen.metric,
                "value": chosen.value,
            }
        vector = None if self.best is None else self.best.vector
        kept = pool.kept()
        Checkpoint(state, self.states, kept, facts, vector).write(self.folder.path, spec.hash)
        self.saved_at = time.monotonic()
