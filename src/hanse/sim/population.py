"""Where a simulated client's data comes from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hanse.core import seeds
from hanse.core.canonical import Json
from hanse.data import ByColumn, Partitioner, summary
from hanse.data.persons import OfPersons
from hanse.data.site import Site, check_id
from hanse.errors import ConfigError, DataError, TaskError
from hanse.train.userland import userland

Pair = tuple[object, object | None]
Targets = Mapping[str, np.ndarray | None]
"""Client → its training targets [n], or None where they are not one number per row."""


class Population(Protocol):
    """Client ids, and each one's (train, test); test may be None."""

    @cached_property
    def ids(self) -> Sequence[str]:
        """The ids of all clients, sorted."""
        ...

    def seeded(self, seed: int) -> "Population":
        """Return the same population under another seed, which splits and partitions follow."""
        ...

    def open(self, client: str) -> Pair:
        """Return the client's (train, test)."""
        ...

    def central(self) -> object | None:
        """Return the data set for central evaluation, if the population brings one."""
        ...

    def summary(self, targets: Targets | None = None) -> dict[str, Json] | None:
        """Return who holds what, in numbers, for the picture in a report; None if unknown.

        ``targets``: those of all clients, where their data has been read already.
        """
        ...

    def settings(self) -> dict[str, Json]:
        """Return what a run's spec says of the population beside its ids."""
        ...

    @property
    def is_many(self) -> bool:
        """Whether there are so many that no client's data stays, and none is evaluated."""
        ...


def check_pair(returned: object, site: str) -> Pair:
    """Return (train, test) of what a user's data function returned; TaskError if it is none."""
    pair: Any = returned
    if isinstance(returned, tuple | list) and len(pair) == 2:
        train, test = pair
        if train is not None and not hasattr(train, "dtype"):
            return train, test
    few = isinstance(returned, tuple | list) and len(pair) <= 4
    said = ", ".join(type(part).__name__ for part in pair) if few else ""
    raise TaskError(
        f"data({site}) returned {f'({said})' if few else type(pair).__name__}, not (train, test)",
        hint="return two data sets, such as ((x, y), (x_test, y_test)); test may be None",
        site=site,
        phase="reading the data set",
    )


MOST_SUMMARISED = 200


def arrays_of(train: Any) -> Any:
    """Return a data set's arrays, targets last, or None if it is read item by item."""
    train = train.dataset if isinstance(train, OfPersons) else train
    return train if isinstance(train, tuple | list) else getattr(train, "tensors", None)  # pyright: ignore[reportUnknownVariableType]


def held_by(population: Population, targets: Targets | None = None) -> dict[str, Json] | None:
    """Return how many rows of which class each client holds, where data sets are arrays.

    Reads the clients' data unless ``targets`` are given.
    """
    ids = list(population.ids)
    if len(ids) > MOST_SUMMARISED:
        return None
    if targets is None:
        targets = {client: targets_of(population.open(client)[0]) for client in ids}
    held = [part for client in ids if (part := targets[client]) is not None]
    if len(held) < len(ids):
        return None
    ends = list(accumulate(len(part) for part in held))
    rows = [np.arange(end - len(part), end) for end, part in zip(ends, held, strict=True)]
    return _summary(held, rows, ids)


def targets_of(train: object) -> np.ndarray | None:
    """Return the targets [n] of a data set, or None if they are not one number per row."""
    arrays = arrays_of(train)
    last: Any = arrays[-1] if arrays else None
    rows = len(last) if hasattr(last, "dtype") and last.ndim > 0 else 0
    targets = np.asarray(last).reshape(-1) if rows else np.empty(0)
    return targets if len(targets) == rows > 0 and targets.dtype.kind in "biuf" else None


def _summary(
    targets: Sequence[Any], rows: list[np.ndarray], ids: Sequence[str]
) -> dict[str, Json] | None:
    try:
        return dict(summary(np.concatenate(targets), rows, list(ids)))  # pyright: ignore
    except (DataError, TypeError):
        return None


@dataclass(frozen=True)
class Sites:
    """Named sites, each with its own sources: ``function(site)`` returns (train, test)."""

    function: Callable[[Site], object]
    names: Sequence[str]
    sources: Mapping[str, Path] = field(default_factory=dict[str, Path])
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse ids that are none, and a site that is named twice."""
        for name in self.names:
            check_id(name)
            if list(self.names).count(name) > 1:
                raise ConfigError(f"site {name!r} is listed twice", hint="list each site once")

    @property
    def is_many(self) -> bool:
        """No."""
        return False

    @cached_property
    def ids(self) -> Sequence[str]:
        """The sites, sorted."""
        return sorted(self.names)

    def seeded(self, seed: int) -> "Sites":
        """Return the same sites, which see another ``site.seed``."""
        return replace(self, seed=seed)

    def open(self, client: str) -> Pair:
        """Call the user's data function at the site."""
        site = Site(client, self.sources, seeds.key(self.seed, client, "data") >> 1)
        with userland(site=client, phase="reading the data set"):
            return check_pair(self.function(site), client)

    def central(self) -> object | None:
        """Return None: sites share no data set."""
        return None

    def summary(self, targets: Targets | None = None) -> dict[str, Json] | None:
        """Return who holds what, in numbers."""
        return held_by(self, targets)

    def settings(self) -> dict[str, Json]:
        """Return nothing: ids say it all. Paths are no part of a run's bits."""
        return {}


