"""Deal rows to clients: whole-number shares, piles of given sizes, and a least number for each."""

import numpy as np
from numpy.typing import NDArray

from hanse.data.labels import Rows

Counts = NDArray[np.int64]


def equal_sizes(n: int, piles: int) -> Counts:
    """Return ``piles`` sizes that sum to ``n`` and differ by one at most, the larger ones first."""
    return n // piles + (np.arange(piles) < n % piles).astype(np.int64)


def apportion(total: int, shares: NDArray[np.float64]) -> Counts:
    """Divide ``total`` by ``shares`` (≥ 0, sum 1); the largest remainders are rounded up."""
    quotas = total * shares
    counts = np.floor(quotas).astype(np.int64)
    rest = total - int(counts.sum())
    counts[np.argsort(counts - quotas, kind="stable")[:rest]] += 1
    return counts


def deal(order: Rows, sizes: Counts) -> NDArray[np.int64]:
    """Return each row's pile, int64 [n]: the first ``sizes[0]`` rows of ``order`` in pile 0, …"""
    owners = np.empty(len(order), np.int64)
    owners[order] = np.repeat(np.arange(len(sizes)), sizes)
    return owners


def as_parts(owners: NDArray[np.int64], clients: int) -> list[Rows]:
    """Return for each client the rows it owns, ascending; ``owners`` holds a client per row."""
    sizes = np.bincount(owners, minlength=clients)
    rows = np.argsort(owners, kind="stable").astype(np.int64, copy=False)
    return np.split(rows, np.cumsum(sizes)[:-1])


def hold_minimum(
    rng: np.random.Generator, owners: NDArray[np.int64], clients: int, minimum: int
) -> NDArray[np.int64]:
    """Return owners [n] with ``minimum`` rows each: the rich give random rows as they can spare.

    ``clients`` × ``minimum`` rows must be there. Who has enough already gains nothing.
    """
    sizes = np.bincount(owners, minlength=clients)
    short, spare = np.maximum(minimum - sizes, 0), np.maximum(sizes - minimum, 0)
    if not short.any():
        return owners
    given = apportion(int(short.sum()), spare / spare.sum())
    mixed = rng.permutation(len(owners))
    piles = mixed[np.argsort(owners[mixed], kind="stable")]  # by owner, in random order inside
    place_in_pile = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    moving = piles[place_in_pile < np.repeat(given, sizes)]
    held = owners.copy()
    held[rng.permutation(moving)] = np.repeat(np.arange(clients), short)
    return held
