"""Metrics as sums of integers: exact where they can be, within a stated error where not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hanse.core import metrics
from hanse.core.metrics import BEYOND, BINS, FIXED, FIXED_BOUND, METRICS, fixed, fixed_many

scores_of = hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-50, 50))


def value(metric, outputs, targets):
    return metric.value(metric.counts(np.asarray(outputs, float), np.asarray(targets, float)))


def exact_auc(scores, labels) -> float:
    """The share of (positive, negative) pairs in order; ties count half (Mann-Whitney)."""
    ups, downs = scores[labels == 1], scores[labels == 0]
    return float(np.mean([(up > downs) + (up == downs) / 2 for up in ups]))


def pairs_in_one_bin(scores, labels) -> float:
    """The share of pairs whose order a histogram of 1,024 bins cannot see, half of it."""
    counts = metrics.auc.counts(scores, labels.astype(float)).astype(float)
    ups, downs = counts[:BINS], counts[BINS:]
    return float((ups * downs).sum() / 2 / (ups.sum() * downs.sum()))


def labelled(draw, n: int) -> np.ndarray:
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    labels[0], labels[-1] = 0, 1
    return labels


# AUC


@given(st.data())
def test_auc_is_exact_up_to_the_pairs_that_share_a_bin(data):
    scores = data.draw(scores_of)
    labels = labelled(data.draw, len(scores))
    error = abs(value(metrics.auc, scores, labels) - exact_auc(scores, labels))
    assert error <= pairs_in_one_bin(scores, labels) + 1e-12


def test_auc_of_ordinary_logits_is_within_a_thousandth():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    scores = rng.normal(labels * 1.5, 1.0)
    assert pairs_in_one_bin(scores, labels) < 1e-3
    assert value(metrics.auc, scores, labels) == pytest.approx(exact_auc(scores, labels), abs=1e-3)


@given(st.data())
def test_auc_of_scores_that_are_apart_is_exact(data):
    """Integers 0.1 apart from −4 to 4 never share a bin of s/(1 + |s|)."""
    places = data.draw(st.lists(st.integers(-40, 40), min_size=2, max_size=30, unique=True))
    scores = np.array(places) / 10
    labels = labelled(data.draw, len(scores))
    assert pairs_in_one_bin(scores, labels) == 0
    assert value(metrics.auc, scores, labels) == pytest.approx(exact_auc(scores, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 1, 1, 1], [0, 1, 0, 1], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([-1e300, 0, 1e300], [0, 0, 1], 1.0),
    ],
)
def test_auc_by_hand(scores, labels, expected):
    assert value(metrics.auc, scores, labels) == expected


def test_infinite_scores_stand_at_the_ends():
    assert value(metrics.auc, [-np.inf, 0.0, 5.0, np.inf], [0, 0, 0, 1]) == 1.0
    assert value(metrics.auc, [-np.inf, 0.0, 5.0, np.inf], [1, 0, 0, 0]) == 0.0


def test_two_columns_score_like_their_difference():
    rng = np.random.default_rng(1)
    two, labels = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    for metric in (metrics.auc, metrics.accuracy, metrics.precision, metrics.average_precision):
        assert value(metric, two, labels) == value(metric, two[:, 1] - two[:, 0], labels)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
def test_auc_of_one_class_is_undefined_and_says_how_many_there_are(labels):
    counts = metrics.auc.counts(np.arange(3.0), np.array(labels, float))
    assert metrics.auc.value(counts) is None
    positives = sum(labels)
    expected = f"only one class: {positives} positives, {3 - positives} negatives"
    assert metrics.auc.undefined(counts) == expected


# Average precision


def test_average_precision_by_hand():
    """Ranked 1 0 1 0 1: precision at the positives is 1, 2/3, 3/5."""
    scores, labels = [5, 4, 3, 2, 1], [1, 0, 1, 0, 1]
    expected = (1 + 2 / 3 + 3 / 5) / 3
    assert value(metrics.average_precision, scores, labels) == pytest.approx(expected, abs=1e-12)


def test_average_precision_takes_tied_scores_as_one_threshold():
    """Above the first threshold are two rows, one of them positive; above the second all four."""
    scores, labels = [2, 2, 1, 1], [1, 0, 1, 0]
    expected = 0.5 * 1 / 2 + 0.5 * 2 / 4
    assert value(metrics.average_precision, scores, labels) == pytest.approx(expected)


def test_average_precision_of_a_perfect_ranking_is_one_and_without_positives_undefined():
    assert value(metrics.average_precision, [1, 2, 3], [0, 1, 1]) == 1.0
    assert value(metrics.average_precision, [1, 2, 3], [0, 0, 0]) is None


# Accuracy and its kind


def test_accuracy_of_several_classes_counts_the_largest_output():
    outputs = [[3, 1, 0], [0, 2, 9], [1, 5, 2], [2, 1, 1]]
    assert value(metrics.accuracy, outputs, [0, 2, 2, 0]) == 0.75


def test_accuracy_of_one_output_takes_positive_for_class_one():
    assert value(metrics.accuracy, [[0.1], [-0.1], [2.0], [0.0]], [1, 0, 0, 0]) == 0.75
    assert value(metrics.accuracy, [0.1, -0.1], [1, 1]) == 0.5


def test_accuracy_of_places_along_a_sequence_has_classes_on_the_second_axis():
    outputs = np.zeros((2, 3, 4))  # two rows, three classes, four places
    outputs[0, 1, :], outputs[1, 2, :2] = 1, 1
    targets = np.array([[1, 1, 1, 0], [2, 2, 0, 1]])
    counts = metrics.accuracy.counts(outputs, targets.astype(float))
    assert counts.tolist() == [6, 8]


CONFUSION = ([1, 1, 1, -1, -1, -1, -1, -1], [1, 1, 0, 1, 0, 0, 0, 0])  # 2 hit, 1 false, 1 missed, 4


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (metrics.precision, 2 / 3),
        (metrics.recall, 2 / 3),
        (metrics.specificity, 4 / 5),
        (metrics.balanced_accuracy, (2 / 3 + 4 / 5) / 2),
        (metrics.accuracy, 6 / 8),
    ],
)
def test_the_cells_of_a_confusion_matrix_by_hand(metric, expected):
    assert value(metric, *CONFUSION) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "reason"),
    [
        (metrics.precision, [-1, -1], [0, 1], "none predicted"),
        (metrics.recall, [1, -1], [0, 0], "no positives"),
        (metrics.specificity, [1, -1], [1, 1], "no negatives"),
        (metrics.balanced_accuracy, [1, -1], [1, 1], "only one class"),
        (metrics.accuracy, [], [], "no examples"),
        (metrics.mse, [], [], "no examples"),
        (metrics.auc, [], [], "no examples"),
    ],
)
def test_what_the_counts_do_not_define_is_none_with_a_reason(metric, outputs, targets, reason):
    counts = metric.counts(np.array(outputs, float), np.array(targets, float))
    assert metric.value(counts) is None
    assert metric.undefined(counts) == reason


@pytest.mark.parametrize(
    "name", ["auc", "average_precision", "precision", "recall", "specificity", "balanced_accuracy"]
)
def test_a_metric_of_two_classes_refuses_three(name):
    with pytest.raises(ValueError, match=r"two classes got outputs of shape \(4, 3\)"):
        METRICS[name].counts(np.zeros((4, 3)), np.zeros(4))


# Errors


def test_squared_and_absolute_errors_by_hand():
    assert value(metrics.mse, [1.0, 2.0, 4.0], [1.5, 2.0, 1.0]) == (0.25 + 9) / 3
    assert value(metrics.mae, [[1.0], [2.0], [4.0]], [1.5, 2.0, 1.0]) == 3.5 / 3
    assert not metrics.mse.higher_is_better
    assert metrics.auc.higher_is_better


@given(st.floats(-1e6, 1e6))
def test_a_sum_on_the_fixed_grid_is_within_half_a_step(total):
    assert abs(fixed(total) * FIXED - total) <= FIXED / 2


@pytest.mark.parametrize("total", [np.nan, np.inf, -np.inf, 1e300, -1e14, 2.0**44 + 1])
def test_a_sum_without_a_place_on_the_grid_is_beyond_it(total):
    assert fixed(total) == BEYOND > FIXED_BOUND


def test_the_ends_of_the_grid_have_a_place():
    assert fixed(2.0**44) == FIXED_BOUND
    assert fixed(-(2.0**44)) == -FIXED_BOUND


# Sums


@given(st.data())
@pytest.mark.parametrize("name", METRICS)
def test_counts_of_sites_add_up_to_those_of_their_union(name, data):
    metric, scores = METRICS[name], data.draw(scores_of)
    labels = labelled(data.draw, len(scores))
    at = data.draw(st.integers(0, len(scores)))
    parts = [
        metric.counts(s, y.astype(float))
        for s, y in ((scores[:at], labels[:at]), (scores[at:], labels[at:]))
    ]
    whole = metric.counts(scores, labels.astype(float))
    assert all(part.dtype == np.int64 and part.shape == (metric.size,) for part in (*parts, whole))
    slack = 1 if name in ("mse", "mae") else 0  # each site rounds its sum to the grid once
    np.testing.assert_allclose(sum(parts), whole, rtol=0, atol=slack)


@given(st.data())
@pytest.mark.parametrize("name", METRICS)
def test_a_value_is_a_plain_number_or_none_never_nan(name, data):
    metric = METRICS[name]
    n = data.draw(st.integers(0, 6))
    outputs = data.draw(hnp.arrays(np.float64, n, elements=st.floats(-1e3, 1e3)))
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), float)
    counts = metric.counts(outputs, labels)
    found = metric.value(counts)
    assert found is None or (type(found) is float and np.isfinite(found))
    if found is None:
        assert metric.undefined(counts)


def test_every_metric_is_found_by_its_name_and_shows_it():
    assert all(METRICS[name].name == name for name in METRICS)
    assert all(getattr(metrics, name) is METRICS[name] for name in METRICS)
    assert repr(metrics.auc) == "hanse.metrics.auc"


@given(st.lists(st.floats(), min_size=1))
def test_many_fixed_sums_are_each_by_itself(totals):
    assert fixed_many(np.array(totals)).tolist() == [fixed(total) for total in totals]
