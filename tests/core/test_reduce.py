"""The streaming reducer: what it takes, and sums that do not mind order or grouping."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.facts import Facts
from hanse.core.layout import Layout
from hanse.core.pipeline import BoundPipeline, Pipeline
from hanse.core.reduce import UNBOUNDED_AND_UNCAPPED, Accumulator, Share, Sum
from hanse.core.seeds import stream
from hanse.core.step import Scalar
from hanse.core.sums import on_wire
from hanse.errors import PipelineError

LAYOUT = Layout.build("float32", [("w", (27,), "trainable"), ("b", (1,), "trainable")])
BOUND = Pipeline([]).bind(
    LAYOUT, cohort=16, scalars=[Scalar("hits", 100, size=3)], extras={"buffers": 5}
)


def share(i: int) -> Share:
    rng = stream(11, i)
    return Share(
        rng.standard_normal(LAYOUT.size).astype(np.float32),
        float(rng.uniform()),
        rng.integers(0, 100, BOUND.scalars_size),
        {"buffers": rng.standard_normal(5).astype(np.float32)},
    )


SHARES = [share(i) for i in range(9)]


def add(shares: list[Share], bound: BoundPipeline = BOUND) -> Accumulator:
    running = bound.accumulator()
    for one in shares:
        running.add(one, bound.grids)
    return running


def is_same(one: Accumulator, two: Accumulator) -> bool:
    return (
        np.array_equal(one.vector, two.vector)
        and np.array_equal(one.scalars, two.scalars)
        and np.array_equal(one.extras["buffers"], two.extras["buffers"])
        and one.reports == two.reports
    )


@given(st.permutations(range(9)), st.lists(st.integers(0, 3), min_size=9, max_size=9))
def test_workers_that_merge_in_any_order_have_the_bits_of_one(order, workers):
    groups = [[SHARES[i] for i in order if workers[i] == worker] for worker in range(4)]
    merged = BOUND.accumulator()
    for group in groups:
        merged.merge(add(group))
    assert is_same(merged, add(SHARES))
    assert merged.reports == 9


def test_a_share_from_the_wire_is_summed_with_the_bits_of_the_pending_one():
    shares = [share(i) for i in range(5)]
    wired = [Share(on_wire(one.vector, one.scale), 1.0, one.scalars, one.extras) for one in shares]
    assert is_same(add(shares), add(wired))


def test_clearing_starts_again_from_zero_in_the_same_memory():
    running = add([share(0), share(1)])
    arrays = (running.vector, running.scalars, running.extras["buffers"])
    running.clear()
    assert running.reports == 0
    assert all(not array.any() for array in arrays)
    assert running.vector is arrays[0]
    running.add(share(2), BOUND.grids)
    assert is_same(running, add([share(2)]))


def test_a_sum_can_stand_in_memory_of_the_callers():
    memory = np.zeros(LAYOUT.size, dtype=np.int64)
    running = BOUND.accumulator(memory)
    running.add(share(0), BOUND.grids)
    assert running.vector is memory
    assert memory.any()


def test_the_largest_coordinate_is_the_bounds_or_the_limits_whichever_is_less():
    assert Sum().largest(Facts(linf=3.0)) == 3.0
    assert Sum(limit=2.0).largest(Facts(linf=3.0)) == 2.0
    assert Sum(limit=5.0).largest(Facts(linf=3.0)) == 3.0
    assert Sum(limit=5.0).largest(Facts()) == 5.0


def test_without_a_bound_the_limit_is_2_to_the_16_or_with_uncapped_weights_2_to_the_22():
    assert Sum().largest(Facts()) == 2.0**16
    assert Sum().largest(Facts(capped=False)) == UNBOUNDED_AND_UNCAPPED == 2.0**22


def test_the_limit_becomes_a_fact():
    assert Sum(limit=2.0).check(Facts()).linf == 2.0


def test_the_grid_is_chosen_for_the_limit_and_the_cohort():
    grid = Sum(limit=2.0).grid(Facts(cohort=2049))
    assert (grid.exponent, grid.limit, grid.cohort) == (49, 2.0, 2049)
    assert Sum().grid(Facts()).cohort == 1


@pytest.mark.parametrize("limit", [0.0, -1.0, 2.0**65, 2.0**-65, math.inf, math.nan])
def test_a_limit_that_is_no_number_of_a_share_is_refused_with_a_hint(limit):
    with pytest.raises(PipelineError, match="no such limit") as refusal:
        Sum(limit=limit)
    assert refusal.value.hint
