import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.data import train_test_split
from hanse.errors import DataError

X = np.arange(40).reshape(20, 2)
Y = np.repeat([0, 1], [15, 5])


def share(m, test):
    return min(max(int(np.floor(test * m + 0.5)), 1), m - 1)


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=120),
    st.floats(0.01, 0.99),
    st.integers(0, 2**64),
)
def test_every_class_of_two_or_more_is_on_both_sides_in_the_stated_share(labels, test, seed):
    y = np.array(labels)
    (rows, _), (held, tested) = train_test_split(np.arange(len(y)), y, test=test, seed=seed)
    np.testing.assert_array_equal(np.sort([*rows, *held]), np.arange(len(y)))
    for value, m in zip(*np.unique(y, return_counts=True), strict=True):
        if m > 1:
            assert np.sum(tested == value) == share(m, test)
    assert 0 < len(held) < len(y)


def test_rows_stay_together_and_in_order():
    (x, y), (held_x, held_y) = train_test_split(X, Y, test=0.3, seed=1)
    for rows, labels in ((x, y), (held_x, held_y)):
        assert np.all(np.diff(rows[:, 0]) > 0)
        np.testing.assert_array_equal(rows[:, 1], rows[:, 0] + 1)
        np.testing.assert_array_equal(labels, rows[:, 0] // 2 >= 15)
    assert np.bincount(held_y).tolist() == [5, 2]  # 4.5 and 1.5 round up


def test_the_seed_names_the_split():
    once, again, other = (train_test_split(X, seed=seed)[1][0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_labels_stratify_whether_whole_floats_words_or_booleans():
    for labels in (Y.astype(np.float32), Y == 1, np.array(["ill", "well"])[Y]):
        _, (_, held) = train_test_split(X, labels, test=0.2, seed=0)
        assert sorted(np.unique(held, return_counts=True)[1].tolist()) == [1, 3]


def test_measurements_and_many_valued_counts_do_not_stratify():
    for target in (np.linspace(0, 1, 100), np.arange(100)):
        _, (held,) = train_test_split(target, test=0.25, seed=0)
        assert len(held) == 25


def test_stratification_can_be_switched_off_or_given():
    lone = np.repeat([0, 1], [18, 2])
    without = [train_test_split(lone, test=0.1, seed=s, stratify=False)[1][0] for s in range(9)]
    assert {int(held.sum()) for held in without} != {1}
    _, (held,) = train_test_split(X, test=0.1, seed=0, stratify=lone)
    assert (held[:, 0] // 2 >= 18).sum() == 1


def test_single_rows_form_a_class_of_their_own():
    (train,), (held,) = train_test_split(np.arange(10), test=0.3, seed=0)
    assert (len(train), len(held)) == (7, 3)
    (train,), (held,) = train_test_split(np.array([0, 0, 1]), test=0.9, seed=0)
    assert (train.tolist(), held.tolist()) == ([0, 1], [0])


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((X[:0], Y[:0]), {}, "0 rows cannot be split"),
        ((), {}, "0 rows cannot be split"),
        ((X[:1], Y[:1]), {}, "1 rows cannot be split"),
        ((np.float32(1),), {}, "0 rows cannot be split"),
        ((X, Y[:3]), {}, "the arrays have 20, 3 rows"),
        ((X, Y), {"test": 0}, "test = 0 leaves one side empty"),
        ((X, Y), {"test": 1.0}, "test = 1.0 leaves one side empty"),
        ((X, Y), {"test": float("nan")}, "test = nan leaves one side empty"),
        ((X, np.where(Y, np.nan, 0)), {}, "5 of 20 labels are missing"),
        ((X, np.where(Y, np.nan, 0)), {"stratify": False}, "5 of 20 labels are missing"),
        ((X,), {"stratify": np.where(Y, np.nan, 0)}, "5 of 20 labels are missing"),
        ((X,), {"stratify": np.linspace(0, 1, 20)}, "measurements, not classes"),
        ((X,), {"stratify": Y[:4]}, "stratify has shape (4,), but there are 20 rows"),
    ],
)
def test_what_cannot_be_split_is_refused_with_a_hint(arrays, options, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        train_test_split(*arrays, seed=0, **options)
    assert caught.value.hint
