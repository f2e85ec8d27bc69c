"""Runs side by side: the settings that differ, the final metrics, and whether the seeds tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanse.errors import ConfigError
from hanse.report import curves
from hanse.report.folder import Folder, Record, open_folder
from hanse.report.numerals import Interval, difference, interval, spans
from hanse.report.page import render
from hanse.report.series import (
    Chart,
    Series,
    Values,
    central_values,
    last_round,
    metrics_of,
    pooled_values,
    shown,
    site_class,
)
from hanse.report.settings import settings

ABSENT = "–"
_SHORT_DIGEST = 16
_NOT_COMPARED = ("name", "seed", "sums.")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A titled table of texts, a column per run after the first; ``nothing`` if it has no rows."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    nothing: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs by their ``names``; every list below has one entry per run.

    ``differing``: flattened spec keys whose values differ. ``metrics``: final values over all
    sites together (or on the central test data), means over seeds with intervals. ``gaps``: the
    same less the first run, paired by seed; None unless both have the same two seeds or more.
    ``digests`` are of the final models, one per seed.
    """

    names: tuple[str, ...]
    seeds: Sequence[Sequence[int]]
    differing: Mapping[str, Sequence[str]]
    metrics: Mapping[str, Sequence[Interval]]
    gaps: Mapping[str, Sequence[Interval | None]]
    digests: Sequence[Sequence[str]]

    @property
    def results(self) -> Sheet:
        """Final metrics, their differences, and the models' digests."""
        rows = [("seeds", *(spans(s) or ABSENT for s in self.seeds))]
        for metric, values in self.metrics.items():
            rows.append((shown(metric), *map(str, values)))
            if any(self.gaps[metric]):
                rows.append((f"{shown(metric)}, less the first", *map(_gap, self.gaps[metric])))
        rows.append(("model", *map(_digest, self.digests)))
        return Sheet("Final results, over all sites together", tuple(rows))

    @property
    def settings(self) -> Sheet:
        """The settings that differ."""
        rows = tuple((key, *values) for key, values in self.differing.items())
        return Sheet("Settings that differ", rows, "All settings are the same.")

    def rows(self) -> list[tuple[str, ...]]:
        """Return the whole comparison as one table of texts, the names of the runs first."""
        return [("", *self.names), *self.results.rows, *self.settings.rows]

    @property
    def is_same_model(self) -> bool:
        """Whether all runs ended in the same bits."""
        return bool(self.digests[0]) and all(d == self.digests[0] for d in self.digests)


def compare(run_dirs: Sequence[Path]) -> Comparison:
    """Compare two or more run directories; ConfigError if there are fewer, or if one is no run."""
    return _compared(_open(run_dirs))


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write the comparison, with the curves of all runs over each other, as one HTML file."""
    folders = _open(run_dirs)
    compared = _compared(folders)
    charts = [curves.draw(chart) for chart in _charts(folders)]
    values = {"title": "comparison", "compared": compared, "charts": charts}
    out.write_text(render("compare.html", values), "utf-8")
    return out


def _open(run_dirs: Sequence[Path]) -> dict[str, Folder]:
    if len(run_dirs) < 2:
        raise ConfigError(
            f"{len(run_dirs)} run has nothing to be compared with", hint="name two runs or more"
        )
    names = [path.resolve().name for path in run_dirs]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.resolve().name}" for path in run_dirs]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names, 1)]
    return {name: open_folder(path) for name, path in zip(names, run_dirs, strict=True)}


def _compared(folders: Mapping[str, Folder]) -> Comparison:
    all_records = [folder.records for folder in folders.values()]
    metrics = _metrics(folders)
    finals = {m: [_finals(records, m) for records in all_records] for m in metrics}
    return Comparison(
        names=tuple(folders),
        seeds=[_seeds(records) for records in all_records],
        differing=_differing([settings(folder.first) for folder in folders.values()]),
        metrics={m: [interval(list(f.values())) for f in found] for m, found in finals.items()},
        gaps={m: [_paired(f, found[0]) for f in found] for m, found in finals.items()},
        digests=[[r.digest for r in records if r.digest] for records in all_records],
    )


def _seeds(records: Sequence[Record]) -> list[int]:
    return [record.seed for record in records if record.seed is not None]


def _metrics(folders: Mapping[str, Folder]) -> list[str]:
    found = dict.fromkeys(m for f in folders.values() for m in metrics_of(f.records))
    return sorted(found, key=lambda name: name == "loss")


def _differing(tables: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for table in tables for key in table)
    values = {key: [table.get(key, ABSENT) for table in tables] for key in keys}
    return {
        key: found
        for key, found in values.items()
        if len(set(found)) > 1 and not key.startswith(_NOT_COMPARED)
    }


def _finals(records: Sequence[Record], metric: str) -> dict[int, float | None]:
    """Return seed → final value; runs that tell no seed are numbered."""
    found = dict[int, float | None]()
    for i, record in enumerate(records):
        values = list(_over_rounds([record], metric).values())
        found[i if record.seed is None else record.seed] = values[-1].mean if values else None
    return found


def _over_rounds(records: Sequence[Record], metric: str) -> Values:
    pooled = pooled_values(records, metric)
    is_told = any(value.mean is not None for value in pooled.values())
    return pooled if is_told else central_values(records, metric)


def _paired(ours: Mapping[int, float | None], first: Mapping[int, float | None]) -> Interval | None:
    if ours is first or ours.keys() != first.keys() or len(ours) < 2:
        return None
    pairs = ((ours[seed], first[seed]) for seed in ours)
    return interval([None if a is None or b is None else a - b for a, b in pairs])


def _gap(gap: Interval | None) -> str:
    if gap is None or gap.mean is None:
        return ABSENT
    return difference(gap) + (" (within seed spread)" if gap.holds_zero else "")


def _digest(digests: Sequence[str]) -> str:
    if not digests:
        return ABSENT
    more = f" and {len(digests) - 1} more" if len(digests) > 1 else ""
    return digests[0][:_SHORT_DIGEST] + more


def _charts(folders: Mapping[str, Folder]) -> list[Chart]:
    last = max(last_round(folder.records) for folder in folders.values())
    found = list[Chart]()
    for metric in _metrics(folders):
        series = [
            Series(name, _over_rounds(folder.records, metric), site_class(i))
            for i, (name, folder) in enumerate(folders.items())
        ]
        found.append(Chart(shown(metric), [s for s in series if s.known], last))
    return [chart for chart in found if chart.series]
