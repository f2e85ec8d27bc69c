"""Pooling of running statistics: what several sites report becomes what their union would."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hanse.core import seeds
from hanse.core.buffers import from_moments, to_moments
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.program import Done
from hanse.core.reduce import Share
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.strategies import StrategyProgram, fedavg

LAYOUT = Layout.build(
    "float64",
    [
        ("weight", (5,), "trainable"),
        ("bn1.running_mean", (3,), "buffer"),
        ("bn1.running_var", (3,), "buffer"),
        ("temperature", (2,), "buffer"),
        ("bn2.moving_variance", (1,), "buffer"),
        ("bn2.moving_mean", (1,), "buffer"),
        ("lonely.running_var", (2,), "buffer"),
        ("single.running_mean", (1,), "buffer"),
        ("head", (1,), "local"),
    ],
)
SPAN = LAYOUT.span("buffer")
EPSILON = 2.0**-52

values = st.floats(-100, 100)
site = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=values)


def buffers(**tensors):
    """The buffer segment with the given tensors ("__" for a dot), zeros elsewhere."""
    vector = LAYOUT.zeros()
    for name, view in LAYOUT.views(vector).items():
        view[...] = tensors.get(name.replace(".", "__"), 0)
    return vector[SPAN]


def named(segment):
    """Name → tensor of a buffer segment."""
    vector = LAYOUT.zeros()
    vector[SPAN] = segment
    return LAYOUT.views(vector)


def measured(data):
    """What a site's BatchNorm layers hold after seeing all of ``data``: 3 features and 1."""
    mean, variance = data.mean(axis=0), data.var(axis=0)
    return buffers(
        bn1__running_mean=mean[:3],
        bn1__running_var=variance[:3],
        bn2__moving_mean=mean[3:],
        bn2__moving_variance=variance[3:],
    )


def pooled(sites):
    n = np.array([len(data) for data in sites], dtype=float)
    moments = [to_moments(LAYOUT, measured(data)) for data in sites]
    return named(from_moments(LAYOUT, np.average(moments, axis=0, weights=n)))


@given(st.lists(site, min_size=1, max_size=5))
def test_pooled_means_and_variances_are_those_of_the_union(sites):
    union, result = np.concatenate(sites), pooled(sites)
    tolerance = 64 * EPSILON * (1 + np.abs(union).max() ** 2)
    mean = np.concatenate([result["bn1.running_mean"], result["bn2.moving_mean"]])
    variance = np.concatenate([result["bn1.running_var"], result["bn2.moving_variance"]])
    np.testing.assert_allclose(mean, union.mean(axis=0), rtol=0, atol=tolerance)
    np.testing.assert_allclose(variance, union.var(axis=0), rtol=0, atol=tolerance)
    assert np.all(variance >= 0)


def test_two_sites_by_hand():
    """0, 2 and 4, 4, 4, 10: means 1 and 5.5, variances 1 and 6.75; together 4 and 9 1/3."""
    sites = [np.tile([[0.0], [2.0]], 4), np.tile([[4.0], [4.0], [4.0], [10.0]], 4)]
    result = pooled(sites)
    assert result["bn1.running_mean"].tolist() == [4.0] * 3
    assert result["bn1.running_var"] == pytest.approx([28 / 3] * 3)
    naive = (2 * 1 + 4 * 6.75) / 6  # the mean of variances forgets that the means differ
    assert result["bn1.running_var"][0] > naive


