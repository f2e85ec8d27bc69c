"""Split rows into training and test data, each class in the same proportion on both sides."""

from typing import Literal, TypeVarTuple, cast

import numpy as np
from numpy.typing import NDArray

from hanse.core.seeds import stream
from hanse.data.labels import Column, Rows, are_classes, classes, refuse_missing
from hanse.errors import DataError

MAX_STRATA = 50
"""Whole-number labels with more distinct values than this are a quantity, not classes."""

Arrays = TypeVarTuple("Arrays")


def train_test_split(
    *arrays: *Arrays,
    test: float = 0.3,
    seed: int,
    stratify: Column | Literal[False] | None = None,
) -> tuple[tuple[*Arrays], tuple[*Arrays]]:
    """Return ``(train_arrays, test_arrays)``: the same arrays' rows, in their old order.

    With ``stratify=None`` the last array decides: if it holds class labels, shape [n], that are
    text, booleans or whole numbers of at most 50 distinct values, the split is stratified by it;
    else it is not. ``stratify`` may also be the labels [n] themselves, or False.

    Stratified, a class of m rows gives ⌊``test``·m + ½⌋ rows to the test side, but at least one and
    at most m − 1, so that every class of two rows or more is on both sides. Classes of a single row
    are treated as one class together; a lone one goes to the training side. So the test side may
    differ from ``test``·n by half a row per class, and by more where many classes are tiny. Not
    stratified, all rows count as one class.

    The same rows, labels, ``test`` and ``seed`` give the same split. Raises DataError if there are
    fewer than two rows, if lengths differ, if ``test`` is not inside (0, 1), or if labels (a last
    array of shape [n], or ``stratify``) are NaN, infinite or missing.
    """
    columns = [np.asarray(array) for array in arrays]
    _check(columns, test)
    rng = stream(seed, "split")
    picked = [_pick(rng, rows, test) for rows in _strata(columns, stratify)]
    is_test = np.zeros(len(columns[0]), np.bool_)
    is_test[np.concatenate(picked)] = True
    train = tuple(column[~is_test] for column in columns)
    held_out = tuple(column[is_test] for column in columns)
    return cast("tuple[*Arrays]", train), cast("tuple[*Arrays]", held_out)


def _pick(rng: np.random.Generator, rows: Rows, test: float) -> Rows:
    """Return the rows of one class that are tested on."""
    if len(rows) < 2:
        return rows[:0]
    share = min(max(int(np.floor(test * len(rows) + 0.5)), 1), len(rows) - 1)
    return rng.permutation(rows)[:share]


def _strata(
    columns: list[NDArray[np.generic]], stratify: Column | Literal[False] | None
) -> list[Rows]:
    """Return the rows of each class, single rows together; one list of all if there are none."""
    labels = _labels(columns, stratify)
    if labels is None:
        return [np.arange(len(columns[0]))]
    found = classes(labels)
    by_class = np.split(np.argsort(found.codes, kind="stable"), np.cumsum(found.counts)[:-1])
    several = [rows for rows in by_class if len(rows) > 1]
    single = [rows for rows in by_class if len(rows) == 1]
    return [*several, np.concatenate(single)] if single else several


def _labels(
    columns: list[NDArray[np.generic]], stratify: Column | Literal[False] | None
) -> NDArray[np.generic] | None:
    last = columns[-1]
    if last.ndim == 1:
        refuse_missing(last)
    if stratify is False:
        return None
    if stratify is not None:
        return _same_length(np.asarray(stratify), len(last))
    if last.ndim != 1 or not are_classes(last) or len(np.unique(last)) > MAX_STRATA:
        return None
    return last


def _same_length(labels: NDArray[np.generic], n: int) -> NDArray[np.generic]:
    if labels.shape != (n,):
        raise DataError(
            f"stratify has shape {labels.shape}, but there are {n} rows",
            hint="give one label per row",
        )
    return labels


def _check(columns: list[NDArray[np.generic]], test: float) -> None:
    if not 0 < test < 1:
        raise DataError(
            f"test = {test} leaves one side empty", hint="take a share between 0 and 1, such as 0.3"
        )
    lengths = [len(column) if column.ndim else 0 for column in columns]
    if len(set(lengths)) > 1:
        raise DataError(
            f"the arrays have {', '.join(map(str, lengths))} rows",
            hint="give arrays of the same length",
        )
    if not lengths or lengths[0] < 2:
        raise DataError(
            f"{lengths[0] if lengths else 0} rows cannot be split into training and test data",
            hint="check the path and the site's name: the data set is empty or nearly so",
        )
