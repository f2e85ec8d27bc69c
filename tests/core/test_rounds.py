"""The round machine: rounds made by hand, then any order of loss, doubling, lateness and time."""

import copy
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hanse.core.rounds import (
    Abort,
    Aborted,
    CheckedIn,
    Close,
    Configuration,
    Configure,
    Configured,
    Count,
    Discard,
    Done,
    Dropped,
    Effect,
    Event,
    Plan,
    Receipt,
    Refused,
    Report,
    Reported,
    Reporting,
    Selection,
    State,
    Tick,
    begin,
    step,
)
from hanse.errors import ProtocolError

FIVE = ("a", "b", "c", "d", "e")


def report(clients: str, now: float = 1.0) -> Reported:
    return Reported(tuple(Report(client, f"#{client}") for client in clients), now)


def receipt(clients: str) -> Receipt:
    return Receipt(tuple(Report(client, f"#{client}") for client in clients))


def count(clients: str) -> Count:
    return Count(tuple(Report(client, f"#{client}") for client in clients))


def gone(clients: str, now: float = 1.0) -> Dropped:
    return Dropped(tuple((client, "gone") for client in clients), now)


def nan(clients: str, now: float = 1.0) -> Refused:
    return Refused(tuple((client, "not finite") for client in clients), now)


def play(plan: Plan, *events: Event) -> tuple[State, list[Effect]]:
    """The state after ``events``, and the effects of the last of them."""
    state, effects = begin(plan, 0.0)
    for event in events:
        state, effects = step(state, event)
    return state, effects


# The goal


def test_without_a_selection_stage_the_whole_cohort_is_configured_at_once():
    state, effects = begin(Plan(1, FIVE, 3, 2), 0.0)
    assert isinstance(state, Configuration)
    assert effects == [Configure(FIVE)]


def test_a_round_closes_when_its_goal_is_met():
    plan = Plan(1, FIVE, goal=3, minimum=2)
    state, effects = play(plan, report("db"), report("a"))
    assert effects == [count("a"), Close(("a", "b", "d")), receipt("abd")]
    assert isinstance(state, Done)
    assert state.closed_by == "goal"
    assert list(state.counted.items()) == [("a", "#a"), ("b", "#b"), ("d", "#d")]
    assert (state.refused, state.dropped, state.discarded) == ({}, {}, {})


def test_a_report_beyond_the_goal_is_surplus():
    state, effects = play(Plan(1, FIVE, goal=3, minimum=2), report("abc"), report("d"))
    surplus = "surplus: the round has met its goal of 3"
    assert effects == [Discard("d", surplus)]
    assert isinstance(state, Done)
    assert state.discarded == {"d": surplus}


def test_the_surplus_of_an_event_is_what_stood_last_in_it():
    state, effects = play(Plan(1, FIVE, goal=3, minimum=2), report("d"), report("ecab"))
    surplus = "surplus: the round has met its goal of 3"
    closing = [Close(("c", "d", "e")), receipt("cde")]
    assert effects == [count("ec"), *closing, Discard("a", surplus), Discard("b", surplus)]
    assert isinstance(state, Done)
    assert state.discarded == {"a": surplus, "b": surplus}


def test_no_receipt_goes_out_before_the_round_closes():
    _, effects = play(Plan(1, FIVE, goal=3, minimum=2), report("ab"))
    assert effects == [count("ab")]


@given(st.permutations("abcdefg"), st.integers(1, 7))
def test_any_order_of_the_same_reports_gives_the_same_round(order, size):
    cohort = tuple("abcdefg")
    plan = Plan(1, cohort, goal=7, minimum=7)
    batches = [report("".join(order[i : i + size])) for i in range(0, 7, size)]
    state, effects = play(plan, *batches)
    assert isinstance(state, Done)
    assert list(state.counted) == list(cohort)
    assert effects[-2:] == [Close(cohort), receipt("abcdefg")]


# Everyone has answered, or is gone


