"""What the rounds of a run have told so far: ε after each of them, as it goes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from hanse.core.dp_events import Repeated
from hanse.core.spec import RunSpec
from hanse.privacy import rdp
from hanse.privacy.claims import Claim, claims

MOST: Final = 500
"""Rounds after which ε is computed: of longer runs every so many-th."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a ``claim`` for all planned rounds comes to on the way: ``epsilon`` after each of some.

    By Rényi divergences, which are quick and never too small, and never more than the
    claim: who sees fewer rounds is told no more.
    """

    claim: Claim
    epsilon: tuple[float, ...]


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
        total = claim.epsilon.epsilon
        by_round = tuple(min(rdp.epsilon(Repeated(event, count), delta), total) for count in rounds)
        found.append(Spent(claim, by_round))
    return tuple(found)
