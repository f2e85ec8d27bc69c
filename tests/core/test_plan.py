"""Plans: the spec alone says who is asked in a round, at the simulator as at a coordinator."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core import rounds
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.plan import plan_of
from hanse.core.samplers import All, FixedSize, Poisson
from hanse.core.spec import Evaluation, Quorum, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.privacy import Clip, GaussianNoise

TEN = tuple(f"site-{n}" for n in range(10))
SPEC = RunSpec(
    name="heart",
    task="app:task",
    data="app:data",
    clients=TEN,
    rounds=40,
    seed=7,
    strategy={"name": "fedavg"},
    sampler=All(),
    local=LocalTraining(),
    pipeline=Pipeline(),
    layout=Layout.build("float32", [("w", (3,), "trainable")]),
    training=(),
    evaluation_scalars=(),
)
PRIVATE = Pipeline([Weight(by="uniform", denominator=4.0), Clip(1.0), GaussianNoise(1.0)])


def plans(rounds: int = 40, **change) -> list[rounds.Plan]:
    spec = replace(SPEC, **change)
    return [plan_of(number, spec) for number in range(1, rounds + 1)]


def test_everyone_is_asked_every_round_and_awaited():
    for number, plan in enumerate(plans(), 1):
        assert (plan.round, plan.cohort, plan.goal, plan.minimum) == (number, TEN, 10, 1)


def test_a_fixed_cohort_is_over_selected_and_closes_at_its_size():
    quorum = Quorum(over_selection=1.3, deadline_s=60.0, minimum=2)
    for plan in plans(sampler=FixedSize(4), quorum=quorum):
        assert len(plan.cohort) == 6  # the next whole number to 5.2
        assert (plan.goal, plan.minimum, plan.deadline_s) == (4, 2, 60.0)
        assert set(plan.cohort) <= set(TEN)


def test_no_more_are_asked_than_there_are():
    for plan in plans(sampler=FixedSize(8), quorum=Quorum(over_selection=10.0)):
        assert (plan.cohort, plan.goal) == (TEN, 8)


def test_a_minimum_above_the_size_is_what_closes_a_round():
    quorum = Quorum(over_selection=2.0, minimum=6)
    assert {plan.goal for plan in plans(sampler=FixedSize(4), quorum=quorum)} == {6}


def test_a_cohort_of_nobody_is_a_round_that_aborts_at_once():
    empty = [plan for plan in plans(sampler=Poisson(0.05)) if not plan.cohort]
    assert empty
    for plan in empty:
        assert plan.goal == 0
        assert isinstance(rounds.begin(plan, 0.0)[0], rounds.Aborted)


def test_a_cohort_of_nobody_is_a_round_all_the_same_where_nobody_is_needed_or_noise_is_added():
    for change in ({"quorum": Quorum(minimum=0)}, {"pipeline": PRIVATE, "evaluation": NONE}):
        for plan in plans(sampler=Poisson(0.05), **change):
            if not plan.cohort:
                assert isinstance(rounds.begin(plan, 0.0)[0], rounds.Done)


NONE = Evaluation(release="none")


def test_only_a_round_with_noise_never_aborts():
    assert not any(plan.never_aborts for plan in plans())
    assert all(plan.never_aborts for plan in plans(pipeline=PRIVATE, evaluation=NONE))


SAMPLERS = st.sampled_from([All(), FixedSize(1), FixedSize(4), Poisson(0.3), Poisson(1.0)])


@given(SAMPLERS, st.floats(1.0, 10.0), st.integers(0, 1), st.integers(1, 10**6))
def test_every_plan_can_be_begun_and_says_the_same_each_time(sampler, over, minimum, number):
    over = over if isinstance(sampler, FixedSize) else 1.0
    spec = replace(SPEC, sampler=sampler, quorum=Quorum(over_selection=over, minimum=minimum))
    plan = plan_of(number, spec)
    assert plan_of(number, spec) == plan
    assert len(plan.cohort) <= spec.cohort
    rounds.begin(plan, 0.0)


def test_cohorts_depend_on_the_seed_and_on_the_round_and_on_nothing_that_is_trained():
    drawn = [plan.cohort for plan in plans(sampler=FixedSize(3))]
    assert len(set(drawn)) > 20
    assert drawn != [plan.cohort for plan in plans(sampler=FixedSize(3), seed=8)]
    other = {"local": LocalTraining(lr=9.0), "name": "liver"}
    assert drawn == [plan.cohort for plan in plans(sampler=FixedSize(3), **other)]


@pytest.mark.parametrize("sampler", [All(), FixedSize(3), Poisson(0.5)])
def test_specs_of_one_hash_have_one_plan(sampler):
    """However the sites were listed: the hash does not tell, so neither may the cohort."""
    assert replace(SPEC, clients=TEN[::-1]).hash == SPEC.hash
    assert plans(sampler=sampler, clients=TEN[::-1]) == plans(sampler=sampler)
