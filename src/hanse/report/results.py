"""Local only, federated, pooled: side by side per site."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hanse.report.dots import KINDS, axis, plot, scale_of
from hanse.report.draw import Drawn
from hanse.report.folder import Folder, Record, evaluated, number, rows, table
from hanse.report.numerals import Interval, difference, interval
from hanse.report.series import metrics_of, value_of

MEAN = "mean"
MEAN_OF_SITES = "mean of sites"
MOST_SITES = 40
_LOWER_IS_BETTER = ("loss", "mse", "mae")

Cells = dict[str, list[float | None]]  # kind → one value per seed


@dataclass(frozen=True, slots=True)
class Row:
    """One site (or a mean over sites): a value per kind, and federated minus local, by pairs."""

    name: str
    examples: int | None
    cells: Mapping[str, Interval]
    gain: Interval | None
    plot: Drawn
    is_summary: bool = False

    @property
    def gain_text(self) -> str:
        """The paired difference, with its sign."""
        return difference(self.gain) if self.gain else ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table of one metric. ``notes`` say what is n/a, and why."""

    metric: str
    kinds: Sequence[str]
    rows: Sequence[Row]
    axis: Drawn
    crowd: str
    notes: Sequence[str]
    lower_is_better: bool

    @property
    def has_gain(self) -> bool:
        """Whether federated and local can be compared."""
        return any(row.gain for row in self.rows)

    @property
    def has_examples(self) -> bool:
        """Whether the sites' numbers of rows are known."""
        return any(row.examples is not None for row in self.rows)


def tables(folder: Folder) -> list[Comparison]:
    """Return a table per metric, none if no site's results are known."""
    found = [_table(folder, metric) for metric in metrics_of(folder.records)]
    return [each for each in found if each and _has_values(each)]


def mean_of_sites(folder: Folder, metric: str) -> dict[str, Interval]:
    """Return kind → the mean over sites, with its interval over seeds."""
    cells = _all_cells(folder, metric).get(MEAN, {})
    return {kind: interval(values) for kind, values in cells.items()}


def paired(folder: Folder, metric: str, kind: str) -> Interval | None:
    """Return federated minus ``kind``, averaged over sites and paired by seed."""
    cells = _all_cells(folder, metric).get(MEAN, {})
    return _gain(cells.get("federated", []), cells.get(kind, []))


def _table(folder: Folder, metric: str) -> Comparison | None:
    by_site = _all_cells(folder, metric)
    kinds = [k for k in KINDS if any(k in cells for cells in by_site.values())]
    sites = [site for site in by_site if site != MEAN]
    if not sites:
        return None
    shown = _quantiles(by_site, sites) if len(sites) > MOST_SITES else _of(by_site, sites)
    values = {name: {k: interval(v) for k, v in cells.items()} for name, cells in shown.items()}
    scale = scale_of(values)
    examples, reasons = _examples(folder), _reasons(folder, metric)
    return Comparison(
        metric=metric,
        kinds=kinds,
        rows=[
            Row(
                name=name,
                examples=examples.get(name),
                cells=values[name],
                gain=_gain(cells.get("federated", []), cells.get("local", [])),
                plot=plot(scale, kinds, values[name]),
                is_summary=name == MEAN_OF_SITES,
            )
            for name, cells in shown.items()
        ],
        axis=axis(scale),
        crowd=_crowd(sites),
        notes=_left_out(by_site, sites, reasons),
        lower_is_better=metric in _LOWER_IS_BETTER,
    )


def _has_values(found: Comparison) -> bool:
    return any(cell.mean is not None for row in found.rows for cell in row.cells.values())


def _crowd(sites: Sequence[str]) -> str:
    if len(sites) <= MOST_SITES:
        return ""
    return f"{len(sites):,} sites are not listed one by one; baselines.json has them all."


def _left_out(
    by_site: Mapping[str, Cells], sites: Sequence[str], reasons: Mapping[str, str]
) -> list[str]:
    """Say at which sites a metric is n/a and why, and that the mean of sites does without."""
    without = [s for s in sites if any(None in values for values in by_site[s].values())]
    if not without or len(sites) > MOST_SITES:
        return []
    told = "; ".join(f"{site} ({reasons.get(site, 'not defined')})" for site in without)
    return [told + (". The mean is over the other sites." if len(without) < len(sites) else ".")]


