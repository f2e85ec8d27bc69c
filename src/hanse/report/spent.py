"""ε beside what it bought: after each round, toward each observer with a bound; and what attacks on
the run have found.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hanse.core.canonical import Json
from hanse.core.spec import RunSpec
from hanse.privacy.spending import rounds_of, spent_by
from hanse.report import curves
from hanse.report.draw import Drawn
from hanse.report.folder import Folder, Record, Table, number, rows, table, whole_number, words
from hanse.report.numerals import Interval, plural
from hanse.report.privacy import WHO, figure, neighbours
from hanse.report.section import Section
from hanse.report.series import (
    Chart,
    Series,
    Values,
    central_values,
    last_round,
    metrics_of,
    pooled_values,
    shown,
)

MOST_ROWS = 12
WITHOUT = (
    "No metric was measured beside the model, so there is no curve: exact metrics do not leave "
    'beside noise. [evaluation] release = "simulation" lets a simulation measure.'
)
BY_RENYI = (
    "By round, ε is computed by Rényi divergences, which are never too small, up to the claim for "
    "all planned rounds, which is computed more closely where that can be, and is what counts: a "
    "run that stops early has spent what it planned."
)


def to_json(spec: RunSpec) -> dict[str, Json]:
    """Return what a run keeps beside its history; empty where nothing has a bound."""
    rounds, is_local = rounds_of(spec.rounds), spec.bound.facts.is_noised_by_clients
    found = spent_by(spec, rounds)
    if not found or spec.privacy is None:
        return {}
    told: list[Json] = [
        {
            "observer": one.claim.observer,
            "unit": one.claim.unit,
            "neighbours": neighbours(one.claim, is_local=is_local),
            "claim": _finite(one.claim.epsilon and one.claim.epsilon.epsilon),
            "epsilon": [_finite(value) for value in one.epsilon],
        }
        for one in found
    ]
    return {"delta": spec.privacy.delta, "rounds": list(rounds), "told": told}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class _Line:
    """A unit, and observers who are told the same of it: ε by round, and the claim."""

    observers: tuple[str, ...]
    unit: str
    neighbours: str
    claim: float | None
    by_round: Mapping[int, float]

    @property
    def name(self) -> str:
        """Whom and what it is about, briefly."""
        who = "everybody" if len(self.observers) == len(WHO) else " and ".join(self.observers)
        return f"{self.unit}, {who}"

    @property
    def toward(self) -> str:
        """Whom it is about, in words."""
        if len(self.observers) == len(WHO):
            return "everybody"
        names: Mapping[str, str] = {name: said.partition(":")[0] for name, said in WHO.items()}
        return ", and ".join(names.get(one, one) for one in self.observers)


@dataclass(frozen=True, slots=True)
class Spent:
    """A section of the report."""

    said: str
    charts: Sequence[Drawn]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def read(folder: Folder) -> Spent | None:
    """Return what was spent; None for a run of which nothing has a bound."""
    lines, delta = _lines(folder.first), number(folder.first.privacy.get("delta"))
    done = last_round(folder.records)
    if not lines or delta is None or not done:
        return None
    metric, values = _measured(folder)
    said = [
        f"After {plural(done, 'round')} ε is at most {figure(now)} for one {line.unit} toward "
        f"{line.toward} ({line.neighbours})"
        + (
            ""
            if line.claim is None
            else f"; the run claims {figure(line.claim)} for all it planned"
        )
        for line in lines
        if (now := line.by_round.get(done)) is not None
    ]
    return Spent(
        said=f"At δ = {delta:g}. " + " ".join(f"{one}." for one in said),
        charts=_charts(lines, metric, values),
        columns=(
            "round",
            *(f"ε, {line.name}" for line in lines),
            *([shown(metric)] * bool(metric)),
        ),
        rows=list(_rows(lines, values, done)),
        notes=[BY_RENYI] if metric else [BY_RENYI, WITHOUT],
    )


def so_far(folder: Folder) -> Section | None:
    """Return what the rounds that are done have told, and what all will have; None without a bound.

    Of a run that is under way too.
    """
    record = folder.first
    lines, delta = _lines(record), number(record.privacy.get("delta"))
    if not lines or delta is None:
        return None
    done, planned = last_round(folder.records), max(lines[0].by_round)
    rows = [
        (line.toward, line.unit, line.neighbours, _after(line, done), _after(line, planned))
        for line in lines
    ]
    return Section(
        f"Privacy after {done:,} of {plural(planned, 'round')}, at δ = {delta:g}",
        ("toward", "of one", "which two worlds", "ε so far", "ε at the end"),
        tuple(rows),
        (BY_RENYI,),
    )


def _after(line: _Line, done: int) -> str:
    """Return ε after ``done`` rounds, or the next ones that it was computed after."""
    known = [epsilon for n, epsilon in line.by_round.items() if n >= done]
    return "0" if not done else figure(known[0]) if known else "–"


def attacks(folder: Folder) -> list[Section]:
    """Return what attacks have found, a section each."""
    audits = [table(found) for found in folder.first.audits if table(found)]
    return [
        attack_on_rows(found) if found.get("attack") == "membership" else _by_canaries(found)
        for found in audits
    ]


def _lines(record: Record) -> list[_Line]:
    at = [whole_number(n) for n in rows(record.privacy.get("rounds"))]
    found = dict[tuple[str, str, tuple[float, ...]], _Line]()
    for told in map(table, rows(record.privacy.get("told"))):
        values = [number(value) for value in rows(told.get("epsilon"))]
        known = {n: v for n, v in zip(at, values, strict=False) if n is not None and v is not None}
        who, unit, between = (words(told.get(k)) for k in ("observer", "unit", "neighbours"))
        if known:
            key = (unit, between, tuple(known.values()))
            same = found[key].observers if key in found else ()
            claim = number(told.get("claim"))
            found[key] = _Line((*same, who), unit, between, claim, known)
    return list(found.values())


def _measured(folder: Folder) -> tuple[str, Values]:
    """Return the first metric that was measured over all sites, or centrally, by round."""
    for metric in metrics_of(folder.records):
        for take in (pooled_values, central_values):
            values = take(folder.records, metric)
            if any(value.mean is not None for value in values.values()):
                return metric, values
    return "", {}


def _charts(lines: Iterable[_Line], metric: str, values: Values) -> list[Drawn]:
    """Return the metric over ε."""
    found, furthest = list[Series](), 0.0
    for place, line in enumerate(lines):
        bought: dict[float, Interval] = {
            line.by_round[int(n)]: value for n, value in values.items() if n in line.by_round
        }
        if bought:
            found.append(Series(line.name, bought, f"c{place}", strong=place == 0))
            furthest = max(furthest, *bought)
    if not metric or not any(series.known for series in found):
        return []
    return [curves.draw(Chart(shown(metric), found, furthest, along="ε"))]


def _rows(lines: Sequence[_Line], values: Values, done: int) -> Iterable[list[str]]:
    known = [n for n in lines[0].by_round if n <= done]
    step = max(1, -(-len(known) // MOST_ROWS))
    for n in known[::-1][::step][::-1]:
        cells = [figure(e) if (e := line.by_round.get(n)) is not None else "" for line in lines]
        measured = [str(values[n]) if n in values else ""] if values else []
        yield [f"{n:,}", *cells, *measured]


def attack_on_rows(found: Table) -> Section:
    """Return what shadow runs have found, ``found`` as they are kept."""
    claimed, delta = number(found.get("claimed")), number(found.get("delta"))
    said = "nothing of a row" if claimed is None else f"ε ≤ {figure(claimed)} at δ = {delta}"
    value = {key: number(found.get(key)) or 0.0 for key in ("auc", "rows", "models", "guesses")}
    told = [
        ("claimed, for a row toward whoever gets the models", said),
        ("members look more like it than others (AUC; by chance 0.5)", f"{value['auc']:.3f}"),
    ]
    bounds = [number(bound) for bound in rows(found.get("bounds"))]
    for rate, bound in zip(map(table, rows(found.get("rates"))), bounds, strict=False):
        false, true, low, high = (
            number(rate.get(k)) or 0.0 for k in ("false", "true", "low", "high")
        )
        most = "" if bound is None else f"; the claim lets any attack tell {bound:.1%}"
        told.append(
            (
                f"members told, at {false:.1%} false alarms",
                f"{true:.1%} ({low:.1%} to {high:.1%}){most}",
            )
        )
    return Section(
        f"{value['models']:,.0f} shadow runs on half of {value['rows']:,.0f} rows",
        rows=tuple(told),
        notes=(
            f"{value['guesses']:,.0f} guesses; intervals at 95 %, as if each were of another row. "
            "One attack: a stronger one may find more.",
        ),
    )


def _by_canaries(found: Table) -> Section:
    claimed, delta = number(found.get("claimed")), number(found.get("delta"))
    said = "nothing: there is no noise" if claimed is None else f"ε ≤ {figure(claimed)}"
    value = {key: number(found.get(key)) or 0.0 for key in NUMBERS}
    return Section(
        f"{value['canaries']:.0f} planted clients, {value['rounds']:.0f} rounds",
        rows=(
            ("claimed, for a client toward whoever gets the final model", f"{said} at δ = {delta}"),
            (
                f"lower bound, with {value['confidence']:.0%} confidence",
                f"ε ≥ {value['lower']:.2f}",
            ),
            ("its power: what it could have said at most", f"{value['power']:.2f}"),
            (
                "an estimate, which bounds nothing",
                f"ε ≈ {value['estimate']:.2f} ({value['low']:.2f} to {value['high']:.2f})",
            ),
        ),
        notes=(
            f"{value['right']:.0f} of {value['guesses']:.0f} guesses were right. One run, one "
            "attack: a stronger one may find more. No gate: a claim above the power cannot be "
            "refuted by this.",
        ),
    )


NUMBERS = (
    *("canaries", "rounds", "confidence", "lower", "power", "estimate", "low", "high"),
    *("right", "guesses"),
)
