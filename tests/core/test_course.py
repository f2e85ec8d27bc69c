"""The course of a run: each stage by hand, then sites that come, go and repeat in any order."""

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hanse.core import course as courses
from hanse.core import rounds
from hanse.core.canonical import encode
from hanse.core.course import (
    Absorb,
    Conclude,
    Course,
    Judge,
    Open,
    Wait,
    assignments,
    begin,
    due,
    is_late,
    step,
)
from hanse.core.events import (
    KINDS,
    Absorbed,
    Acknowledged,
    Concluded,
    Declined,
    Event,
    Failed,
    Judged,
    Late,
    Opened,
    Prepared,
    Refused,
    Reopened,
    Reported,
    Scored,
    Ticked,
    Unscored,
    from_json,
    to_json,
)
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.samplers import All, FixedSize, Poisson
from hanse.core.spec import Evaluation, Quorum, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.errors import ProtocolError
from hanse.privacy import Clip, GaussianNoise

ABC = ("a", "b", "c")
PRIVATE = Pipeline([Weight(by="uniform", denominator=4.0), Clip(1.0), GaussianNoise(1.0)])
SPEC = RunSpec(
    name="heart",
    task="app:task",
    data="app:data",
    clients=ABC,
    rounds=2,
    seed=7,
    strategy={"name": "fedavg"},
    sampler=All(),
    local=LocalTraining(),
    pipeline=Pipeline(),
    layout=Layout.build("float32", [("w", (3,), "trainable")]),
    training=(),
    evaluation_scalars=(),
    quorum=Quorum(minimum=2, deadline_s=60.0),
)
TOLD = {"clip": {"norm": 0.5, "list": [1, None, "x"]}}


def ready(*sites: str, now: float = 1.0) -> list[Event]:
    return [Prepared(site, 0, "#p", f"bits-{site}", now) for site in sites]


def report(site: str, round: int = 1, now: float = 3.0) -> Reported:
    return Reported(site, round, f"#{site}{round}", f"blob-{site}{round}", now)


def absorbed(round: int, now: float = 4.0) -> Absorbed:
    return Absorbed(round, f"model-{round}", f"memory-{round}", {"round": round}, now)


def scored(site: str, round: int = 1, now: float = 5.0) -> Scored:
    return Scored(site, round, f"#s{site}{round}", (10, 4), now)


OPENED = Opened(1, TOLD, 2.0)
READY = (*ready(*ABC), OPENED)
SUMMED = (*READY, *map(report, ABC), absorbed(1))


def after(*events: Event, spec: RunSpec = SPEC) -> Course:
    course = begin(spec, "model-0")
    for event in events:
        course = step(course, event)
    return course


def kinds(course: Course) -> dict[str, list[tuple[str, int]]]:
    return {s: [(a.kind, a.round) for a in assignments(course, s)] for s in course.members}


def through_text(event: Event) -> Event:
    """The event as a journal gives it back."""
    kind, body = to_json(event)
    return from_json(kind, json.loads(encode(body)))


# Preparing


def test_a_run_begins_by_asking_every_site_whether_it_takes_part():
    course = after()
    assert (course.stage, course.model, course.round) == ("preparing", "model-0", 0)
    assert due(course) == Wait()
    assert kinds(course) == {site: [("prepare", 0)] for site in ABC}
    assert assignments(course, "a")[0].json("heart-1") == {
        "run": "heart-1",
        "kind": "prepare",
        "round": 0,
        "blob": None,
        "body": {},
        "counted": None,
    }


def test_a_site_that_declines_is_asked_again_under_another_number():
    course = after(Declined("a", 0, "#p", ("no such data",), 1.0))
    assert kinds(course)["a"] == [("prepare", 1)]
    assert course.members["a"].reasons == ("no such data",)
    course = step(course, Prepared("a", 1, "#p", "bits", 2.0))
    assert kinds(course)["a"] == []
    assert course.members["a"].is_ready
    assert course.stage == "preparing"


def test_training_begins_when_the_last_site_is_ready():
    assert due(after(*ready("a", "b"))) == Wait()
    course = after(*ready(*ABC))
    assert course.stage == "between"
    assert due(course) == Open(1)
    assert kinds(course) == {site: [] for site in ABC}


# Training


