"""The text of a run file as a dict of TOML values, with overrides from the command line."""

import re
import tomllib
from pathlib import Path
from typing import Any, cast

from hanse.errors import ConfigError
from hanse.names import nearest

MOST_BYTES = 2**20
Document = dict[str, Any]


def as_table(value: object) -> Document | None:
    """Return a TOML table as such, None for any other value."""
    return cast("Document", value) if isinstance(value, dict) else None


def read(path: Path) -> Document:
    """Return the document at ``path``.

    Raises ConfigError for a file that is not there or not readable, and, with line and column, for
    one that is not TOML.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"there is no run file {path}", hint=_others(path)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, not a run file", hint=_others(path / "x")) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{path} cannot be read: {reason}", hint="check its rights") from error
    if len(raw) > MOST_BYTES:
        raise ConfigError(
            f"{path} has {len(raw)} bytes; a run file has at most {MOST_BYTES}",
            hint="is it the right file?",
        )
    return _loads(raw, path)


def _loads(raw: bytes, path: Path) -> Document:
    try:
        text = raw.decode()
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text at byte {error.start}", hint="save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).removesuffix(")").rpartition(" (at ")
        found = re.match(r"line (\d+), column", place)
        line = raw.decode().splitlines()[int(found[1]) - 1].strip() if found else ""
        raise ConfigError(
            f"{path}, {place}: {what[:1].lower()}{what[1:]}",
            hint=f"TOML cannot read: {line}" if line else "complete the last line",
        ) from error


def _others(path: Path) -> str:
    """Return what to do about a run file that is not at ``path``."""
    folder = path.parent
    files = sorted(file.name for file in folder.glob("*.toml")) if folder.is_dir() else []
    if files:
        return f"{folder} has {', '.join(files[:5])}"
    return "name a run file; hanse new DIR makes one"


def override(document: Document, assignment: str) -> None:
    """Set one value in ``document``: ``local.lr=0.1``, ``pipeline.clip.norm=2``, ``seed=3``.

    A step of the pipeline goes by its name or its number from 0. The value is read as TOML, and
    as text where it is none. Raises ConfigError if the path leads nowhere.
    """
    path, equals, text = assignment.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f'--set {assignment} is not "key=value"', hint="write --set local.lr=0.1")
    found: object = document
    for place, key in enumerate(keys[:-1]):
        found = _descend(found, key, ".".join(keys[: place + 1]), assignment)
    table = as_table(found)
    if table is None:
        raise ConfigError(
            f"--set {assignment}: {'.'.join(keys[:-1])} is not a table",
            hint="write table.key=value; a step goes by its name: pipeline.clip.norm=2",
        )
    table[keys[-1]] = _value(text.strip())


def _descend(found: object, key: str, path: str, assignment: str) -> object:
    if isinstance(found, list):
        return _step(cast("list[object]", found), key, assignment)
    table = as_table(found)
    if table is None:
        raise ConfigError(
            f"--set {assignment}: {path} leads through a value that is not a table",
            hint="write table.key=value, such as local.lr=0.1",
        )
    return table.setdefault(key, {})


def _step(steps: list[object], key: str, assignment: str) -> object:
    """Return the table of a step by its number or its name."""
    names = [str((as_table(step) or {}).get("step", "")) for step in steps]
    if key.isdecimal() and int(key) < len(steps):
        return steps[int(key)]
    if names.count(key) == 1:
        return steps[names.index(key)]
    if key in names:
        raise ConfigError(
            f"--set {assignment}: the pipeline has {names.count(key)} steps {key}",
            hint=f"name it by its number from 0: pipeline.{names.index(key)}",
        )
    raise ConfigError(
        f'--set {assignment}: the pipeline has no step "{key}"{nearest(key, names)}',
        hint=f"its steps are {', '.join(names) or 'none'}",
    )


def _value(text: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text
