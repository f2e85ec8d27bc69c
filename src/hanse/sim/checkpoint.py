"""A run's state in one safetensors file, replaced atomically: what ``--resume`` goes on from."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hanse.core.pipeline import Kept as States
from hanse.errors import ConfigError
from hanse.sim.station import Kept
from hanse.strategies import GlobalModel

NAME = "checkpoint.safetensors"
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """The model and the server's slots, the steps' states, what clients keep, and the best so far."""

    model: GlobalModel
    states: States
    kept: Kept
    facts: dict[str, Any]
    best: NDArray[Any] | None = None

    def write(self, folder: Path, spec_hash: str) -> None:
        """Replace the checkpoint in ``folder``; it is whole at every moment."""
        tensors: Tensors = {"model": self.model.vector}
        tensors |= {f"slot/{name}": slot for name, slot in self.model.slots.items()}
        tensors |= _flat("state", self.states) | _flat("kept", self.kept)
        if self.best is not None:
            tensors["best"] = self.best
        told = {"round": self.model.round, "spec": spec_hash, **self.facts}
        copies = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        write_whole(folder / NAME, save(copies, metadata={"hanse": json.dumps(told)}))

    @staticmethod
    def read(folder: Path, spec_hash: str) -> "Checkpoint | None":
        """Return the checkpoint in ``folder``, or None; ConfigError if it is of another run."""
        path = folder / NAME
        if not path.exists():
            return None
        try:
            with safe_open(path, "np") as file:  # pyright: ignore
                told = json.loads(file.metadata()["hanse"])
                tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as error:
            raise ConfigError(
                f"{path} is not a whole checkpoint: {error}",
                hint="remove it to start again from round 1",
            ) from error
        if told.pop("spec") != spec_hash:
            raise ConfigError(
                f"{folder} holds a run with other settings",
                hint="resume with the settings it was started with, or give another --out",
            )
        slots = {n.removeprefix("slot/"): a for n, a in tensors.items() if n.startswith("slot/")}
        model = GlobalModel(told.pop("round"), tensors["model"], slots)
        states, kept = _nested("state", tensors), _nested("kept", tensors)
        return Checkpoint(model, states, kept, told, tensors.get("best"))


def _flat(prefix: str, nested: States) -> Tensors:
    return {
        f"{prefix}|{owner}|{name}": array
        for owner, named in nested.items()
        for name, array in named.items()
    }


def _nested(prefix: str, tensors: Tensors) -> Kept:
    found: Kept = {}
    for name, array in tensors.items():
        if name.startswith(f"{prefix}|"):
            _, owner, inner = name.split("|", 2)
            found.setdefault(owner, {})[inner] = array
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Write ``path`` so that it is either as it was or whole, even if the machine stops."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
