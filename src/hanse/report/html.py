"""One HTML file that tells a run: opens offline, runs no script, fits light, dark and paper."""

from pathlib import Path

from hanse.report import curves, participation, partition, spent, updates, words
from hanse.report.dots import glyphs
from hanse.report.folder import Folder, Record, open_folder
from hanse.report.numerals import duration, plural, short, spans
from hanse.report.page import render
from hanse.report.promises import limits
from hanse.report.results import tables
from hanse.report.series import (
    MOST_LINES,
    metric_charts,
    metrics_of,
    pooled_values,
    shown,
    sites_of,
    training_charts,
)
from hanse.report.settings import flat, settings

__all__ = ["write_report"]

KINDS = {"local": "local only", "federated": "federated", "pooled": "pooled"}


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run's directory (of one seed, or of several) and return it.

    What the directory does not hold is left out. Raises ConfigError if it holds no run.
    """
    target = run_dir / "report.html"
    target.write_text(render("report.html", told(open_folder(run_dir))), "utf-8")
    return target


def told(folder: Folder) -> dict[str, object]:
    """Return everything that the report says."""
    record = folder.first
    return {
        "title": folder.name,
        "headline": words.headline(folder),
        "summary": words.summary(folder),
        "seeds": len(folder.records),
        "shown": shown,
        **_results(folder),
        **_rounds(folder),
        "spent": spent.read(folder),
        "attacks": spent.attacks(folder),
        **_data(record),
        "promises": record.promises or (limits(),),
        "settings": list(settings(record).items()),
        "environment": _environment(record),
        "hashes": _hashes(folder),
    }


def _results(folder: Folder) -> dict[str, object]:
    return {"tables": tables(folder), "kinds": KINDS, "glyphs": glyphs()}


def _rounds(folder: Folder) -> dict[str, object]:
    record, records = folder.first, folder.records
    return {
        "charts": [
            curves.draw(chart) for chart in (*metric_charts(records), *training_charts(records))
        ],
        "is_crowd": len(sites_of(records)) > MOST_LINES,
        "participation": participation.picture(record),
        "states": participation.totals([record]),
        "aborts": len(participation.aborted(record)),
        "took_part": participation.in_words(participation.totals(records)),
        "aborted": _aborts(record),
        "absences": participation.absences(records),
        "traffic": updates.traffic(record),
        "update_charts": [curves.draw(chart) for chart in updates.charts(records)],
        "clip": updates.clip_in_words(records),
        "seconds": _seconds(record),
    }


def _aborts(record: Record) -> list[str]:
    by_reason = dict[str, list[int]]()
    for at, reason in participation.aborted(record).items():
        by_reason.setdefault(reason, []).append(at)
    return [
        f"Aborted: {'round' if len(at) == 1 else 'rounds'} {spans(at)} ({reason})."
        for reason, at in by_reason.items()
    ]


def _seconds(record: Record) -> str:
    seconds = sum(row.seconds for row in record.history)
    count = len(record.history)
    if not seconds:
        return ""
    return f"{plural(count, 'round')} took {duration(seconds)}, {duration(seconds / count)} each."


def _data(record: Record) -> dict[str, object]:
    found = partition.read(record)
    return {
        "partition": found,
        "partition_picture": partition.picture(found) if found else None,
        "partition_is_shaded": found is not None and partition.is_shaded(found),
    }


def _environment(record: Record) -> list[tuple[str, str]]:
    return list(flat(record.environment).items())


def _hashes(folder: Folder) -> list[dict[str, str]]:
    metric = next(iter(metrics_of(folder.records)), "")
    return [
        {
            "seed": short(record.seed),
            "spec": record.spec_hash or str(record.result.get("spec_hash") or ""),
            "digest": record.digest,
            "metric": metric,
            "value": _last_value(record, metric),
        }
        for record in folder.records
    ]


def _last_value(record: Record, metric: str) -> str:
    values = list(pooled_values([record], metric).values())
    return str(values[-1]) if values else ""
