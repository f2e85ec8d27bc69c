"""Metrics as sums: ``counts(outputs, targets) -> int64[]`` at a site, ``value(counts)`` anywhere.

Counts of several sites add up to the counts of their union, so a pooled metric is exact (AUC: up to
the ties inside one of 1,024 score bins), and the same integers can be masked or noised. A metric
that its counts do not define is None (shown *n/a*), never NaN; :meth:`Metric.undefined` says why.

``outputs`` are what the model returns, as float64: for two classes one score per row (a logit:
positive means class 1) or two columns; for k classes k columns, which may be followed by further
axes as torch has them (rows × classes × places); for regression one number per row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

BINS = 1024
LARGEST = 2.0**1000
"""What an infinite score counts as."""
FIXED = 2.0**-16
"""Resolution of sums of real numbers (losses, errors)."""
FIXED_BOUND = 2**60
"""Largest magnitude of such a sum in units of FIXED: 2^44 ≈ 1.8e13 in its own."""
BEYOND = FIXED_BOUND + 1
"""Stands for a sum that is not finite or has no place there; a report that holds it is refused."""


@dataclass(frozen=True)
class Metric:
    """One metric: how it is counted, and what the counts are worth.

    ``size``: how many integers; ``undefined``: why ``value`` is None, in a few words.
    """

    name: str
    size: int
    counts: Callable[[Floats, Floats], Counts]
    value: Callable[[Counts], float | None]
    undefined: Callable[[Counts], str]
    higher_is_better: bool = True

    def __repr__(self) -> str:
        """Name the metric."""
        return f"hanse.metrics.{self.name}"


def scores(outputs: Floats) -> Floats:
    """Return one score per row, larger for class 1; ValueError for more than two classes."""
    if outputs.ndim == 1 or outputs.shape[1:] == (1,):
        return outputs.reshape(-1)
    if outputs.ndim == 2 and outputs.shape[1] == 2:
        return outputs[:, 1] - outputs[:, 0]
    raise ValueError(f"a metric of two classes got outputs of shape {outputs.shape}")


def _classes(outputs: Floats) -> NDArray[np.int64]:
    if outputs.ndim > 1 and outputs.shape[1] > 1:
        return outputs.argmax(axis=1).reshape(-1).astype(np.int64)
    return (scores(outputs) > 0).astype(np.int64)


def _histogram(outputs: Floats, targets: Floats) -> Counts:
    """Return positives then negatives per bin of s/(1+|s|), a monotone map of scores to (−1, 1)."""
    score = np.nan_to_num(scores(outputs), nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST)
    squashed = score / (1 + np.abs(score))
    bins = np.clip(((squashed + 1) * (BINS // 2)).astype(np.int64), 0, BINS - 1)
    positive = targets.reshape(-1) > 0.5
    return np.concatenate(
        [np.bincount(bins[positive], minlength=BINS), np.bincount(bins[~positive], minlength=BINS)]
    ).astype(np.int64)


def _auc(counts: Counts) -> float | None:
    positives, negatives = counts[:BINS].astype(np.float64), counts[BINS:].astype(np.float64)
    pairs = positives.sum() * negatives.sum()
    if pairs == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def _average_precision(counts: Counts) -> float | None:
    positives, negatives = counts[:BINS][::-1], counts[BINS:][::-1]
    if positives.sum() == 0:
        return None
    hits, taken = np.cumsum(positives), np.cumsum(positives + negatives)
    precision = hits / np.maximum(taken, 1)
    return float((precision * positives).sum() / positives.sum())


def _one_class(counts: Counts) -> str:
    positives, negatives = int(counts[:BINS].sum()), int(counts[BINS:].sum())
    if positives + negatives == 0:
        return "no examples"
    return f"only one class: {positives} positives, {negatives} negatives"


def _confusion(outputs: Floats, targets: Floats) -> Counts:
    predicted, actual = scores(outputs) > 0, targets.reshape(-1) > 0.5
    cells = [predicted & actual, predicted & ~actual, ~predicted & actual, ~predicted & ~actual]
    return np.array([cell.sum() for cell in cells], dtype=np.int64)


def _ratio(top: float, bottom: float) -> float | None:
    return float(top / bottom) if bottom else None


def _balanced(counts: Counts) -> float | None:
    hit, false, missed, rejected = counts.tolist()
    if not (hit + missed and false + rejected):
        return None
    return (hit / (hit + missed) + rejected / (false + rejected)) / 2


def _binary(name: str, value: Callable[[Counts], float | None], lacking: str) -> Metric:
    return Metric(name, 4, _confusion, value, lambda _: lacking)


def _correct(outputs: Floats, targets: Floats) -> Counts:
    right = _classes(outputs) == np.rint(targets.reshape(-1)).astype(np.int64)
    return np.array([right.sum(), right.size], dtype=np.int64)


def _error(distance: Callable[[Floats], Floats]) -> Callable[[Floats, Floats], Counts]:
    def counts(outputs: Floats, targets: Floats) -> Counts:
        off = distance(outputs.reshape(-1) - targets.reshape(-1))
        return np.array([fixed(float(off.sum())), off.size], dtype=np.int64)

    return counts


def fixed(total: float) -> int:
    """Return a sum of real numbers in units of FIXED; BEYOND if it has no place there."""
    units = total / FIXED
    return round(units) if abs(units) <= FIXED_BOUND else BEYOND


def fixed_many(totals: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return :func:`fixed` of each."""
    with np.errstate(over="ignore"):
        units = totals / FIXED
    fits = np.abs(units) <= FIXED_BOUND
    return np.where(fits, np.rint(np.where(fits, units, 0.0)).astype(np.int64), BEYOND)


def _mean(counts: Counts) -> float | None:
    return _ratio(int(counts[0]) * FIXED, int(counts[1]))


def _none(_: Counts) -> str:
    return "no examples"


auc = Metric("auc", 2 * BINS, _histogram, _auc, _one_class)
average_precision = Metric(
    "average_precision", 2 * BINS, _histogram, _average_precision, _one_class
)
accuracy = Metric("accuracy", 2, _correct, lambda c: _ratio(int(c[0]), int(c[1])), _none)
balanced_accuracy = _binary("balanced_accuracy", _balanced, "only one class")
precision = _binary("precision", lambda c: _ratio(int(c[0]), int(c[0] + c[1])), "none predicted")
recall = _binary("recall", lambda c: _ratio(int(c[0]), int(c[0] + c[2])), "no positives")
specificity = _binary("specificity", lambda c: _ratio(int(c[3]), int(c[1] + c[3])), "no negatives")
mse = Metric("mse", 2, _error(np.square), _mean, _none, higher_is_better=False)
mae = Metric("mae", 2, _error(np.abs), _mean, _none, higher_is_better=False)

METRICS = {
    metric.name: metric
    for metric in (
        *(auc, average_precision, accuracy, balanced_accuracy, precision, recall, specificity),
        *(mse, mae),
    )
}
