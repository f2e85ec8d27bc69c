"""Shadow runs: a federation trained again and again, each time on half of each site's rows; and
what an attacker with one of the models sees of the rows that were in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.core import seeds
from hanse.core.canonical import Json
from hanse.core.dp_events import Event
from hanse.core.ledger import Unit, told_of
from hanse.core.numbered import Numbered
from hanse.core.spec import Evaluation, RunSpec
from hanse.data.persons import OfPersons
from hanse.errors import ConfigError
from hanse.privacy.accounting import Epsilon, spent
from hanse.privacy.claims import claims
from hanse.privacy.membership import FEWEST, Membership, judged
from hanse.sim.population import Pair, Population, Targets, arrays_of
from hanse.sim.run import Run
from hanse.sim.simulate import simulate

Kept = NDArray[np.bool_]


@dataclass(frozen=True)
class Halved:
    """A population whose clients have half of their rows, by coins of ``seed`` and ``model``."""

    population: Population
    seed: int
    model: int
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def ids(self) -> Sequence[str]:
        """The ids of all clients."""
        return self.population.ids

    def seeded(self, seed: int) -> "Halved":
        """Return the same under another seed."""
        return replace(self, population=self.population.seeded(seed))

    def coins(self, client: str) -> Kept:
        """Return which rows of a client the model sees; at least one."""
        chance = seeds.stream(self.seed, "membership", self.model, client)
        kept = chance.random(self.sizes[client]) < 0.5
        kept[: int(not kept.any())] = True
        return kept

    def open(self, client: str) -> Pair:
        """Return half of the client's training data, and no test data."""
        return _rows(self.population.open(client)[0], self.coins(client)), None

    def central(self) -> object | None:
        """Return nothing."""
        return None

    def summary(self, targets: Targets | None = None) -> dict[str, Json] | None:
        """Return nothing."""
        return None

    def settings(self) -> dict[str, Json]:
        """Return what a spec says of the population."""
        return {**self.population.settings(), "half of the rows": self.model}

    @property
    def is_many(self) -> bool:
        """As the whole one."""
        return self.population.is_many


def _rows(train: Any, kept: Kept) -> object:
    if isinstance(train, OfPersons):
        return OfPersons(_rows(train.dataset, kept), np.asarray(train.ids)[kept])
    return tuple(part[kept] for part in arrays_of(train))


@dataclass(frozen=True)
class Attacked:
    """What the attack found, and the spec of the run, whose claim it is beside."""

    found: Membership
    spec: RunSpec

    @property
    def claim(self) -> Epsilon | None:
        """What the noise promises a row toward whoever gets the models; None where it hides none.

        What hides a person or a client hides a row of it as
        :func:`hanse.core.dp_events.of_a_part` says.
        """
        by_unit: dict[Unit, Event] = {
            claim.unit: claim.event
            for claim in claims(self.spec)
            if claim.observer == "recipients" and claim.event is not None
        }
        event = told_of(by_unit, "example")
        if event is None or self.spec.privacy is None:
            return None
        return spent(event, self.spec.privacy.delta)


def audit_membership(
    run: Run,
    *,
    shadows: int = 16,
    seed: int = 0,
    rounds: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Attacked:
    """Train ``shadows`` federations of ``run`` on half of the rows each, and attack each of their
    final models with the others.

    ``progress`` is told how many are done. Needs data sets that are arrays, and a task that tells
    each row's loss. ConfigError for others, for numbered clients, and for fewer than 6 shadows.
    """
    if shadows < FEWEST:
        raise ConfigError(f"{shadows} shadow runs are too few", hint=f"give {FEWEST} or more")
    if isinstance(run.population.ids, Numbered):
        raise ConfigError(
            "an attack on rows is on clients that are listed",
            hint="attack the same settings with some clients that have names",
        )
    confidences = getattr(run.task, "confidences", None)
    if confidences is None:
        raise ConfigError(
            f"{type(run.task).__name__} does not tell how sure a model is of a row",
            hint="an attack on rows needs a TorchTask",
        )
    whole = {client: run.population.open(client)[0] for client in run.population.ids}
    sizes = {client: _size(client, train) for client, train in whole.items()}
    scores, inside, spec = list[NDArray[np.float64]](), list[Kept](), run.spec
    for model in range(shadows):
        halved = Halved(run.population, seed, model, sizes)
        shadow = replace(
            run, population=halved, evaluation=Evaluation(release="none"), central=None,
            references={}, app={}, folder=None, rounds=rounds or run.rounds,
        )  # fmt: skip
        result = simulate(shadow)
        spec = result.spec
        told = [confidences(result.vector, whole[client], client) for client in whole]
        scores.append(np.concatenate(told))
        inside.append(np.concatenate([halved.coins(client) for client in whole]))
        progress(model + 1)
    return Attacked(judged(np.stack(scores), np.stack(inside)), spec)


def _size(client: str, train: object) -> int:
    arrays = arrays_of(train)
    if not arrays:
        raise ConfigError(
            f"{client}'s data set is read item by item, and an attack on rows halves arrays",
            hint="return (inputs, targets) as arrays from data(site) for it",
        )
    return len(arrays[-1])
