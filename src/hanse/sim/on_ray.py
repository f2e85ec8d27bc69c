"""Workers as actors on Ray: a laptop, or the machines of a cluster. An extra: ``hanse[ray]``.

Ray carries the messages, and places the actors; the model goes once to each machine, through Ray's
object store, and the running sums come back up a tree of the workers, so that no machine holds more
than a few of them. Each worker reads the data of its own clients only.
"""

import math
import os
import pickle
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from hanse.core.layout import Vector
from hanse.core.spec import RunSpec
from hanse.core.step import Integers
from hanse.errors import ConfigError, HanseError
from hanse.sim.crew import Gone, Line, Message
from hanse.sim.messages import Answer, preserve
from hanse.sim.recipe import cook, recipe
from hanse.sim.run import Run
from hanse.sim.station import Kept
from hanse.sim.worker import Worker

FAN: Final = 4
"""How many sums a worker adds to its own before it passes them on."""
PATIENCE: Final = 2.0
"""Seconds until an actor that has not greeted is asked whether there is still room for it."""
NEED_THE_MODEL: Final = ("train", "evaluate")


class Actor:
    """A worker, inside one of Ray's processes."""

    def __init__(self, run: Run | str) -> None:
        """Build the kernel of ``run``, which may be a recipe."""
        self.inside = ExitStack()
        try:
            self.run = cook(run) if isinstance(run, str) else run
            threads = self.run.local.threads
            fingerprint = self.inside.enter_context(self.run.task.exactly(threads))
            spec = self.run.spec
            self.model = np.empty(spec.layout.size, dtype=spec.layout.dtype)
            self.worker = Worker(self.run, spec, spec.bound.accumulator())
            self.met: dict[str, Any] = {"fingerprint": fingerprint}
        except HanseError as error:
            self.met = {"error": preserve(error)}

    def greet(self) -> Answer:
        """Return the fingerprint, or the error that there is no worker for."""
        return self.met, {}

    def answer(self, message: Message, arrays: Kept, model: Vector | None) -> Answer | None:
        """Do what a message asks for."""
        if model is not None:
            np.copyto(self.model, model)
        return self.worker.answer(message, arrays, self.model)

    def summed(self, *others: Integers) -> Integers:
        """Return the running sum together with ``others``; it stays what it is."""
        total = self.worker.into.vector.copy()
        for other in others:
            total += other
        return total


@dataclass
class Call:
    """The line to an actor: one call a message, in order."""

    ray: Any
    backend: "Ray"
    index: int
    actor: Any
    pending: Any
    has_met: bool = False

    def send(self, message: Message, arrays: Kept | None = None) -> None:
        """Call the actor. That it is gone shows when its answer is asked for."""
        if message["do"] != "stop":
            model = self.backend.model if message["do"] in NEED_THE_MODEL else None
            self.pending = self.actor.answer.remote(message, arrays or {}, model)

    def receive(self) -> Answer:
        """Return the answer to the last call, or Gone."""
        try:
            while not (self.has_met or self.ray.wait([self.pending], timeout=PATIENCE)[0]):
                if self.backend.is_overfull():
                    self.end()
                    self.actor, self.pending = self.backend.placed(self.index, has_seat=False)
            self.has_met = True
            return self.ray.get(self.pending)
        except self.ray.exceptions.RayTaskError:
            raise  # a bug of ours: errors of the user's come as answers
        except self.ray.exceptions.RayError as error:
            raise _gone(error) from error

    def end(self) -> None:
        """End the actor."""
        self.ray.kill(self.actor)


