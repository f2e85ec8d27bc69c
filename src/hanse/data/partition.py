"""Split one data set into simulated clients: equally, skewed in labels or size, or as it grew.

Every partitioner is a frozen value with one verb, ``split(data, clients, seed)``, which returns for
each client its row indices: ascending, disjoint, together all rows, at least ``minimum`` each. The
same data, clients and seed give the same partition. Time and memory are linear in the rows (plus
clients × classes for label skew).

A partition says which rows a simulated client holds; it protects nothing.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from hanse.core.seeds import stream
from hanse.data.checks import check_alpha, check_minimum, check_room, length
from hanse.data.deal import apportion, as_parts, deal, equal_sizes
from hanse.data.labels import Classes, Columns, Rows, classes, pick, refuse_missing, site_id
from hanse.data.skew import Dirichlet
from hanse.errors import ConfigError, DataError


class Partitioner(Protocol):
    """What all partitioners share; see the module for the law of ``split``."""

    @property
    def minimum(self) -> int:
        """The fewest rows that a client may get."""
        ...

    def split(self, data: Columns, clients: int, seed: int) -> list[Rows]:
        """Return the rows of each of ``clients`` clients.

        ``data`` is the one column [n] that the partition looks at, or a table of named columns;
        only the length matters where it looks at none. Raises DataError if the data cannot be
        split so, ConfigError if ``clients`` cannot be meant.
        """
        ...


@dataclass(frozen=True, slots=True)
class Iid:
    """Rows in random order, cut into equal parts; sizes differ by one at most."""

    minimum: int = 1

    def __post_init__(self) -> None:
        """Refuse a negative minimum."""
        check_minimum(self.minimum)

    def split(self, data: Columns, clients: int, seed: int) -> list[Rows]:
        """Return each client's rows; see ``Partitioner.split``."""
        n = length(data)
        check_room(n, clients, self.minimum)
        order = stream(seed, "partition").permutation(n)
        return as_parts(deal(order, equal_sizes(n, clients)), clients)


@dataclass(frozen=True, slots=True)
class Shards:
    """Rows sorted by label, cut into equal shards, ``per_client`` random ones to each client.

    The pathological split of McMahan et al. (arXiv:1602.05629, §3), whose ``per_client`` is 2: most
    clients see only that many classes. Rows of one label are shuffled before the cut. Labels may
    also be measurements: neighbours then stay together.
    """

    per_client: int = 2
    column: str = "target"
    minimum: int = 1

    def __post_init__(self) -> None:
        """Refuse fewer than one shard per client and a negative minimum."""
        check_minimum(self.minimum)
        if self.per_client < 1:
            raise ConfigError(
                f"Shards(per_client={self.per_client}) gives a client nothing",
                hint="give each client one shard or more; the paper gives 2",
            )

    def split(self, data: Columns, clients: int, seed: int) -> list[Rows]:
        """Return each client's rows; see ``Partitioner.split``."""
        labels = pick(data, self.column)
        refuse_missing(labels)
        n = len(labels)
        check_room(n, clients, self.minimum)
        self._check_shards(n, clients)
        rng = stream(seed, "partition")
        mixed = rng.permutation(n)
        keys = labels if labels.dtype.kind in "biuf" else classes(labels).codes
        by_label = mixed[np.argsort(keys[mixed], kind="stable")]
        shards = deal(by_label, equal_sizes(n, clients * self.per_client))
        owner_of_shard = rng.permutation(clients * self.per_client) // self.per_client
        return as_parts(owner_of_shard[shards], clients)

    def _check_shards(self, n: int, clients: int) -> None:
        shards = clients * self.per_client
        fewest = n // shards * self.per_client
        if n < shards or fewest < self.minimum:
            raise DataError(
                f"{n} rows cut into {shards} shards leave a client {fewest} rows"
                f" in the worst case: too few for {self.per_client} shards each and"
                f" minimum={self.minimum}",
                hint="take fewer clients, fewer shards per client or a smaller minimum",
            )


@dataclass(frozen=True, slots=True)
class Quantity:
    """Size skew: rows in random order, but client sizes drawn from a symmetric Dir(``alpha``).

    Every client first gets ``minimum`` rows; the draw divides the rest. Labels are spread at random
    ("quantity skew" of Li et al., arXiv:2102.02079).
    """

    alpha: float
    minimum: int = 1

    def __post_init__(self) -> None:
        """Refuse an alpha outside [1e-6, 1e6] and a negative minimum."""
        check_alpha(self.alpha)
        check_minimum(self.minimum)

    def split(self, data: Columns, clients: int, seed: int) -> list[Rows]:
        """Return each client's rows; see ``Partitioner.split``."""
        n = length(data)
        check_room(n, clients, self.minimum)
        rng = stream(seed, "partition")
        shares = rng.dirichlet(np.full(clients, self.alpha))
        sizes = self.minimum + apportion(n - clients * self.minimum, shares)
        return as_parts(deal(rng.permutation(n), sizes), clients)


@dataclass(frozen=True, slots=True)
class ByColumn:
    """The natural split: one client per distinct value of ``column``, in the order of their ids.

    ``names(data)`` gives these ids, sorted. No chance is involved, so every seed gives the same
    partition.
    """

    column: str
    minimum: int = 1

    def __post_init__(self) -> None:
        """Refuse a negative minimum."""
        check_minimum(self.minimum)

    def names(self, data: Columns) -> list[str]:
        """Return the ids ``[a-z0-9][a-z0-9-]*`` of the clients: the values, made into site ids.

        Raises DataError if values are missing, cannot be ids, or become the same id.
        """
        return sorted(self._ids(classes(pick(data, self.column))))

    def split(self, data: Columns, clients: int, seed: int) -> list[Rows]:
        """Return each client's rows; ``clients`` must be the number of distinct values."""
        found = classes(pick(data, self.column))
        ids = self._ids(found)
        if clients != len(ids):
            raise DataError(
                f'column "{self.column}" has {len(ids)} distinct values, so it splits into'
                f" {len(ids)} clients, not {clients}",
                hint=f"set clients = {len(ids)}",
            )
        smallest = int(found.counts.argmin())
        if found.counts[smallest] < self.minimum:
            raise DataError(
                f'client "{ids[smallest]}" has fewer rows ({found.counts[smallest]}) than'
                f" minimum={self.minimum}",
                hint="drop its rows or take a smaller minimum",
            )
        place = np.argsort(np.argsort(ids))
        return as_parts(place[found.codes], clients)

    def _ids(self, found: Classes) -> list[str]:
        ids: dict[str, object] = {}
        for value in found.values:
            other = ids.setdefault(site_id(value), value)
            if other is not value:
                raise DataError(
                    f'"{other}" and "{value}" of column "{self.column}" both become the id'
                    f' "{site_id(value)}"',
                    hint="rename one of them, or write both the same way",
                )
        return list(ids)


PARTITIONERS: Final = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "quantity": Quantity,
    "column": ByColumn,
}
"""The names of a run file: ``[population] partition = "dirichlet"``."""
