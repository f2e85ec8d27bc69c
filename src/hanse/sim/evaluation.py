"""Evaluation: the counts of each client, their exact sum, and what both are worth."""

from collections.abc import Mapping, Sequence

import numpy as np

from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.core.metrics import BEYOND, FIXED, Metric
from hanse.core.spec import RunSpec
from hanse.core.step import Integers, Refused
from hanse.sim.pool import Pool

MOST_SITES = 200
Counts = Mapping[str, int | Integers]


def evaluate(
    vector: Vector, spec: RunSpec, metrics: Sequence[Metric], pool: Pool, round: int
) -> dict[str, Json] | None:
    """Return the ``evaluation`` of a history row: pooled, and per site where that is released."""
    return tallied(pool.evaluate(vector, spec.clients, round), spec, metrics)


def tallied(
    counts: Mapping[str, Counts], spec: RunSpec, metrics: Sequence[Metric]
) -> dict[str, Json] | None:
    """Return what the counts of clients are worth, pooled, and per site where that is released."""
    total, zero = spec.tally.accumulator(), np.zeros(0, dtype=spec.layout.dtype)
    is_whole = True
    for numbers in counts.values():
        share, _ = spec.tally.encode(zero, numbers, lambda purpose: np.random.default_rng(0))
        if isinstance(share, Refused):
            is_whole = False
        else:
            total.add(share, spec.tally.grids)
    if not counts:
        return None
    summed: Counts = spec.tally.unpack(total.scalars)
    pooled = values(summed if is_whole else {**summed, "loss": BEYOND}, metrics)
    sites: dict[str, Json] = {}
    if spec.evaluation.release in ("per-site", "simulation") and len(counts) <= MOST_SITES:
        sites = {client: values(numbers, metrics) for client, numbers in counts.items()}
    return {"pooled": pooled, "sites": sites}


def values(counts: Counts, metrics: Sequence[Metric]) -> dict[str, Json]:
    """Return loss and metrics of ``counts``; an undefined metric is None, with its reason."""
    examples, loss = (int(np.asarray(counts[name]).item()) for name in ("examples", "loss"))
    if loss == BEYOND:
        names = ["loss", *(metric.name for metric in metrics)]
        why: dict[str, Json] = dict.fromkeys(names, "the loss is not finite")
        return {"examples": examples, **dict.fromkeys(names), "undefined": why}
    row: dict[str, Json] = {
        "examples": examples,
        "loss": loss * FIXED / examples if examples else None,
    }
    undefined: dict[str, Json] = {}
    for metric in metrics:
        numbers = np.atleast_1d(np.asarray(counts[metric.name], dtype=np.int64))
        row[metric.name] = metric.value(numbers)
        if row[metric.name] is None:
            undefined[metric.name] = metric.undefined(numbers)
    return {**row, "undefined": undefined} if undefined else row
