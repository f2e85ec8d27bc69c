"""Exact sums: the same integers for any order, any grouping, and with or without numba."""

import json
import math
import struct
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hanse.core import accelerate, sums
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.reduce import Sum
from hanse.core.seeds import stream
from hanse.core.step import Refused
from hanse.core.sums import Grid

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "sums.json").read_text())

PLAIN = accelerate._plain()
FAST = accelerate._compiled()
SIZES = (0, 1, 2, 27, 28, 255, 256, 257, 511, 512, 7850, 65_535, 65_536, 65_537, 131_073)
SCALES = (1.0, 0.0, -0.0, -1.0, 0.5, 1 / 3, 0.1, 2.0**-32, 1e-30, 2.0**-140, 2.0**-149)
DTYPES = ("float32", "float64")
FINITE = {
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "float64": st.floats(-1e150, 1e150),
}


@pytest.fixture(params=[PLAIN, FAST], ids=lambda kernels: kernels.name)
def kernels(request) -> accelerate.Kernels:
    return request.param


def double(bits: str) -> float:
    return struct.unpack(">d", bytes.fromhex(bits))[0]


def read(bits: list[str], dtype: str) -> np.ndarray:
    raw = np.array([int(b, 16) for b in bits], dtype={"float32": "u4", "float64": "u8"}[dtype])
    return raw.view(dtype)


def heavy(size: int, dtype: str, seed: int) -> np.ndarray:
    """Numbers of all sizes up to 2^15, with zeros of both signs and denormals among them."""
    rng = stream(seed, size, dtype)
    vector = (rng.standard_normal(size) * 2.0 ** rng.integers(-60, 12, size)).astype(dtype)
    vector[::7], vector[::11] = 0.0, -0.0
    vector[::13] = np.finfo(dtype).smallest_subnormal
    return vector.clip(-(2.0**15), 2.0**15)


# --- vectors


@pytest.mark.parametrize("row", VECTORS["grids"], ids=str)
def test_the_grid_is_the_one_the_formula_gives_in_exact_arithmetic(row):
    limit = double(row["limit"])
    assert Grid.choose(limit, row["cohort"]) == Grid(row["exponent"], limit, row["cohort"])


@pytest.mark.parametrize("row", VECTORS["no_grids"], ids=str)
def test_shares_without_a_positive_limit_or_a_cohort_have_no_grid(row):
    with pytest.raises(ValueError, match="no grid for"):
        Grid.choose(double(row["limit"]), row["cohort"])


@pytest.mark.parametrize("row", VECTORS["sums"], ids=lambda row: f"{row['case']}-{row['dtype']}")
def test_a_sum_is_the_one_of_exact_fractions(row, kernels):
    total = np.zeros(len(row["total"]), dtype=np.int64)
    for share in row["shares"]:
        vector = read(share["vector"], row["dtype"])
        kernels.accumulate(total, vector, double(share["scale"]), row["exponent"])
    assert [str(number) for number in total] == row["total"]
    reals = sums.to_reals(total, row["exponent"])
    assert [struct.pack(">d", x).hex() for x in reals] == row["reals"]


@pytest.mark.parametrize("row", VECTORS["norms"], ids=lambda r: f"{len(r['vector'])}-{r['dtype']}")
def test_a_norm_has_its_golden_bits(row, kernels):
    assert kernels.norm(read(row["vector"], row["dtype"])) == double(row["norm"])


@pytest.mark.parametrize("verdict", ["accepted", "refused"])
def test_what_is_not_finite_or_beyond_the_limit_never_reaches_a_sum(verdict):
    for row in VECTORS[verdict]:
        layout = Layout.build(row["dtype"], [("w", (len(row["vector"]),), "trainable")])
        bound = Pipeline([Sum(limit=double(VECTORS["limit"]))]).bind(layout, cohort=3)
        vector = layout.pack({"w": read(row["vector"], row["dtype"])})
        share, _ = bound.encode(vector, {}, lambda purpose: stream(0, purpose))
        assert isinstance(share, Refused) == (verdict == "refused"), row["case"]


