"""The round: who is asked, who is counted, when it ends (Bonawitz et al., arXiv:1902.01046).

A pure machine: ``step(state, event) -> (state, effects)``. It knows clients and digests, never a
vector; the driver folds the shares that it names. Every event moves time to the latest ``now``
seen: a stage whose time is up ends before the event is looked at, and a clock that steps back does
nothing. In one process ``begin`` can configure everyone, and the next event be a Reported.

| state          | event                   | next state, effects                                   |
|----------------|-------------------------|-------------------------------------------------------|
| Selection      | CheckedIn, Dropped      | all here or gone: Configuration, Configure; else same |
| Selection      | time is up              | Configuration of those here, Configure                |
| Configuration  | Configured              | plan with everyone awaited: Reporting; else same      |
| Configuration¹ | CheckedIn               | same, Configure: the plan goes out again              |
| Configuration¹ | Reported                | same, or Done; Count, and for the surplus Discard     |
| Configuration¹ | Refused                 | same, or Done, or Aborted; Discard                    |
| Configuration¹ | Dropped                 | same, or Done, or Aborted                             |
| Configuration¹ | time is up              | Done or Aborted                                       |
| Done           | Reported, Refused       | same; Receipt again if counted, else Discard          |
| Aborted        | Reported, Refused       | same; Discard                                         |
| Done, Aborted  | CheckedIn               | same; Receipt again or Discard                        |
| any            | Tick, or nothing new    | same                                                  |

¹ and Reporting: a report shows by itself that the plan has arrived.

An open round becomes Done when its goal is met, when nobody is awaited any more, or at the
deadline; but Aborted as soon as those counted and those awaited are fewer than the minimum.
Becoming Done gives Close, then a Receipt; becoming Aborted gives Abort, then a Discard for each
that had been counted. No receipt goes out before: a round that aborts throws the sum away, and what
its clients remember of it must go too.

A stranger, a report before its time, and a second report with another digest are ProtocolErrors.
The event is then dropped as a whole, so messages of peers that may err come one per event.

The machine protects nothing by itself: digests and ids are taken as the driver authenticated them.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Literal

from hanse.errors import ProtocolError

Reasons = Mapping[str, str]
ClosedBy = Literal["goal", "everyone", "deadline"]
NAMED = 3
"""How many clients a sentence names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a round needs before it starts.

    ``cohort``: ids, sorted, already more than ``goal`` where the sampler over-selects. ``goal``:
    close when that many reports are counted. ``minimum``: with fewer the round aborts.
    ``selection_s``: how long to wait for clients to check in; None asks the whole cohort at once.
    ``deadline_s``: how long to wait for reports from then on; None waits for everybody.

    ``never_aborts`` is for a round under a privacy claim: it ends as Done even with nothing
    counted, and a refused update is a zero and a participant, which makes up the goal.
    """

    round: int
    cohort: tuple[str, ...]
    goal: int
    minimum: int
    selection_s: float | None = None
    deadline_s: float | None = None
    never_aborts: bool = False

    def __post_init__(self) -> None:
        """Refuse a plan that contradicts itself."""
        if not all(one < two for one, two in pairwise(self.cohort)):
            raise ValueError(f"the cohort of round {self.round} is not sorted, each client once")
        if self.goal < min(max(self.minimum, 1), len(self.cohort)):
            raise ValueError(f"round {self.round}: goal {self.goal}, but minimum {self.minimum}")
        for seconds in (self.selection_s, self.deadline_s):
            if seconds is not None and not seconds > 0:
                raise ValueError(f"round {self.round} has no time: {seconds} s for a stage")

    def has(self, client: str) -> bool:
        """Whether ``client`` is in the cohort."""
        at = bisect_left(self.cohort, client)
        return at < len(self.cohort) and self.cohort[at] == client


@dataclass(frozen=True, slots=True)
class Report:
    """A client's share by its digest; the share itself is a blob at the driver."""

    client: str
    digest: str


# Events. Each carries many clients at once, in the order of their arrival.


@dataclass(frozen=True, slots=True)
class CheckedIn:
    """Clients are there and ask for work."""

    clients: tuple[str, ...]
    now: float


@dataclass(frozen=True, slots=True)
class Configured:
    """The plan has been delivered to these clients."""

    clients: tuple[str, ...]
    now: float


@dataclass(frozen=True, slots=True)
class Reported:
    """Reports that passed the pipeline's checks."""

    reports: tuple[Report, ...]
    now: float


