"""Clip keeps its claim without slack: after the wire's rounding and the grid's, in float64."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.accelerate import kernels
from hanse.core.facts import Facts
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.seeds import stream
from hanse.core.step import Place, Update
from hanse.core.sums import Grid, factor_of, norm, on_grid, on_wire
from hanse.core.weight import Weight
from hanse.errors import PipelineError
from hanse.privacy import Clip
from hanse.privacy.clip import ROOM

PLACE = Place(Facts(), lambda purpose: stream(0, purpose))
DTYPES = ("float32", "float64")


def clip(vector: np.ndarray, bound: float, *, scale: float = 1.0) -> Update:
    return Clip(bound).encode(Update(vector, kernels().norm(vector), scale), PLACE)


def exact_square(numbers: np.ndarray) -> Fraction:
    return sum((Fraction(x) ** 2 for x in numbers.tolist()), Fraction(0))


def assert_within(vector: np.ndarray, bound: float, scale: float) -> None:
    """In exact arithmetic, on the wire and on the grid of a small cohort."""
    wire, grid = on_wire(vector, scale), Grid.choose(bound, 4096)
    assert exact_square(wire) <= Fraction(bound) ** 2
    integers = on_grid(wire, grid.exponent)
    assert exact_square(integers) <= (Fraction(bound) * Fraction(2) ** grid.exponent) ** 2


# --- the claim


def sizes(count: int) -> list[int]:
    """Lengths from 1 to 5000, small ones more often; those at which layouts and kernels turn."""
    rng = stream(1, "sizes")
    drawn = np.exp(rng.uniform(0, math.log(5000), count)).astype(int).tolist()
    return [*drawn[:-12], 1, 2, 15, 16, 17, 27, 28, 32, 255, 256, 257, 5000]


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_clipped_share_of_50_000_is_longer_than_its_bound(dtype):
    # 10^5 in all. Rows of one length at a time; scales 1e-30 … 1e30, coordinates spread too.
    rows, clipped = 100, 0
    for group, size in enumerate(sizes(500)):
        rng = stream(2, dtype, group)
        spread = rng.choice([0.0, 1.0, 6.0])
        block = rng.standard_normal((rows, size), dtype=np.float32).astype(np.float64)
        block *= 10.0 ** rng.uniform(-30, 30, (rows, 1))
        block *= 10.0 ** rng.uniform(-spread, spread, size)
        block = block.astype(dtype)
        bound = float(2.0 ** rng.uniform(-20, 20))
        scales = np.array([clip(row, bound).scale for row in block])
        clipped += (scales < 1).sum()
        factors = np.array([factor_of(row, s) for row, s in zip(block, scales, strict=True)])
        wire = block * factors[:, None]
        if group % 25 == 0:  # what was vectorised is what the wire does
            assert np.array_equal(wire[7], on_wire(block[7], scales[7]))
        wide = wire.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        assert (lengths <= bound).all()
        step = Grid.choose(bound, 4096).step
        wide = np.rint(wide / step)
        lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide)) * step
        assert (lengths <= bound).all()
    assert 10_000 < clipped < 49_000  # both sides of the bound were tried


def adversarial(dtype: str, bound: float) -> dict[str, np.ndarray]:
    tiny, real = np.finfo(dtype), np.dtype(dtype).type
    axis = np.zeros(27, dtype)
    axis[13] = bound
    even = np.full(27, bound / math.sqrt(27), dtype)
    mixed = stream(3, dtype).standard_normal(27).astype(dtype)
    mixed *= real(bound / norm(mixed))
    spike = mixed * real(1e-6)
    spike[5] = min(float(tiny.max), 1e150) / 2
    return {
        "exactly the bound": axis,
        "the bound, spread": even,
        "the bound, random": mixed,
        "an ulp above": np.nextafter(axis, real(math.inf)),
        "an ulp below": np.nextafter(axis, real(0)),
        "a little above": mixed * real(1 + 2.0**-20),
        "a little below": mixed * real(1 - 2.0**-20),
        "at the target": axis * real(1 - ROOM),
        "just above the target": np.nextafter(axis * real(1 - ROOM), real(math.inf)),
        "one huge coordinate": spike,
        "all huge": np.full(27, spike[5] / 27, dtype),
        "denormals": np.full(27, tiny.smallest_subnormal),
        "smallest normals": np.full(27, tiny.smallest_normal),
        "a denormal beside the bound": np.where(axis != 0, axis, tiny.smallest_subnormal),
        "alternating signs": even * np.where(np.arange(27) % 2, real(2), real(-2)),
        "zeros": np.zeros(27, dtype),
        "one number": np.array([bound * 3], dtype),
    }


@pytest.mark.parametrize("bound", [1.0, 0.1, 3.0, 2.0**-64, 2.0**64, 1e-6, 1e6, 1 / 3], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_made_to_break_the_bound_do_not(dtype, bound):
    for name, vector in adversarial(dtype, bound).items():
        update = clip(vector, bound)
        assert update.scale <= 1, name
        assert_within(vector, bound, update.scale)


@pytest.mark.parametrize("log2_ratio", [-150, -149, -148, -147, -146, -140, -132, -130, -127, -126])
def test_a_factor_below_the_normal_numbers_of_float32_does_not_round_beyond_the_bound(log2_ratio):
    # Such a factor has few bits or none: rounded up, 2^-149.4 becomes twice as much.
    for fraction in (1.0, 1.2, 1.4, 1.5, 1.6, 1.9):
        longest = np.array([3.0e38, 0, 1e38], np.float32)
        bound = float(norm(longest) * fraction * 2.0**log2_ratio)
        assert_within(longest, bound, clip(longest, bound).scale)


@given(
    st.sampled_from(DTYPES),
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30),
    st.floats(-60, 60),
    st.floats(0, 1),
)
def test_a_weight_after_the_clip_does_not_lengthen_it(dtype, numbers, log2_bound, omega):
    vector, bound = np.array(numbers, dtype), 2.0**log2_bound
    update = clip(vector, bound)
    if update.scale > 2.0**-100:  # see the test above for the others
        assert_within(vector, bound, update.scale * omega)


# --- what it does to an update


def test_a_short_update_is_left_alone():
    vector = np.array([0.3, -0.4], np.float32)
    update = Update(vector, norm(vector))
    assert Clip(1.0).encode(update, PLACE) is update


def test_a_long_update_is_scaled_to_its_bound_less_2_to_the_minus_20():
    update = clip(np.array([3.0, 4.0]), 1.0)
    assert update.scale == (1 - 2.0**-20) / 5
    assert update.vector.tolist() == [3.0, 4.0]  # the factor stays pending
    assert update.weight == 1.0


def test_a_factor_already_pending_counts():
    vector = np.array([3.0, 4.0])
    assert clip(vector, 1.0, scale=0.1).scale == 0.1  # 0.5 is short enough
    assert clip(vector, 1.0, scale=0.5).scale == pytest.approx(0.2, rel=2e-6)


def test_the_shorter_of_two_clips_decides():
    for norms in ((1.0, 2.0), (2.0, 1.0)):
        update = Update(np.array([3.0, 4.0]), 5.0)
        for bound in norms:
            update = Clip(bound).encode(update, PLACE)
        assert update.scale == pytest.approx(0.2, rel=2e-6)


def test_directions_are_kept():
    vector = stream(4, "direction").standard_normal(100)
    update = clip(vector, 0.01)
    assert np.allclose(on_wire(vector, update.scale) / 0.01, vector / norm(vector), rtol=2e-6)


def test_both_norms_are_bounded():
    assert Clip(2.0).check(Facts()) == Facts(l2=2.0, linf=2.0)
    assert Clip(2.0).check(Facts(l2=1.0, linf=0.5)) == Facts(l2=1.0, linf=0.5)
    assert Clip(2).check(Facts(l2=9.0, linf=9.0)) == Facts(l2=2.0, linf=2.0)


def test_the_bound_of_an_uncapped_weighted_share_is_honest():
    facts = Pipeline([Weight(by="examples"), Clip(2.0)]).facts()
    assert facts.l2 == 2.0 * 2**20


def test_padding_counts_toward_the_length():
    # It is zero from our own engine; from anybody else it must not slip past the bound.
    layout = Layout.build("float32", [("w", (3,), "trainable")])
    bound = Pipeline([Clip(1.0)]).bind(layout, cohort=2)
    dirty = np.full(layout.size, 100, np.float32)
    share, _ = bound.encode(dirty, {}, lambda purpose: stream(0, purpose))
    assert_within(share.vector, 1.0, share.scale)


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, math.nan, math.inf, 2.0**-65, 2.0**65], ids=repr)
def test_a_norm_that_bounds_nothing_is_refused_with_a_hint(bad):
    with pytest.raises(PipelineError, match="is no bound") as refusal:
        Clip(bad)
    assert "1.0 is a common start" in refusal.value.hint


@pytest.mark.parametrize("bad", ["1", None, [1.0]], ids=repr)
def test_a_norm_that_is_no_number_is_refused(bad):
    with pytest.raises((TypeError, PipelineError)):
        Clip(bad)
