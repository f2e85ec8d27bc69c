"""Sensitivity by brute force: without one client, the integers that noise joins move at most C."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hanse.core.layout import Layout
from hanse.core.pipeline import BoundPipeline, Pipeline
from hanse.core.seeds import stream
from hanse.core.step import Refused
from hanse.core.weight import Weight
from hanse.privacy import Clip, GaussianNoise

SIZE = 8
LARGEST = {"float32": 2.0**100, "float64": 2.0**500}


def chance(purpose: str) -> np.random.Generator:
    return stream(1, purpose)


def summed(bound: BoundPipeline, updates: list[tuple[np.ndarray, dict[str, int]]]) -> np.ndarray:
    """The integer total; a refused update counts as zero, as it does in a private round."""
    running = bound.accumulator()
    for vector, counts in updates:
        share, _ = bound.encode(vector, counts, chance)
        if not isinstance(share, Refused):
            running.add(share, bound.grids)
    return running.vector


def moved(one: np.ndarray, two: np.ndarray) -> int:
    """Exact squared L2 distance."""
    return sum((a - b) ** 2 for a, b in zip(one.tolist(), two.tolist(), strict=True))


def bind(dtype: str, weight: Weight, *clips: float, cohort: int = 5) -> BoundPipeline:
    layout = Layout.build(dtype, [("w", (SIZE,), "trainable")])
    steps = [weight, *map(Clip, clips), GaussianNoise(1.0)]
    return Pipeline(steps).bind(layout, cohort=cohort)


WEIGHTS = st.one_of(
    st.builds(Weight, st.just("uniform"), denominator=st.floats(0.1, 10)),
    st.builds(
        Weight,
        st.sampled_from(["examples", "steps"]),
        cap=st.floats(0.01, 1000),
        denominator=st.floats(0.1, 10),
    ),
)
CLIPS = st.lists(st.floats(-20, 64).map(lambda power: 2.0**power), min_size=1, max_size=2)
COUNTS = st.fixed_dictionaries(
    {"examples": st.integers(-1, 2000), "steps": st.integers(0, 2**63)}
)  # fmt: skip


def vectors(dtype: str):
    width, largest = (32 if dtype == "float32" else 64), LARGEST[dtype]
    element = st.floats(width=width) | st.floats(-largest, largest, width=width)
    return arrays(dtype, 8 if dtype == "float64" else 16, elements=element, fill=element)


@given(st.data(), st.sampled_from(["float32", "float64"]), WEIGHTS, CLIPS)
def test_without_one_client_the_integer_total_moves_at_most_the_bound(data, dtype, weight, clips):
    bound = bind(dtype, weight, *clips)
    cohort = data.draw(st.lists(st.tuples(vectors(dtype), COUNTS), min_size=1, max_size=5))
    gone = data.draw(st.integers(0, len(cohort) - 1))
    rest = cohort[:gone] + cohort[gone + 1 :]
    assert bound.facts.l2 == min(clips)
    most = Fraction(min(clips)) * Fraction(2) ** bound.grids["model"].exponent
    assert moved(summed(bound, cohort), summed(bound, rest)) <= most**2


@given(st.data(), st.sampled_from(["float32", "float64"]), WEIGHTS, CLIPS)
def test_with_a_part_of_a_clients_data_gone_it_moves_at_most_twice_the_bound(
    data, dtype, weight, clips
):
    """The client sends another update, of another weight: whatever they are."""
    bound = bind(dtype, weight, *clips)
    cohort = data.draw(st.lists(st.tuples(vectors(dtype), COUNTS), min_size=2, max_size=5))
    most = Fraction(min(clips)) * Fraction(2) ** bound.grids["model"].exponent
    with_it, without = cohort[:-1], [*cohort[:-2], cohort[-1]]
    assert moved(summed(bound, with_it), summed(bound, without)) <= (2 * most) ** 2


def test_a_part_that_outweighs_the_rest_moves_it_by_nearly_that():
    bound = bind("float64", Weight(by="uniform", denominator=2.0), 1.0)
    most = Fraction(2) ** bound.grids["model"].exponent
    patient = np.zeros(bound.start.coordinates)
    patient[0] = 9.0
    with_it, without = (
        summed(bound, [(patient - 3.0 * (patient > 0), {})]),
        summed(bound, [(-3.0 * (patient > 0), {})]),
    )
    assert moved(with_it, without) >= (2 * most * Fraction(999, 1000)) ** 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip", [2.0**-64, 1e-3, 1.0, 7.0, 2.0**64])
@pytest.mark.parametrize("cohort", [1, 4096, 10**6])
def test_a_worst_case_comes_within_a_thousandth_of_the_bound(dtype, clip, cohort):
    bound = bind(dtype, Weight(cap=10, denominator=2.0), clip, cohort=cohort)
    most = Fraction(clip) * Fraction(2) ** bound.grids["model"].exponent
    size = bound.start.coordinates
    nobody = summed(bound, [])
    for vector in (
        np.eye(1, size)[0] * clip * 10,
        -np.ones(size) * clip,
        np.ones(size) * clip * 2**40,
    ):
        alone = summed(bound, [(vector.astype(dtype), {"examples": 10})])
        assert (most * Fraction(999, 1000)) ** 2 <= moved(alone, nobody) <= most**2


def test_one_large_client_among_many_small_ones_moves_no_more_than_the_bound():
    # 99 clients of 10 examples and one of 1000: weights by examples after the clip would make the
    # sensitivity C·1000/1990 of the mean, 50 times the C/100 that z·C/100 of noise accounts for.
    bound = bind("float64", Weight(by="examples", cap=1000, denominator=100.0), 1.0, cohort=100)
    small = [(np.full(SIZE, 9.0), {"examples": 10})] * 99
    everyone = [*small, (np.full(SIZE, -9.0), {"examples": 1000})]
    distance = math.sqrt(moved(summed(bound, everyone), summed(bound, small)))
    assert distance * bound.grids["model"].step == pytest.approx(1.0, abs=1e-5)


def test_an_update_that_is_refused_moves_nothing():
    bound = bind("float32", Weight(by="uniform", denominator=2.0), 1.0)
    broken = np.full(16, np.nan, np.float32)
    assert moved(summed(bound, [(broken, {})]), summed(bound, [])) == 0


def test_the_noise_does_not_depend_on_who_took_part():
    bound = bind("float64", Weight(by="uniform", denominator=1.0), 1.0)
    full, empty = bound.accumulator(), bound.accumulator()
    share, _ = bound.encode(np.full(SIZE, 0.25), {}, chance)
    full.add(share, bound.grids)
    difference = bound.decode(full, chance)[0].vector - bound.decode(empty, chance)[0].vector
    assert difference == pytest.approx(np.full(SIZE, 0.25), rel=1e-12)
