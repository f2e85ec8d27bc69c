"""Who does the work of a round: this process, or N persistent ones. Both give the same bits.

Workers are started once per run. Messages carry client ids and small numbers as JSON; the model and
the running sums lie in one file of shared memory, and what clients keep stays in the worker that
trains them (a client always goes to the same worker).
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Protocol

import numpy as np

from hanse.core.accelerate import warm
from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.core.reduce import Accumulator
from hanse.core.spec import RunSpec
from hanse.core.step import Integers
from hanse.errors import ConfigError, HanseError, TransportError
from hanse.sim.arena import Arena
from hanse.sim.messages import receive, revive, send
from hanse.sim.population import Targets
from hanse.sim.run import Run
from hanse.sim.station import Kept, Outcome, station_of

StartMethod = Literal["fork", "spawn"]
Counts = dict[str, Mapping[str, int | Integers]]


class Pool(Protocol):
    """Trains cohorts into one running sum."""

    def prepare(self, clients: Sequence[str]) -> Targets:
        """Read and check the data of ``clients``, and return their training targets.

        DataError or TaskError for what is wrong with it.
        """
        ...

    def train(
        self, start: Vector, clients: Sequence[str], round: int, announced: Mapping[str, Json]
    ) -> list[Outcome]:
        """Train ``clients``; the shares that are not refused are in the next :meth:`take`."""
        ...

    def take(self) -> Accumulator:
        """Return the running sum of everything trained since the last call, and start anew."""
        ...

    def commit(self, counted: Iterable[str]) -> None:
        """Let the counted clients keep what they would keep; the others forget it."""
        ...

    def evaluate(self, vector: Vector, clients: Sequence[str], round: int) -> Counts:
        """Return the evaluation counts of each client that has test data."""
        ...

    def kept(self) -> Kept:
        """Return what all clients keep, for a checkpoint."""
        ...

    def restore(self, kept: Kept) -> None:
        """Give clients back what they kept."""
        ...

    def close(self) -> None:
        """End; workers are gone when it returns."""
        ...


class InProcess:
    """One worker: this process."""

    def __init__(self, run: Run, spec: RunSpec) -> None:
        """Build the kernel here."""
        self.station = station_of(run, spec)
        self.work, self.spec = run.work, spec
        self.sum = spec.bound.accumulator()

    def prepare(self, clients: Sequence[str]) -> Targets:
        """Read and check the data of ``clients``."""
        return _targets(clients, self.station.prepare(clients))

    def train(
        self, start: Vector, clients: Sequence[str], round: int, announced: Mapping[str, Json]
    ) -> list[Outcome]:
        """Train ``clients`` one after another."""
        return self.station.train(start, clients, self.work, round, announced, self.sum)

    def take(self) -> Accumulator:
        """Return the running sum, and start anew."""
        taken, self.sum = self.sum, self.spec.bound.accumulator()
        return taken

    def commit(self, counted: Iterable[str]) -> None:
        """Let the counted clients keep what they would keep."""
        self.station.commit(counted)

    def evaluate(self, vector: Vector, clients: Sequence[str], round: int) -> Counts:
        """Evaluate ``clients`` one after another."""
        return self.station.evaluate(vector, clients, round)

    def kept(self) -> Kept:
        """Return what all clients keep."""
        return self.station.kept

    def restore(self, kept: Kept) -> None:
        """Give clients back what they kept."""
        self.station.kept = dict(kept)

    def close(self) -> None:
        """Nothing to end."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process, seen from the parent."""

    process: Any
    pipe: Connection

    def send(self, message: Mapping[str, Any], arrays: Kept | None = None) -> None:
        """Send a message; TransportError if the worker is gone."""
        try:
            send(self.pipe, message, arrays)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone() from error

    def receive(self) -> tuple[dict[str, Any], Kept]:
        """Return the worker's answer; raise the error that it met, or TransportError if it died."""
        try:
            answer, arrays = receive(self.pipe)
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if "error" in answer:
            raise revive(answer["error"])
        return answer, arrays

    def _gone(self) -> TransportError:
        self.process.join(1.0)
        return TransportError(
            f"worker process {self.process.pid} ended with status {self.process.exitcode}",
            hint="it may have run out of memory; go on with --resume, with fewer workers",
        )


