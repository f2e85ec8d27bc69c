"""Names that nobody lists: the same as if they were listed, and the same draws piece by piece."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core import numbered, seeds
from hanse.core.numbered import Numbered, in_order
from hanse.core.samplers import FixedSize, Poisson


@given(st.integers(1, 2000), st.data())
def test_they_are_a_sorted_list_of_names(count, data):
    names, listed = (
        Numbered("device", count),
        [f"device-{k:0{len(str(count - 1))}d}" for k in range(count)],
    )
    assert len(names) == count
    assert list(names) == sorted(listed) == listed
    place = data.draw(st.integers(-count, count - 1))
    assert names[place] == listed[place]
    assert names[2:9] == listed[2:9]
    assert names.index(listed[place]) == place % count
    assert listed[place] in names


@pytest.mark.parametrize(
    "name", ["device-100", "device-1", "device-", "other-07", "device-0x", "device-٠٧", "07", 7]
)
def test_what_is_no_name_is_none(name):
    names = Numbered("device", 100)
    assert name not in names
    with pytest.raises(ValueError, match="none of 100 names"):
        names.index(str(name))


def test_a_place_beyond_the_last_is_an_index_error():
    with pytest.raises(IndexError):
        Numbered("device", 3)[3]


def test_only_lists_are_sorted():
    names = Numbered("device", 10**12)
    assert in_order(names) is names
    assert in_order(["b", "a"]) == ["a", "b"]


@pytest.mark.parametrize("sampler", [FixedSize(7), FixedSize(400), Poisson(0.05)], ids=str)
def test_a_cohort_does_not_depend_on_the_pieces_it_is_drawn_in(sampler, monkeypatch):
    names = Numbered("device", 1000)
    whole = [sampler.sample(names, 3, number) for number in range(5)]
    monkeypatch.setattr(numbered, "AT_ONCE", 64)
    assert [sampler.sample(names, 3, number) for number in range(5)] == whole
    assert len(set(whole)) == 5
    for cohort in whole:
        assert list(cohort) == sorted(set(cohort))
        assert all(name in names for name in cohort)


def test_the_smallest_tickets_are_the_cohort():
    names = Numbered("device", 500)
    tickets = seeds.tickets(names, 9, 2, "cohort")
    assert len(np.unique(tickets)) == 500
    best = {names[int(k)] for k in np.argsort(tickets)[:20]}
    assert set(FixedSize(20).sample(names, 9, 2)) == best


def test_everyone_is_drawn_as_often_as_anyone():
    names, counts = Numbered("device", 50), np.zeros(50)
    for number in range(2000):
        for name in FixedSize(5).sample(names, 1, number):
            counts[names.index(name)] += 1
    expected = 2000 * 5 / 50
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert chi < 95  # 49 degrees of freedom: above that once in ten thousand


def test_a_draw_does_not_depend_on_how_many_others_there_are():
    few, many = (seeds.tickets(Numbered("device", n), 5, 1, "cohort") for n in (100, 100_000))
    assert few.tolist() == many[:100].tolist()
