"""What a run's noise promises, in words: a figure for each who looks on, and what it rests on."""

from hanse.core.dp_events import Event, FixedSizeSampled, PoissonSampled, Repeated
from hanse.core.spec import Against, RunSpec
from hanse.privacy.claims import Claim, claims
from hanse.report.section import Section

WHO: dict[Against, str] = {
    "coordinator": "the coordinator",
    "sites": "sites: they see each round's model, and can tell who takes part",
    "recipients": "whoever gets the models and nothing else",
}
BY = {"exact": "by its formula", "pld": "by PLD", "rdp": "by RDP"}
UNPROTECTED = "no bound: it sees each update before the noise"
NO_DELTA = (
    "ε is computed once a δ is given: [privacy] delta = 1e-6, far below one over the number of "
    "clients. [privacy] epsilon = 4.0 beside it finds the noise for the planned rounds."
)
UNIT = (
    "That is all data of one site or simulated client. A person of whom two of them hold data is "
    "not covered; a person of whom only one does, is."
)
SIMULATED = (
    "A simulation draws its noise from the seed, so whoever knows that can subtract it: ε is what "
    "these settings give with noise that nobody knows."
)
SECRET = (
    "The last figure holds while the seed, which draws the cohorts, and the record of who took "
    "part stay with those who run this."
)


def privacy(spec: RunSpec, *, simulated: bool) -> Section | None:
    """Return what the noise of ``spec`` promises for all planned rounds; None without noise.

    ``simulated``: the run is, or would be, a simulation.
    """
    found = claims(spec)
    if not found:
        return None
    is_local = spec.bound.facts.local_multiplier > 0
    delta = "" if spec.privacy is None else f" at δ = {spec.privacy.delta:g}"
    rows = [
        (WHO[claim.observer], _figure(claim), _how(claim, is_local=is_local)) for claim in found
    ]
    notes = [UNIT] if spec.privacy is not None else [NO_DELTA, UNIT]
    if any(_sampled(claim.event) for claim in found):
        notes.append(SECRET)
    if simulated:
        notes.append(SIMULATED)
    unit = "client" if spec.privacy is None else spec.privacy.unit
    return Section(
        f"Privacy of one {unit}, after all {spec.rounds:,} rounds{delta}",
        ("toward", "ε", "what it is computed from"),
        tuple(rows),
        tuple(notes),
    )


def figure(epsilon: float) -> str:
    """Return an ε as one writes it, rounded up: it is a bound."""
    if epsilon == float("inf"):
        return "∞"
    digits = 2 if epsilon >= 1 else 3
    scaled = -(-epsilon * 10**digits // 1) / 10**digits
    return f"{scaled:.{digits}f}"


def _figure(claim: Claim) -> str:
    if claim.event is None:
        return "∞"
    return "–" if claim.epsilon is None else figure(claim.epsilon.epsilon)


def _how(claim: Claim, *, is_local: bool) -> str:
    if claim.event is None:
        return UNPROTECTED
    said = _mechanism(claim.event)
    if claim.epsilon is None:
        return said
    told = claim.epsilon
    neighbours = f"neighbours {told.relation} client"
    if is_local:
        neighbours = "neighbours: a client's data and none, where it sends noise alone"
    elif claim.observer == "sites":
        neighbours = "neighbours: a client's share and zero in its place"
    by = BY[told.accountant] + (f" ({told.why})" if told.why else "")
    return f"{said}; {neighbours}; {by}"


def _mechanism(event: Event) -> str:
    """Return in words what is released in each round."""
    inner = event.event if isinstance(event, Repeated) else event
    match inner:
        case PoissonSampled(rate, _):
            return f"each round the noise, of a cohort drawn with probability {rate:g}"
        case FixedSizeSampled(population, cohort, _):
            return f"each round the noise, of {cohort:,} drawn from {population:,}"
        case _:
            return "each round the noise"


def _sampled(event: Event | None) -> bool:
    inner = event.event if isinstance(event, Repeated) else event
    return isinstance(inner, PoissonSampled | FixedSizeSampled)
