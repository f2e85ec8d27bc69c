"""The fast Walsh–Hadamard transform: additions only, in an order that is fixed, so the bits are.

It exists twice with the same bits, here in NumPy and in :mod:`hanse.core.accelerate`.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

WIDTH: Final = 64
"""Columns that are transformed at once: of 1,024 rows they are 512 KiB, which a cache has."""
Reals = NDArray[np.float64]


def shape(size: int) -> tuple[int, int, float]:
    """Return rows and columns of the matrix that 2^k numbers are taken for, and 1/√2^k."""
    exponent = size.bit_length() - 1
    columns = 1 << (exponent // 2)
    scale = 2.0 ** -(exponent // 2) * (math.sqrt(0.5) if exponent % 2 else 1.0)
    return size // columns, columns, scale


def hadamard(vector: Reals) -> None:
    """Transform 2^k numbers, contiguous, in place, by Sylvester's matrix over √2^k: an involution.

    The stages add and subtract pairs of rows 1, 2, 4, … apart, then of columns.
    """
    rows, columns, scale = shape(vector.size)
    table = vector.reshape(rows, columns)
    _among_rows(table)
    turned = np.ascontiguousarray(table.T)
    _among_rows(turned)
    np.multiply(turned.T, scale, out=table)


def _among_rows(table: Reals) -> None:
    """Transform each column, not scaled, in place."""
    for start in range(0, table.shape[1], WIDTH):
        part = table[:, start : start + WIDTH].copy()
        half = 1
        while half < len(part):
            pairs = part.reshape(-1, 2, half, part.shape[1])
            less = pairs[:, 0] - pairs[:, 1]
            pairs[:, 0] += pairs[:, 1]
            pairs[:, 1] = less
            half *= 2
        table[:, start : start + WIDTH] = part
