"""How much a client counts, and what the total is divided by."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.facts import Facts
from hanse.core.seeds import stream
from hanse.core.step import Place, Refused, Total, Update
from hanse.core.weight import RESOLUTION, UNCAPPED_LIMIT, Weight
from hanse.errors import PipelineError

PLACE = Place(Facts(), lambda purpose: stream(0, purpose))


def weigh(weight: Weight, *, scale: float = 1.0, **counts: object) -> Update | Refused:
    return weight.encode(Update(np.ones(2), math.sqrt(2), scale, counts=counts), PLACE)


def total(weighed: int, *numbers: float) -> Total:
    vector = np.array(numbers)
    return Total(vector, {"weight": np.array([weighed])}, 2, {"buffers": vector * 10})


def test_a_capped_weight_is_a_fraction_of_its_cap():
    assert weigh(Weight(cap=300), examples=75).scale == 0.25
    assert weigh(Weight(cap=300), examples=300).scale == 1.0
    assert weigh(Weight(cap=300), examples=10**400).scale == 1.0
    assert weigh(Weight(cap=300), examples=0).scale == 0.0
    assert weigh(Weight(cap=0.5), examples=1).scale == 1.0


def test_an_uncapped_weight_is_the_number_itself():
    assert weigh(Weight(), examples=123).scale == 123.0
    assert weigh(Weight(by="steps"), steps=7, examples=9).scale == 7.0


def test_a_uniform_weight_is_one_whatever_the_client_has():
    update = weigh(Weight(by="uniform"), examples=-1)
    assert update.scale == update.weight == 1.0
    assert update.counts["weight"] * RESOLUTION == 1.0


def test_the_factor_joins_those_already_pending():
    update = weigh(Weight(cap=4), scale=0.5, examples=1)
    assert update.scale == 0.125
    assert update.weight == 0.25  # buffers are weighted, not clipped
    assert update.vector.tolist() == [1, 1]


def test_counts_keep_what_was_there_and_gain_the_weight():
    update = weigh(Weight(cap=2), examples=1, correct=3)
    assert update.counts == {"examples": 1, "correct": 3, "weight": 2**31}


@given(st.integers(0, 10**6), st.floats(1e-3, 1e6))
def test_a_weight_is_kept_to_half_its_resolution_and_never_beyond_one(amount, cap):
    weight = Weight(cap=cap)
    update = weigh(weight, examples=amount)
    exact = min(Fraction(amount), Fraction(cap)) / Fraction(cap)
    assert abs(Fraction(update.weight) - exact) <= Fraction(RESOLUTION) * Fraction(5001, 10000)
    assert 0 <= update.weight <= 1
    (scalar,) = weight.scalars()
    assert 0 <= update.counts["weight"] <= scalar.bound


@pytest.mark.parametrize("amount", [-1, 1.0, 2.5, math.nan, "3", None, np.array([1, 2])], ids=repr)
@pytest.mark.parametrize("weight", [Weight(), Weight(cap=300), Weight(by="steps", cap=2)], ids=str)
def test_a_weight_that_is_no_whole_number_is_refused_with_the_reason(weight, amount):
    outcome = weigh(weight, **{weight.by: amount})
    assert isinstance(outcome, Refused)
    assert "must be a whole number, not negative" in outcome.reason


def test_an_uncapped_weight_has_a_limit():
    assert weigh(Weight(), examples=UNCAPPED_LIMIT).scale == 2.0**20
    outcome = weigh(Weight(), examples=UNCAPPED_LIMIT + 1)
    assert outcome == Refused("examples is 1048577, and without a cap at most 1048576")


def test_an_observed_denominator_is_the_sum_of_the_weights_that_were_counted():
    mean = Weight(cap=300).decode(total(3 * 2**31, 3.0, -6.0), PLACE)  # Σω = 1.5
    assert mean.vector.tolist() == [2.0, -4.0]
    assert mean.extras["buffers"].tolist() == [20.0, -40.0]
    assert Weight().decode(total(4, 3.0), PLACE).vector.tolist() == [0.75]


def test_a_public_denominator_does_not_look_at_the_weights():
    mean = Weight(cap=300, denominator=4).decode(Total(np.array([2.0]), {}, 0), PLACE)
    assert mean.vector.tolist() == [0.5]


def test_nobody_counted_leaves_zeros_not_nan_and_no_buffers():
    mean = Weight().decode(total(0, 0.0, 0.0), PLACE)
    assert mean.vector.tolist() == [0.0, 0.0]
    assert not mean.extras


def test_the_weight_is_reported_only_where_the_server_divides_by_it():
    (capped,) = Weight(cap=300).scalars()
    assert (capped.name, capped.bound, capped.size) == ("weight", 2**32, 1)
    assert capped.resolution * capped.bound == 1.0
    (plain,) = Weight().scalars()
    assert (plain.bound, plain.resolution) == (2**20, 1.0)
    assert Weight(cap=300, denominator=4.0).scalars() == ()


def test_the_bounds_of_a_weighted_share_grow_by_the_largest_weight():
    before = Facts(l2=2.0, linf=1.0)
    assert Weight(cap=300).check(before) == Facts(l2=2.0, linf=1.0, denominator="observed")
    plain = Weight(denominator=3.0).check(before)
    assert (plain.l2, plain.linf, plain.max_weight) == (2.0**21, 2.0**20, 2.0**20)
    assert not plain.capped
    assert plain.denominator == "public"
    assert Weight().check(Facts()).l2 == math.inf


@pytest.mark.parametrize(
    "settings",
    [
        {"by": "size"},
        {"cap": 0},
        {"cap": -1.0},
        {"cap": math.inf},
        {"cap": math.nan},
        {"by": "uniform", "cap": 1},
        {"denominator": 0},
        {"denominator": -2.0},
        {"denominator": math.inf},
        {"denominator": math.nan},
        {"denominator": "count"},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused_with_a_hint(settings):
    with pytest.raises(PipelineError) as refusal:
        Weight(**settings)
    assert refusal.value.hint
    assert str(next(iter(settings.values()))) in str(refusal.value)


@pytest.mark.parametrize("settings", [{"cap": "300"}, {"denominator": None}], ids=str)
def test_settings_of_the_wrong_type_are_refused(settings):
    with pytest.raises((TypeError, PipelineError)):
        Weight(**settings)


def test_settings_are_the_table_of_a_run_file():
    assert Weight(cap=300).settings() == {
        "step": "weight", "by": "examples", "cap": 300, "denominator": "observed"
    }  # fmt: skip
    assert "cap" not in json.loads(json.dumps(Weight().settings()))