@dataclass(frozen=True, slots=True)
class Refused:
    """(client, reason): updates that failed the pipeline's checks (NaN, out of range)."""

    reasons: tuple[tuple[str, str], ...]
    now: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """(client, reason): clients that are gone. One that comes back in time is welcome."""

    reasons: tuple[tuple[str, str], ...]
    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes. ``now`` is in seconds of one clock, best one that never steps."""

    now: float


Event = CheckedIn | Configured | Reported | Refused | Dropped | Tick


# Effects, to be run in order.


@dataclass(frozen=True, slots=True)
class Configure:
    """Send the plan to these clients."""

    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """Add these shares to the sum. Each client is named once in a round."""

    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class Discard:
    """Tell ``client`` that its report is not counted: it forgets what it kept for this round."""

    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Tell the clients that these reports are counted: they keep the memory that goes with them."""

    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """The sum is complete: it holds the shares of ``counted``, sorted."""

    counted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """Throw the sum away."""

    reason: str


Effect = Configure | Count | Discard | Receipt | Close | Abort


# States. ``now`` is the latest moment seen, ``until`` the first one that is too late (None: never).


@dataclass(frozen=True, slots=True)
class Selection:
    """The cohort has been called; ``present`` have checked in, ``dropped`` are gone."""

    plan: Plan
    now: float
    until: float | None
    present: frozenset[str]
    dropped: Reasons


@dataclass(frozen=True, slots=True)
class Configuration:
    """The plan is on its way to ``pending``. Fast clients may have reported already."""

    plan: Plan
    now: float
    until: float | None
    counted: Mapping[str, str]
    refused: Reasons
    dropped: Reasons
    pending: frozenset[str]


@dataclass(frozen=True, slots=True)
class Reporting:
    """Everyone awaited has the plan. ``counted`` maps clients to digests."""

    plan: Plan
    now: float
    until: float | None
    counted: Mapping[str, str]
    refused: Reasons
    dropped: Reasons


@dataclass(frozen=True, slots=True)
class Done:
    """The round is closed, by its ``goal``, since ``everyone`` answered or is gone, or by deadline.

    ``counted`` maps clients to digests, ``refused`` and ``dropped`` to reasons; sorted, and final.
    ``discarded`` are those whose report came too late. A client that was still busy when the goal
    was met is in none of them.
    """

    plan: Plan
    closed_by: ClosedBy
    counted: Mapping[str, str]
    refused: Reasons
    dropped: Reasons
    discarded: Reasons


@dataclass(frozen=True, slots=True)
class Aborted:
    """Too few reports. ``discarded`` are those that had been counted, and those that came late."""

    plan: Plan
    reason: str
    refused: Reasons
    dropped: Reasons
    discarded: Reasons


Open = Configuration | Reporting
Final = Done | Aborted
State = Selection | Open | Final
Outcome = tuple[State, list[Effect]]


def begin(plan: Plan, now: float) -> Outcome:
    """Call the cohort; without a selection stage, configure all of it at once."""
    if plan.selection_s is None:
        return _configure(Selection(plan, now, None, frozenset(plan.cohort), {}))
    return _select(Selection(plan, now, now + plan.selection_s, frozenset(), {}))


def step(state: State, event: Event) -> Outcome:
    """Return the state after ``event``, and what to do; the module's table says which.

    Raises ProtocolError for what a peer must not send; the state is then as it was.
    """
    for client in _clients(event):
        if not state.plan.has(client):
            raise ProtocolError(f"client {client} is not in the cohort of round {state.plan.round}")
    state, before = _pass_time(state, event.now)
    state, effects = _take(state, event)
    return state, [*before, *effects]


def awaited(state: Open) -> int:
    """Return how many clients may still answer."""
    return len(state.plan.cohort) - len(state.counted) - len(state.refused) - len(state.dropped)


def wanted(state: Open) -> int:
    """Return how many clients more the round needs to meet its goal."""
    return state.plan.goal - _progress(state)


def _clients(event: Event) -> Sequence[str]:
    match event:
        case CheckedIn(clients) | Configured(clients):
            return clients
        case Reported(reports):
            return [report.client for report in reports]
        case Refused(reasons) | Dropped(reasons):
            return [client for client, _ in reasons]
        case _:
            return ()


def _pass_time(state: State, now: float) -> Outcome:
    if isinstance(state, Final):
        return state, []
    state = replace(state, now=max(now, state.now))
    if state.until is None or state.now < state.until:
        return state, []
    if isinstance(state, Selection):
        return _configure(state)
    silent = dict.fromkeys(state.plan.cohort, "no report by the deadline")
    silent = _without(silent, {**state.counted, **state.refused})
    return _settle(replace(state, dropped={**silent, **state.dropped}), "deadline")


