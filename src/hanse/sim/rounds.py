"""One training round, driven: sample, let faults happen, train, count, close.

The round machine of :mod:`hanse.core.rounds` decides who is counted. Time is virtual: clients
arrive in the order of their delays, and are trained in waves of as many as the round still needs,
so that nothing is computed that would be thrown away.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hanse.core import rounds as machine
from hanse.core import seeds
from hanse.core.accelerate import kernels_for
from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.core.pipeline import Kept as States
from hanse.core.plan import plan_of
from hanse.core.program import Ask
from hanse.core.spec import RunSpec
from hanse.core.step import Total
from hanse.sim.faults import Faults
from hanse.sim.pool import Pool
from hanse.sim.station import Outcome


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round leaves: the total, the steps' new states, and its row of the history."""

    total: Total
    states: States
    row: dict[str, Json]


def perform(ask: Ask, spec: RunSpec, faults: Faults, pool: Pool, states: States) -> RoundResult:
    """Carry out one training ask over ``pool``."""
    vector: Vector = np.asarray(ask.payload["model"])
    plan = plan_of(ask.round, spec)
    announced = spec.bound.announce(states)
    state, outcomes = _run(plan, spec, faults, pool, vector, announced)
    summed = pool.take()
    if isinstance(state, machine.Aborted):
        summed.clear()
    counted = tuple(state.counted) if isinstance(state, machine.Done) else ()
    assert summed.reports == len(counted) <= (spec.bound.start.cohort or 0), "the sum is not whole"
    pool.commit(counted)
    if isinstance(state, machine.Aborted) and not spec.bound.facts.is_private:
        total, fresh = _nothing(spec), states
    else:
        total, fresh = spec.bound.decode(
            summed, lambda purpose: seeds.stream(spec.seed, ask.round, purpose), states
        )
    row = row_of(state, total, spec, outcomes)
    return RoundResult(total, fresh, row)


def _run(
    plan: machine.Plan,
    spec: RunSpec,
    faults: Faults,
    pool: Pool,
    vector: Vector,
    announced: Mapping[str, Json],
) -> tuple[machine.Final, list[Outcome]]:
    fates = {client: faults.fate(spec.seed, plan.round, client) for client in plan.cohort}
    state, _ = machine.begin(plan, 0.0)
    state, _ = machine.step(state, machine.Configured(plan.cohort, 0.0))
    gone = tuple((client, "dropped out") for client, fate in fates.items() if fate.drops)
    if gone:
        state, _ = machine.step(state, machine.Dropped(gone, 0.0))
    arrivals = sorted((f.delay_s, client) for client, f in fates.items() if not f.drops)
    outcomes, late = list[Outcome](), plan.deadline_s or math.inf
    while isinstance(state, machine.Configuration | machine.Reporting):
        wave = [a for a in arrivals[: machine.wanted(state)] if a[0] < late]
        if not wave:
            state, _ = machine.step(state, machine.Tick(late))
            continue
        arrivals = arrivals[len(wave) :]
        trained = pool.train(vector, [client for _, client in wave], plan.round, announced)
        outcomes += trained
        state = _report(state, trained, wave[-1][0])
    assert isinstance(state, machine.Done | machine.Aborted)
    if arrivals:
        reports = tuple(machine.Report(client, client) for _, client in arrivals)
        state, _ = machine.step(state, machine.Reported(reports, arrivals[-1][0]))
    assert isinstance(state, machine.Done | machine.Aborted)
    return state, outcomes


def _report(state: machine.State, outcomes: Sequence[Outcome], now: float) -> machine.State:
    """Tell the machine how a wave ended. A wave is never larger than what the round still needs."""
    refused = tuple((o.client, o.refused) for o in outcomes if o.refused)
    dropped = tuple((o.client, o.dropped) for o in outcomes if o.dropped)
    reports = tuple(machine.Report(o.client, o.client) for o in outcomes if o.was_added)
    if reports:
        state, _ = machine.step(state, machine.Reported(reports, now))
    if refused:
        state, _ = machine.step(state, machine.Refused(refused, now))
    if dropped:
        state, _ = machine.step(state, machine.Dropped(dropped, now))
    return state


def _nothing(spec: RunSpec) -> Total:
    """Return the total of a round that aborted."""
    empty = spec.bound.accumulator()
    return Total(np.zeros(empty.vector.size), spec.bound.unpack(empty.scalars), 0)


def row_of(
    state: machine.Final,
    total: Total | None,
    spec: RunSpec,
    outcomes: Sequence[Outcome] | None = None,
) -> dict[str, Json]:
    """Return the round's row of the history, before its model is evaluated.

    ``total`` is None where nothing was summed. ``outcomes``, of all who trained, only a simulator
    knows: elsewhere lengths stay with the clients.
    """
    plan = state.plan
    counted = list(state.counted) if isinstance(state, machine.Done) else []
    private = spec.bound.facts.is_private
    late: dict[str, Json] = {c: w for c, w in state.discarded.items() if c not in state.refused}
    reported = len(counted) + len(state.refused)
    if outcomes is not None:
        reported = sum(not outcome.dropped for outcome in outcomes)
    return {
        "round": plan.round,
        "cohort": len(plan.cohort),
        "counted": counted,
        "refused": dict(state.refused),
        "dropped": {c: why for c, why in state.dropped.items() if c not in late},
        "late": late,
        "aborted": state.reason if isinstance(state, machine.Aborted) else None,
        "train": None if private or total is None else _training(total, spec),
        "update": None if private or total is None else _lengths(outcomes, total),
        "bytes": bytes_of(spec, len(plan.cohort), reported),
    }


def _training(total: Total, spec: RunSpec) -> dict[str, Json] | None:
    counts = {name: int(numbers[0]) for name, numbers in total.counts.items()}
    if not counts.get("seen"):
        return None
    units = {s.name: s.resolution for s in spec.training}
    means = {
        name: counts[name] * unit / counts["seen"] for name, unit in units.items() if unit != 1.0
    }
    return {"examples": counts["examples"], "steps": counts["steps"], **means}


def _lengths(outcomes: Sequence[Outcome] | None, total: Total) -> dict[str, Json] | None:
    norm = kernels_for(total.vector.size).norm
    if outcomes is None:
        return {"norm": norm(total.vector)} if total.reports else None
    added = [outcome for outcome in outcomes if outcome.was_added]
    if not added:
        return None
    return {
        "norm": norm(total.vector),
        "longest": max(outcome.length for outcome in added),
        "clipped": sum(outcome.was_clipped for outcome in added),
    }


def bytes_of(spec: RunSpec, asked: int, reported: int) -> dict[str, Json]:
    """Return the bytes of a round: the model to those asked, shares from those reporting."""
    item = np.dtype(spec.layout.dtype).itemsize
    share = spec.bound.coordinates * item + spec.bound.scalars_size * 8
    share += sum(size * 8 for size in spec.bound.extras.values())
    return {"up": share * reported, "down": spec.layout.size * item * asked}