def test_a_round_closes_at_once_when_nobody_is_awaited_any_more():
    plan = Plan(1, FIVE, goal=5, minimum=2, deadline_s=60)
    state, effects = play(plan, gone("a"), report("cb"), nan("d"), gone("e"))
    assert effects == [Close(("b", "c")), receipt("bc")]
    assert isinstance(state, Done)
    assert state.closed_by == "everyone"
    assert (state.refused, state.dropped) == ({"d": "not finite"}, {"a": "gone", "e": "gone"})


def test_a_round_whose_goal_is_out_of_reach_goes_on():
    state, effects = play(Plan(1, FIVE, goal=5, minimum=2, deadline_s=60), gone("ab"), report("c"))
    assert isinstance(state, Configuration)
    assert effects == [count("c")]


def test_a_client_that_comes_back_in_time_is_counted():
    state, effects = play(Plan(1, FIVE, goal=5, minimum=1), gone("a"), report("a"))
    assert effects == [count("a")]
    assert isinstance(state, Configuration)
    assert state.dropped == {}


def test_a_client_that_is_gone_after_its_answer_has_answered():
    plan = Plan(1, FIVE, goal=5, minimum=1)
    state, effects = play(plan, report("a"), nan("b"), gone("ab"))
    assert effects == []
    assert isinstance(state, Configuration)
    assert (set(state.counted), set(state.refused), state.dropped) == ({"a"}, {"b"}, {})


def test_the_first_reason_of_a_dropout_stands():
    state, _ = play(Plan(1, FIVE, 5, 1), gone("a"), Dropped((("a", "still gone"),), 2.0))
    assert isinstance(state, Configuration)
    assert state.dropped == {"a": "gone"}


# The minimum


def test_a_round_aborts_at_once_when_its_minimum_is_out_of_reach():
    plan = Plan(1, ("a", "b", "c", "d"), goal=4, minimum=3, deadline_s=60)
    dropped = Dropped((("c", "connection lost"),), 2.0)
    state, effects = play(plan, report("ab"), dropped, nan("d", now=3.0))
    reason = (
        "2 reports counted, 3 needed: 1 dropped (c: connection lost), 1 refused (d: not finite)"
    )
    assert effects == [
        Discard("d", "not finite"),
        Abort(reason),
        Discard("a", "the round aborted"),
        Discard("b", "the round aborted"),
    ]
    assert isinstance(state, Aborted)
    assert state.reason == reason
    assert (state.refused, state.dropped) == ({"d": "not finite"}, {"c": "connection lost"})
    assert state.discarded == {"a": "the round aborted", "b": "the round aborted"}


def test_an_abort_names_a_few_clients_and_counts_the_rest():
    cohort = tuple(f"c{i:03}" for i in range(100))
    lost = Dropped(tuple((client, "gone") for client in cohort[:98]), 1.0)
    state, _ = play(Plan(1, cohort, 100, 3), Reported((Report("c099", "#"),), 1.0), lost)
    assert isinstance(state, Aborted)
    assert state.reason == (
        "1 report counted, 3 needed: 98 dropped (c000: gone; c001: gone; c002: gone; 95 more), "
        "1 awaited"
    )


def test_after_an_abort_everything_is_late():
    plan = Plan(1, FIVE, goal=5, minimum=4)
    end = (report("a"), gone("b"), nan("c"))
    state, effects = play(plan, *end, report("abc", 9.0), nan("d"), CheckedIn(("a", "e"), 9.0))
    late = "late: the round aborted"
    assert effects == [Discard("a", "the round aborted"), Discard("e", late)]
    assert isinstance(state, Aborted)
    assert state.discarded == {"a": "the round aborted", "b": late, "d": late}
    _, effects = play(plan, *end, report("ac"))
    assert effects == [Discard("a", "the round aborted"), Discard("c", "not finite")]


# The deadline


