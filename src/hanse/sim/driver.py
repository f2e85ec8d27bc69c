"""The driver of a simulated run: rounds, evaluation, folder, callbacks."""

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from hanse.core.canonical import Json
from hanse.core.pipeline import Kept as States
from hanse.core.program import Done
from hanse.core.spec import RunSpec
from hanse.errors import ConfigError, HanseError, HanseWarning
from hanse.privacy import claims
from hanse.report.environment import environment
from hanse.sim.checkpoint import Checkpoint
from hanse.sim.crew import BackendName, Gone
from hanse.sim.engine import Choice, choose
from hanse.sim.judge import Judge
from hanse.sim.output import Folder
from hanse.sim.pool import Pool, open_pool
from hanse.sim.result import Best, Result
from hanse.sim.rounds import perform
from hanse.sim.run import Callback, Run
from hanse.sim.spending import Budget, Spending
from hanse.strategies import GlobalModel, StrategyProgram

MOST_STEPS_BACK = 3
"""How often a run goes back to its checkpoint, since a worker is gone with what clients kept."""
CHECKED_FIRST = 64
"""Up to so many clients, all data is read and checked before the first round."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: the model and the steps' states, which move on together or not at all."""

    model: GlobalModel
    states: States


Start = tuple[Progress, dict[str, Any]]
"""Where a run begins or goes on: there, and what its clients keep."""


