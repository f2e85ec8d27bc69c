"""The closed schema of a site policy: which keys it has, and what each may be.

Written by hand where a run file's schema is derived: a site's agent starts without that machinery,
and what a policy may say is a decision of its own.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from hanse.core.ledger import OBSERVERS, UNITS
from hanse.errors import ConfigError

HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may be: a test, the same in words, how one writes it, and what it is for."""

    fits: Callable[[object], bool]
    words: str
    example: str
    comment: str = ""


def _list_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, cast("list[object]", value)))


def _one_of(*choices: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in choices


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and HEX.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= 10**6


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < cast("float", value) < math.inf


def _is_probability(value: object) -> bool:
    return type(value) is float and 0 < value < 1


DIGESTS = _list_of(_is_digest)
TOP: Mapping[str, Key] = {
    "version": Key(
        lambda value: type(value) is int,
        "a whole number",
        "1",
        "What this site lets others do. Only its owner changes this file.",
    ),
    "coordinator": Key(
        _is_digest, "an identity key: 64 hex digits", '"…"', "Who may ask: its identity key."
    ),
    "roster": Key(
        lambda value: value == "" or _is_digest(value),
        "a digest: 64 hex digits",
        '""',
        "The sites it may work with, as `hanse site roster accept` writes it. Empty: none yet.",
    ),
    "apps": Key(
        lambda value: value == "installed" or DIGESTS(value),
        '"installed" or a list of digests of 64 hex digits',
        '"installed"',
        'Digests of the app folders that may run, or "installed": the one that this site\n'
        "# was started with. Code never comes over the network.",
    ),
    "minimum_cohort": Key(
        _is_count, "a whole number from 1", "2", "A run has at least so many sites."
    ),
    "secure_sum": Key(
        _one_of("required", "optional"),
        '"required" or "optional"',
        '"optional"',
        '"required": refuse runs whose coordinator sees the update of this site by itself.',
    ),
    "largest_clip": Key(
        _is_positive,
        "a number above 0",
        "10.0",
        "Refuse runs that do not clip, or clip an update to more than this L2 norm.",
    ),
    "longest_training_s": Key(
        _is_positive,
        "a number above 0",
        "86400.0",
        "Seconds that an app may work on one question; then its process is ended, and the round\n"
        "# is told that the training failed.",
    ),
    "release": Key(
        _list_of(_one_of("update", "counts", "reasons")),
        'a list of "update", "counts" and "reasons"',
        '["update", "counts"]',
        'What may leave. "update": model updates, with the number of examples and the training\n'
        '# loss. "counts": metric counts of this site. "reasons": why it refused or failed.',
    ),
    "simulated": Key(
        lambda value: type(value) is bool,
        "true or false",
        "false",
        "true: take runs from this machine whose noise is drawn from a seed that all know, as\n"
        "# hanse up makes them. Never for data of real people: such noise hides nothing.",
    ),
    "sources": Key(lambda value: isinstance(value, dict), "a table", "a table [sources.NAME]"),
}
SOURCE_KEYS: Mapping[str, Key] = {
    "path": Key(_is_text, "a path in quotes", '"/data/heart.csv"'),
    "purposes": Key(_list_of(_is_text), "a list of purposes in quotes", '["cardio-2026"]'),
    "max_epsilon": Key(_is_positive, "a number above 0", "6.0"),
    "max_delta": Key(_is_probability, "a number between 0 and 1", "1e-6"),
    "unit": Key(_one_of(*UNITS), '"client", "person" or "example"', '"client"'),
    "against": Key(_one_of(*OBSERVERS), '"coordinator", "sites" or "recipients"', '"coordinator"'),
}


def closed(table: Mapping[str, Any], keys: Mapping[str, Key], where: str) -> None:
    """Raise ConfigError for a key of ``table`` that ``keys`` lacks, or a value that does not fit.

    The message names the key, its value, and the nearest key that there is.
    """
    for name, value in table.items():
        if name not in keys:
            from hanse.names import nearest  # what it imports is for the simulator

            raise ConfigError(
                f'unknown key "{name}" in {where}{nearest(name, keys)}',
                hint=f"the keys of {where} are {', '.join(keys)}",
            )
        if not keys[name].fits(value):
            shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:59]}…"
            raise ConfigError(
                f"{name} = {shown} in {where} is not {keys[name].words}",
                hint=f"write {name} = {keys[name].example}",
            )