class Ray:
    """Ray's actors. See :class:`hanse.sim.crew.Backend`.

    Goes to the cluster that Ray finds (``RAY_ADDRESS``, or one started on this machine), to the one
    that this process is in already, or else starts one here for as long as the run takes. On a
    cluster, the run file lies at the same path on every machine, with the task and the data; a run
    whose objects exist in this process only is sent to the workers.
    """

    def __init__(self, run: Run, spec: RunSpec, workers: int | None) -> None:
        """Connect; ConfigError without Ray, or for a run that cannot be sent to workers.

        ``workers``: None for as many as the whole cluster has processors for, one at least.
        """
        self.ray, self.spec, self.threads = _imported(), spec, run.local.threads
        self.made = recipe(run) if "run_file" in run.references else None
        self.is_ours = not self.ray.is_initialized()
        if self.is_ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            self.ray.init(log_to_driver=False, logging_level="ERROR")
            # Ray prints of lost machines on standard output, which is a command's result.
            self.ray._private.worker._worker_logs_enabled = False
        self.model: Any = None
        try:
            self.source = self.made or self._sent(run)
            self.workers = workers or max(1, self._room())
            gpus = self.ray.cluster_resources().get("GPU", 0)
        except BaseException:
            self.close()
            raise
        self.gpu, self.seated = gpu_share(int(gpus), self.workers), set[int]()

    def start(self, index: int) -> Call:
        """Start an actor; where there are more than processors, beside others."""
        self.seated.discard(index)
        has_seat = len(self.seated) < self._room()
        return Call(self.ray, self, index, *self.placed(index, has_seat))

    def placed(self, index: int, has_seat: bool) -> tuple[Any, Any]:
        """Return a new actor, with processors of its own or beside others, and its greeting."""
        self.seated.discard(index)
        if has_seat:
            self.seated.add(index)
        options = {"num_cpus": self.threads if has_seat else 0, "num_gpus": self.gpu}
        try:
            actor = self.ray.remote(Actor).options(**options).remote(self.source)
        except self.ray.exceptions.RayError as error:
            raise _gone(error) from error
        return actor, actor.greet.remote()

    def is_overfull(self) -> bool:
        """Whether a machine was lost unseen, so that an actor would wait for ever for its place."""
        return len(self.seated) > self._room()

    def publish(self, model: Vector) -> None:
        """Put ``model`` into the object store, from where each machine takes it once."""
        self.model = self.ray.put(model)

    def gather(self, into: Integers, lines: Mapping[int, Line]) -> None:
        """Add the sums of these actors, each of which adds those below it in a tree."""
        actors = [line.actor for line in lines.values() if isinstance(line, Call)]
        if not actors:
            return
        try:
            total = self.ray.get(_tree(actors))
        except self.ray.exceptions.RayError as error:
            raise _gone(error) from error
        into += total

    def close(self) -> None:
        """Leave Ray, if this run has started or joined it."""
        self.model = self.source = None
        if self.is_ours:
            self.ray.shutdown()

    def _room(self) -> int:
        """Return how many workers have processors of their own, on all machines that live."""
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return sum(int(node.get("CPU", 0)) // self.threads for node in alive)

    def _sent(self, run: Run) -> Any:
        try:
            return self.ray.put(replace(run))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise ConfigError(
                f"the run cannot be sent to Ray's workers: {error}",
                hint="start from a run file, whose task each worker imports by itself",
            ) from error


def gpu_share(gpus: int, workers: int) -> float:
    """Return which part of a GPU each of ``workers`` gets, so that all find a place."""
    if not gpus:
        return 0.0
    beside = -(-workers // gpus)
    return math.floor(1e4 / beside) / 1e4


def _tree(actors: Sequence[Any]) -> Any:
    """Return the reference of the sum of ``actors``: the first adds what its subtrees sum to."""
    first, *rest = actors
    branches = [rest[k::FAN] for k in range(min(FAN, len(rest)))]
    return first.summed.remote(*(_tree(branch) for branch in branches))


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError('backend "ray" needs Ray', hint="pip install 'hanse[ray]'") from error
    return ray


def _gone(error: Exception) -> Gone:
    lines = str(error).strip().splitlines()
    why = next((line for line in lines if " because " in line), lines[0])
    return Gone(f"a worker on Ray is gone: {why.partition('. ')[0]}", hint="go on with --resume")
