"""A site's policy: who may ask it, for what, and what may leave. Without one, nothing.

The owner's file, 0600, in TOML; nothing that comes over the network writes it. What it means for a
run is in :mod:`hanse.site.verdict`.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

from hanse.core.ledger import Unit
from hanse.core.spec import Against
from hanse.errors import ConfigError
from hanse.net.keys import read_private, write_private
from hanse.privacy.budget import Cap
from hanse.site.keys import SOURCE_KEYS, TOP, closed

VERSION = 1
Kind = Literal["update", "counts", "reasons"]
KINDS: tuple[Kind, ...] = ("update", "counts", "reasons")
SOURCE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Source:
    """What a data set may be used for; None: no such restriction.

    ``max_epsilon`` is the privacy that it may spend in all its life, at ``max_delta`` (1e-6), for
    one ``unit`` of it (all data of the client), ``against`` an observer (the coordinator). A run
    without an ε spends more than any cap.
    """

    path: str | None = None
    purposes: tuple[str, ...] | None = None
    max_epsilon: float | None = None
    max_delta: float | None = None
    unit: Unit | None = None
    against: Against | None = None

    @property
    def cap(self) -> Cap | None:
        """What all runs together may spend; None: no cap."""
        if self.max_epsilon is None:
            return None
        given = {"delta": self.max_delta, "unit": self.unit, "against": self.against}
        return Cap(self.max_epsilon, **{k: v for k, v in given.items() if v is not None})  # pyright: ignore[reportArgumentType] -- each of its own type


@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's rules. ``apps`` None: whichever app folder the operator started the site with.

    ``coordinator`` is its identity key and ``roster`` the digest of the roster that was accepted
    (empty: none yet), both in hex. ``largest_clip`` bounds the L2 norm of a share, and
    ``longest_training_s`` the seconds that the app has for one training or evaluation;
    ``simulated`` lets runs in whose secrets are given, if they come from this machine.
    """

    coordinator: str
    roster: str = ""
    apps: tuple[str, ...] | None = None
    minimum_cohort: int = 2
    secure_sum: Literal["required", "optional"] = "optional"
    largest_clip: float | None = None
    longest_training_s: float = 86_400.0
    release: tuple[Kind, ...] = ("update", "counts")
    sources: Mapping[str, Source] = field(default_factory=dict[str, Source])
    simulated: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the policy that TOML says; ConfigError names the key that cannot be meant."""
        table = _loads(text)
        closed(table, TOP, "the policy")
        if table.pop("version", None) != VERSION:
            raise ConfigError(
                f"the policy is not of version {VERSION}", hint=f"write version = {VERSION} first"
            )
        if "coordinator" not in table:
            raise ConfigError(
                'missing key "coordinator" in the policy', hint="hanse site join writes it"
            )
        sources = {name: _source(name, found) for name, found in table.pop("sources", {}).items()}
        if table.get("apps") == "installed":
            del table["apps"]
        return cls(**_tupled(table), sources=sources)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the policy in the file at ``path``.

        Raises ConfigError if there is none, if others than its owner may read or write it, or if
        it does not say what a policy can mean.
        """
        return cls.parse(_text_at(path))

    def write(self, path: Path) -> None:
        """Write :meth:`text` to a new file, 0600; ConfigError if there is one already."""
        write_private(path, self.text().encode())

    def text(self) -> str:
        """Return the policy as TOML, with a comment on every key."""
        lines = [f"# {TOP[key].comment}\n{self._written(key)}\n" for key in TOP if key != "sources"]
        for name, source in self.sources.items():
            given = {key: getattr(source, key) for key in SOURCE_KEYS}
            rules = [f"{k} = {_value(v)}" for k, v in given.items() if v is not None]
            lines.append("\n".join([f"[sources.{name}]", *rules, ""]))
        return "\n".join(lines) + ("" if self.sources else EXAMPLE)

    def _written(self, key: str) -> str:
        """Return one key of the top level in TOML, as a comment where it is not set."""
        if key == "version":
            return f"version = {VERSION}"
        value = getattr(self, key)
        if key == "apps" and value is None:
            return 'apps = "installed"'
        return f"# {key} = {TOP[key].example}" if value is None else f"{key} = {_value(value)}"

    def with_sources(self, paths: Mapping[str, str]) -> Self:
        """Return the policy with the paths that the operator started the site with.

        A source that the policy does not name is the operator's word that it may be used. Raises
        ConfigError where the policy has another path.
        """
        sources = dict(self.sources)
        for name, path in paths.items():
            known = sources.get(name, Source())
            if known.path not in (None, path):
                raise ConfigError(
                    f"--source {name}={path}, but the policy says {known.path}",
                    hint=f"leave --source {name} out, or change the policy",
                )
            sources[name] = replace(known, path=path)
        return replace(self, sources=sources)

    def sources_for(self, names: Iterable[str]) -> dict[str, str]:
        """Return name → path of the sources of ``names``, which a verdict has passed; no others."""
        paths = {name: self.sources[name].path for name in names if name in self.sources}
        return {name: path for name, path in paths.items() if path is not None}


