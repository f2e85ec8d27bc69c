"""What a site keeps of a run between rounds, and what it would keep once it is counted.

Only the coordinator knows whether a report was counted. Until it says so, what the client would
remember stands beside what it remembers, and both survive the process.
"""

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np

from hanse.errors import ConfigError, ProtocolError
from hanse.failpoints import Point, reach
from hanse.sim.files import Tensors, flat, nested_of, read_tensors, write_tensors
from hanse.sim.station import Kept, Station

KEPT = "kept.safetensors"
PROVISIONAL = "provisional.safetensors"


class Shelf(Protocol):
    """Where both are kept. What was written is whole and durable, or not there."""

    def read(self, name: str) -> tuple[Kept, int] | None:
        """Return what was kept as ``name`` and of which round; None if nothing is there."""
        ...

    def write(self, name: str, kept: Kept, round: int) -> None:
        """Keep it, in the place of what was there."""
        ...

    def remove(self, name: str) -> None:
        """Forget it, if it is there."""
        ...


class Folder:
    """A shelf of files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> tuple[Kept, int] | None:
        """Return what is in the file; ConfigError if the disk gives back something else."""
        if not (self.path / name).exists():
            return None
        tensors, facts = read_tensors(self.path / name)
        if facts.get("digest") != _digest(tensors, facts.get("round")):
            raise ConfigError(
                f"{self.path / name} is damaged: it is not what was written",
                hint="stop the run, and submit it again; and look after the disk",
            )
        return nested_of("kept", tensors), facts["round"]

    def write(self, name: str, kept: Kept, round: int) -> None:
        """Write the file."""
        tensors = flat("kept", kept)
        facts = {"digest": _digest(tensors, round), "round": round}
        write_tensors(self.path / name, tensors, facts)

    def remove(self, name: str) -> None:
        """Remove the file."""
        (self.path / name).unlink(missing_ok=True)


def _digest(tensors: Tensors, round: int | None) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of tensors, and of their round."""
    found = hashlib.sha256(f"{round}\n".encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


class ClientMemory:
    """The memory of one client, which its station reads and moves."""

    def __init__(self, client: str, station: Station, shelf: Shelf) -> None:
        """Give the station what is on the shelf."""
        self.client, self.station, self.shelf = client, station, shelf
        self.kept_round, self.pending = 0, 0
        if (kept := shelf.read(KEPT)) is not None:
            station.kept, self.kept_round = kept
        if (provisional := shelf.read(PROVISIONAL)) is not None:
            station.provisional, self.pending = provisional

    def trained(self, round: int) -> None:
        """Put on the shelf what the station would keep of ``round``."""
        self._write(PROVISIONAL, self.station.provisional, round)
        reach(Point.JOB_MEMORY_PROVISIONAL)
        self.pending = round

    def settle(self, counted: int) -> None:
        """Keep what was provisional, if it is of round ``counted``; a second time does nothing.

        What is provisional of another round was not counted, and the next one takes its place.
        ProtocolError if what is kept is of a later round than the coordinator knows of.
        """
        if counted < self.kept_round:
            raise ProtocolError(
                f"{self.client} remembers round {self.kept_round} of this run, and the coordinator "
                f"counted it in round {counted} last: it was restored from an older backup",
                hint="stop the run, and submit it again",
            )
        if counted == self.pending and counted > self.kept_round:
            self.station.commit([self.client])
            reach(Point.JOB_MEMORY_COMMITTED)
            self._write(KEPT, self.station.kept, counted)
            self.kept_round = counted
            reach(Point.JOB_MEMORY_KEPT)
            self.shelf.remove(PROVISIONAL)

    def _write(self, name: str, kept: Kept, round: int) -> None:
        if kept:
            self.shelf.write(name, kept, round)
