"""A run with canaries planted among its clients, and what an attacker with its model sees of them.

The pipeline, the sampler, the strategy and the other clients are those of the run. Each canary is
in the population by a fair coin; whoever has the initial and the final model guesses which.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.core import seeds
from hanse.core.canonical import Json
from hanse.core.layout import Layout, Vector
from hanse.core.metrics import Metric
from hanse.core.numbered import Numbered
from hanse.core.spec import Evaluation, RunSpec
from hanse.core.step import Integers, Scalar
from hanse.core.weight import Weight
from hanse.core.work import Train
from hanse.errors import ConfigError
from hanse.privacy.audit import Audit, audit
from hanse.privacy.claims import Claim, claims
from hanse.sim.population import Pair, Population, Targets
from hanse.sim.run import Run
from hanse.sim.simulate import simulate
from hanse.train.local import Kernel, Prepared, Task, Trained, Turn

PREFIX: Final = "canary-"
FAR: Final = 1e6
"""How far a canary goes where a clip bounds it; a clip leaves of that what it leaves of any."""


@dataclass(frozen=True)
class Canary:
    """A client's data that is none: it goes ``length`` in a direction of its own name.

    ``n``: as how many examples it counts.
    """

    name: str
    length: float
    n: int

    def direction(self, size: int) -> NDArray[np.float64]:
        """Return its unit vector [size]."""
        drawn = seeds.stream(0, self.name, "direction").standard_normal(size)
        return drawn / np.linalg.norm(drawn)


@dataclass(frozen=True)
class Planted:
    """A population with canaries. See :class:`hanse.sim.population.Population`."""

    population: Population
    canaries: Mapping[str, Canary] = field(default_factory=dict[str, Canary])

    @cached_property
    def ids(self) -> Sequence[str]:
        """The ids of all clients and canaries."""
        return sorted([*self.population.ids, *self.canaries])

    def seeded(self, seed: int) -> "Planted":
        """Return the same under another seed."""
        return replace(self, population=self.population.seeded(seed))

    def open(self, client: str) -> Pair:
        """Return the client's data; a canary has no test set."""
        canary = self.canaries.get(client)
        return self.population.open(client) if canary is None else (canary, None)

    def central(self) -> object | None:
        """Return nothing: what the model is worth is not asked."""
        return None

    def summary(self, targets: Targets | None = None) -> dict[str, Json] | None:
        """Return nothing."""
        return None

    def settings(self) -> dict[str, Json]:
        """Return what a spec says of the population."""
        return {**self.population.settings(), "canaries": len(self.canaries)}

    @property
    def is_many(self) -> bool:
        """As without canaries."""
        return self.population.is_many


@dataclass(frozen=True)
class PlantedKernel:
    """A kernel that trains canaries too, one after another."""

    kernel: Kernel
    layout: Layout

    @property
    def blocks(self) -> None:
        """None: a canary is in no block."""
        return

    def prepare(self, dataset: object, turn: Turn) -> Prepared:
        """Prepare a client's data; a canary is what it is."""
        return dataset if isinstance(dataset, Canary) else self.kernel.prepare(dataset, turn)

    def train(
        self, start: Vector, data: Any, work: Train, turn: Turn, local: Vector | None
    ) -> Trained:
        """Train a client, or let a canary go its way."""
        if not isinstance(data, Canary):
            return self.kernel.train(start, data, work, turn, local)
        size = self.layout.span("trainable").stop
        update = (data.direction(size) * data.length).astype(start.dtype)
        told = {"examples": data.n, "steps": data.n, "seen": 0, "loss": 0}
        return Trained(update, told)

    def evaluate(
        self, vector: Vector, data: Prepared, turn: Turn, local: Vector | None
    ) -> Mapping[str, int | Integers]:
        """Evaluate a client."""
        return self.kernel.evaluate(vector, data, turn, local)

    def vector(self) -> Vector:
        """Return the model as the last call left it."""
        return self.kernel.vector()

    def pool(self, parts: Sequence[Prepared]) -> Prepared:
        """Return the union of data sets."""
        return self.kernel.pool(parts)


