"""Curves over rounds, with names at their ends instead of a legend.

Several seeds: the line is the mean, the band its 95 % t-interval. The band of the main line is
always shown, that of another while a pointer rests on it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
from hanse.report.folder import Record, history_of
from hanse.report.series import Chart, Series, metric_charts, metrics_of

WIDTH, HEIGHT = 480.0, 250.0
_MOST_POINTS = 300
_MOST_HITS = 80
_LABEL_STEP = 12.5
_TOP, _LEFT, _BOTTOM = 12.0, 44.0, 22.0


@dataclass(frozen=True, slots=True)
class _Frame:
    x: Scale
    y: Scale


def rounds_svg(history: Iterable[object]) -> str:
    """Return the curves of a run as an SVG file, for a README or a slide.

    ``history`` is ``Result.history`` or the rows of ``history.jsonl``. One chart per metric, two
    beside each other: one line over all sites and one per site.
    """
    record = Record({}, "", history_of(history), {}, {}, {}, {})
    charts = [draw(chart) for chart in metric_charts([record])]
    placed = [tag("g", c, transform=_place(i)) for i, c in enumerate(charts)]
    label = f"{', '.join(metrics_of([record]))} by round"
    height = HEIGHT * -(-len(charts) // 2)
    return standalone(svg(WIDTH * min(len(charts), 2), height, placed, label))


def _place(index: int) -> str:
    return f"translate({index % 2 * WIDTH:.0f} {index // 2 * HEIGHT:.0f})"


def draw(chart: Chart) -> Drawn:
    """Return the picture of a chart."""
    named = [s.name for s in chart.series] + ([chart.reference[0]] if chart.reference else [])
    right = WIDTH - label_width(named) - 16
    low, high = _domain(chart)
    frame = _Frame(
        Scale(0, chart.rounds, _LEFT, right), Scale(low, high, HEIGHT - _BOTTOM, _TOP + 16)
    )
    parts = [
        text(0, _TOP, chart.title, class_="t b"),
        *_axes(frame, chart),
        *([] if chart.along else _hits(frame, chart.series)),
        *_curves(frame, chart),
    ]
    return svg(WIDTH, HEIGHT, parts, f"{chart.title} by {chart.along or 'round'}")


def _domain(chart: Chart) -> tuple[float, float]:
    """Return the range of the lines, with as much of the shown bands as leaves them readable."""
    means = [y for s in chart.series for _, y in s.known]
    means += [chart.reference[1]] if chart.reference else []
    low, high = min(means), max(means)
    room = (high - low) * 0.4 or abs(high) * 0.05 or 0.5
    shown = [s for s in chart.series if s.strong or "shown" in s.class_]
    ends = [v for s in shown for i in s.values.values() for v in (i.low, i.high) if v is not None]
    low, high = (
        max(min([low, *ends]), low - room) - 0.05 * room,
        min(max([high, *ends]), high + room) + 0.05 * room,
    )
    return (0.0 if chart.from_zero else low), high


def _axes(frame: _Frame, chart: Chart) -> list[Drawn]:
    x, y = frame.x, frame.y
    values = ticks(y.low, y.high)
    parts = list[Drawn]()
    for value, label in zip(values, tick_labels(values), strict=True):
        parts.append(line(x.start, y.at(value), x.end, y.at(value), "grid"))
        parts.append(text(x.start - 6, y.at(value) + 4, label, class_="u", anchor="end"))
    below = y.start + 15
    for n, label in _along(chart):
        parts.append(text(x.at(n), below, label, class_="u", anchor="middle"))
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    parts.append(text(x.start - 6, below, chart.along or "round", class_="u", anchor="end"))
    return parts


def _along(chart: Chart) -> list[tuple[float, str]]:
    """Return places along the axis, and what stands there."""
    if not chart.along:
        return [(n, f"{n:,}") for n in round_ticks(int(chart.rounds), 6)]
    values = ticks(0, chart.rounds, 6)[1:]
    return list(zip(values, tick_labels(values), strict=True))


def _hits(frame: _Frame, series: Sequence[Series]) -> list[Drawn]:
    """Return a box per evaluated round that tells the values to a resting pointer."""
    rounds = sorted({x for s in series for x, _ in s.known})
    if not 1 < len(rounds) <= _MOST_HITS:
        return []
    width = (frame.x.end - frame.x.start) / max(len(rounds) - 1, 1)
    top, height = frame.y.end, frame.y.start - frame.y.end
    return [
        rect(frame.x.at(x) - width / 2, top, width, height, "hit", title=_values(series, x))
        for x in rounds
    ]


def _values(series: Sequence[Series], x: float) -> str:
    at = [(s.name, s.values[x]) for s in series if x in s.values]
    return "\n".join([f"round {x:.0f}", *(f"{name}  {value}" for name, value in at)])


def _curves(frame: _Frame, chart: Chart) -> list[Drawn]:
    """Return the lines, the main one last and so on top, each with its name at the right."""
    ends = [s.known[-1][1] for s in chart.series]
    ends += [chart.reference[1]] if chart.reference else []
    places = spread([frame.y.at(y) for y in ends], frame.y.end, frame.y.start - 6)
    order = sorted(zip(chart.series, places, strict=False), key=lambda pair: pair[0].strong)
    drawn = [_curve(frame, series, place) for series, place in order]
    return [*_reference(frame, chart.reference, places[-1]), *drawn] if chart.reference else drawn


def _reference(frame: _Frame, reference: tuple[str, float], label_y: float) -> list[Drawn]:
    y = frame.y.at(reference[1])
    mark = line(frame.x.start, y, frame.x.end, y, "mark")
    return [mark, text(frame.x.end + 10, label_y + 4, reference[0], class_="u")]


def _curve(frame: _Frame, series: Series, label_y: float) -> Drawn:
    pieces = [_thin(piece) for piece in _pieces(series)]
    paths = [
        tag("path", d=polyline([(frame.x.at(x), frame.y.at(y)) for x, y, *_ in p]), class_="curve")
        for p in pieces
    ]
    last_x, last_y = series.known[-1]
    x, y = frame.x.at(last_x), frame.y.at(last_y)
    lead = tag("path", d=polyline([(x + 3, y), (frame.x.end + 7, label_y)]), class_="lead")
    name = text(frame.x.end + 10, label_y + 4, cut(series.name), class_="name")
    dot = tag("circle", cx=x, cy=y, r=2.2, class_="dot")
    title = tag("title", series.name)
    strong = " strong" if series.strong else ""
    bands = [_band(frame, piece) for piece in pieces]
    class_ = f"series {series.class_}{strong}"
    return tag("g", title, join(bands), join(paths), lead, dot, name, class_=class_)


_Points = list[tuple[float, float, float, float]]


def _pieces(series: Series) -> list[_Points]:
    """Return the unbroken stretches of a line as (round, value, low, high)."""
    pieces: list[_Points] = [[]]
    for x, value in series.values.items():
        if value.mean is None:
            pieces.append([])
            continue
        low = value.mean if value.low is None else value.low
        high = value.mean if value.high is None else value.high
        pieces[-1].append((x, value.mean, low, high))
    return [piece for piece in pieces if piece]


def _thin(points: _Points) -> _Points:
    """Keep the lowest and the highest of each stretch, so that a long line loses no spike."""
    if len(points) <= _MOST_POINTS:
        return points
    step = -(-2 * len(points) // _MOST_POINTS)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), step):
        stretch = range(start, min(start + step, len(points)))
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _band(frame: _Frame, points: _Points) -> Drawn:
    if all(low == high for _, _, low, high in points):
        return Drawn("")
    upper = [(frame.x.at(x), frame.y.at(high)) for x, _, _, high in points]
    lower = [(frame.x.at(x), frame.y.at(low)) for x, _, low, _ in reversed(points)]
    return tag("path", d=polyline([*upper, *lower], close=True), class_="band")


def spread(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Return places near ``wanted`` that are a label apart, between ``top`` and ``bottom``."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [min(max(wanted[i], top), bottom) for i in order]
    step = min(_LABEL_STEP, (bottom - top) / max(len(wanted) - 1, 1))
    for _ in range(100):
        for i in range(len(places) - 1):
            push = max(step - (places[i + 1] - places[i]), 0) / 2
            places[i], places[i + 1] = places[i] - push, places[i + 1] + push
        places = [min(max(place, top), bottom) for place in places]
    found = [0.0] * len(wanted)
    for i, place in zip(order, _apart(places, step, bottom), strict=True):
        found[i] = place
    return found


def _apart(places: list[float], step: float, bottom: float) -> list[float]:
    """Return sorted places exactly ``step`` apart or more, the last not below ``bottom``."""
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + step)
    limit = bottom
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - step
    return places
