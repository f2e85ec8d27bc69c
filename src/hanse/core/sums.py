"""Exact sums: shares are put on an integer grid, so that order and grouping cannot matter.

A share is rounded to the wire's dtype, then to the nearest integer (ties to even) at scale 2^F, and
added in int64. Floating-point sums depend on their order; these do not, so the total is the same
for any arrival order and any number of workers.

F = min(50 − ⌈log2 L⌉, 62 − ⌈log2(L·n_max)⌉), with L the largest |coordinate| of a share and n_max
the largest cohort: a share fits the 52 bits that the conversion below has, and the sum fits 63 with
a bit to spare for noise.

Every function exists twice with the same bits: here in NumPy, and in :mod:`hanse.core.accelerate`
for machines that have numba.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hanse.core.layout import Vector

LANES = 256
CHUNK = LANES * 256
UNBOUNDED = 2.0**16
MAGIC = 1.5 * 2.0**52
"""Adding it to |x| < 2^51 leaves rint(x) in the low bits (Warren, Hacker's Delight)."""
MAGIC_BITS = np.float64(MAGIC).view(np.int64)


@dataclass(frozen=True, slots=True)
class Grid:
    """The integers that shares of at most ``limit`` per coordinate are summed in.

    ``exponent`` is F, ``limit`` L in model units, ``cohort`` n_max clients.
    """

    exponent: int
    limit: float
    cohort: int

    @staticmethod
    def choose(limit: float, cohort: int) -> "Grid":
        """Return the finest grid for ``cohort`` shares of at most ``limit``."""
        if not (limit > 0 and cohort >= 1):
            raise ValueError(f"no grid for {cohort} shares of at most {limit}")
        limit = UNBOUNDED if math.isinf(limit) else limit
        exponent = min(50 - _ceil_log2(limit), 62 - _ceil_log2(limit * cohort))
        return Grid(exponent, limit, cohort)

    def coarsened(self, exponent: int) -> "Grid":
        """Return this grid with an exponent of at most ``exponent``."""
        return replace(self, exponent=min(self.exponent, exponent))

    @property
    def step(self) -> float:
        """Distance between neighbours, in model units."""
        return 2.0**-self.exponent


def _ceil_log2(value: float) -> int:
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if mantissa == 0.5 else exponent


def _chunks(size: int) -> Iterator[slice]:
    for start in range(0, size, CHUNK):
        yield slice(start, min(start + CHUNK, size))


def norm(vector: Vector) -> float:
    """Return the L2 norm of ``vector``; not finite if a coordinate is not.

    Defined so that every implementation has the same bits: float64 squares in 256 lanes, row after
    row, and the lanes summed exactly (``math.fsum``).
    """
    rows = np.zeros((CHUNK // LANES + 1, LANES))
    lanes = np.zeros(LANES)
    with np.errstate(over="ignore", invalid="ignore"):
        for chunk in _chunks(vector.size):
            part = vector[chunk]
            used = -(-part.size // LANES)
            block = rows[: used + 1]
            block[0] = lanes
            flat = block[1:].reshape(-1)
            flat[part.size :] = 0
            np.multiply(part, part, out=flat[: part.size], dtype=np.float64)
            np.add.reduce(block, axis=0, out=lanes)
    return math.sqrt(exact(lanes))


def exact(lanes: NDArray[np.float64]) -> float:
    """Return the exactly rounded sum of ``lanes``; infinity if it is not finite."""
    try:
        total = math.fsum(lanes.tolist())
    except OverflowError:
        return math.inf
    return total if math.isfinite(total) else math.inf


def peak(vector: Vector) -> float:
    """Return the largest |coordinate|, NaN if there is one; 0 for an empty vector."""
    if vector.size == 0:
        return 0.0
    return max(abs(float(vector.max())), abs(float(vector.min())))


def on_wire(vector: Vector, scale: float) -> Vector:
    """Return ``vector``·``scale`` in the dtype of ``vector``: what travels.

    That is ``vector`` itself where the scale is 1.
    """
    if scale == 1.0:
        return vector
    with np.errstate(over="ignore"):
        return vector * factor_of(vector, scale)


def factor_of(vector: Vector, scale: float) -> np.floating:
    """Return ``scale`` in the dtype of ``vector``, rounded towards 0: no bound may grow by it.

    Rounding to nearest would do for normal numbers, for which bounds leave room, but doubles a
    factor near the smallest subnormal.
    """
    factor = vector.dtype.type(scale)
    fits = abs(float(factor)) <= abs(scale)
    return factor if fits else np.nextafter(factor, vector.dtype.type(0))


def factors_of(vectors: Vector, scales: NDArray[np.float64]) -> Vector:
    """Return :func:`factor_of` each scale."""
    factors = scales.astype(vectors.dtype)
    fits = np.abs(factors.astype(np.float64)) <= np.abs(scales)
    return np.where(fits, factors, np.nextafter(factors, vectors.dtype.type(0)))


def norms(vectors: Vector) -> NDArray[np.float64]:
    """Return the :func:`norm` of each row."""
    return np.array([norm(vector) for vector in vectors])


def accumulate_many(
    total: NDArray[np.int64], vectors: Vector, scales: NDArray[np.float64], exponent: int
) -> None:
    """Accumulate each row with its scale."""
    for vector, scale in zip(vectors, scales.tolist(), strict=True):
        accumulate(total, vector, scale, exponent)


def accumulate(total: NDArray[np.int64], vector: Vector, scale: float, exponent: int) -> None:
    """Add rint(on_wire(vector, scale)·2^exponent) to ``total``, in place.

    The caller has checked that every coordinate on the wire is within the grid's limit.
    """
    factor, magic = 2.0**exponent, MAGIC_BITS
    wide = np.empty(min(CHUNK, vector.size))
    for chunk in _chunks(vector.size):
        part = on_wire(vector[chunk], scale)
        room = wide[: part.size]
        np.multiply(part, factor, out=room, dtype=np.float64)
        room += MAGIC
        integers = room.view(np.int64)
        integers -= magic
        total[chunk] += integers


def on_grid(vector: Vector, exponent: int) -> NDArray[np.int64]:
    """Return the integers of a vector that is already in the wire's dtype."""
    total = np.zeros(vector.size, dtype=np.int64)
    accumulate(total, vector, 1.0, exponent)
    return total


def to_reals(total: NDArray[np.int64], exponent: int) -> NDArray[np.float64]:
    """Return the sum in model units, rounded once to float64, in the memory of ``total``."""
    reals, factor = total.view(np.float64), 2.0**-exponent
    for chunk in _chunks(total.size):
        reals[chunk] = total[chunk].astype(np.float64) * factor
    return reals
