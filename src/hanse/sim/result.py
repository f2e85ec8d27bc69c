"""What a simulation returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.core.canonical import Json
from hanse.core.layout import Layout, Vector
from hanse.core.spec import RunSpec
from hanse.train.local import Task


@dataclass(frozen=True)
class Best:
    """The best model so far by one metric of its evaluation."""

    round: int
    metric: str
    value: float
    vector: Vector

    def json(self) -> dict[str, Json]:
        """Return which round it was, and by what."""
        return {"round": self.round, "metric": self.metric, "value": self.value}


@dataclass(frozen=True)
class Result:
    """A run that has ended. ``history`` has one row per round; ``out`` is its folder, if any."""

    task: Task
    spec: RunSpec
    vector: Vector
    history: list[dict[str, Json]]
    seconds: float
    best: Best | None = None
    out: Path | None = None

    @property
    def layout(self) -> Layout:
        """Where each tensor stands in ``vector``."""
        return self.spec.layout

    @property
    def model(self) -> Any:
        """The framework's own model with the final parameters, ready to use."""
        return self.task.build(self.vector)

    @property
    def parameters(self) -> dict[str, NDArray[Any]]:
        """Name → array of the final model, buffers included."""
        return {name: view.copy() for name, view in self.layout.views(self.vector).items()}

    @property
    def best_parameters(self) -> dict[str, NDArray[Any]] | None:
        """Name → array of the best model by the run's metric, if it was evaluated."""
        if self.best is None:
            return None
        return {name: view.copy() for name, view in self.layout.views(self.best.vector).items()}

    @property
    def model_digest(self) -> str:
        """SHA-256 over the final parameters: equal digests are equal models, bit for bit."""
        return self.layout.digest(self.vector)

    @property
    def spec_hash(self) -> str:
        """SHA-256 of the run's canonical spec."""
        return self.spec.hash

    def json(self) -> dict[str, Json]:
        """Return the one object that ``hanse run --json`` prints."""
        best = None if self.best is None else self.best.json()
        out = None if self.out is None else str(self.out)
        told = result_json(self.spec, self.model_digest, self.history, best)
        told["simulated"] = True
        return {**told, "simulated": True, "seconds": self.seconds, "out": out}


def result_json(
    spec: RunSpec, model_digest: str, history: list[dict[str, Json]], best: Json
) -> dict[str, Json]:
    """Return what a run came to, as one object."""
    found: Any = _last(history, "evaluation") or {"pooled": {}, "sites": {}}
    sent: list[Any] = [row["bytes"] for row in history]
    return {
        "run": spec.name,
        "spec_hash": spec.hash,
        "model_digest": model_digest,
        "engine": spec.engine,
        "rounds": spec.rounds,
        "seed": spec.seed,
        "metrics": found["pooled"],
        "sites": found["sites"],
        "central": _last(history, "central"),
        "best": best,
        "bytes": {way: int(np.sum([row[way] for row in sent])) for way in ("up", "down")},
    }


def _last(history: list[dict[str, Json]], kind: str) -> Json:
    """Return the newest measurement of a kind, or None."""
    return next((row[kind] for row in reversed(history) if row.get(kind)), None)
