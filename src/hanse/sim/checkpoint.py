"""A run's state in one file, replaced atomically: what ``--resume`` goes on from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hanse.core.pipeline import Kept as States
from hanse.errors import ConfigError
from hanse.sim.files import Tensors, flat, nested_of, read_tensors, write_tensors
from hanse.sim.station import Kept
from hanse.strategies import GlobalModel

NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The model and the server's slots, the steps' states, what clients keep, and the best so far.

    ``facts`` is JSON beside them.
    """

    model: GlobalModel
    states: States
    kept: Kept
    facts: dict[str, Any]
    best: NDArray[Any] | None = None

    def write(self, folder: Path, spec_hash: str) -> None:
        """Replace the checkpoint in ``folder``; it is whole at every moment."""
        tensors: Tensors = {"model": self.model.vector}
        tensors |= flat("slot", {"": self.model.slots})
        tensors |= flat("state", self.states) | flat("kept", self.kept)
        if self.best is not None:
            tensors["best"] = self.best
        told = {"round": self.model.round, "spec": spec_hash, **self.facts}
        write_tensors(folder / NAME, tensors, told)

    @staticmethod
    def read(folder: Path, spec_hash: str) -> "Checkpoint | None":
        """Return the checkpoint in ``folder``, or None; ConfigError if it is of another run."""
        if not (folder / NAME).exists():
            return None
        tensors, told = read_tensors(folder / NAME)
        if told.pop("spec") != spec_hash:
            raise ConfigError(
                f"{folder} holds a run with other settings or other code",
                hint="resume with the settings and code it was started with, or give another --out",
            )
        slots = nested_of("slot", tensors).get("", {})
        model = GlobalModel(told.pop("round"), tensors["model"], slots)
        states, kept = nested_of("state", tensors), nested_of("kept", tensors)
        return Checkpoint(model, states, kept, told, tensors.get("best"))