# --- NumPy and numba


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_numba_and_numpy_give_the_same_bits(size, dtype):
    vector = heavy(size, dtype, 1)
    assert PLAIN.norm(vector) == FAST.norm(vector)
    start = stream(2, size).integers(-(2**61), 2**61, size)
    for scale in SCALES:
        one, two = start.copy(), start.copy()
        PLAIN.accumulate(one, vector, scale, 35)
        FAST.accumulate(two, vector, scale, 35)
        assert np.array_equal(one, two), scale


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_numba_and_numpy_agree_on_any_finite_vector(dtype, data):
    vector = data.draw(arrays(dtype, st.integers(0, 40), elements=FINITE[dtype]))
    assert PLAIN.norm(vector) == FAST.norm(vector)
    within = vector.clip(-4, 4)
    scale = data.draw(st.floats(-1, 1))
    one, two = np.zeros((2, vector.size), dtype=np.int64)
    PLAIN.accumulate(one, within, scale, 48)
    FAST.accumulate(two, within, scale, 48)
    assert np.array_equal(one, two)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 256, 70_000])
def test_a_norm_is_not_finite_if_one_coordinate_is_not(size, dtype, odd, kernels):
    for place in (0, size // 2, size - 1):
        vector = np.ones(size, dtype)
        vector[place] = odd
        assert not math.isfinite(kernels.norm(vector))


def test_a_norm_of_opposite_infinities_is_not_finite(kernels):
    assert not math.isfinite(kernels.norm(np.array([math.inf, -math.inf, math.nan, 1.0])))


def test_a_norm_too_large_for_a_double_is_infinite_without_a_warning(kernels):
    warnings.simplefilter("error")  # pytest puts the filters back
    assert kernels.norm(np.full(3, 1e200)) == math.inf  # each square overflows
    assert kernels.norm(np.full(2, 1.3e154)) == math.inf  # their sum does


def test_a_norm_at_the_very_edge_of_a_double_does_not_raise(kernels):
    # NumPy's sum of these squares stays at the largest double, the exact one goes beyond.
    edge = np.zeros(256)
    edge[0] = 2.0**512 - 2.0**459
    edge[8:128:8] = math.sqrt(0.49) * 2.0**485.5
    assert kernels.norm(edge) > 1.3e154


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_take_read_only_and_strided_vectors(dtype, kernels):
    vector = heavy(1001, dtype, 3)
    expected, total = np.zeros((2, 1001), dtype=np.int64)
    PLAIN.accumulate(expected, vector, 0.7, 40)
    strided = np.repeat(vector, 2)[::2]
    strided.flags.writeable = False
    kernels.accumulate(total, strided, 0.7, 40)
    assert np.array_equal(total, expected)
    assert kernels.norm(strided) == PLAIN.norm(vector)


def test_numba_is_used_where_it_is_installed_and_can_be_switched_off(monkeypatch):
    accelerate.kernels.cache_clear()
    assert accelerate.kernels().name == "numba"
    assert accelerate.kernels() is accelerate.kernels()
    accelerate.kernels.cache_clear()
    monkeypatch.setenv("HANSE_NUMBA", "0")
    assert accelerate.kernels() == PLAIN
    accelerate.kernels.cache_clear()


def test_numpy_does_the_work_where_numba_is_missing(monkeypatch):
    accelerate.kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    assert accelerate.kernels() == PLAIN
    accelerate.kernels.cache_clear()


# --- norm and peak


def test_the_norm_of_3_and_4_is_5(kernels):
    for dtype in DTYPES:
        assert kernels.norm(np.array([3, -4], dtype)) == 5.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_has_norm_and_peak_zero(dtype, kernels):
    assert kernels.norm(np.zeros(0, dtype)) == 0.0
    assert sums.peak(np.zeros(0, dtype)) == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_is_within_a_few_roundings_of_the_exact_one(dtype, kernels):
    vector = heavy(70_000, dtype, 5)
    exact = math.sqrt(math.fsum(float(x) * float(x) for x in vector))
    assert kernels.norm(vector) == pytest.approx(exact, rel=1e-14)


def test_the_norm_of_a_long_float32_vector_does_not_drift(kernels):
    ones = np.ones(2**21, np.float32)  # a float32 sum of squares stops at 2^24, this at nothing
    assert kernels.norm(ones) == math.sqrt(2.0**21)


def test_peak_is_the_largest_absolute_coordinate():
    assert sums.peak(np.array([1.0, -3.0, 2.0])) == 3.0
    assert sums.peak(np.array([-1.0, 3.0], np.float32)) == 3.0
    assert sums.peak(np.array([-math.inf, 3.0])) == math.inf
    assert math.isnan(sums.peak(np.array([1.0, math.nan, 2.0])))


# --- the grid


LIMITS = st.floats(2.0**-64, 2.0**64)


@given(LIMITS, st.integers(1, 2**30))
def test_the_worst_case_cohort_fits_int64_with_a_bit_to_spare(limit, cohort):
    grid = Grid.choose(limit, cohort)
    largest = round(Fraction(limit) * Fraction(2) ** grid.exponent)
    assert largest <= 2**50  # what the conversion takes is below 2^51
    assert largest * cohort <= 2**62 * (1 + Fraction(1, 2**40))


@given(LIMITS, st.integers(1, 2**30))
def test_no_finer_grid_would_do(limit, cohort):
    finer = Fraction(2) ** (Grid.choose(limit, cohort).exponent + 1)
    rounding = 1 + Fraction(1, 2**40)
    share = Fraction(limit) * finer
    assert share * rounding > 2**50 or share * cohort * rounding > 2**62


def test_the_grid_at_powers_of_two_by_hand():
    # F = min(50 − ⌈log2 L⌉, 62 − ⌈log2(L·n)⌉)
    assert Grid.choose(1.0, 4096).exponent == 50
    assert Grid.choose(1.0, 4097).exponent == 49
    assert Grid.choose(2.0, 2048).exponent == 49
    assert Grid.choose(2.0, 2049).exponent == 49
    assert Grid.choose(math.nextafter(1.0, 2.0), 1).exponent == 49
    assert Grid.choose(math.nextafter(1.0, 0.0), 1).exponent == 50
    assert Grid.choose(0.5, 1).exponent == 51
    assert Grid.choose(0.75, 1).exponent == 50


def test_shares_without_a_bound_get_the_grid_of_2_to_the_16():
    assert Grid.choose(math.inf, 100) == Grid.choose(2.0**16, 100)


def test_a_step_is_the_distance_between_neighbours():
    grid = Grid.choose(1.0, 1)
    assert grid.step == 2.0**-50
    assert Grid.choose(2.0**64, 1).step == 2.0**14


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("limit", "cohort"), [(1.0, 4096), (3.0, 5000), (2.0**16, 2000)])
def test_a_whole_cohort_at_the_limit_is_summed_without_wrapping(limit, cohort, dtype, kernels):
    grid = Grid.choose(limit, cohort)
    vector = np.array([limit, -limit], dtype)
    total = np.zeros(2, dtype=np.int64)
    for _ in range(cohort):
        kernels.accumulate(total, vector, 1.0, grid.exponent)
    assert sums.to_reals(total, grid.exponent).tolist() == [limit * cohort, -limit * cohort]


