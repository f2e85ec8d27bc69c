"""What an attack on one run can say of its ε: a lower bound that holds with confidence, and an
estimate.

Canaries are clients who push as far as they can in directions of their own, each in the run or out
of it by a fair coin. A score says how far the model went in a canary's direction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.privacy.accounting import gaussian

LARGEST = 50.0
FEWEST = 20
GUESSED = 4
"""One of so many canaries is guessed about, half of those to be in; the rest are in the middle."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found: ``lower`` ≤ ε with probability ``confidence``, over all that was drawn.

    ``power``: what ``lower`` would be if every guess were right, so the most that it can say.
    ``estimate``, from ``low`` to ``high`` with the same confidence: ε of two Gaussians with the
    scores' means and spread; it bounds nothing. ``right`` of ``guesses`` were right.
    """

    lower: float
    power: float
    confidence: float
    estimate: float
    low: float
    high: float
    right: int
    guesses: int
    canaries: int


def audit(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    delta: float,
    confidence: float = 0.95,
) -> Audit:
    """Return what ``scores`` [m] of canaries say, of which those ``included`` [m] were in the run.

    ConfigError for fewer than 20, or a confidence that is none.
    """
    canaries = len(scores)
    if not 0.5 <= confidence < 1:
        raise ConfigError(f"confidence = {confidence} is none", hint="give 0.95")
    if canaries < FEWEST:
        raise ConfigError(f"{canaries} canaries say nothing", hint=f"plant {FEWEST} or more")
    half = max(canaries // (2 * GUESSED), 1)
    order = np.argsort(scores, kind="stable")
    right = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
    guesses, error = 2 * half, 1 - confidence
    lower = lower_bound(right, guesses, canaries, delta, error)
    power = lower_bound(guesses, guesses, canaries, delta, error)
    return Audit(
        lower, power, confidence, *_estimate(scores, included, delta, confidence),
        right, guesses, canaries,
    )  # fmt: skip


def lower_bound(right: int, guesses: int, canaries: int, delta: float, error: float) -> float:
    """Return the ε that a run has at least, but for a probability of ``error``, where ``right`` of
    ``guesses`` about ``canaries`` coins were right.

    Steinke, Nasr, Jagielski, arXiv:2305.08846, Theorem 5.2: with W binomial of ``guesses`` and
    e^ε/(1 + e^ε), so many are right with a probability of at most
    P[W ≥ v] + 2mδ·max_i P[v > W ≥ v − i]/i. The largest ε for which that is ≤ ``error``; 0 if none.
    """

    def is_refuted(epsilon: float) -> bool:
        return _chance_of(right, guesses, epsilon, 2 * canaries * delta) <= error

    return _largest(is_refuted)


def _chance_of(right: int, guesses: int, epsilon: float, weight: float) -> float:
    tail = _tails(guesses, 1 / (1 + math.exp(-epsilon)))
    at_least = tail[right]
    most = max((tail[right - i] - at_least) / i for i in range(1, right + 1)) if right else 0.0
    return min(1.0, at_least + weight * most)


@lru_cache(maxsize=256)
def _tails(n: int, p: float) -> tuple[float, ...]:
    """Return P[W ≥ v] of W binomial of ``n`` and ``p``, for v from 0 to n."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(n + 1)
    ]  # fmt: skip
    tails, total = list[float](), 0.0
    for log in reversed(logs):
        total += math.exp(log)
        tails.append(min(1.0, total))
    return tuple(reversed(tails))


def _largest(holds: Callable[[float], bool]) -> float:
    """Return the largest ε, rounded down, up to which ``holds``."""
    low, high = 0.0, LARGEST
    if not holds(low):
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _estimate(
    scores: NDArray[np.float64], included: NDArray[np.bool_], delta: float, confidence: float
) -> tuple[float, float, float]:
    """Return ε of Gaussians as far apart as the two groups' means, and an interval of it.

    Andrew et al., arXiv:2302.03098, with the canaries that are out in the place of the null's
    formula. The standard error of d = Δmean/spread is that of Cohen's d.
    """
    inside, outside = scores[included], scores[~included]
    if min(len(inside), len(outside)) < 2:
        return 0.0, 0.0, math.inf
    n, m = len(inside), len(outside)
    spread = math.sqrt(((n - 1) * inside.var(ddof=1) + (m - 1) * outside.var(ddof=1)) / (n + m - 2))
    if spread == 0:
        return math.inf, math.inf, math.inf
    apart = float(inside.mean() - outside.mean()) / spread
    error = math.sqrt(1 / n + 1 / m + apart**2 / (2 * (n + m - 2)))
    z = _quantile((1 + confidence) / 2)
    low, middle, high = (max(0.0, apart + by * error) for by in (-z, 0.0, z))
    return gaussian(middle**2, delta), gaussian(low**2, delta), gaussian(high**2, delta)


def _quantile(p: float) -> float:
    """Return the point below which a standard normal is with probability ``p``."""
    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        below = 0.5 * math.erfc(-middle / math.sqrt(2))
        low, high = (middle, high) if below < p else (low, middle)
    return high
