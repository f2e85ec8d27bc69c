"""Who took part: a strip per site over the rounds, or bars per round where there are many."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from hanse.report.draw import (
    Drawn,
    Scale,
    cut,
    label_width,
    line,
    polyline,
    rect,
    round_ticks,
    svg,
    tag,
    text,
    tick_labels,
    ticks,
)
from hanse.report.folder import Record, Round
from hanse.report.numerals import plural, spans

STATES = ("counted", "late", "dropped", "refused")
MOST_STRIPS = 60
MOST_LISTED = 40
MOST_NAMED = 12
_WIDTH, _STRIP, _BARS = 980.0, 15.0, 180.0
_HEIGHTS = {"counted": 7.0, "late": 11.0, "dropped": 7.0, "refused": 11.0}


@dataclass(frozen=True, slots=True)
class Absence:
    """Updates that were not counted for one reason."""

    state: str
    reason: str
    updates: int
    clients: str


def not_counted(row: Round, state: str) -> Mapping[str, str]:
    """Return client → reason of those who were ``late``, ``dropped`` or ``refused``."""
    return {"late": row.late, "dropped": row.dropped}.get(state, row.refused)


def by_state(row: Round) -> dict[str, Sequence[str]]:
    """Return the clients of a round by what became of their reports."""
    others = {state: [*not_counted(row, state)] for state in STATES[1:]}
    return {"counted": row.counted, **others}


def totals(records: Sequence[Record]) -> dict[str, int]:
    """Return how many reports came to each state, over all rounds and seeds."""
    found: dict[str, int] = dict.fromkeys(STATES, 0)
    for record in records:
        for row in record.history:
            for state, clients in by_state(row).items():
                found[state] += len(clients)
    return found


def aborted(record: Record) -> dict[int, str]:
    """Return round → reason of the rounds that were aborted."""
    return {row.number: row.aborted for row in record.history if row.aborted}


def absences(records: Sequence[Record]) -> list[Absence]:
    """Return what was not counted and why, refusals first, the most frequent reasons first."""
    found = dict[tuple[str, str], Counter[str]]()
    for record in records:
        for row in record.history:
            for state in ("refused", "dropped", "late"):
                for client, reason in not_counted(row, state).items():
                    found.setdefault((state, reason), Counter())[client] += 1
    order = sorted(found, key=lambda key: (key[0] != "refused", -found[key].total(), key))
    listed = [Absence(*key, found[key].total(), _names(found[key])) for key in order]
    if len(listed) <= MOST_LISTED:
        return listed
    rest = sum(each.updates for each in listed[MOST_LISTED:])
    more = f"{plural(len(listed) - MOST_LISTED, 'more reason')} in history.jsonl"
    return [*listed[:MOST_LISTED], Absence("", more, rest, "")]


def _names(clients: Counter[str]) -> str:
    """Return the clients and how often each, the most frequent first."""
    order = sorted(clients, key=lambda client: (-clients[client], client))
    named = [f"{c} ({clients[c]})" if clients[c] > 1 else c for c in order[:MOST_NAMED]]
    more = len(order) - MOST_NAMED
    return ", ".join(named) + (f" and {plural(more, 'other')}" if more > 0 else "")


def picture(record: Record) -> Drawn | None:
    """Return the picture of who took part, None where no history tells."""
    if not record.history:
        return None
    clients = {c for row in record.history for who in by_state(row).values() for c in who}
    if not clients:
        return None
    return _strips(record, sorted(clients)) if len(clients) <= MOST_STRIPS else _bars(record)


def _strips(record: Record, clients: Sequence[str]) -> Drawn:
    states = _grid(record, clients)
    left = label_width(clients) + 12
    scale = Scale(0.5, _last(record) + 0.5, left, _WIDTH - 14)
    bottom = len(clients) * _STRIP + 4
    parts = list[Drawn]()
    for i, client in enumerate(clients):
        middle = i * _STRIP + _STRIP / 2 + 2
        parts.append(text(left - 8, middle + 4, cut(client), anchor="end"))
        parts += _strip(scale, middle, client, states[i])
    parts += _aborts(record, scale, 0, bottom)
    parts += _round_axis(scale, _last(record), bottom)
    return svg(_WIDTH, bottom + 22, parts, "who took part in which round")


def _grid(record: Record, clients: Sequence[str]) -> NDArray[np.int8]:
    """Return an index of STATES per client and round, −1 where a client was not asked."""
    place = {client: i for i, client in enumerate(clients)}
    states = np.full((len(clients), _last(record) + 1), -1, dtype=np.int8)
    for row in record.history:
        for code, state in enumerate(STATES):
            for client in by_state(row)[state]:
                states[place[client], row.number] = code
    return states


def _strip(scale: Scale, middle: float, client: str, states: NDArray[np.int8]) -> list[Drawn]:
    """Return one box per unbroken stretch; what is not counted lies on top, and is never thin."""
    stretches, at = list[tuple[int, int, int]](), 0
    for code, group in groupby(states.tolist()):
        length = len(list(group))
        stretches.append((code, at, at + length - 1))
        at += length
    known = sorted((s for s in stretches if s[0] >= 0), key=lambda s: s[0])
    return [_box(scale, middle, client, STATES[code], a, b) for code, a, b in known]


def _box(scale: Scale, middle: float, client: str, state: str, first: int, last: int) -> Drawn:
    x, end = scale.at(first - 0.5), scale.at(last + 0.5)
    gap = 1.0 if (end - x) / (last - first + 1) > 6 else 0.0
    width, height = max(end - x - gap, 1.6), _HEIGHTS[state]
    title = f"{client}: {state}, round {spans([first])}" + (f"–{last}" if last > first else "")
    return rect(x, middle - height / 2, width, height, state, title=title)


def _bars(record: Record) -> Drawn:
    """Return the number of clients per round and state, stacked."""
    counts = np.zeros((_last(record) + 1, len(STATES)), dtype=np.int64)
    for row in record.history:
        counts[row.number] = [len(by_state(row)[state]) for state in STATES]
    heights = counts.cumsum(axis=1)
    most = max(int(heights.max()), 1)
    x = Scale(0.5, _last(record) + 0.5, 48, _WIDTH - 14)
    y = Scale(0, most, _BARS, 22)
    parts = _client_axis(x, y, most)
    for code in reversed(range(len(STATES))):
        path = polyline(_outline(x, y, heights[1:, code].tolist()), close=True)
        parts.append(tag("path", d=path, class_=STATES[code]))
    parts += _aborts(record, x, y.end, y.start)
    parts += _round_axis(x, _last(record), _BARS)
    return svg(_WIDTH, _BARS + 22, parts, "how many clients took part in each round")


def _outline(x: Scale, y: Scale, heights: Sequence[int]) -> list[tuple[float, float]]:
    """Return the corners of a step curve, equal neighbours joined."""
    points, at = [(x.start, y.start)], 1
    for height, group in groupby(heights):
        length = len(list(group))
        level = y.at(height)
        points += [(x.at(at - 0.5), level), (x.at(at + length - 0.5), level)]
        at += length
    return [*points, (x.end, y.start)]


def _client_axis(x: Scale, y: Scale, most: int) -> list[Drawn]:
    values = [v for v in ticks(0, most, 4) if v == int(v)]
    parts = [text(0, 10, "clients", class_="u")]
    for value, label in zip(values, tick_labels(values), strict=True):
        parts.append(line(x.start, y.at(value), x.end, y.at(value), "grid"))
        parts.append(text(x.start - 6, y.at(value) + 4, label, class_="u", anchor="end"))
    return parts


def _aborts(record: Record, scale: Scale, top: float, bottom: float) -> list[Drawn]:
    parts = list[Drawn]()
    for number, reason in aborted(record).items():
        x = scale.at(number)
        mark = tag("path", d=f"M{x:.1f},{top:.1f}V{bottom + 4:.1f}")
        parts.append(tag("g", tag("title", f"round {number} aborted: {reason}"), mark))
    return [tag("g", *parts, class_="abort")] if parts else []


def _round_axis(scale: Scale, last: int, bottom: float) -> list[Drawn]:
    parts = [line(scale.start, bottom + 2, scale.end, bottom + 2, "axis")]
    for n in round_ticks(last, 10):
        parts.append(text(scale.at(n), bottom + 16, f"{n:,}", class_="u", anchor="middle"))
    return [*parts, text(scale.start - 8, bottom + 16, "round", class_="u", anchor="end")]


def _last(record: Record) -> int:
    return max(row.number for row in record.history)


def in_words(found: Mapping[str, int]) -> str:
    """Say what became of the updates that were asked for."""
    asked = sum(found.values())
    if asked == found["counted"]:
        return f"All {plural(asked, 'update')} that were asked for were counted."
    names = {"late": "came late", "dropped": "dropped out", "refused": "refused"}
    lost = [f"{found[s]:,} {name}" for s, name in names.items() if found[s]]
    return (
        f"Of {plural(asked, 'update')} asked for, {found['counted']:,} were counted; "
        f"{', '.join(lost)}."
    )
