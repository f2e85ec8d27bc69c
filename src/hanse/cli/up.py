"""``hanse up``: a run file deployed on this machine, with real processes and real TLS."""

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from hanse.cli.explain import Assignments, RunFilePath
from hanse.cli.results import print_results
from hanse.cli.rounds import Lines, Screen
from hanse.cli.screen import Debug, out
from hanse.config.parse import parse
from hanse.sim.repeat import fresh
from hanse.up import up


def up_command(
    run_file: RunFilePath,
    folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write to: runs/NAME-TIME by default."),
    ] = None,
    assignments: Assignments = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the end only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object only.")] = False,
    debug: Debug = False,
) -> None:
    """Deploy RUN.toml on loopback: a coordinator and its sites as processes; the same bits."""
    file = parse(run_file, assignments or ())
    run = file.load()
    path = folder or fresh(file.name)
    console = out()
    screen = Screen(console, 1)
    view = screen if console.is_terminal else Lines(console, 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its processes end with it
    try:
        result = up(run, path, () if quiet or as_json else (view,))
    finally:
        screen.close()
    if as_json:
        print(json.dumps(result))
    else:
        print_results(console, path)
