"""A recorded run again: the same spec and seed, and in each round those who were counted then.

Who was counted is the *contributor trace*: the history's rows, of a simulated or a deployed run.
What was decided by time and by networks is taken from it; everything else is computed anew. Equal
digests show that the model is what these sites' data and this code make of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanse.core import seeds
from hanse.core.layout import Vector
from hanse.core.numbered import Numbered
from hanse.core.program import Done
from hanse.core.spec import RunSpec
from hanse.errors import ConfigError
from hanse.sim.crew import BackendName
from hanse.sim.pool import Pool, open_pool
from hanse.sim.run import Run
from hanse.strategies import GlobalModel, StrategyProgram


@dataclass(frozen=True, slots=True)
class Replayed:
    """The model that a replay ends in."""

    spec: RunSpec
    vector: Vector

    @property
    def model_digest(self) -> str:
        """The digest to compare."""
        return self.spec.layout.digest(self.vector)


def replay(
    run: Run,
    trace: Sequence[Mapping[str, Any]],
    *,
    workers: int | None = None,
    backend: BackendName | None = None,
) -> Replayed:
    """Run the rounds of ``trace`` again: ``round``, ``counted`` and ``aborted`` of each row.

    Raises ConfigError for a trace that is not of this run, or whose clients compute otherwise now.
    """
    spec = run.spec
    _check(trace, spec)
    program = StrategyProgram(run.strategy, spec.layout, run.local, run.pipeline, run.rounds)
    state, states = program.initial(run.described[1]), dict[str, Any]()
    with run.task.exactly(run.local.threads) as fingerprint:
        pool = open_pool(run, spec, workers, backend, fingerprint)
        try:
            for row in trace:
                state, states = _round(program, state, states, row, spec, pool)
        finally:
            pool.close()
    return Replayed(spec, state.vector)


def _check(trace: Sequence[Mapping[str, Any]], spec: RunSpec) -> None:
    known = spec.clients if isinstance(spec.clients, Numbered) else set(spec.clients)
    for number, row in enumerate(trace, 1):
        strangers = [client for client in row["counted"] if client not in known]
        if row["round"] != number or strangers or number > spec.rounds:
            raise ConfigError(
                f"the history is not one of this run: at round {row['round']}, "
                f"{', '.join(strangers) or 'out of order'}",
                hint="replay with the run file that the run was started from",
            )


def _round(
    program: StrategyProgram,
    state: GlobalModel,
    states: dict[str, Any],
    row: Mapping[str, Any],
    spec: RunSpec,
    pool: Pool,
) -> tuple[GlobalModel, dict[str, Any]]:
    if row.get("aborted") and not spec.bound.facts.is_private:
        pool.commit(())
        return GlobalModel(state.round + 1, state.vector, state.slots), states
    counted, announced = list(row["counted"]), spec.bound.announce(states)
    outcomes = pool.train(state.vector, counted, state.round + 1, announced)
    for outcome in outcomes:
        if not outcome.was_added:
            raise ConfigError(
                f"{outcome.client} was counted in round {row['round']}, and is refused now: "
                f"{outcome.refused or outcome.dropped}",
                hint="its data or its code are not what they were",
            )
    pool.commit(counted)
    total, fresh = spec.bound.decode(
        pool.take(), lambda purpose: seeds.stream(spec.seed, row["round"], purpose), states
    )
    outcome = program.absorb(state, total)
    after = outcome.state if isinstance(outcome, Done) else outcome
    return after, dict(fresh)
