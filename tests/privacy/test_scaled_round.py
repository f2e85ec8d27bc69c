"""Whole numbers: within their bounds whatever is drawn, right on the mean but for a stated bias."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.privacy.test_rotate import bind

from hanse import Clip, Pipeline, PipelineError, Rotate, ScaledRound, Weight
from hanse.core.reduce import Share
from hanse.core.seeds import stream
from hanse.core.step import Step


def drawn(bound, vector, seed: int = 1) -> np.ndarray:
    generator = stream(seed, "rounding")
    share, _ = bound.encode(vector, {}, lambda _: generator, announced=bound.announce({}))
    assert isinstance(share, Share), share
    return share.vector.astype(np.float64) * share.scale


@dataclass
class Always:
    """Chance that draws one number for ever."""

    number: float

    def random(self, size: int) -> np.ndarray:
        return np.full(size, self.number)


def test_the_bounds_are_those_of_the_paper_by_hand():
    """d = 16, D = 2^10: D2² = 1024² + 4 + (1024 + 2)·1, below (1024 + 4)²; D1 = 4·D2."""
    facts = bind(16, Clip(0.5), ScaledRound(bits=10)).facts
    assert facts.l2 == pytest.approx(math.sqrt(1024**2 + 4 + 1026), rel=1e-15)
    assert facts.l1 == pytest.approx(4 * facts.l2, rel=1e-15)
    assert (facts.domain, facts.scale, facts.unrounded) == ("integers", 2048.0, 1024.0)
    assert facts.linf == facts.l2  # 1,024 and a step would be more
    one = bind(16, Clip(1.0), ScaledRound(bits=4)).facts  # (16 + 4)² is more than 16² + 4 + 18
    assert one.l2 == pytest.approx(math.sqrt(256 + 4 + 18), rel=1e-15)


def test_a_model_that_is_not_known_has_the_bounds_of_the_largest_that_fits():
    unbound = Pipeline([Clip(1.0), ScaledRound(bits=8)]).facts()
    most = int((2**8 / 3.5) ** 2)
    for size in (16, 160, 1600, most // 16 * 16):
        facts = bind(size, Clip(1.0), ScaledRound(bits=8)).facts
        assert facts.l2 <= unbound.l2
        assert facts.l1 <= unbound.l1
    assert facts.l2 == pytest.approx(unbound.l2, rel=1e-3)


@given(st.integers(4, 22), st.integers(0, 2**32), st.floats(-3, 3), st.booleans())
def test_a_share_is_whole_numbers_within_both_bounds(bits, seed, power, is_rotated):
    size = 16
    turn = [Rotate(largest=4)] if is_rotated else []
    bound = bind(size, Clip(0.3), *turn, ScaledRound(bits=bits))
    vector = (stream(seed, "v").standard_normal(size) * 10.0**power).astype(np.float32)
    found = drawn(bound, vector, seed)
    assert (found == np.rint(found)).all()
    assert int(found @ found) <= bound.facts.l2**2
    assert np.abs(found).sum() <= bound.facts.l1
    assert np.abs(found).max() <= bound.facts.linf


def test_the_mean_is_the_share_and_a_zero_is_a_zero():
    """20,000 draws of 16 numbers of a share far within the bound, where none is drawn again: five
    deviations of a mean of variables of variance 1/4 at most. Fixed seed.
    """
    bound = bind(16, Clip(1.0), ScaledRound(bits=6))
    vector = np.linspace(-0.1, 0.1, 16).astype(np.float32)
    total, n = np.zeros(16), 20_000
    for seed in range(n):
        total += drawn(bound, vector, seed)
    assert total / n == pytest.approx(vector * 64.0, abs=5 * 0.5 / math.sqrt(n))
    assert not drawn(bound, np.zeros(16, np.float32)).any()


def test_at_the_bound_it_is_drawn_again_and_the_bias_is_below_one_step():
    """d = 16, D = 16: all at a half between whole numbers, where each rounding is as likely."""
    bound, n = bind(16, Clip(1.0), ScaledRound(bits=4)), 4_000
    vector = np.full(16, 3.5 / 16, np.float32)  # of norm 14 in steps, below 16
    vector[:4] = 5.5 / 16  # sqrt(12·12.25 + 4·30.25) = 16.37: clipped to 16
    generator, total, tries = stream(1, "r"), np.zeros(16), 0

    @dataclass
    class Counted:
        asked: int = 0

        def random(self, size: int) -> np.ndarray:
            self.asked += 1
            return generator.random(size)

    counted = Counted()
    for _ in range(n):
        share, _ = bound.encode(vector, {}, lambda _: counted)
        total += share.vector
    tries = counted.asked / n
    assert 1.02 < tries < 1 / (1 - math.exp(-0.5))  # 2.54: the theorem's
    exact = vector.astype(np.float64) * 16 * (16 / (np.linalg.norm(vector * 16.0)))
    bias = np.linalg.norm(total / n - exact)
    error = 5 * 0.5 * math.sqrt(16 / n)
    p = 1 / tries
    assert bias <= math.sqrt(1 - p) / (2 * p) + error < 1


def test_after_a_hundred_failures_it_is_rounded_towards_zero():
    """In steps: eight of 5.05 and eight of 2.05, of norm 15.4; all up they have 19, D2 is 16.7."""
    bound = bind(16, Clip(1.0), ScaledRound(bits=4))
    vector = np.array([5.05] * 8 + [-2.05] * 8, np.float32) / 16
    share, _ = bound.encode(vector, {}, lambda _: Always(0.96))
    assert share.vector.tolist() == [5.0] * 8 + [-2.0] * 8


@dataclass(frozen=True)
class Liar(Step):
    """A bound that bounds nothing."""

    name: ClassVar[str] = "liar"
    kind: ClassVar[str] = "bound"

    def check(self, facts):
        return replace(facts, l2=1.0, linf=1.0)


def test_a_share_longer_than_a_step_before_it_claims_is_shortened():
    bound = bind(16, Liar(), ScaledRound(bits=10))
    found = drawn(bound, np.full(16, 100.0, np.float32))
    assert 1020 < np.linalg.norm(found) <= bound.facts.l2


def test_too_few_bits_for_a_model_are_refused_with_how_many_it_takes():
    bind(2**16, Clip(1.0), ScaledRound(bits=10))
    with pytest.raises(PipelineError, match="too coarse for 65536 coordinates") as caught:
        bind(2**16, Clip(1.0), ScaledRound(bits=9))
    assert caught.value.hint == "give bits = 10 or more"


@pytest.mark.parametrize("bits", [3, 23, 14.5, -1, math.nan])
def test_bits_without_room_are_refused_with_a_hint(bits):
    with pytest.raises(PipelineError, match="no whole number from 4 to 22") as caught:
        ScaledRound(bits)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([ScaledRound()], "no L2 bound"),
        ([Clip(1.0), ScaledRound(), ScaledRound()], "integers already"),
        ([ScaledRound(), Clip(1.0)], "stands after|no L2 bound"),
    ],
)
def test_what_has_no_scale_is_refused_with_a_hint(steps, says):
    with pytest.raises(PipelineError, match=says) as caught:
        Pipeline(steps)
    assert caught.value.hint


def test_sums_of_integers_need_room():
    few = Weight(by="uniform", denominator=1.0)
    bind(16, few, Clip(1.0), ScaledRound(bits=22), cohort=2**39)
    with pytest.raises(PipelineError, match="have no room") as caught:
        bind(16, few, Clip(1.0), ScaledRound(bits=22), cohort=2**41)
    assert "fewer bits" in caught.value.hint
