"""Label skew: clients whose classes mix differently, by draws from a Dirichlet distribution."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hanse.core.seeds import stream
from hanse.data.checks import check_alpha, check_minimum, check_room
from hanse.data.deal import apportion, as_parts, deal, equal_sizes, hold_minimum
from hanse.data.labels import Classes, Column, Columns, Rows, classes, pick
from hanse.errors import ConfigError, DataError

MAX_CLASSES = 10_000
"""More classes than this are taken for identifiers: label skew over them means nothing."""


@dataclass(frozen=True, slots=True)
class Dirichlet:
    """Label skew: clients mix the classes differently, the more so the smaller ``alpha``.

    ``sizes="equal"`` is Hsu, Qi and Brown (arXiv:1909.06335): client k draws its class mix
    q_k ~ Dir(``alpha``·p), p being the class shares of the whole data, then its rows without
    replacement; a class that runs out leaves the draw, whose rest is scaled up. Sizes differ by one
    at most, so skew of labels comes without skew of sizes. Clients draw in random order, since the
    last ones take what is left. ``alpha`` is the concentration of all classes together: over ten
    even classes 0.5 is Dir(0.05, …, 0.05), a stronger skew than 0.5 means under ``"drawn"``.

    ``sizes="drawn"`` is Yurochkin et al. (arXiv:1905.12022), which many benchmarks mean by
    "Dirichlet": every class is divided among the clients by its own draw of Dir(``alpha``), so
    sizes are skewed too. Where the paper's followers draw again until every client holds
    ``minimum`` rows, clients below it here get rows from the others, at random and in proportion
    to what those have to spare.
    """

    alpha: float
    sizes: Literal["equal", "drawn"] = "equal"
    column: str = "target"
    minimum: int = 1

    def __post_init__(self) -> None:
        """Refuse an alpha outside [1e-6, 1e6], an unknown rule for sizes, a negative minimum."""
        check_alpha(self.alpha)
        check_minimum(self.minimum)
        if self.sizes not in ("equal", "drawn"):
            raise ConfigError(
                f'sizes = "{self.sizes}" is no rule of a Dirichlet partition',
                hint='"equal" (arXiv:1909.06335) or "drawn" (arXiv:1905.12022)',
            )

    def split(self, data: Columns, clients: int, seed: int) -> list[Rows]:
        """Return each client's rows; see ``Partitioner.split``."""
        found = _few_classes(pick(data, self.column))
        n = len(found.codes)
        check_room(n, clients, self.minimum)
        rng = stream(seed, "partition")
        draw = _equal_mixes if self.sizes == "equal" else _drawn_mixes
        counts = draw(rng, found.counts, clients, self.alpha)
        mixed = rng.permutation(n)
        by_class = mixed[np.argsort(found.codes[mixed], kind="stable")]
        owners = deal(by_class, counts.T.ravel()) % clients  # classes one after another
        return as_parts(hold_minimum(rng, owners, clients, self.minimum), clients)


def _equal_mixes(
    rng: np.random.Generator, pool: NDArray[np.int64], clients: int, alpha: float
) -> NDArray[np.int64]:
    """Return rows per client and class, int64 [clients, classes], by Hsu, Qi and Brown."""
    left = pool.copy()
    counts = np.zeros((clients, len(pool)), np.int64)
    sizes = equal_sizes(int(pool.sum()), clients)
    for client in rng.permutation(clients):
        mix = rng.dirichlet(alpha * pool / pool.sum())
        counts[client] = _draw(rng, int(sizes[client]), mix, left)
        left -= counts[client]
    return counts


def _draw(
    rng: np.random.Generator, n: int, mix: NDArray[np.float64], pool: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return how many of ``n`` rows come of each class: ``mix``, as far as the pool [classes] goes.

    Each pass ends the draw or empties a class, so there are at most as many passes as classes. What
    overflows is drawn again among the open classes: the law of drawing row by row.
    """
    taken = np.zeros_like(pool)
    while n:
        left = pool - taken
        weights = np.where(left > 0, mix, 0.0)
        if not weights.any():  # all that the mix names is gone: take what there is
            weights = left.astype(np.float64)
        more = np.minimum(rng.multinomial(n, weights / weights.sum()), left)
        taken += more
        n -= int(more.sum())
    return taken


def _drawn_mixes(
    rng: np.random.Generator, pool: NDArray[np.int64], clients: int, alpha: float
) -> NDArray[np.int64]:
    """Return rows per client and class, int64 [clients, classes], by Yurochkin et al."""
    prior = np.full(clients, alpha)
    return np.stack([apportion(int(size), rng.dirichlet(prior)) for size in pool], axis=1)


def _few_classes(labels: Column) -> Classes:
    found = classes(labels)
    if len(found.values) > MAX_CLASSES:
        raise DataError(
            f"the label column has {len(found.values)} distinct values, more than {MAX_CLASSES}:"
            " they look like identifiers, not classes",
            hint="name the label column",
        )
    return found