def _take(state: State, event: Event) -> Outcome:
    match state, event:
        case Selection(), CheckedIn(clients):
            present, dropped = state.present.union(clients), _without(state.dropped, clients)
            return _select(replace(state, present=present, dropped=dropped))
        case Selection(), Dropped(reasons):
            dropped = {**dict(reasons), **state.dropped}
            return _select(replace(state, present=state.present - dropped.keys(), dropped=dropped))
        case Selection(), Configured() | Reported() | Refused() if early := _clients(event):
            what, who = type(event).__name__, ", ".join(early[:NAMED])
            raise ProtocolError(f"{what} ({who}) is out of order during Selection")
        case Configuration() | Reporting(), CheckedIn(clients):
            return _configure_again(state, clients)
        case Configuration(), Configured(clients):
            return _settle(_delivered(state, clients))
        case Configuration() | Reporting(), Reported(reports):
            return _count(state, reports)
        case Configuration() | Reporting(), Refused(reasons):
            return _refuse(state, reasons)
        case Configuration() | Reporting(), Dropped(reasons):
            gone = {c: r for c, r in reasons if c not in state.counted and c not in state.refused}
            return _settle(_delivered(replace(state, dropped={**gone, **state.dropped}), gone))
        case Done() | Aborted(), Reported() | Refused():
            return _late(state, event)
        case Done() | Aborted(), CheckedIn(clients):
            return state, _tell(state, clients)
        case _:
            return state, []


def _select(state: Selection) -> Outcome:
    """Go on as soon as everyone has checked in or is gone; give up when too few can come."""
    expected = len(state.plan.cohort) - len(state.dropped)
    if len(state.present) == expected:
        return _configure(state)
    if not state.plan.never_aborts and expected < state.plan.minimum:
        return _abort(_opened(state))
    return state, []


def _opened(state: Selection) -> Configuration:
    plan, until = state.plan, None
    if plan.deadline_s is not None:
        until = state.now + plan.deadline_s
    return Configuration(plan, state.now, until, {}, {}, state.dropped, state.present)


def _configure(state: Selection) -> Outcome:
    absent = dict.fromkeys(state.plan.cohort, "did not check in")
    dropped = {**_without(absent, state.present), **state.dropped}
    opened, effects = _settle(_opened(replace(state, dropped=dropped)))
    if isinstance(opened, Final):
        return opened, effects
    return opened, [Configure(tuple(sorted(state.present)))]


def _configure_again(state: Open, clients: tuple[str, ...]) -> Outcome:
    """Give the plan to clients that came late or came back, unless they have answered."""
    back = [c for c in dict.fromkeys(clients) if c not in state.counted and c not in state.refused]
    if not back:
        return state, []
    state = replace(state, dropped=_without(state.dropped, back))
    if isinstance(state, Configuration):
        state = replace(state, pending=state.pending | frozenset(back))
    return state, [Configure(tuple(sorted(back)))]


def _count(state: Open, reports: tuple[Report, ...]) -> Outcome:
    fresh = _new_reports(state, reports)
    taken = dict(islice(fresh.items(), wanted(state)))
    if not taken:
        return state, []
    counted = {**state.counted, **taken}
    dropped = _without(state.dropped, taken)
    after, effects = _settle(_delivered(replace(state, counted=counted, dropped=dropped), taken))
    count = Count(tuple(Report(client, digest) for client, digest in taken.items()))
    return _with_surplus(after, [count, *effects], _without(fresh, taken))


def _refuse(state: Open, reasons: tuple[tuple[str, str], ...]) -> Outcome:
    fresh = _new_refusals(state, reasons)
    taken = fresh
    if state.plan.never_aborts:
        taken = dict(islice(fresh.items(), wanted(state)))
    refused = {**state.refused, **taken}
    dropped = _without(state.dropped, taken)
    told = [Discard(c, refused[c]) for c in dict(reasons) if c in refused]
    after, effects = _settle(_delivered(replace(state, refused=refused, dropped=dropped), taken))
    return _with_surplus(after, [*told, *effects], _without(fresh, taken))


def _with_surplus(state: State, effects: list[Effect], surplus: Mapping[str, str]) -> Outcome:
    """Discard what stood in the same event behind the report that met the goal."""
    if not isinstance(state, Final):
        return state, effects
    return _discard(state, surplus), [*effects, *_tell(state, surplus)]


def _delivered(state: Open, clients: Iterable[str]) -> Open:
    """Stop waiting for the delivery of the plan: it has arrived, or its client is gone."""
    if isinstance(state, Configuration):
        return replace(state, pending=state.pending.difference(clients))
    return state


def _progress(state: Open) -> int:
    """How far the round is on the way to its goal."""
    return len(state.counted) + (len(state.refused) if state.plan.never_aborts else 0)


