"""A run's folder as values.

Read leniently: a run may be partial, old, or still going on, so a file that is missing or broken
leaves an empty value, and a number that is no number is None. Names and reasons come from other
organisations: what cannot be printed is replaced here, and escaped where it is written.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

from hanse.core.canonical import Json
from hanse.errors import ConfigError
from hanse.report.promises import from_json
from hanse.report.section import Section

Table = dict[str, object]
LONGEST_TEXT = 300
AUDITS = "audits.jsonl"
"""What attacks on the run have found, one a line."""
_BESIDE = ("examples", "undefined")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation of a model on one set of data; ``reasons`` tells why a metric is None."""

    values: Mapping[str, float | None]
    reasons: Mapping[str, str]
    examples: int | None


@dataclass(frozen=True, slots=True)
class Round:
    """One row of the history. ``loss`` is of the training; ``norm`` of the total update."""

    number: int
    seconds: float
    cohort: int
    counted: Sequence[str]
    refused: Mapping[str, str]
    dropped: Mapping[str, str]
    late: Mapping[str, str]
    aborted: str
    loss: float | None
    norm: float | None
    longest: float | None
    clipped: float | None
    up: float
    down: float
    pooled: Evaluated | None
    sites: Mapping[str, Evaluated]
    central: Evaluated | None


@dataclass(frozen=True)
class Record:
    """What one run (one seed) left."""

    spec: Table
    spec_hash: str
    history: Sequence[Round]
    result: Table
    baselines: Table
    population: Table
    environment: Table
    promises: Sequence[Section] = ()
    privacy: Table = field(default_factory=dict[str, object])
    audits: Sequence[object] = ()

    @cached_property
    def evaluations(self) -> list[Round]:
        """The rounds whose model was evaluated."""
        return [r for r in self.history if r.pooled or r.sites or r.central]

    @property
    def seed(self) -> int | None:
        """The seed, if the folder tells."""
        return whole_number(self.spec.get("seed", self.result.get("seed")))

    @property
    def digest(self) -> str:
        """The digest of the final model, or nothing."""
        return words(self.result.get("model_digest"))


@dataclass(frozen=True)
class Folder:
    """A run directory: one record, or one per seed with their ``summary``."""

    name: str
    records: Sequence[Record]
    summary: Table = field(default_factory=dict[str, object])

    @property
    def first(self) -> Record:
        """The record whose settings and pictures stand for all."""
        return self.records[0]


def open_folder(path: Path) -> Folder:
    """Read a run directory; ConfigError if nothing in it was left by a run."""
    seeds = sorted(path.glob("seed-*"), key=_seed_of)
    records = [_record(p) for p in seeds if p.is_dir()] or [_record(path)]
    if not any(r.spec or r.history or r.result for r in records):
        raise ConfigError(
            f"{path} holds no run: spec.json, history.jsonl and result.json are missing",
            hint="name a folder that `hanse run` made, such as runs/heart-20260102-030405",
        )
    spec, result = records[0].spec, records[0].result
    name = words(spec.get("name") or result.get("run")) or printable(path.resolve().name)
    return Folder(name, records, _load(path / "summary.json"))


def history_of(rows: Iterable[object]) -> list[Round]:
    """Return rows of a history (as ``history.jsonl`` or ``Result.history`` has them) as values."""
    return [_round(table(_clean(row))) for row in rows]


def table(value: object, *keys: str) -> Table:
    """Return the table under ``keys``, empty if there is none."""
    for key in keys:
        value = table(value).get(key)
    return cast("Table", value) if isinstance(value, dict) else {}


def rows(value: object) -> list[object]:
    """Return a list, empty if there is none."""
    return cast("list[object]", value) if isinstance(value, list) else []


def number(value: object) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def whole_number(value: object) -> int | None:
    """Return a whole number, or None."""
    known = number(value)
    return None if known is None else int(known)


def words(value: object) -> str:
    """Return a text, empty if there is none."""
    return value if isinstance(value, str) else ""


@lru_cache(maxsize=4096)
def printable(text: str) -> str:
    """Return ``text`` without control and direction characters, and not without end."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text[: LONGEST_TEXT + 1])
    return shown if len(shown) <= LONGEST_TEXT else shown[:LONGEST_TEXT] + "…"


def evaluated(value: object) -> Evaluated | None:
    """Return an evaluation, None if there is none."""
    found = table(value)
    if not found:
        return None
    values = {k: number(v) for k, v in found.items() if k not in _BESIDE}
    reasons = {k: words(v) for k, v in table(found, "undefined").items()}
    return Evaluated(values, reasons, whole_number(found.get("examples")))


def _record(path: Path) -> Record:
    return Record(
        spec=_load(path / "spec.json"),
        spec_hash=_first_word(path / "spec.sha256"),
        history=history_of(_lines(path / "history.jsonl")),
        result=_load(path / "result.json"),
        baselines=_load(path / "baselines.json"),
        population=_load(path / "population.json"),
        environment=_load(path / "environment.json"),
        promises=_promises(path / "promises.json"),
        privacy=_load(path / "privacy.json"),
        audits=_lines(path / AUDITS),
    )


def _round(row: Table) -> Round:
    update, moved = table(row, "update"), table(row, "bytes")
    evaluation = table(row, "evaluation")
    sites = {site: evaluated(found) for site, found in table(evaluation, "sites").items()}
    return Round(
        number=whole_number(row.get("round")) or 0,
        seconds=number(row.get("seconds")) or 0.0,
        cohort=whole_number(row.get("cohort")) or 0,
        counted=[words(c) for c in rows(row.get("counted"))],
        refused=_reasons(row, "refused"),
        dropped=_reasons(row, "dropped"),
        late=_reasons(row, "late"),
        aborted=words(row.get("aborted")),
        loss=number(table(row, "train").get("loss")),
        norm=number(update.get("norm")),
        longest=number(update.get("longest")),
        clipped=number(update.get("clipped")),
        up=number(moved.get("up")) or 0.0,
        down=number(moved.get("down")) or 0.0,
        pooled=evaluated(evaluation.get("pooled")),
        sites={site: found for site, found in sites.items() if found},
        central=evaluated(row.get("central")),
    )


def _reasons(row: Table, key: str) -> dict[str, str]:
    return {client: words(reason) for client, reason in table(row, key).items()}


def _load(path: Path) -> Table:
    return table(_json(path))


def _promises(path: Path) -> Sequence[Section]:
    try:
        return from_json(cast("Json", _json(path)))
    except ValueError:
        return ()


def _json(path: Path) -> object:
    try:
        return _clean(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return None


def _lines(path: Path) -> list[object]:
    """Return the rows of a JSON-lines file; a torn last line is left out."""
    try:
        return [row for line in path.read_text("utf-8").splitlines() if (row := _row(line))]
    except (OSError, ValueError):
        return []


def _row(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _clean(value: object) -> object:
    """Return a JSON value whose texts are all printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        known = cast("Table", value)
        return {printable(key): _clean(inner) for key, inner in known.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in cast("Sequence[object]", value)]
    return value


def _first_word(path: Path) -> str:
    try:
        return printable((path.read_text("utf-8").split() or [""])[0])
    except (OSError, ValueError):
        return ""


def _seed_of(path: Path) -> tuple[int, str]:
    digits = re.sub(r"\D", "", path.name)
    return int(digits or 0), path.name
