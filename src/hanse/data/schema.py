"""What an app expects of a site's data, declared, so that a site hears of it before round 1.

It stands in the app beside the model; the run file names it (``contract = "app:schema"``). What is
wrong with a site's data by it says :mod:`hanse.data.findings`. It describes columns one by one, and
nothing of how they hang together.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from hanse.data.labels import text_of
from hanse.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Number:
    """A column of numbers from ``low`` to ``high``; ``missing``: cells may be empty."""

    low: float = -math.inf
    high: float = math.inf
    missing: bool = False

    def __post_init__(self) -> None:
        """Refuse a range with nothing in it."""
        if not self.low <= self.high:
            raise ConfigError(
                f"{self} has nothing between its ends", hint="give the lower end first"
            )

    @property
    def words(self) -> str:
        """What a cell holds."""
        return "a number"

    def value(self, cell: str) -> float | None:
        """Return the number that ``cell`` says, or None."""
        try:
            number = float(cell)
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def outside(self, number: float) -> bool:
        """Tell whether ``number`` is out of the range."""
        return not self.low <= number <= self.high


@dataclass(frozen=True, slots=True)
class Integer(Number):
    """A column of whole numbers from ``low`` to ``high``; 3.0 is one too."""

    @property
    def words(self) -> str:
        """What a cell holds."""
        return "a whole number"

    def value(self, cell: str) -> float | None:
        """Return the whole number that ``cell`` says, or None."""
        number = Number.value(self, cell)
        return number if number is not None and number.is_integer() else None


@dataclass(frozen=True, slots=True, init=False)
class Category:
    """A column of words out of ``values``, upper and lower case apart."""

    values: tuple[str, ...]
    missing: bool = False

    def __init__(self, *values: str, missing: bool = False) -> None:
        """Keep the words; ConfigError if there is none."""
        if not values:
            raise ConfigError("Category() has no words", hint='write Category("yes", "no")')
        object.__setattr__(self, "values", tuple(map(text_of, values)))
        object.__setattr__(self, "missing", missing)


Kind = Number | Category


@dataclass(frozen=True, slots=True, init=False)
class AtLeast:
    """At least ``rows`` rows in which ``column`` is one of ``values``."""

    rows: int
    column: str
    values: tuple[str, ...]

    def __init__(self, rows: int, column: str, *values: object) -> None:
        """Keep the rule; ConfigError if it names no value."""
        if not values:
            raise ConfigError(
                f"AtLeast({rows}, {column!r}) names no value",
                hint='write the values to count: AtLeast(10, "num", 1, 2, 3, 4)',
            )
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "column", column)
        object.__setattr__(self, "values", tuple(map(text_of, values)))


@dataclass(frozen=True, slots=True)
class Schema:
    """What a source must hold: its columns by name, and rows of each class.

    ``source`` is the name of the data set that it is about. Columns that it does not name are free.
    Raises ConfigError for a class of a column that it does not name.
    """

    columns: Mapping[str, Kind]
    source: str = ""
    classes: tuple[AtLeast, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a class of no column."""
        object.__setattr__(self, "classes", tuple(self.classes))
        for rule in self.classes:
            if rule.column not in self.columns:
                raise ConfigError(
                    f"the schema counts rows by {rule.column!r}, which is none of its columns"
                    f"{nearest(rule.column, self.columns)}",
                    hint=f"add {rule.column!r} to its columns",
                )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean "…"?`` with the known name that is nearest, or nothing."""
    plain = {other.lower(): other for other in known}
    found = get_close_matches(name.lower(), plain, n=1)
    return f'; did you mean "{plain[found[0]]}"?' if found else ""