@dataclass(frozen=True)
class Given:
    """Data that is already in memory: client → (train, test)."""

    data: Mapping[str, object]

    def __post_init__(self) -> None:
        """Refuse ids that are none."""
        for client in self.data:
            check_id(client)

    @property
    def is_many(self) -> bool:
        """No."""
        return False

    @cached_property
    def ids(self) -> Sequence[str]:
        """The clients, sorted."""
        return sorted(self.data)

    def seeded(self, seed: int) -> "Given":
        """Return itself: the data is as it was given."""
        return self

    def open(self, client: str) -> Pair:
        """Return the client's pair."""
        return check_pair(self.data[client], client)

    def central(self) -> object | None:
        """Return None: give ``central`` to the run."""
        return None

    def summary(self, targets: Targets | None = None) -> dict[str, Json] | None:
        """Return who holds what, in numbers."""
        return held_by(self, targets)

    def settings(self) -> dict[str, Json]:
        """Return nothing: ids say it all."""
        return {}


@dataclass(frozen=True, slots=True)
class Subset:
    """Some rows of a data set that is read item by item."""

    dataset: Any
    rows: np.ndarray

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """Return an item."""
        return self.dataset[int(self.rows[index])]


@dataclass(frozen=True)
class Partitioned:
    """One data set split into ``clients`` simulated clients.

    ``function()`` returns (train, test), or (train, test, columns) with the columns that a
    partition by column needs; train is split, test serves for central evaluation and may be None.
    """

    function: Callable[[], object]
    clients: int
    partitioner: Partitioner
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty population."""
        if self.clients < 1:
            raise ConfigError(f"clients = {self.clients}", hint="give [population] clients >= 1")

    @property
    def is_many(self) -> bool:
        """No: one data set is in memory."""
        return False

    @cached_property
    def _whole(self) -> tuple[Any, object | None, Mapping[str, Any]]:
        with userland(phase="reading the data set"):
            returned = self.function()
        parts: Any = returned
        if isinstance(returned, tuple) and len(parts) == 3:
            train, test = check_pair(parts[:2], "")
            return train, test, parts[2]
        train, test = check_pair(parts, "")
        return train, test, {}

    @property
    def _arrays(self) -> Any:
        return arrays_of(self._whole[0])

    @cached_property
    def _labels(self) -> Any:
        train, _, _ = self._whole
        if self._arrays is not None:
            return np.asarray(self._arrays[-1])
        for name in ("targets", "labels"):
            if hasattr(train, name):
                return np.asarray(getattr(train, name))
        with userland(phase="reading the data set"):
            return np.asarray([train[i][-1] for i in range(len(train))])

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        seed = seeds.key(self.seed, "population") >> 1
        data = self._whole[2] if isinstance(self.partitioner, ByColumn) else self._labels
        return self.partitioner.split(data, self.clients, seed)

    @cached_property
    def ids(self) -> Sequence[str]:
        """``client-000`` …, or the column's values."""
        if isinstance(self.partitioner, ByColumn):
            return self.partitioner.names(self._whole[2])
        digits = len(str(self.clients - 1))
        return [f"client-{number:0{digits}d}" for number in range(self.clients)]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {client: number for number, client in enumerate(self.ids)}

    def seeded(self, seed: int) -> "Partitioned":
        """Return the same data set, split by another seed."""
        return replace(self, seed=seed)

    def open(self, client: str) -> Pair:
        """Return the client's rows as its training data; it has no test data of its own."""
        train, rows = self._whole[0], self._parts[self._place[client]]
        if self._arrays is not None:
            return tuple(part[rows] for part in self._arrays), None
        return Subset(train, rows), None

    def central(self) -> object | None:
        """Return the test part of the one data set."""
        return self._whole[1]

    def summary(self, targets: Targets | None = None) -> dict[str, Json] | None:
        """Return the partition in numbers, for the picture in the report."""
        return _summary([self._labels], self._parts, self.ids)

    def settings(self) -> dict[str, Json]:
        """Return how the data set is split."""
        chosen = {name: getattr(self.partitioner, name) for name in self.partitioner.__slots__}  # pyright: ignore
        name = type(self.partitioner).__name__.lower()
        return {"partition": name, "clients": self.clients, **chosen}