# --- sums


SHARES = st.lists(
    st.tuples(
        arrays("float32", 5, elements=st.floats(-4, 4, width=32)),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=8,
)


@given(SHARES, st.data())
def test_a_total_has_the_same_bits_for_any_order_and_any_grouping(shares, data):
    def add(some):
        total = np.zeros(5, dtype=np.int64)
        for vector, scale in some:
            sums.accumulate(total, vector, scale, 48)
        return total

    expected = add(shares)
    shuffled = data.draw(st.permutations(shares))
    workers = data.draw(st.lists(st.integers(0, 2), min_size=len(shares), max_size=len(shares)))
    groups = [
        add([share for share, mine in zip(shuffled, workers, strict=True) if mine == worker])
        for worker in data.draw(st.permutations([0, 1, 2]))
    ]
    assert np.array_equal(add(shuffled), expected)
    assert np.array_equal(groups[0] + groups[1] + groups[2], expected)


def test_floating_point_sums_would_depend_on_order():
    # Else the test above could not fail.
    numbers = stream(1, "order").standard_normal(1000).astype(np.float32)
    assert sum(numbers) != sum(numbers[::-1])


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_the_fused_pass_is_the_wire_and_then_the_grid(dtype, data):
    element = st.floats(-16, 16, width=32 if dtype == "float32" else 64)
    vector = data.draw(arrays(dtype, 6, elements=element))
    scale, exponent = data.draw(st.floats(-1, 1)), data.draw(st.integers(-20, 46))
    wire = sums.on_wire(vector, scale)
    assert wire.dtype == vector.dtype
    for kernels in (PLAIN, FAST):
        fused = np.zeros(6, dtype=np.int64)
        kernels.accumulate(fused, vector, scale, exponent)
        assert np.array_equal(fused, sums.on_grid(wire, exponent))
    exact = [round(Fraction(float(x)) * Fraction(2) ** exponent) for x in wire]
    assert sums.on_grid(wire, exponent).tolist() == exact


def test_the_wire_is_rounded_before_the_grid_and_not_after():
    # 2^24 · (1 + 2^-24) is 2^24 + 1: float32 has no such number, float64 has.
    vector, scale = np.array([2.0**24], np.float32), 1 + 2.0**-24
    assert sums.on_grid(sums.on_wire(vector, scale), 0).tolist() == [2**24]
    assert sums.on_grid(sums.on_wire(vector.astype(np.float64), scale), 0).tolist() == [2**24 + 1]


def test_sums_add_to_what_is_there_in_place(kernels):
    total = np.array([5, -5], dtype=np.int64)
    kernels.accumulate(total, np.array([1.0, 2.0]), 3.0, 1)
    assert total.tolist() == [11, 7]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mean_of_many_shares_is_as_good_as_the_wire_lets_it_be(dtype):
    cohort, size = 1000, 64
    grid = Grid.choose(1.0, cohort)
    shares = [(stream(4, i).standard_normal(size) * 1e-3).astype(dtype) for i in range(cohort)]
    total = np.zeros(size, dtype=np.int64)
    for share in shares:
        sums.accumulate(total, share, 1.0, grid.exponent)
    mean = sums.to_reals(total, grid.exponent) / cohort
    exact = [math.fsum(float(share[i]) for share in shares) / cohort for i in range(size)]
    assert np.abs(mean - exact).max() <= grid.step / 2 + 1e-18


def test_integers_come_back_in_model_units_with_one_rounding():
    assert sums.to_reals(np.array([3, -1, 2**53 + 1]), 2).tolist() == [0.75, -0.25, 2.0**51]
    assert sums.to_reals(np.array([3]), -4).tolist() == [48.0]
    assert sums.to_reals(np.zeros(0, np.int64), 3).shape == (0,)


# --- many vectors at once


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 27, 256, 7850, 9000])
def test_many_at_once_are_each_by_itself(size, dtype, kernels):
    rng = np.random.default_rng(size)
    vectors = (rng.normal(size=(6, size)) * 10.0 ** rng.integers(-6, 3, (6, 1))).astype(dtype)
    scales = np.array([1.0, 0.0, -0.5, 1 / 3, 2.0**-140, 0.1])
    np.testing.assert_array_equal(kernels.norms(vectors), [sums.norm(v) for v in vectors])
    together, alone = np.zeros((2, size), dtype=np.int64)
    kernels.accumulate_many(together, vectors, scales, 30)
    for vector, scale in zip(vectors, scales, strict=True):
        sums.accumulate(alone, vector, float(scale), 30)
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_factors_of_many_are_the_factor_of_each(dtype, data):
    scales = data.draw(arrays("float64", 5, elements=st.floats(-1e30, 1e30)))
    vectors = np.zeros((5, 1), dtype=dtype)
    wanted = [sums.factor_of(vectors[0], float(scale)) for scale in scales]
    np.testing.assert_array_equal(sums.factors_of(vectors, scales), wanted)


@given(arrays("float64", 256, elements=st.floats(0, 1e60)))
def test_squares_are_summed_to_the_last_bit_where_numba_is_sure_of_it(lanes):
    roots = np.sqrt(lanes)
    assert FAST.norm(roots) == PLAIN.norm(roots)


@pytest.mark.parametrize("exponent", [-140, -3, 0, 30])
def test_a_sum_half_way_between_two_numbers_is_left_to_the_exact_sum(exponent):
    """2^52 + 1/2: the compensated sum alone cannot tell which way it goes."""
    big, half = 2.0 ** (26 + exponent), 2.0 ** (exponent - 0.5)
    for rest in (0.0, 2.0 ** (exponent - 30)):
        vector = np.array([big, half, rest])
        assert FAST.norm(vector) == PLAIN.norm(vector)
