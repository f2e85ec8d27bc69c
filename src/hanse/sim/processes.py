"""Workers as processes of this machine: pipes for messages, shared memory for vectors."""

import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np

from hanse.core.accelerate import warm
from hanse.core.layout import Vector
from hanse.core.spec import RunSpec
from hanse.core.step import Integers
from hanse.errors import ConfigError
from hanse.sim.arena import Arena
from hanse.sim.crew import Gone, Line, Message
from hanse.sim.messages import Answer, receive, send
from hanse.sim.recipe import recipe
from hanse.sim.run import Run
from hanse.sim.station import Kept
from hanse.sim.worker import forked, spawned

Start = Literal["fork", "spawn"]


@dataclass
class Pipe:
    """The line to a process."""

    process: Any
    connection: Connection

    def send(self, message: Message, arrays: Kept | None = None) -> None:
        """Send a message; Gone if the process is."""
        try:
            send(self.connection, message, arrays)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone() from error

    def receive(self) -> Answer:
        """Return the process's answer, or Gone."""
        try:
            return receive(self.connection)
        except (EOFError, OSError) as error:
            raise self._gone() from error

    def end(self) -> None:
        """End the process."""
        self.process.join(5.0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()

    def _gone(self) -> Gone:
        self.process.join(1.0)
        return Gone(
            f"worker process {self.process.pid} ended with status {self.process.exitcode}",
            hint="it may have run out of memory; go on with --resume, with fewer workers",
        )


class Processes:
    """The machine's own processes, forked or spawned. See :class:`hanse.sim.crew.Backend`."""

    def __init__(self, run: Run, spec: RunSpec, workers: int, start: Start | None) -> None:
        """Make the shared memory; ConfigError where there is no room for it."""
        self.run, self.spec, self.workers = run, spec, workers
        self.method = _method(run, start)
        warm(spec.layout.dtype, "float64")
        path = Arena.create(spec, workers)
        self.file = os.open(path, os.O_RDWR)  # so long its memory stays, and can be opened again
        try:
            self.arena = Arena.open(path, spec, workers)
        finally:
            path.unlink(missing_ok=True)

    def start(self, index: int) -> Pipe:
        """Start a process."""
        context: Any = multiprocessing.get_context(self.method)
        ours, theirs = context.Pipe()
        place: Any = (theirs, f"/proc/{os.getpid()}/fd/{self.file}", index, self.workers)
        if self.method == "fork":
            target, arguments = forked, (*place, self.run, self.spec, ours)
        else:
            target, arguments = spawned, (*place, recipe(self.run))
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return Pipe(process, ours)

    def publish(self, model: Vector) -> None:
        """Put ``model`` where all processes read it."""
        np.copyto(self.arena.model, model)

    def gather(self, into: Integers, lines: Mapping[int, Line]) -> None:
        """Add what these processes have in shared memory, where a death does not reach it."""
        for index in lines:
            into += self.arena.sums[index]

    def close(self) -> None:
        """Let go of the shared memory."""
        os.close(self.file)


def _method(run: Run, start: Start | None) -> Start:
    """Return how to start workers: a fork has no threads of its parent's, and waits for them."""
    can_fork = hasattr(os, "fork") and run.local.threads == 1
    if start == "fork" and not can_fork:
        raise ConfigError(
            f"local threads = {run.local.threads}, and a forked worker can have one only",
            hint='use backend="spawn" with a run file, or workers = 1',
        )
    return start or ("fork" if can_fork else "spawn")
