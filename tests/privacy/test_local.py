"""Noise of a client's own: how much, on which numbers, and nothing beside it."""

import math

import numpy as np
import pytest
from tests.privacy.test_two_worlds import DELTA, EPSILON, SURE, chances, multiplier

import hanse
from hanse import AdaptiveClip, Clip, LocalGaussianNoise, Pipeline, PipelineError, Weight
from hanse.core.layout import Layout
from hanse.core.reduce import Share
from hanse.core.seeds import stream

C = 0.75
WEIGHT = Weight(by="examples", cap=10, denominator=2.0)


def bind(noise: LocalGaussianNoise, size: int = 16, dtype: str = "float32"):
    layout = Layout.build(dtype, [("w", (size,), "trainable")])
    return Pipeline([WEIGHT, Clip(C), noise]).bind(layout, cohort=8)


def share_of(bound, vector, *, client="one", round=1, examples=10, drawn=None) -> Share:
    share, _ = bound.encode(
        vector, {"examples": examples}, lambda purpose: drawn or stream(7, round, client, purpose)
    )
    assert isinstance(share, Share), share
    return share


def sent(share: Share) -> np.ndarray:
    return share.vector.astype(np.float64) * share.scale


@pytest.mark.parametrize("z", [0.01, 0.7, 5.0, 100.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_share_is_what_was_clipped_and_weighted_under_noise_of_z_times_the_bound(z, dtype):
    # n = 10^5, fixed seed: 5 standard deviations of a sample's deviation and of its mean.
    n = 100_000
    vector = np.zeros(n, dtype)
    vector[:100] = 40.0
    noised = sent(share_of(bind(LocalGaussianNoise(z), n, dtype), vector, examples=5))
    wanted = vector.astype(np.float64) * (C / np.linalg.norm(vector.astype(np.float64))) / 2
    drawn = (noised - wanted) / (z * C)
    assert drawn.std() == pytest.approx(1, abs=5 / math.sqrt(2 * n))
    assert drawn.mean() == pytest.approx(0, abs=5 / math.sqrt(n))
    assert drawn[:100].mean() == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("z", [0.01, 0.7, 100.0])
def test_what_leaves_is_whole_numbers_of_a_grid_that_float32_has_exactly(z):
    share = share_of(bind(LocalGaussianNoise(z), 4096), np.ones(4096, np.float32))
    exponent = 12 - math.floor(math.log2(z * C))
    steps = sent(share) * 2.0**exponent
    assert share.vector.dtype == np.float32
    assert (steps == np.rint(steps)).all()
    assert 2**12 <= z * C * 2.0**exponent < 2**13
    assert len(set((steps % 16).tolist())) == 16  # and not of a coarser one


def test_a_retry_sends_the_same_bytes_and_nothing_else_does():
    bound, vector = bind(LocalGaussianNoise(1.0)), np.ones(16, np.float32)
    one = share_of(bound, vector).vector.tobytes()
    assert share_of(bound, vector).vector.tobytes() == one
    assert share_of(bound, vector, client="two").vector.tobytes() != one
    assert share_of(bound, vector, round=2).vector.tobytes() != one


def test_noise_of_clients_and_of_rounds_is_uncorrelated():
    n = 50_000
    bound, zero = bind(LocalGaussianNoise(1.0), n), np.zeros(n, np.float32)
    drawn = [
        sent(share_of(bound, zero, client=client, round=round))
        for client in ("one", "two")
        for round in (1, 2)
    ]
    for a in range(4):
        lag = np.corrcoef(drawn[a][1:], drawn[a][:-1])[0, 1]
        assert abs(lag) < 5 / math.sqrt(n)
        for b in range(a):
            assert abs(np.corrcoef(drawn[a], drawn[b])[0, 1]) < 5 / math.sqrt(n)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_an_update_that_is_not_finite_sends_noise_as_a_zero_does(bad):
    """A refusal would tell the coordinator something of the data."""
    bound, vector = bind(LocalGaussianNoise(1.0)), np.zeros(16, np.float32)
    zero = share_of(bound, vector.copy())
    vector[3] = bad
    found = share_of(bound, vector)
    if np.isfinite(bad):  # long, and clipped
        assert found.vector.tobytes() != zero.vector.tobytes()
    else:
        assert found.vector.tobytes() == zero.vector.tobytes()


def test_nothing_exact_leaves_beside_it():
    run = {"pipeline": Pipeline([WEIGHT, Clip(C), LocalGaussianNoise(1.0)])}
    from tests.train.models import binary, federation

    evaluation = hanse.Evaluation(release="simulation")
    result = hanse.simulate(binary(), federation(clients=3), rounds=2, evaluation=evaluation, **run)
    assert all(row["train"] is None and row["update"] is None for row in result.history)
    with pytest.raises(hanse.ConfigError, match="exact metrics leave beside a noised model"):
        hanse.simulate(binary(), federation(clients=3), rounds=2, **run)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([Weight(by="examples"), Clip(1.0)], "no cap"),
        ([WEIGHT], "no L2 bound"),
        ([Weight(by="uniform"), Clip(1.0)], None),
        ([Weight(by="examples", cap=3), Clip(1.0)], "weights that were observed"),
        ([WEIGHT, AdaptiveClip(cohort=10)], "bits of an adaptive clip"),
    ],
)
def test_what_it_could_not_protect_is_refused_with_a_hint(steps, says):
    pipeline = [*steps, LocalGaussianNoise(1.0)]
    if says is None:
        says = "weights that were observed"
    with pytest.raises(PipelineError, match=says) as caught:
        Pipeline(pipeline)
    assert caught.value.hint


@pytest.mark.parametrize("z", [0.0, 0.001, 101.0, math.nan, -1.0])
def test_a_multiplier_that_has_no_room_is_refused_with_a_hint(z):
    with pytest.raises(PipelineError, match="multiplier is not in") as caught:
        LocalGaussianNoise(z)
    assert caught.value.hint


def least_epsilon(bound, runs: int) -> float:
    """What the coordinator can prove of one share, knowing the noise: as in test_two_worlds."""
    layout, count = bound.layout, dict[float, int]()
    threshold = C * (0.5 + multiplier() ** 2 * EPSILON / 2)
    for update in (0.0, 1e6):
        vector, above = layout.zeros(), 0
        vector[0] = update
        drawn = stream(8, str(update))
        for _ in range(runs):
            above += sent(share_of(bound, vector, drawn=drawn))[0] > threshold
        count[update] = above
    least, _ = chances(count[1e6], runs, SURE / 2)
    _, most = chances(count[0.0], runs, SURE / 2)
    return math.log(max(least - DELTA, 1e-300) / most)


@pytest.mark.timeout(300)
def test_two_worlds_are_told_apart_no_better_than_claimed_and_halved_noise_is_caught():
    honest = least_epsilon(bind(LocalGaussianNoise(multiplier()), 1), 50_000)
    assert 0.3 < honest <= EPSILON
    assert least_epsilon(bind(LocalGaussianNoise(multiplier() / 2), 1), 20_000) > EPSILON
