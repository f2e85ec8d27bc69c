"""The course of a deployed run, from the first question to the last model, as a pure machine.

State is the fold of its journalled events. What there is to do follows from the state alone, for
the driver (:func:`due`) and for each site (:func:`assignments`): nothing is delivered, so nothing
can be lost, and whoever stops goes on where the journal ends. The round inside is the machine of
:mod:`hanse.core.rounds`; vectors are blobs that events name by their ids.

| stage      | what is due                   | events                                   |
|------------|-------------------------------|------------------------------------------|
| preparing  | every site says yes           | Prepared, Declined (asked again)         |
| between    | Open the next round           | Opened                                   |
| training   | sites answer, or time is up   | Reported, Refused, Failed, Ticked        |
| summing    | Absorb what was counted       | Absorbed; Reopened: training once more   |
| evaluating | sites answer, or time is up   | Scored, Unscored, Ticked; then Judged    |
| ended      | each site has the final model | Concluded (at any time); Acknowledged    |

Times are seconds of one clock that never steps back, and arrive in events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hanse.core import rounds
from hanse.core.canonical import Json
from hanse.core.events import (
    Absorbed,
    Acknowledged,
    Concluded,
    Declined,
    Event,
    Failed,
    Judged,
    Late,
    Opened,
    Outcome,
    Prepared,
    Refused,
    Reopened,
    Reported,
    Scored,
    Ticked,
    Unscored,
)
from hanse.core.plan import plan_of
from hanse.core.spec import RunSpec
from hanse.errors import ProtocolError

Stage = Literal["preparing", "between", "training", "summing", "evaluating", "ended"]


# State.


@dataclass(frozen=True, slots=True)
class Member:
    """A site of the run: how often it was asked, and its last answer."""

    attempt: int = 0
    is_ready: bool = False
    fingerprint: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scoring:
    """An evaluation under way: counts by site, reasons of those without, and when it must end."""

    round: int
    until: float | None
    scores: Mapping[str, tuple[int, ...]]
    lacking: Mapping[str, str]

    def is_open(self, site: str) -> bool:
        """Whether the site has not answered yet."""
        return site not in self.scores and site not in self.lacking


@dataclass(frozen=True)
class Course:
    """A run under way: ``round`` rounds are absorbed, ``model`` is the blob of what they left.

    ``again``: why the open round began again, each time that it did.

    ``counted``: site → the last round in which its report was counted. It stands until there is a
    later one: a site that is away when a round ends learns of it in any round thereafter.
    """

    spec: RunSpec
    model: str
    memory: str = ""
    round: int = 0
    now: float = 0.0
    members: Mapping[str, Member] = field(default_factory=dict[str, Member])
    opened: rounds.State | None = None
    again: tuple[str, ...] = ()
    announced: Mapping[str, Json] = field(default_factory=dict[str, "Json"])
    blobs: Mapping[str, str] = field(default_factory=dict[str, str])
    scoring: Scoring | None = None
    counted: Mapping[str, int] = field(default_factory=dict[str, int])
    outcome: Outcome | None = None
    reason: str = ""
    told: frozenset[str] = frozenset()

    @property
    def stage(self) -> Stage:
        """Where the run is."""
        if self.outcome is not None:
            return "ended"
        if not all(member.is_ready for member in self.members.values()):
            return "preparing"
        if self.scoring is not None:
            return "evaluating"
        if self.opened is None:
            return "between"
        return "summing" if isinstance(self.opened, rounds.Final) else "training"


def begin(spec: RunSpec, model: str) -> Course:
    """Return the run before anybody was asked; ``model`` is the blob of its initial model."""
    return Course(spec, model, members={site: Member() for site in sorted(spec.clients)})


# What there is to do.


@dataclass(frozen=True, slots=True)
class Open:
    """Begin round ``round``."""

    round: int


@dataclass(frozen=True, slots=True)
class Absorb:
    """Sum what was counted (site → blob), move the model, and keep it."""

    round: int
    state: rounds.Final
    blobs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Judge:
    """Turn the counts of an evaluation into the numbers of a row."""

    scoring: Scoring


@dataclass(frozen=True, slots=True)
class Conclude:
    """The last round is done: end the run."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing until a site answers, or until then."""

    until: float | None = None


Action = Open | Absorb | Judge | Conclude | Wait