def test_the_cohort_is_asked_to_train_from_the_model_and_told_what_was_announced():
    course = after(*READY)
    assert course.stage == "training"
    assert due(course) == Wait(62.0)
    assert kinds(course) == {site: [("train", 1)] for site in ABC}
    asked = assignments(course, "b")[0]
    assert (asked.blob, asked.body, asked.counted) == (
        "model-0",
        {"announced": TOLD, "again": 0},
        None,
    )


def test_a_round_of_which_an_update_is_lost_begins_again_and_asks_anew():
    course = after(*READY, *map(report, ABC))
    assert course.stage == "summing"
    course = step(course, Reopened(1, "the update of b is no more there", 4.0))
    assert (course.stage, dict(course.blobs)) == ("training", {})
    assert course.again == ("the update of b is no more there",)
    assert due(course) == Wait(64.0)
    assert [assignments(course, site)[0].body["again"] for site in ABC] == [1, 1, 1]
    for site in ABC:
        course = step(course, report(site, now=5.0))
    course = step(course, absorbed(1, 6.0))
    assert course.counted == dict.fromkeys(ABC, 1)
    opened = after(*SUMMED, *map(scored, ABC), Judged(1, {}, 6.0), Opened(2, TOLD, 7.0))
    assert opened.again == ()
    assert step(step(opened, Reopened(2, "x", 8.0)), Reopened(2, "y", 9.0)).again == ("x", "y")


@pytest.mark.parametrize("events", [(), READY[:3], SUMMED], ids=["preparing", "between", "judged"])
def test_no_round_begins_again_that_is_not_open(events):
    with pytest.raises(ProtocolError, match="cannot begin again"):
        step(after(*events), Reopened(1, "gone", 9.0))


def test_who_is_not_in_the_cohort_is_asked_nothing():
    spec = replace(SPEC, sampler=FixedSize(2))
    course = after(*READY, spec=spec)
    cohort = course.opened.plan.cohort
    assert {site for site, asked in kinds(course).items() if asked} == set(cohort)
    (left,) = set(ABC) - set(cohort)
    with pytest.raises(ProtocolError, match=f"{left} is not in the cohort"):
        step(course, report(left))


@pytest.mark.parametrize(
    "answer",
    [
        report("a"),
        Refused("a", 1, "#a", "not finite", 3.0),
        Failed("a", 1, "#a", "MemoryError", 3.0),
    ],
)
def test_who_has_answered_is_asked_no_more(answer):
    course = after(*READY, answer)
    assert kinds(course) == {"a": [], "b": [("train", 1)], "c": [("train", 1)]}


def test_what_was_counted_is_absorbed_and_nothing_else():
    course = after(*READY, report("c"), Refused("b", 1, "#b", "not finite", 3.0), report("a"))
    assert course.stage == "summing"
    action = due(course)
    assert isinstance(action, Absorb)
    assert (action.round, action.blobs) == (1, {"a": "blob-a1", "c": "blob-c1"})
    assert isinstance(action.state, rounds.Done)


def test_the_surplus_of_an_over_selected_round_is_not_absorbed():
    spec = replace(
        SPEC, sampler=FixedSize(2), quorum=Quorum(over_selection=1.5, minimum=2, deadline_s=60)
    )
    course = after(*READY, report("c"), report("b"), spec=spec)
    assert course.stage == "summing"
    assert kinds(course)["a"] == []
    course = step(course, report("a"))
    assert set(due(course).blobs) == {"b", "c"}


def test_at_the_deadline_a_round_goes_on_with_those_who_have_answered():
    course = after(*READY, report("a"), report("b"), Ticked(61.9))
    assert course.stage == "training"
    course = step(course, Ticked(62.0))
    assert set(due(course).blobs) == {"a", "b"}


def test_a_round_with_too_few_is_absorbed_as_nothing_and_the_next_one_opens():
    failed = [Failed(site, 1, "#", "MemoryError", 3.0) for site in "ab"]
    course = after(*READY, report("c"), *failed)
    action = due(course)
    assert isinstance(action.state, rounds.Aborted)
    assert action.blobs == {}
    course = step(course, Absorbed(1, "model-0", "", {}, 4.0))
    assert course.counted == {}


def test_a_site_that_was_away_when_its_round_ended_learns_later_that_it_was_counted():
    course = after(*SUMMED, *map(scored, ABC), Judged(1, {}, 6.0), Opened(2, TOLD, 7.0))
    course = step(step(course, report("b", 2, 8.0)), report("c", 2, 8.0))
    course = step(step(course, Ticked(67.0)), absorbed(2, 67.0))
    assert course.counted == {"a": 1, "b": 2, "c": 2}
    assert assignments(course, "a")[0].counted == 1


