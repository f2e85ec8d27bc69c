"""Pipelines: what is refused before anything runs, what is refused at a client, and both ends."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tests.laws.toys import Feedback, FeedbackOnTheWire, Plus, Rounds, Scaled, Stretch, Veto

from hanse.core.facts import Facts
from hanse.core.layout import Layout
from hanse.core.pipeline import BoundPipeline, Pipeline
from hanse.core.reduce import Share, Sum
from hanse.core.seeds import stream
from hanse.core.step import Refused, Scalar, Step
from hanse.core.sums import on_wire
from hanse.core.weight import Weight
from hanse.errors import PipelineError
from hanse.privacy import Clip, GaussianNoise

LAYOUT = Layout.build("float32", [("w", (3,), "trainable"), ("b", (2,), "trainable")])
SPAN = [0, 1, 2, 16, 17]  # where w and b stand in the 32 coordinates
PUBLIC = Weight(by="examples", cap=300, denominator=4.0)
NOISE = GaussianNoise(1.0)


def chance(purpose: str) -> np.random.Generator:
    return stream(7, 1, purpose)


def bind(*steps: Step, cohort: int = 4, **more) -> BoundPipeline:
    return Pipeline(steps).bind(LAYOUT, cohort=cohort, **more)


def vector(*numbers: float) -> np.ndarray:
    full = LAYOUT.zeros()
    full[: len(numbers)] = numbers
    return full


def encode(bound: BoundPipeline, *numbers: float, examples: int = 1, **more) -> Share | Refused:
    return bound.encode(vector(*numbers), {"examples": examples}, chance, **more)[0]


def decode(bound: BoundPipeline, *shares: Share):
    running = bound.accumulator()
    for share in shares:
        running.add(share, bound.grids)
    return bound.decode(running, chance)[0]


# --- refused before anything runs


UNSOUND = {
    "noise without clip": ([PUBLIC, NOISE], "have no L2 bound", "Clip(norm=...) before"),
    "noise alone": ([NOISE], "have no L2 bound", "Clip(norm=...) before"),
    "noise before clip": ([PUBLIC, NOISE, Clip(1.0)], "GaussianNoise", "before"),
    "clip before and after noise": ([PUBLIC, Clip(1.0), NOISE, Clip(0.5)], "GaussianNoise", "befo"),
    "weight without a cap under noise": (
        [Weight(by="examples", denominator=9.0), Clip(1.0), NOISE], "have no cap", "cap=300"
    ),
    "observed denominator under noise": (
        [Weight(by="examples", cap=300), Clip(1.0), NOISE], "weights that were observed", "public"
    ),
    "default weight under noise": ([Clip(1.0), NOISE], "weights that were observed", "public"),
    "two reducers": ([Sum(), Sum()], "a pipeline has one reducer", "leave one reducer out"),
    "two noises": ([PUBLIC, Clip(1.0), NOISE, GaussianNoise(2.0)], "one noise", "leave one"),
    "two weights": ([PUBLIC, Weight(by="uniform"), Clip(1.0)], "one weight", "leave one weight"),
    "weight after clip": ([Clip(1.0), PUBLIC], "stands after", "the order is weight, bound"),
    "clip after a codec": ([Scaled(), Clip(1.0)], "stands after", "the order is weight, bound"),
    "clip after the reducer": ([Sum(), Clip(1.0)], "Clip(norm=1.0) (bound) stands", "before Sum"),
    "weight after the reducer": ([Sum(), PUBLIC], "(weight) stands after", "before Sum"),
    "noise after the reducer": (
        [PUBLIC, Clip(1.0), Sum(), NOISE], "(noise) stands after", "before Sum"
    ),
    "a codec after noise": ([PUBLIC, Clip(1.0), NOISE, Scaled()], "stands after", "the order is"),
    "memory before noise": ([PUBLIC, Clip(1.0), Feedback(), NOISE], "memory", "leave the step"),
    "a class for a step": ([Clip], "is not a step", "Clip(norm=1.0)"),
    "a table for a step": ([{"step": "clip", "norm": 1.0}], "is not a step", "step objects"),
    "a name for a step": (["clip"], "'clip' is not a step", "step objects"),
    "nothing for a step": ([None], "None is not a step", "step objects"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_pipeline_cannot_be_built_and_the_hint_says_what_to_change(case):
    steps, says, hint = UNSOUND[case]
    with pytest.raises(PipelineError, match=re.escape(says)) as refusal:
        Pipeline(steps)
    assert hint in refusal.value.hint


def test_a_clip_after_noise_is_told_its_place_and_not_to_add_a_clip():
    with pytest.raises(PipelineError) as refusal:
        Pipeline([PUBLIC, Clip(1.0), NOISE, Clip(0.5)])
    assert "no L2 bound" not in str(refusal.value)


def test_memory_between_central_noise_and_the_sum_is_refused_too():
    # Central noise joins the total, after every client step: what stands between lengthens a share.
    with pytest.raises(PipelineError, match="memory"):
        Pipeline([PUBLIC, Clip(1.0), NOISE, FeedbackOnTheWire()])


def test_noise_covers_the_share_as_it_is_summed():
    wide = Layout.build("float64", [("w", (100_000,), "trainable")])
    try:
        bound = Pipeline([PUBLIC, Clip(1.0), NOISE, Stretch(2.0)]).bind(wide, cohort=4)
    except PipelineError:
        return  # refusing it is as good
    drawn = decode(bound).vector * 4.0 * 2.0  # before it was divided by the weight and by Stretch
    assert drawn.std() > 0.98 * bound.facts.noise_multiplier * bound.facts.l2


def test_sound_pipelines_can_be_built():
    Pipeline([])
    Pipeline([Weight(by="steps"), Clip(2.0), Clip(1.0), Scaled(), Sum(limit=3.0)])
    Pipeline([PUBLIC, Clip(1.0), Scaled(), NOISE, Sum()])
    Pipeline([Clip(1.0), Feedback(), FeedbackOnTheWire()])


def test_buffers_in_the_clear_beside_a_noised_model_are_refused():
    with pytest.raises(PipelineError, match="buffers would leave in the clear") as refusal:
        bind(PUBLIC, Clip(1.0), NOISE, extras={"buffers": 8})
    assert "freeze" in refusal.value.hint


@pytest.mark.parametrize(("log2_size", "is_sound"), [(20, True), (27, True), (28, False)])
def test_a_grid_too_coarse_for_the_claim_of_a_bound_is_refused(log2_size, is_sound):
    # 2^29 clients leave F = 33; √n·2^-34 must stay below the room of (2^-20 − 2^-22).
    huge = Layout.build("float32", [("w", (2**log2_size,), "trainable")])  # nothing is allocated
    if is_sound:
        assert Pipeline([Clip(1.0)]).bind(huge, cohort=2**29).grids["model"].exponent == 33
        return
    with pytest.raises(PipelineError, match="could exceed the L2 bound of 1") as refusal:
        Pipeline([Clip(1.0)]).bind(huge, cohort=2**29)
    assert "cohort smaller" in refusal.value.hint


def test_integers_whose_sum_could_overflow_are_refused():
    bind(cohort=2**10, scalars=[Scalar("hits", 2**52 - 1)])
    with pytest.raises(PipelineError, match=r"with hits up to .* overflow 63 bits") as refusal:
        bind(cohort=2**10, scalars=[Scalar("hits", 2**52)])
    assert "cohort smaller" in refusal.value.hint
    with pytest.raises(PipelineError, match="weight up to"):
        bind(cohort=2**30)


@pytest.mark.parametrize("cohort", [0, -1])
def test_nobody_is_no_cohort(cohort):
    with pytest.raises((PipelineError, ValueError)):
        bind(Clip(1.0), cohort=cohort)


# --- order of application


def test_a_pipeline_has_a_uniform_weight_and_a_sum_where_it_names_none():
    assert Pipeline([]).applied == (Weight(by="uniform"), Sum())
    assert Pipeline([PUBLIC, Sum(limit=2.0)]).applied == (PUBLIC, Sum(limit=2.0))
    assert Pipeline([]).reducer == Sum()


def test_the_weight_is_applied_after_the_bounds():
    pipeline = Pipeline([PUBLIC, Clip(2.0), Clip(1.0), Scaled(), NOISE])
    assert pipeline.applied == (Clip(2.0), Clip(1.0), PUBLIC, Scaled(), NOISE, Sum())


def test_a_large_client_is_clipped_first_and_weighted_then():
    # u = (3, 4) with 100 of 300 examples and (0.6, 0) with 300: ω = 1/3 and 1, Σω = 4/3.
    # Σ ω·clip(u) = (0.2 + 0.6, 0.8/3). Were it clip(ω·u), it would be (0.6 + 0.6, 0.8).
    bound = bind(Weight(by="examples", cap=300), Clip(1.0))
    mean = decode(bound, encode(bound, 3.0, 4.0, examples=100), encode(bound, 0.6, examples=300))
    assert mean.vector[:3] == pytest.approx([0.6, 0.2, 0.0], rel=2e-6, abs=1e-12)


def test_an_uncapped_weight_does_not_undo_the_clip_of_the_mean():
    # ω = 2 and 6: (2·(0.6, 0.8) + 6·(−0.3, 0)) / 8
    bound = bind(Weight(by="examples"), Clip(1.0))
    mean = decode(bound, encode(bound, 3.0, 4.0, examples=2), encode(bound, -0.3, examples=6))
    assert mean.vector[:2] == pytest.approx([-0.075, 0.2], rel=1e-5)


def test_a_public_denominator_divides_a_part_of_the_cohort_too():
    bound = bind(PUBLIC, Clip(10.0))
    total = decode(bound, encode(bound, 8.0, examples=300))
    assert total.vector[0] == pytest.approx(2.0)
    assert total.counts == {}


def test_decoding_undoes_the_steps_last_first():
    bound = bind(Plus(1.0), Scaled(0.5))
    assert decode(bound, encode(bound, 3.0)).vector[0] == 4.0  # 3/2 · 2 + 1
    bound = bind(Scaled(0.5), Plus(1.0))
    assert decode(bound, encode(bound, 3.0)).vector[0] == 5.0  # (3/2 + 1) · 2


def test_facts_are_folded_in_the_order_of_application():
    rows = Pipeline([PUBLIC, Clip(2.0), Scaled(0.5), NOISE]).trace()
    assert [step.name for step, _, _ in rows] == [
        "clip", "weight", "scaled", "gaussian_noise", "sum"
    ]  # fmt: skip
    assert [after.l2 for _, _, after in rows] == [2.0, 2.0, 1.0, 1.0, 1.0]
    assert all(one[2] == two[1] for one, two in pairwise(rows))
    assert [after.is_private for _, _, after in rows] == [False, False, False, True, True]


def test_binding_adds_what_the_run_knows_to_the_facts():
    facts = bind(Clip(1.0), cohort=9).facts
    assert (facts.cohort, facts.coordinates, facts.bits) == (9, 32, 32)
    wide = Layout.build("float64", [("w", (3,), "trainable"), ("m", (1,), "buffer")])
    facts = Pipeline([]).bind(wide, cohort=2).facts
    assert (facts.coordinates, facts.bits) == (8, 64)


def test_memory_is_a_fact_from_its_step_on():
    rows = Pipeline([Clip(1.0), Feedback()]).trace()
    assert [after.memory for _, _, after in rows] == [False, False, True, True]


def test_pipelines_are_values():
    one, two = Pipeline([PUBLIC, Clip(1.0)]), Pipeline(iter((PUBLIC, Clip(1.0))))
    assert one == two
    assert hash(one) == hash(two)
    assert one != Pipeline([PUBLIC])
    assert repr(Pipeline([Clip(norm=1.0), Sum()])) == "Pipeline([Clip(norm=1.0), Sum(limit=None)])"
    assert Pipeline([Clip(1.0)]).settings() == [{"step": "clip", "norm": 1.0}]


def test_a_step_that_does_nothing_lets_everything_through():
    class Nothing(Step):
        name = "nothing"
        kind = "linear"

    step, facts = Nothing(), Facts(l2=3.0)
    assert step.check(facts) is facts
    assert step.scalars() == ()
    assert step.announce({}) is None
    bound = bind(Nothing())
    assert decode(bound, encode(bound, 3.0)).vector[0] == 3.0


# --- refused at the client


@pytest.mark.parametrize("steps", [(), (Clip(1.0),), (Weight(), Clip(1.0))], ids=str)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused(steps, odd):
    for place in SPAN:
        bad = LAYOUT.zeros()
        bad[place] = odd
        outcome, _ = bind(*steps).encode(bad, {"examples": 1}, chance)
        assert outcome == Refused("not finite: a coordinate is NaN, infinite, or overflows")


def test_a_finite_update_too_long_for_a_double_is_not_called_infinite():
    wide = Layout.build("float64", [("w", (3,), "trainable")])
    bound = Pipeline([Clip(1.0)]).bind(wide, cohort=1)
    outcome, _ = bound.encode(wide.pack({"w": np.full(3, 1e200)}), {}, chance)
    assert isinstance(outcome, Refused)
    assert "NaN or infinite coordinates" not in outcome.reason


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(31, np.float32),
        np.zeros(33, np.float32),
        np.zeros((1, 32), np.float32),
        np.zeros(0, np.float32),
        np.float32(0),
        np.zeros(32, np.float64),
        np.zeros(32, np.float16),
        np.zeros(32, ">f4"),
        np.zeros(32, np.int64),
        np.zeros(32, np.complex64),
        np.array([None] * 32),
    ],
    ids=lambda bad: f"{bad.dtype.str}{bad.shape}",
)
def test_a_vector_of_another_shape_or_dtype_is_refused(bad):
    outcome, _ = bind(Clip(1.0)).encode(bad, {}, chance)
    assert outcome == Refused(f"a {bad.dtype} vector of shape {bad.shape}")


def test_a_coordinate_out_of_the_grids_range_is_refused():
    bound = bind(Sum(limit=4.0))
    assert isinstance(encode(bound, 4.0, -4.0, 4.0), Share)
    above = np.nextafter(np.float32(4), np.float32(5))
    assert encode(bound, 0.0, -above) == Refused("out of range: a coordinate is not within 4")


def test_the_range_is_that_of_the_weighted_share():
    bound = bind(Weight(by="examples", cap=4), Sum(limit=4.0))
    assert isinstance(encode(bound, 15.0, examples=1), Share)
    assert isinstance(encode(bound, 17.0, examples=1), Refused)


def test_a_share_that_overflows_its_dtype_is_refused_without_a_warning():
    outcome = encode(bind(Weight(by="examples")), 1e37, examples=2**20)
    assert isinstance(outcome, Refused)
    assert "out of range" in outcome.reason


@pytest.mark.parametrize("examples", [-1, 1.5, 2**20 + 1, math.nan, "many", None], ids=repr)
def test_a_weight_out_of_range_refuses_the_update(examples):
    outcome = encode(bind(Weight(by="examples"), Clip(1.0)), 1.0, examples=examples)
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith(f"examples is {examples}")


COUNTS = bind(scalars=[Scalar("hits", 10, size=3), Scalar("loss", 5, signed=True)])


def count(hits: object, loss: object = 0) -> Share | Refused:
    return COUNTS.encode(vector(1.0), {"hits": hits, "loss": loss}, chance)[0]


def test_counts_travel_as_exact_integers_in_the_order_of_the_schema():
    share = count(np.array([1, 0, 10]), -5)
    assert share.scalars.dtype == np.int64
    assert share.scalars.tolist() == [2**32, 1, 0, 10, -5]  # the weight comes first
    unpacked = COUNTS.unpack(share.scalars)
    assert {name: part.tolist() for name, part in unpacked.items()} == {
        "weight": [2**32], "hits": [1, 0, 10], "loss": [-5]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hits", "loss", "reason"),
    [
        ([0, 11, 0], 0, r"hits is outside \[0, 10\]"),
        ([0, -1, 0], 0, r"hits is outside \[0, 10\]"),
        ([0, 0, 0], 6, r"loss is outside \[-5, 5\]"),
        ([0, 0, 0], -6, r"loss is outside \[-5, 5\]"),
        ([0, 0, 0], -(2**63), r"loss is outside \[-5, 5\]"),
        ([0, 0, 0], 2**63, "loss"),
        ([0, 0, 0], 2**70, "loss"),
        ([0, 0, 0], 1.5, "loss"),
        ([0, 0, 0], math.nan, "loss"),
        ([0, 0.5, 0], 0, "hits"),
        ([0, 0, math.nan], 0, "hits"),
        ([0, 0, 2**64], 0, "hits"),
        ([0, 0], 0, "hits"),
        ([0, 0, 0, 0], 0, "hits"),
        ([], 0, "hits"),
        (7, 0, "hits"),
        ([0, 0, 0], "1", "loss"),
        ([0, 0, 0], None, "loss"),
    ],
    ids=str,
)
def test_a_count_that_its_schema_does_not_allow_is_refused(hits, loss, reason):
    outcome = count(np.array(hits) if isinstance(hits, list) else hits, loss)
    assert isinstance(outcome, Refused)
    assert re.search(reason, outcome.reason)


@pytest.mark.parametrize(
    "bad",
    [
        np.array([1, math.nan, 0], np.float32),
        np.array([math.inf, 1, 0], np.float32),
        np.array([2.0**17, 1, 0], np.float32),
        np.zeros(2, np.float32),
        np.zeros(4, np.float32),
        np.zeros((3, 1), np.float32),
        np.zeros(3, np.int64),
        np.zeros(3, np.complex64),
    ],
    ids=repr,
)
def test_a_further_segment_that_does_not_fit_refuses_the_report(bad):
    # One that is too long would be written beyond the end of the sum by the compiled kernel.
    outcome = encode(bind(extras={"buffers": 3}), 1.0, extras={"buffers": bad})
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith("buffers")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**24 + 2.0**-28, -(2.0**25)])
@pytest.mark.parametrize("at", [0, 2])
def test_a_further_segment_in_float64_is_finite_and_within_2_to_the_24(bad, at):
    bound = bind(extras={"buffers": 3})
    segment = np.array([1.0, -(2.0**24), 2.0**24])
    assert isinstance(encode(bound, 1.0, extras={"buffers": segment}), Share)
    segment[at] = bad
    outcome = encode(bound, 1.0, extras={"buffers": segment})
    assert outcome == Refused("buffers: not finite, or not within 1.67772e+07")


def test_a_missing_further_segment_refuses_the_report():
    outcome = encode(bind(extras={"buffers": 3}), 1.0)
    assert isinstance(outcome, Refused)


def test_a_nan_that_a_step_brings_in_is_refused_too():
    memory = {"feedback": {"left": vector(math.nan)}}
    outcome, _ = bind(Feedback()).encode(vector(1.0), {}, chance, memory=memory)
    assert isinstance(outcome, Refused)


def test_a_step_can_refuse_and_later_steps_do_not_see_the_update():
    assert encode(bind(Veto(), Rounds()), 1.0) == Refused("not on a Friday")


# --- further segments, counts, memory, state


def test_further_segments_are_pooled_by_weight_and_never_clipped():
    bound = bind(Weight(by="examples", cap=4), Clip(1.0), extras={"buffers": 2})
    shares = [
        encode(bound, 3.0, examples=n, extras={"buffers": np.array(b, np.float64)})
        for n, b in ((1, (100, -8)), (4, (50, 2)))
    ]
    # Σω = 1.25; (0.25·100 + 50)/1.25 and (0.25·−8 + 2)/1.25
    assert decode(bound, *shares).extras["buffers"].tolist() == [60.0, 0.0]


def test_counts_are_summed_exactly_and_unweighted():
    bound = bind(Weight(by="examples"), scalars=[Scalar("hits", 2**50)])
    shares = [bound.encode(vector(1.0), {"examples": 3, "hits": n}, chance)[0] for n in (2**50, 1)]
    total = decode(bound, *shares)
    assert total.counts["hits"].tolist() == [2**50 + 1]
    assert total.counts["weight"].tolist() == [6]
    assert total.reports == 2


def test_the_integers_of_a_task_stay_at_home_under_noise():
    scalars = [Scalar("examples", 1000), Scalar("hits", 1000)]
    assert [s.name for s in bind(PUBLIC, Clip(1.0), scalars=scalars).schema] == ["examples", "hits"]
    private = bind(PUBLIC, Clip(1.0), NOISE, scalars=scalars)
    assert private.schema == ()
    share = private.encode(vector(1.0), {"examples": 5, "hits": 3}, chance)[0]
    assert share.scalars.size == 0
    assert decode(private, share).counts == {}


def test_memory_is_provisional_and_a_refused_update_leaves_the_old_one():
    bound = bind(Feedback())
    sent, memory = bound.encode(vector(0.75), {}, chance)
    assert sent.vector[0] == 1.0
    assert memory["feedback"]["left"][0] == -0.25
    again, later = bound.encode(vector(0.5), {}, chance, memory=memory)
    assert again.vector[0] == 0.0
    assert later["feedback"]["left"][0] == 0.25
    assert memory["feedback"]["left"][0] == -0.25  # nothing was written into the old one


@pytest.mark.parametrize(
    ("steps", "numbers"),
    [((Feedback(),), [math.nan]), ((Feedback(), Veto()), [0.75]), ((Feedback(), Sum(4.0)), [9.0])],
    ids=str,
)
def test_a_report_that_does_not_leave_does_not_change_memory(steps, numbers):
    old = {"feedback": {"left": vector(0.25)}}
    outcome, memory = bind(*steps).encode(vector(*numbers), {}, chance, memory=old)
    assert isinstance(outcome, Refused)
    assert memory is old


def test_server_state_is_announced_heard_and_handed_on():
    bound = bind(Clip(1.0), Rounds())
    states = {}
    for expected in (0, 1, 2):
        said = bound.announce(states)
        assert said == {"rounds": expected}
        share, _ = bound.encode(vector(1.0), {}, chance, announced=said)
        running = bound.accumulator()
        running.add(share, bound.grids)
        total, new = bound.decode(running, chance, states)
        assert total.counts["heard"].tolist() == [expected]
        assert states != new  # the old one is left as it was
        states = new


# --- both ends


def test_a_total_of_nobody_is_zeros():
    total = decode(bind(Weight(by="examples"), extras={"buffers": 2}))
    assert not total.vector.any()
    assert not total.extras
    assert total.reports == 0


def test_a_cohort_of_nobody_is_still_noised():
    assert decode(bind(PUBLIC, Clip(1.0), NOISE)).vector[SPAN].all()


def test_padding_is_zero_after_noise():
    bound = bind(PUBLIC, Clip(1.0), NOISE)
    dirty = np.ones(32, np.float32)
    share, _ = bound.encode(dirty, {"examples": 300}, chance)
    total = decode(bound, share)
    assert np.flatnonzero(total.vector).tolist() == SPAN


def test_decoding_works_in_the_memory_of_the_running_sum():
    bound = bind(PUBLIC, Clip(1.0), NOISE)
    running = bound.accumulator()
    running.add(encode(bound, 1.0, examples=9), bound.grids)
    total, _ = bound.decode(running, chance)
    assert np.shares_memory(total.vector, running.vector)


def test_a_pending_factor_has_the_bits_of_the_wire():
    bound = bind(Weight(by="examples", cap=7), Clip(1.0))
    shares = [encode(bound, *stream(3, i).standard_normal(3), examples=i) for i in range(4)]
    wired = [Share(on_wire(s.vector, s.scale), 1.0, s.scalars) for s in shares]
    assert np.array_equal(decode(bound, *shares).vector, decode(bound, *wired).vector)


def test_a_share_tells_its_client_how_long_it_was_and_whether_a_clip_fired():
    for bound in (bind(Clip(1.0)), bind(PUBLIC, Clip(1.0)), bind(Clip(1.0), Scaled(0.5))):
        long, short = encode(bound, 3.0, 4.0), encode(bound, 0.3, 0.4)
        assert (long.length, long.was_bounded) == (5.0, True)
        assert (short.length, short.was_bounded) == (pytest.approx(0.5), False)


def test_a_layout_without_trainable_tensors_has_an_empty_sum():
    frozen = Layout.build("float32", [("w", (3,), "frozen")])
    bound = Pipeline([Clip(1.0)]).bind(frozen, cohort=2, scalars=[Scalar("n", 9)])
    share, _ = bound.encode(np.zeros(0, np.float32), {"n": 4}, chance)
    assert decode(bound, share).counts["n"].tolist() == [4]


def test_a_segment_cannot_take_the_name_of_the_model():
    with pytest.raises((PipelineError, ValueError)):
        bind(Clip(1.0), extras={"model": 3})


def test_two_integers_of_one_name_are_refused():
    with pytest.raises((PipelineError, ValueError)):
        bind(Weight(by="examples"), scalars=[Scalar("weight", 9)])


def test_a_limit_below_the_clip_does_not_overflow_the_noise():
    # The grid follows the limit (F = 90), the noise the clip: 2^90 does not fit 63 bits.
    try:
        bound = bind(PUBLIC, Clip(1.0), NOISE, Sum(limit=2.0**-40))
    except PipelineError:
        return  # refusing it is as good
    total = decode(bound)
    assert len(set(total.vector[SPAN].tolist())) == len(SPAN)


# --- what a step claims and does not keep


class Liar(Scaled):
    """Claims to shorten what it lengthens."""

    def encode(self, update, place):
        return replace(update, scale=update.scale / self.factor)


class Mirror(Step):
    """Turns an update round: a scale below zero."""

    name = "mirror"
    kind = "linear"

    def encode(self, update, place):
        return replace(update, scale=-update.scale)


def test_a_share_longer_than_its_pipeline_claims_is_refused_and_never_summed():
    bound = bind(PUBLIC, Clip(1.0), Liar(0.5), NOISE)
    assert isinstance(encode(bound, 0.1, examples=300), Share)  # 0.2 is within the claim of 0.5
    refused = encode(bound, 3.0, examples=300)
    assert isinstance(refused, Refused)
    assert "a step broke its claim" in refused.reason


def test_a_negative_scale_is_measured_by_its_size():
    bound = bind(Weight(by="uniform"), Mirror(), Sum(limit=1.0))
    assert isinstance(encode(bound, 0.5), Share)
    refused = encode(bound, 5.0)
    assert isinstance(refused, Refused)
    assert "out of range" in refused.reason


class Forger(Step):
    """Says that the update is short, whatever it is."""

    name = "forger"
    kind = "linear"

    def encode(self, update, place):
        return replace(update, scale=update.scale * 8, length=update.length / 8)


class Brim(Step):
    """Clips to ``norm`` exactly, and leaves no room for the rounding of the wire and the grid."""

    name = "brim"
    kind = "bound"

    def check(self, facts):
        return replace(facts, l2=1.0, linf=1.0)

    def encode(self, update, place):
        return replace(update, scale=update.scale * min(1.0, 1.0 / update.length))


def test_a_length_is_measured_and_not_taken_from_a_step():
    bound = bind(PUBLIC, Clip(1.0), Forger(), NOISE)
    assert isinstance(encode(bound, 0.1, examples=300), Share)
    assert isinstance(encode(bound, 0.5, examples=300), Refused)  # 4, and it says 0.5


def test_a_share_that_only_rounding_lengthens_beyond_its_claim_is_refused():
    """0.6 and 0.8 are both above themselves in float32: their length is 1 + 2e-8."""
    bound = bind(Weight(by="uniform", denominator=4.0), Brim(), NOISE)
    assert isinstance(encode(bound, 0.6, 0.7), Share)
    for numbers in ((0.6, 0.8), (3.0, 4.0), (1.0,)):
        assert isinstance(encode(bound, *numbers), Refused)
    clipped = bind(Weight(by="uniform", denominator=4.0), Clip(1.0), NOISE)
    assert isinstance(encode(clipped, 3.0, 4.0), Share)


def test_a_share_that_the_grid_alone_could_lengthen_beyond_its_claim_is_refused():
    """32 coordinates on a grid of 2^-23 grow by up to √32/2·2^-23 = 3.4e-7; it is 2.4e-7 short."""
    weight, short = Weight(by="uniform", denominator=4.0), 1 - 2.0**-22
    coarse = bind(weight, Brim(), NOISE, cohort=2**39)
    assert coarse.grids["model"].exponent == 23
    assert isinstance(encode(bind(weight, Brim(), NOISE), short), Share)
    assert isinstance(encode(coarse, short), Refused)
    assert isinstance(encode(coarse, 1 - 2.0**-20), Share)


@pytest.mark.parametrize("scale", [1 / 3, -1 / 3, 1e-45, -1e-45, 0.1, -0.1])
def test_the_factor_on_the_wire_is_never_larger_than_the_scale(scale):
    wired = on_wire(np.ones(1, np.float32), scale)
    assert abs(float(wired[0])) <= abs(scale)


# --- what may not stand beside noise, or a public denominator


def test_integers_of_a_step_may_not_leave_exactly_beside_noise():
    with pytest.raises(PipelineError, match="heard of a step would leave exactly beside a noised"):
        bind(PUBLIC, Clip(1.0), Rounds(), NOISE)
    assert bind(PUBLIC, Clip(1.0), Rounds()).schema  # without noise they may


def test_buffers_are_not_divided_by_a_public_number():
    with pytest.raises(PipelineError, match="buffers divided by a public denominator") as caught:
        bind(PUBLIC, Clip(1.0), extras={"buffers": 2})
    assert "observed" in caught.value.hint


# --- a sum is decoded once


def test_a_second_decode_of_one_sum_is_an_error_and_a_cleared_sum_begins_anew():
    bound = bind(PUBLIC, Clip(1.0), NOISE)
    running = bound.accumulator()
    bound.decode(running, chance)
    with pytest.raises(ValueError, match="was decoded already"):
        bound.decode(running, chance)
    running.clear()
    bound.decode(running, chance)


def test_nothing_is_added_to_a_sum_that_was_decoded_and_it_is_added_to_none():
    """Its memory holds real numbers by then, not integers."""
    bound = bind(PUBLIC, Clip(1.0), NOISE)
    running, other = bound.accumulator(), bound.accumulator()
    share = encode(bound, 0.5)
    bound.decode(running, chance)
    with pytest.raises(ValueError, match="was decoded already"):
        running.add(share, bound.grids)
    with pytest.raises(ValueError, match="was decoded already"):
        running.merge(other)
    with pytest.raises(ValueError, match="was decoded already"):
        other.merge(running)
    assert (other.reports, other.vector.any()) == (0, False)
