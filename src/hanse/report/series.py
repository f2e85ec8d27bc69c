"""What a run's history says over rounds, as named series of values with intervals over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hanse.report.folder import Evaluated, Record, Round, rows, words
from hanse.report.numerals import Interval, interval

MOST_LINES = 12  # more sites than this are shown as a median and a band
COLOURS = 8
ALL_SITES = "all sites"
_NAMES = {"auc": "AUC", "mse": "MSE", "mae": "MAE"}

Values = Mapping[float, Interval]
Read = Callable[[Round], float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: round → value with its interval. ``strong`` is the main one."""

    name: str
    values: Values
    class_: str
    strong: bool = False

    @property
    def known(self) -> list[tuple[float, float]]:
        """The rounds that have a value, and it."""
        return [(x, v.mean) for x, v in self.values.items() if v.mean is not None]


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw: ``reference`` is a named horizontal line. ``along``: what lies along the axis,
    if it is not rounds; then ``rounds`` is where it ends.
    """

    title: str
    series: Sequence[Series]
    rounds: float
    reference: tuple[str, float] | None = None
    from_zero: bool = False
    along: str = ""


def metric_charts(records: Sequence[Record]) -> list[Chart]:
    """Return one chart per metric of the evaluations."""
    last = last_round(records)
    charts = [Chart(shown(m), metric_lines(records, m), last) for m in metrics_of(records)]
    return [chart for chart in charts if chart.series]


def training_charts(records: Sequence[Record]) -> list[Chart]:
    """Return the chart of the loss during local training, nothing where it is private."""
    loss = Series("training", per_round(records, lambda row: row.loss), "c0", strong=True)
    title = "loss during local training, on training rows"
    return [Chart(title, [loss], last_round(records))] if loss.known else []


def shown(metric: str) -> str:
    """Return a metric's name as papers write it."""
    return _NAMES.get(metric, metric.replace("_", " "))


def metrics_of(records: Sequence[Record]) -> list[str]:
    """Return the names of the metrics in the order of the spec; the loss comes last."""
    found = dict.fromkeys(m for r in records for m in _listed(r))
    for record in records:
        for row in record.evaluations[-1:]:
            for each in (row.pooled, *list(row.sites.values())[:20], row.central):
                found.update(dict.fromkeys(each.values if each else ()))
    return sorted(found, key=lambda name: name == "loss")


def metric_lines(records: Sequence[Record], metric: str) -> list[Series]:
    """Return the lines of a metric: all sites together, then each site or the spread of many."""
    sites = sites_of(records)
    own = _spread(records, metric) if len(sites) > MOST_LINES else _each(records, metric, sites)
    found = [
        Series(ALL_SITES, pooled_values(records, metric), "c0", strong=True),
        *own,
        Series("central", central_values(records, metric), "c8 dash"),
    ]
    return [series for series in found if series.known]


def pooled_values(records: Sequence[Record], metric: str) -> Values:
    """Return a metric over all sites together."""
    return _over(records, lambda row: value_of(row.pooled, metric))


def central_values(records: Sequence[Record], metric: str) -> Values:
    """Return a metric on the data set for central evaluation."""
    return _over(records, lambda row: value_of(row.central, metric))


def final(
    records: Sequence[Record],
    metric: str,
    read: Callable[[Sequence[Record], str], Values] = pooled_values,
) -> Interval:
    """Return a metric after the last evaluation of each seed."""
    last = [list(read([record], metric).values())[-1:] for record in records]
    return interval([value.mean for values in last for value in values])


def per_round(records: Sequence[Record], read: Read) -> Values:
    """Return what ``read`` takes from each row of the histories, joined over the seeds."""
    return _joined([{row.number: read(row) for row in record.history} for record in records])


def sites_of(records: Sequence[Record]) -> list[str]:
    """Return the sites that evaluations name."""
    return sorted({site for r in records for row in r.evaluations for site in row.sites})


def last_round(records: Sequence[Record]) -> int:
    """Return the number of the last round."""
    return max((row.number for r in records for row in r.history[-1:]), default=0)


def value_of(found: Evaluated | None, metric: str) -> float | None:
    """Return a metric of an evaluation, None where there is none."""
    return found.values.get(metric) if found else None


def _listed(record: Record) -> list[str]:
    return [name for name in map(words, rows(record.spec.get("metrics"))) if name]


def _over(records: Sequence[Record], read: Read) -> Values:
    return _joined([{r.number: read(r) for r in record.evaluations} for record in records])


def _joined(columns: Sequence[Mapping[int, float | None]]) -> Values:
    rounds = sorted(set[int]().union(*columns))
    return {x: interval([column.get(x) for column in columns]) for x in rounds}


def _each(records: Sequence[Record], metric: str, sites: Sequence[str]) -> list[Series]:
    found = list[Series]()
    for i, site in enumerate(sites):
        values = _over(records, lambda r, site=site: value_of(r.sites.get(site), metric))
        found.append(Series(site, values, site_class(i)))
    return found


def site_class(index: int) -> str:
    """Return the colour of the site at ``index``; after eight colours they come again, dashed."""
    return f"c{index % COLOURS + 1}" + (" dash" if index >= COLOURS else "")


def _spread(records: Sequence[Record], metric: str) -> list[Series]:
    """Return the median site and the band of the middle 80 %, over all sites and seeds."""
    by_round = dict[int, list[float]]()
    for record in records:
        for row in record.evaluations:
            known = (value_of(found, metric) for found in row.sites.values())
            by_round.setdefault(row.number, []).extend(v for v in known if v is not None)
    spread: Values = {x: _middle(values) for x, values in sorted(by_round.items()) if values}
    return [Series("median site", spread, "c1 shown")]


def _middle(values: Sequence[float]) -> Interval:
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return Interval(middle, low, high)
