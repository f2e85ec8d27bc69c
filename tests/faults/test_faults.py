"""A thousand schedules of faults in virtual time, over the production machines (P1 to P3, P7)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse
from hanse import Clip, Evaluation, Pipeline, Weight
from hanse.coordinator.live import LiveRun
from hanse.failpoints import Point
from hanse.faultsim.__main__ import failures, faults_of, main, many, told
from hanse.faultsim.schedule import (
    AT,
    COORDINATOR,
    KINDS,
    SITES,
    Fault,
    Federation,
    Schedule,
    Violation,
    digest_of,
)
from hanse.faultsim.unit import Unit, data

CALM = Schedule(0, ())
DAY_S = 86_400.0


@pytest.mark.parametrize("first", range(0, 1000, 125))
def test_a_thousand_schedules_break_no_promise(first):
    found = failures(range(first, first + 125))
    assert not found, told(*found[0])


@pytest.mark.torture
def test_twenty_thousand_schedules_break_no_promise():
    found = many(1000, 20_000, 2)
    assert not found, told(*found[0])


def test_the_thousand_have_every_kind_of_fault():
    assert set(faults_of(0, 1000)) == {*KINDS}


NOT_SIMULATED = {
    *(Point.RUN_STORED, Point.RUN_JOURNALLED, Point.JOB_SHARE_WRITTEN),
    *(Point.SITE_RELEASE_WRITTEN, Point.SITE_CLEARED),
    *(Point.SITE_LEDGER_WRITTEN, Point.SITE_LEDGER_DURABLE),
}
"""Places in files that are simulated as a whole, or before the run: real processes die there."""


def test_a_process_dies_at_every_place():
    passed = set()
    for point in AT:
        who = "west" if point.startswith(("site-", "job-")) else COORDINATOR
        faults = (Fault(0.0, "crash-at", who, 1.0, 1, point), Fault(0.6, "gone", who, 0.0))
        federation = Federation(Schedule(2, faults, is_judged=True))
        federation.run()
        if not federation.armed:
            passed.add(point)
    assert {*AT} - passed == NOT_SIMULATED


times = st.floats(0, 4.0).map(lambda at: round(at, 3))
faults = st.builds(
    Fault,
    times,
    st.sampled_from([kind for kind in KINDS if kind not in ("crash-at", "flip")]),
    st.sampled_from((COORDINATOR, *SITES)),
    times,
    st.integers(1, 4),
)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Schedule,
        st.integers(0, 2**16),
        st.lists(faults, max_size=5).map(tuple),
        st.sampled_from((None, 2.0)),
        st.sampled_from((1, 2, 3)),
        st.booleans(),
    )
)
def test_schedules_that_shrink_break_no_promise(schedule):
    Federation(schedule).run()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", [COORDINATOR, "west"])
def test_each_kind_of_fault_alone(kind, who):
    for at in (0.0, 0.6, 0.9):
        point = "answer-queued" if who == COORDINATOR else "site-share-sent"
        Federation(Schedule(3, (Fault(at, kind, who, 1.0, 1, point),))).run()


def test_the_simulated_federation_has_the_simulators_bits():
    found = hanse.simulate(
        Unit(SITES),
        {site: data(site) for site in SITES},
        pipeline=Pipeline([Weight(by="examples", cap=100), Clip(norm=8.0)]),
        evaluation=Evaluation(every=0),
        rounds=2,
        seed=5,
    )
    assert digest_of(CALM) == found.model_digest


def test_a_schedule_is_the_same_each_time():
    schedule = Schedule.drawn(7)
    first, second = Federation(schedule), Federation(schedule)
    assert first.run() == second.run()
    assert first.world.steps == second.world.steps
    assert first.coordinator.journal.rows == second.coordinator.journal.rows


def test_without_faults_nobody_waits_for_a_poll_to_end():
    """Whoever is asked something is woken: a bell that is not rung costs 25 seconds."""
    for seed in range(20):
        federation = Federation(Schedule(seed, (), is_judged=True))
        federation.run()
        assert federation.world.now < 5.0


@pytest.mark.parametrize("kind", ["cut", "deaf", "mute"])
def test_a_run_goes_on_without_a_site_that_is_away_for_a_day_and_takes_it_back(kind):
    federation = Federation(Schedule(1, (Fault(0.3, kind, "west", DAY_S),), deadline_s=2.0))
    live = federation.coordinator
    assert federation.world.run(lambda: live.live.course.outcome is not None, 60.0)
    federation.run()
    assert DAY_S < federation.world.now < DAY_S + 60


def test_a_run_that_waits_for_every_site_waits_a_day():
    federation = Federation(Schedule(1, (Fault(0.3, "cut", "west", DAY_S),)))
    assert federation.run() == digest_of(CALM)
    assert DAY_S < federation.world.now < DAY_S + 60


# What breaks a promise is found.


def found_by_schedules() -> bool:
    return any(failures(range(at, at + 20)) for at in range(0, 400, 20))


def test_an_acknowledgement_before_the_commit_is_found(monkeypatch):
    def early(self, queued):
        return {"digest": queued.event.digest, "entry": "", "late": None, "seq": 0}

    monkeypatch.setattr(LiveRun, "_durable", early)
    assert found_by_schedules()


def test_an_upload_that_is_receipted_before_it_is_synced_is_found(monkeypatch):
    from hanse.faultsim import disk

    monkeypatch.setattr(disk.Upload, "finish", lambda self: None)
    assert found_by_schedules()


def test_an_answer_that_counts_twice_is_found(monkeypatch):
    from hanse.coordinator import driver

    fold = driver.fold

    def twice(upload, *told):
        for _ in range(1 + (upload._name == "west")):
            fold(upload, *told)

    monkeypatch.setattr(driver, "fold", twice)
    with pytest.raises(Violation):
        Federation(CALM).run()


def test_a_memory_that_is_kept_though_its_report_was_not_counted_is_found(monkeypatch):
    from hanse.site.kept import ClientMemory

    trained = ClientMemory.trained

    def at_once(self, round):
        trained(self, round)
        self.settle(round)

    monkeypatch.setattr(ClientMemory, "trained", at_once)
    assert found_by_schedules()


def test_the_command_says_what_it_did(capsys):
    assert main(["--schedules", "20", "--workers", "1"]) == 0
    assert "every promise was kept" in capsys.readouterr().out


def test_the_command_shows_the_smallest_schedule_that_fails(capsys, monkeypatch):
    monkeypatch.setattr(Federation, "_checked", lambda self: (_ for _ in ()).throw(Violation("no")))
    assert failures([4]) == [(4, "Violation: no")]
    assert told(4, "Violation: no").startswith("seed 4: Violation: no")
