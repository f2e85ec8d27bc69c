"""Who does the work of a round: this process, or N persistent ones. Both give the same bits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.core.reduce import Accumulator
from hanse.core.spec import RunSpec
from hanse.errors import ConfigError
from hanse.sim.crew import BackendName, Counts, Crew, targets_in
from hanse.sim.population import Targets
from hanse.sim.run import Run
from hanse.sim.station import Kept, Outcome, station_of


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
        return targets_in(clients, self.station.prepare(clients))

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


def open_pool(
    run: Run, spec: RunSpec, workers: int | None, backend: BackendName | None, fingerprint: str
) -> InProcess | Crew:
    """Return a pool of ``workers``, but of no more than there are clients.

    By default this process is the only one, and on Ray there are as many as have processors.
    ``fingerprint`` is this process's; ConfigError if a worker's differs.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers = {workers}", hint="give 1 or more")
    most = len(spec.clients)
    if backend == "ray":
        from hanse.sim.on_ray import Ray

        ray = Ray(run, spec, None if workers is None else min(workers, most))
        return Crew(run, spec, ray, min(ray.workers, most), fingerprint)
    workers = min(workers or 1, most)
    if workers == 1 and backend is None:
        return InProcess(run, spec)
    from hanse.sim.processes import Processes

    return Crew(run, spec, Processes(run, spec, workers, backend), workers, fingerprint)
