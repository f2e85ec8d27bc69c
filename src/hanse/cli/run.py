"""``hanse run``: simulate a run file, and show it as it goes."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hanse.cli.explain import Assignments, RunFilePath
from hanse.cli.results import print_results
from hanse.cli.rounds import Lines, Screen
from hanse.cli.screen import INTERRUPTED, Debug, err, out
from hanse.config.parse import parse
from hanse.errors import ConfigError
from hanse.sim.crew import BackendName
from hanse.sim.repeat import fresh, repeat, unfinished
from hanse.sim.spending import Budget


def run_command(
    run_file: RunFilePath,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Processes; the result is the same."),
    ] = None,
    backend: Annotated[
        BackendName | None,
        typer.Option("--backend", help="Where workers run: processes here, or a Ray cluster."),
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", help="Override the rounds.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Override the seed.")] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="K", help="Repeat with K seeds, from the run's own.")
    ] = 1,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also train local-only and pooled models.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write to: runs/NAME-TIME by default."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run in DIR, or the newest.")
    ] = False,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", metavar="FILE", help="Add up the privacy that runs spend there."),
    ] = None,
    most: Annotated[
        float | None,
        typer.Option("--max-epsilon", metavar="E", help="What all runs in the ledger may spend."),
    ] = None,
    drop: Annotated[
        bool,
        typer.Option("--drop", help="Leave out of a round whose data or training raises."),
    ] = False,
    assignments: Assignments = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the end only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object only.")] = False,
    debug: Debug = False,
) -> None:
    """Simulate the federation that RUN.toml describes, on this machine or on a cluster."""
    chosen = [*(assignments or ())]
    chosen += [] if rounds is None else [f"rounds={rounds}"]
    chosen += [] if seed is None else [f"seed={seed}"]
    console = out()
    screen = Screen(console, seeds, baselines=baselines)
    view = screen if console.is_terminal else Lines(console, seeds, baselines=baselines)
    path = folder
    try:
        file = parse(run_file, chosen)
        run = replace(file.load(), on_error="drop" if drop else "fail")
        path = folder or (unfinished(file.name) if resume else fresh(file.name))
        summary = repeat(
            run,
            range(run.seed, run.seed + seeds),
            out=path,
            baselines=baselines,
            workers=workers,
            backend=backend,
            resume=resume,
            callbacks=() if quiet or as_json else (view,),
            budget=_budget(ledger, most),
        )
    except KeyboardInterrupt:
        screen.close()
        where = [] if workers is None else ["--workers", str(workers)]
        where += [] if backend is None else ["--backend", backend]
        where += [] if ledger is None else ["--ledger", str(ledger)]
        where += [] if most is None else ["--max-epsilon", str(most)]
        _say_how_to_go_on(run_file, path, chosen, where, seeds, baselines=baselines, drop=drop)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        screen.close()
    if as_json:
        print(json.dumps(summary.results[0] if seeds == 1 else summary.json()))
    else:
        print_results(console, path)


def _budget(ledger: Path | None, most: float | None) -> Budget | None:
    if ledger is None:
        if most is not None:
            raise ConfigError("--max-epsilon caps nothing by itself", hint="give --ledger FILE too")
        return None
    return Budget(ledger, most)


def _say_how_to_go_on(
    run_file: Path,
    path: Path | None,
    chosen: list[str],
    where: list[str],
    seeds: int,
    *,
    baselines: bool,
    drop: bool,
) -> None:
    if path is None or not path.exists():
        err().print("Interrupted before the first round.")
        return
    words = ["hanse", "run", str(run_file)]
    words += [word for assignment in chosen for word in ("--set", assignment)]
    words += where
    words += [] if seeds == 1 else ["--seeds", str(seeds)]
    words += ["--baselines"] if baselines else []
    words += ["--drop"] if drop else []
    again = shlex.join([*words, "--out", str(path), "--resume"])
    err().print(f"Interrupted. Go on with: {again}", markup=False)
