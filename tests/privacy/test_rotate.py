"""A rotation: orthogonal, the same at both ends and new in each round, whatever the length."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse import Clip, Pipeline, PipelineError, Rotate, ScaledRound, Weight
from hanse.core import accelerate
from hanse.core.frames import share_frame
from hanse.core.layout import Layout
from hanse.core.reduce import Share
from hanse.core.seeds import stream
from hanse.privacy.rotate import back, blocks, rotate


def bind(size: int, *steps, dtype: str = "float32", cohort: int = 4):
    layout = Layout.build(dtype, [("w", (size,), "trainable")])
    return Pipeline(steps).bind(layout, cohort=cohort)


def chance(purpose: str) -> np.random.Generator:
    return stream(3, purpose)


def share_of(bound, vector, states=None) -> Share:
    share, _ = bound.encode(vector, {}, chance, announced=bound.announce(states or {}))
    assert isinstance(share, Share), share
    return share


def sylvester(size: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / math.sqrt(size)


@pytest.fixture(params=[accelerate._plain(), accelerate.kernels()], ids=lambda each: each.name)
def kernels(request) -> accelerate.Kernels:
    return request.param


@pytest.mark.parametrize("exponent", range(10))
def test_the_fast_transform_is_multiplication_by_sylvesters_matrix(exponent, kernels):
    vector = stream(1, exponent).standard_normal(2**exponent)
    wanted = sylvester(2**exponent) @ vector
    kernels.hadamard(vector)
    assert vector == pytest.approx(wanted, abs=1e-13)


@pytest.mark.parametrize("exponent", [*range(8), 13, 14, 17])
def test_every_kernel_makes_the_same_bits(exponent, kernels):
    one = stream(1, exponent).standard_normal(2**exponent)
    two = one.copy()
    kernels.hadamard(one)
    accelerate._plain().hadamard(two)
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 100, 4097, 100_000, 2**17])
def test_it_keeps_lengths_and_comes_back(size):
    vector = stream(2, size).standard_normal(size)
    turned = rotate(vector, 2**20, 5)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(vector), rel=1e-14)
    assert back(turned, size, 2**20, 5) == pytest.approx(vector, abs=1e-13)


def test_whole_numbers_are_turned_to_the_same_bits_on_every_machine():
    """Of 2^14 integers the sums are exact, so the bits depend on the definition alone."""
    turned = rotate(np.arange(-(2**13), 2**13, dtype=np.float64), 2**20, 7)
    assert hashlib.sha256(turned.astype("<f8").tobytes()).hexdigest() == GOLDEN


GOLDEN = "09709ea778a1a3562ae05dd8d1e058a80fbb8e636f71744113f7d5139b8a683f"


@given(st.integers(1, 2**31), st.integers(0, 30))
def test_blocks_are_powers_of_two_that_hold_all_and_little_more(size, exponent):
    found = blocks(size, 2**exponent) if size >> exponent < 1000 else [size]
    if len(found) > 1 or size <= 2**exponent:
        assert all(block & (block - 1) == 0 and block <= 2**exponent for block in found)
        assert found == sorted(found, reverse=True)
        assert size <= sum(found) < size + min(4096, size + 1)


def test_a_spike_is_spread_over_its_block():
    bound = bind(4096, Clip(1.0), Rotate())
    spike = np.zeros(4096, np.float32)
    spike[17] = 1e30
    found = np.abs(share_of(bound, spike).vector)
    assert found == pytest.approx(np.full(4096, 1 / 64), rel=1e-5)


@pytest.mark.parametrize("size", [1, 5, 33, 100, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_share_has_another_length_on_the_wire_and_the_total_that_of_the_model(size, dtype):
    bound = bind(size, Clip(1.0), Rotate(), dtype=dtype)
    vector = (stream(4, size).standard_normal(bound.start.coordinates) * 1e-3).astype(dtype)
    vector[size:] = 0  # the padding of the layout
    share = share_of(bound, vector)
    assert share.vector.shape == (bound.coordinates,)
    assert bound.coordinates == sum(blocks(vector.size, 2**20)) >= vector.size
    assert ("model", dtype, bound.coordinates) in share_frame(bound).tensors
    summed = bound.accumulator()
    for _ in range(3):
        summed.add(share, bound.grids)
    total, states = bound.decode(summed, chance)
    assert total.vector == pytest.approx(vector.astype(np.float64), abs=1e-8)  # it is a mean
    assert states["rotate"]["rounds"].tolist() == [1]


def test_each_round_has_signs_of_its_own_and_both_ends_have_the_same():
    bound = bind(64, Weight(by="uniform", denominator=1.0), Clip(10.0), Rotate())
    vector, states = np.arange(64, dtype=np.float32) / 64, {}
    seen = set()
    for number in range(5):
        share = share_of(bound, vector, states)
        seen.add(share.vector.tobytes())
        summed = bound.accumulator()
        summed.add(share, bound.grids)
        total, states = bound.decode(summed, chance, states)
        assert total.vector == pytest.approx(vector, abs=1e-5), number
    assert len(seen) == 5


@pytest.mark.parametrize("told", [None, "1", -1, math.nan, 2.0**60])
def test_what_is_no_round_is_refused(told):
    bound = bind(64, Clip(1.0), Rotate())
    with pytest.raises(PipelineError, match="no number of a round"):
        bound.encode(np.ones(64, np.float32), {}, chance, announced={"rotate": told})


def test_a_huge_update_is_clipped_before_it_is_turned():
    bound = bind(64, Clip(1.0), Rotate())
    share = share_of(bound, np.full(64, 1e38, np.float32))
    assert np.linalg.norm(share.vector) == pytest.approx(1.0, rel=1e-5)


def test_the_claims_are_the_norm_and_the_worst_coordinate():
    bound = bind(64, Clip(2.0), Rotate())
    assert 2.0 < bound.facts.l2 < 2.0 * (1 + 2.0**-21)
    assert bound.facts.linf == bound.facts.l2
    worst = back(np.eye(64)[5] * 100, 64, 2**20, 0).astype(np.float32)
    assert 1.9 < np.abs(share_of(bound, worst).vector).max() <= bound.facts.linf


@pytest.mark.parametrize("largest", [0, -4, 3, 2**31, 1.5])
def test_a_block_of_no_size_is_refused_with_a_hint(largest):
    with pytest.raises(PipelineError, match="no block is so large") as caught:
        Rotate(largest)
    assert caught.value.hint


def test_integers_are_not_turned():
    with pytest.raises(PipelineError, match="fractions of integers") as caught:
        Pipeline([Clip(1.0), ScaledRound(), Rotate()])
    assert "before scaled_round" in caught.value.hint