def test_at_the_deadline_a_round_with_its_minimum_closes():
    plan = Plan(1, FIVE, goal=5, minimum=2, deadline_s=60)
    state, effects = play(plan, report("cb"), gone("a"), nan("e"), Tick(59.9), Tick(60.0))
    assert effects == [Close(("b", "c")), receipt("bc")]
    assert isinstance(state, Done)
    assert state.closed_by == "deadline"
    assert state.refused == {"e": "not finite"}
    assert state.dropped == {"a": "gone", "d": "no report by the deadline"}


def test_at_the_deadline_a_round_below_its_minimum_aborts():
    state, effects = play(Plan(1, FIVE[:3], 3, 2, deadline_s=60), report("b"), Tick(60.0))
    reason = (
        "1 report counted, 2 needed: "
        "2 dropped (a: no report by the deadline; c: no report by the deadline)"
    )
    assert effects == [Abort(reason), Discard("b", "the round aborted")]
    assert isinstance(state, Aborted)


def test_a_report_after_the_deadline_is_late_even_if_no_tick_came_first():
    plan = Plan(1, FIVE, goal=5, minimum=2, deadline_s=60)
    state, effects = play(plan, report("ab"), report("c", now=61.0))
    late = "late: the round closed at its deadline"
    assert effects == [Close(("a", "b")), receipt("ab"), Discard("c", late)]
    assert isinstance(state, Done)
    assert state.discarded == {"c": late}
    assert set(state.dropped) == {"c", "d", "e"}


def test_a_clock_that_steps_back_changes_nothing():
    state, _ = play(Plan(1, FIVE, 5, 2, deadline_s=60), Tick(40.0))
    assert step(state, Tick(10.0)) == (state, [])
    assert step(state, Tick(-1e9)) == (state, [])


def test_without_a_deadline_everybody_is_waited_for():
    state, effects = play(Plan(1, FIVE, goal=5, minimum=1), report("abcd"), Tick(1e12))
    assert isinstance(state, Configuration)
    assert effects == []


# Doubles, strangers, and what does not fit


def test_the_same_report_twice_counts_once():
    plan = Plan(1, FIVE, goal=3, minimum=2)
    assert play(plan, report("aa"))[1] == [count("a")]
    state, effects = play(plan, report("a"), report("a"))
    assert effects == []
    assert isinstance(state, Configuration)
    assert len(state.counted) == 1


def test_the_same_report_after_the_close_gets_the_same_receipt():
    state, effects = play(Plan(1, FIVE, goal=2, minimum=2), report("ab"), report("ba", now=99.0))
    assert effects == [receipt("ba")]
    assert isinstance(state, Done)
    assert state.discarded == {}


def test_a_counted_client_that_comes_back_after_the_close_gets_its_receipt():
    end = (report("ab"), nan("c"), gone("de"))
    state, effects = play(Plan(1, FIVE, goal=5, minimum=2), *end, CheckedIn(("e", "a", "c"), 5.0))
    late = "late: the round closed when nobody was awaited any more"
    assert effects == [receipt("a"), Discard("e", late), Discard("c", "not finite")]
    assert isinstance(state, Done)
    assert state.discarded == {}


OTHER = Reported((Report("a", "another"),), 2.0)


@pytest.mark.parametrize(
    ("before", "event"),
    [
        ([report("a")], OTHER),
        ([report("abc")], OTHER),  # Done
        ([], Reported((Report("b", "#b"), Report("a", "#a"), Report("a", "another")), 1.0)),
        ([report("a")], nan("a")),
        ([report("abc")], nan("a")),
        ([nan("a")], report("a")),
        ([nan("a"), report("bcd")], report("a")),
    ],
)
def test_a_second_report_that_differs_is_dropped(before, event):
    state, _ = play(Plan(7, FIVE, goal=3, minimum=2), *before)
    held = copy.deepcopy(state)
    with pytest.raises(ProtocolError, match="client a: second report in round 7"):
        step(state, event)
    assert state == held


