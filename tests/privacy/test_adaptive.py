"""A clip norm that follows the updates, and what its bit costs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.privacy.test_sensitivity import vectors
from tests.train.models import binary, federation

import hanse
from hanse import AdaptiveClip, Clip, GaussianNoise, Pipeline, PipelineError, Weight
from hanse.core.layout import Layout
from hanse.core.seeds import stream
from hanse.core.step import Refused
from hanse.privacy.adaptive import BELOW

SIZE = 8
UNIFORM = Weight(by="uniform", denominator=4.0)


def chance(purpose: str) -> np.random.Generator:
    return stream(3, purpose)


def bind(*steps, dtype: str = "float32", cohort: int = 8):
    layout = Layout.build(dtype, [("w", (SIZE,), "trainable")])
    return Pipeline(steps).bind(layout, cohort=cohort)


def told(norm: float) -> dict:
    return {"adaptive_clip": norm}


def rounds(bound, cohorts, states=None):
    """Each round's total, and the norm that the next one is told."""
    states, found = states or {}, []
    for number, cohort in enumerate(cohorts):
        running, announced = bound.accumulator(), bound.announce(states)
        for vector in cohort:
            share, _ = bound.encode(vector, {}, chance, announced=announced)
            if not isinstance(share, Refused):
                running.add(share, bound.grids)
        total, states = bound.decode(running, lambda p, n=number: stream(3, n, p), states)
        found.append((total, bound.announce(states)["adaptive_clip"]))
    return found


def of_length(length: float, seed: int = 0) -> np.ndarray:
    """A vector of a layout of SIZE float32, with its padding."""
    drawn, vector = np.random.default_rng(seed).standard_normal(SIZE), np.zeros(16, np.float32)
    vector[:SIZE] = drawn * length / np.linalg.norm(drawn)
    return vector


@pytest.mark.parametrize(
    ("z", "m", "wanted"), [(1.0, 100, 1.005037815259212), (1.1, 1000, 1.1000665560400216)]
)
def test_the_noise_is_split_between_vector_and_bits_as_in_the_paper(z, m, wanted):
    bound = bind(UNIFORM, AdaptiveClip(cohort=m), GaussianNoise(z))
    assert bound.facts.total_multiplier == pytest.approx(wanted, rel=1e-14)
    assert bound.facts.noise_multiplier == z  # what is accounted: not z_Δ (FLSim accounts z_Δ)
    assert bound.schema[0].noise == 2 * m / 20


def test_noise_on_the_bits_that_takes_all_of_the_privacy_is_refused():
    with pytest.raises(PipelineError, match="takes all of the privacy") as caught:
        bind(UNIFORM, AdaptiveClip(cohort=8, bit_noise=0.5), GaussianNoise(1.0))
    assert "bit_noise" in caught.value.hint


def test_bits_without_noise_beside_a_noised_model_are_refused():
    with pytest.raises(PipelineError, match="below of a step would leave exactly") as caught:
        bind(UNIFORM, AdaptiveClip(), GaussianNoise(1.0))
    assert "cohort" in caught.value.hint


@given(st.data(), st.sampled_from(["float32", "float64"]), st.floats(-40, 40))
def test_a_share_is_no_longer_than_one_whatever_norm_was_announced(data, dtype, power):
    bound = bind(UNIFORM, AdaptiveClip(), dtype=dtype)
    vector = data.draw(vectors(dtype))
    share, _ = bound.encode(vector, {}, chance, announced=told(2.0**power))
    if isinstance(share, Refused):
        assert share.reason.startswith("not finite")
        return
    running = bound.accumulator()
    running.add(share, bound.grids)
    grid = bound.grids["model"]
    assert sum(int(x) ** 2 for x in running.vector) * 4.0**-grid.exponent <= 1
    assert int(running.scalars[0]) in (-1, 1)


@given(st.data(), st.floats(-20, 20), st.floats(0.3, 3), st.integers(3, 200))
def test_one_client_more_moves_what_is_noised_by_no_more_than_is_accounted(data, power, z, cohort):
    """Vector and bits in units of their noise: together one Gaussian of multiplier z."""
    bit_noise = 2.0 * z + cohort / 20
    bound = bind(
        UNIFORM, AdaptiveClip(cohort=cohort, bit_noise=bit_noise), GaussianNoise(z), cohort=cohort
    )
    vector = data.draw(vectors("float32"))
    share, _ = bound.encode(vector, {}, chance, announced=told(2.0**power))
    if isinstance(share, Refused):
        return
    running, grid = bound.accumulator(), bound.grids["model"]
    running.add(share, bound.grids)
    moved = sum(int(x) ** 2 for x in running.vector) * 4.0**-grid.exponent
    bit = int(running.scalars[0])
    assert moved / bound.facts.total_multiplier**2 + (bit / (2 * bit_noise)) ** 2 <= 1 / z**2 * (
        1 + 1e-12
    )


def test_an_update_beyond_the_bound_comes_within_a_thousandth_of_what_is_accounted():
    z = 1.0
    bound = bind(UNIFORM, AdaptiveClip(cohort=80), GaussianNoise(z))
    running, grid = bound.accumulator(), bound.grids["model"]
    running.add(bound.encode(of_length(99), {}, chance, announced=told(2.0))[0], bound.grids)
    moved = sum(int(x) ** 2 for x in running.vector) * 4.0**-grid.exponent
    both = moved / bound.facts.total_multiplier**2 + 1 / bound.schema[0].noise ** 2
    assert both == pytest.approx(1 / z**2, rel=1e-3)


