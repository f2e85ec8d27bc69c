"""Who holds what: rows and label counts per client, as far as a simulation may tell them."""

from collections.abc import Sequence
from dataclasses import dataclass

from hanse.report.draw import Drawn, Scale, cut, label_width, line, rect, svg, tag, text
from hanse.report.folder import Record, Table, number, rows, table, whole_number, words
from hanse.report.numerals import plural, whole

MOST_ROWS = 60
STACKED_CLASSES = 4
_WIDTH, _ROW, _CELL, _STRIP = 980.0, 18.0, 14.0, 60.0


@dataclass(frozen=True, slots=True)
class Client:
    """One client's number of rows, and of rows per class (or none)."""

    id: str
    n: int
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Partition:
    """What ``population.json`` tells."""

    clients: int
    rows: int
    classes: Sequence[str]
    sizes: Table
    parts: Sequence[Client]

    @property
    def in_words(self) -> str:
        """Say how many rows there are, and how unequal the clients are."""
        text = f"{plural(self.rows, 'row')} at {plural(self.clients, 'client')}"
        low, middle, high = (number(self.sizes.get(k)) for k in ("min", "median", "max"))
        if low is None or high is None or self.clients < 2:
            return text + "."
        if low == high:
            return f"{text}, {whole(low)} each."
        return f"{text}: from {whole(low)} to {whole(high)} each, median {whole(middle)}."

    @property
    def is_cut(self) -> bool:
        """Whether not every client is in the picture."""
        return len(self.parts) < self.clients


def read(record: Record) -> Partition | None:
    """Return the partition, None where the folder does not tell how many rows a client has."""
    found = record.population
    listed = rows(found.get("parts")) or rows(found.get("clients"))
    parts = [_client(table(each)) for each in listed]
    total = sum(part.n for part in parts)
    if not total:
        return None
    return Partition(
        clients=whole_number(found.get("clients")) or len(parts),
        rows=whole_number(found.get("rows")) or total,
        classes=[words(name) for name in rows(found.get("classes"))],
        sizes=table(found, "sizes") or _sizes(parts),
        parts=parts,
    )


def picture(partition: Partition) -> Drawn:
    """Return a row per client, or a column where there are many."""
    if len(partition.parts) > MOST_ROWS:
        return _columns(partition)
    return _matrix(partition) if is_shaded(partition) else _stacks(partition)


def is_shaded(partition: Partition) -> bool:
    """Whether the picture shows classes as shaded cells."""
    many = len(partition.parts) > MOST_ROWS and bool(partition.classes)
    return many or len(partition.classes) > STACKED_CLASSES


def _client(found: Table) -> Client:
    counts = [whole_number(c) or 0 for c in rows(found.get("counts"))]
    return Client(words(found.get("id")), whole_number(found.get("n")) or 0, counts)


