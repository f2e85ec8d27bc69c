"""One process's end of the simulation: a kernel, its clients' data, and a running exact sum."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.core import seeds
from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.core.pipeline import BoundPipeline
from hanse.core.reduce import Accumulator, Share
from hanse.core.seeds import Draw
from hanse.core.spec import Engine, RunSpec
from hanse.core.step import Integers, Memory, Refused
from hanse.core.work import Train
from hanse.errors import ConfigError, DataError, TaskError
from hanse.sim.faults import Faults
from hanse.sim.population import Population, targets_of
from hanse.sim.run import OnError, Run
from hanse.train.local import Blocks, Kernel, Prepared, Trained, Turn, Turns

LOCAL = "local"
AT_ONCE = 512
"""Clients whose data is in memory at once, of a population whose data does not stay there."""
Kept = dict[str, dict[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one client's training: its share was added, or refused, or there is none.

    ``refused`` and ``dropped`` say why, and are empty otherwise.
    """

    client: str
    refused: str
    length: float
    was_clipped: bool
    dropped: str = ""

    @property
    def was_added(self) -> bool:
        """Whether its share is in the sum."""
        return not (self.refused or self.dropped)


@dataclass
class Station:
    """Trains and evaluates clients, one after another or in blocks.

    What a client keeps between rounds (memory of steps, the model's local segment) is provisional
    until :meth:`commit` says that its report was counted. ``draw``: where noise comes from.
    """

    kernel: Kernel
    population: Population
    bound: BoundPipeline
    seed: int
    faults: Faults = field(default_factory=Faults)
    engine: Engine = "exact"
    on_error: OnError = "fail"
    draw: Draw = seeds.stream
    opened: dict[str, tuple[Prepared, Prepared | None]] = field(
        default_factory=dict[str, "tuple[Prepared, Prepared | None]"]
    )
    kept: Kept = field(default_factory=dict[str, "dict[str, NDArray[Any]]"])
    groups: dict[str, tuple[Hashable, int]] = field(
        default_factory=dict[str, "tuple[Hashable, int]"]
    )
    provisional: Kept = field(default_factory=dict[str, "dict[str, NDArray[Any]]"])

    @property
    def trainer(self) -> Blocks:
        """What trains many clients at once."""
        blocks = self.kernel.blocks
        assert blocks is not None, "the engine was chosen for it"
        return blocks

    def data(self, client: str) -> tuple[Prepared, Prepared | None]:
        """Return the client's prepared (train, test), read at its first turn."""
        if client not in self.opened:
            self._open(client)
        return self.opened[client]

    def prepare(self, clients: Iterable[str]) -> Kept:
        """Read and check the data of ``clients``; return each one's ``targets``, if it has any."""
        found = dict[str, dict[str, NDArray[Any]]]()
        for client in clients:
            try:
                targets = targets_of(self._open(client))
            except (DataError, TaskError) as error:
                self._dropped(client, error)
                continue
            if targets is not None:
                found[client] = {"targets": targets}
        return found

    def _open(self, client: str) -> object:
        """Read and prepare a client's data; return its training set as it was read."""
        train, test = self.population.open(client)
        turn = Turn(self.seed, 0, client)
        if train is None:
            raise DataError(f"{client}: no training data", hint="return (train, test)")
        prepared = None if test is None else self.kernel.prepare(test, turn)
        self.opened[client] = (self.kernel.prepare(train, turn), prepared)
        return train

    def train(
        self,
        start: Vector,
        clients: Iterable[str],
        work: Train,
        round: int,
        announced: Mapping[str, Json],
        into: Accumulator,
    ) -> list[Outcome]:
        """Train each client from ``start``, and add its share to ``into``."""
        if not self.population.is_many:
            return self._train(start, [*clients], work, round, announced, into)
        outcomes, clients = list[Outcome](), [*clients]
        for first in range(0, len(clients), AT_ONCE):
            some = clients[first : first + AT_ONCE]
            outcomes += self._train(start, some, work, round, announced, into)
            self.opened.clear()
            self.groups.clear()
        return outcomes

    def _train(
        self,
        start: Vector,
        clients: Sequence[str],
        work: Train,
        round: int,
        announced: Mapping[str, Json],
        into: Accumulator,
    ) -> list[Outcome]:
        if self.engine == "batched":
            return self._in_blocks(start, clients, work, round, announced, into)
        return [self._one(start, c, work, round, announced, into) for c in clients]

    def _one(
        self,
        start: Vector,
        client: str,
        work: Train,
        round: int,
        announced: Mapping[str, Json],
        into: Accumulator,
    ) -> Outcome:
        try:
            share = self.share(start, client, work, round, announced)
        except (DataError, TaskError) as error:
            return self._dropped(client, error)
        return self._add(client, share, into)

    def _dropped(self, client: str, error: DataError | TaskError) -> Outcome:
        """Return the outcome of a client whose data or training raised ``error``, or raise it."""
        if self.on_error == "fail":
            raise error
        return Outcome(client, "", 0.0, False, str(error))

    def _in_blocks(
        self,
        start: Vector,
        clients: Sequence[str],
        work: Train,
        round: int,
        announced: Mapping[str, Json],
        into: Accumulator,
    ) -> list[Outcome]:
        """Train many clients at once: those alike in shape, most steps first."""
        outcomes = self.unreadable(clients)
        for block in self.blocks([c for c in clients if c not in outcomes], work):
            data = [self.opened[client][0] for client in block]
            turns = Turns(self.seed, round, block)
            trained = self.trainer.train(start, data, work, turns)
            shares = self.bound.encode_many(trained.updates, trained.counts, announced)
            if shares is None or self.faults.corrupt:
                for place, client in enumerate(block):
                    share = self._encoded(client, trained.one(place), round, announced)
                    outcomes[client] = self._add(client, share, into)
                continue
            into.add_many(shares, self.bound.grids)
            told = zip(block, shares.lengths.tolist(), shares.were_bounded.tolist(), strict=True)
            outcomes |= {client: Outcome(client, "", *rest) for client, *rest in told}
        return [outcomes[client] for client in clients]

    def unreadable(self, clients: Iterable[str]) -> dict[str, Outcome]:
        """Read the data of ``clients``; return the outcomes of those whose data raises."""
        outcomes = dict[str, Outcome]()
        for client in clients:
            if client not in self.opened:
                try:
                    self.data(client)
                except (DataError, TaskError) as error:
                    outcomes[client] = self._dropped(client, error)
        return outcomes

    def blocks(self, clients: Sequence[str], work: Train) -> Iterator[list[str]]:
        """Yield ``clients`` in blocks for the kernel; ConfigError for one that fits into none."""
        groups = dict[object, list[tuple[int, str]]]()
        for client in clients:
            group, n = self.groups.get(client) or self._group(client, work)
            groups.setdefault(group, []).append((-n, client))
        for ranked in groups.values():
            names = [client for _, client in sorted(ranked)]
            while names:
                most = self.trainer.most(self.opened[names[0]][0], work)
                yield names[:most]
                names = names[most:]

    def _group(self, client: str, work: Train) -> tuple[Hashable, int]:
        """Return which group a client is in, and how many examples it has."""
        data = self.data(client)[0]
        group = self.trainer.group(data, work)
        if group is None:
            raise ConfigError(
                f'{client}: engine = "batched" takes data sets that are arrays, and this one is '
                "read item by item",
                hint='return (inputs, targets) as arrays, or use engine = "exact"',
            )
        self.groups[client] = (group, data.n)
        return group, data.n

    def _add(self, client: str, share: Share | Refused, into: Accumulator) -> Outcome:
        if isinstance(share, Refused):
            return Outcome(client, share.reason, 0.0, False)
        into.add(share, self.bound.grids)
        return Outcome(client, "", share.length, share.was_bounded)

    def share(
        self, start: Vector, client: str, work: Train, round: int, announced: Mapping[str, Json]
    ) -> Share | Refused:
        """Train ``client`` from ``start``; return what its pipeline makes of the update.

        The share's vectors are only valid until the next call.
        """
        turn, kept = Turn(self.seed, round, client, self.draw), self.kept.get(client, {})
        trained = self.kernel.train(start, self.data(client)[0], work, turn, kept.get(LOCAL))  # pyright: ignore
        return self._encoded(client, trained, round, announced)

    def _encoded(
        self, client: str, trained: Trained, round: int, announced: Mapping[str, Json]
    ) -> Share | Refused:
        update, kept = trained.update, self.kept.get(client, {})
        if self.faults.fate(self.seed, round, client).corrupts:
            update = self.faults.spoil(update)
        share, memory = self.bound.encode(
            update,
            trained.counts,
            partial(self.draw, self.seed, round, client),
            extras={} if trained.buffers is None else {"buffers": trained.buffers},
            memory=_by_step(kept),
            announced=announced,
        )
        if not isinstance(share, Refused):
            self._keep(client, trained, memory)
        return share

    def _keep(self, client: str, trained: Trained, memory: Mapping[str, Memory]) -> None:
        fresh: dict[str, NDArray[Any]] = {
            f"{step}/{name}": array for step, m in memory.items() for name, array in m.items()
        }
        if trained.local is not None:
            fresh[LOCAL] = trained.local
        if fresh:
            self.provisional[client] = fresh

    def commit(self, counted: Iterable[str]) -> None:
        """Keep what the counted clients would keep, and forget the rest."""
        for client in counted:
            if client in self.provisional:
                self.kept[client] = self.provisional[client]
        self.provisional.clear()

    def evaluate(
        self, vector: Vector, clients: Iterable[str], round: int
    ) -> dict[str, Mapping[str, int | Integers]]:
        """Return the evaluation counts of each client that has test data."""
        counts: dict[str, Mapping[str, int | Integers]] = {}
        clients = [*clients]
        left_out = self.unreadable(clients)
        for client in clients:
            test = None if client in left_out else self.data(client)[1]
            if test is not None:
                local = self.kept.get(client, {}).get(LOCAL)
                turn = Turn(self.seed, round, client)
                counts[client] = self.kernel.evaluate(vector, test, turn, local)
        return counts

    def counts(
        self, vector: Vector, client: str, round: int, tally: BoundPipeline
    ) -> Share | Refused:
        """Return what the pipeline of evaluations makes of one client's counts.

        Refused if the client has no test data.
        """
        counts = self.evaluate(vector, [client], round)
        if client not in counts:
            return Refused("no test data")
        nothing = np.zeros(0, dtype=self.bound.layout.dtype)
        share, _ = tally.encode(nothing, counts[client], partial(seeds.stream, 0))
        return share


def _by_step(kept: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    memory: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in kept.items():
        step, slash, inner = name.partition("/")
        if slash:
            memory.setdefault(step, {})[inner] = array
    return memory


def station_of(run: Run, spec: RunSpec) -> Station:
    """Return a new station for ``run`` in this process."""
    kernel = run.task.kernel()
    return Station(
        kernel, run.population, spec.bound, run.seed, run.faults, spec.engine, run.on_error
    )