def _of(by_site: Mapping[str, Cells], sites: Sequence[str]) -> dict[str, Cells]:
    chosen = {site: by_site[site] for site in sites}
    return {**chosen, MEAN_OF_SITES: by_site[MEAN]} if len(sites) > 1 else chosen


def _quantiles(by_site: Mapping[str, Cells], sites: Sequence[str]) -> dict[str, Cells]:
    """Return the lower tenth, the median and the upper tenth over many sites, per seed."""
    names = {"lower tenth of sites": 0.1, "median site": 0.5, "upper tenth of sites": 0.9}
    found: dict[str, Cells] = {MEAN_OF_SITES: by_site[MEAN]}
    for name, q in names.items():
        found[name] = _over_sites(by_site, sites, lambda known, q=q: float(np.quantile(known, q)))
    return found


def _all_cells(folder: Folder, metric: str) -> dict[str, Cells]:
    """Return site → kind → one value per seed, and the mean of sites."""
    found = dict[str, Cells]()
    count = len(folder.records)
    for i, record in enumerate(folder.records):
        for site, kind, value in _measured(record, metric):
            found.setdefault(site, {}).setdefault(kind, [None] * count)[i] = value
    for site, kind, values in _summarised(folder, metric):
        found.setdefault(site, {}).setdefault(kind, values)
    sites = sorted(site for site in found if site != MEAN)
    return {**{site: found[site] for site in sites}, MEAN: _mean(found, sites)}


def _measured(record: Record, metric: str) -> Iterator[tuple[str, str, float | None]]:
    for row in record.evaluations[-1:]:
        for site, found in row.sites.items():
            yield site, "federated", value_of(found, metric)
    for kind in KINDS:
        for site, values in table(record.baselines, kind).items():
            if site != MEAN and table(values):
                yield site, kind, number(table(values).get(metric))


def _summarised(folder: Folder, metric: str) -> Iterator[tuple[str, str, list[float | None]]]:
    for site, kinds in table(folder.summary, "table").items():
        for kind in KINDS:
            values = [number(v) for v in rows(table(kinds, kind).get(metric))]
            if site != MEAN and len(values) == len(folder.records):
                yield site, kind, values


def _mean(found: Mapping[str, Cells], sites: Sequence[str]) -> Cells:
    """Return per seed the mean over the sites that have a value of every kind."""
    kinds = {kind for site in sites for kind in found[site]}
    full = {site: _complete(found[site]) for site in sites if kinds == found[site].keys()}
    return _over_sites(full, list(full), lambda known: sum(known) / len(known))


def _complete(cells: Cells) -> Cells:
    """Return cells without the seeds in which a kind is missing."""
    missing = [None in seed for seed in zip(*cells.values(), strict=True)]
    return {
        k: [None if m else v for v, m in zip(values, missing, strict=True)]
        for k, values in cells.items()
    }


def _over_sites(
    found: Mapping[str, Cells], sites: Sequence[str], statistic: Callable[[list[float]], float]
) -> Cells:
    """Return ``statistic`` over the sites that have a value, per kind and seed."""
    cells = Cells()
    for kind in KINDS:
        columns = [found[site][kind] for site in sites if kind in found[site]]
        known = [[v for v in seed if v is not None] for seed in zip(*columns, strict=True)]
        if columns:
            cells[kind] = [statistic(values) if values else None for values in known]
    return cells


def _gain(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Interval | None:
    pairs = zip(ours, theirs, strict=False)
    gains = [None if a is None or b is None else a - b for a, b in pairs]
    return interval(gains) if any(g is not None for g in gains) else None


def _examples(folder: Folder) -> dict[str, int | None]:
    last = folder.first.evaluations[-1:]
    found = {site: each.examples for row in last for site, each in row.sites.items()}
    for site, values in table(folder.first.baselines, "local").items():
        known = evaluated(values)
        found.setdefault(site, known.examples if known else None)
    return found


def _reasons(folder: Folder, metric: str) -> dict[str, str]:
    """Return why a metric is n/a at a site, from the first place that says so."""
    found = dict[str, str]()
    for record in folder.records:
        for row in record.evaluations[-1:]:
            for site, each in row.sites.items():
                if reason := each.reasons.get(metric):
                    found.setdefault(site, reason)
        for kind in KINDS:
            for site, values in table(record.baselines, kind).items():
                known = evaluated(values)
                if known and (reason := known.reasons.get(metric)):
                    found.setdefault(site, reason)
    return found
