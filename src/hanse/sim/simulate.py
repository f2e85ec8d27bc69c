"""The door to the simulator: a run in, a Result out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation, Privacy, Quorum
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.data.site import Site
from hanse.errors import ConfigError
from hanse.sim.crew import BackendName
from hanse.sim.driver import Driver
from hanse.sim.faults import Faults
from hanse.sim.output import Folder
from hanse.sim.population import Given, Population, Sites
from hanse.sim.result import Result
from hanse.sim.run import Asked, Callback, OnError, Run
from hanse.sim.spending import Budget
from hanse.strategies import Strategy, fedavg
from hanse.train.local import Task


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
    quorum: Quorum | None = None,
    privacy: Privacy | None = None,
    faults: Faults | None = None,
    central: object | None = None,
    engine: Asked | None = None,
    on_error: OnError | None = None,
    sources: Mapping[str, str | Path] | None = None,
    workers: int | None = None,
    backend: BackendName | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    checkpoint_s: float = 5.0,
    budget: Budget | None = None,
) -> Result:
    """Simulate a federated run in this process, or in ``workers`` persistent ones; same bits.

    The first argument is a run file (``simulate("run.toml")``), a :class:`Run`, or a task with
    ``data`` (a function of a site with ``sites``, a mapping client → (train, test), or a
    population). Defaults: FedAvg, ``Weight(by="examples")``, one local epoch, ten rounds, seed 0.
    What is given beside a run file replaces what it says. ``engine``: ``exact`` (default), the bits
    of real sites; ``batched``, many clients at once; ``auto``, the faster one. ``on_error``:
    ``fail`` (default) or ``drop``, for a client whose data or training raises. ``backend``: where
    workers run, ``fork`` or ``spawn`` for processes of this machine (default: what suits), ``ray``
    for as many as the cluster has processors for, or ``workers``. ``out``: a folder to
    write to, with a checkpoint at least every ``checkpoint_s`` seconds; ``resume``: go on from
    that. ``budget``: a ledger of the privacy that runs spend of the same data, and how much
    they may. Raises ConfigError, PipelineError, DataError or TaskError before the first round where
    it can, BudgetError for a run that breaks the budget.
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
        quorum=quorum,
        privacy=privacy,
        faults=faults,
        central=central,
        engine=engine,
        on_error=on_error,
    )
    if resume and out is None:
        raise ConfigError("resume needs the folder of the run", hint="give out=...")
    folder = None if out is None else Folder(Path(out))
    driver = Driver(run, folder, tuple(callbacks), checkpoint_s, budget)
    return driver.run_through(workers, backend, resume)


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
        from hanse.config.parse import parse

        task = parse(Path(task), ()).load()
    if isinstance(task, Run):
        if data is not None or sites is not None or sources is not None:
            raise ConfigError(
                "a run brings its own data, sites and sources",
                hint="leave them out, or give a task in the place of the run",
            )
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