@pytest.mark.parametrize(
    "event", [report("az"), nan("z"), gone("z"), CheckedIn(("z",), 1.0), Configured(("z",), 1.0)]
)
def test_a_stranger_is_dropped(event):
    for state in (play(Plan(7, FIVE, 2, 2))[0], play(Plan(7, FIVE, 2, 2), report("ab"))[0]):
        with pytest.raises(ProtocolError, match="client z is not in the cohort of round 7"):
            step(state, event)


def test_a_refused_update_is_not_counted():
    state, effects = play(Plan(1, FIVE, goal=2, minimum=2), report("a"), nan("b"))
    assert effects == [Discard("b", "not finite")]
    assert isinstance(state, Configuration)


def test_a_refusal_twice_is_one_refusal():
    other = Refused((("b", "out of range"),), 2.0)
    state, effects = play(Plan(1, FIVE, goal=5, minimum=1), nan("bb"), other)
    assert effects == [Discard("b", "not finite")]
    assert isinstance(state, Configuration)
    assert state.refused == {"b": "not finite"}
    state, effects = play(Plan(1, FIVE, goal=2, minimum=1), nan("b"), report("ac"), nan("bd"))
    surplus = "surplus: the round has met its goal of 2"
    assert effects == [Discard("b", "not finite"), Discard("d", surplus)]
    assert isinstance(state, Done)
    assert (state.refused, state.discarded) == ({"b": "not finite"}, {"d": surplus})


# Selection and configuration


def test_selection_ends_when_everyone_has_checked_in_or_is_gone():
    plan = Plan(1, FIVE[:3], goal=3, minimum=1, selection_s=10, deadline_s=60)
    state, effects = begin(plan, 100.0)
    assert (type(state), effects) == (Selection, [])
    state, effects = step(state, CheckedIn(("c", "b"), 101.0))
    assert (type(state), effects) == (Selection, [])
    state, effects = step(state, gone("b", now=104.0))
    assert (type(state), effects) == (Selection, [])
    state, effects = step(state, CheckedIn(("a",), 105.0))
    assert effects == [Configure(("a", "c"))]
    assert isinstance(state, Configuration)
    assert (state.until, state.dropped) == (165.0, {"b": "gone"})


def test_at_the_end_of_selection_those_here_are_configured():
    plan = Plan(1, FIVE, goal=3, minimum=2, selection_s=10, deadline_s=60)
    state, effects = play(plan, CheckedIn(("d", "b"), 9.0), gone("a", now=9.5), Tick(10.0))
    assert effects == [Configure(("b", "d"))]
    assert isinstance(state, Configuration)
    absent = "did not check in"
    assert (state.until, state.dropped) == (70.0, {"a": "gone", "c": absent, "e": absent})


def test_a_selection_that_finds_too_few_aborts():
    plan = Plan(1, FIVE[:3], goal=3, minimum=2, selection_s=10)
    state, effects = play(plan, CheckedIn(("b",), 9.0), Tick(10.0))
    absent = "2 dropped (a: did not check in; c: did not check in)"
    assert effects == [Abort(f"0 reports counted, 2 needed: {absent}, 1 awaited")]
    assert isinstance(state, Aborted)
    assert isinstance(play(plan, gone("a"))[0], Selection)
    _, effects = play(plan, gone("ab"))
    lost = "2 dropped (a: gone; b: gone)"
    assert effects == [Abort(f"0 reports counted, 2 needed: {lost}, 1 awaited")]


@pytest.mark.parametrize("event", [report("a"), nan("a"), Configured(("a",), 1.0)])
def test_nobody_answers_before_being_asked(event):
    state, _ = begin(Plan(1, FIVE, goal=3, minimum=2, selection_s=10), 0.0)
    with pytest.raises(ProtocolError, match=r"\(a\) is out of order during Selection"):
        step(state, event)