def test_a_round_of_nobody_is_absorbed_at_once():
    spec = replace(SPEC, sampler=Poisson(1e-9), quorum=Quorum())
    course = after(*READY, spec=spec)
    assert course.stage == "summing"
    assert due(course).blobs == {}


# Evaluating


def test_the_model_of_a_round_is_judged_by_every_site_even_those_that_did_not_train():
    spec = replace(SPEC, sampler=FixedSize(1), quorum=Quorum())
    course = after(*READY, spec=spec)
    (cohort,) = course.opened.plan.cohort
    course = step(step(course, report(cohort)), absorbed(1))
    assert course.stage == "evaluating"
    assert kinds(course) == {site: [("evaluate", 1)] for site in ABC}
    assert assignments(course, cohort)[0].counted == 1
    assert assignments(course, cohort)[0].blob == "model-1"


def test_a_model_is_judged_when_every_site_has_answered():
    course = after(*SUMMED, scored("a"), Unscored("b", 1, "#", "no data", 5.0))
    assert due(course) == Wait(64.0)
    course = step(course, scored("c"))
    action = due(course)
    assert isinstance(action, Judge)
    assert action.scoring.scores == {"a": (10, 4), "c": (10, 4)}
    assert action.scoring.lacking == {"b": "no data"}
    assert due(step(course, Judged(1, {}, 6.0))) == Open(2)


def test_at_the_deadline_a_model_is_judged_by_those_who_have_answered():
    course = after(*SUMMED, scored("a"), Ticked(63.9))
    assert due(course) == Wait(64.0)
    action = due(step(course, Ticked(64.0)))
    assert isinstance(action, Judge)
    assert set(action.scoring.lacking) == {"b", "c"}


@pytest.mark.parametrize(
    ("evaluation", "judged"),
    [
        (Evaluation(), {1, 2, 3, 4, 5}),
        (Evaluation(every=2), {2, 4, 5}),
        (Evaluation(every=0), set()),
        (Evaluation(release="none"), set()),
        (Evaluation(release="sum"), {1, 2, 3, 4, 5}),
    ],
)
def test_models_are_judged_as_often_as_the_spec_says(evaluation, judged):
    course = after(*ready(*ABC), spec=replace(SPEC, rounds=5, evaluation=evaluation))
    found = set()
    while not isinstance(due(course), Conclude):
        number = course.round + 1
        for event in (Opened(number, {}, 2.0), *(report(s, number) for s in ABC), absorbed(number)):
            course = step(course, event)
        if course.stage == "evaluating":
            found.add(number)
            for site in ABC:
                course = step(course, scored(site, number))
            course = step(course, Judged(number, {}, 5.0))
    assert found == judged
    assert course.round == 5


# The end


def test_a_run_ends_for_a_site_when_it_says_that_it_has_the_model():
    course = after(*SUMMED, *map(scored, ABC), Concluded("stopped", "by anna", 6.0))
    assert (course.stage, course.outcome, course.reason) == ("ended", "stopped", "by anna")
    asked = assignments(course, "a")[0]
    assert (asked.kind, asked.round, asked.blob) == ("finish", 1, "model-1")
    assert (asked.body, asked.counted) == ({"outcome": "stopped"}, 1)
    course = step(course, Acknowledged("a", 1, "#", 7.0))
    assert kinds(course) == {"a": [], "b": [("finish", 1)], "c": [("finish", 1)]}
    assert due(course) == Wait()


def test_who_never_took_part_is_not_told_of_the_end():
    course = after(*ready("a"), Concluded("stopped", "", 2.0))
    assert kinds(course) == {"a": [("finish", 0)], "b": [], "c": []}


