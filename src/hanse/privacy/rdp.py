"""Rényi differential privacy (Mironov, arXiv:1702.07476): of each event, at some orders.

An upper bound everywhere; loose where the sampling rate is small, as it is in federated learning.
It is what is computed where there is no grid of privacy losses, and where dp-accounting is missing.
"""

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.core.dp_events import (
    Composed,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    Nothing,
    PoissonSampled,
    Repeated,
    Skellam,
)
from hanse.errors import ConfigError

BETWEEN: Final = (1.25, 1.5, 1.75, 2.5, 3.5, 4.5)
ORDERS: Final = np.array(
    sorted([*BETWEEN, *range(2, 65), *range(68, 129, 4), *range(144, 257, 16),
            320, 384, 512, 768, 1024])
)  # fmt: skip
WHOLE: Final = np.floor(ORDERS) == ORDERS
"""Which orders are integers: of some events only these have a bound that is known."""
Orders = NDArray[np.float64]
FLAT, SHARP, FINE = 1e3, 0.05, 8
"""Noise that is integrated over, and steps in what is less of it and its square."""
LOG_ROOT: Final = math.log(math.sqrt(2 * math.pi))
LEAST: Final = 1e-100
"""Less noise than this is none."""


def epsilon(event: Event, delta: float) -> float:
    """Return ε at ``delta``, by the conversion of Canonne, Kamath and Steinke (arXiv:2004.00010,
    Proposition 12): the least over orders α of RDP + ln(1 − 1/α) − ln(δ·α)/(α − 1).
    """
    divergences, orders = divergence(event), ORDERS
    if not divergences.any():
        return 0.0
    found = divergences + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    return max(0.0, float(np.min(found)))


@lru_cache(maxsize=4096)
def divergence(event: Event) -> Orders:
    """Return the Rényi divergence between neighbours at each of ORDERS, at most."""
    orders = ORDERS
    match event:
        case Nothing():
            return np.zeros_like(orders)
        case Repeated(inner, count):
            return count * divergence(inner) if count else np.zeros_like(orders)
        case Composed(events):
            return sum((divergence(inner) for inner in events), np.zeros_like(orders))
        case Gaussian(multiplier):
            return _gaussian(multiplier)
        case Laplace(multiplier):
            return _laplace(multiplier)
        case Skellam(l1, l2, variance):
            return _skellam(l1, l2, variance)
        case PoissonSampled(rate, inner):
            return _poisson(rate, inner)
        case FixedSizeSampled(population, cohort, inner):
            return _fixed(cohort / population, inner)
        case _:
            raise ConfigError(f"{event} is no event that is known", hint="update Hanse")


def _gaussian(multiplier: float) -> Orders:
    """α/(2z²) (Mironov 2017, Corollary 3)."""
    orders = ORDERS
    if multiplier < LEAST:
        return np.full_like(orders, math.inf)
    return orders / (2 * multiplier) / multiplier


def _laplace(multiplier: float) -> Orders:
    """Mironov 2017, Proposition 6, with λ = b/C and p = 1/λ taken out, so that much noise does not
    cancel to nothing; what rounding may still take is added.
    """
    orders = ORDERS
    if multiplier < LEAST:
        return np.full_like(orders, math.inf)
    pure = 1 / multiplier
    less = (orders - 1) * np.expm1((1 - 2 * orders) * pure) / (2 * orders - 1)
    return np.maximum(pure + np.log1p(less) / (orders - 1), 0) + 2.0**-50 * pure


def _skellam(l1: float, l2: float, variance: float) -> Orders:
    """Agarwal, Kairouz, Liu (arXiv:2110.04995), their bound for integer orders."""
    orders = ORDERS
    if not l2:
        return np.zeros_like(orders)
    if variance < LEAST:
        return np.full_like(orders, math.inf)
    first = ((2 * orders - 1) * l2**2 + 6 * l1) / (4 * variance) / variance
    found = orders * l2**2 / (2 * variance) + np.minimum(first, 3 * l1 / (2 * variance))
    return np.where(WHOLE, found, math.inf)


def _poisson(rate: float, inner: Event) -> Orders:
    """Mironov, Talwar, Zhang (arXiv:1908.10530), §3.3: for a Gaussian and integer α,
    exp((α−1)·RDP) = Σ_k C(α, k) (1−q)^(α−k) q^k exp((k² − k)/(2z²)); for others the integral that
    this is.

    Of anything else it is that of the event itself: a sample is a mixture of it with what does not
    depend on the record, and the divergence is quasi-convex (van Erven, Harremoës,
    arXiv:1206.2459, Theorem 13).
    """
    if rate == 1:
        return divergence(inner)
    if rate == 0 or isinstance(inner, Nothing):
        return np.zeros(len(ORDERS))
    precision = gaussian_precision(inner)
    if precision is None or not 0 < precision < math.inf:
        return divergence(inner)
    multiplier = 1 / math.sqrt(precision)
    return np.array([_poisson_at(order, rate, multiplier) for order in ORDERS.tolist()])