@dataclass
class Driver:
    """One run under way: the strategy's program, round after round, over a pool."""

    run: Run
    folder: Folder | None
    callbacks: tuple[Callback, ...]
    checkpoint_s: float
    budget: Budget | None = None
    spending: Spending | None = None
    history: list[dict[str, Json]] = field(default_factory=list[dict[str, Json]])
    saved_at: float = 0.0
    is_between_rounds: bool = True
    noted: dict[str, Json] = field(default_factory=dict[str, Json])
    told: int | None = None
    """The last round that the callbacks know of, once they know that the run has started."""

    def __post_init__(self) -> None:
        """Appoint the judge."""
        self.judge = Judge(self.run)

    def run_through(self, workers: int | None, backend: BackendName | None, resume: bool) -> Result:
        """Run from the start, or from the folder's checkpoint, to the last round."""
        claims.check(self.run.spec)
        self._settle_engine(resume)
        with self.run.task.exactly(self.run.local.threads) as fingerprint:
            result = self._run(workers, backend, resume, fingerprint)
        if self.folder is not None:
            self.folder.end(result)
        for callback in self.callbacks:
            callback.on_end(result)
        return result

    def _settle_engine(self, resume: bool) -> None:
        """Choose what trains the clients. A run that goes on keeps what it began with."""
        asked = self.run.engine
        begun = None if self.folder is None or not resume else self.folder.engine()
        if begun is None or asked == "exact":
            choice = choose(self.run)
        else:
            choice = Choice(begun if asked == "auto" else asked, "as the run began")
        if asked != "exact":
            self.noted = {"engine": choice.json(asked)}
        self.run = replace(self.run, engine=choice.engine)

    def _run(
        self, workers: int | None, backend: BackendName | None, resume: bool, fingerprint: str
    ) -> Result:
        spec, began = self.run.spec, time.monotonic()
        program = StrategyProgram(
            self.run.strategy, spec.layout, self.run.local, self.run.pipeline, self.run.rounds
        )
        opened = partial(open_pool, self.run, spec, workers, backend, fingerprint)
        start = self._start(program, spec, resume)
        try:
            with self._ledger() as self.spending:
                at = self._ahead(program, start, spec, opened)
                if self.spending is not None:
                    self.spending.end()
        except BaseException:
            if self.folder is not None and not self.history:
                self.folder.abandon()
            raise
        out = None if self.folder is None else self.folder.path
        seconds = time.monotonic() - began
        return Result(
            self.run.task, spec, at.model.vector, self.history, seconds, self.judge.best, out
        )

    def _ledger(self) -> AbstractContextManager[Spending | None]:
        """Return the run's place in its ledger of privacy, reserved; None without one."""
        if self.budget is None:
            return nullcontext()
        path = None if self.folder is None else self.folder.path
        return Spending(self.budget, self.run.spec, path)

    def _ahead(
        self, program: StrategyProgram, start: Start, spec: RunSpec, opened: Callable[[], Pool]
    ) -> Progress:
        """Run to the last round, though a worker may die with what its clients kept."""
        for _ in range(MOST_STEPS_BACK):
            try:
                return self._through(program, start, spec, opened)
            except Gone as error:
                if not spec.clients_keep:
                    raise
                start = self._step_back(program, spec, error)
        return self._through(program, start, spec, opened)

    def _through(
        self, program: StrategyProgram, start: Start, spec: RunSpec, opened: Callable[[], Pool]
    ) -> Progress:
        at, kept = start
        with closing(opened()) as pool:
            pool.restore(kept)
            self._prepare(spec, pool)
            if self.told is None:
                self.told = at.model.round
                for callback in self.callbacks:
                    callback.on_start(self.run, spec)
            return self._rounds(program, at, spec, pool)

    def _step_back(self, program: StrategyProgram, spec: RunSpec, error: Gone) -> Start:
        """Return the last checkpoint, or the start: what clients kept is gone with a worker."""
        self.history, self.judge = [], Judge(self.run)
        start = self._start(program, spec, resume=self.folder is not None)
        back = f"back to round {start[0].model.round}, with what its clients kept"
        warnings.warn(f"{error}; {back}", HanseWarning, stacklevel=2)
        return start

    def _prepare(self, spec: RunSpec, pool: Pool) -> None:
        """Check the data of few clients before anything is trained; note who holds what."""
        few = len(spec.clients) <= CHECKED_FIRST and not self.run.population.is_many
        targets = pool.prepare(spec.clients) if few else None
        if self.folder is not None:
            self.folder.note_population(spec, self.run.population.summary(targets))

    def _start(self, program: StrategyProgram, spec: RunSpec, resume: bool) -> Start:
        """Return where to begin: at the checkpoint, or with the initial model."""
        at, kept = Progress(program.initial(self.run.described[1]), {}), dict[str, Any]()
        if self.folder is None:
            return at, kept
        found = Checkpoint.read(self.folder.path, spec.hash) if resume else None
        if resume and found is None and (self.folder.path / "result.json").exists():
            raise ConfigError(
                f"{self.folder.path} holds a run that has ended",
                hint="nothing is left to resume; start a new one with another --out",
            )
        if found is not None:
            at, kept = Progress(found.model, found.states), dict(found.kept)
            self.history = self.folder.history()[: at.model.round]
            if found.best is not None:
                self.judge.best = Best(**found.facts["best"], vector=found.best)
        resumed = at.model.round if resume else 0
        if resume and not resumed:
            (self.folder.path / "history.jsonl").unlink(missing_ok=True)
        self.folder.begin(self.run, spec, {**environment(), **self.noted}, resumed)
        self.saved_at = time.monotonic()
        return at, kept

    def _rounds(
        self, program: StrategyProgram, at: Progress, spec: RunSpec, pool: Pool
    ) -> Progress:
        while at.model.round < program.rounds:
            try:
                self.is_between_rounds = False
                at = self._round(program, at, spec, pool)
                self.is_between_rounds = True
                if self.told is None or at.model.round > self.told:
                    self.told = at.model.round
                    for callback in self.callbacks:
                        callback.on_round(self.history[-1])
            except BaseException:
                if self.history:
                    with suppress(HanseError):
                        self._save(at, spec, pool)
                raise
            if time.monotonic() - self.saved_at >= self.checkpoint_s:
                self._save(at, spec, pool)
        return at

    def _round(self, program: StrategyProgram, at: Progress, spec: RunSpec, pool: Pool) -> Progress:
        began = time.monotonic()
        done = perform(program.ask(at.model), spec, self.run.faults, pool, at.states)
        outcome = program.absorb(at.model, done.total)
        after = outcome.state if isinstance(outcome, Done) else outcome
        if self.spending is not None:
            self.spending.debit(after.round, after.vector)
        measured = self.judge.measure(after, pool)
        row = {**done.row, **measured, "seconds": time.monotonic() - began}
        self.history.append(row)
        if self.folder is not None:
            self.folder.append(row)
        return Progress(after, done.states)

    def _save(self, at: Progress, spec: RunSpec, pool: Pool) -> None:
        keeps = spec.clients_keep
        if self.folder is None or (keeps and not self.is_between_rounds):
            return  # in mid-round, what clients keep may be ahead of the model
        best, kept = self.judge.best, pool.kept() if keeps else {}
        facts = {} if best is None else {"best": best.json()}
        vector = None if best is None else best.vector
        self.folder.settle()
        Checkpoint(at.model, at.states, kept, facts, vector).write(self.folder.path, spec.hash)
        self.saved_at = time.monotonic()
