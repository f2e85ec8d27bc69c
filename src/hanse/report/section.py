"""A piece of an explanation or a report: a titled table with notes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A titled table with notes below it; a section may be without rows, or a table of no head."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