def test_both_are_noised_by_as_much_as_they_say():
    # 5 standard deviations of a sample's deviation, 1/√(2n): passed by chance 6 times in 10^7.
    n, bound = 4000, bind(UNIFORM, AdaptiveClip(initial=3.0, cohort=40), GaussianNoise(0.8))
    vectors, bits = [], []
    for number in range(n):
        total, _ = bound.decode(bound.accumulator(), lambda p, n=number: stream(1, n, p))
        vectors.append(total.vector[:SIZE] * 4 / 3)
        bits.append(float(total.counts[BELOW][0]))
    expected = 1 / math.sqrt(1 / 0.8**2 - 1 / 4.0**2)
    assert np.std(vectors) == pytest.approx(expected, rel=5 / math.sqrt(2 * n * SIZE))
    assert np.std(bits) == pytest.approx(4.0, rel=5 / math.sqrt(2 * n) + 0.01)
    assert abs(np.corrcoef(np.array(vectors)[:, 0], bits)[0, 1]) < 5 / math.sqrt(n)


def test_the_total_is_the_mean_of_the_clipped_updates_and_the_norm_moves_by_the_paper():
    bound = bind(Weight(by="uniform"), AdaptiveClip(initial=2.0, quantile=0.5, lr=0.3))
    cohort = [of_length(length, seed) for seed, length in enumerate((0.5, 1.0, 4.0, 8.0))]
    [(total, norm)] = rounds(bound, [cohort])
    clipped = [v * min(1, 2.0 / np.linalg.norm(v)) for v in cohort]
    assert total.vector == pytest.approx(np.mean(clipped, axis=0), abs=1e-5)
    assert norm == pytest.approx(2.0)  # two of four are within: the median
    [(_, higher)] = rounds(bound, [[of_length(9), of_length(9), of_length(9), of_length(1)]])
    assert higher == pytest.approx(2.0 * math.exp(-0.3 * (0.25 - 0.5)))


def test_the_norm_finds_the_quantile_of_the_lengths():
    lengths = np.random.default_rng(1).lognormal(1.0, 0.5, (400, 50))
    cohorts = [[of_length(x, k) for k, x in enumerate(row)] for row in lengths]
    for quantile in (0.2, 0.5, 0.8):
        bound = bind(Weight(by="uniform"), AdaptiveClip(0.01, quantile), cohort=50)
        norms = [norm for _, norm in rounds(bound, cohorts)]
        assert np.mean(norms[200:]) == pytest.approx(np.quantile(lengths, quantile), rel=0.05)


def test_an_update_that_is_not_finite_counts_as_nothing():
    bound = bind(UNIFORM, AdaptiveClip(cohort=40), GaussianNoise(1.0))
    bad = of_length(1.0)
    bad[0] = np.nan
    one, two = (rounds(bound, [cohort])[0] for cohort in ([bad], []))
    assert one[0].vector.tolist() == two[0].vector.tolist()
    assert one[1] == two[1]


@pytest.mark.parametrize("said", [None, "1", 0.0, -1.0, math.nan, math.inf])
def test_what_is_no_norm_is_not_clipped_to(said):
    bound = bind(UNIFORM, AdaptiveClip())
    with pytest.raises(PipelineError, match="which is no norm"):
        bound.encode(of_length(1.0), {}, chance, announced={"adaptive_clip": said})


@pytest.mark.parametrize(
    "bad",
    [
        {"initial": 0.0},
        {"quantile": 1.0},
        {"lr": 0.0},
        {"cohort": 0.0},
        {"bit_noise": 3.0},
        {"cohort": 5.0, "bit_noise": -1.0},
    ],
)
def test_settings_that_mean_nothing_are_refused_with_a_hint(bad):
    with pytest.raises(PipelineError) as caught:
        AdaptiveClip(**bad)
    assert caught.value.hint


@pytest.mark.parametrize("steps", [(), (GaussianNoise(0.3),)], ids=["exact", "noised"])
def test_the_norm_goes_on_where_a_run_was_interrupted_and_any_workers_agree(tmp_path, steps):
    weight = Weight(by="uniform", denominator=4.0 if steps else "observed")
    pipeline = Pipeline([weight, AdaptiveClip(initial=0.05, cohort=4.0), *steps])
    settings = {
        "pipeline": pipeline,
        "rounds": 6,
        "evaluation": hanse.Evaluation(release="simulation"),
    }
    data = federation(clients=4)
    plain = hanse.simulate(binary(), data, **settings)
    assert hanse.simulate(binary(), data, workers=3, **settings).model_digest == plain.model_digest
    fixed = replace(pipeline.steps[1], lr=1e-9)
    other = {**settings, "pipeline": Pipeline([weight, fixed, *steps])}
    assert hanse.simulate(binary(), data, **other).model_digest != plain.model_digest

    class Stop:
        def on_start(self, run, spec) -> None: ...

        def on_round(self, row) -> None:
            if row["round"] == 3:
                raise KeyboardInterrupt

        def on_end(self, result) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        hanse.simulate(binary(), data, out=tmp_path, callbacks=[Stop()], **settings)
    resumed = hanse.simulate(binary(), data, out=tmp_path, resume=True, **settings)
    assert resumed.model_digest == plain.model_digest


def test_a_fixed_clip_before_it_bounds_in_the_units_of_the_model():
    bound = bind(UNIFORM, Clip(1.0), AdaptiveClip(initial=4.0))
    [(total, _)] = rounds(bound, [[of_length(100.0)]])
    assert np.linalg.norm(total.vector) * 4 == pytest.approx(1.0, rel=1e-5)
