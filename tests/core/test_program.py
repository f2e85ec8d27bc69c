"""Programs that ask twice, and what a client keeps between rounds; both over real pipelines."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest

from hanse.core import seeds
from hanse.core.layout import Layout
from hanse.core.pipeline import BoundPipeline, Kept, Pipeline
from hanse.core.program import Ask, Done, drive
from hanse.core.reduce import Share, Sum
from hanse.core.rounds import (
    Aborted,
    Configuration,
    Count,
    Discard,
    Dropped,
    Event,
    Plan,
    Receipt,
    Report,
    Reported,
    Tick,
    begin,
    step,
)
from hanse.core.samplers import All
from hanse.core.step import Kind, Memory, Place, Refused, Scalar, Step, Total, Update
from hanse.core.sums import norm, on_wire
from hanse.core.weight import Weight
from hanse.core.work import Compute
from hanse.errors import ProtocolError

EXAMPLES = Scalar("examples", bound=2**20)


def chance(purpose: str) -> np.random.Generator:
    return seeds.stream(7, purpose)


def shaped(layout: Layout, numbers: Sequence[float] | np.ndarray) -> np.ndarray:
    return layout.pack({"x": np.asarray(numbers)})


def encoded(bound: BoundPipeline, numbers, memory: Kept | None = None, examples: int = 1):
    """One client's share of ``numbers``, and its provisional memory."""
    vector = shaped(bound.layout, numbers)
    share, provisional = bound.encode(vector, {"examples": examples}, chance, memory=memory)
    assert isinstance(share, Share)
    return share, provisional


# Two asks: the mean first, then the variance around it


@dataclass(frozen=True)
class Moments:
    """What the program knows: nothing, then the mean, then the variance too."""

    mean: np.ndarray | None = None
    variance: np.ndarray | None = None


@dataclass(frozen=True)
class MeanThenVariance:
    """A program of two asks. The second sends the answer of the first to the clients."""

    pipeline: Pipeline

    def ask(self, state: Moments) -> Ask:
        if state.mean is None:
            return Ask(1, All(), Compute("mean"), {}, self.pipeline)
        return Ask(2, All(), Compute("variance"), {"mean": state.mean}, self.pipeline)

    def absorb(self, state: Moments, total: Total) -> Moments | Done[Moments]:
        if state.mean is None:
            return Moments(mean=total.vector)
        return Done(replace(state, variance=total.vector))


@dataclass
class Sites:
    """Three columns of numbers at each of three sites; what is asked of them is kept."""

    rows: dict[str, np.ndarray]
    layout: Layout = field(
        default_factory=lambda: Layout.build("float64", [("x", (3,), "trainable")])
    )
    asked: list[Ask] = field(default_factory=list)

    def perform(self, ask: Ask) -> Total:
        self.asked.append(ask)
        cohort = ask.cohort.sample(sorted(self.rows), 7, ask.round)
        bound = ask.pipeline.bind(self.layout, cohort=len(cohort), scalars=[EXAMPLES])
        summed = bound.accumulator()
        for client in cohort:
            rows = self.rows[client]
            share, _ = encoded(bound, self.compute(ask, rows), examples=len(rows))
            summed.add(share, bound.grids)
        return bound.decode(summed, chance)[0]

    def compute(self, ask: Ask, rows: np.ndarray) -> np.ndarray:
        match ask.work:
            case Compute("mean"):
                return rows.mean(axis=0)
            case Compute("variance"):
                mean = self.layout.views(ask.payload["mean"])["x"]
                return ((rows - mean) ** 2).mean(axis=0)
        raise AssertionError(ask.work)


@pytest.fixture
def sites():
    rng = np.random.default_rng(11)
    return Sites({name: rng.normal(i, 1 + i, (n, 3)) for i, (name, n) in enumerate(SIZES.items())})


SIZES = {"altona": 64, "bremen": 5, "celle": 17}
EXACT = Pipeline([Weight(by="examples", cap=64), Sum(limit=64.0)])  # n/64 is exact in binary


