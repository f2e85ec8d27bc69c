import math

import pytest

from hanse.report.numerals import (
    duration,
    interval,
    measure,
    percent,
    short,
    size,
    spans,
    t95,
)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Published tables of Student's t at 0.975.
    [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_the_t_quantile_is_that_of_the_tables(freedom, quantile):
    assert t95(freedom) == pytest.approx(quantile, abs=6e-4)


def test_an_interval_is_mean_and_t_times_standard_error():
    found = interval([0.80, 0.82, 0.84])  # s = 0.02, s/sqrt(3) = 0.011547, t = 4.3027
    assert found.mean == pytest.approx(0.82)
    assert found.half == pytest.approx(0.049684, abs=1e-6)
    assert str(found) == "0.820 ± 0.050"


def test_one_value_has_no_interval():
    assert str(interval([0.5])) == "0.500"
    assert interval([0.5]).half is None
    assert interval([0.5]).holds_zero is None


def test_nothing_is_not_available():
    assert str(interval([])) == "n/a"
    assert str(interval([None, None])) == "n/a"


def test_seeds_without_a_value_are_left_out_and_said():
    assert str(interval([0.5, None, 0.5])) == "0.500 ± 0.000 (2 of 3 seeds)"


def test_a_difference_within_the_spread_holds_zero():
    assert interval([-0.01, 0.02]).holds_zero
    assert not interval([0.10, 0.11]).holds_zero


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8416, "0.842"), (-0.5, "−0.500"), (None, "n/a"), (math.nan, "n/a"), (math.inf, "n/a"),
     (1234.5, "1,234"), (12345678.0, "1.235e+07")],
)  # fmt: skip
def test_a_measure_is_written_with_three_decimals_or_four_digits(value, text):
    assert measure(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (634_000, "634 kB"), (35.5e6, "35.5 MB"),
     (999_600, "1,000 kB"), (None, "n/a")],
)  # fmt: skip
def test_bytes_are_written_in_the_unit_that_fits(count, text):
    assert size(count) == text


def test_a_share_that_is_not_quite_none_or_all_does_not_read_so():
    told = [percent(part, 10_000) for part in (0, 4, 333, 1000, 9951, 9999, 10_000)]
    assert told == ["0 %", "0.04 %", "3.3 %", "10 %", "99.5 %", "99.9 %", "100 %"]
    assert percent(1, 0) == "n/a"


def test_spans_join_neighbours():
    assert spans([3, 1, 2, 7, 9, 10, 3]) == "1–3, 7, 9–10"
    assert spans(range(0, 60, 2)).endswith("22 …")


def test_durations_and_short_numbers():
    assert [duration(s) for s in (0.012, 90, 600, 9000)] == [
        "0.012 s",
        "90 s",
        "10 min",
        "2 h 30 min",
    ]
    assert short(0.123456) == "0.1235"
