"""What happens to a deployed run, as the journal keeps it (see :mod:`hanse.core.course`).

``now`` is in seconds of the coordinator's clock of runs, ``digest`` that of a site's answer
(docs/protocol.md §6). Nothing here is a vector: those are blobs, named by their ids.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from hanse.core.canonical import Json

Outcome = Literal["done", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A site will take part; ``fingerprint`` tells whose bits agree with whose."""

    site: str
    attempt: int
    digest: str
    fingerprint: str
    now: float


@dataclass(frozen=True, slots=True)
class Declined:
    """A site will not take part, and why. It is asked again when something changes there."""

    site: str
    attempt: int
    digest: str
    reasons: tuple[str, ...]
    now: float


@dataclass(frozen=True, slots=True)
class Opened:
    """A round begins; ``announced`` is what its steps tell the clients."""

    round: int
    announced: Mapping[str, Json]
    now: float


@dataclass(frozen=True, slots=True)
class Reopened:
    """The round begins again: a share that was counted is no more there to be summed."""

    round: int
    reason: str
    now: float


@dataclass(frozen=True, slots=True)
class Reported:
    """A share is durable, whole and within its bounds. ``digest`` is the answer's."""

    site: str
    round: int
    digest: str
    blob: str
    now: float


@dataclass(frozen=True, slots=True)
class Refused:
    """An update that is not summed: a check of the site's or of the coordinator's refused it."""

    site: str
    round: int
    digest: str
    reason: str
    now: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A site could not train: its code or its data failed."""

    site: str
    round: int
    digest: str
    reason: str
    now: float


@dataclass(frozen=True, slots=True)
class Late:
    """An answer of ``kind`` to a round that has ended; it changes nothing."""

    site: str
    round: int
    kind: str
    digest: str
    reason: str
    now: float


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed, and something ends by it."""

    now: float


@dataclass(frozen=True, slots=True)
class Absorbed:
    """The round's total is in ``model``; ``memory`` is a blob of server slots and step states."""

    round: int
    model: str
    memory: str
    row: Mapping[str, Json]
    now: float


@dataclass(frozen=True, slots=True)
class Scored:
    """A site's evaluation counts."""

    site: str
    round: int
    digest: str
    counts: tuple[int, ...]
    now: float


@dataclass(frozen=True, slots=True)
class Unscored:
    """A site has no evaluation counts to give, and why."""

    site: str
    round: int
    digest: str
    reason: str
    now: float


@dataclass(frozen=True, slots=True)
class Judged:
    """The evaluation of a round is complete."""

    round: int
    row: Mapping[str, Json]
    now: float


@dataclass(frozen=True, slots=True)
class Concluded:
    """The run has ended."""

    outcome: Outcome
    reason: str
    now: float


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A site knows that the run has ended after ``round`` rounds, and has its model."""

    site: str
    round: int
    digest: str
    now: float


Event = (
    Prepared
    | Declined
    | Opened
    | Reopened
    | Reported
    | Refused
    | Failed
    | Late
    | Ticked
    | Absorbed
    | Scored
    | Unscored
    | Judged
    | Concluded
    | Acknowledged
)
KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in Event.__args__}


def to_json(event: Event) -> tuple[str, dict[str, Json]]:
    """Return kind and body of an event, as the journal keeps them.

    Counts are decimal texts there: a sum may be above 2^53, where JSON's integers end.
    """
    body = asdict(event)
    if isinstance(event, Scored):
        body["counts"] = [str(count) for count in event.counts]
    return type(event).__name__.lower(), body


def from_json(kind: str, body: Mapping[str, Any]) -> Event:
    """Return the event of :func:`to_json`; ValueError for a kind or a body that is none."""
    if kind not in KINDS or {f.name for f in fields(KINDS[kind])} != set(body):
        raise ValueError(f"{kind} with {', '.join(body)} is no event of a run")
    values = {name: _frozen(value) for name, value in body.items()}
    if kind == "scored":
        values["counts"] = tuple(map(int, values["counts"]))
    return KINDS[kind](**values)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] -- as JSON has it
