"""A partition in numbers small enough for a picture in a report and plain enough for JSON.

The counts are those of the data themselves: a summary belongs to a simulation, whose data are all
in one hand. It must not leave a real site.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from hanse.data.labels import Classes, Column, Rows, are_classes, classes, refuse_missing

SHOWN_CLIENTS = 200
SHOWN_CLASSES = 20
_COUNTABLE = 1_000  # whole numbers with more distinct values than this are measurements


class Client(TypedDict):
    """One bar of the picture. ``counts`` is in the order of ``Summary.classes``, or empty."""

    id: str
    n: int
    counts: list[int]


class Summary(TypedDict):
    """What a picture shows: ``parts`` holds the first 200 clients, the other keys are of all."""

    clients: int
    rows: int
    classes: list[str]
    sizes: dict[str, float]
    parts: list[Client]


def summary(labels: Column, parts: Sequence[Rows], ids: Sequence[str] | None = None) -> Summary:
    """Return sizes and label counts per client for ``parts``, as a partitioner returned them.

    ``labels`` has shape [n]. Up to 20 classes are counted; of more, the 19 largest, and the rest
    together as ``other``. Labels that are measurements give sizes only: ``classes`` and every
    ``counts`` are then empty. ``ids`` defaults to ``client-0``, ``client-1``, …; of more than 200
    clients the first 200 are listed, and ``sizes`` (min, quarter, median, three-quarter, max) tells
    of the rest. Raises DataError if labels are missing.
    """
    shown = parts[:SHOWN_CLIENTS]
    names = ids if ids is not None else [f"client-{k}" for k in range(len(shown))]
    kinds, codes = _kinds(np.asarray(labels))
    sizes = np.array([len(rows) for rows in parts])
    return {
        "clients": len(parts),
        "rows": int(sizes.sum()),
        "classes": kinds,
        "sizes": _quantiles(sizes),
        "parts": [
            {"id": name, "n": len(rows), "counts": _count(codes[rows], len(kinds))}
            for name, rows in zip(names, shown, strict=False)
        ],
    }


def _kinds(labels: Column) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the classes to show, and each row's index among them."""
    refuse_missing(labels)
    found = classes(labels) if are_classes(labels) else None
    if found is None or len(found.values) > _COUNTABLE:
        return [], np.zeros(len(labels), np.int64)
    if len(found.values) <= SHOWN_CLASSES:
        return found.names, found.codes
    return _with_other(found)


def _with_other(found: Classes) -> tuple[list[str], NDArray[np.int64]]:
    """Keep the largest classes, in their own order, and merge the rest into ``other``."""
    largest = np.sort(np.argsort(-found.counts, kind="stable")[: SHOWN_CLASSES - 1])
    place = np.full(len(found.values), SHOWN_CLASSES - 1)
    place[largest] = np.arange(SHOWN_CLASSES - 1)
    names = found.names
    return [*(names[k] for k in largest), "other"], place[found.codes]


def _count(codes: NDArray[np.int64], kinds: int) -> list[int]:
    return np.bincount(codes, minlength=kinds).tolist() if kinds else []


def _quantiles(sizes: NDArray[np.int64]) -> dict[str, float]:
    names = ("min", "q25", "median", "q75", "max")
    return dict(zip(names, np.quantile(sizes, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True))
