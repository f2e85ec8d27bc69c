"""Dots with whiskers on a scale that the rows of a table share."""

from collections.abc import Mapping, Sequence

from hanse.report.draw import Drawn, Scale, line, svg, tag, text, tick_labels, ticks
from hanse.report.numerals import Interval

KINDS = ("local", "federated", "pooled")
_WIDTH, _ROW, _AXIS = 300.0, 36.0, 18.0


def scale_of(values: Mapping[str, Mapping[str, Interval]]) -> Scale:
    """Return the scale that holds all means and intervals."""
    cells = [cell for kinds in values.values() for cell in kinds.values()]
    ends = [v for c in cells for v in (c.mean, c.low, c.high) if v is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    room = (high - low) * 0.06 or 0.05
    return Scale(low - room, high + room, 14, _WIDTH - 14)


def axis(scale: Scale) -> Drawn:
    """Return the numbers of the scale, for the head of the column."""
    values = ticks(scale.low, scale.high, 4)
    parts = [
        text(scale.at(v), _AXIS - 4, label, class_="u", anchor="middle")
        for v, label in zip(values, tick_labels(values), strict=True)
    ]
    return svg(_WIDTH, _AXIS, parts, "scale")


def plot(scale: Scale, kinds: Sequence[str], cells: Mapping[str, Interval]) -> Drawn:
    """Return the dots of a row over the lines of the scale, a line of dots per kind."""
    grid = ticks(scale.low, scale.high, 4)
    parts = [line(scale.at(v), 0, scale.at(v), _ROW, "grid") for v in grid]
    step = _ROW / (len(kinds) + 1)
    for i, kind in enumerate(kinds, 1):
        if kind in cells:
            parts += _mark(scale, kind, cells[kind], i * step)
    said = ", ".join(f"{k} {cells[k]}" for k in kinds if k in cells)
    return svg(_WIDTH, _ROW, parts, said)


def glyph(kind: str, x: float, y: float) -> Drawn:
    """Return the mark of a kind; shapes differ, so that colours need not be told apart."""
    if kind == "local":
        return tag("circle", cx=x, cy=y, r=3.4, class_="hollow local")
    if kind == "federated":
        return tag("circle", cx=x, cy=y, r=3.8, class_="full federated")
    corners = f"M{x:.1f},{y - 4.4:.1f}l4.4,4.4l-4.4,4.4l-4.4,-4.4Z"
    return tag("path", d=corners, class_="hollow pooled")


def glyphs() -> dict[str, Drawn]:
    """Return the marks for the head of a table."""
    return {kind: svg(12, 12, [glyph(kind, 6, 6)], kind) for kind in KINDS}


def _mark(scale: Scale, kind: str, value: Interval, y: float) -> list[Drawn]:
    if value.mean is None:
        return []
    x, parts = scale.at(value.mean), list[Drawn]()
    if value.low is not None and value.high is not None:
        ends = scale.at(value.low), scale.at(value.high)
        parts.append(line(ends[0], y, ends[1], y, f"whisker {kind}"))
    return [*parts, glyph(kind, x, y)]
