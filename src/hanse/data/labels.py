"""What a column of values means: classes to count, or site ids to name clients after."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hanse.errors import DataError

Column: TypeAlias = NDArray[np.generic]
"""One value per row."""
Columns: TypeAlias = Column | Mapping[str, Column]
"""The one column that matters, or a table of named columns to pick it from."""
Rows: TypeAlias = NDArray[np.int64]
"""Row indices, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Distinct ``values``, ascending, and for each row the index of its value, int64 [n]."""

    values: Column
    codes: NDArray[np.int64]

    @property
    def names(self) -> list[str]:
        """The values as text: ``7`` for 7 and 7.0, ``true`` for True."""
        return [text_of(value) for value in self.values]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each class, int64 [len(values)]."""
        return np.bincount(self.codes, minlength=len(self.values)).astype(np.int64, copy=False)


def pick(data: Columns, name: str) -> Column:
    """Return column ``name`` of a table, or ``data`` itself when it is one column already.

    Raises DataError if a table has no such column, or if the column is empty or not of shape [n].
    """
    if isinstance(data, Mapping):
        if name not in data:
            raise DataError(
                f'the data have no column "{name}"',
                hint=f"they have {', '.join(sorted(data)) or 'none'}",
            )
        data = data[name]
    column = np.asarray(data)
    if column.ndim != 1:
        raise DataError(
            f"one value per row is needed, but the column has shape {column.shape}",
            hint="give labels of shape [n], not one-hot rows",
        )
    if not len(column):
        raise DataError("the data set is empty", hint="check what the data function returns")
    return column


def refuse_missing(column: Column) -> None:
    """Raise DataError, counting them, if any of the values [n] is NaN, infinite, None or empty."""
    missing = _missing(column)
    if missing.any():
        raise DataError(
            f"{int(missing.sum())} of {len(column)} labels are missing or not finite,"
            f" the first in row {int(missing.argmax())}",
            hint="drop these rows, or give them a class of their own",
        )


def _missing(column: Column) -> NDArray[np.bool_]:
    if column.dtype.kind == "f":
        return ~np.isfinite(column.astype(np.float64))
    if column.dtype.kind == "O":
        column = np.array([text_of(value) for value in column])
    if column.dtype.kind == "U":
        return (column == "") | (column == "None") | (column == "nan")
    return np.zeros(len(column), np.bool_)


def are_classes(column: Column) -> bool:
    """Tell whether the values [n] are text, booleans or whole numbers, rather than measurements."""
    if column.dtype.kind == "f":
        return bool(np.all(np.mod(column.astype(np.float64), 1) == 0))
    return column.dtype.kind in "biuOU"


def classes(column: Column) -> Classes:
    """Return the classes of labels [n]; raise DataError if some are missing or not classes."""
    refuse_missing(column)
    if not are_classes(column):
        raise DataError(
            f"these labels ({column.dtype}) are measurements, not classes",
            hint="give class labels, or pick a partition that does not look at them: iid, quantity",
        )
    if column.dtype.kind == "O":
        column = np.array([text_of(value) for value in column])
    values, codes = np.unique(column, return_inverse=True)
    return Classes(values, codes.astype(np.int64, copy=False))


def text_of(value: object) -> str:
    """Return a value, NumPy's or Python's, as a person would write it: ``7`` for 7.0, ``true``."""
    if isinstance(value, str):
        return str(value)
    plain: object = np.asarray(value).item()
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, float) and plain.is_integer():
        return str(int(plain))
    return str(plain)


def site_id(value: object) -> str:
    """Return ``value`` as a client's id, ``[a-z0-9][a-z0-9-]*``: "VA Long Beach" → "va-long-beach".

    Accents fall away (Zürich → zurich); every other run of characters becomes one hyphen.
    Raises DataError if no letter or digit is left.
    """
    plain = unicodedata.normalize("NFKD", text_of(value)).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    if not name:
        raise DataError(
            f"{value!r} cannot name a site: it has no Latin letter and no digit",
            hint="rename it in the data",
        )
    return name
