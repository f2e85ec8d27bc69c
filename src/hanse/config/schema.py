"""Checks a table of a run file against what it is for, and says in one line what is wrong with it.

The schema is closed, and nobody writes it twice: the keys of a table are the arguments of the class
or function that it is turned into.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from hanse.config.document import as_table
from hanse.core.work import LocalPrivacy, LocalTraining
from hanse.errors import ConfigError
from hanse.names import nearest

T = TypeVar("T")
LONGEST = 60
WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    bool: "true or false",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that a table may have, with the type of each, and those that it must have."""

    types: Mapping[str, Any]
    required: frozenset[str] = frozenset()

    def __or__(self, more: "Keys") -> "Keys":
        return Keys({**self.types, **more.types}, self.required | more.required)

    def without(self, *names: str) -> "Keys":
        """Return the keys but for ``names``."""
        kept = {name: kind for name, kind in self.types.items() if name not in names}
        return Keys(kept, self.required - set(names))


@cache
def keys_of(make: Callable[..., object]) -> Keys:
    """Return the arguments of a class or function as keys of a table."""
    hints = get_type_hints(make)
    arguments = inspect.signature(make).parameters.values()
    named = [a for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
    return Keys(
        {argument.name: hints.get(argument.name, Any) for argument in named},
        frozenset(argument.name for argument in named if argument.default is argument.empty),
    )


def check(
    value: object, keys: Keys, where: str, *, elsewhere: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the table ``value`` with its values in the types that ``keys`` gives.

    ``where`` is its place in words, such as ``[local]``; ``elsewhere`` are the keys of the top
    level. Raises ConfigError for a key that is unknown, a value of another type, or a key that is
    missing.
    """
    table = as_table(value)
    if table is None:
        raise ConfigError(
            f"{where} is {shown(value)}, not a table", hint=f"write {where} and its keys below it"
        )
    for key in table:
        if key not in keys.types:
            raise _unknown(key, keys, where, elsewhere)
    checked = {key: _typed(key, given, keys.types[key], where) for key, given in table.items()}
    for key in keys.types:
        if key in keys.required and key not in checked:
            raise ConfigError(
                f'missing key "{key}" in {where}', hint=f"add {key} = {words(keys.types[key])}"
            )
    return checked


def build(make: Callable[..., T], table: object, where: str, *, without: str = "") -> T:
    """Return ``make(**table)``, its keys and types checked; see :func:`check`."""
    return make(**check(table, keys_of(make).without(without), where))


def local_training(table: object, where: str, *, elsewhere: Iterable[str] = ()) -> dict[str, Any]:
    """Return the arguments of :class:`hanse.core.work.LocalTraining` that ``table`` gives."""
    keys = keys_of(LocalTraining) | Keys({"privacy": dict[str, Any]})
    given = {
        key: None if (key, value) == ("batch_size", "all") else value
        for key, value in (as_table(table) or {}).items()
    }
    values = check(
        given if as_table(table) is not None else table, keys, where, elsewhere=elsewhere
    )
    if "privacy" in values:
        values["privacy"] = build(LocalPrivacy, values["privacy"], "[local.privacy]")
    return values


def _unknown(key: str, keys: Keys, where: str, elsewhere: Iterable[str]) -> ConfigError:
    if key in elsewhere:
        return ConfigError(
            f'unknown key "{key}" in {where}: it belongs at the top level',
            hint="in TOML, keys of the top level stand before the first [table]",
        )
    known = ", ".join(keys.types) or "none: it has its name only"
    return ConfigError(
        f'unknown key "{key}" in {where}{nearest(key, keys.types)}',
        hint=f"the keys of {where} are {known}",
    )


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    """Return what reads a value of a type: making it takes a hundred times as long as using it."""
    return TypeAdapter(kind)


def _typed(key: str, value: object, kind: Any, where: str) -> object:
    try:
        return _reader(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        choices = [str(choice) for choice in _choices(kind)]
        meant = nearest(value, choices) if isinstance(value, str) else ""
        raise ConfigError(
            f"{key} = {shown(value)} in {where} is not {words(kind)}{meant}",
            hint=f"write {_example(key, kind)}",
        ) from None


def shown(value: object) -> str:
    """Return a TOML value as one would write it, cut short."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def words(kind: Any) -> str:
    """Return in words what a key of this type takes."""
    if kind in WORDS:
        return WORDS[kind]
    origin, inner = get_origin(kind), [k for k in get_args(kind) if k is not NoneType]
    if origin is Literal:
        return _either([f'"{choice}"' for choice in inner])
    if origin in (Union, UnionType):
        return _either([words(part) for part in inner])
    if origin in (tuple, list):
        return "a list" if not inner else f"a list, each {words(inner[0])}"
    return "a table" if origin is dict or kind is dict else "a value of its kind"


def _either(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _choices(kind: Any) -> list[object]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for part in get_args(kind) for choice in _choices(part)]


def _example(key: str, kind: Any) -> str:
    """Return how a key of this type is written."""
    if get_origin(kind) is list:
        return f"[[{key}]], with two brackets, above each"
    return f"[{key}] above its keys" if words(kind) == "a table" else f"{key} = {_one(kind)}"


def _one(kind: Any) -> str:
    """Return a value that a key of this type takes."""
    if choices := _choices(kind):
        return shown(choices[0])
    if get_origin(kind) in (Union, UnionType):
        return _one(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return f"[{_one(get_args(kind)[0])}, …]"
    return {int: "10", float: "0.1", bool: "true"}.get(kind, '"…"')
