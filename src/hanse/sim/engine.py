"""Which engine trains a run's clients: one at a time, or many at once.

Only ``exact`` has the bits of real sites. ``batched`` has its own: the same for any number of
workers, and after one round within 1e-5 of the exact parameters; over many rounds it learns as
well, but ends in another model, since a rounding can turn a ReLU the other way.
"""

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from hanse.core.canonical import Json
from hanse.core.plan import plan_of
from hanse.core.spec import Engine
from hanse.errors import ConfigError, TaskError
from hanse.sim.output import Folder
from hanse.sim.run import Run
from hanse.sim.station import Station, station_of
from hanse.train.local import Turn, Turns

MOST_TRIED: Final = 128
MOST_EXACT: Final = 8
"""Clients that are read before the first round, and those that are trained by both engines."""
LEAST_GAIN: Final = 0.9
APART: Final = 1e-2
"""How far the engines' updates may be apart, relative to the exact one: a turned ReLU moves one by
up to 1e-3, a model that mixes the rows of a batch by all of it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and why it was taken."""

    engine: Engine
    why: str

    def json(self, asked: str) -> dict[str, Json]:
        """Return the choice for the record of a run."""
        return {"asked": asked, "chosen": self.engine, "why": self.why}


@dataclass(frozen=True, slots=True)
class Trial:
    """Seconds per client of both engines, and the largest relative distance of their updates."""

    exact_s: float
    batched_s: float
    apart: float


def choose(run: Run) -> Choice:
    """Return the engine of ``run``: the one asked for, or for ``auto`` the faster one.

    Trains clients of the first round by both, and throws the result away. ConfigError where
    ``batched`` was asked for and cannot be had; DataError and TaskError as training raises them.
    """
    if run.engine == "exact":
        return Choice("exact", "as asked")
    with run.task.exactly(run.local.threads):
        station = station_of(run, replace(run, engine="exact").spec)
        blocks = station.kernel.blocks
        if blocks is None:
            return _without(run, "the task has a training loop of its own")
        if reason := blocks.unfit(run.work):
            return _without(run, reason)
        trial = _try(run, station)
    if isinstance(trial, str):
        return _without(run, trial)
    if not trial.apart <= APART:
        return _without(run, f"many at once, an update differs by {trial.apart:.1g} of its length")
    if run.engine == "batched":
        return Choice("batched", "as asked")
    one, many = (f"{1e3 * s:.3g} ms" for s in (trial.exact_s, trial.batched_s))
    is_faster = trial.batched_s < LEAST_GAIN * trial.exact_s
    measured = f"{one} a client one at a time, {many} many at once"
    return Choice("batched" if is_faster else "exact", measured)


def as_begun(run: Run, folder: Folder) -> Run:
    """Return a run of ``auto`` with the engine that it has in ``folder``, if it has begun there."""
    begun = folder.engine() if run.engine == "auto" else None
    return run if begun is None else replace(run, engine=begun)


def _without(run: Run, reason: str) -> Choice:
    if run.engine == "batched":
        raise ConfigError(
            f'engine = "batched" cannot train this run: {reason}',
            hint='use engine = "exact", or "auto" to take it where it can',
        )
    return Choice("exact", reason)


def _try(run: Run, station: Station) -> Trial | str:
    """Train some clients of the first round by both; return why that does not work, if so."""
    start, spec = run.described[1], run.spec
    cohort = plan_of(1, spec).cohort[:MOST_TRIED]
    left_out = station.unreadable(cohort)
    cohort = [client for client in cohort if client not in left_out]
    if not cohort:
        return "there is nobody to try it with in the first round"
    try:
        block = max(station.blocks(cohort, run.work), key=len)
    except ConfigError as error:
        return str(error)
    turns = Turns(run.seed, 1, block)
    own = [Turn(run.seed, 1, client) for client in block]
    data = [station.data(client)[0] for client in block]
    few, kernel = range(min(MOST_EXACT, len(block))), station.kernel
    exact = [kernel.train(start, data[k], run.work, own[k], None).update.copy() for k in few]
    try:
        many = station.trainer.train(start, data, run.work, turns)
    except TaskError as error:
        return str(error)
    apart = max(_apart(one, many.updates[k]) for k, one in enumerate(exact))
    began = time.process_time()
    for k in few:
        kernel.train(start, data[k], run.work, own[k], None)
    between = time.process_time()
    station.trainer.train(start, data, run.work, turns)
    ended = time.process_time()
    return Trial((between - began) / len(few), (ended - between) / len(block), apart)


def _apart(exact: np.ndarray, other: np.ndarray) -> float:
    length = float(np.linalg.norm(exact))
    return float(np.linalg.norm(other - exact)) / length if length else float(np.abs(other).max())
