"""A worker process: waits for messages, trains the clients that they name, answers with numbers."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import astuple
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from hanse.core.layout import Vector
from hanse.core.reduce import Accumulator
from hanse.core.spec import RunSpec
from hanse.core.step import Integers
from hanse.errors import HanseError
from hanse.sim.arena import Arena
from hanse.sim.messages import Answer, preserve, quiet, receive, send
from hanse.sim.recipe import cook
from hanse.sim.run import Run
from hanse.sim.station import Kept, station_of


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
        run = cook(how)
        _serve(pipe, path, index, workers, run, run.spec)

    _guarded(pipe, serve)


def _guarded(pipe: Connection, serve: Callable[[], None]) -> None:
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
        worker = Worker(run, spec, spec.bound.accumulator(arena.sums[index]))
        send(pipe, {"fingerprint": fingerprint})
        while (message := receive(pipe))[0]["do"] != "stop":
            answer = worker.answer(*message, arena.model)
            if answer is not None:
                send(pipe, *answer)


class Worker:
    """Answers messages, whichever way they come: a kernel, its clients, a running sum."""

    def __init__(self, run: Run, spec: RunSpec, into: Accumulator) -> None:
        """Build the kernel. ``into``: where the shares of the clients are summed."""
        self.run, self.into, self.station = run, into, station_of(run, spec)

    def answer(self, message: Mapping[str, Any], arrays: Kept, model: Vector) -> Answer | None:
        """Do what a message asks for; return the answer, if it wants one.

        ``model``: the global model, for those that need it.
        """
        try:
            match message["do"]:
                case "train":
                    return self._train(message, model)
                case "evaluate":
                    return self._evaluate(message, model)
                case "prepare":
                    return {}, self.station.prepare(message["clients"])
                case "commit":
                    self.station.commit(message["clients"])
                case "kept":
                    return {}, self.station.kept
                case "restore":
                    self.station.kept = dict(arrays)
                case _:
                    return {}, {}
        except HanseError as error:
            return {"error": preserve(error)}, {}
        return None

    def _train(self, message: Mapping[str, Any], model: Vector) -> Answer:
        clients, opened, into = message["clients"], self.station.opened, self.into
        known = set(opened)
        if message["anew"]:
            into.vector.fill(0)
        outcomes = self.station.train(
            model, clients, self.run.work, message["round"], message["announced"], into
        )
        rows = [astuple(outcome) for outcome in outcomes]
        sizes = {c: opened[c][0].n for c in clients if c in opened and c not in known}
        told = {"outcomes": rows, "reports": into.reports, "sizes": sizes}
        small: Kept = {"": {"scalars": into.scalars.copy(), **_copies(into.extras)}}
        into.reports = 0
        for array in (into.scalars, *into.extras.values()):
            array.fill(0)
        return told, small

    def _evaluate(self, message: Mapping[str, Any], model: Vector) -> Answer:
        counts = self.station.evaluate(model, message["clients"], message["round"])
        numbers = {c: {k: v for k, v in m.items() if isinstance(v, int)} for c, m in counts.items()}
        arrays: Kept = {
            c: {k: v for k, v in m.items() if isinstance(v, np.ndarray)} for c, m in counts.items()
        }
        return {"numbers": numbers}, arrays


def _copies(arrays: Mapping[str, Integers]) -> dict[str, Integers]:
    return {name: array.copy() for name, array in arrays.items()}
