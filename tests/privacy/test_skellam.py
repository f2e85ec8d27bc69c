"""Noise in shares: how much, of whom, what it comes to, and that it is there whatever happens."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.core.test_pipeline import FeedbackOnTheWire
from tests.laws.toys import Feedback
from tests.privacy.test_two_worlds import chances
from tests.train.models import binary, double, federation, logistic

import hanse
from hanse import (
    AdaptiveClip,
    Clip,
    ConfigError,
    Evaluation,
    Faults,
    GaussianNoise,
    LocalGaussianNoise,
    LocalTraining,
    Pipeline,
    PipelineError,
    Privacy,
    Rotate,
    ScaledRound,
    SkellamNoise,
    Sum,
    Weight,
)
from hanse.config.parse import parse
from hanse.core.dp_events import Composed, Gaussian, Repeated, Skellam
from hanse.core.layout import Layout
from hanse.core.reduce import Share
from hanse.core.seeds import stream
from hanse.privacy import rdp
from hanse.privacy.accounting import spent
from hanse.privacy.claims import claims, release_of, unknown_to
from hanse.privacy.skellam_draws import _entries, largest
from hanse.report.explain import explain

C, BITS, D = 0.75, 10, 2.0**10
PUBLIC = Weight(by="uniform", denominator=2.0)


def bind(noise: SkellamNoise | None, size: int = 64, cohort: int = 10, dtype="float32", turn=()):
    layout = Layout.build(dtype, [("w", (size,), "trainable")])
    noises = () if noise is None else (noise,)
    steps = [PUBLIC, Clip(C), *turn, ScaledRound(bits=BITS), *noises]
    return Pipeline(steps).bind(layout, cohort=cohort)


def share_of(bound, vector, *, client="one", round=1) -> Share:
    share, _ = bound.encode(
        vector,
        {},
        lambda purpose: stream(7, round, client, purpose),
        announced=bound.announce({}),
    )
    assert isinstance(share, Share), share
    return share


def total_of(bound, vectors, round=1) -> np.ndarray:
    """What is decoded of a round, times the denominator: a sum, in units of the model."""
    summed = bound.accumulator()
    for number, vector in enumerate(vectors):
        summed.add(share_of(bound, vector, client=str(number), round=round), bound.grids)
    total, _ = bound.decode(summed, lambda purpose: stream(7, round, purpose))
    return total.vector * 2.0


# How much noise


@pytest.mark.timeout(300)
def test_a_total_has_the_noise_of_those_who_reported():
    """10,000 rounds × 64 coordinates of seven zeros: 0.9 % is five deviations of a variance,
    √(2/640,000) each. Two-sided, fixed seed.
    """
    bound, zero = bind(SkellamNoise(1.3, honest=4, colluding=1)), np.zeros(64, np.float32)
    square = 0.0
    for round in range(10_000):
        found = total_of(bound, [zero] * 7, round)
        square += float(found @ found)
    each = (1.3 * C) ** 2 / 4
    assert square / 640_000 == pytest.approx(7 * each, rel=0.009)


@pytest.mark.parametrize("reports", [0, 1, 4, 5, 6])
@pytest.mark.parametrize("turn", [(), (Rotate(),)], ids=["plain", "rotated"])
def test_the_noise_of_those_who_are_missing_is_added_by_the_coordinator(reports, turn):
    """Never less than five shares of it: 300 rounds × 1,024 coordinates, five deviations."""
    bound = bind(SkellamNoise(1.3, honest=4, colluding=1), 1024, turn=turn)
    zero, square = np.zeros(1024, np.float32), 0.0
    for round in range(100):
        found = total_of(bound, [zero] * reports, round)
        square += float(found @ found)
    n, each = 100 * 1024, (1.3 * C) ** 2 / 4
    assert square / n == pytest.approx(max(5, reports) * each, rel=5 * math.sqrt(2 / n))


def test_noise_of_clients_rounds_and_coordinates_is_uncorrelated():
    n = 50_000
    layout = Layout.build("float32", [("w", (n,), "trainable")])
    steps = [PUBLIC, Clip(C), ScaledRound(), SkellamNoise(1.0, honest=2)]
    bound, zero = Pipeline(steps).bind(layout, cohort=3), np.zeros(n, np.float32)
    drawn = [
        share_of(bound, zero, client=client, round=round).vector
        for client in ("one", "two")
        for round in (1, 2)
    ]
    for a in range(4):
        assert abs(np.corrcoef(drawn[a][1:], drawn[a][:-1])[0, 1]) < 5 / math.sqrt(n)
        for b in range(a):
            assert abs(np.corrcoef(drawn[a], drawn[b])[0, 1]) < 5 / math.sqrt(n)


def test_a_retry_sends_the_same_bytes_and_nothing_else_does():
    bound, vector = bind(SkellamNoise(1.0, honest=3)), np.ones(64, np.float32)
    one = share_of(bound, vector).vector.tobytes()
    assert share_of(bound, vector).vector.tobytes() == one
    assert share_of(bound, vector, client="two").vector.tobytes() != one
    assert share_of(bound, vector, round=2).vector.tobytes() != one


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("turn", [(), (Rotate(),)], ids=["plain", "rotated"])
def test_an_update_that_is_not_finite_sends_noise_as_a_zero_does(bad, turn):
    bound, vector = bind(SkellamNoise(1.0, honest=3), turn=turn), np.zeros(64, np.float32)
    zero = share_of(bound, vector.copy())
    assert np.abs(zero.vector).max() > 100
    vector[3] = bad
    assert share_of(bound, vector).vector.tobytes() == zero.vector.tobytes()


def test_a_share_is_whole_numbers_that_are_never_out_of_range():
    bound = bind(SkellamNoise(1.0, honest=3))
    share = share_of(bound, np.full(64, 1e30, np.float32))
    assert (share.vector == np.rint(share.vector)).all()
    assert bound.grids["model"].exponent == 0
    assert bound.grids["model"].limit == math.floor(bound.facts.linf)
    assert bound.facts.linf == math.floor(bind(None).facts.linf) + largest(D**2 / 3)


def test_the_mean_of_the_totals_is_the_sum_of_the_updates():
    """2,000 rounds of three clients, five deviations of noise and rounding; and the bias of the
    rounding, below a step each.
    """
    bound = bind(SkellamNoise(0.05, honest=3), turn=(Rotate(),))
    vectors = [stream(1, k).standard_normal(64).astype(np.float32) * 0.05 for k in range(3)]
    total = np.zeros(64)
    for round in range(2_000):
        total += total_of(bound, vectors, round)
    noise = math.sqrt((0.05 * C) ** 2 + 3 / 4 * (C / D) ** 2)
    wanted = sum(vector.astype(np.float64) for vector in vectors)
    error = 5 * noise / math.sqrt(2_000) + 3 * C / D
    assert total / 2_000 == pytest.approx(wanted, abs=error)


# What one client moves


CLIPS = st.floats(-20, 40).map(lambda power: 2.0**power)
TURNS = st.sampled_from([(), (Rotate(),), (Rotate(largest=4),), (Rotate(largest=1),)])
WEIGHTS = st.one_of(
    st.builds(Weight, st.just("uniform"), denominator=st.floats(0.1, 10)),
    st.builds(Weight, st.just("examples"), cap=st.floats(0.01, 1e3), denominator=st.just(2.0)),
)
NUMBERS = st.floats(width=32) | st.floats(-(2.0**30), 2.0**30, width=32)


def integers_of(bound, cohort) -> list[int]:
    """The total that noise joins: without that, and a share that is not finite a zero."""
    summed = bound.accumulator()
    for number, (vector, examples) in enumerate(cohort):
        safe = vector if np.isfinite(vector).all() else np.zeros_like(vector)
        share, _ = bound.encode(
            safe,
            {"examples": examples},
            lambda purpose, number=number: stream(3, number, purpose),
            announced=bound.announce({}),
        )
        if isinstance(share, Share):
            summed.add(share, bound.grids)
    return summed.vector.tolist()


@given(st.data(), WEIGHTS, CLIPS, TURNS, st.integers(5, 18), st.sampled_from([16, 48]))
def test_without_one_client_the_integers_move_at_most_both_bounds(
    data, weight, clip, turn, bits, size
):
    layout = Layout.build("float32", [("w", (size,), "trainable")])
    steps = [weight, Clip(clip), *turn, ScaledRound(bits=bits)]
    bound = Pipeline(steps).bind(layout, cohort=5)
    noised = Pipeline([*steps, SkellamNoise(1.0, honest=2)]).bind(layout, cohort=5)
    one = st.tuples(arrays(np.float32, size, elements=NUMBERS), st.integers(0, 2000))
    cohort = data.draw(st.lists(one, min_size=1, max_size=5))
    gone = data.draw(st.integers(0, len(cohort) - 1))
    zero = [*cohort]
    zero[gone] = (np.zeros(size, np.float32), cohort[gone][1])
    shared = noised.facts.shared
    assert (shared.l1, shared.l2) == (bound.facts.l1, bound.facts.l2)
    moved = [a - b for a, b in zip(*(integers_of(bound, c) for c in (cohort, zero)), strict=True)]
    assert sum(step * step for step in moved) <= Fraction(shared.l2) ** 2
    assert sum(map(abs, moved)) <= shared.l1


@pytest.mark.parametrize("bits", [6, 10, 18])
@pytest.mark.parametrize("turn", [(), (Rotate(),), (Rotate(largest=4),)])
def test_a_worst_case_moves_nine_tenths_of_both_bounds(bits, turn):
    layout = Layout.build("float32", [("w", (64,), "trainable")])
    bound = Pipeline([PUBLIC, Clip(C), *turn, ScaledRound(bits=bits)]).bind(layout, cohort=2)
    found = list[tuple[float, float]]()
    for vector in (np.ones(64), np.eye(64)[0], stream(1, "w").standard_normal(64)):
        moved = np.array(integers_of(bound, [(vector.astype(np.float32) * 100, 1)]))
        found.append((np.linalg.norm(moved), np.abs(moved).sum()))
    assert bound.facts.l2 * 0.9 <= max(l2 for l2, _ in found) <= bound.facts.l2
    if not turn or turn[0].largest == 2**20:  # of a spike a rotation makes the largest L1 norm
        assert bound.facts.l1 * 0.9 <= max(l1 for _, l1 in found) <= bound.facts.l1


# What it comes to


def event_of(size: int, bits: int, noise: SkellamNoise) -> Skellam:
    layout = Layout.build("float32", [("w", (size,), "trainable")])
    steps = [Weight(by="uniform", denominator=9.0), Clip(1.0), ScaledRound(bits=bits), noise]
    facts = Pipeline(steps).bind(layout, cohort=9).facts
    assert facts.shared is not None
    return facts.shared.told_by(noise.honest)


@pytest.mark.parametrize("honest", [1, 7])
@pytest.mark.parametrize(
    ("size", "bits", "rounds", "wanted"),
    [
        *((2**20, 14, 1, 5.2255), (2**20, 12, 1, 5.2701), (2**24, 14, 1, 5.2695)),
        (2**20, 14, 50, 62.48),
    ],
)
def test_known_answers(size, bits, rounds, wanted, honest):
    """Of C = 1 and z = 1 at δ = 10^-6, of integer orders from 2 to 128, and 256."""
    event = Repeated(event_of(size, bits, SkellamNoise(1.0, honest)), rounds)
    assert spent(event, 1e-6).epsilon == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("variance", [1.0, 4.0, 25.0, 400.0])
def test_the_divergence_that_is_accounted_is_above_the_one_that_is(variance):
    """Of one coordinate that moves by m steps, summed over its probabilities from the table, both
    ways alike since they are symmetric; and not far above where noise is much more than a step.
    """
    entries = _entries(variance)
    log = np.array([math.log(b - a) - (a > 0) * math.log(2) if b > a else -math.inf
                    for a, b in zip([0, *entries], entries, strict=False)])  # fmt: skip
    log -= 320 * math.log(2)
    both = np.concatenate([log[:0:-1], log])
    for moved in (1, 2, 5, 20):
        there, here = (
            np.append(both, np.full(moved, -math.inf)),
            np.append(np.full(moved, -math.inf), both),
        )
        known = np.isfinite(there) & np.isfinite(here)
        bounds = rdp.divergence(Skellam(float(moved), float(moved), variance))
        for order, bound in zip(rdp.ORDERS[rdp.WHOLE].tolist(), bounds[rdp.WHOLE], strict=True):
            if order > 32:
                break
            terms = order * here[known] + (1 - order) * there[known]
            true = float(np.logaddexp.reduce(terms)) / (order - 1)
            assert true <= bound * (1 + 1e-9)
            if variance >= 400 and moved <= 2:
                assert true >= 0.98 * bound


def test_too_much_for_what_delta_can_pay_is_infinite():
    event = Skellam(10.0, 10.0, 100.0)
    assert spent(event, 1e-6).epsilon < 10
    assert spent(Repeated(event, 200), 1e-6).epsilon == math.inf
    assert spent(Composed((Repeated(event, 200), Gaussian(1.0))), 1e-6).epsilon == math.inf
    assert spent(Repeated(Gaussian(0.5), 200), 1e-6).epsilon < math.inf
    assert spent(event, 1e-60).epsilon == math.inf


@pytest.mark.parametrize(
    ("noise", "wanted"),
    [
        (SkellamNoise(1.0, honest=7), (1, 6, 7)),
        (SkellamNoise(1.0, honest=6, colluding=1), (1, 6, 6)),
        (SkellamNoise(1.0, honest=1), (1, 0, 1)),
    ],
)
def test_each_observer_lacks_the_noise_that_it_cannot_know(noise, wanted):
    shared = bind(noise).facts.shared
    found = tuple(unknown_to(o, shared) for o in ("coordinator", "sites", "recipients"))
    assert found == wanted
    assert shared.variance == pytest.approx((1.0 * D) ** 2 / noise.honest, rel=1e-15)


def least_epsilon(noise: SkellamNoise, clients: int, delta: float, epsilon: float) -> float:
    """The ε that is proved of totals with the noise of so many: 300,000 runs in each of two worlds.

    A run is a coordinate, whose noise is its own; the client that is there moves it by D steps.
    """
    size, wrong, runs = 60_000, 1e-4, 300_000
    bound = bind(noise, size)
    zero = np.zeros(bound.start.coordinates, np.float32)
    drawn = [
        sum(share_of(bound, zero, client=str(c), round=r).vector[:size] for c in range(clients))
        for r in range(10)
    ]
    there, gone = np.concatenate(drawn[:5]) + D, np.concatenate(drawn[5:])
    threshold = D / 2 + (noise.noise_multiplier**2) * D * epsilon / 2
    least, _ = chances(int((there > threshold).sum()), runs, wrong / 2)
    _, most = chances(int((gone > threshold).sum()), runs, wrong / 2)
    return math.log(max(least - delta, 1e-300) / most)


@pytest.mark.timeout(300)
def test_two_worlds_are_told_apart_no_better_than_claimed_and_missing_noise_is_caught():
    noise, delta = SkellamNoise(2.2, honest=3), 1e-2
    shared = bind(noise, 16).facts.shared
    claimed = spent(shared.told_by(3), delta).epsilon
    assert 0.9 < claimed < 1.4
    assert 0.3 < least_epsilon(noise, 3, delta, claimed) <= claimed
    assert least_epsilon(noise, 1, delta, claimed) > claimed


# Other noise on whole numbers


def test_central_noise_on_whole_numbers_is_of_their_bound():
    """300 totals × 256: five deviations of a variance."""
    layout = Layout.build("float32", [("w", (256,), "trainable")])
    steps = [PUBLIC, Clip(C), Rotate(), ScaledRound(bits=BITS), GaussianNoise(1.5)]
    bound, square = Pipeline(steps).bind(layout, cohort=4), 0.0
    for round in range(300):
        found = total_of(bound, [], round)
        square += float(found @ found)
    wanted = (1.5 * bound.facts.l2 * C / D) ** 2
    assert square / (300 * 256) == pytest.approx(wanted, rel=5 * math.sqrt(2 / (300 * 256)))


def test_local_noise_on_whole_numbers_makes_fractions_of_them():
    steps = [PUBLIC, Clip(C), ScaledRound(bits=4), LocalGaussianNoise(0.01)]
    layout = Layout.build("float32", [("w", (16,), "trainable")])
    bound = Pipeline(steps).bind(layout, cohort=4)
    assert bound.facts.domain == "reals"
    share = share_of(bound, np.ones(16, np.float32))
    assert (share.vector != np.rint(share.vector)).any()
    assert total_of(bound, [np.ones(16, np.float32)]) == pytest.approx(
        np.full(16, C / 4), abs=7 * 0.01 * C + 2 * C / 16
    )


def test_a_ledger_holds_for_each_observer_what_one_release_tells_it(tmp_path):
    given = "honest = {}\nnoise_multiplier = 3.0"
    told = release_of(run_file(tmp_path, noise=given.format(15)).sketch)
    noise = {observer: by_unit["client"].variance for observer, by_unit in told.items()}
    assert all({*by_unit} == {"client"} for by_unit in told.values())
    each = (3.0 * 2.0**12) ** 2 / 15
    assert noise == pytest.approx(
        {"coordinator": each, "sites": 14 * each, "recipients": 15 * each}
    )
    alone = release_of(run_file(tmp_path, noise=given.format(1)).sketch)
    assert set(alone) == {"coordinator", "recipients"}  # a site is told all


# Run files


RUN = """
task = "app:task"
data = "app:data"
sites = {sites}
rounds = 20
{more}
[evaluation]
release = "simulation"
[[pipeline]]
step = "weight"
by = "uniform"
denominator = 4.0
[[pipeline]]
step = "clip"
norm = 0.5
[[pipeline]]
step = "rotate"
[[pipeline]]
step = "scaled_round"
bits = 12
[[pipeline]]
step = "skellam_noise"
{noise}
"""


def run_file(tmp_path, more="", noise="honest = 15\ncolluding = 2"):
    path, names = tmp_path / "run.toml", [f"site-{number}" for number in range(20)]
    path.write_text(RUN.format(sites=names, more=more, noise=noise))
    return parse(path)


@pytest.mark.parametrize("against", ["sites", "recipients", "coordinator"])
def test_the_noise_for_a_promise_is_found_and_kept(tmp_path, against):
    promise = f'[privacy]\nepsilon = 4.0\ndelta = 1e-6\nagainst = "{against}"\n'
    file = run_file(tmp_path, promise)
    found = {claim.observer: claim.epsilon.epsilon for claim in claims(file.sketch)}
    assert 0.985 * 4.0 <= found[against] <= 4.0
    assert found["coordinator"] >= found["sites"] >= found["recipients"]
    (noise,) = (step for step in file.pipeline.steps if isinstance(step, SkellamNoise))
    if against != "coordinator":
        with pytest.raises(ConfigError, match="promises 4") as caught:
            run_file(
                tmp_path, promise, f"honest = 15\nnoise_multiplier = {noise.noise_multiplier / 2}"
            )
        assert f"multiplier {noise.noise_multiplier / 2:g}" in str(caught.value)


@pytest.mark.parametrize("sampling", ['name = "poisson"\nrate = 0.2', 'name = "fixed"\nsize = 18'])
def test_sampling_gains_nothing(tmp_path, sampling):
    given = "honest = 15\ncolluding = 2\nnoise_multiplier = 3.0"
    more = "[privacy]\ndelta = 1e-6\n"
    plain = claims(run_file(tmp_path, more, given).sketch)
    assert claims(run_file(tmp_path, f"[sampling]\n{sampling}\n{more}", given).sketch) == plain


def test_it_is_said_what_is_promised_toward_whom(tmp_path):
    given = "honest = 15\nnoise_multiplier = 3.0"
    sections = explain(run_file(tmp_path, "[privacy]\ndelta = 1e-6\n", given))
    rows = {row[0]: row for section in sections for row in section.rows}
    noise = rows["skellam_noise (noise_multiplier = 3, honest = 15, colluding = 0)"]
    assert noise[2] == (
        "noise of standard deviation 0.3873 in each coordinate of the share; 1.5 in a total of 15 "
        "honest clients"
    )
    assert rows["scaled_round (bits = 12)"][2].startswith("integers, in steps of 0.000122; L2 norm")
    (section,) = (s for s in sections if s.title.startswith("Privacy"))
    said = [row[2] for row in section.rows]
    assert "a share under its own noise: sums are plain" in said[0]
    assert "the noise of 14 honest clients (its own it knows)" in said[1]
    assert "the noise of 15 honest clients;" in said[2]
    assert all("it sends noise alone" in how for how in said)


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        ("noise_multiplier = 1.0", 'missing key "honest"'),
        ("honest = 15", 'missing key "noise_multiplier"'),
        ("honest = 0\nnoise_multiplier = 1.0", "honest is no number of clients"),
        ("honest = 2.5\nnoise_multiplier = 1.0", "honest"),
        ("honest = 15\ncolluding = 6\nnoise_multiplier = 1.0", "counts on 21 clients"),
        ("honest = 15\nnoise_multiplier = 0.0", "multiplier is not in"),
        ("honest = 15\nnoise_multiplier = 1.0\nclip = 1.0", "clip"),
    ],
)
def test_what_cannot_be_meant_in_a_run_file_is_refused_with_a_hint(tmp_path, noise, says):
    with pytest.raises((ConfigError, PipelineError), match=says) as caught:
        run_file(tmp_path, noise=noise)
    assert caught.value.hint


NOISE = SkellamNoise(1.0, honest=2)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([PUBLIC, Clip(1.0), NOISE], "shares it joins are not"),
        ([PUBLIC, NOISE], "no L2 bound"),
        ([PUBLIC, ScaledRound(), NOISE], "no L2 bound"),
        ([PUBLIC, Clip(1.0), Feedback(), ScaledRound(), NOISE], "L2 bound|memory"),
        ([PUBLIC, Clip(1.0), ScaledRound(), NOISE, FeedbackOnTheWire()], "memory"),
        ([Clip(1.0), ScaledRound(), NOISE], "weights that were observed"),
        ([Weight(by="examples"), Clip(1.0), ScaledRound(), NOISE], "no cap"),
        ([PUBLIC, AdaptiveClip(cohort=9.0), ScaledRound(), NOISE], "bits of an adaptive clip"),
        ([PUBLIC, Clip(1.0), NOISE, ScaledRound()], "stands after|are not"),
        ([PUBLIC, Clip(1.0), ScaledRound(), NOISE, Sum(limit=9.0)], "by their noise"),
        ([PUBLIC, Clip(1.0), ScaledRound(), NOISE, GaussianNoise(1.0)], "one noise|no L2 bound"),
    ],
)
def test_what_it_could_not_protect_is_refused_with_a_hint(steps, says):
    with pytest.raises(PipelineError, match=says) as caught:
        Pipeline(steps)
    assert caught.value.hint


def test_noise_without_room_is_refused_when_a_run_binds_it():
    layout = Layout.build("float32", [("w", (16,), "trainable")])
    steps = [PUBLIC, Clip(1.0), ScaledRound(bits=22), SkellamNoise(1.0, honest=1)]
    with pytest.raises(PipelineError, match=r"too wide|no room") as caught:
        Pipeline(steps).bind(layout, cohort=2)
    assert "fewer bits" in caught.value.hint


# Whole runs


TASK, DATA = binary(double(logistic)), federation(clients=8, smallest=40, tests=60)
STEPS = (Weight(by="uniform", denominator=8.0), Clip(1.0))
SHARED = Pipeline([*STEPS, Rotate(), ScaledRound(), SkellamNoise(0.05, honest=6, colluding=1)])


@dataclass(frozen=True)
class Setting:
    """A run of the same task with one pipeline or another."""

    pipeline: Pipeline

    def run(self, workers: int = 1, rounds: int = 15, **more) -> hanse.Result:
        return hanse.simulate(
            TASK, DATA, pipeline=self.pipeline, local=LocalTraining(lr=0.3, epochs=3),
            evaluation=Evaluation(every=rounds, release="simulation"), rounds=rounds, seed=5,
            workers=workers, **more,
        )  # fmt: skip


def test_a_run_with_noise_in_shares_learns_as_one_without():
    def accuracy(pipeline: Pipeline) -> float:
        return Setting(pipeline).run().history[-1]["evaluation"]["pooled"]["accuracy"]

    plain = accuracy(Pipeline(STEPS))
    assert plain > 0.85
    assert accuracy(Pipeline([*STEPS, Rotate(), ScaledRound()])) == pytest.approx(plain, abs=0.02)
    assert accuracy(SHARED) == pytest.approx(plain, abs=0.05)
    drowned = [*STEPS, Rotate(), ScaledRound(bits=6), SkellamNoise(100.0, honest=1)]
    assert accuracy(Pipeline(drowned)) < 0.75


def test_one_worker_and_two_make_the_same_bits():
    one, two = Setting(SHARED).run(1, 3), Setting(SHARED).run(2, 3)
    assert one.model_digest == two.model_digest
    assert one.model_digest != Setting(Pipeline(STEPS)).run(1, 3).model_digest


def test_the_functional_form_makes_the_same_bits():
    made = hanse.process(TASK, local=LocalTraining(lr=0.3, epochs=3), pipeline=SHARED)
    state = made.initialize(5)
    for _ in range(3):
        state, _ = made.next(state, {site: train for site, (train, _) in DATA.items()})
    assert made.model_digest(state) == Setting(SHARED).run(1, 3).model_digest


def test_many_at_once_are_noised_one_by_one():
    batched = Setting(SHARED).run(1, 3, engine="batched")
    assert len(batched.history) == 3
    assert batched.model_digest == Setting(SHARED).run(2, 3, engine="batched").model_digest


def test_clients_that_are_broken_or_gone_leave_the_round_and_its_noise_as_it_is():
    faults = Faults(dropout=0.4, corrupt=0.4)
    result = Setting(SHARED).run(1, 4, faults=faults, privacy=Privacy(1e-6))
    assert len(result.history) == 4
    assert not any(row["aborted"] for row in result.history)
    corrupted = [
        s for s in DATA if faults.fate(5, 1, s).corrupts and not faults.fate(5, 1, s).drops
    ]
    assert corrupted
    assert set(corrupted) <= set(result.history[0]["counted"])