STAGES = {
    "preparing": ready("a", "b"),
    "between": ready(*ABC),
    "training": [*READY, report("a")],
    "summing": [*READY, *map(report, ABC)],
    "evaluating": [*SUMMED, scored("a")],
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_can_be_stopped_in_every_stage(stage):
    course = after(*STAGES[stage])
    assert course.stage == stage
    course = step(course, Concluded("stopped", "by anna", 9.0))
    assert course.stage == "ended"
    assert due(course) == Wait()
    assert {k for asked in kinds(course).values() for k, _ in asked} == {"finish"}
    assert all(is_late(course, kind, 1) for kind in ("prepare", "train", "evaluate"))
    assert not is_late(course, "finish", 1)


@pytest.mark.parametrize(
    ("stage", "kind", "late", "in_time"),
    [
        ("preparing", "train", [0], [1, 2]),
        ("training", "train", [0], [1, 2]),
        ("summing", "train", [0, 1], [2]),
        ("evaluating", "train", [0, 1], [2]),
        ("training", "evaluate", [0], [1, 2]),
        ("evaluating", "evaluate", [0], [1, 2]),
        ("training", "prepare", [], [0, 1]),
        ("evaluating", "finish", [], [0, 1]),
    ],
)
def test_an_answer_is_late_once_its_round_has_ended(stage, kind, late, in_time):
    course = after(*STAGES[stage])
    assert [number for number in (*late, *in_time) if is_late(course, kind, number)] == late


# What is refused


WRONG = {
    "preparing": [
        Prepared("z", 0, "#p", "", 9.0), Declined("z", 0, "#p", (), 9.0),
        Prepared("a", 0, "#p", "", 9.0), Prepared("c", 1, "#p", "", 9.0),
        Declined("c", -1, "#p", (), 9.0), Opened(1, {}, 9.0), report("c"), scored("c"), absorbed(1),
    ],
    "between": [Opened(0, {}, 9.0), Opened(2, {}, 9.0), report("a"), absorbed(1), scored("a")],
    "training": [
        Opened(1, {}, 9.0), Opened(2, {}, 9.0), report("b", 2), report("b", 0), report("z"),
        Reported("a", 1, "another", "blob", 9.0), Refused("a", 1, "#", "no", 9.0), absorbed(1),
        scored("a"), Prepared("a", 0, "#p", "", 9.0), Failed("z", 1, "#", "no", 9.0),
    ],
    "summing": [
        absorbed(2), absorbed(0), Opened(2, {}, 9.0), Reported("a", 1, "another", "blob", 9.0),
        scored("a"), report("a", 2),
    ],
    "evaluating": [
        scored("a"), Unscored("a", 1, "#", "no", 9.0), scored("b", 2), scored("b", 0),
        report("b"), Opened(2, {}, 9.0), absorbed(2),
    ],
}  # fmt: skip


@pytest.mark.parametrize("stage", WRONG)
def test_what_nobody_was_asked_is_refused_and_changes_nothing(stage):
    course, same = after(*STAGES[stage]), after(*STAGES[stage])
    for event in WRONG[stage]:
        with pytest.raises(ProtocolError):
            step(course, event)
        assert course == same


@pytest.mark.parametrize(
    ("stage", "event"),
    [
        ("evaluating", scored("z")),
        ("evaluating", Unscored("z", 1, "#", "no", 9.0)),
        ("evaluating", Judged(2, {}, 9.0)),
        ("evaluating", Judged(1, {}, 9.0)),  # two sites have not answered yet
        ("training", Judged(1, {}, 9.0)),
        ("training", Acknowledged("a", 1, "#", 9.0)),
        ("training", Acknowledged("z", 1, "#", 9.0)),
    ],
)
def test_what_does_not_fit_the_stage_is_refused_whoever_says_it(stage, event):
    with pytest.raises(ProtocolError):
        step(after(*STAGES[stage]), event)


def test_a_run_ends_once():
    course = after(*SUMMED, Concluded("done", "", 6.0))
    with pytest.raises(ProtocolError):
        step(course, Concluded("stopped", "by anna", 7.0))


def test_after_the_end_nothing_but_an_acknowledgement_counts():
    course = after(*SUMMED, Concluded("done", "", 6.0))
    for event in (report("a", 2), scored("a"), Opened(2, {}, 9.0), absorbed(2), *ready("a")):
        with pytest.raises(ProtocolError):
            step(course, event)
    assert step(course, Ticked(99.0)) == replace(course, now=99.0)
    assert step(course, Late("a", 1, "train", "#", "late", 9.0)) == replace(course, now=9.0)


def test_the_same_report_twice_is_one():
    course = after(*READY, report("a"))
    assert step(course, report("a")) == course
    assert step(after(*READY, *map(report, ABC)), report("a")).opened.counted.keys() == set(ABC)


def test_time_never_steps_back():
    course = after(*READY, Ticked(50.0))
    assert step(course, report("a", now=10.0)).now == 50.0
    assert step(course, Ticked(-1e9)) == course


# The journal


EVENTS = [
    *ready("a"), OPENED, Reopened(1, "gone", 2.5),
    Declined("b", 3, "#p", ("no", "data"), 1.5), Declined("b", 3, "#p", (), 1.5), report("a"),
    Refused("a", 1, "#", "nö", 3.0), Failed("a", 1, "#", '"\n', 3.0),
    Late("a", 1, "train", "#", "late", 3.25), Ticked(4.0), absorbed(1), scored("a"),
    Scored("a", 1, "#", (), 5.0), Unscored("a", 1, "#", "", 5.0), Judged(1, {"x": [1.5]}, 6.0),
    Concluded("failed", "disk", 7.0), Acknowledged("a", 1, "#", 8.0),
]  # fmt: skip


def test_the_examples_have_every_kind_of_event():
    assert {type(event) for event in EVENTS} == set(KINDS.values())


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_its_text(event):
    assert through_text(event) == event


def test_the_largest_counts_of_an_evaluation_come_back_from_their_text():
    event = Scored("a", 1, "#", (2**60, -(2**60), 2**53 + 1), 5.0)
    assert through_text(event) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_a_body_with_a_name_too_many_or_too_few_is_no_event(event):
    kind, body = to_json(event)
    for wrong in ({**body, "extra": 1}, *({**body} for _ in body)):
        if "extra" not in wrong:
            del wrong[next(iter(wrong))]
        with pytest.raises(ValueError, match="is no event of a run"):
            from_json(kind, wrong)
    with pytest.raises(ValueError, match="is no event of a run"):
        from_json(kind.upper(), body)


# Any order


SITES = "abcde"


@cache
def spec_of(sites: int, sampler, quorum, evaluation, rounds: int, private: bool) -> RunSpec:
    return replace(
        SPEC,
        clients=tuple(SITES[:sites]),
        sampler=sampler,
        quorum=quorum,
        evaluation=Evaluation(release="none") if private else evaluation,
        rounds=rounds,
        pipeline=PRIVATE if private else Pipeline(),
    )


@st.composite
def specs(draw) -> RunSpec:
    sites = draw(st.integers(1, 5))
    sampler = draw(
        st.one_of(
            st.just(All()),
            st.integers(1, sites).map(FixedSize),
            st.sampled_from([Poisson(0.3), Poisson(0.8)]),
        )
    )
    over = draw(st.sampled_from([1.0, 1.5, 3.0] if isinstance(sampler, FixedSize) else [1.0]))
    private = draw(st.sampled_from([False, False, False, True]))
    asked = Quorum(over_selection=over).asked(sampler.largest(sites), sites)
    most = 1 if private else asked
    deadline = draw(st.sampled_from([None, 10.0]))
    return spec_of(
        sites,
        sampler,
        Quorum(over_selection=over, deadline_s=deadline, minimum=draw(st.integers(0, most))),
        Evaluation(
            every=draw(st.integers(0, 2)), release=draw(st.sampled_from(["per-site", "sum"]))
        ),
        draw(st.integers(1, 3)),
        private,
    )


ANSWERS = {
    "prepare": ("ready", "ready", "declines"),
    "train": ("reports", "reports", "reports", "refuses", "fails"),
    "evaluate": ("scores", "scores", "cannot score"),
    "finish": ("has it",),
}


class AnyOrder(RuleBasedStateMachine):
    """Sites and a driver around one course, as a coordinator has them.

    ``receipts`` is what makes a second answer none, as in the coordinator; ``held`` are the
    questions that a site has seen, answered or not.
    """

    @initialize(spec=specs())
    def begins(self, spec):
        self.course = self.replayed = self.first = begin(spec, "model-0")
        self.now, self.journal = 0.0, []
        self.receipts, self.held = {}, {site: [] for site in spec.clients}
        self.counted, self.absorbed = {}, 0

    # What a coordinator does

    def record(self, event: Event) -> None:
        self.course = step(self.course, event)
        kind, body = to_json(event)
        self.journal.append((kind, encode(body)))
        self.replayed = step(self.replayed, from_json(kind, json.loads(encode(body))))

    def answer(self, site: str, kind: str, round: int, event: Event) -> str:
        """What the coordinator says of an answer: taken, again, late or not asked."""
        if (site, round, kind) in self.receipts:
            return "again"
        if is_late(self.course, kind, round):
            self.record(Late(site, round, kind, "#", "late", self.now))
            return "late"
        asked = [(a.kind, a.round) for a in assignments(self.course, site)]
        if (kind, round) not in asked:
            return "not asked"
        self.record(event)
        self.receipts[site, round, kind] = event
        return "taken"

    def event(self, site: str, kind: str, round: int, how: str) -> Event:
        mark = f"#{kind}-{site}-{round}"
        match how:
            case "ready":
                return Prepared(site, round, mark, f"bits-{site}", self.now)
            case "declines":
                return Declined(site, round, mark, ("not today", how), self.now)
            case "reports":
                return Reported(site, round, mark, f"blob-{site}-{round}", self.now)
            case "refuses":
                return Refused(site, round, mark, "not finite", self.now)
            case "fails":
                return Failed(site, round, mark, "MemoryError", self.now)
            case "scores":
                return Scored(site, round, mark, (round, 2**53), self.now)
            case "cannot score":
                return Unscored(site, round, mark, "no test data", self.now)
            case _:
                return Acknowledged(site, round, mark, self.now)

    def drive(self) -> bool:
        """Do what is due; whether there was anything."""
        match due(self.course):
            case Open(number):
                assert number == self.course.round + 1
                self.record(Opened(number, {"clip": {"norm": number / 3}}, self.now))
            case Absorb() as action:
                self.absorb(action)
            case Judge(scoring):
                assert not any(map(scoring.is_open, self.course.members))
                self.record(Judged(scoring.round, {"pooled": {"auc": 0.75}}, self.now))
            case Conclude():
                assert self.course.round == self.course.spec.rounds
                self.record(Concluded("done", "", self.now))
            case Wait(until):
                if until is None or self.now < until:
                    return False
                self.record(Ticked(self.now))
        return True

    def absorb(self, action: Absorb) -> None:
        number, spec = action.round, self.course.spec
        reports = {
            site: event.blob
            for (site, round, _), event in self.receipts.items()
            if isinstance(event, Reported) and round == number
        }
        assert action.blobs.items() <= reports.items()
        if isinstance(action.state, rounds.Done):
            assert len(action.blobs) >= spec.quorum.minimum or spec.bound.facts.is_private
            assert len(action.blobs) <= action.state.plan.goal
        else:
            assert action.blobs == {}
        self.counted[number] = set(action.blobs)
        self.absorbed += 1
        before = self.course.counted
        self.record(Absorbed(number, f"model-{number}", f"memory-{number}", {}, self.now))
        assert self.course.counted == {**before, **dict.fromkeys(action.blobs, number)}

    # Rules

    @rule()
    def the_driver_goes_on(self):
        self.drive()

    @rule(data=st.data())
    def a_site_answers(self, data):
        site = data.draw(st.sampled_from(self.course.spec.clients))
        for asked in assignments(self.course, site):
            self.held[site].append((asked.kind, asked.round))
            how = data.draw(st.sampled_from(ANSWERS[asked.kind]))
            event = self.event(site, asked.kind, asked.round, how)
            assert self.answer(site, asked.kind, asked.round, event) == "taken"

    @rule(data=st.data())
    def several_sites_answer_at_once(self, data):
        for site in data.draw(st.permutations(self.course.spec.clients)):
            for asked in assignments(self.course, site):
                how = ANSWERS[asked.kind][0]
                event = self.event(site, asked.kind, asked.round, how)
                self.answer(site, asked.kind, asked.round, event)

    @rule(data=st.data())
    def a_site_looks_at_what_it_is_asked_and_does_not_answer_yet(self, data):
        site = data.draw(st.sampled_from(self.course.spec.clients))
        self.held[site] += [(a.kind, a.round) for a in assignments(self.course, site)]

    @rule(data=st.data())
    def a_site_answers_something_old(self, data):
        site = data.draw(st.sampled_from(self.course.spec.clients))
        if not self.held[site]:
            return
        kind, round = data.draw(st.sampled_from(self.held[site]))
        open_now = (kind, round) in [(a.kind, a.round) for a in assignments(self.course, site)]
        before = replace(self.course, now=self.now)
        event = self.event(site, kind, round, data.draw(st.sampled_from(ANSWERS[kind])))
        said = self.answer(site, kind, round, event)
        assert (said == "taken") == open_now
        if not open_now:
            assert replace(self.course, now=self.now) == before

    @rule(data=st.data())
    def an_event_comes_twice(self, data):
        """Whatever the course makes of it, nobody is counted for it again."""
        if not self.journal:
            return
        kind, text = data.draw(st.sampled_from(self.journal))
        event = from_json(kind, json.loads(text))
        if not isinstance(event, Prepared | Declined | Reported | Refused | Scored | Unscored):
            return
        before = self.course
        try:
            again = step(before, event)
        except ProtocolError:
            return
        assert again.round == before.round
        assert again.stage == before.stage
        assert again.members == before.members
        assert again.scoring == before.scoring
        assert getattr(again.opened, "counted", None) == getattr(before.opened, "counted", None)

    @rule(data=st.data())
    def nonsense_comes_and_is_refused(self, data):
        number, now, same = self.course.round, self.now, replace(self.course)
        site = data.draw(st.sampled_from(self.course.spec.clients))
        wrong = [
            Reported("stranger", number + 1, "#", "blob", now),
            Reported(site, number + 2, "#", "blob", now),
            Refused(site, number, "#", "no", now),
            Scored("stranger", number + 1, "#", (), now),
            Scored(site, number + 1, "#", (), now),
            Prepared("stranger", 0, "#p", "", now),
            Prepared(site, self.course.members[site].attempt + 1, "#p", "", now),
            Opened(number + 2, {}, now),
            Absorbed(number, "model", "", {}, now),
        ]
        event = data.draw(st.sampled_from(wrong))
        with pytest.raises(ProtocolError):
            step(self.course, event)
        assert self.course == same

    @rule(seconds=st.sampled_from([0.0, 0.5, 4.0, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def a_clock_ticks_for_nothing(self):
        self.record(Ticked(self.now))

    @rule()
    def the_coordinator_stops_and_starts(self):
        course = self.first
        for kind, text in self.journal:
            course = step(course, from_json(kind, json.loads(text)))
        assert course == self.course
        self.course = self.replayed = course

    @precondition(lambda self: self.course.outcome is None)
    @rule(by_chance=st.integers(0, 9))
    def somebody_stops_the_run(self, by_chance):
        if by_chance == 9:
            self.record(Concluded("stopped", "stopped by anna", self.now))

    # What always holds

    @invariant()
    def what_is_replayed_is_what_is(self):
        assert self.replayed == self.course

    @invariant()
    def nothing_is_asked_that_was_answered(self):
        for site in self.course.members:
            asked = assignments(self.course, site)
            assert len(asked) <= 1
            for one in asked:
                assert (site, one.round, one.kind) not in self.receipts
                assert not is_late(self.course, one.kind, one.round)
                assert one.blob == (None if one.kind == "prepare" else self.course.model)

    @invariant()
    def only_who_is_awaited_is_asked_to_train(self):
        opened = self.course.opened
        awaited = rounds.awaited(opened) if isinstance(opened, rounds.Open) else 0
        asked = {
            site
            for site in self.course.members
            if any(one.kind == "train" for one in assignments(self.course, site))
        }
        assert len(asked) == (awaited if self.course.stage == "training" else 0)
        assert not asked or asked <= set(opened.plan.cohort)

    @invariant()
    def rounds_are_absorbed_one_by_one_and_time_goes_on(self):
        assert self.course.round == self.absorbed <= self.course.spec.rounds
        assert self.course.now <= self.now
        assert self.course.model == f"model-{self.absorbed}"

    def teardown(self):
        """Every site keeps answering: the run ends, and everyone knows."""
        if not hasattr(self, "course"):
            return
        spec = self.course.spec
        for _ in range(2 + 3 * spec.rounds * (len(spec.clients) + 3)):
            moved = self.drive()
            for site in spec.clients:
                for asked in assignments(self.course, site):
                    how = ANSWERS[asked.kind][0]
                    event = self.event(site, asked.kind, asked.round, how)
                    assert self.answer(site, asked.kind, asked.round, event) == "taken"
                    moved = True
            if not moved:
                break
        assert self.course.stage == "ended", f"stuck: {self.course.stage}, due {due(self.course)}"
        assert not any(kinds(self.course).values())
        if self.course.outcome == "done":
            assert self.course.round == spec.rounds
        self.what_is_replayed_is_what_is()
        self.the_coordinator_stops_and_starts()


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase


def test_the_module_has_a_row_for_every_stage():
    table = courses.__doc__ or ""
    assert all(f"\n| {stage} " in table for stage in courses.Stage.__args__)