def test_reporting_begins_when_the_plan_is_with_everyone_awaited():
    events = Configured(("a", "b"), 1.0), report("c"), gone("d")
    state, _ = play(Plan(1, FIVE, goal=5, minimum=1), *events)
    assert isinstance(state, Configuration)
    assert state.pending == {"e"}
    state, effects = step(state, Configured(("e",), 2.0))
    assert (type(state), effects) == (Reporting, [])
    assert step(state, Configured(("e",), 2.0)) == (state, [])
    state, effects = step(state, report("ab"))
    assert (type(state), effects) == (Reporting, [count("ab")])


def test_a_client_that_checks_in_while_the_round_is_open_gets_the_plan():
    plan = Plan(1, FIVE, goal=5, minimum=1)
    start = report("a"), nan("b"), gone("c")
    state, effects = play(plan, *start, CheckedIn(("e", "c", "b", "a"), 2.0))
    assert effects == [Configure(("c", "e"))]
    assert isinstance(state, Configuration)
    assert (state.pending, state.dropped) == ({"c", "d", "e"}, {})
    everyone = Configured(FIVE, 2.0)
    state, effects = play(plan, *start, everyone, CheckedIn(("c",), 3.0))
    assert effects == [Configure(("c",))]
    assert isinstance(state, Reporting)
    assert step(state, CheckedIn(("a",), 3.0)) == (state, [])


# Rounds under a privacy claim, and empty ones


def test_under_a_privacy_claim_a_round_is_done_with_nothing_counted():
    plan = Plan(1, FIVE, goal=5, minimum=4, deadline_s=60, never_aborts=True)
    for end in (Tick(60.0), gone("abcde")):
        state, effects = play(plan, end)
        assert effects == [Close(())]
        assert isinstance(state, Done)
        assert state.counted == {}


def test_under_a_privacy_claim_a_refused_update_makes_up_the_goal():
    plan = Plan(1, FIVE, goal=3, minimum=3, never_aborts=True)
    state, effects = play(plan, report("a"), nan("bcd"))
    surplus = "surplus: the round has met its goal of 3"
    told = [Discard("b", "not finite"), Discard("c", "not finite")]
    assert effects == [*told, Close(("a",)), receipt("a"), Discard("d", surplus)]
    assert isinstance(state, Done)
    assert state.closed_by == "goal"
    assert set(state.refused) == {"b", "c"}
    assert set(state.discarded) == {"d"}


def test_under_a_privacy_claim_a_selection_never_aborts():
    plan = Plan(1, FIVE, goal=3, minimum=3, selection_s=10, never_aborts=True)
    state, effects = play(plan, gone("abcd"))
    assert (type(state), effects) == (Selection, [])
    assert play(plan, gone("abcd"), Tick(10.0))[1] == [Close(())]


@pytest.mark.parametrize("selection_s", [None, 10.0])
@pytest.mark.parametrize(
    ("minimum", "never_aborts", "ends"),
    [
        (0, False, [Close(())]),
        (3, True, [Close(())]),
        (3, False, [Abort("0 reports counted, 3 needed: 0 in the cohort")]),
    ],
)
def test_an_empty_cohort_ends_at_once(selection_s, minimum, never_aborts, ends):
    plan = Plan(1, (), 0, minimum, selection_s=selection_s, never_aborts=never_aborts)
    _, effects = begin(plan, 0.0)
    assert effects == ends


