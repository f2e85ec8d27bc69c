"""A deployed run brought home: the folder that a simulation of it would have left."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanse.core.canonical import Json
from hanse.net.account import fetch
from hanse.net.client import Connection
from hanse.report.environment import environment
from hanse.sim.output import Folder
from hanse.sim.result import result_json


def bring_home(line: Connection, id: str, out: Path) -> dict[str, Json]:
    """Download a run into ``out``, as a simulation would have left it; return its result."""
    out.mkdir(parents=True, exist_ok=True)
    found = fetch(line, id, out)
    spec = found.read.spec
    rows = [{"evaluation": None, "central": None, "seconds": 0.0, **row} for row in found.history]
    best: Any = found.best
    digest = spec.layout.digest(found.vector)
    seconds = _seconds(found.events)
    result = {**result_json(spec, digest, rows, best), "seconds": seconds, "out": str(out)}
    result["id"] = id
    models = {"model.safetensors": found.vector}
    if found.best_vector is not None:
        models["model.best.safetensors"] = found.best_vector
    (out / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in found.events))
    Folder(out).bring_home(spec, rows, models, result, environment())
    return result


def _seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """Return how long the run took, from its first event to its end."""
    ends = [event["at"] for event in events if event["kind"] == "concluded"] or [events[-1]["at"]]
    return float(ends[0]) - float(events[0]["at"])