def _says(text: str, policy: Policy) -> bool:
    try:
        return Policy.parse(text) == policy
    except ConfigError:
        return False


def _text_at(path: Path) -> str:
    try:
        return read_private(path).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error


def _loads(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        raise ConfigError(
            f"the policy is not TOML: {said[:1].lower()}{said[1:]}", hint="correct that line"
        ) from error


def _source(name: str, found: object) -> Source:
    where = f"[sources.{name}]"
    if not SOURCE.fullmatch(name):
        raise ConfigError(f"{where} names no source", hint="use letters, digits, hyphens and _")
    if not isinstance(found, dict):
        raise ConfigError(f"{where} is not a table", hint=f"write {where} and its keys below it")
    table = cast("dict[str, Any]", found)
    closed(table, SOURCE_KEYS, where)
    lone = [key for key in ("max_delta", "unit", "against") if key in table]
    if lone and "max_epsilon" not in table:
        raise ConfigError(
            f"{where} has {lone[0]} and no max_epsilon, so it caps nothing",
            hint="write max_epsilon = 6.0, or leave it out",
        )
    return Source(**_tupled(table))


def _tupled(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}  # pyright: ignore[reportUnknownArgumentType] -- checked by closed()


def accept_roster(path: Path, digest: str) -> None:
    """Write ``digest`` as the accepted roster into the policy at ``path``; the rest stays as it is.

    Raises ConfigError if that cannot be done by one line of the file.
    """
    text, line = _text_at(path), f'roster = "{digest}"'
    before = Policy.parse(text)
    top, bracket, tables = text.partition("\n[")
    changed, count = re.subn(r'(?m)^[ \t]*roster[ \t]*=[ \t]*"[^"\n]*"', line, top)
    new = (changed if count else f"{line}\n{top}") + bracket + tables
    if not _says(new, replace(before, roster=digest)):
        raise ConfigError(f"the roster in {path} is not one line", hint=f"write {line}")
    write_private(path, new.encode(), replace=True)


EXAMPLE = """
# A data set that runs may use. --source heart=PATH names one for as long as the site runs.
# [sources.heart]
# path = "/data/heart.csv"
# purposes = ["cardio-2026"]   # the run file's purpose is one of these
# max_epsilon = 6.0            # the privacy that all runs together may spend of it, for ever
# max_delta = 1e-6             # at this δ
# unit = "client"              # for all data here; or for one "person", or one "example"
# against = "coordinator"      # whoever sees this site's updates; or the other "sites", or
#                              # "recipients": who gets the model
"""


def _value(value: object) -> str:
    """Return a value of a policy in TOML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, cast('tuple[object, ...]', value)))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(map(_escaped, value)) + '"'
    return repr(value)


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    return letter if letter.isprintable() else f"\\U{ord(letter):08X}"