@dataclass(frozen=True)
class PlantedTask:
    """A task whose kernels train canaries too. See :class:`hanse.train.local.Task`."""

    task: Task
    metrics: tuple[Metric, ...] = ()

    @property
    def hides_examples(self) -> bool:
        """As without canaries, which have none."""
        return bool(getattr(self.task, "hides_examples", False))

    def identity(self) -> str:
        """Return what the task is."""
        return f"with canaries: {self.task.identity()}"

    def describe(self, seed: int) -> tuple[Layout, Vector]:
        """Return layout and initial model."""
        return self.task.describe(seed)

    def kernel(self) -> Kernel:
        """Return a new kernel."""
        return PlantedKernel(self.task.kernel(), self.task.describe(0)[0])

    def training_scalars(self) -> tuple[Scalar, ...]:
        """Return the schema of what training reports."""
        return self.task.training_scalars()

    def check(self, work: Train, weight_by: str) -> None:
        """Raise ConfigError where the task cannot do what is asked."""
        self.task.check(work, weight_by)

    def build(self, vector: Vector) -> object:
        """Return the framework's model."""
        return self.task.build(vector)

    def exactly(self, threads: int) -> AbstractContextManager[str]:
        """Set this process up."""
        return self.task.exactly(threads)


@dataclass(frozen=True)
class Audited:
    """An audit, and the spec of the run with its canaries, whose claims it is beside."""

    found: Audit
    spec: RunSpec
    delta: float

    @property
    def claim(self) -> Claim | None:
        """What the noise promises a client toward whoever gets the models; None without noise."""
        for claim in claims(self.spec):
            if (claim.observer, claim.unit) == ("recipients", "client"):
                return claim
        return None


def audit_run(
    run: Run,
    *,
    canaries: int = 400,
    seed: int = 0,
    confidence: float = 0.95,
    rounds: int | None = None,
) -> Audited:
    """Run ``run`` once with canaries, and return what its final model gives away of them.

    ``seed`` draws who is in. ConfigError for a run of numbered clients, without a δ, or whose noise
    hides no client.
    """
    if isinstance(run.population.ids, Numbered):
        raise ConfigError(
            "an audit plants canaries among clients that are listed",
            hint="audit the same settings with [population] of some hundred clients",
        )
    if run.privacy is None:
        raise ConfigError(
            "an audit needs the δ at which ε is claimed", hint="write [privacy] delta = 1e-6"
        )
    if run.local.privacy is not None and not run.spec.bound.facts.is_private:
        raise ConfigError(
            "an audit plants whole clients, and the noise of this run hides single examples",
            hint="what it claims of an example is not attacked by this; noise in the pipeline is",
        )
    names = [f"{PREFIX}{number:05d}" for number in range(canaries)]
    included = seeds.stream(seed, "canaries").random(canaries) < 0.5
    planted, every = _planted(run, names, included), rounds or run.rounds
    result = simulate(replace(planted, rounds=every))
    moved = result.vector.astype(np.float64) - planted.described[1].astype(np.float64)
    span = result.layout.span("trainable")
    size = span.stop - span.start
    scores = np.array([Canary(n, 1.0, 1).direction(size) @ moved[span] for n in names])
    if not np.isfinite(scores).all():
        raise ConfigError(
            "the audited model is not finite: canaries without a clip, or a server that diverges",
            hint="clip updates, or lower the server's learning rate",
        )
    delta = run.privacy.delta
    return Audited(audit(scores, included, delta, confidence), result.spec, delta)


def _planted(run: Run, names: Sequence[str], included: NDArray[np.bool_]) -> Run:
    facts = run.spec.bound.facts
    weight = next(step for step in run.pipeline.applied if isinstance(step, Weight))
    n = 10**6 if weight.cap is not None else 1
    length = FAR if np.isfinite(facts.l2) or facts.is_noised_by_clients else 1.0
    inside = {
        name: Canary(name, length, n) for name, is_in in zip(names, included, strict=True) if is_in
    }
    return replace(
        run,
        task=PlantedTask(run.task),
        population=Planted(run.population, inside),
        evaluation=Evaluation(release="none"),
        central=None,
        engine="exact",
        references={},
        app={},
        folder=None,
    )
