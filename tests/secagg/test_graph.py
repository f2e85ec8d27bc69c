"""Rings of clients: how many neighbours it takes, and that neighbours know each other."""

import math
from itertools import combinations

import pytest

from hanse.errors import ConfigError
from hanse.secagg.graph import _least, _log_cut, _most, around, degree_for, ring

CLIENTS = (100, 200, 500, 1000, 10_000, 100_000, 1_000_000)
TABLE = {
    (0.05, 0.05): "12,6 20,11 28,16 30,17 34,20 36,21 38,22",
    (0.10, 0.10): "22,11 34,19 42,24 48,27 54,31 58,33 64,36",
    (0.20, 0.10): "32,21 46,30 60,39 68,44 80,51 88,55 92,58",
    (0.20, 0.20): "40,21 62,34 88,48 98,54 122,67 134,73 144,78",
    (0.33, 0.10): "42,32 66,47 90,64 102,72 126,88 138,96 150,104",
}
"""(k, t) of a published finder, for CLIENTS."""


@pytest.mark.parametrize(("parts", "wanted"), TABLE.items())
def test_degrees_are_the_published_ones(parts, wanted):
    for clients, told in zip(CLIENTS, wanted.split(), strict=True):
        found = degree_for(clients, *parts)
        assert f"{found.neighbours},{found.threshold}" == told


def test_the_tails_of_a_hypergeometric_are_counted_from_outside():
    """30 clients of whom 10 are marked, 8 drawn, by counting."""

    def at_least(x):
        return sum(math.comb(10, i) * math.comb(20, 8 - i) for i in range(x, 9)) / math.comb(30, 8)

    for log_p in (-0.5, -2.0, -5.0, -9.0):
        most, least = _most(30, 10, 8, log_p), _least(30, 10, 8, log_p)
        assert math.log(at_least(most + 1)) <= log_p < math.log(at_least(most))
        assert 1 - at_least(least) <= math.exp(log_p) < 1 - at_least(least + 1)


def test_the_bound_on_a_cut_is_one():
    """Nine on a ring with two neighbours each side; all ways to take four or five away."""
    clients, k = 9, 4
    for removed in (4, 5):
        cut = sum(
            not connected({*range(clients)} - {*gone}, clients, k)
            for gone in combinations(range(clients), removed)
        )
        assert 0 < cut / math.comb(clients, removed) <= math.exp(_log_cut(clients, k, removed))
    assert _log_cut(clients, k, 3) == -math.inf
    assert all(
        connected({*range(clients)} - {*gone}, clients, k)
        for gone in combinations(range(clients), 3)
    )


def connected(left, clients, k):
    todo = [min(left)]
    seen = {*todo}
    while todo:
        for other in around(clients, todo.pop(), k):
            if other in left and other not in seen:
                seen.add(other)
                todo.append(other)
    return seen == left


@pytest.mark.parametrize(("clients", "k"), [(5, 2), (9, 4), (20, 6), (7, 6)])
def test_neighbours_know_each_other(clients, k):
    for place in range(clients):
        near = [*around(clients, place, k)]
        assert len({*near}) == k
        assert place not in near
        assert all(place in around(clients, other, k) for other in near)


def test_the_ring_depends_on_the_seed_and_on_each_name_alone():
    names = [f"client-{n}" for n in range(50)]
    one, two = ring(names, b"a" * 32), ring(names, b"b" * 32)
    assert sorted(one) == [*range(50)]
    assert one != two
    without = [n for n in one if n != 7]
    rest = names[:7] + names[8:]
    assert [rest[n] for n in ring(rest, b"a" * 32)] == [names[n] for n in without]


@pytest.mark.parametrize(
    ("clients", "corrupt", "dropout", "why"),
    [(100, 0.5, 0.5, "no secure sum is left"), (0, 0.1, 0.1, "no cohort"),
     (100, -0.1, 0.1, "no cohort"), (10, 0.45, 0.45, "too few for a graph")],
)  # fmt: skip
def test_what_no_degree_does_is_refused(clients, corrupt, dropout, why):
    with pytest.raises(ConfigError, match=why) as caught:
        degree_for(clients, corrupt, dropout)
    assert caught.value.hint
