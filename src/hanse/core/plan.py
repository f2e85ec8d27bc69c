"""Which clients a round asks, and when it closes: from the spec and the seed of cohorts alone."""

from hanse.core.numbered import in_order
from hanse.core.rounds import Plan
from hanse.core.samplers import FixedSize
from hanse.core.spec import RunSpec


def plan_of(round: int, spec: RunSpec) -> Plan:
    """Return the plan of a round: its cohort, over-selected, and when it closes."""
    population, quorum, sampler = in_order(spec.clients), spec.quorum, spec.sampler
    asked = sampler
    if isinstance(sampler, FixedSize):
        asked = FixedSize(quorum.asked(sampler.size, len(population)))
    cohort = asked.sample(population, spec.seed, round)
    goal = sampler.size if isinstance(sampler, FixedSize) else len(cohort)
    return Plan(
        round,
        cohort,
        goal=max(goal, quorum.minimum, 1) if cohort else 0,
        minimum=quorum.minimum,
        deadline_s=quorum.deadline_s,
        never_aborts=spec.bound.facts.is_private,
    )
