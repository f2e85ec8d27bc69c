"""``hanse explain``: what a run promises, without running it and without torch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hanse.cli.screen import Debug, out, plain_table
from hanse.config.parse import parse
from hanse.errors import ConfigError
from hanse.report.explain import explain, explain_folder
from hanse.report.folder import open_folder
from hanse.report.section import Section

RunFilePath = Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.")]
Explained = Annotated[
    Path, typer.Argument(metavar="RUN.toml|RUN", help="The run file, or the folder of a run.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set local.lr=0.1"),
]


def explain_command(
    run_file: Explained,
    assignments: Assignments = None,
    model: Annotated[
        bool, typer.Option("--model", help="Import the task, for exact sizes (executes app.py).")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print what RUN.toml promises: its pipeline with its facts, and who sees what.

    Nothing is run, and torch is not needed. Of a run's folder: what it promised, and what ε its
    rounds have come to so far.
    """
    if run_file.is_dir():
        if assignments or model:
            raise ConfigError(
                f"{run_file} is a run's folder: nothing in it can be set any more",
                hint="explain the run file with --set or --model",
            )
        for section in explain_folder(open_folder(run_file)):
            _print(section)
        return
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
