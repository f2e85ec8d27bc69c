"""Curves over rounds, with labels at their ends instead of a legend.

Several seeds: the line is the mean, the band its 95 % t-interval. The band of the main line is
always shown, that of another when a pointer rests on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hanse.report.draw import (
    Drawn,
    Scale,
    cut,
    join,
    label_width,
    line,
    polyline,
    rect,
    round_ticks,
    standalone,
    svg,
    tag,
    text,
    tick_labels,
    ticks,
)
from hanse.report.folder import Record, Round, history_of
from hanse.report.numerals import Interval, interval, measure

WIDTH, HEIGHT = 480.0, 260.0
LINES = 12  # more sites than this are shown as a median and a band
_POINTS = 200
_HITS = 80
_COLOURS = 8
_LABEL_STEP = 12.5
_TOP, _LEFT, _BOTTOM = 12.0, 44.0, 36.0

Values = Mapping[int, Interval]


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: round → value with its interval. ``strong`` is the main one."""

    name: str
    values: Values
    class_: str
    strong: bool = False

    @property
    def known(self) -> list[tuple[int, float]]:
        """The rounds that have a value."""
        return [(x, v.mean) for x, v in self.values.items() if v.mean is not None]


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw: ``reference`` is a named horizontal line."""

    title: str
    series: Sequence[Series]
    rounds: int
    reference: tuple[str, float] | None = None
    from_zero: bool = False


@dataclass(frozen=True, slots=True)
class _Frame:
    x: Scale
    y: Scale


def rounds_svg(history: Iterable[object]) -> str:
    """Return the curves of a run as an SVG file, for a README or a slide.

    ``history`` is ``Result.history`` or the rows of ``history.jsonl``. One chart per metric, side
    by side: one line over all sites and one per site.
    """
    record = Record({}, "", history_of(history), {}, {}, {}, {})
    charts = [draw(chart) for chart in metric_charts([record])]
    placed = [
        tag("g", chart, transform=f"translate({i * WIDTH:.0f} 0)") for i, chart in enumerate(charts)
    ]
    titles = ", ".join(metrics_of([record]))
    return standalone(svg(WIDTH * max(len(charts), 1), HEIGHT, placed, f"{titles} by round"))


def metric_charts(records: Sequence[Record]) -> list[Chart]:
    """Return one chart per metric of the evaluations."""
    charts = [Chart(m, lines(records, m), _last(records)) for m in metrics_of(records)]
    return [chart for chart in charts if any(s.known for s in chart.series)]


def metrics_of(records: Sequence[Record]) -> list[str]:
    """Return the names of the metrics, in the order in which they were written; losses last."""
    found = dict[str, None]()
    for record in records:
        for row in record.evaluations[-1:]:
            for each in (row.pooled, *list(row.sites.values())[:50], row.central):
                found.update(dict.fromkeys(each.values if each else ()))
    return sorted(found, key=lambda name: name == "loss")


def lines(records: Sequence[Record], metric: str) -> list[Series]:
    """Return the lines of a metric: all sites together, then each site or the spread of many."""
    pooled = _series("all sites", records, lambda r: r.pooled and r.pooled.values.get(metric))
    central = _series("central", records, lambda r: r.central and r.central.values.get(metric))
    sites = sorted({s for record in records for row in record.evaluations for s in row.sites})
    own = _spread(records, metric) if len(sites) > LINES else _sites(records, metric, sites)
    main = Series("all sites", pooled, "c0", strong=True)
    return [s for s in (main, *own, Series("central", central, "c8 dash")) if s.known]


def per_round(records: Sequence[Record], value: "Value") -> Values:
    """Return what ``value`` takes from each row of the histories, joined over the seeds."""
    return _joined([{row.number: value(row) for row in record.history} for record in records])


def draw(chart: Chart) -> Drawn:
    """Return the picture of a chart."""
    named = [s.name for s in chart.series] + ([chart.reference[0]] if chart.reference else [])
    right = WIDTH - label_width(named) - 16
    low, high = _domain(chart)
    frame = _Frame(
        Scale(min(_first(chart), chart.rounds), chart.rounds, _LEFT, right),
        Scale(low, high, HEIGHT - _BOTTOM, _TOP + 18),
    )
    parts = [
        text(0, _TOP, chart.title, class_="t b"),
        *_axes(frame, chart.rounds),
        *_hits(frame, chart.series),
        *_reference(frame, chart),
        *_drawn_series(frame, chart.series),
    ]
    return svg(WIDTH, HEIGHT, parts, f"{chart.title} by round")


def _series(name: str, records: Sequence[Record], value: "Value") -> Values:
    return _joined([{r.number: value(r) for r in record.evaluations} for record in records])


def _joined(columns: Sequence[Mapping[int, float | None]]) -> Values:
    rounds = sorted(set[int]().union(*columns))
    return {x: interval([c.get(x) for c in columns]) for x in rounds}


def _sites(records: Sequence[Record], metric: str, sites: Sequence[str]) -> list[Series]:
    found = list[Series]()
    for i, site in enumerate(sites):
        values = _series(site, records, lambda r, s=site: _at(r, s, metric))
        dash = " dash" if i >= _COLOURS else ""
        found.append(Series(site, values, f"c{i % _COLOURS + 1}{dash}"))
    return found


def _at(row: Round, site: str, metric: str) -> float | None:
    found = row.sites.get(site)
    return found.values.get(metric) if found else None


def _spread(records: Sequence[Record], metric: str) -> list[Series]:
    """Return the median site and the band of the middle 80 %, over all sites and seeds."""
    by_round = dict[int, list[float]]()
    for record in records:
        for row in record.evaluations:
            known = (e.values.get(metric) for e in row.sites.values())
            by_round.setdefault(row.number, []).extend(v for v in known if v is not None)
    spread = {x: _middle(values) for x, values in by_round.items() if values}
    return [Series("median site", spread, "c1 shown")]


def _middle(values: Sequence[float]) -> "_Middle":
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return _Middle(middle, None, len(values), len(values), low, high)
