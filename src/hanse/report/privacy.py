"""What a run's noise promises, in words: a figure for each who looks on, and what it rests on."""

from collections.abc import Iterable

from hanse.core.dp_events import Event, FixedSizeSampled, PoissonSampled, Repeated
from hanse.core.facts import SharedNoise
from hanse.core.spec import Against, RunSpec
from hanse.core.work import LocalPrivacy
from hanse.privacy.accounting import Epsilon
from hanse.privacy.claims import Claim, claims, unknown_to
from hanse.report.numerals import plural
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
    "units hidden. [privacy] epsilon = 4.0 beside it finds the noise for the planned rounds."
)
UNIT = (
    "That is all data of one site or simulated client: whether it takes part. A person of whom "
    "only one of them holds data is hidden as by half of this noise, since without that person it "
    "sends another update, and not none; one of whom two do, less still."
)
PERSON = (
    "That is all rows of one person in a client's training data; data(site) says whose they are. "
    "Test data are not trained on, and not covered."
)
EXAMPLE = (
    "That is one row of one client's training data. A person of whom there are k rows, at one "
    "client or at several, is hidden by k·ε only, at a δ that is more than k times as large. Test "
    "data are not trained on, and not covered."
)
SIMULATED = (
    "A simulation draws its noise from the seed, so whoever knows that can subtract it: ε is what "
    "these settings give with noise that nobody knows."
)
SECRET = (
    "The last figure holds while the seed, which draws the cohorts, and the record of who took "
    "part stay with those who run this."
)


def privacy(spec: RunSpec, *, simulated: bool) -> tuple[Section, ...]:
    """Return what the noise of ``spec`` promises for all planned rounds, a section for each unit.

    ``simulated``: the run is, or would be, a simulation.
    """
    found = claims(spec)
    of_clients = [claim for claim in found if claim.unit == "client"]
    within = [claim for claim in found if claim.unit != "client"]
    return (
        *([_of_a_client(spec, of_clients, simulated=simulated)] if of_clients else []),
        *([_within_a_client(spec, within, simulated=simulated)] if within else []),
    )


def _titled(
    unit: str, spec: RunSpec, rows: Iterable[tuple[str, ...]], notes: Iterable[str]
) -> Section:
    delta = "" if spec.privacy is None else f" at δ = {spec.privacy.delta:g}"
    return Section(
        f"Privacy of one {unit}, after all {spec.rounds:,} rounds{delta}",
        ("toward", "ε", "what it is computed from"),
        tuple(rows),
        tuple(notes),
    )


def _within_a_client(spec: RunSpec, found: Iterable[Claim], *, simulated: bool) -> Section:
    private = spec.local.privacy
    assert private is not None, "an example or a person is hidden by noise in training"
    rows = [(WHO[claim.observer], _figure(claim), _how_of_steps(claim, spec)) for claim in found]
    notes = [EXAMPLE if private.unit == "example" else PERSON, *_at_sites(private)]
    if spec.privacy is None:
        notes.insert(0, NO_DELTA)
    return _titled(private.unit, spec, rows, [*notes, SIMULATED] if simulated else notes)


def _at_sites(private: LocalPrivacy) -> list[str]:
    if private.unit == "example":
        return []
    return [
        f"It holds for persons with rows at {plural(private.sites_per_person, 'client')} at most "
        "([local.privacy] sites_per_person). One row of a person who has more is hidden as by half "
        "of the noise, without the gain of sampling."
    ]


def _how_of_steps(claim: Claim, spec: RunSpec) -> str:
    private = spec.local.privacy
    assert private is not None, "an example or a person is hidden by noise in training"
    drawn = f", of {private.unit}s drawn with probability {private.sampling_rate:g}"
    said = f"each of {plural(spec.local.steps or 0, 'step')} a round the noise"
    said += drawn if private.sampling_rate < 1 else ""
    if private.sites_per_person > 1:
        said += f", at {private.sites_per_person} clients"
    if claim.epsilon is None:
        return said
    return f"{said}; {neighbours(claim)}; {_by(claim.epsilon)}"


def _of_a_client(spec: RunSpec, found: Iterable[Claim], *, simulated: bool) -> Section:
    facts = spec.bound.facts
    rows = [
        (
            WHO[claim.observer],
            _figure(claim),
            _how(claim, facts.shared, is_local=facts.is_noised_by_clients),
        )
        for claim in found
    ]
    notes = [UNIT] if spec.privacy is not None else [NO_DELTA, UNIT]
    if any(_sampled(claim.event) for claim in found):
        notes.append(SECRET)
    if simulated:
        notes.append(SIMULATED)
    is_site = spec.privacy is not None and spec.privacy.unit == "site"
    return _titled("site" if is_site else "client", spec, rows, notes)


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


def _how(claim: Claim, shared: SharedNoise | None, *, is_local: bool) -> str:
    if claim.event is None:
        return UNPROTECTED
    said = _mechanism(claim.event) if shared is None else _shared(claim, shared)
    if claim.epsilon is None:
        return said
    return f"{said}; {neighbours(claim, is_local=is_local)}; {_by(claim.epsilon)}"


def neighbours(claim: Claim, *, is_local: bool = False) -> str:
    """Return which two worlds a claim with a figure compares. ``is_local``: clients add noise."""
    assert claim.epsilon is not None, "there is a figure"
    if claim.unit == "client" and is_local:
        return "neighbours: a client's data and none, where it sends noise alone"
    if claim.unit == "client" and claim.observer == "sites":
        return "neighbours: a client's share and zero in its place"
    return f"neighbours {claim.epsilon.relation} {claim.unit}"


def _by(told: Epsilon) -> str:
    """Return how an ε was computed."""
    return BY[told.accountant] + (f" ({told.why})" if told.why else "")


def _shared(claim: Claim, shared: SharedNoise) -> str:
    """Return in words whose noise counts toward an observer."""
    if claim.observer == "coordinator":
        return "each round a share under its own noise: sums are plain"
    unknown = unknown_to(claim.observer, shared)
    own = " (its own it knows)" if unknown < shared.honest else ""
    return f"each round the noise of {plural(unknown, 'honest client')}{own}"


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
