"""How well an attack tells the rows that a model was trained on from those that it was not.

LiRA (Carlini et al., arXiv:2112.03570, Algorithm 1): a row's confidence under the attacked model,
compared with what it is under other models that saw the row, and that did not. Left out of it:
augmented queries, and a spread for each row, for which there would have to be many more models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError

Reals = NDArray[np.float64]
RATES: Final = (0.001, 0.01, 0.1)
ALARMS: Final = 10
"""False alarms below which their rate is not known well enough to be held against a claim."""
FEWEST: Final = 6
LEAST: Final = 2
"""Models with a row, and without it, from which the row is judged."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``hits`` of ``members`` were told, a part of ``true`` from ``low`` to ``high``, where a part
    of at most ``false`` of the others were taken for members.
    """

    false: float
    true: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Membership:
    """What was found over ``guesses`` about ``rows`` rows and ``models`` models: ``auc`` is the
    chance that a member looks more like one than another row does (1/2: by chance). Intervals are
    at 95 %, and count guesses as if they were of separate rows. ``rates``: at rates of false alarms
    of which there are ten or more.
    """

    auc: float
    rates: tuple[Rate, ...]
    rows: int
    models: int
    guesses: int


def likelihood_ratios(confidence: Reals, inside: NDArray[np.bool_]) -> tuple[Reals, Reals]:
    """Return, over all models as the attacked one in turn, the logarithms of the likelihood ratios
    of rows that were trained on, and of those that were not.

    ``confidence`` [models, rows], and ``inside`` whether the model saw the row. Two Gaussians a
    row: their means from the other models, their spread one for all rows. ConfigError for fewer
    than six models.
    """
    models = len(confidence)
    if models < FEWEST:
        raise ConfigError(
            f"{models} models are too few to compare with", hint=f"train {FEWEST} or more"
        )
    members, others = list[Reals](), list[Reals]()
    for attacked in range(models):
        rest: NDArray[np.bool_] = np.arange(models) != attacked
        seen, known = inside[rest], confidence[rest]
        within, without = _fitted(known, seen), _fitted(known, ~seen)
        judged = (seen.sum(0) >= LEAST) & ((~seen).sum(0) >= LEAST)
        ratio = _log_density(confidence[attacked], *within)
        ratio = ratio - _log_density(confidence[attacked], *without)
        members.append(ratio[judged & inside[attacked]])
        others.append(ratio[judged & ~inside[attacked]])
    return np.concatenate(members), np.concatenate(others)


def _fitted(values: Reals, chosen: NDArray[np.bool_]) -> tuple[Reals, float]:
    """Return the mean of each row's chosen values, and the spread of all around them."""
    counts = np.maximum(chosen.sum(0), 1)
    means = np.where(chosen, values, 0.0).sum(0) / counts
    squares = np.where(chosen, (values - means) ** 2, 0.0).sum()
    freedom = max(1, int(np.maximum(chosen.sum(0) - 1, 0).sum()))
    return means, math.sqrt(float(squares) / freedom) + 1e-9


def _log_density(values: Reals, means: Reals, spread: float) -> Reals:
    return -(((values - means) / spread) ** 2) / 2 - math.log(spread)


def judged(confidence: Reals, inside: NDArray[np.bool_]) -> Membership:
    """Return how well rows are told; arguments as of :func:`likelihood_ratios`.

    ConfigError where no row was in two other models and out of two.
    """
    members, others = likelihood_ratios(confidence, inside)
    if not len(members) or not len(others):
        raise ConfigError("no row can be judged: models are too few", hint="train more of them")
    rates = tuple(
        rate_at(members, others, false) for false in RATES if false * len(others) >= ALARMS
    )
    models, rows = confidence.shape
    guesses = len(members) + len(others)
    return Membership(auc_of(members, others), rates, rows, models, guesses)


def auc_of(members: Reals, others: Reals) -> float:
    """Return the chance that a member's score is above another's, ties counting half."""
    order = np.sort(others)
    below = np.searchsorted(order, members, "left") + np.searchsorted(order, members, "right")
    return float(below.sum() / (2 * len(members) * len(others)))


def rate_at(members: Reals, others: Reals, false: float) -> Rate:
    """Return how many members are told where at most ``false`` of the others are taken for some."""
    allowed = math.floor(false * len(others))
    threshold = np.sort(others)[len(others) - 1 - allowed]
    hits = int((members > threshold).sum())
    return Rate(false, hits / len(members), *_interval(hits, len(members)))


def _interval(hits: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a part (Wilson, JASA 22, 1927)."""
    z, part = 1.959964, hits / of
    middle = (part + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(part * (1 - part) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def most_told(epsilon: float, delta: float, false: float) -> float:
    """Return the largest part of members that any attack may tell at a rate of false alarms, where
    one row is hidden by (ε, δ): min(e^ε·f + δ, 1 − e^−ε·(1 − δ − f)) (Kairouz, Oh, Viswanath,
    arXiv:1311.0776, Theorem 2.1).
    """
    larger = math.exp(min(epsilon, 700.0))
    return min(1.0, larger * false + delta, 1 - (1 - delta - false) / larger)


def scaled(losses: Sequence[float] | Reals) -> Reals:
    """Return ln(p/(1 − p)) of p = e^−loss, the confidence in the right answer: about normal."""
    kept = np.maximum(np.asarray(losses, np.float64), 1e-12)
    return -kept - np.log(-np.expm1(-kept))
