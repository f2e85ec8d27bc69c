"""How a worker that starts from nothing makes a run again: its run file, and what else was said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanse.errors import ConfigError
from hanse.sim.run import Run


def recipe(run: Run) -> str:
    """Return what a worker needs to make ``run`` again; ConfigError if it cannot."""
    if "run_file" not in run.references:
        raise ConfigError(
            "a worker that is spawned cannot find this run's objects",
            hint='start from a run file, or use backend="fork" with one thread per client',
        )
    told: dict[str, Any] = {
        "references": {
            **run.references,
            "run_file": str(Path(run.references["run_file"]).resolve()),
        },
        "seed": run.seed,
        "rounds": run.rounds,
    }
    told |= {"engine": run.engine, "on_error": run.on_error}
    how = json.dumps(told)
    if cook(how).spec.hash != run.spec.hash:
        raise ConfigError(
            f"a worker that starts from nothing reads {run.references['run_file']}, and this run "
            "has other settings",
            hint='write them into the run file, or use backend="fork"',
        )
    return how


def cook(how: str) -> Run:
    """Return the run that a recipe is of."""
    from hanse.config.parse import parse

    told = json.loads(how)
    overrides = json.loads(told["references"].get("overrides", "[]"))
    run = parse(Path(told.pop("references")["run_file"]), overrides).load()
    return replace(run, **told)