def test_a_program_of_two_asks_finds_the_mean_and_then_the_variance_of_all_rows(sites):
    program = MeanThenVariance(EXACT)
    first, last = drive(program, Moments(), sites.perform)
    pooled = np.concatenate(list(sites.rows.values()))
    views = sites.layout.views
    assert first.variance is None
    np.testing.assert_allclose(views(last.mean)["x"], pooled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(views(last.variance)["x"], pooled.var(axis=0), rtol=1e-12)


def test_the_second_ask_carries_the_answer_to_the_first(sites):
    first, _ = drive(MeanThenVariance(EXACT), Moments(), sites.perform)
    one, two = sites.asked
    assert (one.round, one.work, dict(one.payload)) == (1, Compute("mean"), {})
    assert (two.round, two.work) == (2, Compute("variance"))
    assert two.payload["mean"] is first.mean


def test_a_program_is_asked_for_nothing_before_its_state_is_wanted(sites):
    states = drive(MeanThenVariance(EXACT), Moments(), sites.perform)
    assert sites.asked == []
    next(states)
    assert len(sites.asked) == 1


# Memory at the client, kept when the receipt says that the report was counted


@dataclass(frozen=True)
class WholeNumbers(Step):
    """Error feedback (arXiv:1809.07599): send whole numbers, add what was cut off next time."""

    name: ClassVar[str] = "whole_numbers"
    kind: ClassVar[Kind] = "message"
    has_memory: ClassVar[bool] = True

    def encode(self, update: Update, place: Place) -> tuple[Update, Memory]:
        wanted = on_wire(update.vector, update.scale) + place.kept.get("rest", 0.0)
        sent = np.rint(wanted)
        return replace(update, vector=sent, scale=1.0, length=norm(sent)), {"rest": wanted - sent}


BOUND = Pipeline([WholeNumbers()]).bind(
    Layout.build("float64", [("x", (1,), "trainable")]), cohort=3
)


@dataclass
class Client:
    """Computes 0.75 each round. ``memory`` is kept; a memory without its receipt is provisional."""

    memory: Kept = field(default_factory=dict)
    provisional: dict[str, Kept] = field(default_factory=dict)

    def work(self, digest: str, value: float = 0.75) -> Share:
        share, self.provisional[digest] = encoded(BOUND, [value], self.memory)
        return share

    def receive(self, counted: str | None) -> None:
        self.memory = self.provisional.get(counted or "", self.memory)
        self.provisional.clear()

    @property
    def rest(self) -> float:
        return float(self.memory["whole_numbers"]["rest"][0]) if self.memory else 0.0


class Round:
    """A driver of the round machine in a few lines: shares are blobs, named by their digests."""

    def __init__(self, clients: dict[str, Client], **plan) -> None:
        cohort = tuple(sorted(clients))
        settings = {"goal": len(cohort), "minimum": 1, "deadline_s": 60.0} | plan
        self.clients, self.blobs, self.summed = clients, dict[str, Share](), BOUND.accumulator()
        self.state, _ = begin(Plan(1, cohort, **settings), 0.0)

    def work(self, names: str) -> tuple[Report, ...]:
        reports = tuple(Report(name, f"{name}-{len(self.blobs)}") for name in names)
        for report in reports:
            self.blobs[report.digest] = self.clients[report.client].work(report.digest)
        return reports

    def feed(self, event: Event) -> None:
        self.state, effects = step(self.state, event)
        for effect in effects:
            match effect:
                case Count(reports):
                    for report in reports:
                        self.summed.add(self.blobs[report.digest], BOUND.grids)
                case Receipt(reports):
                    for report in reports:
                        self.clients[report.client].receive(report.digest)
                case Discard(client):
                    self.clients[client].receive(None)

    @property
    def total(self) -> float:
        return float(self.summed.vector[0]) / 2.0 ** BOUND.grids["model"].exponent


@pytest.fixture
def clients():
    return {"a": Client(), "b": Client(), "c": Client()}


def rests(clients: dict[str, Client]) -> list[float]:
    return [client.rest for client in clients.values()]


def test_a_pipeline_says_that_a_step_has_memory():
    assert BOUND.facts.memory


def test_what_was_cut_off_is_sent_in_a_later_round(clients):
    sums, kept = [], []
    for _ in range(4):
        one = Round(clients)
        one.feed(Reported(one.work("abc"), 1.0))
        sums.append(one.total)
        kept.append(rests(clients))
    # 0.75 → 1, rest −0.25; 0.5 → 0 (ties to even), rest 0.5; 1.25 → 1, rest 0.25; 1.0 → 1, rest 0
    assert sums == [3.0, 0.0, 3.0, 3.0]
    assert kept == [[-0.25] * 3, [0.5] * 3, [0.25] * 3, [0.0] * 3]


def test_memory_is_provisional_until_the_round_closes(clients):
    one = Round(clients)
    one.feed(Reported(one.work("ab"), 1.0))
    assert isinstance(one.state, Configuration)
    assert rests(clients) == [0.0, 0.0, 0.0]
    one.feed(Reported(one.work("c"), 1.0))
    assert rests(clients) == [-0.25, -0.25, -0.25]


def test_a_late_report_leaves_the_old_memory_standing(clients):
    one = Round(clients)
    reports = one.work("abc")
    one.feed(Reported(reports[:2], 1.0))
    one.feed(Tick(60.0))
    one.feed(Reported(reports[2:], 61.0))
    assert rests(clients) == [-0.25, -0.25, 0.0]
    assert one.total == 2.0
    assert clients["c"].provisional == {}


def test_a_surplus_report_leaves_the_old_memory_standing(clients):
    one = Round(clients, goal=2)
    one.feed(Reported(one.work("cab"), 1.0))
    assert rests(clients) == [-0.25, 0.0, -0.25]
    assert one.total == 2.0


def test_a_dropped_client_keeps_its_old_memory(clients):
    one = Round(clients)
    reports = one.work("abc")
    one.feed(Dropped((("b", "connection lost"),), 1.0))
    one.feed(Reported((reports[0], reports[2]), 1.0))
    assert rests(clients) == [-0.25, 0.0, -0.25]
    two = Round(clients)  # b is back and starts from what it last kept: 0.75, as if never asked
    two.feed(Reported(two.work("abc"), 2.0))
    assert rests(clients) == [0.5, -0.25, 0.5]


def test_the_same_report_sent_twice_moves_sum_and_memory_once(clients):
    one = Round(clients)
    reports = one.work("abc")
    for sent in (reports[:1], reports[:1], reports, reports):
        one.feed(Reported(sent, 1.0))
    assert rests(clients) == [-0.25, -0.25, -0.25]
    assert one.total == 3.0


def test_of_two_different_reports_the_first_one_is_summed_and_remembered(clients):
    one = Round(clients)
    one.feed(Reported(one.work("a"), 1.0))
    clients["a"].work("again", value=5.5)
    with pytest.raises(ProtocolError):
        one.feed(Reported((Report("a", "again"),), 2.0))
    one.feed(Reported(one.work("bc"), 3.0))
    assert rests(clients) == [-0.25, -0.25, -0.25]
    assert one.total == 3.0


def test_a_round_that_aborts_leaves_every_memory_standing(clients):
    one = Round(clients, minimum=3)
    one.feed(Reported(one.work("ab"), 1.0))
    one.feed(Dropped((("c", "connection lost"),), 1.0))
    assert isinstance(one.state, Aborted)
    assert rests(clients) == [0.0, 0.0, 0.0]
    assert all(client.provisional == {} for client in clients.values())


def test_a_refused_update_leaves_the_old_memory_standing():
    memory = {"whole_numbers": {"rest": np.array([0.25] + [0.0] * 7)}}
    vector = shaped(BOUND.layout, [2.0**17])  # beyond the sum's limit, found after the step
    outcome, kept = BOUND.encode(vector, {}, chance, memory=memory)
    assert isinstance(outcome, Refused)
    assert kept is memory
