"""A data set that knows its sites, and the text of the CSV file it comes from."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hanse.data.labels import Column
from hanse.errors import DataError

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
"""What counts as a missing value in a file, in lower case."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows of several sites: named columns [n], each row's site id [n], and its target, int8 [n].

    A missing number is NaN. Raises DataError if the lengths differ.
    """

    columns: dict[str, Column]
    group: NDArray[np.str_]
    target: NDArray[np.int8]

    def __post_init__(self) -> None:
        """Refuse columns of different lengths."""
        for name, column in self.as_columns().items():
            if len(column) != len(self.target):
                raise DataError(
                    f'column "{name}" has {len(column)} rows, the target {len(self.target)}',
                    hint="give columns of the same length",
                )

    def __len__(self) -> int:
        return len(self.target)

    @property
    def sites(self) -> tuple[str, ...]:
        """The ids of all sites, in alphabetical order."""
        return tuple(np.unique(self.group).tolist())

    def site(self, id: str) -> "Table":
        """Return the rows of one site; raise DataError if it has none."""
        rows = np.flatnonzero(self.group == id)
        if not len(rows):
            raise DataError(
                f'there are no rows of site "{id}"',
                hint=f"the sites are {', '.join(self.sites) or 'none: the table is empty'}",
            )
        return self.rows(rows)

    def rows(self, index: NDArray[np.int64]) -> "Table":
        """Return the rows at ``index``, in that order."""
        columns = {name: column[index] for name, column in self.columns.items()}
        return Table(columns, self.group[index], self.target[index])

    def features(self, *names: str) -> NDArray[np.float32]:
        """Return columns as float32 [n, len(names)], all of them if none is named; NaN stays NaN.

        Raises DataError if a column is not there or is no number.
        """
        require(names, self.columns, "the table")
        chosen = {name: self.columns[name] for name in names or self.columns}
        for name, column in chosen.items():
            if column.dtype.kind not in "biuf":
                raise DataError(
                    f'column "{name}" ({column.dtype}) is no number',
                    hint="name the columns that are numbers",
                )
        return np.stack([column.astype(np.float32) for column in chosen.values()], axis=1)

    def as_columns(self) -> dict[str, Column]:
        """Return all columns, ``group`` and ``target`` too: the form that partitioners take."""
        return {**self.columns, "group": self.group, "target": self.target}


@dataclass(frozen=True, slots=True)
class CsvText:
    """The cells of a CSV file, column by column, before they mean anything."""

    path: Path
    lines: list[int]
    cells: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as float64 [n], NaN where missing; DataError names what is no number."""
        return np.array([self._number(name, row) for row in range(len(self))], np.float64)

    def codes(self, name: str, codes: Mapping[str, int]) -> NDArray[np.float64]:
        """Return a column of words (or their codes) as codes, float64 [n], NaN where missing.

        Upper and lower case are the same. DataError names a word that has no code.
        """
        return np.array([self._code(name, row, codes) for row in range(len(self))], np.float64)

    def _number(self, name: str, row: int) -> float:
        text = self.cells[name][row]
        if text.lower() in MISSING:
            return math.nan
        number = _float(text)
        if number is None:
            raise self.wrong(name, row, "a number")
        return number

    def _code(self, name: str, row: int, codes: Mapping[str, int]) -> float:
        text = self.cells[name][row].lower()
        if text in MISSING:
            return math.nan
        number = _float(text)
        for word, code in codes.items():
            if text == word or number == code:
                return code
        raise self.wrong(name, row, " or ".join(f'"{word}"' for word in codes))

    def wrong(self, name: str, row: int, wanted: str) -> DataError:
        """Return the error for one cell, naming file, line, column and value."""
        return DataError(
            f'{self.path}, line {self.lines[row]}: {name} is "{self.cells[name][row]}"',
            hint=f"write {wanted}",
        )


def read_csv(path: str | Path, required: Sequence[str]) -> CsvText:
    """Read a comma-separated file with a header; cells are stripped, empty lines skipped.

    Raises DataError, naming the file, if it cannot be read as UTF-8 CSV, lacks ``required`` columns
    (which it names), has a row of another width than the header, or has no rows.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            numbered = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}",
            hint="check the path of the source",
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no UTF-8 CSV file: {error}", hint="save it as such") from error
    return _parse(path, numbered, required)


def _parse(path: Path, rows: list[tuple[int, list[str]]], required: Sequence[str]) -> CsvText:
    if not rows:
        raise DataError(f"{path} is empty", hint=f"it needs the columns {', '.join(required)}")
    (_, header), *body = rows
    require(required, header, str(path))
    if len(set(header)) < len(header):
        raise DataError(f"{path} has two columns of one name", hint="rename one of them")
    if not body:
        raise DataError(f"{path} has a header but no rows", hint="check the export")
    for line, row in body:
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(row)} cells, but the header has {len(header)}",
                hint="a comma inside a value needs quotes around the value",
            )
    values = [list(column) for column in zip(*(row for _, row in body), strict=True)]
    return CsvText(path, [line for line, _ in body], dict(zip(header, values, strict=True)))


def require(
    names: Sequence[str], present: Mapping[str, object] | Sequence[str], where: str
) -> None:
    """Raise DataError, naming those missing, unless all ``names`` are ``present``."""
    missing = [name for name in names if name not in present]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise DataError(
            f"{where} lacks the column{plural} {', '.join(missing)}",
            hint=f"it has {', '.join(present) or 'none'}",
        )


def _float(text: str) -> float | None:
    """Return ``text`` as a finite number, or None if it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
