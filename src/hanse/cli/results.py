"""What a run came to, read from its folder: one table, and the places of the files."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hanse.cli.screen import plain_table
from hanse.report.folder import Folder, open_folder, table
from hanse.report.numerals import duration, measure, plural, size
from hanse.report.results import Comparison, tables
from hanse.report.series import shown

GLOSS = {
    "local": "local only",
    "federated": "federated",
    "pooled": "pooled",
}


def print_results(console: Console, summary_of: Path, *, brief: bool = False) -> None:
    """Print what the run in a folder came to; ``brief`` leaves the files out."""
    folder = open_folder(summary_of)
    console.print(Text(_said(folder)))
    first = next(iter(tables(folder)), None)
    if first is not None:
        console.print()
        console.print(comparison(first, len(folder.records)))
        for note in first.notes:
            console.print(Text(f"n/a: {note}"))
    for line in _troubles(folder):
        console.print(Text(line))
    if not brief:
        console.print(Text(_files(folder, summary_of)), soft_wrap=True)


def comparison(found: Comparison, seeds: int) -> Table:
    """Return the table of one metric: sites down, ways of training across."""
    drawn = plain_table()
    drawn.show_header = True
    spread = f", mean ± half of the 95 % interval over {seeds} seeds" if seeds > 1 else ""
    drawn.title = Text(f"{shown(found.metric)} on each site's test data{spread}", style="bold")
    drawn.title_justify = "left"
    drawn.add_column("")
    drawn.add_column("test rows", justify="right")
    for kind in found.kinds:
        drawn.add_column(GLOSS.get(kind, kind), justify="right")
    for row in found.rows:
        style = "bold" if row.is_summary else ""
        cells = [str(row.cells[k]) if k in row.cells else "n/a" for k in found.kinds]
        rows = "" if row.examples is None else f"{row.examples:,}"
        drawn.add_row(row.name, rows, *cells, style=style)
    return drawn


def _said(folder: Folder) -> str:
    """Return one sentence: rounds, time, bytes, best model."""
    result = folder.first.result
    sent = table(result, "bytes")
    seconds = sum(float(str(r.result.get("seconds") or 0)) for r in folder.records)
    rounds = plural(len(folder.first.history), "round")
    many = f" × {len(folder.records)} seeds" if len(folder.records) > 1 else ""
    said = f"{folder.name}: {rounds}{many} in {duration(seconds)}"
    up, down = sent.get("up"), sent.get("down")
    if isinstance(up, int) and isinstance(down, int):
        said += f"; {size(up)} up, {size(down)} down"
    best = table(result, "best")
    if best and not many:
        value = best.get("value")
        told = measure(value) if isinstance(value, float) else "n/a"
        said += f"; best {best.get('metric')} {told} in round {best.get('round')}"
    return said


def _troubles(folder: Folder) -> list[str]:
    """Return what went wrong in rounds that went on all the same."""
    rounds = [row for record in folder.records for row in record.history]
    aborted = [row.aborted for row in rounds if row.aborted]
    refused = [reason for row in rounds for reason in row.refused.values()]
    dropped = sum(len(row.dropped) for row in rounds)
    late = sum(len(row.late) for row in rounds)
    said = list[str]()
    if aborted:
        said.append(f"{plural(len(aborted), 'round')} aborted, the first: {aborted[0]}")
    if refused:
        said.append(f"{plural(len(refused), 'update')} refused, the first: {refused[0]}")
    if dropped or late:
        said.append(f"{plural(dropped, 'report')} lost to dropouts, {late} too late")
    return said


def _files(folder: Folder, path: Path) -> str:
    if len(folder.records) > 1:
        return f"\nReport: {path / 'report.html'}\nModels: {path}/seed-…/model.safetensors"
    digest = folder.first.digest[:12]
    return (
        f"\nReport: {path / 'report.html'}\nModel:  {path / 'model.safetensors'} (digest {digest}…)"
    )
