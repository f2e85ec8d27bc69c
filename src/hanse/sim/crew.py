"""Workers: persistent processes that train a cohort together, each its own clients.

They are started once per run, by a :class:`Backend`. Messages carry client ids and small numbers;
the model and the running sums go another way, the backend's, and what clients keep stays in the
worker that trains them: a client always goes to the same worker, and one that keeps nothing only
mostly.

A worker that dies is started again, and trains again what it has trained of the round: the same
bits. Where clients keep something between rounds it is gone with the worker, and the caller is told
so (:class:`Gone`).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np

from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.core.numbered import Numbered
from hanse.core.reduce import Accumulator
from hanse.core.spec import RunSpec
from hanse.core.step import Integers
from hanse.errors import ConfigError, HanseError, HanseWarning, TransportError
from hanse.sim.messages import Answer, revive
from hanse.sim.population import Targets
from hanse.sim.run import Run
from hanse.sim.station import Kept, Outcome

Counts = dict[str, Mapping[str, int | Integers]]
Message = Mapping[str, Any]
BackendName = Literal["fork", "spawn", "ray"]
MOST_DEATHS: Final = 3
"""How often a worker may die of one message: the next time it is the message."""


class Gone(TransportError):
    """A worker is gone."""


class Line(Protocol):
    """The line to one worker."""

    def send(self, message: Message, arrays: Kept | None = None) -> None:
        """Send a message; Gone if the worker is."""
        ...

    def receive(self) -> Answer:
        """Return the worker's answer, which may be an error that it met; Gone if it is gone."""
        ...

    def end(self) -> None:
        """End the worker, which was asked to stop or is beyond that."""
        ...


class Backend(Protocol):
    """Where workers run, and how vectors get to them and back."""

    def start(self, index: int) -> Line:
        """Start a worker, whose first answer is its fingerprint."""
        ...

    def publish(self, model: Vector) -> None:
        """Let the workers have ``model``."""
        ...

    def gather(self, into: Integers, lines: Mapping[int, Line]) -> None:
        """Add the running sums of these workers to ``into``, or Gone. They keep them."""
        ...

    def close(self) -> None:
        """Give back what was taken; all workers have ended."""
        ...


@dataclass
class Member:
    """One worker, and what it has done since the last taking.

    ``trained``: the messages; ``scalars``, ``extras``, ``reports``: what its answers sum to. Its
    sum of vectors is the backend's.
    """

    line: Line
    scalars: Integers
    extras: dict[str, Integers]
    reports: int = 0
    trained: list[Message] = field(default_factory=list[Message])

    def receive(self) -> Answer:
        """Return the worker's answer; raise the error that it met, or Gone."""
        answer, arrays = self.line.receive()
        if "error" in answer:
            raise revive(answer["error"])
        return answer, arrays

    def add(self, message: Message, answer: Answer) -> None:
        """Count what it has trained."""
        told, arrays = answer
        sums: Mapping[str, Integers] = arrays[""]
        self.scalars += sums["scalars"]
        for name, extra in self.extras.items():
            extra += sums[name]
        self.reports += told["reports"]
        self.trained.append(message)

    def forget(self) -> None:
        """Begin again with nothing trained."""
        self.scalars.fill(0)
        for extra in self.extras.values():
            extra.fill(0)
        self.reports = 0
        self.trained.clear()


def even(shares: Mapping[int, list[str]], sizes: Mapping[str, float]) -> None:
    """Move clients from the workers with most to do to those with least, as long as it helps.

    Each move takes the client that comes nearest to half of the difference (Graham's bound for
    longest first, 1969, is 4/3 of the best; here most stay where their data is).
    """
    loads = {index: sum(sizes[client] for client in ids) for index, ids in shares.items()}
    for _ in sizes:
        most, least = max(loads, key=loads.__getitem__), min(loads, key=loads.__getitem__)
        gap = loads[most] - loads[least]
        moved = min(shares[most], key=lambda c: abs(sizes[c] - gap / 2), default=None)
        if moved is None or not 0 < sizes[moved] < gap:
            return
        shares[most].remove(moved)
        shares[least].append(moved)
        loads[most] -= sizes[moved]
        loads[least] += sizes[moved]