def _sizes(parts: Sequence[Client]) -> Table:
    sizes = sorted(part.n for part in parts)
    return {"min": sizes[0], "median": sizes[len(sizes) // 2], "max": sizes[-1]}


def _stacks(partition: Partition) -> Drawn:
    """Return a bar per client, cut into its classes."""
    left = label_width(part.id for part in partition.parts) + 12
    most = max(part.n for part in partition.parts)
    scale = Scale(0, max(most, 1), left, _WIDTH - 70)
    parts, top = _key(partition.classes, left)
    for i, client in enumerate(partition.parts):
        y = top + i * _ROW
        parts.append(text(left - 8, y + 12, cut(client.id), anchor="end"))
        parts += _stack(scale, y + 2, client, partition.classes)
        parts.append(text(scale.at(client.n) + 6, y + 12, whole(client.n), class_="u"))
    return svg(_WIDTH, top + len(partition.parts) * _ROW + 4, parts, "rows per client and class")


def _stack(scale: Scale, y: float, client: Client, classes: Sequence[str]) -> list[Drawn]:
    if not client.counts:
        return [rect(scale.start, y, scale.at(client.n) - scale.start, _ROW - 5, "bar")]
    boxes, before = list[Drawn](), 0
    for k, count in enumerate(client.counts[: len(classes)]):
        x, end = scale.at(before), scale.at(before + count)
        title = f"{client.id}: {whole(count)} × {classes[k]}"
        if count:
            boxes.append(rect(x, y, max(end - x - 0.8, 0.5), _ROW - 5, f"k{k}", title=title))
        before += count
    return boxes


def _key(classes: Sequence[str], left: float) -> tuple[list[Drawn], float]:
    """Return the names of the classes beside their colours, and the room they take."""
    if not classes:
        return [], 2
    parts, x = list[Drawn](), left
    for k, name in enumerate(classes):
        parts.append(rect(x, 3, 10, 10, f"k{k}"))
        parts.append(text(x + 15, 12, cut(name), class_="u"))
        x += 30 + label_width([name])
    return parts, 22


def _matrix(partition: Partition) -> Drawn:
    """Return a cell per client and class, as dark as the class's share of the client's rows."""
    left = label_width(part.id for part in partition.parts) + 12
    width = min((_WIDTH - left - 240) / max(len(partition.classes), 1), 40)
    right = left + width * len(partition.classes) + 16
    scale = Scale(0, max(max(p.n for p in partition.parts), 1), right, _WIDTH - 60)
    top = 18.0
    parts = [
        text(left + (k + 0.5) * width, top - 6, cut(name)[:6], class_="u", anchor="middle")
        for k, name in enumerate(partition.classes)
    ]
    parts.append(text(right, top - 6, "rows", class_="u"))
    for i, client in enumerate(partition.parts):
        y = top + i * _ROW
        parts.append(text(left - 8, y + 12, cut(client.id), anchor="end"))
        parts += [
            _cell(client, k, name, (left + k * width, y, width - 1, _ROW - 1))
            for k, name in enumerate(partition.classes)
        ]
        parts.append(rect(right, y + 3, scale.at(client.n) - right, _ROW - 7, "bar"))
        parts.append(text(scale.at(client.n) + 6, y + 12, whole(client.n), class_="u"))
    return svg(_WIDTH, top + len(partition.parts) * _ROW + 4, parts, "classes per client")


def _cell(client: Client, k: int, name: str, box: tuple[float, float, float, float]) -> Drawn:
    count = client.counts[k] if k < len(client.counts) else 0
    share = count / client.n if client.n else 0.0
    title = tag("title", f"{client.id}: {whole(count)} × {name}")
    x, y, width, height = box
    return tag(
        "rect",
        title,
        x=x,
        y=y,
        width=width,
        height=height,
        class_="heat",
        fill_opacity=f"{0.04 + 0.96 * share:.2f}",
    )


def _columns(partition: Partition) -> Drawn:
    """Return a bar per client for its rows, and below it a cell per class."""
    most = max(part.n for part in partition.parts)
    left = label_width([*partition.classes, "rows", whole(most)]) + 12
    width = (_WIDTH - left - 4) / len(partition.parts)
    scale = Scale(0, max(most, 1), _STRIP, 6)
    top = _STRIP + 8
    parts = [
        text(left - 8, 14, whole(most), class_="u", anchor="end"),
        text(left - 8, _STRIP, "rows", class_="u", anchor="end"),
        line(left, _STRIP, _WIDTH - 4, _STRIP, "axis"),
    ]
    for k, name in enumerate(partition.classes):
        parts.append(text(left - 8, top + k * _CELL + 11, cut(name), class_="u", anchor="end"))
    for i, client in enumerate(partition.parts):
        x, y = left + i * width, scale.at(client.n)
        title = f"{client.id}: {plural(client.n, 'row')}"
        parts.append(rect(x, y, max(width - 0.6, 0.6), _STRIP - y, "bar", title=title))
        parts += _shares(client, partition.classes, x, top, width)
    bottom = top + len(partition.classes) * _CELL
    parts.append(text(left, bottom + 14, f"clients 1–{len(partition.parts)}", class_="u"))
    return svg(_WIDTH, bottom + 20, parts, "rows and classes per client")


def _shares(
    client: Client, classes: Sequence[str], x: float, top: float, width: float
) -> list[Drawn]:
    """Return the cells of a column without titles: there are thousands."""
    return [
        tag(
            "rect",
            x=x,
            y=top + k * _CELL,
            width=width,
            height=_CELL - 1,
            class_="heat",
            fill_opacity=f"{count / client.n:.2f}",
        )
        for k, count in enumerate(client.counts[: len(classes)])
        if count
    ]
