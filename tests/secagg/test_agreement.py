"""All that a malicious coordinator may tell honest clients, for a few clients: what comes out (P3,
P4). The thresholds of docs/protocol.md §11.2 are needed: two rows below them fail.
"""

from dataclasses import dataclass
from itertools import combinations, product

import pytest

from hanse.errors import ConfigError
from hanse.secagg.parameters import Parameters


@dataclass
class Outcome:
    """Of all that may happen: the most sets that are summed, whether both kinds of share of a
    client come out, and the smallest sum over honest clients that does."""

    sets: int
    both: bool
    smallest: int


def everything(n, c, t, *, acks):
    """Try every assignment of survivor sets to honest clients; the corrupt sign and give all."""
    honest = range(n - c)
    corrupt = frozenset(range(n - c, n))
    sets = [frozenset(s) for k in range(t, n + 1) for s in combinations(range(n), k)]
    told = [[s for s in sets if client in s] for client in honest]
    outcome = Outcome(0, False, n)
    for assigned in product(*told):
        settled = {
            s for s in {*assigned} if sum(one == s for one in assigned) + len(corrupt & s) >= t
        }
        giving = [s for s in assigned if s in settled or not acks]
        seeds, keys = set(), set()
        for owner in honest:
            of_seed = sum(owner in s for s in giving)
            if of_seed + c >= t:
                seeds.add(owner)
            if len(giving) - of_seed + c >= t:
                keys.add(owner)
        left = {*honest} - keys
        outcome.both |= bool(seeds & keys)
        if left and left <= seeds:
            outcome.smallest = min(outcome.smallest, len(left))
        outcome.sets = max(outcome.sets, len(settled))
    return outcome


@pytest.mark.parametrize(("n", "c", "t"), [(4, 1, 3), (5, 1, 4), (5, 2, 4), (5, 0, 3)])
def test_one_set_is_summed_and_no_client_is_shown(n, c, t):
    outcome = everything(n, c, t, acks=True)
    assert (outcome.sets, outcome.both, outcome.smallest) == (1, False, t - c)
    assert Parameters(n, c, t, t, max(t, c + 2), 2)


@pytest.mark.parametrize(("n", "c", "t"), [(4, 1, 2), (5, 1, 3)])
def test_below_the_threshold_two_sets_are_summed_and_parameters_refuse(n, c, t):
    assert everything(n, c, t, acks=True).sets >= 2
    assert everything(n, c, t, acks=False).both
    with pytest.raises(ConfigError, match="the threshold is not above"):
        Parameters(n, c, t, t, max(t, c + 2), 2)


def test_without_signatures_a_sum_over_fewer_than_the_minimum_comes_out():
    outcome = everything(5, 0, 3, acks=False)
    assert (outcome.both, outcome.smallest) == (False, 2)


@pytest.mark.parametrize(
    ("n", "t", "drop_outs"),
    [(5, 4, 1), (7, 5, 2), (10, 7, 3), (15, 10, 5), (20, 14, 6), (50, 34, 16), (100, 67, 33),
     (200, 134, 66)],
)  # fmt: skip
def test_parameters_that_are_found(n, t, drop_outs):
    found = Parameters.chosen(n)
    assert (found.threshold, found.drop_outs, found.corrupt) == (t, drop_outs, (n - 1) // 3)


def test_four_hospitals_survive_no_drop_out_unless_two_honest_ones_are_enough():
    assert Parameters.chosen(4).drop_outs == 0
    assert Parameters.chosen(4, honest=2).drop_outs == 1


def test_three_have_to_say_how_many_may_collude():
    with pytest.raises(ConfigError, match="too few to say how many"):
        Parameters.chosen(3)
    assert Parameters.chosen(3, 0).corrupt == 0
    assert Parameters.chosen(3, 1).drop_outs == 0


@pytest.mark.parametrize(
    ("numbers", "why"),
    [((2, 0, 2, 2, 2, 2), "3 to 1000"), ((5, 4, 5, 5, 5, 2), "at most 3"),
     ((5, 1, 4, 4, 4, 1), "its vector"), ((5, 2, 4, 4, 4, 3), "below 2"),
     ((5, 1, 4, 4, 6, 3), "not between"), ((5, 1, 4, 3, 4, 3), "quorum"),
     ((5, 1, 4, 0, 4, 3, "curious", 0), ""), ((5, 2, 2, 0, 5, 3, "curious"), "reach the"),
     ((5, 1, 2, 2, 4, 3, "curious"), "nobody signs"), ((5, 1, 4, 4, 4, 3, "trusting"), "no such")],
)  # fmt: skip
def test_parameters_that_promise_nothing(numbers, why):
    if not why:
        assert Parameters(*numbers[:-1]).drop_outs == 1
        return
    with pytest.raises(ConfigError, match=why):
        Parameters(*numbers)
