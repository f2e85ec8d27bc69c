"""The kernels of :mod:`hanse.core.sums` and :mod:`hanse.core.hadamard` compiled by numba: the same
bits, at memory speed.

numba is optional (``pip install hanse[fast]``) and imported here only, when first asked for. Set
``HANSE_NUMBA=0`` to do without it.
"""

# numba has no stubs:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportCallIssue=false

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hanse.core import hadamard as transform
from hanse.core import sums
from hanse.core.layout import Vector


@dataclass(frozen=True, slots=True)
class Kernels:
    """The two passes over a vector that each update costs, for one vector and for many, and the
    transform of a rotation, in place.
    """

    name: str
    norm: Callable[[Vector], float]
    accumulate: Callable[[NDArray[np.int64], Vector, float, int], None]
    norms: Callable[[Vector], NDArray[np.float64]]
    accumulate_many: Callable[[NDArray[np.int64], Vector, NDArray[np.float64], int], None]
    hadamard: Callable[[NDArray[np.float64]], None]


WORTH = 2**20
"""Coordinates from which on numba's kernels repay the second that their import takes."""


def kernels_for(size: int) -> Kernels:
    """Return the kernels for vectors of ``size``, where few of them are to come."""
    return kernels() if size >= WORTH else _plain()


def _plain() -> Kernels:
    sum_all = (sums.norm, sums.accumulate, sums.norms, sums.accumulate_many)
    return Kernels("numpy", *sum_all, transform.hadamard)


@cache
def kernels() -> Kernels:
    """Return numba's kernels where numba is installed and allowed, else NumPy's."""
    plain = _plain()
    if os.environ.get("HANSE_NUMBA", "1") == "0":
        return plain
    try:
        return _compiled()
    except ImportError:
        return plain


def warm(*dtypes: str) -> None:
    """Load the kernels for vectors of ``dtypes`` now: who forks does it once, and not in each."""
    chosen, total = kernels(), np.zeros(1, dtype=np.int64)
    chosen.hadamard(np.zeros(4))
    for dtype in dtypes:
        vector = np.zeros(1, dtype=dtype)
        chosen.norm(vector)
        chosen.accumulate(total, vector, 1.0, 0)
        chosen.norms(vector[None])
        chosen.accumulate_many(total, vector[None], np.ones(1), 0)


