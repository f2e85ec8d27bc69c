"""What a release was, in the words that an accountant needs: events that compose.

The vocabulary is that of dp-accounting's DpEvent: an event documents a mechanism so completely that
ε can be computed from it and from nothing else. An event is a statement for one adjacency relation
and says which. "Add or remove one": two data sets of which one lacks a record. "Replace one": two
of the same size that differ in a record. It protects nothing: it is a claim, as true as whoever
makes it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NoReturn

from hanse.core.canonical import Json
from hanse.errors import ConfigError

Relation = Literal["add or remove one", "replace one"]
DEEPEST = 32
"""How many events may lie inside each other."""
LARGEST = 1e100
"""Larger numbers, squared, are none."""
LARGEST_COUNT = 2**53
"""Larger integers have no exact JSON."""


class Event:
    """What was released. Equal events have equal JSON."""

    kind: ClassVar[str]

    @property
    def relations(self) -> frozenset[Relation]:
        """The adjacency relations that the event, and what it is made of, speak of."""
        return frozenset({"add or remove one"})

    @property
    def relation(self) -> Relation:
        """The one adjacency relation that the event is a statement for.

        ConfigError if its parts speak of different ones: no ε covers them all. What releases
        nothing speaks of either, and is counted to "add or remove one".
        """
        if len(self.relations) > 1:
            raise ConfigError(
                "the events speak of different neighbours: of some a record is added or removed,"
                " of others one is replaced, and no one ε covers both",
                hint="sample all rounds in one way: by Poisson, or all with a fixed size",
            )
        for relation in self.relations:
            return relation
        return "add or remove one"

    @property
    def depth(self) -> int:
        """How many events lie inside each other, this one included."""
        return 1

    def json(self) -> dict[str, Json]:
        """Return the event as JSON, which :func:`event_of` reads back."""
        said: dict[str, Json] = {"kind": self.kind}
        for field in fields(self):  # pyright: ignore[reportArgumentType] -- each event is one
            said[field.name] = _json(getattr(self, field.name))
        return said


@dataclass(frozen=True)
class Nothing(Event):
    """Nothing that depends on the data was released."""

    kind: ClassVar[str] = "nothing"

    @property
    def relations(self) -> frozenset[Relation]:
        """None."""
        return frozenset()


@dataclass(frozen=True)
class Gaussian(Event):
    """A sum of vectors of L2 norm at most C, plus N(0, (``noise_multiplier``·C)²) a coordinate."""

    noise_multiplier: float

    kind: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        """Refuse a multiplier that is no finite number from 0 on."""
        _number(self, "noise_multiplier")


@dataclass(frozen=True)
class Laplace(Event):
    """A sum of numbers of at most C each, plus noise of density exp(−|x|/b)/2b, with b =
    ``noise_multiplier``·C. Of vectors, with noise in each coordinate, it is not known here that
    they tell no more than one number of their L1 norm does.
    """

    noise_multiplier: float

    kind: ClassVar[str] = "laplace"

    def __post_init__(self) -> None:
        """Refuse a multiplier that is no finite number from 0 on."""
        _number(self, "noise_multiplier")


@dataclass(frozen=True)
class Skellam(Event):
    """A sum of integer vectors of L1 and L2 norms at most ``l1`` and ``l2``, plus the difference of
    two Poisson variables of mean ``variance``/2 each a coordinate (arXiv:2110.04995).

    All three are in steps of the integer grid, and ``variance`` is that of the noise in the sum: of
    shares only as many count as are sure to have been added.
    """

    l1: float
    l2: float
    variance: float

    kind: ClassVar[str] = "skellam"

    def __post_init__(self) -> None:
        """Refuse what is no finite number from 0 on, and norms that no integer vector has."""
        for name in ("l1", "l2", "variance"):
            _number(self, name)
        if self.l1 < self.l2:
            raise ConfigError(
                f"{self}: no vector has an L1 norm of at most {self.l1:g} only and an L2 norm of"
                f" {self.l2:g}",
                hint="give l1 >= l2; for d coordinates of integers l1 = l2 * min(sqrt(d), l2)",
            )

    @classmethod
    def rounded(
        cls, norm: float, dimension: int, variance: float, *, beta: float | None = None
    ) -> "Skellam":
        """Return the event of vectors of ``dimension`` coordinates and L2 norm at most ``norm``,
        in steps of the grid, that are rounded to it at random, up or down.

        Plain rounding moves each coordinate by less than a step: L2 ≤ norm + √d. Conditional
        rounding draws again until L2² ≤ norm² + d/4 + √(2 ln(1/``beta``))·(norm + √d/2) too
        (arXiv:2102.06387, §4.1). L1 ≤ L2·min(√d, L2), since the coordinates are integers.
        """
        if dimension < 1:
            raise ConfigError(f"dimension = {dimension} is no dimension", hint="give 1 or more")
        root = math.sqrt(dimension)
        square = (norm + root) ** 2
        if beta is not None:
            if not 0 < beta < 1:
                raise ConfigError(f"beta = {beta} is not in (0, 1)", hint="exp(-1/2) is common")
            loss = math.sqrt(-2 * math.log(beta)) * (norm + root / 2)
            square = min(square, norm**2 + dimension / 4 + loss)
        l2 = math.sqrt(square)
        return cls(l2 * min(root, l2), l2, variance)


@dataclass(frozen=True)
class PoissonSampled(Event):
    """Each record by itself with probability ``rate``, kept secret; ``event`` on those picked.

    ``event`` is released of one sample: what it repeats or composes sees the same records.
    """

    rate: float
    event: Event

    kind: ClassVar[str] = "poisson_sampled"

    def __post_init__(self) -> None:
        """Refuse a rate that is no probability, and sampling inside."""
        _number(self, "rate")
        if self.rate > 1:
            raise ConfigError(f"rate = {self.rate} is no probability", hint="give 0 <= rate <= 1")
        _unsampled(self)

    @property
    def depth(self) -> int:
        """One more than the event inside."""
        return 1 + self.event.depth


@dataclass(frozen=True)
class FixedSizeSampled(Event):
    """``cohort`` of ``population`` records, uniformly without replacement and kept secret;
    ``event`` on those picked. Neighbours are data sets that differ in one record of the same size.

    ``event`` has the numbers of one record's bound C, as everywhere: that replacing a record by
    another moves a sum by up to 2C is for the accountant to count.
    """

    population: int
    cohort: int
    event: Event

    kind: ClassVar[str] = "fixed_size_sampled"

    def __post_init__(self) -> None:
        """Refuse a cohort that the population does not hold, and sampling inside."""
        _count(self, "population", 1)
        _count(self, "cohort", 0)
        if self.cohort > self.population:
            raise ConfigError(
                f"a cohort of {self.cohort} is larger than the population of {self.population}",
                hint="give cohort <= population",
            )
        _unsampled(self)

    @property
    def relations(self) -> frozenset[Relation]:
        """Replace one: sizes are public."""
        return frozenset({"replace one"})

    @property
    def depth(self) -> int:
        """One more than the event inside."""
        return 1 + self.event.depth


@dataclass(frozen=True)
class Repeated(Event):
    """``event``, ``count`` times, each with fresh chance."""

    event: Event
    count: int

    kind: ClassVar[str] = "repeated"

    def __post_init__(self) -> None:
        """Refuse a count that is no integer from 0 on."""
        _count(self, "count", 0)
        _events(self, (self.event,))

    @property
    def relations(self) -> frozenset[Relation]:
        """Those of the event."""
        return self.event.relations

    @property
    def depth(self) -> int:
        """One more than the event inside."""
        return 1 + self.event.depth


@dataclass(frozen=True)
class Composed(Event):
    """All of ``events``; a later one may have been chosen by what an earlier one released."""

    events: tuple[Event, ...]

    kind: ClassVar[str] = "composed"

    def __post_init__(self) -> None:
        """Keep the events as a tuple; refuse what is none."""
        object.__setattr__(self, "events", tuple(self.events))
        _events(self, self.events)

    @property
    def relations(self) -> frozenset[Relation]:
        """Those of all events."""
        return frozenset[Relation]().union(*(event.relations for event in self.events))

    @property
    def depth(self) -> int:
        """One more than the deepest event inside."""
        return 1 + max((event.depth for event in self.events), default=0)


def of_a_part(event: Event) -> Event:
    """Return what is told of a *part* of a record by ``event``, which speaks of whole ones: of one
    person in a client's data by the noise that hides the client, of one row by that for a person.

    Without the part the record is not gone but another one: where all of it adds u to a sum, it now
    adds u′, both at most C long, so that the sum moves by up to 2C. That is the mechanism with half
    of the noise. Whether the record was sampled is the same with the part and without, so sampling
    by Poisson, which makes *that it is there* uncertain, is not counted: given who was taken, it is
    the mechanism without sampling, and a mixture tells no more (quasi-convexity). A sample of a
    fixed size speaks of one record in the place of another, which is this already.
    """
    match event:
        case Gaussian(multiplier) | Laplace(multiplier):
            return type(event)(multiplier / 2)
        case Skellam(l1, l2, variance):
            return Skellam(2 * l1, 2 * l2, variance)
        case PoissonSampled(_, inner):
            return of_a_part(inner)
        case Repeated(inner, count):
            return Repeated(of_a_part(inner), count)
        case Composed(events):
            return Composed(tuple(map(of_a_part, events)))
        case Nothing() | FixedSizeSampled():
            return event
        case _:
            raise ConfigError(f"{event} is no event that is known", hint="update Hanse")


KINDS: Mapping[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        Nothing,
        Gaussian,
        Laplace,
        Skellam,
        PoissonSampled,
        FixedSizeSampled,
        Repeated,
        Composed,
    )
}


def event_of(json: object) -> Event:
    """Return the event that ``json`` says; ConfigError for an unknown kind, field or number."""
    return _event_of(json, DEEPEST)


def _event_of(json: Any, room: int) -> Event:
    said = json.get("kind") if isinstance(json, dict) else json  # pyright: ignore
    if not isinstance(json, dict) or not isinstance(said, str) or said not in KINDS:
        raise ConfigError(f"{said!r:.80} is no event", hint=f"known are {', '.join(KINDS)}")
    if not room:
        _too_deep()
    told: dict[str, Any] = dict(json)  # pyright: ignore
    kind = KINDS[told.pop("kind")]
    wanted = {field.name for field in fields(kind)}  # pyright: ignore[reportArgumentType] -- it is
    if told.keys() != wanted:
        raise ConfigError(
            f"event {kind.kind} has the fields {sorted(told)}",
            hint=f"it needs {sorted(wanted)}, and no other",
        )
    if "event" in wanted:
        told["event"] = _event_of(told["event"], room - 1)
    if "events" in wanted:
        if type(told["events"]) not in (list, tuple):
            raise ConfigError(
                f"events = {told['events']!r:.80} is no list", hint="give a list of events"
            )
        told["events"] = tuple(_event_of(inner, room - 1) for inner in told["events"])
    return kind(**told)


def _json(value: Event | tuple[Event, ...] | float) -> Json:
    if isinstance(value, Event):
        return value.json()
    return [one.json() for one in value] if isinstance(value, tuple) else value


def _number(event: Any, name: str) -> None:
    """Refuse what is no finite number from 0 on, and keep it as a float."""
    value = getattr(event, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise ConfigError(
            f"{name} = {value!r:.40} of a {event.kind} is no finite number from 0 on",
            hint=f"give {name} as a number, such as 1.0",
        )
    object.__setattr__(event, name, float(value))


def _count(event: Any, name: str, least: int) -> None:
    value = getattr(event, name)
    if type(value) is not int or not least <= value <= LARGEST_COUNT:
        raise ConfigError(
            f"{name} = {value!r:.40} of a {event.kind} is no whole number from {least} on",
            hint=f"give {name} as one",
        )


def _events(event: Any, inside: Iterable[Any]) -> None:
    for one in inside:
        if not isinstance(one, Event):
            raise ConfigError(
                f"{one!r:.80} in a {event.kind} is no event", hint="give events, such as Gaussian"
            )
    if event.depth > DEEPEST:
        _too_deep()


def _unsampled(event: Any) -> None:
    """Refuse a sample of a sample: no accountant here knows what that comes to."""
    _events(event, (event.event,))
    if _samples(event.event):
        raise ConfigError(
            f"a {event.kind} of what is a sample itself", hint="sample once, and repeat that"
        )


def _samples(event: Event) -> bool:
    match event:
        case PoissonSampled() | FixedSizeSampled():
            return True
        case Repeated(inner, _):
            return _samples(inner)
        case Composed(events):
            return any(map(_samples, events))
        case _:
            return False


def _too_deep() -> NoReturn:
    raise ConfigError(
        f"events lie more than {DEEPEST} deep inside each other", hint="compose them flatly"
    )