@given(
    hnp.arrays(np.float64, 3, elements=values),
    hnp.arrays(np.float64, 3, elements=st.floats(0, 1e4)),
)
def test_there_and_back_gives_the_same_statistics(mean, variance):
    before = buffers(bn1__running_mean=mean, bn1__running_var=variance)
    after = from_moments(LAYOUT, to_moments(LAYOUT, before))
    tolerance = 4 * EPSILON * (mean**2 + variance).max()
    np.testing.assert_allclose(after, before, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(named(after)["bn1.running_mean"], mean)


def test_buffers_that_are_no_pair_are_averaged_as_they_are():
    before = buffers(
        temperature=[2.0, 3.0], lonely__running_var=[5.0, 7.0], single__running_mean=[9.0]
    )
    np.testing.assert_array_equal(to_moments(LAYOUT, before), before)
    np.testing.assert_array_equal(from_moments(LAYOUT, before), before)


def test_moments_are_float64_copies():
    before = measured(np.arange(8.0).reshape(2, 4))
    kept = before.copy()
    for result in (to_moments(LAYOUT, before), from_moments(LAYOUT, before)):
        assert result.dtype == np.float64
        assert not np.shares_memory(result, before)
    assert to_moments(LAYOUT, before.astype(np.float32)).dtype == np.float64
    np.testing.assert_array_equal(before, kept)


def test_a_variance_that_rounding_made_negative_is_zero():
    moments = buffers(bn1__running_mean=[3.0, 0, 0], bn1__running_var=[9.0 - 2.0**-40, 0, 0])
    assert named(from_moments(LAYOUT, moments))["bn1.running_var"].tolist() == [0.0, 0.0, 0.0]


def test_padding_stays_zero():
    moments = to_moments(LAYOUT, measured(np.arange(8.0).reshape(2, 4)))
    for pad in LAYOUT.pads(SPAN):
        np.testing.assert_array_equal(moments[pad], 0)
        np.testing.assert_array_equal(from_moments(LAYOUT, moments)[pad], 0)


@given(st.lists(site, min_size=1, max_size=4))
def test_the_exact_sum_pools_them_weighted_by_examples(sites):
    pipeline = Pipeline([Weight(by="examples", cap=16)])
    bound = pipeline.bind(LAYOUT, cohort=4, extras={"buffers": SPAN.stop - SPAN.start})
    summed, update = bound.accumulator(), np.zeros(8)
    for data in sites:
        moments = to_moments(LAYOUT, measured(data))
        counts = {"examples": len(data), "steps": 1}
        share, _ = bound.encode(
            update, counts, lambda name: seeds.stream(1, name), extras={"buffers": moments}
        )
        assert isinstance(share, Share), share
        summed.add(share, bound.grids)
    total, _ = bound.decode(summed, lambda name: seeds.stream(1, name))
    union, result = np.concatenate(sites), named(from_moments(LAYOUT, total.extras["buffers"]))
    grid = bound.grids["buffers"].step * 16 * len(sites) / len(union)
    tolerance = (1 + 200) * grid + 1e-10  # of E[x²], and of a mean within 100, squared
    np.testing.assert_allclose(
        result["bn1.running_var"], union.var(axis=0)[:3], rtol=0, atol=tolerance
    )


def test_a_total_of_no_weight_leaves_the_buffers_as_they_were():
    """Two sites report, neither with an example: nothing is known of the statistics."""
    pipeline = Pipeline([Weight(by="examples")])
    size = SPAN.stop - SPAN.start
    bound = pipeline.bind(LAYOUT, cohort=2, extras={"buffers": size})
    running = bound.accumulator()
    update = np.ones(bound.start.coordinates or 0)
    for _ in range(2):
        moments = {"buffers": np.full(size, 3.0)}
        share, _ = bound.encode(update, {"examples": 0}, partial(seeds.stream, 1), extras=moments)
        assert isinstance(share, Share)
        running.add(share, bound.grids)
    total, _ = bound.decode(running, partial(seeds.stream, 1))
    assert total.reports == 2

    old = LAYOUT.zeros()
    for number, view in enumerate(LAYOUT.views(old).values()):
        view[...] = number + 1
    program = StrategyProgram(fedavg(), LAYOUT, LocalTraining(), pipeline, 5)
    after = program.absorb(program.initial(old.copy()), total)
    assert not isinstance(after, Done)
    assert np.array_equal(after.vector, old)