def _compiled() -> Kernels:
    from numba import njit, types  # pyright: ignore -- no stubs
    from numba.extending import intrinsic  # pyright: ignore -- no stubs

    @intrinsic
    def bits(typing, value):  # pyright: ignore  # pragma: no cover -- numba's convention
        def build(context, builder, signature, arguments):  # pyright: ignore
            return builder.bitcast(arguments[0], context.get_value_type(types.int64))

        return types.int64(types.float64), build

    @njit(cache=True, fastmath=False, error_model="numpy")
    def lanes_of(vector, lanes):  # pyright: ignore  # pragma: no cover -- compiled
        whole = vector.size // 256
        for row in range(whole):
            start = row * 256
            for lane in range(256):
                value = np.float64(vector[start + lane])
                lanes[lane] += value * value
        for lane in range(vector.size - whole * 256):
            value = np.float64(vector[whole * 256 + lane])
            lanes[lane] += value * value

    @njit(cache=True, fastmath=False, error_model="numpy")
    def add(total, vector, scale, factor):  # pyright: ignore  # pragma: no cover -- compiled
        magic = 1.5 * 2.0**52
        offset = bits(magic)
        for i in range(vector.size):
            total[i] += bits(np.float64(vector[i] * scale) * factor + magic) - offset

    @njit(cache=True, fastmath=False, error_model="numpy")
    def add_many(total, vectors, scales, factor):  # pyright: ignore  # pragma: no cover -- compiled
        for start in range(0, total.size, 4096):  # so much of the total stays in the cache
            for k in range(vectors.shape[0]):
                end = min(start + 4096, total.size)
                add(total[start:end], vectors[k, start:end], scales[k], factor)

    @njit(cache=True, fastmath=False, error_model="numpy")
    def rounded(lanes):  # pyright: ignore  # pragma: no cover -- compiled
        # Compensated summation (Ogita, Rump, Oishi 2005, algorithm 4.4): high + low is the sum of
        # 256 numbers, none negative, to 2^-36 of high's last place. Where low is not that near to
        # half of it, high is the sum exactly rounded. -1: ask math.fsum.
        high, low = 0.0, 0.0
        for value in lanes:
            after = high + value
            part = after - high
            low += (high - (after - part)) + (value - part)
            high = after
        whole = high + low
        rest = low - (whole - high)
        if not 1e-250 < whole < 1e250:
            return 0.0 if whole == 0.0 else -1.0
        mantissa, exponent = math.frexp(whole)
        near = math.ldexp(0.4999999, exponent - 53)
        return whole if mantissa != 0.5 and abs(rest) < near else -1.0

    @njit(cache=True, fastmath=False, error_model="numpy")
    def sum_of(vector, lanes):  # pyright: ignore  # pragma: no cover -- compiled
        lanes_of(vector, lanes)
        return rounded(lanes)

    @njit(cache=True, fastmath=False, error_model="numpy")
    def sums_of(vectors, lanes, found):  # pyright: ignore  # pragma: no cover -- compiled
        for k in range(vectors.shape[0]):
            found[k] = sum_of(vectors[k], lanes[k])

    @njit(cache=True, fastmath=False, error_model="numpy")
    def among_rows(part):  # pyright: ignore  # pragma: no cover -- compiled
        half = 1
        while half < part.shape[0]:
            for block in range(0, part.shape[0], 2 * half):
                for row in range(block, block + half):
                    for i in range(part.shape[1]):
                        one, two = part[row, i], part[row + half, i]
                        part[row, i], part[row + half, i] = one + two, one - two
            half *= 2

    @njit(cache=True, fastmath=False, error_model="numpy")
    def turn(table, scale, width):  # pyright: ignore  # pragma: no cover -- compiled
        rows, columns = table.shape
        part = np.empty((rows, width))
        for start in range(0, columns, width):  # so much stays in the cache, and in one place
            part[:] = table[:, start : start + width]
            among_rows(part)
            table[:, start : start + width] = part
        for row in range(rows):
            half = 1
            while half < columns:
                for block in range(0, columns, 2 * half):
                    for i in range(block, block + half):
                        one, two = table[row, i], table[row, i + half]
                        table[row, i], table[row, i + half] = one + two, one - two
                half *= 2
            for i in range(columns):
                table[row, i] *= scale

    def hadamard(vector: NDArray[np.float64]) -> None:
        rows, columns, scale = transform.shape(vector.size)
        turn(vector.reshape(rows, columns), scale, min(columns, transform.WIDTH))

    def norms(vectors: Vector) -> NDArray[np.float64]:
        lanes, found = np.zeros((len(vectors), sums.LANES)), np.empty(len(vectors))
        sums_of(vectors, lanes, found)
        for k in np.flatnonzero(found < 0):
            found[k] = sums.exact(lanes[k])
        return np.sqrt(found)

    def accumulate_many(
        total: NDArray[np.int64], vectors: Vector, scales: NDArray[np.float64], exponent: int
    ) -> None:
        add_many(total, vectors, sums.factors_of(vectors, scales), 2.0**exponent)

    def norm(vector: Vector) -> float:
        lanes = np.zeros(sums.LANES)
        found = sum_of(vector, lanes)
        return math.sqrt(found if found >= 0 else sums.exact(lanes))

    def accumulate(total: NDArray[np.int64], vector: Vector, scale: float, exponent: int) -> None:
        add(total, vector, sums.factor_of(vector, scale), 2.0**exponent)

    return Kernels("numba", norm, accumulate, norms, accumulate_many, hadamard)
