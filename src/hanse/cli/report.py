"""``hanse report`` and ``hanse compare``: finished runs, again and side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hanse.cli.model import Folder
from hanse.cli.results import print_results
from hanse.cli.screen import Debug, err, out, plain_table
from hanse.report.compare import compare, write_comparison
from hanse.report.html import write_report


def report_command(folder: Folder, debug: Debug = False) -> None:
    """Print what RUN came to, and write its report.html again."""
    path = write_report(folder)
    print_results(out(), folder, brief=True)
    err().print(f"{path} written", markup=False)


def compare_command(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    target: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="Also write it, with curves, as HTML."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Lay runs side by side: the settings in which they differ, and what they measured."""
    found = compare(folders)
    head, *rows = found.rows()
    table = plain_table(*head)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out().print(table)
    if found.is_same_model:
        out().print("The models are equal, bit for bit.")
    if target is not None:
        err().print(f"{write_comparison(folders, target)} written", markup=False)
