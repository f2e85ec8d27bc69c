"""``hanse report`` and ``hanse compare``: finished runs, again and side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hanse.cli.model import Folder
from hanse.cli.results import print_results
from hanse.cli.screen import Debug, err, out, plain_table
from hanse.errors import ConfigError
from hanse.report.compare import Sheet, compare


def report_command(folder: Folder, debug: Debug = False) -> None:
    """Print what RUN came to, and write its report.html again."""
    from hanse.report.html import write_report

    path = write_report(folder)
    print_results(out(), folder, brief=True)
    err().print(f"{path} written", markup=False)


def compare_command(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    debug: Debug = False,
) -> None:
    """Lay runs side by side: what they measured, and the settings in which they differ."""
    if len(folders) < 2:
        raise ConfigError("one run has nothing beside it", hint="name two folders or more")
    found = compare(folders)
    _print(found.results, found.names)
    _print(found.settings, found.names)


def _print(sheet: Sheet, names: tuple[str, ...]) -> None:
    console = out()
    console.print(Text(sheet.title, style="bold"))
    if not sheet.rows:
        console.print(Text(sheet.nothing))
        return
    table = plain_table("", *names)
    for row in sheet.rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
