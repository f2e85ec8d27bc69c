"""What the noise of a run promises, and toward whom: a figure for each who looks on.

The coordinator sees each update before the noise, so central noise promises nothing there. Sites
see the model of every round and can tell who takes part, since cohorts follow from the seed that
they know: toward them a round is the noise alone. Whoever gets the models and nothing else does not
know who was in a cohort, and sampling makes the noise count for more (Balle, Barthe, Gaboardi,
arXiv:1807.01647). That holds for as long as seed and participation stay with those who run it.

Noise of a client's own (*local*) promises the same to all three. A neighbour's client reports too,
its share nothing but noise, so that it is asked or not tells nothing: sampling gains nothing.
"""

from dataclasses import dataclass

from hanse.core.dp_events import Event, Gaussian, Repeated
from hanse.core.ledger import OBSERVERS, Unit
from hanse.core.samplers import Sampler
from hanse.core.spec import Against, Privacy, Quorum, RunSpec
from hanse.errors import ConfigError
from hanse.privacy.accounting import Epsilon, calibrated, spent
from hanse.privacy.gaussian import LARGEST_MULTIPLIER


@dataclass(frozen=True, slots=True)
class Claim:
    """What an observer is told of one client by some rounds; no ``event``: all of it."""

    observer: Against
    event: Event | None
    epsilon: Epsilon | None


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


def claims(spec: RunSpec, rounds: int | None = None) -> tuple[Claim, ...]:
    """Return what ``rounds`` rounds of a run tell, by default all that it has planned.

    The schedule counts, not what came of it: a round that nobody reported in has released noise
    all the same.
    """
    facts, delta = spec.bound.facts, spec.privacy and spec.privacy.delta
    planned = spec.rounds if rounds is None else rounds
    if facts.local_multiplier:
        event = Repeated(Gaussian(facts.local_multiplier), planned)
        return tuple(_claim(observer, event, delta) for observer in OBSERVERS)
    if not facts.noise_multiplier:
        return ()
    clients, multiplier = len(spec.clients), facts.noise_multiplier
    found = [Claim("coordinator", None, None)]
    for observer in OBSERVERS[1:]:
        event = told(spec.sampler, clients, spec.cohort, multiplier, planned, observer)
        found.append(_claim(observer, event, delta))
    return tuple(found)


def release_of(spec: RunSpec) -> tuple[Unit, dict[Against, Event]]:
    """Return whose contribution the noise hides, and what one release of a client's tells each
    observer; who is not in it is told all.

    Without sampling: a client that keeps a ledger of what it released knows that it took part.
    """
    facts = spec.bound.facts
    if facts.local_multiplier:
        return "client", dict.fromkeys(OBSERVERS, Gaussian(facts.local_multiplier))
    if facts.noise_multiplier:
        return "client", dict.fromkeys(OBSERVERS[1:], Gaussian(facts.noise_multiplier))
    return "client", {}


def _claim(observer: Against, event: Event, delta: float | None) -> Claim:
    return Claim(observer, event, None if delta is None else spent(event, delta))


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
    claim = next(claim for claim in claims(spec) if claim.observer == privacy.against)
    if claim.epsilon is None:
        raise _unprotected()
    if claim.epsilon.epsilon > privacy.epsilon:
        facts = spec.bound.facts
        multiplier = facts.noise_multiplier or facts.local_multiplier
        raise ConfigError(
            f"{spec.rounds} rounds of noise with multiplier {multiplier:g} come to ε = "
            f"{claim.epsilon.epsilon:.4g} at δ = {privacy.delta:g}, and [privacy] promises "
            f"{privacy.epsilon:g}",
            hint="leave noise_multiplier out, and the noise that it takes is found",
        )
