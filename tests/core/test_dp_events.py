"""Events: what was released, in JSON and back, and nothing that means nothing."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core import canonical
from hanse.core.dp_events import (
    DEEPEST,
    KINDS,
    Composed,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    Nothing,
    PoissonSampled,
    Repeated,
    Skellam,
    event_of,
    of_a_part,
)
from hanse.errors import ConfigError

NUMBERS = st.floats(0, 1e6, allow_subnormal=False)
NOISE = st.one_of(
    st.just(Nothing()),
    st.builds(Gaussian, NUMBERS),
    st.builds(Laplace, NUMBERS),
    st.builds(lambda l2, more, v: Skellam(l2 + more, l2, v), NUMBERS, NUMBERS, NUMBERS),
)
SAMPLED = st.one_of(
    NOISE,
    st.builds(PoissonSampled, st.floats(0, 1), NOISE),
    st.builds(lambda n, m, e: FixedSizeSampled(n + m, m, e),
              st.integers(1, 10**6), st.integers(0, 10**6), NOISE),
)  # fmt: skip
EVENTS = st.recursive(
    SAMPLED,
    lambda inner: st.one_of(
        st.builds(Repeated, inner, st.integers(0, 10**6)),
        st.builds(lambda many: Composed(tuple(many)), st.lists(inner, max_size=3)),
    ),
    max_leaves=6,
)


@given(EVENTS)
def test_an_event_is_read_back_from_its_json(event):
    text = canonical.encode(event.json())
    again = event_of(json.loads(text))
    assert again == event
    assert hash(again) == hash(event)
    assert canonical.encode(again.json()) == text


def test_every_kind_is_drawn_above():
    assert set(KINDS) == {
        *("nothing", "gaussian", "laplace", "skellam", "poisson_sampled"),
        *("fixed_size_sampled", "repeated", "composed"),
    }


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "gaussian",
        {},
        {"kind": "gauss"},
        {"kind": ["gaussian"]},
        {"kind": "gaussian"},
        {"kind": "gaussian", "noise_multiplier": 1.0, "epsilon": 1.0},
        {"kind": "gaussian", "noise_multiplier": "1"},
        {"kind": "gaussian", "noise_multiplier": True},
        {"kind": "gaussian", "noise_multiplier": math.nan},
        {"kind": "gaussian", "noise_multiplier": -1.0},
        {"kind": "gaussian", "noise_multiplier": 10**400},
        {"kind": "repeated", "event ": 1},
        {"kind": "composed", "events": {"kind": "nothing"}},
        {"kind": "composed", "events": [1]},
    ],
)
def test_what_is_no_event_is_refused_with_a_hint(bad):
    with pytest.raises(ConfigError) as caught:
        event_of(bad)
    assert caught.value.hint


@pytest.mark.parametrize(
    "make",
    [
        lambda: PoissonSampled(1.1, Gaussian(1)),
        lambda: PoissonSampled(0.5, PoissonSampled(0.5, Gaussian(1))),
        lambda: PoissonSampled(0.5, Composed((FixedSizeSampled(4, 2, Gaussian(1)),))),
        lambda: FixedSizeSampled(4, 5, Gaussian(1)),
        lambda: FixedSizeSampled(0, 0, Gaussian(1)),
        lambda: Repeated(Gaussian(1), -1),
        lambda: Repeated(Gaussian(1), 1.5),
        lambda: Repeated(1.0, 1),
        lambda: Skellam(1.0, 2.0, 3.0),
        lambda: Gaussian(math.inf),
    ],
)
def test_numbers_that_mean_nothing_are_refused_with_a_hint(make):
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.hint


def test_events_of_unlike_neighbours_have_no_relation_in_common():
    one, two = PoissonSampled(0.1, Gaussian(1)), FixedSizeSampled(10, 1, Gaussian(1))
    assert (one.relation, two.relation) == ("add or remove one", "replace one")
    assert Composed((Nothing(), two)).relation == "replace one"
    with pytest.raises(ConfigError, match="no one ε covers both"):
        _ = Composed((one, two)).relation


def test_depth_is_limited():
    event: Event = Gaussian(1)
    for _ in range(DEEPEST - 1):
        event = Repeated(event, 2)
    with pytest.raises(ConfigError, match="deep"):
        Repeated(event, 2)
    told: object = {"kind": "nothing"}
    for _ in range(5000):
        told = {"kind": "composed", "events": [told]}
    with pytest.raises(ConfigError, match="deep"):
        event_of(told)


@pytest.mark.parametrize(
    ("event", "part"),
    [
        (Nothing(), Nothing()),
        (Gaussian(2.0), Gaussian(1.0)),
        (Laplace(2.0), Laplace(1.0)),
        (Skellam(9.0, 4.0, 100.0), Skellam(18.0, 8.0, 100.0)),
        (Repeated(PoissonSampled(0.1, Gaussian(2.0)), 5), Repeated(Gaussian(1.0), 5)),
        (Composed((Gaussian(4.0), Nothing())), Composed((Gaussian(2.0), Nothing()))),
        (FixedSizeSampled(9, 3, Gaussian(2.0)), FixedSizeSampled(9, 3, Gaussian(2.0))),
    ],
)
def test_what_is_told_of_a_part_is_as_under_half_of_the_noise(event, part):
    """A share changes by up to twice its bound; sampling hides that it is there, not what it is."""
    assert of_a_part(event) == part
