"""A deployed run brought home: the folder that a simulation of it would have left."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanse.core.canonical import Json
from hanse.errors import ConfigError
from hanse.net.account import fetch
from hanse.net.client import Connection
from hanse.report.environment import environment
from hanse.sim.output import Folder
from hanse.sim.result import result_json


def bring_home(line: Connection, id: str, out: Path) -> dict[str, Json]:
    """Download a run into ``out``, as a simulation would have left it; return its result.

    Its ``outcome`` is None where the run goes on: the model is then that of the last whole round.
    ConfigError if ``out`` holds another run; what fails leaves no folder behind.
    """
    if (out / "history.jsonl").exists() and _id_of(out) != id:
        raise ConfigError(f"{out} holds another run already", hint="give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=out.parent) as into:
        found = fetch(line, id, Path(into))
    out.mkdir(parents=True, exist_ok=True)
    spec = found.read.spec
    rows = [{"evaluation": None, "central": None, "seconds": 0.0, **row} for row in found.history]
    best: Any = found.best
    digest = spec.layout.digest(found.vector)
    seconds = _seconds(found.events)
    result = {**result_json(spec, digest, rows, best), "seconds": seconds, "out": str(out)}
    result |= {"id": id, "outcome": found.outcome, "rounds_done": len(rows)}
    result["simulated"] = found.simulated
    models = {"model.safetensors": found.vector}
    if found.best_vector is not None:
        models["model.best.safetensors"] = found.best_vector
    (out / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in found.events))
    Folder(out).bring_home(spec, rows, models, result, environment())
    return result


def _id_of(out: Path) -> str:
    """Return the id of the deployed run in a folder, or nothing."""
    try:
        told: Any = json.loads((out / "result.json").read_text())
        return str(told.get("id", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """Return how long the run took, from its first event to its end."""
    ends = [event["at"] for event in events if event["kind"] == "concluded"] or [events[-1]["at"]]
    return float(ends[0]) - float(events[0]["at"])
