"""What is wrong with a site's data by an app's schema, in plain words for the data's owner.

A finding shows no more of the data than one needs to find the place: a line's number, a count, the
word that is not known. It is for the site: nothing here is meant to leave it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hanse.data.labels import Column, text_of
from hanse.data.schema import AtLeast, Category, Kind, Number, Schema, nearest
from hanse.data.table import MISSING, CsvText

Cells = Sequence[str] | Column
LONGEST = 40


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing by which a column is not what the schema says, and what to do about it."""

    column: str
    said: str
    fix: str


def findings(schema: Schema, data: CsvText | Mapping[str, Cells]) -> list[Finding]:
    """Return all that is wrong with ``data``, column by column; nothing: it is what is expected.

    ``data`` is the text of a CSV file or a mapping of columns, one value a row. A missing value is
    an empty cell, ``?``, ``NA`` and their like (``hanse.data.table.MISSING``), or NaN.
    """
    if isinstance(data, CsvText):
        lines, columns = data.lines, data.cells
        return list(_findings(schema, columns, lambda row: f"line {lines[row]}"))
    return list(_findings(schema, data, lambda row: f"row {row + 1}"))


Where = Callable[[int], str]


def _findings(schema: Schema, data: Mapping[str, Cells], where: Where) -> Iterator[Finding]:
    for name, kind in schema.columns.items():
        if name not in data:
            yield Finding(
                name,
                f'there is no column "{name}"{nearest(name, data)}',
                f'name a column "{name}", or correct the app\'s schema',
            )
            continue
        cells = [_text(cell) for cell in data[name]]
        counts = Counter(cells)
        yield from _missing(name, kind, cells, counts, where)
        present = {cell: n for cell, n in counts.items() if not _is_missing(kind, cell)}
        check = _words if isinstance(kind, Category) else _numbers
        yield from check(name, kind, cells, present, where)  # pyright: ignore[reportArgumentType] -- chosen by kind
        yield from _classes(name, kind, schema.classes, present)


def _text(cell: object) -> str:
    return cell.strip() if isinstance(cell, str) else text_of(cell)


def _is_missing(kind: Kind, cell: str) -> bool:
    is_word = isinstance(kind, Category) and cell in kind.values
    return cell.lower() in MISSING and not is_word


def _missing(
    name: str, kind: Kind, cells: list[str], counts: Mapping[str, int], where: Where
) -> Iterator[Finding]:
    absent = {cell for cell in counts if _is_missing(kind, cell)}
    if absent and not kind.missing:
        yield Finding(
            name,
            f'"{name}" is missing in {_rows(counts, absent)}, the first in '
            f"{where(_first(cells, absent))}",
            "fill them in or leave the rows out; or the app's schema says missing=True",
        )


def _numbers(
    name: str, kind: Number, cells: list[str], counts: Mapping[str, int], where: Where
) -> Iterator[Finding]:
    values = {cell: kind.value(cell) for cell in counts}
    wrong = {cell for cell, value in values.items() if value is None}
    if wrong:
        yield Finding(
            name,
            f'"{name}" is not {kind.words} in {_rows(counts, wrong)}, the first in '
            f"{where(_first(cells, wrong))}",
            f"write {kind.words} there, or nothing"
            if kind.missing
            else f"write {kind.words} there",
        )
    outside = {cell for cell, value in values.items() if value is not None and kind.outside(value)}
    if outside:
        yield Finding(
            name,
            f'"{name}" is not within {kind.low:g} to {kind.high:g} in {_rows(counts, outside)}, '
            f"the first in {where(_first(cells, outside))}",
            "see whether the unit is the one that the app expects",
        )


def _words(
    name: str, kind: Category, cells: list[str], counts: Mapping[str, int], where: Where
) -> Iterator[Finding]:
    unknown = {cell for cell in counts if cell not in kind.values}
    if unknown:
        row = _first(cells, unknown)
        said = cells[row] if len(cells[row]) <= LONGEST else f"{cells[row][: LONGEST - 1]}…"
        yield Finding(
            name,
            f'"{name}" is "{said}" in {where(row)}{nearest(cells[row], kind.values)}; '
            f"{_rows(counts, unknown)} with a word that is not known",
            f"the words are {', '.join(kind.values)}",
        )


def _classes(
    name: str, kind: Kind, rules: Iterable[AtLeast], counts: Mapping[str, int]
) -> Iterator[Finding]:
    for rule in rules:
        if rule.column == name:
            found = sum(n for cell, n in counts.items() if _plain(kind, cell) in rule.values)
            if found < rule.rows:
                yield Finding(
                    name,
                    f'"{name}" is {" or ".join(rule.values)} in {_plural(found)}; '
                    f"the app needs {rule.rows}",
                    "this site has too few of them to take part, or the app's schema asks too many",
                )


def _plain(kind: Kind, cell: str) -> str:
    """Return a cell as a rule writes it: 1 for 1.0 where the column is of numbers."""
    number = kind.value(cell) if isinstance(kind, Number) else None
    return cell if number is None else text_of(number)


def _rows(counts: Mapping[str, int], chosen: Iterable[str]) -> str:
    return _plural(sum(counts[cell] for cell in chosen))


def _plural(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def _first(cells: list[str], chosen: set[str]) -> int:
    return next(row for row, cell in enumerate(cells) if cell in chosen)
