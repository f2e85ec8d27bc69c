"""Draws of the Skellam distribution, the difference of two Poisson variables, from uniform bits.

By inversion: a uniform number of 320 bits against a table of the distribution of |X|, and a bit for
the sign. The first 63 bits decide but for once in 10^13; only then are the others drawn. How long
it takes depends on what is drawn: it is not for whom a clock tells something.

The table. P(X = k) = e^−µ·I_k(µ) for variance µ (Skellam, J. R. Stat. Soc. 109(3), 1946), and
I_{k−1} = I_{k+1} + (2k/µ)·I_k, run backwards from I_{K+1} = 0 and I_K = 1 in integers, then divided
by the sum, since the probabilities are 1 together (Miller's algorithm; DLMF §3.6, §10.74). No
exponential and no Bessel function is computed, and nothing cancels: all terms are positive.

How far a draw is from the distribution, in total variation:

- Numbers above K. By Chernoff's bound, with the log-moments µ·(cosh θ − 1), P(X ≥ t) ≤
  exp(−(t·asinh(t/µ) − µ·(√(1 + (t/µ)²) − 1))). K is where that is 2^−324, and such draws have a
  probability of 2^−323.
- The start of the recurrence. What it makes is a multiple of I_k − (−1)^(k−K−1)·(I_{K+1}/K_{K+1})·
  K_k, with K_k the other solution, which grows with k. So P(X = k) is off by at most P(X = K + 1),
  and all K + 1 of them, twice with the normalisation, by at most 4·(K + 1)·2^−324.
- Rounding of the recurrence: each of K steps rounds down to a whole number. All numbers J_k are at
  least the first two, 2^384 and 2^384·2K/µ, since J_{k−1} ≥ J_{k+1}, and 2K/µ is above 2^−14: so
  that is 2^−370 of each and K·2^−370 in all, twice.
- Rounding of the table to 320 bits: 2^−320 for each of K + 1 entries.

K is below 2^20, so together it is less than 2^−298 for a draw, which DISTANCE is rounded up from.
A variance above LARGEST is a sum of several draws, each of its part: the distribution is closed
under addition. What is beyond :func:`largest` then, and would be refused as out of range, is no
more than the first of these.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.core.seeds import Chance
from hanse.core.step import Integers

DISTANCE: Final = 2.0**-290
"""Total variation between one draw of a table and the distribution, at most."""
LARGEST: Final = 2.0**28
"""Variance of the widest table: a standard deviation of 16,384, and 350,000 entries."""
WORD: Final = 320
FIRST: Final = 63
GUARD: Final = 384
TAIL: Final = 324 * math.log(2)
GUIDE: Final = 16
"""So many bits lead to where the search begins: of the most frequent numbers to the one before."""
PIECE: Final = 2**14


@dataclass(frozen=True, slots=True)
class Table:
    """The first 63 bits of P(|X| ≤ k), k = 0 to K − 1, of variance ``variance``.

    ``first`` ends with a number above all of them; ``guide`` has for each 16 bits how many entries
    are below all numbers that begin with them.
    """

    variance: float
    first: NDArray[np.uint64]
    guide: NDArray[np.int64]


def parts(variance: float) -> int:
    """Return how many draws are added up for one of ``variance``."""
    return max(1, math.ceil(variance / LARGEST))


def largest(variance: float) -> int:
    """Return what |draws| of :func:`skellam` are not above, but for a probability of 2^−323."""
    return _most(variance)


def skellam(size: int, variance: float, chance: Chance) -> Integers:
    """Return ``size`` independent draws of mean 0 and variance ``variance`` > 0."""
    many = parts(variance)
    table = _table(variance / many)
    drawn = _draw(size, table, chance)
    for _ in range(many - 1):
        drawn += _draw(size, table, chance)
    return drawn


def _draw(size: int, table: Table, chance: Chance) -> Integers:
    drawn = np.empty(size, dtype=np.int64)
    for start in range(0, size, PIECE):
        room = drawn[start : start + PIECE]
        words = np.frombuffer(chance.bytes(8 * room.size), dtype="<u8")
        bits = words.astype(np.uint64, copy=False) >> np.uint64(1)
        room[:] = _found(bits, table)
        before = table.first[np.maximum(room - 1, 0)]
        for place in np.flatnonzero((before == bits) & (room > 0)):
            room[place] = _resolved(int(bits[place]), table.variance, chance)
        signs = (words & np.uint64(1)).astype(np.int64)
        room *= 1 - 2 * signs
    return drawn


def _found(bits: NDArray[np.uint64], table: Table) -> Integers:
    """Return how many entries are at most ``bits``, of each: two steps from where the guide says,
    and a search for the few that are further.
    """
    places = table.guide[bits >> np.uint64(FIRST - GUIDE)]
    for _ in range(2):
        places += table.first[places] <= bits
    far = np.flatnonzero(table.first[places] <= bits)
    places[far] = np.searchsorted(table.first, bits[far], side="right")
    return places


def _resolved(bits: int, variance: float, chance: Chance) -> int:
    """Return the |number| for a uniform number that begins with ``bits``, by the whole table."""
    rest = WORD - FIRST
    more = int.from_bytes(chance.bytes(-(-rest // 8)), "little") % (1 << rest)
    drawn = (bits << rest) | more
    return sum(entry <= drawn for entry in _entries(variance))


@lru_cache(maxsize=4)
def _table(variance: float) -> Table:
    rest = WORD - FIRST
    entries = [entry >> rest for entry in _entries(variance)]
    first = np.array([*entries, 1 << FIRST], dtype=np.uint64)
    starts = np.arange(1 << GUIDE, dtype=np.uint64) << np.uint64(FIRST - GUIDE)
    return Table(variance, first, np.searchsorted(first, starts, side="left"))


def _most(variance: float) -> int:
    """Return the least K with P(X ≥ K) ≤ 2^−324, by Chernoff's bound."""
    low, high = 0, 1
    while _rate(high, variance) < TAIL:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _rate(middle, variance) < TAIL else (low, middle)
    return high


def _rate(t: int, variance: float) -> float:
    """Return t·asinh(t/µ) − µ·(√(1 + (t/µ)²) − 1), the last factor so that nothing cancels."""
    x = t / variance
    return t * math.asinh(x) - variance * x * x / (math.sqrt(1 + x * x) + 1)


def _entries(variance: float) -> list[int]:
    """Return ⌊2^320·P(|X| ≤ k)⌋ for k = 0 to K − 1: of larger ones there are none."""
    over, under = variance.as_integer_ratio()
    double, most = 2 * under, _most(variance)
    terms, above, here = [1 << GUARD], 0, 1 << GUARD
    for k in range(most, 0, -1):
        above, here = here, above + k * double * here // over
        terms.append(2 * here)
    terms[0] *= 2  # of −K and K; of 0 there is one
    terms[-1] = here
    whole = sum(terms)
    entries, sofar = list[int](), 0
    for term in reversed(terms[1:]):
        sofar += term
        entries.append((sofar << WORD) // whole)
    return entries