class Crew:
    """``workers`` persistent workers of a backend. See :class:`hanse.sim.pool.Pool`."""

    def __init__(
        self, run: Run, spec: RunSpec, backend: Backend, workers: int, fingerprint: str
    ) -> None:
        """Start the workers and wait until each has its kernel; raises what they raise."""
        self.run, self.spec, self.backend, self.fingerprint = run, spec, backend, fingerprint
        ids = run.population.ids
        is_listed = not isinstance(ids, Numbered)
        self.places = {client: k for k, client in enumerate(ids)} if is_listed else {}
        self.keeps = spec.clients_keep
        self.workers, self.sizes = list[Member](), dict[str, float]()
        try:
            for index in range(workers):
                self.workers.append(self._start(index))
            for index, worker in enumerate(self.workers):
                try:
                    self._greet(worker)
                except Gone:
                    self._answer(index, {"do": "ping"})  # by another in its place
        except BaseException:
            self.close()
            raise

    def _start(self, index: int) -> Member:
        bound = self.spec.bound
        scalars = np.zeros(bound.scalars_size, dtype=np.int64)
        extras = {name: np.zeros(size, dtype=np.int64) for name, size in bound.extras.items()}
        return Member(self.backend.start(index), scalars, extras)

    def _greet(self, worker: Member) -> None:
        """Wait until a worker has its kernel; ConfigError if it computes other bits."""
        if worker.receive()[0]["fingerprint"] != self.fingerprint:
            raise ConfigError(
                "worker processes compute other bits than this one",
                hint="set MKL_CBWR before Python starts (AVX2,STRICT), or import hanse before any "
                "matrix product; on several machines, all need the same processor family and "
                "versions",
            )

    def _by_worker(self, clients: Iterable[str]) -> dict[int, list[str]]:
        shares = dict[int, list[str]]()
        for client in clients:
            place = self.places[client] if self.places else self.run.population.ids.index(client)
            shares.setdefault(place % len(self.workers), []).append(client)
        return shares

    def _evenly(self, clients: Sequence[str]) -> dict[int, list[str]]:
        """Return who trains where in this round: each at its place, but for a few that even out
        how many examples the workers have. Where clients keep something, none can go elsewhere.
        """
        shares = {index: list[str]() for index in range(len(self.workers))}
        shares |= self._by_worker(clients)
        if not self.keeps and self.sizes:
            usual = sum(self.sizes.values()) / len(self.sizes)
            even(shares, {client: self.sizes.get(client, usual) for client in clients})
        return {index: ids for index, ids in shares.items() if ids}

    def _ask(self, messages: Mapping[int, Message]) -> dict[int, Answer]:
        """Send each worker its message, all at once; return the answers."""
        for index, message in messages.items():
            with suppress(Gone):  # seen when its answer does not come
                self.workers[index].line.send(message)
        return {index: self._answer(index, message) for index, message in messages.items()}

    def _answer(self, index: int, message: Message) -> Answer:
        """Return a worker's answer to a message that was sent, though it may die of it."""
        for _ in range(MOST_DEATHS):
            try:
                return self.workers[index].receive()
            except Gone as error:
                if self.keeps:
                    raise
                with suppress(Gone):  # the new one too: seen when its answer does not come
                    self._replace(index, error)
                    self.workers[index].line.send(message)
        return self.workers[index].receive()

    def _replace(self, index: int, error: Gone) -> None:
        """Start a worker again, and let it train again what it has trained since the taking."""
        warnings.warn(f"{error}; another takes its place", HanseWarning, stacklevel=2)
        dead = self.workers[index]
        dead.line.end()
        fresh = self._start(index)
        try:
            self._greet(fresh)
            for message in dead.trained:
                fresh.line.send(message)
                fresh.add(message, fresh.receive())
        except BaseException:
            fresh.line.end()
            raise
        self.workers[index] = fresh

    def prepare(self, clients: Sequence[str]) -> Targets:
        """Read and check the data of ``clients``, all workers at once."""
        asked = {
            index: {"do": "prepare", "clients": ids}
            for index, ids in self._by_worker(clients).items()
        }
        found = {c: kept for _, arrays in self._ask(asked).values() for c, kept in arrays.items()}
        return targets_in(clients, found)

    def train(
        self, start: Vector, clients: Sequence[str], round: int, announced: Mapping[str, Json]
    ) -> list[Outcome]:
        """Train ``clients``, each at its worker, all workers at once."""
        self.backend.publish(start)
        shared = {"do": "train", "round": round, "announced": announced}
        asked = {
            index: {**shared, "clients": ids, "anew": not self.workers[index].trained}
            for index, ids in self._evenly(clients).items()
        }
        found = dict[str, Outcome]()
        for index, answer in self._ask(asked).items():
            self.workers[index].add(asked[index], answer)
            if not self.run.population.is_many:
                self.sizes |= answer[0]["sizes"]
            found |= {row[0]: Outcome(*row) for row in answer[0]["outcomes"]}
        return [found[client] for client in clients]

    def take(self) -> Accumulator:
        """Merge the workers' sums, and start anew."""
        total = self.spec.bound.accumulator()
        busy = [index for index, worker in enumerate(self.workers) if worker.trained]
        self._gather(total.vector, busy)
        for worker in (self.workers[index] for index in busy):
            total.scalars += worker.scalars
            for name, extra in worker.extras.items():
                total.extras[name] += extra
            total.reports += worker.reports
            worker.forget()
        return total

    def _gather(self, into: Integers, busy: Sequence[int]) -> None:
        """Add the workers' sums to ``into``, though some may have died since they trained."""
        for _ in range(MOST_DEATHS):
            try:
                lines = {index: self.workers[index].line for index in busy}
                return self.backend.gather(into, lines)
            except Gone:
                self._ask({index: {"do": "ping"} for index in busy})
        return self.backend.gather(into, {index: self.workers[index].line for index in busy})

    def commit(self, counted: Iterable[str]) -> None:
        """Let the counted clients keep what they would keep, each at its worker."""
        shares = self._by_worker(counted)
        for index, worker in enumerate(self.workers):
            with suppress(Gone):  # seen when it is asked for something
                worker.line.send({"do": "commit", "clients": shares.get(index, [])})

    def evaluate(self, vector: Vector, clients: Sequence[str], round: int) -> Counts:
        """Evaluate ``clients``, all workers at once."""
        self.backend.publish(vector)
        asked = {
            index: {"do": "evaluate", "clients": ids, "round": round}
            for index, ids in self._by_worker(clients).items()
        }
        counts = Counts()
        for answer, arrays in self._ask(asked).values():
            for client, numbers in answer["numbers"].items():
                counts[client] = {**numbers, **arrays.get(client, {})}  # pyright: ignore
        return {client: counts[client] for client in clients if client in counts}

    def kept(self) -> Kept:
        """Collect what all clients keep."""
        answers = self._ask({index: {"do": "kept"} for index in range(len(self.workers))})
        return {client: kept for _, arrays in answers.values() for client, kept in arrays.items()}

    def restore(self, kept: Kept) -> None:
        """Give clients back what they kept, each at its worker."""
        for index, ids in self._by_worker(kept).items():
            theirs = {client: kept[client] for client in ids}
            self.workers[index].line.send({"do": "restore"}, theirs)

    def close(self) -> None:
        """Ask the workers to end; end those that do not."""
        for worker in self.workers:
            with suppress(HanseError):
                worker.line.send({"do": "stop"})
        for worker in self.workers:
            worker.line.end()
        self.workers.clear()
        self.backend.close()


def targets_in(clients: Iterable[str], found: Kept) -> Targets:
    """Return each client's training targets among what ``prepare`` found."""
    return {client: found.get(client, {}).get("targets") for client in clients}
