"""A run's folder as the model that it left, together with the task that it is a model of.

The folder holds numbers only; the model's code is the user's. Where that is found is noted beside
the numbers (``origin.json``), so that ``hanse predict`` needs the folder alone.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType] -- partial stubs

from hanse.config.parse import parse
from hanse.config.runfile import RunFile
from hanse.core.layout import Layout, Vector
from hanse.errors import ConfigError
from hanse.sim.output import ORIGIN
from hanse.sim.run import Run


@dataclass(frozen=True)
class Trained:
    """A model's flat ``vector``, and the run that it comes from."""

    file: RunFile
    run: Run
    vector: Vector

    @property
    def model(self) -> Any:
        """The framework's own model, ready to use."""
        return self.run.task.build(self.vector)


def open_trained(folder: Path, *, best: bool = False, run_file: Path | None = None) -> Trained:
    """Return the last model of the run in ``folder``, or its ``best``; imports the user's task.

    ``run_file`` is for a run file that has moved since. Raises ConfigError for a folder without a
    model, and for a model that does not fit the task any more.
    """
    path = folder / ("model.best.safetensors" if best else "model.safetensors")
    if not path.exists():
        raise ConfigError(f"there is no {path}", hint=_instead(folder, best=best))
    file = _run_file(folder, run_file)
    run = file.load()
    try:
        tensors: Any = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} is not a whole safetensors file: {error}", hint="run again"
        ) from error
    layout = run.described[0]
    _check_fit(layout, {name: tensor.shape for name, tensor in tensors.items()}, path, file)
    return Trained(file, run, layout.pack(tensors))


def run_of(folder: Path, run_file: Path | None = None, more: Iterable[str] = ()) -> Run:
    """Return the run that left ``folder``, from its run file; imports the user's task.

    ``more`` are assignments beside those that the folder names.
    """
    file = _run_file(folder, run_file)
    return parse(file.path, (*file.overrides, *more)).load()


def _instead(folder: Path, *, best: bool) -> str:
    seeds = sorted(path.name for path in folder.glob("seed-*"))
    if seeds:
        return f"name the folder of one seed: {folder / seeds[0]}"
    if best and (folder / "model.safetensors").exists():
        return "leave out --best: no model of this run was evaluated"
    return "name the folder of a run that has ended, such as runs/heart-20260102-030405"


def _run_file(folder: Path, moved: Path | None) -> RunFile:
    said, overrides = _origin(folder)
    path = moved or said
    if path is None:
        raise ConfigError(
            f"{folder} does not say which run file it comes from",
            hint="name it: --run-file RUN.toml; its task knows what the model is",
        )
    if not path.is_file():
        raise ConfigError(
            f"the run file of {folder} is not at {path}",
            hint="name where it is now: --run-file RUN.toml",
        )
    return parse(path, overrides)


def _origin(folder: Path) -> tuple[Path | None, list[str]]:
    try:
        origin: Any = json.loads((folder / ORIGIN).read_text())
        return Path(origin["run_file"]), list(origin["overrides"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, []


def _check_fit(
    layout: Layout, shapes: dict[str, tuple[int, ...]], path: Path, file: RunFile
) -> None:
    wanted = {entry.name: entry.shape for entry in layout.entries}
    for name in [*wanted, *shapes]:
        if wanted.get(name) != shapes.get(name):
            raise ConfigError(
                f"{path} does not fit {file.task}: {name} is {shapes.get(name, 'missing')} in the "
                f"file and {wanted.get(name, 'missing')} in the task",
                hint="the task has changed since the run: undo that, or run again",
            )
