"""The folder that a run leaves."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from hanse.core.canonical import Json
from hanse.core.layout import Layout, Vector
from hanse.core.spec import Engine, RunSpec
from hanse.errors import ConfigError
from hanse.report.html import write_report
from hanse.report.promises import promises, to_json
from hanse.report.section import Section
from hanse.report.spent import to_json as to_spending
from hanse.sim.checkpoint import NAME
from hanse.sim.files import write_whole
from hanse.sim.result import Result
from hanse.sim.run import Run

ORIGIN = "origin.json"
LEDGER_ID = "ledger-run.txt"
"""What the run is called in a ledger of privacy, for when it goes on."""
BEGUN = (
    *("spec.json", "spec.sha256", "environment.json", "population.json", "run.toml", ORIGIN),
    *("promises.json", "privacy.json", "history.jsonl", LEDGER_ID),
)


@dataclass(frozen=True)
class Folder:
    """A run's folder: spec, history row by row, models, result."""

    path: Path

    def begin(self, run: Run, spec: RunSpec, environment: dict[str, Json], resumed: int) -> None:
        """Make the folder; keep the history up to round ``resumed``. ConfigError if it is taken."""
        if resumed == 0 and (self.path / "history.jsonl").exists():
            raise ConfigError(
                f"{self.path} holds a run already",
                hint="give another --out, or --resume to go on with it",
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make {self.path}: {error.strerror}", hint="give another --out"
            ) from error
        self._describe(spec, environment, promises(spec))
        note_origin(self.path, run.references)
        rows = self.history()[:resumed]
        self._write("history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def note_population(self, spec: RunSpec, partition: dict[str, Json] | None) -> None:
        """Write who holds what, or where that is unknown the clients' names."""
        names: list[Json] = [{"id": client} for client in spec.clients[:200]]
        self._write("population.json", json.dumps(partition or {"clients": names}, indent=1))

    def _describe(
        self, spec: RunSpec, environment: dict[str, Json], told: Iterable[Section]
    ) -> None:
        self._write("spec.json", spec.canonical)
        self._write("spec.sha256", spec.hash + "\n")
        self._write("promises.json", json.dumps(to_json(told), indent=1))
        self._write("environment.json", json.dumps(environment, indent=1))
        if spent := to_spending(spec):
            self._write("privacy.json", json.dumps(spent))

    def bring_home(
        self,
        spec: RunSpec,
        history: list[dict[str, Json]],
        models: Mapping[str, Vector],
        result: dict[str, Json],
        environment: dict[str, Json],
    ) -> None:
        """Write the folder of a run that has ended elsewhere; ``models``: file name → vector.

        ``result`` says whether it was ``simulated``: its noise is that of its seed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._describe(spec, environment, promises(spec, simulated=bool(result["simulated"])))
        self.note_population(spec, None)
        self._write("history.jsonl", "".join(json.dumps(row) + "\n" for row in history))
        for name, vector in models.items():
            save_model(self.path / name, spec.layout, vector, spec.hash)
        self._write("result.json", json.dumps(result, indent=1))
        write_report(self.path)

    def engine(self) -> Engine | None:
        """Return the engine of the run that is here; None if none has begun."""
        try:
            return json.loads((self.path / "spec.json").read_text())["engine"]
        except (OSError, ValueError, KeyError):
            return None

    def history(self) -> list[dict[str, Any]]:
        """Return the rows so far; a torn last line does not count."""
        path, rows = self.path / "history.jsonl", list[dict[str, Any]]()
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def abandon(self) -> None:
        """Remove what :meth:`begin` wrote, and the folder if nothing else is in it."""
        for name in BEGUN:
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def append(self, row: dict[str, Json]) -> None:
        """Add the row of a round."""
        with open(self.path / "history.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def settle(self) -> None:
        """Return when the rows are durable: no checkpoint and no result may be ahead of them."""
        with open(self.path / "history.jsonl", "rb") as file:
            os.fsync(file.fileno())

    def end(self, result: Result) -> None:
        """Write models and result; the checkpoint has served."""
        self.settle()
        save_model(self.path / "model.safetensors", result.layout, result.vector, result.spec_hash)
        if result.best is not None:
            best = self.path / "model.best.safetensors"
            save_model(best, result.layout, result.best.vector, result.spec_hash)
        self._write("result.json", json.dumps(result.json(), indent=1))
        (self.path / NAME).unlink(missing_ok=True)
        write_report(self.path)

    def _write(self, name: str, text: str) -> None:
        write_whole(self.path / name, text.encode())


def note_origin(folder: Path, references: Mapping[str, str]) -> None:
    """Keep a copy of the run file in ``folder``, and where it is."""
    source = references.get("run_file")
    if source and Path(source).exists():
        write_whole(folder / "run.toml", Path(source).read_bytes())
        told = {"run_file": source, "overrides": json.loads(references.get("overrides", "[]"))}
        write_whole(folder / ORIGIN, json.dumps(told).encode())


def save_model(path: Path, layout: Layout, vector: Vector, spec_hash: str) -> None:
    """Write the tensors of ``vector`` by name, in the safetensors format."""
    tensors = {n: np.ascontiguousarray(v) for n, v in layout.views(vector).items()}
    write_whole(path, save(tensors, metadata={"format": "pt", "spec": spec_hash}))
