"""What a run is, frozen: a RunSpec in canonical JSON, whose hash is bound into all it leaves.

Two runs with the same hash, seed and contributors end in the same bits. A RunSpec is also where a
pipeline is bound: to sampler, cohort, model and the integers of its task, so that the facts are
folded again with what the run really is.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from hanse.core.canonical import Json, digest, encode
from hanse.core.layout import Layout
from hanse.core.numbered import Numbered, in_order
from hanse.core.pipeline import BoundPipeline, Pipeline
from hanse.core.samplers import Sampler
from hanse.core.step import Scalar
from hanse.core.work import LocalTraining
from hanse.errors import ConfigError

FORMAT = 1
LARGEST = 2**53 - 1
"""The largest integer that every reader of JSON takes for itself and no other (RFC 7493 §2.2)."""
NAMED_CLIENTS = 1000
Engine = Literal["exact", "batched"]
Release = Literal["per-site", "sum", "none", "simulation"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When models are evaluated at the sites, and what of it may leave them.

    ``every`` so many rounds, and after the last (0: never). ``release``: each site's counts
    (``per-site``), only their sum (``sum``), nothing (``none``), or ``simulation``: measured by
    the simulator beside the protocol, which no deployed run can have. ``best`` names the metric
    that picks the best model; by default the task's first, or the loss.
    """

    every: int = 1
    release: Release = "per-site"
    best: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.every < 0:
            raise ConfigError(f"evaluation every {self.every} rounds", hint="give 0 for never")
        if self.release not in ("per-site", "sum", "none", "simulation"):
            raise ConfigError(
                f"release = {self.release!r} is unknown",
                hint='use "per-site", "sum", "none" or "simulation"',
            )

    def is_due(self, round: int, last: int) -> bool:
        """Return whether the model after ``round`` of ``last`` is evaluated."""
        return self.every > 0 and (round % self.every == 0 or round == last)

    def settings(self) -> dict[str, Json]:
        """Return the settings as a table of a run file."""
        table: dict[str, Json] = {"every": self.every, "release": self.release}
        return table if self.best is None else {**table, "best": self.best}


@dataclass(frozen=True, slots=True)
class Quorum:
    """When a round closes: with ``over_selection`` times the goal asked, at ``deadline_s`` seconds
    (None: everyone is waited for), and not at all with fewer than ``minimum`` reports.
    """

    over_selection: float = 1.0
    deadline_s: float | None = None
    minimum: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 1.0 <= self.over_selection <= 10.0:
            raise ConfigError(
                f"over_selection = {self.over_selection} is not between 1 and 10",
                hint="1.3 asks 30 % more clients than are needed",
            )
        if self.minimum < 0:
            raise ConfigError(f"minimum = {self.minimum} reports", hint="give 0 or more")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ConfigError(f"deadline_s = {self.deadline_s}", hint="give seconds, or none")

    def asked(self, goal: int, population: int) -> int:
        """Return how many clients are asked so that ``goal`` report."""
        return min(math.ceil(goal * self.over_selection), population)

    def settings(self) -> dict[str, Json]:
        """Return the settings as a table of a run file."""
        table: dict[str, Json] = {"over_selection": self.over_selection, "minimum": self.minimum}
        return table if self.deadline_s is None else {**table, "deadline_s": self.deadline_s}


Against = Literal["coordinator", "sites", "recipients"]


@dataclass(frozen=True, slots=True)
class Privacy:
    """What a run's noise is for: ``epsilon`` at ``delta``, for one ``unit``, over all rounds.

    ``epsilon``: the promise, which the noise is checked against; None for none, and the ε that the
    noise gives is computed at ``delta``. ``against``: whoever gets the models and nothing else
    (``recipients``), ``sites``, who also see who takes part, or the ``coordinator``. ``unit``: all
    data of one client, which is called a ``site`` where it is one; or by noise in training all
    rows of one ``person``, or one ``example``, a row.
    """

    delta: float
    epsilon: float | None = None
    unit: Literal["client", "site", "person", "example"] = "client"
    against: Against = "recipients"

    def __post_init__(self) -> None:
        """Refuse what is no promise."""
        if not 0 < self.delta < 1:
            raise ConfigError(
                f"delta = {self.delta:g} is not between 0 and 1",
                hint="give far less than one over the number of clients, or of examples, such as "
                "1e-6",
            )
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise ConfigError(
                f"epsilon = {self.epsilon:g} promises nothing", hint="give epsilon from 0.1 to 10"
            )

    def settings(self) -> dict[str, Json]:
        """Return the settings as a table of a run file."""
        table: dict[str, Json] = {"delta": self.delta, "unit": self.unit, "against": self.against}
        return table if self.epsilon is None else {**table, "epsilon": self.epsilon}


