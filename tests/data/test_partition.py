import re
from dataclasses import replace
from itertools import pairwise
from math import gamma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.data import PARTITIONERS, ByColumn, Dirichlet, Iid, Partitioner, Quantity, Shards
from hanse.data.deal import apportion, hold_minimum
from hanse.data.skew import _draw
from hanse.errors import ConfigError, DataError

DRAWN: list[Partitioner] = [
    Iid(),
    Dirichlet(0.5),
    Dirichlet(1e-6),
    Dirichlet(1e6),
    Dirichlet(0.5, sizes="drawn"),
    Dirichlet(1e-6, sizes="drawn"),
    Shards(),
    Shards(per_client=3),
    Quantity(0.5),
    Quantity(1e-6),
]
LABELS = np.random.default_rng(0).integers(0, 10, 10_000)


@st.composite
def populations(draw):
    clients = draw(st.integers(1, 12))
    minimum = draw(st.integers(0, 4))
    n = draw(st.integers(max(clients * minimum * 2, clients * 3), 150))
    labels = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    return np.array(labels), clients, minimum


def assert_lawful(parts, n, clients, minimum):
    assert len(parts) == clients
    assert all(rows.dtype == np.int64 and np.all(np.diff(rows) > 0) for rows in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    assert min(map(len, parts)) >= minimum


@pytest.mark.parametrize("partitioner", DRAWN, ids=repr)
@given(population=populations(), seed=st.integers(0, 2**64))
def test_every_row_goes_to_one_client_and_every_client_gets_the_minimum(
    partitioner, population, seed
):
    labels, clients, minimum = population
    if isinstance(partitioner, Shards):
        minimum = min(minimum, len(labels) // (clients * partitioner.per_client))
    parts = replace(partitioner, minimum=minimum).split(labels, clients, seed)
    assert_lawful(parts, len(labels), clients, minimum)


@pytest.mark.parametrize("partitioner", DRAWN, ids=repr)
def test_the_seed_names_the_partition(partitioner):
    once, again, other = (partitioner.split(LABELS, 20, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(once, other, strict=True))


@pytest.mark.parametrize("partitioner", DRAWN, ids=repr)
def test_a_lone_client_gets_everything(partitioner):
    (rows,) = partitioner.split(LABELS, 1, 0)
    np.testing.assert_array_equal(rows, np.arange(len(LABELS)))


@pytest.mark.parametrize("partitioner", DRAWN, ids=repr)
def test_a_million_rows_go_to_a_thousand_clients(partitioner):
    labels = np.tile(LABELS, 100)
    parts = partitioner.split(labels, 1_000, 0)
    assert_lawful(parts, len(labels), 1_000, 1)


@pytest.mark.parametrize(
    "partitioner", [Iid(), Dirichlet(0.1), Shards(), Shards(per_client=1)], ids=repr
)
def test_sizes_are_equal_where_only_labels_are_skewed(partitioner):
    assert {len(rows) for rows in partitioner.split(LABELS, 20, 3)} == {500}


def test_iid_sizes_differ_by_one_at_most():
    assert {len(rows) for rows in Iid().split(LABELS, 7, 3)} == {1428, 1429}


def distance(parts, labels):
    """Mean total variation distance between a client's label mix and that of all the data."""
    overall = np.bincount(labels) / len(labels)
    mixes = [np.bincount(labels[rows], minlength=len(overall)) / len(rows) for rows in parts]
    return np.mean([np.abs(mix - overall).sum() / 2 for mix in mixes])


@pytest.mark.parametrize("sizes", ["equal", "drawn"])
def test_label_skew_grows_as_alpha_falls(sizes):
    """Seeds are fixed. Steps are 0.04 or more; a mean over 50 clients has sd < 0.02."""
    skews = [
        np.mean([distance(Dirichlet(alpha, sizes).split(LABELS, 50, s), LABELS) for s in range(5)])
        for alpha in (1000, 10, 1, 0.1)
    ]
    assert np.all(np.diff(skews) > 0.04), skews
    assert skews[0] < 0.15  # chance alone: 0.07 for 200 rows of 10 classes
    assert skews[-1] > 0.5


def test_drawn_sizes_follow_the_dirichlet_they_are_drawn_from():
    """The mean absolute deviation of Beta(a, b) shares, over 20 partitions, within 6 %.

    500 shares a partition, sd of their mean about 5 % of it: 20 partitions leave 1.2 %, so the
    bound is at five sd; the seeds are fixed besides.
    """
    alpha, clients = 1.0, 50
    a, b = alpha, alpha * (clients - 1)
    beta = gamma(a) * gamma(b) / gamma(a + b)
    expected = 2 * a**a * b**b / (beta * (a + b) ** (a + b + 1))
    labels = np.repeat(np.arange(10), 10_000)
    found = []
    for seed in range(20):
        parts = Dirichlet(alpha, sizes="drawn").split(labels, clients, seed)
        shares = np.array([np.bincount(labels[rows], minlength=10) for rows in parts]) / 10_000
        found.append(np.abs(shares - 1 / clients).mean())
    assert np.mean(found) == pytest.approx(expected, rel=0.06)


def test_a_class_that_runs_out_leaves_the_draw():
    rng = np.random.default_rng(0)
    taken = _draw(rng, 5, np.array([1.0, 0.0, 0.0]), np.array([3, 5, 0]))
    assert taken.tolist() == [3, 2, 0]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.data())
def test_a_draw_takes_what_it_says_and_never_more_than_there_is(pool, data):
    n = data.draw(st.integers(0, sum(pool)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    taken = _draw(rng, n, rng.dirichlet(np.full(len(pool), 0.05)), np.array(pool))
    assert taken.sum() == n
    assert np.all(taken <= pool)


def test_two_shards_of_sorted_labels_hold_few_classes():
    labels = np.repeat(np.arange(10), 100)
    parts = Shards().split(labels, 10, 5)  # 20 shards of 50 rows, each of one class
    assert all(len(np.unique(labels[rows])) <= 2 for rows in parts)


def test_shards_keep_neighbouring_measurements_together():
    target = np.random.default_rng(1).normal(size=1_000)
    parts = Shards(per_client=1).split(target, 4, 0)
    spans = sorted((target[rows].min(), target[rows].max()) for rows in parts)
    assert all(left[1] < right[0] for left, right in pairwise(spans))


def test_labels_may_be_words():
    words = np.array(["no", "yes"])[LABELS % 2]
    for partitioner in (Dirichlet(0.5), Shards()):
        assert_lawful(partitioner.split(words, 10, 0), len(words), 10, 1)
        assert_lawful(partitioner.split(words.astype(object), 10, 0), len(words), 10, 1)


def test_size_skew_grows_as_alpha_falls_and_leaves_labels_alone():
    """The seed is fixed; the largest of 20 shares is near 1/20, then 0.2, then nearly all."""
    largest = [max(map(len, Quantity(alpha).split(LABELS, 20, 1))) for alpha in (1e4, 1, 0.01)]
    assert largest == sorted(largest)
    assert largest[0] < 600
    assert largest[-1] > 4_000
    big = [rows for rows in Quantity(1.0).split(LABELS, 20, 1) if len(rows) > 300]
    assert distance(big, LABELS) < 0.1


@given(st.integers(0, 10**6), st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_apportioned_numbers_sum_to_the_total_and_stay_within_one_of_the_quota(total, weights):
    if not sum(weights):
        return
    shares = np.array(weights) / sum(weights)
    counts = apportion(total, shares)
    assert counts.sum() == total
    assert np.all(np.abs(counts - total * shares) < 1 + 1e-6)


@given(st.lists(st.integers(0, 5), min_size=6, max_size=60), st.integers(0, 9))
def test_those_below_the_minimum_are_filled_up_and_no_one_else_gains(owners, minimum):
    owners = np.array(owners)
    minimum = min(minimum, len(owners) // 6)
    held = hold_minimum(np.random.default_rng(0), owners, 6, minimum)
    before, after = np.bincount(owners, minlength=6), np.bincount(held, minlength=6)
    assert after.min() >= minimum
    assert np.all(after <= np.maximum(before, minimum))
    kept = held == owners
    assert np.all(before[owners[~kept]] > minimum)  # who gave had to spare


def test_a_column_gives_one_client_per_value_named_after_it():
    hospital = np.array(["VA Long Beach", "Zürich", "VA Long Beach", "Cleveland"])
    by = ByColumn("hospital")
    assert by.names({"hospital": hospital}) == ["cleveland", "va-long-beach", "zurich"]
    parts = by.split({"hospital": hospital}, 3, 0)
    assert [rows.tolist() for rows in parts] == [[3], [0, 2], [1]]


def test_clients_of_a_column_are_in_the_order_of_their_ids():
    provider = np.array([30010.0, 9.0, 200.0, 9.0])
    by = ByColumn("provider")
    assert by.names(provider) == ["200", "30010", "9"]
    assert [rows.tolist() for rows in by.split(provider, 3, 0)] == [[2], [0], [1, 3]]


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60))
def test_the_natural_split_is_lawful_too(values):
    column = np.array(values)
    clients = len(set(values))
    assert_lawful(ByColumn("c").split(column, clients, 0), len(column), clients, 1)


def test_a_table_is_split_by_the_column_that_is_named():
    table = {"x": np.zeros(100), "digit": np.arange(100) % 10, "target": np.zeros(100, np.int64)}
    by_digit = Dirichlet(0.1, column="digit").split(table, 5, 2)
    direct = Dirichlet(0.1).split(table["digit"], 5, 2)
    assert all(np.array_equal(a, b) for a, b in zip(by_digit, direct, strict=True))
    assert_lawful(Iid().split(table, 5, 2), 100, 5, 1)


def test_names_of_a_run_file_lead_to_the_partitioners():
    assert list(PARTITIONERS) == ["iid", "dirichlet", "shards", "quantity", "column"]
    assert PARTITIONERS["dirichlet"](alpha=0.5) == Dirichlet(0.5)


FLAT = np.zeros(10, np.int64)


@pytest.mark.parametrize(
    ("partitioner", "data", "clients", "message"),
    [
        (Iid(), FLAT, 11, "10 rows cannot give 11 clients at least 1 each"),
        (Quantity(1.0, minimum=4), FLAT, 3, "10 rows cannot give 3 clients at least 4 each"),
        (Dirichlet(1.0), FLAT[:0], 1, "the data set is empty"),
        (Iid(), FLAT[:0], 1, "the data set is empty"),
        (Iid(), {}, 1, "the table has no columns"),
        (Shards(), FLAT, 6, "10 rows cut into 12 shards"),
        (Shards(minimum=3), FLAT, 3, "leave a client 2 rows"),
        (Dirichlet(1.0), {"x": FLAT}, 2, 'the data have no column "target"'),
        (Dirichlet(1.0), np.eye(3), 2, "the column has shape (3, 3)"),
        (Dirichlet(1.0), np.array([0, 1, np.nan]), 2, "1 of 3 labels are missing"),
        (Dirichlet(1.0), np.array(["a", None, ""], object), 2, "first in row 1"),
        (Dirichlet(1.0), np.array([0.5, 1.0]), 2, "are measurements, not classes"),
        (Dirichlet(1.0), np.arange(10_001), 2, "they look like identifiers"),
        (Shards(), np.array([np.inf, 1.0]), 1, "1 of 2 labels are missing or not finite"),
        (ByColumn("c"), np.array(["a", "b"]), 3, "splits into 2 clients, not 3"),
        (ByColumn("c"), np.array(["A b", "a-b"]), 2, 'both become the id "a-b"'),
        (ByColumn("c"), np.array(["a", "?!"]), 2, "cannot name a site"),
        (
            ByColumn("c", minimum=2),
            np.array(["a", "a", "b"]),
            2,
            'client "b" has fewer rows (1) than minimum=2',
        ),
    ],
)
def test_data_that_cannot_be_split_are_refused_with_a_way_out(partitioner, data, clients, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        partitioner.split(data, clients, 0)
    assert caught.value.hint


@pytest.mark.parametrize(
    "build",
    [
        lambda: Dirichlet(0),
        lambda: Dirichlet(float("nan")),
        lambda: Dirichlet(1.0, sizes="free"),
        lambda: Quantity(-1),
        lambda: Quantity(1.0, minimum=-1),
        lambda: Shards(per_client=0),
        lambda: Shards(minimum=-1),
        lambda: Iid(minimum=-1),
        lambda: ByColumn("c", minimum=-1),
        lambda: Iid().split(FLAT, 0, 0),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_a_hint(build):
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.hint
