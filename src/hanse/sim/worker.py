"""A worker process: waits for messages, trains the clients that they name, answers with numbers."""

import json
import os
import sys
from dataclasses import astuple, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from hanse.core.reduce import Accumulator
from hanse.core.spec import RunSpec
from hanse.errors import ConfigError, HanseError
from hanse.sim.arena import Arena
from hanse.sim.messages import preserve, quiet, receive, send
from hanse.sim.run import Run
from hanse.sim.station import Kept, Station, station_of


def forked(
    pipe: Connection,
    path: str,
    index: int,
    workers: int,
    run: Run,
    spec: RunSpec,
    parent: Connection,
) -> None:
    """Serve in a forked process, which has the parent's objects."""
    parent.close()
    quiet()
    _guarded(pipe, lambda: _serve(pipe, path, index, workers, run, spec))


def spawned(pipe: Connection, path: str, index: int, workers: int, how: str) -> None:
    """Serve in a process that starts from nothing: load the run file again."""
    quiet()

    def serve() -> None:
        run = _cook(how)
        _serve(pipe, path, index, workers, run, run.spec)

    _guarded(pipe, serve)


def recipe(run: Run) -> str:
    """Return what a spawned worker needs to make ``run`` again; ConfigError if it cannot."""
    if "run_file" not in run.references:
        raise ConfigError(
            "a worker that is spawned cannot find this run's objects",
            hint='start from a run file, or use start_method="fork" with one thread per client',
        )
    told: dict[str, Any] = {
        "references": dict(run.references),
        "seed": run.seed,
        "rounds": run.rounds,
    }
    told |= {"engine": run.engine, "on_error": run.on_error}
    how = json.dumps(told)
    if _cook(how).spec.hash != run.spec.hash:
        raise ConfigError(
            f"a worker that is spawned reads {run.references['run_file']}, and this run has other "
            "settings",
            hint='write them into the run file, or use start_method="fork"',
        )
    return how


def _cook(how: str) -> Run:
    from hanse.config.parse import parse

    told = json.loads(how)
    overrides = json.loads(told["references"].get("overrides", "[]"))
    run = parse(Path(told.pop("references")["run_file"]), overrides).load()
    return replace(run, **told)


def _guarded(pipe: Connection, serve: Any) -> None:
    """Serve; tell the parent what went wrong; end quietly when the parent is gone."""
    try:
        serve()
    except HanseError as error:
        send(pipe, {"error": preserve(error)})
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    sys.stdout.flush()
    os._exit(0)


def _serve(pipe: Connection, path: str, index: int, workers: int, run: Run, spec: RunSpec) -> None:
    arena = Arena.open(Path(path), spec, workers)
    with run.task.exactly(run.local.threads) as fingerprint:
        station = station_of(run, spec)
        send(pipe, {"fingerprint": fingerprint})
        _listen(pipe, station, spec.bound.accumulator(arena.sums[index]), run, arena)


def _listen(pipe: Connection, station: Station, into: Accumulator, run: Run, arena: Arena) -> None:
    while True:
        message, arrays = receive(pipe)
        try:
            if not _answer(pipe, message, arrays, station, into, run, arena):
                return
        except HanseError as error:
            send(pipe, {"error": preserve(error)})


def _answer(
    pipe: Connection,
    message: dict[str, Any],
    arrays: Kept,
    station: Station,
    into: Accumulator,
    run: Run,
    arena: Arena,
) -> bool:
    match message["do"]:
        case "train":
            _train(pipe, message, station, into, run, arena)
        case "evaluate":
            _evaluate(pipe, message, station, arena)
        case "prepare":
            send(pipe, {}, station.prepare(message["clients"]))
        case "commit":
            station.commit(message["clients"])
        case "kept":
            send(pipe, {}, station.kept)
        case "restore":
            station.kept = dict(arrays)
        case _:
            return False
    return True


def _train(
    pipe: Connection,
    message: dict[str, Any],
    station: Station,
    into: Accumulator,
    run: Run,
    arena: Arena,
) -> None:
    clients, round, announced = message["clients"], message["round"], message["announced"]
    known = set(station.opened)
    outcomes = station.train(arena.model, clients, run.work, round, announced, into)
    sizes = {c: station.opened[c][0].n for c in clients if c in station.opened and c not in known}
    arrays: Kept = {"": {"scalars": into.scalars, **into.extras}}
    rows = [astuple(outcome) for outcome in outcomes]
    send(pipe, {"outcomes": rows, "reports": into.reports, "sizes": sizes}, arrays)
    into.reports = 0
    for array in (into.scalars, *into.extras.values()):
        array.fill(0)


def _evaluate(pipe: Connection, message: dict[str, Any], station: Station, arena: Arena) -> None:
    counts = station.evaluate(arena.model, message["clients"], message["round"])
    numbers = {c: {k: v for k, v in m.items() if isinstance(v, int)} for c, m in counts.items()}
    arrays: Kept = {
        c: {k: v for k, v in m.items() if isinstance(v, np.ndarray)} for c, m in counts.items()
    }
    send(pipe, {"numbers": numbers}, arrays)
