"""``hanse replay``: run a recorded run again, and compare the models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hanse.cli.explain import Assignments
from hanse.cli.screen import Debug, out
from hanse.errors import ConfigError
from hanse.sim.crew import BackendName


def replay_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    run_file: Annotated[
        Path | None,
        typer.Option("--run-file", metavar="RUN.toml", help="Its run file, if it has moved."),
    ] = None,
    assignments: Assignments = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Processes.")
    ] = None,
    backend: Annotated[
        BackendName | None, typer.Option("--backend", help="Where workers run, as for hanse run.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Train RUN_DIR's run again, counting whom it counted; say whether the model is the same.

    Exits with 1 if it is not.
    """
    from hanse.sim.output import Folder
    from hanse.sim.replay import replay
    from hanse.sim.trained import run_of

    try:
        result: Any = json.loads((folder / "result.json").read_text())
        spec_hash = (folder / "spec.sha256").read_text().strip()
        engine = json.loads((folder / "spec.json").read_text())["engine"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} holds no run that has ended", hint="name the folder of one"
        ) from error
    run = replace(run_of(folder, run_file, assignments or ()), engine=engine)
    if run.spec.hash != spec_hash:
        raise ConfigError(
            f"{folder} was run with other settings or other code than {run_file or 'its run file'}",
            hint="replay with the files that it was run with",
        )
    if run.spec.bound.facts.keeps_counts and not result["simulated"]:
        raise ConfigError(
            f"the noise of {folder} came from its sites' operating systems, and was kept nowhere",
            hint="such a run cannot be replayed, by nobody: that is what its ε rests on",
        )
    found = replay(run, Folder(folder).history(), workers=workers, backend=backend)
    same = found.model_digest == result["model_digest"]
    said = "the same model" if same else "ANOTHER MODEL"
    out().print(
        Text(
            f"{said}: replayed {found.model_digest[:16]}…, recorded {result['model_digest'][:16]}…"
        ),
        soft_wrap=True,
    )
    if not same:
        raise typer.Exit(1)
