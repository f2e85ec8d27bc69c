"""Numbers as people read them: means with intervals, thousands, bytes, and *n/a* for what is not.

Intervals are Student's: mean ± t(0.975, n − 1)·s/√n. They speak of the spread between seeds only;
they do not cover another population of patients, nor another choice of sites.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MISSING = "n/a"
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``count`` of ``seeds`` values; no ends with fewer than two."""

    mean: float | None
    low: float | None
    high: float | None
    count: int = 1
    seeds: int = 1

    @property
    def half(self) -> float | None:
        """Half the width, None without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def holds_zero(self) -> bool | None:
        """Whether 0 lies inside; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        """Write ``0.842 ± 0.012``, ``0.842``, or ``n/a``; say so where seeds are missing."""
        if self.mean is None:
            return MISSING
        spread = "" if self.half is None else f" ± {measure(self.half)}"
        part = "" if self.count == self.seeds else f" ({self.count} of {self.seeds} seeds)"
        return measure(self.mean) + spread + part


def t95(freedom: int) -> float:
    """Return the 0.975 quantile of Student's t; four digits (Abramowitz & Stegun 26.7.5)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = _Z
    one = (z**3 + z) / 4
    two = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    three = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + one / freedom + two / freedom**2 + three / freedom**3


def interval(values: Sequence[float | None]) -> Interval:
    """Return mean and 95 % t-interval over the values that are there."""
    known = [v for v in values if v is not None]
    n = len(known)
    if n == 0:
        return Interval(None, None, None, 0, len(values))
    mean = math.fsum(known) / n
    if n == 1:
        return Interval(mean, None, None, 1, len(values))
    variance = math.fsum((v - mean) ** 2 for v in known) / (n - 1)
    half = t95(n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n, len(values))


def measure(value: float | None) -> str:
    """Write a metric: three decimals, or four digits where it is large; a real minus sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:,.4g}"
    return _signed(text)


def short(value: float | None) -> str:
    """Write a number in at most four significant digits."""
    return MISSING if value is None or not math.isfinite(value) else _signed(f"{value:.4g}")


def difference(value: Interval) -> str:
    """Write a difference with its sign."""
    if value.mean is None or value.mean < 0:
        return str(value)
    return "+" + str(value)


def whole(value: float | None) -> str:
    """Write a whole number with thousands."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def plural(count: int, noun: str) -> str:
    """Write ``1 round``, ``2 rounds``."""
    return f"{whole(count)} {noun}" + ("" if count == 1 else "s")


def percent(part: float, of: float) -> str:
    """Write a share; what is not quite none or all does not read so."""
    if of <= 0:
        return MISSING
    share = 100 * part / of
    if 0 < share < 9.95:
        return f"{share:.2g} %"
    return f"{share:.0f} %" if share < 99.5 or part >= of else f"{min(share, 99.9):.1f} %"


def size(count: float | None) -> str:
    """Write a number of bytes in units of 1,000."""
    if count is None or not math.isfinite(count):
        return MISSING
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while abs(count) >= 1000 and len(units) > 1:
        count, units = count / 1000, units[1:]
    return f"{count:.3g} {units[0]}" if abs(count) < 999.5 else f"{count:,.0f} {units[0]}"


def duration(seconds: float) -> str:
    """Write a time with the unit that fits it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def spans(numbers: Iterable[int]) -> str:
    """Write sorted whole numbers as ``1–3, 7``, cut after a dozen spans."""
    found = list[tuple[int, int]]()
    for n in sorted(set(numbers)):
        if found and found[-1][1] == n - 1:
            found[-1] = (found[-1][0], n)
        else:
            found.append((n, n))
    texts = [f"{a}" if a == b else f"{a}–{b}" for a, b in found]
    return ", ".join(texts[:12]) + (" …" if len(texts) > 12 else "")


def _signed(text: str) -> str:
    return text.replace("-", "−")
