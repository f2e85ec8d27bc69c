"""What the noise of a run promises, and toward whom: a figure for each who looks on.

The coordinator sees each update before the noise, so central noise promises nothing there. Sites
see the model of every round and can tell who takes part, since cohorts follow from the seed that
they know: toward them a round is the noise alone. Whoever gets the models and nothing else does not
know who was in a cohort, and sampling makes the noise count for more (Balle, Barthe, Gaboardi,
arXiv:1807.01647). That holds for as long as seed and participation stay with those who run it.

Noise of a client's own (*local*) promises the same to all three. A neighbour's client reports too,
its share nothing but noise, so that it is asked or not tells nothing: sampling gains nothing.

Noise in a client's training (``[local.privacy]``) hides one *example*, or one *person*, from all
three alike: its update is noised before it leaves. A round is its steps, each a Gaussian mechanism
of a Poisson sample of the client's examples, or persons; a person at s clients is in s times as
many. And a client is counted as if every round asked it. That cohorts
are drawn is not counted: all steps of a round are of the same draw, which is one for all of them.

Noise in shares (*distributed*) is of that kind. Whoever sees the total has all of it against them,
a site all but its own, and the coordinator, while sums are plain, only that of each share.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hanse.core.dp_events import Event, Gaussian, PoissonSampled, Repeated
from hanse.core.facts import Facts, SharedNoise
from hanse.core.ledger import OBSERVERS, Tells, Unit
from hanse.core.samplers import Sampler
from hanse.core.spec import Against, Privacy, Quorum, RunSpec
from hanse.core.work import LocalPrivacy
from hanse.errors import ConfigError
from hanse.privacy.accounting import PAID, Epsilon, calibrated, spent
from hanse.privacy.gaussian import LARGEST_MULTIPLIER


@dataclass(frozen=True, slots=True)
class Claim:
    """What an observer is told of one ``unit`` by some rounds; no ``event``: all of it."""

    observer: Against
    event: Event | None
    epsilon: Epsilon | None
    unit: Unit = "client"


def told(
    sampler: Sampler,
    clients: int,
    asked: int,
    noise_multiplier: float,
    rounds: int,
    against: Against,
) -> Event:
    """Return what ``rounds`` rounds of central noise over ``clients`` tell of one of them.

    ``asked``: how many clients a round asks at most. ConfigError for the coordinator, to whom that
    is no noise.
    """
    if against == "coordinator":
        raise _unprotected()
    if against == "sites":
        return Repeated(Gaussian(noise_multiplier), rounds)
    return Repeated(sampler.release(clients, asked, noise_multiplier), rounds)


def needed(
    privacy: Privacy, sampler: Sampler, quorum: Quorum, clients: int, rounds: int, *, is_local: bool
) -> float:
    """Return the smallest noise multiplier that keeps the promise of ``privacy``.

    ConfigError if none up to LARGEST_MULTIPLIER does.
    """
    assert privacy.epsilon is not None, "without a promise there is nothing to find"

    asked = quorum.asked(sampler.largest(clients), clients)

    def event(multiplier: float) -> Event:
        if is_local:
            return Repeated(Gaussian(multiplier), rounds)
        return told(sampler, clients, asked, multiplier, rounds, privacy.against)

    return calibrated(event, privacy.epsilon, privacy.delta, most=LARGEST_MULTIPLIER)


def trained(private: LocalPrivacy, steps: int, rounds: int) -> Event:
    """Return what ``rounds`` rounds of ``steps`` steps of DP-SGD at one client each tell of one
    example, or person.
    """
    noise = Gaussian(private.noise_multiplier)
    rate = private.sampling_rate
    return Repeated(noise if rate == 1 else PoissonSampled(rate, noise), steps * rounds)


def needed_shared(privacy: Privacy, rounds: int, facts: Callable[[float], Facts]) -> float:
    """Return the smallest noise multiplier in shares that keeps the promise of ``privacy``.

    ``facts``: of a pipeline with that multiplier, not bound: with bounds for the largest model that
    it takes. ConfigError if none up to LARGEST_MULTIPLIER does.
    """
    assert privacy.epsilon is not None, "without a promise there is nothing to find"

    def event(multiplier: float) -> Event:
        shared = facts(multiplier).shared
        assert shared is not None, "the pipeline has such noise"
        return told_in_shares(shared, rounds, privacy.against)

    delta = privacy.delta * (1 - PAID)
    return calibrated(event, privacy.epsilon, delta, most=LARGEST_MULTIPLIER)


def told_in_shares(shared: SharedNoise, rounds: int, against: Against) -> Event:
    """Return what ``rounds`` rounds of noise in shares tell of one client."""
    return Repeated(shared.told_by(unknown_to(against, shared)), rounds)


def unknown_to(observer: Against, shared: SharedNoise) -> int:
    """Return how many shares of the noise an observer knows nothing of, at least.

    The coordinator sees each share under one; a site knows its own, unless it is counted among the
    colluding.
    """
    if observer == "coordinator":
        return 1
    return shared.honest - (observer == "sites" and not shared.colluding)


def claims(spec: RunSpec, rounds: int | None = None) -> tuple[Claim, ...]:
    """Return what ``rounds`` rounds of a run tell, by default all that it has planned: of a client,
    where there is noise on shares or total, and of an example or a person, where there is in
    training.

    The schedule counts, not what came of it: a round that nobody reported in has released noise
    all the same.
    """
    planned = spec.rounds if rounds is None else rounds
    return (*_of_a_client(spec, planned), *_within_a_client(spec, planned))


def _within_a_client(spec: RunSpec, planned: int) -> tuple[Claim, ...]:
    private, delta = spec.local.privacy, spec.privacy and spec.privacy.delta
    if private is None:
        return ()
    assert spec.local.steps is not None, "private training has a number of steps"
    event = trained(private, spec.local.steps * private.sites_per_person, planned)
    return tuple(_claim(observer, event, delta, private.unit) for observer in OBSERVERS)


def _of_a_client(spec: RunSpec, planned: int) -> tuple[Claim, ...]:
    facts, delta = spec.bound.facts, spec.privacy and spec.privacy.delta
    if facts.local_multiplier:
        event = Repeated(Gaussian(facts.local_multiplier), planned)
        return tuple(_claim(observer, event, delta) for observer in OBSERVERS)
    if facts.shared is not None:
        return _claims_in_shares(facts.shared, planned, delta)
    if not facts.noise_multiplier:
        return ()
    clients, multiplier = len(spec.clients), facts.noise_multiplier
    found = [Claim("coordinator", None, None)]
    for observer in OBSERVERS[1:]:
        event = told(spec.sampler, clients, spec.cohort, multiplier, planned, observer)
        found.append(_claim(observer, event, delta))
    return tuple(found)


def _claims_in_shares(shared: SharedNoise, rounds: int, delta: float | None) -> tuple[Claim, ...]:
    found = list[Claim]()
    for observer in OBSERVERS:
        event = told_in_shares(shared, rounds, observer)
        found.append(_claim(observer, event, delta))
    return tuple(found)


def release_of(spec: RunSpec) -> Tells:
    """Return what one release of a client's tells each observer of each unit that noise hides.

    Without sampling of clients: one that keeps a ledger of what it released knows that it took
    part.
    """
    tells: dict[Against, dict[Unit, Event]] = {
        observer: {"client": event} for observer, event in _of_a_share(spec.bound.facts).items()
    }
    if spec.local.privacy is not None:
        assert spec.local.steps is not None, "private training has a number of steps"
        event = trained(spec.local.privacy, spec.local.steps, 1)
        for observer in OBSERVERS:
            tells[observer] = {**tells.get(observer, {}), spec.local.privacy.unit: event}
    return tells


def _of_a_share(facts: Facts) -> dict[Against, Event]:
    """Return what noise on shares or their total tells each observer of a client."""
    if facts.local_multiplier:
        return dict.fromkeys(OBSERVERS, Gaussian(facts.local_multiplier))
    if facts.noise_multiplier:
        return dict.fromkeys(OBSERVERS[1:], Gaussian(facts.noise_multiplier))
    told = dict[Against, Event]()
    if facts.shared is not None:
        for observer in OBSERVERS:
            if unknown := unknown_to(observer, facts.shared):
                told[observer] = facts.shared.told_by(unknown)
    return told


def _claim(
    observer: Against,
    event: Event,
    delta: float | None,
    unit: Unit = "client",
) -> Claim:
    return Claim(observer, event, None if delta is None else spent(event, delta), unit)


def needed_in_training(privacy: Privacy, sampling_rate: float, steps: int, rounds: int) -> float:
    """Return the smallest noise multiplier of DP-SGD that keeps the promise of ``privacy``.

    ConfigError if none up to LARGEST_MULTIPLIER does.
    """
    assert privacy.epsilon is not None, "without a promise there is nothing to find"

    def event(multiplier: float) -> Event:
        return trained(LocalPrivacy(1.0, multiplier, sampling_rate), steps, rounds)

    return calibrated(event, privacy.epsilon, privacy.delta, most=LARGEST_MULTIPLIER)


def _unprotected() -> ConfigError:
    return ConfigError(
        "noise at the coordinator gives no privacy against it: it sees each update before",
        hint='use local_gaussian_noise, or against = "recipients"',
    )


def check(spec: RunSpec) -> None:
    """Raise ConfigError if the planned rounds tell more than the run promises."""
    privacy = spec.privacy
    if privacy is None or privacy.epsilon is None:
        return
    unit: Unit = "client" if privacy.unit == "site" else privacy.unit
    kept = [claim for claim in claims(spec) if claim.unit == unit]
    claim = next(claim for claim in kept if claim.observer == privacy.against)
    if claim.epsilon is None:
        raise _unprotected()
    if claim.epsilon.epsilon > privacy.epsilon:
        multiplier = _multiplier(spec, unit)
        raise ConfigError(
            f"{spec.rounds} rounds of noise with multiplier {multiplier:g} come to ε = "
            f"{claim.epsilon.epsilon:.4g} at δ = {privacy.delta:g}, and [privacy] promises "
            f"{privacy.epsilon:g}",
            hint="leave noise_multiplier out, and the noise that it takes is found",
        )


def _multiplier(spec: RunSpec, unit: Unit) -> float:
    """Return the noise multiplier that hides ``unit`` as it stands in the run."""
    if unit != "client":
        return spec.local.example_multiplier
    noise = next(step for step in spec.pipeline.steps if step.kind == "noise")
    return float(getattr(noise, "noise_multiplier", 0.0))