class Processes:
    """``workers`` persistent processes."""

    def __init__(
        self,
        run: Run,
        spec: RunSpec,
        workers: int,
        start_method: StartMethod | None,
        fingerprint: str,
    ) -> None:
        """Start the workers and wait until each has its kernel; raises what they raise."""
        method = _method(run, start_method)
        self.spec, self.workers = spec, list[Worker]()
        self.place = {client: i % workers for i, client in enumerate(run.population.ids)}
        warm(spec.layout.dtype, "float64")
        self.path = Arena.create(spec, workers)
        try:
            self.arena = Arena.open(self.path, spec, workers)
            for index in range(workers):
                self.workers.append(self._start(run, spec, method, index, workers))
            prints = {worker.receive()[0]["fingerprint"] for worker in self.workers}
        except BaseException:
            self.close()
            raise
        finally:
            self.path.unlink(missing_ok=True)
        if prints != {fingerprint}:
            self.close()
            raise ConfigError(
                "worker processes compute other bits than this one",
                hint="set MKL_CBWR before Python starts (AVX2,STRICT), or import hanse before any "
                "matrix product",
            )
        self.scalars: Integers = np.zeros(spec.bound.scalars_size, dtype=np.int64)
        self.extras: dict[str, Integers] = {
            name: np.zeros(size, dtype=np.int64) for name, size in spec.bound.extras.items()
        }
        self.reports = 0

    def _start(
        self, run: Run, spec: RunSpec, method: StartMethod, index: int, workers: int
    ) -> Worker:
        from hanse.sim import worker

        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        arguments: tuple[Any, ...] = (theirs, str(self.path), index, workers)
        if method == "fork":
            target: Callable[..., None] = worker.forked
            arguments = (*arguments, run, spec, ours)
        else:
            target, arguments = worker.spawned, (*arguments, worker.recipe(run))
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return Worker(process, ours)

    def _by_worker(self, clients: Iterable[str]) -> list[tuple[Worker, list[str]]]:
        shares: list[list[str]] = [[] for _ in self.workers]
        for client in clients:
            shares[self.place[client]].append(client)
        return [(w, ids) for w, ids in zip(self.workers, shares, strict=True) if ids]

    def prepare(self, clients: Sequence[str]) -> Targets:
        """Read and check the data of ``clients``, all workers at once."""
        asked = self._by_worker(clients)
        for worker, ids in asked:
            worker.send({"do": "prepare", "clients": ids})
        return _targets(clients, {c: k for w, _ in asked for c, k in w.receive()[1].items()})

    def train(
        self, start: Vector, clients: Sequence[str], round: int, announced: Mapping[str, Json]
    ) -> list[Outcome]:
        """Train ``clients``, each at its worker, all workers at once."""
        np.copyto(self.arena.model, start)
        asked = self._by_worker(clients)
        for worker, ids in asked:
            worker.send({"do": "train", "clients": ids, "round": round, "announced": announced})
        found = dict[str, Outcome]()
        for worker, _ in asked:
            answer, arrays = worker.receive()
            found |= {row[0]: Outcome(*row) for row in answer["outcomes"]}
            sums: Mapping[str, Integers] = arrays[""]
            self.scalars += sums["scalars"]
            for name, extra in self.extras.items():
                extra += sums[name]
            self.reports += answer["reports"]
        return [found[client] for client in clients]

    def take(self) -> Accumulator:
        """Merge the workers' sums, and start anew."""
        total = self.spec.bound.accumulator()
        for partial in self.arena.sums:
            total.vector += partial
            partial.fill(0)
        total.scalars += self.scalars
        for name, extra in self.extras.items():
            total.extras[name] += extra
            extra.fill(0)
        total.reports, self.reports = self.reports, 0
        self.scalars.fill(0)
        return total

    def commit(self, counted: Iterable[str]) -> None:
        """Let the counted clients keep what they would keep, each at its worker."""
        shares = {id(worker): ids for worker, ids in self._by_worker(counted)}
        for worker in self.workers:
            worker.send({"do": "commit", "clients": shares.get(id(worker), [])})

    def evaluate(self, vector: Vector, clients: Sequence[str], round: int) -> Counts:
        """Evaluate ``clients``, all workers at once."""
        np.copyto(self.arena.model, vector)
        asked = self._by_worker(clients)
        for worker, ids in asked:
            worker.send({"do": "evaluate", "clients": ids, "round": round})
        counts = Counts()
        for worker, _ in asked:
            answer, arrays = worker.receive()
            for client, numbers in answer["numbers"].items():
                counts[client] = {**numbers, **arrays.get(client, {})}  # pyright: ignore
        return {client: counts[client] for client in clients if client in counts}

    def kept(self) -> Kept:
        """Collect what all clients keep."""
        for worker in self.workers:
            worker.send({"do": "kept"})
        return {c: k for worker in self.workers for c, k in worker.receive()[1].items()}

    def restore(self, kept: Kept) -> None:
        """Give clients back what they kept, each at its worker."""
        for worker, ids in self._by_worker(kept):
            worker.send({"do": "restore"}, {client: kept[client] for client in ids})

    def close(self) -> None:
        """Ask the workers to end; end those that do not."""
        for worker in self.workers:
            try:
                worker.send({"do": "stop"})
            except HanseError:
                continue
        for worker in self.workers:
            worker.process.join(5.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self.workers.clear()


def _targets(clients: Iterable[str], found: Kept) -> Targets:
    return {client: found.get(client, {}).get("targets") for client in clients}


def _method(run: Run, start_method: StartMethod | None) -> StartMethod:
    """Return how to start workers: a fork has no threads of its parent's, and waits for them."""
    can_fork = hasattr(os, "fork") and run.local.threads == 1
    if start_method == "fork" and not can_fork:
        raise ConfigError(
            f"local threads = {run.local.threads}, and a forked worker can have one only",
            hint='use start_method="spawn" with a run file, or workers = 1',
        )
    return start_method or ("fork" if can_fork else "spawn")


def open_pool(
    run: Run, spec: RunSpec, workers: int, start_method: StartMethod | None, fingerprint: str
) -> InProcess | Processes:
    """Return a pool of ``workers`` (1: this process), but of no more than there are clients.

    ``fingerprint`` is this process's; ConfigError if a worker's differs.
    """
    if workers < 1:
        raise ConfigError(f"workers = {workers}", hint="give 1 or more")
    workers = min(workers, len(spec.clients))
    return (
        InProcess(run, spec)
        if workers == 1 and start_method is None
        else Processes(run, spec, workers, start_method, fingerprint)
    )
