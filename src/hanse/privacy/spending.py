"""What the rounds of a run have told so far: ε after each of them, as it goes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from hanse.core.canonical import Json
from hanse.core.dp_events import Relation, Repeated
from hanse.core.ledger import Unit
from hanse.core.spec import Against, RunSpec
from hanse.privacy import rdp
from hanse.privacy.claims import claims

MOST: Final = 500
"""Rounds after which ε is computed: of longer runs every so many-th."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What ``observer`` is told of one ``unit``: ``epsilon`` after each of some rounds, and the
    ``claim`` for all that are planned.

    The former by Rényi divergences, which are quick and never too small, and never more than the
    claim: who sees fewer rounds is told no more.
    """

    observer: Against
    unit: Unit
    relation: Relation
    epsilon: tuple[float, ...]
    claim: float


def rounds_of(planned: int) -> tuple[int, ...]:
    """Return the rounds to compute ε after, the last one of which is ``planned``."""
    step = -(-planned // MOST)
    return tuple(range(planned, 0, -step))[::-1]


def spent_by(spec: RunSpec, rounds: Sequence[int]) -> tuple[Spent, ...]:
    """Return what observers are told by the first of ``rounds`` rounds each, those with a bound.

    Empty without a δ. Rounds are alike, so that r of them are one's event r times.
    """
    if spec.privacy is None:
        return ()
    delta, found = spec.privacy.delta, list[Spent]()
    once = {(c.observer, c.unit): c.event for c in claims(replace(spec, privacy=None), 1)}
    for claim in claims(spec):
        event = once[claim.observer, claim.unit]
        if event is None or claim.epsilon is None:
            continue
        relation, total = claim.epsilon.relation, claim.epsilon.epsilon
        by_round = tuple(min(rdp.epsilon(Repeated(event, count), delta), total) for count in rounds)
        found.append(Spent(claim.observer, claim.unit, relation, by_round, total))
    return tuple(found)


def to_json(spec: RunSpec) -> dict[str, Json]:
    """Return what a run keeps beside its history; empty where nothing has a bound."""
    rounds = rounds_of(spec.rounds)
    found = spent_by(spec, rounds)
    if not found or spec.privacy is None:
        return {}
    told: list[Json] = [
        {
            "observer": one.observer,
            "unit": one.unit,
            "neighbours": one.relation,
            "claim": _finite(one.claim),
            "epsilon": [_finite(value) for value in one.epsilon],
        }
        for one in found
    ]
    return {"delta": spec.privacy.delta, "rounds": list(rounds), "told": told}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
