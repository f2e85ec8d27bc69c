"""From events to ε, and back to the noise that an ε takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from hanse.core.dp_events import (
    Composed,
    Event,
    FixedSizeSampled,
    Gaussian,
    PoissonSampled,
    Relation,
    Repeated,
    Skellam,
)
from hanse.errors import ConfigError
from hanse.privacy import pld, rdp

Accountant = Literal["pld", "rdp"]
MOST: Final = 1e6
COARSE: Final = 1e-4
"""The step of the grid while noise is searched for: its ε is an upper bound too."""
SMALL: Final = 0.1
"""Below this ε that step is too coarse to come close."""
CLOSE: Final = 0.995
MOST_PRECISE: Final = 1e16
"""Σ 1/z² from which on ε, half of it, is called infinite."""
PAID: Final = 2.0**-20
"""The part of δ that pays for draws which are not exactly of their distribution."""
DRAWN: Final = 2.0**-210
"""Total variation of all draws of a run: of 2^80 of them, far more than any has, 2^-290 each."""
HUGE: Final = 100.0
"""By Rényi divergences: from here on nothing is protected, and a grid takes much memory."""


@dataclass(frozen=True, slots=True)
class Epsilon:
    """An ε at ``delta``, for neighbours of one ``relation``.

    ``accountant``: ``exact`` where there is a formula, a grid of privacy losses (``pld``), or Rényi
    divergences (``rdp``); ``why`` says why not the grid that was asked for.
    """

    epsilon: float
    delta: float
    accountant: Literal["exact", "pld", "rdp"]
    relation: Relation
    why: str = ""


def spent(event: Event, delta: float, accountant: Accountant = "pld") -> Epsilon:
    """Return what ``event`` comes to; ConfigError for a δ outside (0, 1), or unlike neighbours."""
    if not 0 < delta < 1:
        raise ConfigError(f"delta = {delta} is not between 0 and 1", hint="give one such as 1e-6")
    if accountant not in ("pld", "rdp"):
        raise ConfigError(f"accountant {accountant!r} is unknown", hint='use "pld" or "rdp"')
    if _is_from_a_table(event):
        return _charged(event, delta, accountant)
    return _spent(event, delta, accountant, pld.GRIDS[-1])


def _charged(event: Event, delta: float, accountant: Accountant) -> Epsilon:
    """Return what ``event`` comes to at ``delta`` where some of its noise is drawn from a table
    (:mod:`hanse.privacy.skellam_draws`).

    A mechanism within a total variation of η of one that is (ε, δ′)-private, on each data set, is
    (ε, δ′ + (1 + e^ε)·η)-private: P(M̃ ∈ S) ≤ P(M ∈ S) + η ≤ e^ε·P(M′ ∈ S) + δ′ + η ≤
    e^ε·(P(M̃′ ∈ S) + η) + δ′ + η. The 2^-20th part of δ pays for η = 2^-210; ε is infinite where it
    does not, which for a δ above 10^-15 is above 97.
    """
    found = _spent(event, delta * (1 - PAID), accountant, pld.GRIDS[-1])
    found = replace(found, delta=delta)
    if found.epsilon > HUGE or (1 + math.exp(found.epsilon)) * DRAWN > PAID * delta:
        return replace(found, epsilon=math.inf)
    return found


def _is_from_a_table(event: Event) -> bool:
    match event:
        case Skellam():
            return True
        case Repeated(inner, _) | PoissonSampled(_, inner) | FixedSizeSampled(_, _, inner):
            return _is_from_a_table(inner)
        case Composed(events):
            return any(map(_is_from_a_table, events))
        case _:
            return False


@lru_cache(maxsize=1024)
def _spent(event: Event, delta: float, accountant: Accountant, finest: float) -> Epsilon:
    relation, why = event.relation, ""
    bound = rdp.epsilon(event, delta)
    if accountant == "pld":
        precision = rdp.gaussian_precision(event)
        if precision is not None:
            return Epsilon(gaussian(precision, delta), delta, "exact", relation)
        if bound > HUGE:
            why = "so large that a grid would not say more"
        elif not pld.is_on_a_grid(event):
            why = "no grid is known for it"
        elif not pld.is_installed():
            why = "dp-accounting is not installed: pip install 'hanse[dp]'"
        else:
            found = pld.epsilon(event, delta, finest=finest)
            if found <= bound:
                return Epsilon(found, delta, "pld", relation)
            why = "the grid, or its tail, is too coarse for this"
    return Epsilon(bound, delta, "rdp", relation, why)


def gaussian(precision: float, delta: float) -> float:
    """Return ε of Gaussian mechanisms with Σ 1/z² = ``precision``: exactly (Balle, Wang,
    arXiv:1805.06530, Theorem 8), rounded up.
    """
    if precision == 0:
        return 0.0
    if precision > MOST_PRECISE:
        return math.inf
    mean = math.sqrt(precision)
    if _delta(0.0, mean) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _delta(high, mean) > delta:
        low, high = high, 2 * high
        if not high < math.inf:
            return math.inf
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, mean) > delta else (low, middle)
    return high


def _delta(epsilon: float, mean: float) -> float:
    """Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ), with the second factor of a tail in logarithms."""
    first, second = mean / 2 - epsilon / mean, -mean / 2 - epsilon / mean
    return _normal(first) - math.exp(epsilon + _log_normal(second))


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _log_normal(x: float) -> float:
    """ln Φ(x); far out by its asymptotic series, of which it is a lower bound by less than 1e-12.

    A lower bound of what is subtracted makes δ larger, so ε too.
    """
    if x > -30:
        return math.log(_normal(x))
    square = x * x
    small = 1 / square
    series = 1 - small + 3 * small * small - 15 * small * small * small
    return -square / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log(series)


def calibrated(
    event: Callable[[float], Event],
    epsilon: float,
    delta: float,
    *,
    most: float = MOST,
    accountant: Accountant = "pld",
) -> float:
    """Return the least noise multiplier m, within half a percent of ε, for which ``event(m)`` comes
    to at most ``epsilon``. ConfigError if ``most`` does not.
    """
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon = {epsilon} promises nothing", hint="give epsilon above 0")
    if not 0 < delta < 1:
        raise ConfigError(f"delta = {delta} is not between 0 and 1", hint="give one such as 1e-6")

    def comes_to(multiplier: float, by: Accountant = accountant) -> float:
        finest = COARSE if epsilon >= SMALL else pld.GRIDS[-1]
        return _spent(event(multiplier), delta, by, finest).epsilon

    if comes_to(most, "rdp") > epsilon and comes_to(most) > epsilon:
        raise ConfigError(
            f"noise of multiplier {most:g} still comes to more than ε = {epsilon:g} at δ = "
            f"{delta:g}",
            hint="promise a larger epsilon, plan fewer rounds, or ask fewer clients a round",
        )
    low, high = _bracket(comes_to, epsilon, most)
    for turn in range(100):
        if (found := comes_to(high)) >= CLOSE * epsilon or high / low <= 1 + 1e-9:
            break
        middle = _between(low, high, comes_to(low), found, epsilon, halve=turn % 3 == 2)
        low, high = (middle, high) if comes_to(middle) > epsilon else (low, middle)
    assert comes_to(high) <= epsilon
    return high


def _between(
    low: float, high: float, above: float, below: float, epsilon: float, *, halve: bool
) -> float:
    """Return where a power law through both ends is a little below ``epsilon``, or, now and then,
    the middle: a straight line may creep.
    """
    part = 0.5
    if not halve and below > 0 and above < math.inf:
        aim = math.log(epsilon * (1 + CLOSE) / 2)
        part = (math.log(above) - aim) / (math.log(above) - math.log(below))
    return low * (high / low) ** min(max(part, 0.01), 0.99)


def _bracket(comes_to: Callable[..., float], epsilon: float, most: float) -> tuple[float, float]:
    """Return multipliers below and above the one that is looked for: above by Rényi divergences,
    which are quick and never too small.
    """
    low, high = 1e-3, most
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if comes_to(middle, "rdp") > epsilon else (low, middle)
    while comes_to(high) > epsilon and high < most:  # a coarse grid, above the divergences
        high = min(most, 1.05 * high)
    low = high
    while comes_to(low) <= epsilon:
        if low < 1e-6:
            return low, low * 1.0000001
        high, low = low, low / 1.3
    return low, high


def _planned(noise_multiplier: float, sampling_rate: float, steps: int) -> Event:
    if not 0 <= sampling_rate <= 1:
        raise ConfigError(
            f"sampling_rate = {sampling_rate} is no probability", hint="give 0 to 1; 1 for everyone"
        )
    noise = Gaussian(noise_multiplier)
    once = noise if sampling_rate == 1 else PoissonSampled(sampling_rate, noise)
    return Repeated(once, steps)


def epsilon(
    *,
    noise_multiplier: float,
    delta: float,
    sampling_rate: float = 1.0,
    steps: int = 1,
    accountant: Accountant = "pld",
) -> float:
    """Return ε of ``steps`` Gaussian mechanisms, each of a Poisson sample, for adding or removing
    one record. ``noise_multiplier``: standard deviation of the noise over one record's L2 bound.

    ConfigError for arguments that are none.
    """
    return spent(_planned(noise_multiplier, sampling_rate, steps), delta, accountant).epsilon


def calibrate(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float = 1.0,
    steps: int = 1,
    accountant: Accountant = "pld",
) -> float:
    """Return the least noise multiplier, within half a percent of ε, that keeps to ``epsilon``.

    The arguments are those of :func:`epsilon`. 0 where nothing is released; ConfigError where no
    noise does.
    """
    if rdp.gaussian_precision(_planned(1.0, sampling_rate, steps)) == 0 or sampling_rate == 0:
        return 0.0
    return calibrated(
        lambda multiplier: _planned(multiplier, sampling_rate, steps),
        epsilon,
        delta,
        accountant=accountant,
    )