def _settle(state: Open, complete: ClosedBy = "everyone") -> Outcome:
    """End the round if it has to end; ``complete`` is why nobody is awaited any more."""
    plan, waiting = state.plan, awaited(state)
    if not plan.never_aborts and len(state.counted) + waiting < plan.minimum:
        return _abort(state)
    if waiting == 0 or _progress(state) >= plan.goal:
        return _close(state, "goal" if _progress(state) >= plan.goal else complete)
    if isinstance(state, Configuration) and not state.pending:
        return Reporting(
            plan, state.now, state.until, state.counted, state.refused, state.dropped
        ), []
    return state, []


def _close(state: Open, by: ClosedBy) -> Outcome:
    counted = _sorted(state.counted)
    done = Done(state.plan, by, counted, _sorted(state.refused), _sorted(state.dropped), {})
    return done, [Close(tuple(counted)), *_tell(done, counted)]


def _abort(state: Open) -> Outcome:
    reason = _shortage(state)
    discarded = dict.fromkeys(sorted(state.counted), "the round aborted")
    refused, dropped = _sorted(state.refused), _sorted(state.dropped)
    aborted = Aborted(state.plan, reason, refused, dropped, discarded)
    return aborted, [Abort(reason), *_tell(aborted, discarded)]


def _shortage(state: Open) -> str:
    parts = [
        f"{len(reasons)} {what} ({_named(reasons)})"
        for what, reasons in (("dropped", state.dropped), ("refused", state.refused))
        if reasons
    ]
    if waiting := awaited(state):
        parts.append(f"{waiting} awaited")
    if len(state.plan.cohort) < state.plan.minimum:
        parts.append(f"{len(state.plan.cohort)} in the cohort")
    reports = "1 report" if len(state.counted) == 1 else f"{len(state.counted)} reports"
    return f"{reports} counted, {state.plan.minimum} needed: {', '.join(parts)}"


def _named(reasons: Reasons) -> str:
    """Name the first few clients with their reasons, and say how many more there are."""
    named = [f"{client}: {reasons[client]}" for client in sorted(reasons)[:NAMED]]
    more = [f"{len(reasons) - NAMED} more"] if len(reasons) > NAMED else []
    return "; ".join(named + more)


def _late(state: Final, event: Reported | Refused) -> Outcome:
    """Answer again those that were counted or refused; discard the rest."""
    match state, event:
        case Done(), Reported(reports):
            fresh = _new_reports(state, reports)
        case Done(), Refused(reasons):
            fresh = _new_refusals(state, reasons)
        case _:
            fresh = _clients(event)
    return _discard(state, fresh), _tell(state, _clients(event))


def _discard(state: Final, clients: Iterable[str]) -> Final:
    fresh = {client: _why_not(state, client) for client in clients if client not in state.refused}
    return replace(state, discarded={**state.discarded, **fresh}) if fresh else state


def _tell(state: Final, clients: Iterable[str]) -> list[Effect]:
    """Return the receipts of a round that has ended: the same however often they are asked for."""
    counted: Mapping[str, str] = state.counted if isinstance(state, Done) else {}
    asking = dict.fromkeys(clients)
    known = tuple(Report(client, counted[client]) for client in asking if client in counted)
    receipts: list[Effect] = [Receipt(known)] if known else []
    others = (client for client in asking if client not in counted)
    return [*receipts, *(Discard(client, _why_not(state, client)) for client in others)]


def _why_not(state: Final, client: str) -> str:
    for known in (state.refused, state.discarded):
        if client in known:
            return known[client]
    match state:
        case Aborted():
            return "late: the round aborted"
        case Done(closed_by="goal"):
            return f"surplus: the round has met its goal of {state.plan.goal}"
        case Done(closed_by="everyone"):
            return "late: the round closed when nobody was awaited any more"
        case _:
            return "late: the round closed at its deadline"


def _new_reports(state: Open | Done, reports: Iterable[Report]) -> dict[str, str]:
    """Return client → digest of those not counted yet; refuse a second, different report."""
    fresh = dict[str, str]()
    for report in reports:
        client, digest = report.client, report.digest
        counted = client in state.counted
        known = state.counted[client] if counted else fresh.setdefault(client, digest)
        if known != digest or client in state.refused:
            raise ProtocolError(f"client {client}: second report in round {state.plan.round}")
    return fresh


def _new_refusals(state: Open | Done, reasons: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return client → reason of those not refused yet; refuse one that has been counted."""
    fresh = dict[str, str]()
    for client, reason in reasons:
        if client in state.counted:
            raise ProtocolError(f"client {client}: second report in round {state.plan.round}")
        if client not in state.refused:
            fresh.setdefault(client, reason)
    return fresh


def _without(mapping: Mapping[str, str], clients: Iterable[str]) -> dict[str, str]:
    gone = frozenset(clients)
    return {client: value for client, value in mapping.items() if client not in gone}


def _sorted(mapping: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(mapping.items()))