@dataclass(frozen=True)
class RunSpec:
    """What decides a run's bits, and what it says of itself to the owners of the data.

    Data is named and not part of it. ``task``: where the app has it, or, for an object of one
    process, its type and a digest of what it is made of. ``app``: the run's code, path → SHA-256
    (empty where the task is an object of one process); ``sources``: the names of the data sets it
    reads; ``purpose``: what for. ``engine``: one client at a time, as sites train, or many at once,
    as only a simulator can.
    """

    name: str
    task: str
    data: str
    clients: Sequence[str]
    rounds: int
    seed: int
    strategy: Mapping[str, Json]
    sampler: Sampler
    local: LocalTraining
    pipeline: Pipeline
    layout: Layout
    training: tuple[Scalar, ...]
    evaluation_scalars: tuple[Scalar, ...]
    evaluation: Evaluation = field(default_factory=Evaluation)
    quorum: Quorum = field(default_factory=Quorum)
    privacy: Privacy | None = None
    faults: Mapping[str, Json] = field(default_factory=dict[str, Json])
    population: Mapping[str, Json] = field(default_factory=dict[str, Json])
    app: Mapping[str, str] = field(default_factory=dict[str, str])
    sources: tuple[str, ...] = ()
    purpose: str = ""
    engine: Engine = "exact"

    def __post_init__(self) -> None:
        """Bind the pipeline, so that an unsound run cannot be described."""
        _check_whole("seed", self.seed)
        if type(self.rounds) is int and self.rounds < 1:
            raise ConfigError(f"rounds = {self.rounds} trains nothing", hint="give rounds >= 1")
        _check_whole("rounds", self.rounds)
        if not self.clients:
            raise ConfigError("the population is empty", hint="name at least one site")
        is_listed = not isinstance(self.clients, Numbered)
        if is_listed and len(set(self.clients)) < len(self.clients):
            raise ConfigError("a client is named twice", hint="name each client once")
        if self.quorum.minimum > self.cohort:
            raise ConfigError(
                f"minimum = {self.quorum.minimum} reports, and a cohort has at most "
                f"{self.cohort} clients",
                hint="lower [quorum] minimum or ask more clients",
            )
        self._check_unit()
        self._check_quorum(self.bound.facts.is_private)
        self._check_releases(self.bound)

    def _check_unit(self) -> None:
        """Refuse a promise for a unit that no noise of the run hides."""
        if self.privacy is None:
            return
        unit, private = self.privacy.unit, self.local.privacy
        if unit in ("person", "example"):
            if private is None:
                raise ConfigError(
                    f'[privacy] promises something for unit = "{unit}", and clients train without '
                    "noise",
                    hint="add [local.privacy] with clip, noise_multiplier and sampling_rate",
                )
            if private.unit != unit:
                raise ConfigError(
                    f'[privacy] promises something for unit = "{unit}", and the noise in training '
                    f"hides one {private.unit}",
                    hint=f'write unit = "{unit}" in [local.privacy] too, or "{private.unit}" in '
                    "both",
                )
        elif not self.bound.facts.is_private:
            if private is not None:
                raise ConfigError(
                    f'[privacy] promises something for unit = "{unit}", all data of a client, and '
                    f"the noise in its training hides one {private.unit} only",
                    hint=f'write unit = "{private.unit}"; or add [[pipeline]] step = '
                    '"gaussian_noise"',
                )
            raise ConfigError(
                "[privacy] promises something, and no step of the pipeline adds noise",
                hint='add [[pipeline]] step = "gaussian_noise", behind a clip and a weight; or '
                '[local.privacy], and unit = "example"',
            )

    def _check_quorum(self, is_private: bool) -> None:
        """Refuse settings that would do nothing, or tell by an aborted round who took part."""
        kind = self.sampler.law(len(self.clients)).kind
        if self.quorum.over_selection > 1 and kind != "fixed":
            raise ConfigError(
                f"over_selection = {self.quorum.over_selection:g} asks more clients than a sampler "
                f"of {kind!r} chooses",
                hint='use a sampler of a fixed size: [sampler] name = "fixed", size = ...',
            )
        if self.quorum.minimum > 1 and is_private:
            raise ConfigError(
                f"minimum = {self.quorum.minimum}: whether a round has so many reports would show "
                "beside a noised model",
                hint="leave [quorum] minimum out: a private round takes the reports that it has",
            )

    def _check_releases(self, bound: BoundPipeline) -> None:
        release = self.evaluation.release
        if bound.facts.keeps_counts and release in ("per-site", "sum") and self.evaluation.every:
            raise ConfigError(
                f'release = "{release}" lets exact metrics leave beside a noised model',
                hint='set [evaluation] release = "none", or "simulation" to let the simulator '
                "measure beside the protocol",
            )

    @cached_property
    def cohort(self) -> int:
        """The largest number of clients that one round can ask."""
        population = len(self.clients)
        return self.quorum.asked(self.sampler.largest(population), population)

    @cached_property
    def bound(self) -> BoundPipeline:
        """The pipeline bound to this run's training rounds."""
        span = self.layout.span("buffer")
        extras = {"buffers": span.stop - span.start} if span.stop > span.start else None
        return self.pipeline.bind(
            self.layout,
            cohort=self.cohort,
            scalars=self.training,
            extras=extras,
            example_multiplier=self.local.example_multiplier,
        )

    @cached_property
    def tally(self) -> BoundPipeline:
        """A pipeline of integers only, bound to this run's evaluations: every client, once."""
        nothing = Layout(self.layout.dtype, ())
        return Pipeline().bind(nothing, cohort=len(self.clients), scalars=self.evaluation_scalars)

    @property
    def clients_keep(self) -> bool:
        """Whether clients keep something between rounds: what steps remember, local parameters."""
        return self.bound.facts.memory or self.layout.span("local") != slice(0, 0)

    def json(self) -> dict[str, Json]:
        """Return the spec as it is hashed and stored."""
        grid, ids = self.bound.grids["model"], in_order(self.clients)
        listed = {"ids": list(ids)} if len(ids) <= NAMED_CLIENTS else {}
        promised = {} if self.privacy is None else {"privacy": self.privacy.settings()}
        return {
            **promised,
            "format": FORMAT,
            "name": self.name,
            "task": self.task,
            "data": self.data,
            "clients": {"count": len(ids), "digest": _digest_of(ids), **listed},
            "population": self.population,
            "rounds": self.rounds,
            "seed": self.seed,
            "strategy": self.strategy,
            "local": self.local.settings(),
            "pipeline": self.pipeline.settings(),
            "evaluation": self.evaluation.settings(),
            "quorum": self.quorum.settings(),
            "faults": self.faults,
            "engine": self.engine,
            "model": {
                "dtype": self.layout.dtype,
                "parameters": self.layout.parameters,
                "size": self.layout.size,
                "layout": digest([[e.name, list(e.shape), e.role] for e in self.layout.entries]),
            },
            "sums": {"exponent": grid.exponent, "limit": grid.limit, "cohort": grid.cohort},
            "metrics": [
                s.name for s in self.evaluation_scalars if s.name not in ("examples", "loss")
            ],
            "reports": [scalar.name for scalar in self.training],
            "app": self.app,
            "sources": list(self.sources),
            "purpose": self.purpose,
        }

    @cached_property
    def canonical(self) -> str:
        """The spec in canonical JSON (RFC 8785)."""
        return encode(self.json())

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()


def _check_whole(name: str, number: object) -> None:
    if type(number) is not int or not 0 <= number <= LARGEST:
        raise ConfigError(
            f"{name} = {number!r} is not a whole number from 0 to 2^53 - 1",
            hint=f"give {name} as one",
        )


def _digest_of(ids: Sequence[str]) -> str:
    if isinstance(ids, Numbered):
        return hashlib.sha256(f"numbered\0{ids.prefix}\0{ids.total}".encode()).hexdigest()
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()