def due(course: Course) -> Action:
    """Return what the driver has to do now."""
    match course.stage:
        case "between" if course.round >= course.spec.rounds:
            return Conclude()
        case "between":
            return Open(course.round + 1)
        case "summing":
            assert isinstance(course.opened, rounds.Final)
            blobs = {site: course.blobs[site] for site in _counted(course.opened)}
            return Absorb(course.round + 1, course.opened, blobs)
        case "evaluating":
            assert course.scoring is not None
            waits = _is_awaiting(course, course.scoring)
            return Wait(course.scoring.until) if waits else Judge(course.scoring)
        case "training":
            assert isinstance(course.opened, rounds.Open)
            return Wait(course.opened.until)
        case _:
            return Wait()


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one site is asked, until it answers or the question is withdrawn (protocol §6)."""

    kind: str
    round: int
    blob: str | None
    body: Mapping[str, Json]
    counted: int | None

    def json(self, run: str) -> dict[str, Json]:
        """Return the assignment as it travels."""
        return {
            "run": run,
            "kind": self.kind,
            "round": self.round,
            "blob": self.blob,
            "body": self.body,
            "counted": self.counted,
        }


def assignments(course: Course, site: str) -> list[Assignment]:
    """Return what ``site`` is asked now."""
    member, counted = course.members[site], course.counted.get(site)
    if course.outcome is not None:
        body: dict[str, Json] = {"outcome": course.outcome}
        finish = Assignment("finish", course.round, course.model, body, counted)
        return [finish] if member.is_ready and site not in course.told else []
    if not member.is_ready:
        return [Assignment("prepare", member.attempt, None, {}, None)]
    if course.scoring is not None and course.scoring.is_open(site):
        return [Assignment("evaluate", course.round, course.model, {}, counted)]
    if isinstance(course.opened, rounds.Open) and _is_awaited(course.opened, site):
        told: dict[str, Json] = {"announced": course.announced, "again": len(course.again)}
        return [Assignment("train", course.round + 1, course.model, told, counted)]
    return []


def _is_awaited(state: rounds.Open, site: str) -> bool:
    answered = (state.counted, state.refused, state.dropped)
    return state.plan.has(site) and not any(site in told for told in answered)


# Steps.


def step(course: Course, event: Event) -> Course:
    """Return the course after ``event``.

    Raises ProtocolError for what a peer must not send; the course is then as it was. A late answer
    is told by :func:`is_late` and recorded as Late.
    """
    now = max(course.now, event.now)
    course = replace(course, now=now)
    match event:
        case Concluded(outcome, reason):
            if course.outcome is not None:
                raise ProtocolError(f"the run has ended already: {course.outcome}")
            return replace(course, outcome=outcome, reason=reason, opened=None, scoring=None)
        case Late():
            return course
        case Acknowledged(site):
            if course.outcome is None or site not in course.members:
                raise ProtocolError(f"{site}: the end of a run that has not ended")
            return replace(course, told=course.told | {site})
        case Prepared(site, attempt, _, fingerprint):
            _check_attempt(course, site, attempt)
            return _with_member(course, site, Member(attempt, True, fingerprint))
        case Declined(site, attempt, _, reasons):
            _check_attempt(course, site, attempt)
            return _with_member(course, site, Member(attempt + 1, reasons=reasons))
        case Opened(number, announced):
            return _open(course, number, announced, now)
        case Reopened(number, reason):
            return _reopen(course, number, reason, now)
        case Reported() | Refused() | Failed():
            return _train(course, event)
        case Absorbed():
            return _absorb(course, event)
        case Scored(site, number, _, counts):
            scoring = _scoring(course, site, number)
            return replace(
                course, scoring=replace(scoring, scores={**scoring.scores, site: counts})
            )
        case Unscored(site, number, _, reason):
            scoring = _scoring(course, site, number)
            lacking = {**scoring.lacking, site: reason}
            return replace(course, scoring=replace(scoring, lacking=lacking))
        case Judged(number):
            scoring = course.scoring
            if scoring is None or number != scoring.round or _is_awaiting(course, scoring):
                raise ProtocolError(f"the counts of round {number} are not complete")
            return replace(course, scoring=None)
        case Ticked():
            return _tick(course)


def is_late(course: Course, kind: str, round: int) -> bool:
    """Whether an answer of ``kind`` comes after its round, or its run, has ended."""
    if kind == "finish":
        return False
    if course.outcome is not None:
        return True
    if kind == "train":
        closed = round == course.round + 1 and isinstance(course.opened, rounds.Final)
        return round <= course.round or closed
    if kind == "evaluate":
        scored = course.scoring.round if course.scoring is not None else course.round + 1
        return round < scored
    return False


def _check_attempt(course: Course, site: str, attempt: int) -> None:
    member = course.members.get(site)
    if member is None or member.is_ready or attempt != member.attempt or course.outcome is not None:
        raise ProtocolError(f"{site}: an answer to a question that was not asked")


def _with_member(course: Course, site: str, member: Member) -> Course:
    return replace(course, members={**course.members, site: member})


def _open(course: Course, number: int, announced: Mapping[str, Json], now: float) -> Course:
    if course.stage != "between" or number != course.round + 1:
        raise ProtocolError(f"round {number} cannot open while the run is {course.stage}")
    return replace(
        course, opened=_fresh(course, number, now), announced=announced, blobs={}, again=()
    )


def _reopen(course: Course, number: int, reason: str, now: float) -> Course:
    if course.opened is None or number != course.round + 1:
        raise ProtocolError(f"round {number} cannot begin again while the run is {course.stage}")
    return replace(
        course, opened=_fresh(course, number, now), blobs={}, again=(*course.again, reason)
    )


def _fresh(course: Course, number: int, now: float) -> rounds.State:
    """Return a round of which everybody has been told, and nobody has answered."""
    plan = plan_of(number, course.spec)
    state, _ = rounds.begin(plan, now)
    state, _ = rounds.step(state, rounds.Configured(plan.cohort, now))
    return state


def _train(course: Course, event: Reported | Refused | Failed) -> Course:
    if course.opened is None or event.round != course.round + 1:
        raise ProtocolError(f"{event.site}: a report for round {event.round}, which is not open")
    blobs = course.blobs
    match event:
        case Reported(site, _, digest, blob):
            inner = rounds.Reported((rounds.Report(site, digest),), course.now)
            blobs = {**course.blobs, site: blob}
        case Refused(site, _, _, reason):
            inner = rounds.Refused(((site, reason),), course.now)
        case Failed(site, _, _, reason):
            inner = rounds.Dropped(((site, reason),), course.now)
    opened, _ = rounds.step(course.opened, inner)
    return replace(course, opened=opened, blobs=blobs)


def _absorb(course: Course, event: Absorbed) -> Course:
    if course.stage != "summing" or event.round != course.round + 1:
        raise ProtocolError(f"round {event.round} cannot be absorbed while {course.stage}")
    assert isinstance(course.opened, rounds.Final)
    fresh = dict.fromkeys(_counted(course.opened), event.round)
    scoring = None
    evaluation = course.spec.evaluation
    if evaluation.is_due(event.round, course.spec.rounds) and evaluation.release != "none":
        deadline = course.spec.quorum.deadline_s
        until = None if deadline is None else course.now + deadline
        scoring = Scoring(event.round, until, {}, {})
    return replace(
        course,
        round=event.round,
        model=event.model,
        memory=event.memory,
        opened=None,
        blobs={},
        scoring=scoring,
        counted={**course.counted, **fresh},
    )


def _counted(state: rounds.Final) -> Mapping[str, str]:
    return state.counted if isinstance(state, rounds.Done) else {}


def _is_awaiting(course: Course, scoring: Scoring) -> bool:
    return any(map(scoring.is_open, course.members))


def _scoring(course: Course, site: str, number: int) -> Scoring:
    scoring = course.scoring
    known = site in course.members
    if scoring is None or not known or number != scoring.round or not scoring.is_open(site):
        raise ProtocolError(f"{site}: counts for round {number}, which were not asked")
    return scoring


def _tick(course: Course) -> Course:
    if course.opened is not None:
        opened, _ = rounds.step(course.opened, rounds.Tick(course.now))
        return replace(course, opened=opened)
    scoring = course.scoring
    if scoring is None or scoring.until is None or course.now < scoring.until:
        return course
    silent = [site for site in course.members if scoring.is_open(site)]
    lacking = {**scoring.lacking, **dict.fromkeys(silent, "no answer by the deadline")}
    return replace(course, scoring=replace(scoring, lacking=lacking))