# The plan


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cohort": ("b", "a")}, "not sorted"),
        ({"cohort": ("a", "a")}, "not sorted, each client once"),
        ({"goal": 1}, "goal 1, but minimum 2"),
        ({"goal": 0, "minimum": 0}, "goal 0"),
        ({"selection_s": 0.0}, "no time"),
        ({"deadline_s": float("nan")}, "no time"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Plan(**{"round": 1, "cohort": FIVE, "goal": 3, "minimum": 2} | settings)


def test_ten_thousand_clients_in_batches_cost_no_square_of_their_number():
    cohort = tuple(f"c{i:05}" for i in range(10_000))
    batches = [cohort[i : i + 100] for i in range(0, 10_000, 100)]
    plan = Plan(1, cohort, goal=10_000, minimum=1, selection_s=60, deadline_s=60)
    start = time.process_time()
    state, _ = begin(plan, 0.0)
    for event in (CheckedIn, Configured):
        for batch in batches:
            state, _ = step(state, event(batch, 1.0))
    for batch in batches:
        state, _ = step(state, Reported(tuple(Report(c, "#" + c) for c in batch), 2.0))
    assert isinstance(state, Done)
    assert len(state.counted) == 10_000
    assert time.process_time() - start < 2.0  # measured 0.1; the rest is for coverage tracing


# Any interleaving


def verdict(plan: Plan, counted: int, refused: int, awaited: int) -> type[State] | None:
    """What the rules say of an open round with these numbers, time left aside."""
    if counted + awaited < plan.minimum and not plan.never_aborts:
        return Aborted
    zeros = refused if plan.never_aborts else 0
    return Done if counted + zeros >= plan.goal or awaited == 0 else None


SOME = st.sets(st.sampled_from(FIVE), min_size=1).map(lambda some: tuple(sorted(some)))


class Rounds(RuleBasedStateMachine):
    """One round and the clients that it asks, joined by a wire that loses, doubles and reorders."""

    @initialize(
        cohort=st.sampled_from([FIVE, FIVE, FIVE, FIVE[:4], FIVE[1:4], FIVE[:1], ()]),
        minimum=st.integers(0, 4),
        more=st.integers(0, 2),
        times=st.tuples(*[st.sampled_from([None, 10.0, 30.0])] * 2),
        never_aborts=st.booleans(),
        faulty=st.sets(st.sampled_from(FIVE)),
    )
    def start(self, cohort, minimum, more, times, never_aborts, faulty):
        goal = max(minimum, 1) + more
        self.plan = Plan(1, cohort, goal, minimum, *times, never_aborts)
        self.faulty = faulty  # these send NaN
        self.wire: list[str] = []
        self.asked: set[str] = set()
        self.summed: list[str] = []
        self.received: set[str] = set()
        self.ended: Close | Abort | None = None
        self.now = 0.0
        self.state, effects = begin(self.plan, 0.0)
        self.run_effects(effects)

    def run_effects(self, effects: list[Effect]) -> None:
        for effect in effects:
            if self.ended is not None:
                assert isinstance(effect, Receipt | Discard), effect
            match effect:
                case Configure(clients):
                    self.asked |= set(clients)
                    self.wire += clients  # they work at once; their answers may take their time
                case Count(reports):
                    self.summed += [report.client for report in reports]
                case Close(counted):
                    assert counted == tuple(sorted(self.summed))
                    self.ended = effect
                case Abort():
                    assert not self.plan.never_aborts
                    self.ended = effect
                case Receipt(reports):
                    assert isinstance(self.ended, Close)
                    self.received |= {report.client for report in reports}
                case Discard(client):
                    assert client not in self.summed or isinstance(self.ended, Abort)

    def feed(self, event: Event) -> None:
        before, written = self.state, repr(self.state)
        self.state, effects = step(self.state, event)
        assert repr(before) == written  # pure
        self.run_effects(effects)

    def members(self, clients: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(client for client in clients if client in self.plan.cohort)

    @rule(clients=SOME)
    def clients_check_in(self, clients):
        self.feed(CheckedIn(self.members(clients), self.now))

    @rule(clients=SOME)
    def the_plan_arrives(self, clients):
        self.feed(Configured(tuple(c for c in clients if c in self.asked), self.now))

    @rule(clients=SOME)
    def clients_answer_again(self, clients):
        self.wire += [client for client in clients if client in self.asked]

    @rule()
    def everyone_checks_in(self):
        self.feed(CheckedIn(self.plan.cohort, self.now))

    @rule(client=st.sampled_from(FIVE))
    def a_client_is_gone(self, client):
        self.feed(Dropped(tuple((c, "gone") for c in self.members((client,))), self.now))

    @precondition(lambda self: self.wire)
    @rule(at=st.integers(0, 9), doubled=st.booleans())
    def an_answer_arrives(self, at, doubled):
        client = self.wire[at % len(self.wire)]
        if not doubled:
            self.wire.remove(client)
        self.hand_over([client])

    @precondition(lambda self: self.wire)
    @rule(data=st.data(), doubled=st.booleans())
    def answers_arrive_together(self, data, doubled):
        order = data.draw(st.permutations(self.wire))
        cut = data.draw(st.integers(1, len(order)))
        self.wire = order if doubled else order[cut:]
        self.hand_over(order[:cut])

    def hand_over(self, answers: list[str]) -> None:
        good = [client for client in answers if client not in self.faulty]
        bad = [client for client in answers if client in self.faulty]
        self.feed(Reported(tuple(Report(c, f"#{c}") for c in good), self.now))
        self.feed(Refused(tuple((c, "not finite") for c in bad), self.now))

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def an_answer_is_lost(self, data):
        self.wire.pop(data.draw(st.integers(0, len(self.wire) - 1)))

    @rule(seconds=st.sampled_from([-3.0, 0.0, 1.0, 2.0, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.feed(Tick(self.now))

    @rule(client=st.sampled_from(FIVE))
    def a_client_sends_something_else(self, client):
        spoken = {*getattr(self.state, "counted", ()), *getattr(self.state, "refused", ())}
        if client not in self.plan.cohort or (
            client in spoken and not isinstance(self.state, Aborted)
        ):
            with pytest.raises(ProtocolError):
                step(self.state, Reported((Report(client, "another"),), self.now))

    @invariant()
    def each_client_is_counted_once_and_comes_from_the_cohort(self):
        assert len(set(self.summed)) == len(self.summed)
        assert set(self.summed) <= set(self.plan.cohort)

    @invariant()
    def receipts_go_to_exactly_those_that_are_counted(self):
        closed = isinstance(self.ended, Close)
        assert self.received == (set(self.summed) if closed else set())
        if isinstance(self.state, Done):
            assert set(self.state.counted) == set(self.summed)

    @invariant()
    def the_round_ends_when_and_only_when_the_rules_say_so(self):
        state, plan = self.state, self.plan
        if isinstance(state, Selection):
            return
        groups = [set(self.summed), set(state.refused), set(state.dropped)]
        awaited = set(plan.cohort).difference(*groups)
        if isinstance(state, Configuration | Reporting):
            assert state.until is None or state.now < state.until
        rules = verdict(plan, len(groups[0]), len(groups[1]), len(awaited))
        assert rules is (type(state) if isinstance(state, Done | Aborted) else None)

    @invariant()
    def every_client_has_one_fate(self):
        if isinstance(self.state, Selection):
            assert not self.state.present & self.state.dropped.keys()
            return
        fates = [set(self.summed), set(self.state.refused), set(self.state.dropped)]
        assert sum(map(len, fates)) == len(set().union(*fates))
        if isinstance(self.state, Done | Aborted):
            late = self.state.discarded.keys()
            assert not late & (fates[1] | set(getattr(self.state, "counted", ())))

    def teardown(self):
        """Time that runs out ends any round, and without a deadline the last dropout does."""
        if not hasattr(self, "state"):
            return
        if isinstance(self.state, Selection):
            self.feed(Tick(self.state.until))
            assert not isinstance(self.state, Selection)
        if isinstance(self.state, Configuration | Reporting):
            everyone = Dropped(tuple((c, "gone") for c in self.plan.cohort), self.now)
            self.feed(Tick(self.state.until) if self.state.until is not None else everyone)
        assert isinstance(self.state, Done | Aborted)


TestRounds = Rounds.TestCase
