"""Pooling of running statistics: means and variances of several sites become those of their union.

A mean of variances is not the variance of the union: that is Σp(σ² + μ²) − μ². So a site reports
E[x²] = σ² + μ² in the place of σ², which pools linearly, and the server subtracts μ² again.
Integer buffers (``num_batches_tracked``) are never averaged: they are not in the vector at all.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hanse.core.layout import Entry, Layout, Vector

PAIRS = (("running_mean", "running_var"), ("moving_mean", "moving_variance"))


def _pairs(layout: Layout) -> Iterator[tuple[Entry, Entry]]:
    by_name = {entry.name: entry for entry in layout.entries if entry.role == "buffer"}
    for name, mean in by_name.items():
        for first, second in PAIRS:
            if name.endswith(first):
                variance = by_name.get(name.removesuffix(first) + second)
                if variance is not None:
                    yield mean, variance


def to_moments(layout: Layout, buffers: Vector) -> NDArray[np.float64]:
    """Return the buffer segment in float64 with E[x²] in the place of each variance."""
    moments, start = buffers.astype(np.float64), layout.span("buffer").start
    for mean, variance in _pairs(layout):
        m = moments[mean.offset - start : mean.end - start]
        moments[variance.offset - start : variance.end - start] += m * m
    return moments


def from_moments(layout: Layout, moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the buffer segment with variances again; the inverse of :func:`to_moments`."""
    buffers, start = moments.copy(), layout.span("buffer").start
    for mean, variance in _pairs(layout):
        m = buffers[mean.offset - start : mean.end - start]
        v = buffers[variance.offset - start : variance.end - start]
        np.maximum(v - m * m, 0.0, out=v)
    return buffers