def _poisson_at(order: float, rate: float, multiplier: float) -> float:
    """Return the divergence at one order. Without its exponentials the sum is 1: that is taken off
    term by term, so that nothing cancels where the rest is next to nothing.
    """
    if not order.is_integer():
        return _integrated(order, rate, multiplier)
    order = int(order)
    k = np.arange(2, order + 1, dtype=np.float64)
    terms = _log_binomials(order)[2:] + (order - k) * math.log1p(-rate) + k * math.log(rate)
    growth = k * (k - 1) / (2 * multiplier) / multiplier
    terms += growth + np.log(-np.expm1(-growth))
    excess = float(np.logaddexp.reduce(terms))
    return float(np.logaddexp(0.0, excess)) / (order - 1)


def _integrated(order: float, rate: float, multiplier: float) -> float:
    """Return ln E[(1 + t)^α]/(α − 1), t = q·(exp((2x − 1)/(2z²)) − 1) and x from N(0, z²)
    (arXiv:1908.10530, Theorem 4), by the trapezoidal rule, and what rounding may take.

    The integrand is analytic but for 1 + t = 0, which is πz² off the real line: with steps of h the
    rule is off by about exp(−2π·y/h + y²/(2z²)) for any y below that (Trefethen, Weideman, SIAM
    Review 56(3), Theorem 5.1), which is less than e^−150 here. The integrand's mass is within
    14 z of 0 or of α. Since E[t] = 0, α·t is taken off, and what is left is never negative.
    """
    if multiplier > FLAT or multiplier < SHARP:
        return _poisson_at(float(math.ceil(order)), rate, multiplier)  # it grows with the order
    step = multiplier * min(1.0, multiplier) / FINE
    x = np.arange(-14 * multiplier, order + 14 * multiplier, step)
    power = (2 * x - 1) / (2 * multiplier**2)
    logs = order * np.logaddexp(math.log1p(-rate), math.log(rate) + power)
    weights = -((x / multiplier) ** 2) / 2 + math.log(step / multiplier) - LOG_ROOT
    whole = float(np.logaddexp.reduce(logs + weights))
    if whole > 0.1:
        return (whole + 1e-11) / (order - 1)
    t = rate * np.expm1(power)
    terms = np.exp(weights) * (np.expm1(order * np.log1p(t)) - order * t)
    rounding = 1e-14 * float(np.abs(np.exp(weights) * order * t).sum())
    return math.log1p(float(terms.sum()) * (1 + 1e-11) + rounding) / (order - 1)


def _fixed(rate: float, inner: Event) -> Orders:
    """Wang, Balle, Kasiviswanathan (arXiv:1808.00087), Theorem 9, for replacing one record: of a
    Gaussian whose bound C that moves by 2C, and whose ε(∞) is infinite, so that the minima in it
    are 2 and min(4(e^ε(2) − 1), 2e^ε(2)).
    """
    multiplier = _multiplier(inner) / 2
    if rate == 0 or math.isinf(multiplier):
        return np.zeros(len(ORDERS))
    if rate == 1 or multiplier < LEAST:
        return _gaussian(multiplier)
    return np.array([
        _fixed_at(int(order), rate, multiplier) if order.is_integer() else math.inf
        for order in ORDERS.tolist()
    ])  # fmt: skip


def _fixed_at(order: int, rate: float, multiplier: float) -> float:
    j = np.arange(order + 1, dtype=np.float64)
    plain = order / (2 * multiplier**2)
    terms = _log_binomials(order) + j * math.log(rate) + math.log(2)
    terms += (j - 1) * j / (2 * multiplier**2)
    two = 1 / multiplier**2
    second = math.log(4) + two + math.log(-math.expm1(-two))
    terms[2] = _log_binomials(order)[2] + 2 * math.log(rate) + min(second, math.log(2) + two)
    terms[:2] = (0.0, -math.inf)
    return min(plain, float(np.logaddexp.reduce(terms)) / (order - 1))


def _multiplier(inner: Event) -> float:
    """Return the multiplier of the Gaussian that ``inner`` is: composed ones are one."""
    precision = gaussian_precision(inner)
    if precision is None:
        raise ConfigError(
            f"the Rényi divergence of a sample of {inner} is not known",
            hint="sample Gaussian noise only",
        )
    return 1 / math.sqrt(precision) if precision else math.inf


def gaussian_precision(event: Event) -> float | None:
    """Return Σ 1/z² of an event of nothing but Gaussians, or None for another."""
    match event:
        case Nothing():
            return 0.0
        case Gaussian(multiplier):
            return 1 / multiplier / multiplier if multiplier >= LEAST else math.inf
        case Repeated(inner, count):
            once = gaussian_precision(inner)
            return None if once is None else (once * count if count else 0.0)
        case Composed(events):
            parts = [gaussian_precision(inner) for inner in events]
            return None if None in parts else sum(part for part in parts if part is not None)
        case _:
            return None


@lru_cache(maxsize=256)
def _log_binomials(order: int) -> Orders:
    logs = np.array([math.lgamma(k + 1) for k in range(order + 1)])
    return logs[-1] - logs - logs[::-1]
