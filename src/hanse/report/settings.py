"""A run's spec as flat keys and values, such as ``pipeline.clip.norm`` = 1."""

from collections.abc import Sequence
from typing import cast

from hanse.report.folder import Record, number, rows, table

DERIVED = ("format", "clients.ids", "clients.digest", "model.layout")


def settings(record: Record) -> dict[str, str]:
    """Return the spec of a run, without what only programs read."""
    return {k: v for k, v in flat(record.spec).items() if not k.startswith(DERIVED)}


def flat(value: object, prefix: str = "") -> dict[str, str]:
    """Return nested tables as ``a.b`` → text; the steps of a pipeline are named, not numbered."""
    found = dict[str, str]()
    for key, inner in table(value).items():
        name, listed = f"{prefix}{key}", rows(inner)
        if listed and all(table(each) for each in listed):
            found |= _steps(listed, name)
        elif table(inner):
            found |= flat(table(inner), f"{name}.")
        elif inner not in ({}, []):
            found[name] = _plain(inner)
    return found


def _steps(listed: Sequence[object], name: str) -> dict[str, str]:
    """Return each step's settings; a step without any is there all the same."""
    found = dict[str, str]()
    for i, each in enumerate(listed):
        step = dict(table(each))
        key = f"{name}.{step.pop('step', i)}"
        found |= flat(step, f"{key}.") or {key: "yes"}
    return found


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_plain, cast("list[object]", value)))
    known = number(value)
    return str(value) if known is None or isinstance(value, int) else f"{known:.6g}"
