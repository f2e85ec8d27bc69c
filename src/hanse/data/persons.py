"""Rows that belong to persons, of whom some have many: visits, transactions, calls."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.errors import DataError


@dataclass(frozen=True, slots=True)
class OfPersons:
    """A training data set, as ``data(site)`` returns one, with whose each row is.

    ``ids``: one for each row, text or whole numbers, that are the same where the person is. They
    stay where they are: only that some are the same is used. DataError for ids that are neither, or
    missing.
    """

    dataset: Any
    ids: Sequence[Hashable] | NDArray[Any] = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse ids that tell nobody apart."""
        ids = _alike(self.ids)
        if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
            raise DataError(
                f"ids of persons are an array of {ids.dtype} and shape {ids.shape}",
                hint="give one for each row, as text or a whole number; rows of persons who are "
                "not known go out of the training data",
            )
        if ids.dtype.kind in "US" and bool((np.char.str_len(np.char.strip(ids)) == 0).any()):
            raise DataError(
                "the id of a person is empty: those without one would count as one person",
                hint="leave such rows out, or give each an id of its own",
            )
        object.__setattr__(self, "ids", ids)

    def numbers(self, rows: int) -> NDArray[np.int64]:
        """Return whose each of ``rows`` rows is, by numbers from 0; DataError for other rows."""
        if len(self.ids) != rows:
            raise DataError(
                f"{len(self.ids)} ids of persons for {rows} rows",
                hint="give one for each row of the training data, in their order",
            )
        return np.unique(np.asarray(self.ids), return_inverse=True)[1].astype(np.int64)


def _alike(given: Any) -> NDArray[Any]:
    """Return ids of one kind as an array; of mixed ones, or nested, an array of objects.

    NumPy would write all of them as text, by which a missing number and ``"nan"``, or 1 and
    ``"1"``, become one person; and text that ends in NUL loses that.
    """
    typed: Any = getattr(given, "dtype", None)
    if typed is not None and typed.kind != "O":
        return np.asarray(given)
    found = list[Any](given)
    is_text = all(isinstance(one, str) and not one.endswith("\0") for one in found)
    whole = (int, np.integer)
    if is_text or all(isinstance(one, whole) and not isinstance(one, bool) for one in found):
        return np.asarray(found)
    kept: NDArray[Any] = np.empty(len(found), object)
    kept[:] = found
    return kept
