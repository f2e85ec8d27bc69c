"""Small functions that write SVG: tags, scales, ticks. Colours are classes of the style sheet.

Texts are escaped where a tag is made, so a drawing is safe by construction.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
CHARACTER = 6.3  # pixels of an average character of the labels, a little wide
LONGEST_LABEL = 20


class Drawn(str):
    """Markup in which every text is escaped already; templates take it as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """Return itself: Jinja's protocol for what needs no escaping."""
        return str(self)


def tag(name: str, *children: str, **attributes: str | float | None) -> Drawn:
    """Return an SVG element; ``class_`` and ``text_anchor`` lose or turn their underscores."""
    written = "".join(f' {_key(k)}="{_value(v)}"' for k, v in attributes.items() if v is not None)
    if not children:
        return Drawn(f"<{name}{written}/>")
    return Drawn(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Drawn:
    """Return parts after each other, escaping those that are not drawn yet."""
    return Drawn("".join(p if isinstance(p, Drawn) else escape(p, quote=False) for p in parts))


def svg(width: float, height: float, parts: Iterable[str], label: str) -> Drawn:
    """Return a picture that shrinks with the page; ``label`` is what a screen reader says."""
    return tag(
        "svg",
        join(parts),
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def standalone(picture: Drawn) -> str:
    """Return ``picture`` as an SVG file of its own, with its style inside."""
    style = (TEMPLATES / "drawing.css").read_text("utf-8")
    opening = '<svg xmlns="http://www.w3.org/2000/svg"'
    inside = picture.removeprefix("<svg").replace(">", f"><style>{style}</style>", 1)
    return opening + inside + "\n"


def text(x: float, y: float, words: str, *, class_: str = "t", anchor: str = "start") -> Drawn:
    """Return a label whose baseline starts, ends or is centred at (x, y)."""
    turned = None if anchor == "start" else anchor
    return tag("text", words, x=x, y=y, class_=class_, text_anchor=turned)


def rect(x: float, y: float, width: float, height: float, class_: str, *, title: str = "") -> Drawn:
    """Return a box; ``title`` is shown by a pointer that rests on it."""
    inside = (tag("title", title),) if title else ()
    return tag("rect", *inside, x=x, y=y, width=width, height=height, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Drawn:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def polyline(points: Sequence[tuple[float, float]], *, close: bool = False) -> str:
    """Return the ``d`` of a path through ``points``."""
    steps = " ".join(f"{_value(x)},{_value(y)}" for x, y in points)
    return f"M{steps}{'Z' if close else ''}" if points else ""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from ``low`` to ``high`` on pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of ``value``; what lies outside stays at the edge."""
        width = self.high - self.low
        part = (value - self.low) / width if width else 0.5
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between ``low`` and ``high``, roughly ``about`` of them."""
    width = high - low
    if not (math.isfinite(width) and width > 0):
        return [low] if math.isfinite(low) else []
    rough = width / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999), default=10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def round_ticks(last: int, about: int = 8) -> list[int]:
    """Return the numbers of the rounds that an axis names."""
    inner = sorted({int(t) for t in ticks(0, last, about) if t >= 1 and t == int(t)})
    return inner or [last]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Return tick values with as many decimals as their step needs."""
    if not values:
        return []
    step = abs(values[1] - values[0]) if len(values) > 1 else abs(values[0]) or 1.0
    largest = max(abs(v) for v in values)
    if largest >= 1e6 or step < 1e-5:
        return [f"{v:.3g}".replace("-", "−") for v in values]
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    places += round(step * 10**places, 6) % 1 != 0
    return [f"{v:,.{places}f}".replace("-", "−") for v in values]


def label_width(names: Iterable[str]) -> float:
    """Return the room that the longest of ``names`` takes, in pixels."""
    return max((min(len(n), LONGEST_LABEL) for n in names), default=0) * CHARACTER


def cut(name: str) -> str:
    """Return a label that fits; the whole name belongs into a title."""
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def _key(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return escape(value)
    return f"{value:.1f}".removesuffix(".0")
