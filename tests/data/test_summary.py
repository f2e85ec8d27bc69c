import json

import numpy as np
import pytest

from hanse.data import Iid, summary
from hanse.errors import DataError

PARTS = [np.array([0, 1, 4]), np.array([2, 3])]


def test_a_summary_counts_each_clients_labels():
    found = summary(np.array([1, 1, 0, 1, 0]), PARTS, ids=["bern", "zurich"])
    assert found == {
        "clients": 2,
        "rows": 5,
        "classes": ["0", "1"],
        "sizes": {"min": 2.0, "q25": 2.25, "median": 2.5, "q75": 2.75, "max": 3.0},
        "parts": [
            {"id": "bern", "n": 3, "counts": [1, 2]},
            {"id": "zurich", "n": 2, "counts": [1, 1]},
        ],
    }
    assert json.loads(json.dumps(found)) == found


def test_clients_without_ids_are_numbered():
    found = summary(np.array([1, 1, 0, 1, 0]), PARTS)
    assert [part["id"] for part in found["parts"]] == ["client-0", "client-1"]


def test_measurements_are_summed_up_by_size_only():
    found = summary(np.array([0.5, 1, 2, 3, 4]), PARTS)
    assert found["classes"] == []
    assert [part["counts"] for part in found["parts"]] == [[], []]
    assert [part["n"] for part in found["parts"]] == [3, 2]


def test_more_than_a_thousand_distinct_numbers_are_measurements():
    labels = np.arange(1_001)
    assert summary(labels, Iid().split(labels, 3, 0))["classes"] == []


def test_the_smallest_of_many_classes_are_merged():
    labels = np.repeat(np.arange(25), np.arange(1, 26))
    found = summary(labels, [np.arange(len(labels))])
    assert found["classes"] == [*(str(k) for k in range(6, 25)), "other"]
    assert found["parts"][0]["counts"] == [*range(7, 26), 1 + 2 + 3 + 4 + 5 + 6]


def test_of_many_clients_two_hundred_are_listed_and_all_are_measured():
    labels = np.zeros(1_000, np.int64)
    found = summary(labels, Iid().split(labels, 500, 0))
    assert (found["clients"], len(found["parts"])) == (500, 200)
    assert found["sizes"]["max"] == 2
    assert len(json.dumps(found)) < 20_000


def test_missing_labels_cannot_be_summed_up():
    with pytest.raises(DataError, match="1 of 2 labels are missing"):
        summary(np.array([0, np.nan]), [np.array([0, 1])])
