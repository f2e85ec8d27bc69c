"""``hanse explain``: what a run promises, without running it and without torch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hanse.cli.screen import Debug, out, plain_table
from hanse.config.parse import parse
from hanse.report.explain import explain
from hanse.report.section import Section

RunFilePath = Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set local.lr=0.1"),
]


def explain_command(
    run_file: RunFilePath,
    assignments: Assignments = None,
    model: Annotated[
        bool, typer.Option("--model", help="Import the task, for exact sizes (executes app.py).")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print what RUN.toml promises: its pipeline with its facts, and who sees what.

    Nothing is run, and torch is not needed.
    """
    file = parse(run_file, assignments or ())
    for section in explain(file, file.load().spec if model else None):
        _print(section)


def _print(section: Section) -> None:
    console = out()
    console.print(Text(section.title, style="bold"))
    if section.rows:
        table = plain_table(*section.columns)
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for note in section.notes:
        console.print(Text(note))
    console.print()
