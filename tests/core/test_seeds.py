"""Randomness by name: golden values, and names that must not meet."""

import itertools
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core import seeds

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "seeds.json").read_text())

NAMES = st.lists(st.integers(-5, 2**40) | st.text("ab0", max_size=3), max_size=4)


@pytest.mark.parametrize("row", VECTORS["keys"], ids=str)
def test_a_key_has_its_golden_value(row):
    assert seeds.key(int(row["seed"]), *row["names"]) == int(row["key"])


@pytest.mark.parametrize("row", VECTORS["splitmix"], ids=lambda row: row["key"])
def test_splitmix64_has_its_published_and_golden_outputs(row):
    assert [str(z) for z in seeds.splitmix(int(row["key"]), 5)] == row["outputs"]


@pytest.mark.parametrize("row", VECTORS["permutations"], ids=lambda row: row["key"])
def test_a_permutation_has_its_golden_order(row):
    order = seeds.permutation(int(row["key"]), len(row["order"]))
    assert order.dtype == np.int64
    assert order.tolist() == row["order"]


@pytest.mark.parametrize("row", VECTORS["uniform"], ids=lambda row: row["key"])
def test_uniform_numbers_have_their_golden_bits(row):
    numbers = seeds.uniform(int(row["key"]), len(row["numbers"]))
    assert [struct.pack(">d", x).hex() for x in numbers] == row["numbers"]


@pytest.mark.parametrize("group", VECTORS["distinct"], ids=str)
def test_names_easily_taken_for_one_another_have_distinct_keys(group):
    keys = {seeds.key(seed, *names) for seed, names in group}
    assert len(keys) == len(group)


def test_a_name_with_a_nul_cannot_pass_for_two_names():
    try:
        odd = seeds.key(0, "a\0sb")
    except ValueError:
        return  # refusing it is as good
    assert odd != seeds.key(0, "a", "b")


def test_a_key_does_not_depend_on_which_keys_were_asked_for_before():
    seeds.key.cache_clear()
    alone = seeds.key(0, True)
    seeds.key.cache_clear()
    seeds.key(0, 1)
    assert seeds.key(0, True) == alone


@given(st.integers(0, 3), NAMES, st.integers(0, 3), NAMES)
def test_distinct_names_have_distinct_keys(seed, names, other_seed, other_names):
    mine, theirs = (seed, *names), (other_seed, *other_names)
    assert (seeds.key(*mine) == seeds.key(*theirs)) == (mine == theirs)


def test_the_keys_of_a_whole_run_are_distinct():
    run = itertools.product(range(50), range(50), range(3), ("shuffle", "noise", "dropout"))
    keys = {seeds.key(7, *names) for names in run}
    assert len(keys) == 50 * 50 * 3 * 3


@given(st.integers(0, 2**64 - 1), st.integers(0, 2000))
def test_a_permutation_is_a_permutation(key, n):
    assert np.array_equal(np.sort(seeds.permutation(key, n)), np.arange(n))


@given(st.integers(0, 2**64 - 1), st.integers(1, 300))
def test_uniform_numbers_are_in_their_half_open_interval(key, n):
    numbers = seeds.uniform(key, n)
    assert numbers.dtype == np.float64
    assert (numbers >= 0).all()
    assert (numbers < 1).all()


@given(st.integers(0, 2**64 - 1), st.integers(0, 50), st.integers(0, 50))
def test_a_longer_stream_begins_with_the_shorter(key, n, more):
    assert np.array_equal(seeds.splitmix(key, n + more)[:n], seeds.splitmix(key, n))


def test_the_largest_hash_is_still_below_one():
    assert ((2**64 - 1) >> 11) * 2.0**-53 < 1


def test_every_place_of_a_shuffle_is_equally_likely():
    # χ² of where element 0 of 10 lands in 20,000 shuffles, 9 degrees of freedom: beyond 45 with
    # probability below 1e-6. The keys are fixed, so it passes always or never.
    places = [int(np.flatnonzero(seeds.permutation(seeds.key(1, i), 10) == 0)[0])
              for i in range(20_000)]  # fmt: skip
    expected = len(places) / 10
    assert (((np.bincount(places, minlength=10) - expected) ** 2) / expected).sum() < 45


def test_a_stream_is_the_same_for_the_same_name_and_another_for_another():
    draw = seeds.stream(7, 3, "noise").standard_normal(4)
    assert np.array_equal(draw, seeds.stream(7, 3, "noise").standard_normal(4))
    for other in ((7, 4, "noise"), (8, 3, "noise"), (7, 3, "dropout"), (7, "3", "noise")):
        assert not np.array_equal(draw, seeds.stream(*other).standard_normal(4))


def test_keys_of_many_clients_are_the_key_of_each():
    clients = ["a", "client-00017", "ä", ""]
    for names in ((), (3,), ("fault", 2)):
        wanted = [seeds.key(7, 5, client, *names) for client in clients]
        assert seeds.keys(7, 5, clients, *names).tolist() == wanted


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 2**64 - 1))
def test_permutations_of_many_are_the_permutation_of_each(sizes, key):
    keys = seeds.splitmix(key, len(sizes) * 2).reshape(len(sizes), 2)
    found = seeds.permutations(keys, np.array(sizes)[:, None])
    for row, own, n in zip(found, keys, sizes, strict=True):
        for one, two in zip(row, own, strict=True):
            assert one[:n].tolist() == seeds.permutation(int(two), n).tolist()
