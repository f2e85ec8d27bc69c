"""Draws of the Skellam distribution: its probabilities exactly, and samples two-sided."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import chi2

from hanse.core.seeds import stream
from hanse.privacy import skellam_draws
from hanse.privacy.secret import Secret
from hanse.privacy.skellam_draws import DISTANCE, LARGEST, largest, parts, skellam

VARIANCES = (0.01, 0.3, 5.0, 100.0, 1e4 + 0.1, 1e6, LARGEST)


def exact(variance: Fraction, most: int) -> list[Fraction]:
    """P(|X| ≤ k) but for the factor that makes all of them 1, by the series of I_k."""
    half, terms = variance / 2, list[Fraction]()
    for k in range(most + 1):
        term = half**k / math.factorial(k)
        total, m = Fraction(0), 0
        while m < 5 or term > Fraction(1, 2**420):
            total += term
            m += 1
            term *= half * half / (m * (m + k))
        terms.append(total * (2 if k else 1))
    whole = sum(terms)
    return [sum(terms[: k + 1]) / whole for k in range(most + 1)]


@pytest.mark.parametrize("variance", [0.01, 0.5, 4.0])
def test_the_table_is_the_series_of_the_bessel_functions_to_320_bits(variance):
    """Total variation of half the distances of all probabilities, of the part that is a number."""
    entries = skellam_draws._entries(variance)
    wanted = exact(Fraction(variance), len(entries) + 20)
    found = [Fraction(entry, 2**320) for entry in entries] + [Fraction(1)] * 21
    steps = [
        abs((a - b) - (c - d))
        for a, b, c, d in zip(found, [0, *found], wanted, [0, *wanted], strict=False)
    ]
    assert sum(steps) / 2 < DISTANCE


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_table_is_scipys_distribution(variance):
    table = skellam_draws._table(variance)
    k = np.arange(min(len(table.first) - 1, int(30 * math.sqrt(variance)) + 30))
    wanted = np.cumsum(ive(k, variance) * np.where(k > 0, 2, 1))
    assert table.first[: len(k)] / 2.0**63 == pytest.approx(wanted, abs=1e-10)
    assert (np.diff(table.first.astype(object)) >= 0).all()


def binned(variance: float, edges: np.ndarray) -> np.ndarray:
    """Probabilities of (−∞, e_0], (e_0, e_1], …, (e_n, ∞)."""
    most = largest(variance)
    k = np.arange(-most, most + 1)
    sums = np.cumsum(ive(np.abs(k), variance))
    below = sums[np.searchsorted(k, edges)]
    return np.diff([0.0, *below, 1.0])


@pytest.mark.parametrize("variance", [0.3, 5.0, 100.0, 1e4 + 0.1, 1e6, 3 * 2.0**26])
def test_samples_are_of_the_distribution(variance, monkeypatch):
    """χ² of 400,000 draws in up to 64 bins, two-sided: 10^-6 each side. The last is of 3 parts."""
    if variance > 1e8:
        monkeypatch.setattr(skellam_draws, "LARGEST", 2.0**26)
        assert parts(variance) == 3
    n = 400_000
    drawn = skellam(n, variance, stream(11, str(variance)))
    quantiles = np.unique(np.rint(np.quantile(drawn, np.linspace(0.01, 0.99, 63))))
    edges = quantiles.astype(np.int64)
    wanted = binned(variance, edges) * n
    found = np.bincount(np.searchsorted(edges, drawn), minlength=len(wanted))
    keep = wanted > 20
    statistic = float(((found - wanted)[keep] ** 2 / wanted[keep]).sum())
    degrees = int(keep.sum()) - 1
    assert chi2.ppf(1e-6, degrees) < statistic < chi2.ppf(1 - 1e-6, degrees)


@pytest.mark.parametrize("variance", [0.3, 100.0, 1e6])
def test_samples_have_the_variance_and_neither_lag_nor_sign_is_correlated(variance):
    """n = 10^6, five deviations each: of a variance √((2 + 1/µ)/n), of a correlation 1/√n."""
    n = 1_000_000
    drawn = skellam(n, variance, stream(12, str(variance))).astype(np.float64)
    off = 5 * math.sqrt((2 + 1 / variance) / n)
    assert drawn.var() / variance == pytest.approx(1, abs=off)
    assert drawn.mean() == pytest.approx(0, abs=5 * math.sqrt(variance / n))
    half = n // 2
    for one, two in (
        (drawn[1:], drawn[:-1]),
        (drawn[:half], drawn[half:]),
        (drawn[2:], drawn[:-2]),
    ):
        assert abs(np.corrcoef(one, two)[0, 1]) < 5 / math.sqrt(half)
    size, sign = np.abs(drawn), np.sign(drawn)
    assert abs(np.corrcoef(size, sign)[0, 1]) < 5 / math.sqrt(n)
    assert abs(np.corrcoef(size[1:], size[:-1])[0, 1]) < 5 / math.sqrt(n)


@pytest.mark.parametrize("chance", [lambda: stream(1, "same"), lambda: Secret(bytes(32))])
def test_the_same_bytes_are_the_same_draws_in_however_many_pieces(chance):
    one, two = skellam(50_000, 1e4, chance()), skellam(50_000, 1e4, chance())
    assert (one == two).all()
    generator = chance()
    first = [skellam(2**14, 1e4, generator), skellam(50_000 - 2**14, 1e4, generator)]
    assert (np.concatenate(first) == one).all()


class Given:
    """Chance whose bytes are given."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = [*pieces]

    def bytes(self, length: int, /) -> bytes:
        piece = self.pieces.pop(0)
        assert len(piece) >= length
        return piece[:length]


@pytest.mark.parametrize("place", [0, 5, 150, 200])
def test_where_63_bits_do_not_decide_the_others_do(place):
    """A draw that begins as an entry does is above or below it by its further bits."""
    entries = skellam_draws._entries(100.0)
    entry = entries[place]
    first, rest = entry >> 257, entry % 2**257
    word = ((first << 1) | 0).to_bytes(8, "little")
    for more, wanted in ((rest, place + 1), (rest - 1, place)):
        if more >= 0:
            chance = Given(word, more.to_bytes(33, "little"))
            assert skellam(1, 100.0, chance).tolist() == [wanted]
            assert chance.pieces == []
    chance = Given(((first << 1) | 1).to_bytes(8, "little"), rest.to_bytes(33, "little"))
    assert skellam(1, 100.0, chance).tolist() == [-place - 1]


def test_the_last_word_of_all_is_a_draw():
    chance = Given(b"\xff" * 8, b"\xff" * 33)
    assert skellam(1, 5.0, chance).tolist() == [-largest(5.0)]


def test_what_is_beyond_the_largest_has_no_probability_to_speak_of():
    for variance in VARIANCES[2:-1]:
        k = largest(variance)
        rate = k * math.asinh(k / variance) - variance * (math.hypot(1, k / variance) - 1)
        assert 324 <= rate / math.log(2) < 330
    assert largest(1e10) == pytest.approx(21.2 * 1e5, rel=0.01)
    assert len(skellam_draws._table(LARGEST).first) < 2**20


def test_draws_have_their_golden_bits():
    """A recorded run is trained again, so a table or a search of another version is no other."""
    found = hashlib.sha256()
    for variance in (0.3, 1e4, 1e6):
        found.update(skellam(20_000, variance, stream(1, "golden")).astype("<i8").tobytes())
    assert found.hexdigest() == GOLDEN


GOLDEN = "cdbf590c929f367572723660bd4cce77feb8d6641b85c9adcee1294d37015f60"
