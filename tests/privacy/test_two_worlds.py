"""Two worlds, one of them without a client: what comes out tells them apart no better than claimed.

An observer sees what a pipeline releases and guesses which world it is. With error rates bounded
from many runs (Clopper, Pearson 1934), that gives an ε which the mechanism has at least (Kairouz,
Oh, Viswanath, ICML 2015, eq. 6: the probability of a guess in one world is at most e^ε times that
in the other, plus δ).
"""

import math

import numpy as np
import pytest

from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.seeds import stream
from hanse.core.weight import Weight
from hanse.privacy import Clip, GaussianNoise

RUNS = 100_000
SURE = 1e-4
EPSILON, DELTA = 1.0, 1e-2
CLIP = 2.0


def normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def delta(epsilon: float, multiplier: float) -> float:
    """δ of the Gaussian mechanism (Balle, Wang, arXiv:1805.06530, Theorem 8)."""
    mean = 1 / multiplier
    return normal(mean / 2 - epsilon / mean) - math.exp(epsilon) * normal(
        -mean / 2 - epsilon / mean
    )


def bisected(function, wanted: float, low: float, high: float) -> float:
    """Where a falling function has a value."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > wanted else (low, middle)
    return high


def chances(count: int, runs: int, wrong: float) -> tuple[float, float]:
    """A probability's bounds, each wrong with probability ``wrong``, of ``count`` of ``runs``.

    By the tails of a binomial after Chernoff and Hoeffding (1963): wider than Clopper's and
    Pearson's, and free of special functions.
    """
    seen = count / runs

    def far(p: float) -> float:
        """Relative entropy of Bernoulli(seen) and Bernoulli(p), times runs."""
        both = ((seen, p), (1 - seen, 1 - p))
        return runs * sum(a * math.log(a / b) for a, b in both if a)

    limit = -math.log(wrong)
    least = 0.0 if not count else bisected(far, limit, 1e-12, seen)
    most = 1.0 if count == runs else 1 - bisected(lambda q: far(1 - q), limit, 1e-12, 1 - seen)
    return least, most


class Halved(GaussianNoise):
    """Says one thing and does another."""

    def noise(self, size, exponent, place):
        return GaussianNoise(self.noise_multiplier / 2).noise(size, exponent, place)


def releases(noise: GaussianNoise, updates: list[float], seed: int) -> np.ndarray:
    """What RUNS rounds release of a model of one parameter, over the bound of a share."""
    layout = Layout.build("float32", [("w", (1,), "trainable")])
    steps = [Weight(by="uniform", denominator=1.0), Clip(CLIP), noise]
    bound, found = Pipeline(steps).bind(layout, cohort=4), np.empty(RUNS)
    whole = bound.accumulator()
    for update in updates:
        vector = layout.zeros()
        vector[0] = update
        whole.add(bound.encode(vector, {}, lambda purpose: stream(seed, purpose))[0], bound.grids)
    drawn = stream(seed, "all rounds, one after another")
    for run in range(RUNS):
        total, _ = bound.decode(bound.accumulator(whole.vector.copy()), lambda purpose: drawn)
        found[run] = total.vector[0]
    return found / CLIP


def least_epsilon(noise: GaussianNoise, seed: int = 1) -> float:
    """The ε at DELTA that a guess by a threshold between the worlds proves."""
    without, present = [0.3], [0.3, 1e6]
    # Where the likelihood ratio is e^(ε/2): further out there is more to see, and less often.
    threshold = 0.3 / CLIP + 0.5 + noise.noise_multiplier**2 * EPSILON / 2
    one = releases(noise, present, seed) > threshold
    other = releases(noise, without, seed + 1) > threshold
    least, _ = chances(int(one.sum()), RUNS, SURE / 2)
    _, most = chances(int(other.sum()), RUNS, SURE / 2)
    return math.log(max(least - DELTA, 1e-300) / most)


def multiplier() -> float:
    """The noise that is ε = 1 at δ = 0.01, exactly."""
    return bisected(lambda z: delta(EPSILON, z), DELTA, 0.1, 100.0)


def test_the_bounds_of_a_probability_hold_and_are_not_far_off():
    rng, wrong = np.random.default_rng(0), 1e-3
    for p in (1e-4, 0.02, 0.5, 0.97):
        counts = rng.binomial(10_000, p, 20_000)
        bounds = {count: chances(count, 10_000, wrong) for count in set(counts.tolist())}
        below = np.mean([bounds[count][0] > p for count in counts.tolist()])
        above = np.mean([bounds[count][1] < p for count in counts.tolist()])
        assert max(below, above) <= wrong + 4 * math.sqrt(wrong / 20_000)
        least, most = chances(round(10_000 * p), 10_000, wrong)
        assert most - least < 10 * math.sqrt(p * (1 - p) / 10_000) + 2e-3


@pytest.mark.timeout(300)
def test_noise_as_claimed_is_not_caught():
    least = least_epsilon(GaussianNoise(multiplier()))
    assert 0.3 < least <= EPSILON, "a bound that says nothing gates nothing"


@pytest.mark.timeout(300)
def test_noise_that_was_secretly_halved_is_caught():
    assert least_epsilon(Halved(multiplier())) > 1.2 * EPSILON
