"""P6: whatever was recorded on the wire is worth nothing later, in whatever state the run is."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.coordinator.service import (
    Coordinator,
    Recorded,
    Recording,
    Site,
    path_of,
    serving,
    share_of,
    spec_of,
    submit,
)

from hanse.errors import HanseError, TransportError


@pytest.fixture
def coordinator(tmp_path: Path, where: str) -> Iterator[Coordinator]:
    database = where if "://" in where else ""
    with serving(tmp_path / "served", database=database) as found:
        yield found


def journal_of(coordinator: Coordinator) -> list[tuple[int, str]]:
    """Every event of every stream, as the journal chains them."""
    assert coordinator.office is not None
    journal = coordinator.office.journal
    entries = [entry for stream in journal.streams() for entry in journal.read(stream)]
    return sorted((entry.seq, entry.hash) for entry in entries)


def shown(coordinator: Coordinator, run: str) -> dict[str, Any]:
    """What people are told of the run, but for how long ago each site was heard of."""
    told = coordinator.state(run)
    told["members"] = {
        site: {name: value for name, value in member.items() if name != "away_s"}
        for site, member in told["members"].items()
    }
    return told


def settle(coordinator: Coordinator, run: str) -> None:
    """Wait until the coordinator has nothing left to do by itself for the run."""
    assert coordinator.office is not None
    runs, ends = coordinator.office.runs, time.monotonic() + 5
    while time.monotonic() < ends:
        live = runs.of(run).live
        if live.course.outcome or any(map(runs.assignments, live.course.members)):
            before = live.news_number
            time.sleep(0.02)
            if live.news_number == before:
                return
        time.sleep(0.005)
    raise AssertionError("the run does not come to rest")


class Witness:
    """Replays all that was recorded so far, and looks whether anything came of it."""

    def __init__(self, coordinator: Coordinator, sites: list[Site]) -> None:
        self.coordinator, self.sites, self.replayed = coordinator, sites, 0
        for site in sites:
            site.connection.sent = []

    def recorded(self) -> list[tuple[Recording, Recorded]]:
        return [(s.connection, one) for s in self.sites for one in s.connection.sent or ()]

    def check(self, run: str) -> None:
        settle(self.coordinator, run)
        before = shown(self.coordinator, run), journal_of(self.coordinator)
        spool = self.uploads()
        for line, one in self.recorded():
            try:
                response = line.again(one)
            except TransportError:
                continue
            self.replayed += 1
            # a challenge is for anyone, and opens nothing by itself
            assert response.status >= 400 or one.path == "/v1/challenge", (one, response)
        assert (shown(self.coordinator, run), journal_of(self.coordinator)) == before
        assert self.uploads() == spool

    def uploads(self) -> list[tuple[str, int]]:
        folder = self.coordinator.folder / "coordinator" / "spool"
        return sorted((str(path), path.stat().st_size) for path in folder.rglob("*.*"))


def test_every_recorded_request_of_a_site_changes_nothing_in_any_later_state(
    coordinator: Coordinator,
):
    ada, bob = coordinator.enrol("ada"), coordinator.enrol("bob")
    witness = Witness(coordinator, [ada, bob])
    spec = spec_of("ada", "bob", rounds=2)
    run = submit(coordinator.operator, spec)
    asked_before = 0
    for kind in ("prepare", *("train", "evaluate") * 2, "finish"):
        for site in (ada, bob):
            site.answer(site.ask_until(kind, run), spec)
            witness.check(run)
            recorded = len(witness.recorded())
            assert recorded > asked_before
            asked_before = recorded
    assert coordinator.state(run)["outcome"] == "done"
    assert witness.replayed > 100


def test_what_was_recorded_under_one_session_is_worth_nothing_under_another(
    coordinator: Coordinator,
):
    ada = coordinator.enrol("ada")
    ada.connection.sent = []
    spec = spec_of("ada", rounds=1)
    run = submit(coordinator.operator, spec)
    ada.answer(ada.ask_until("prepare", run), spec)
    settle(coordinator, run)
    recorded = [*ada.connection.sent]
    before = journal_of(coordinator)
    fresh = coordinator.site("ada", ada.key)
    assert fresh.assignments()  # another session is open now
    for one in recorded:
        session = fresh.line._session
        assert session is not None
        for sequence in ("0", "999", one.headers.get("Hanse-Sequence", "1")):
            headers = {**one.headers, "Hanse-Session": session.id, "Hanse-Sequence": sequence}
            spliced = Recorded(one.method, one.path, one.content, headers)
            if one.path != "/v1/challenge":
                assert fresh.connection.again(spliced).status == 401
    assert journal_of(coordinator) == before


def test_a_recorded_request_is_for_its_own_path_body_and_method_only(coordinator: Coordinator):
    ada = coordinator.enrol("ada")
    spec = spec_of("ada", rounds=1)
    run = submit(coordinator.operator, spec)
    asked = ada.ask_until("prepare", run)
    body = b'{"body":{"accepted":true,"fingerprint":"f"}}'
    session, sequence = ada.line._numbered()
    named = {"Hanse-Session": session.id, "Hanse-Sequence": str(sequence)}
    headers = named | ada.line._signed("POST", "/v1/poll", session.id, sequence, "0" * 64)
    before = journal_of(coordinator)
    for path in (path_of(asked), path_of(asked) + "?", "/v1/poll?x=1"):
        assert ada.connection.again(Recorded("POST", path, body, headers)).status in (400, 401)
    assert journal_of(coordinator) == before


def test_join_and_login_are_good_once_and_the_same_join_changes_nothing(coordinator: Coordinator):
    line = coordinator.dial()
    secret = coordinator.invite("anna", "researcher").secret.hex()
    login = Recorded("POST", "/v1/login", b'{"secret":"%s"}' % secret.encode(), {})
    assert line.again(login).status == 200
    before = journal_of(coordinator)
    assert line.again(login).status == 401
    assert journal_of(coordinator) == before


def test_a_model_that_was_taken_is_not_taken_again(coordinator: Coordinator):
    coordinator.enrol("ada")
    line = coordinator.operator
    line.sent = []
    run = submit(line, spec_of("ada"))
    before = shown(coordinator, run), journal_of(coordinator)
    put = next(one for one in line.sent if one.method == "PUT")
    assert line.again(put).status == 404
    assert (shown(coordinator, run), journal_of(coordinator)) == before


def test_a_late_answer_that_comes_again_gets_the_same_receipt_and_no_other_event(
    coordinator: Coordinator,
):
    ada = coordinator.enrol("ada")
    spec = spec_of("ada", rounds=1)
    run = submit(coordinator.operator, spec)
    ada.answer(ada.ask_until("prepare", run), spec)
    ada.answer(ada.ask_until("train", run), spec)
    ada.ask_until("evaluate", run)
    settle(coordinator, run)
    first = ada.post(f"/v1/runs/{run}/0/train", {"refused": "late"})
    before = journal_of(coordinator)
    assert ada.post(f"/v1/runs/{run}/0/train", {"refused": "late"}) == first
    assert journal_of(coordinator) == before


def test_the_last_answer_that_comes_again_gets_the_same_receipt(coordinator: Coordinator):
    ada = coordinator.enrol("ada")
    spec = spec_of("ada", rounds=1)
    run = submit(coordinator.operator, spec)
    ada.answer(ada.ask_until("prepare", run), spec)
    coordinator.operator.request("POST", f"/v1/runs/{run}/stop")
    asked = ada.ask_until("finish", run)
    first = ada.answer(asked, spec)
    assert first["receipt"]["kind"] == "finish"
    try:
        assert ada.answer(asked, spec) == first
    except HanseError as error:
        pytest.fail(f"{error}")


def test_an_answer_that_comes_again_gets_the_same_receipt_and_another_is_refused(
    coordinator: Coordinator,
):
    ada = coordinator.enrol("ada")
    spec = spec_of("ada", rounds=1)
    run = submit(coordinator.operator, spec)
    ada.answer(ada.ask_until("prepare", run), spec)
    asked = ada.ask_until("train", run)
    first = ada.answer(asked, spec)
    before = journal_of(coordinator)
    assert ada.answer(asked, spec) == first
    with pytest.raises(HanseError, match="409"):
        ada.post(path_of(asked), {"refused": "after all"})
    assert share_of(spec, "ada", 1) != share_of(spec, "ada", 2)
    ada.ask_until("evaluate", run)
    kinds = {entry[0] for entry in before}
    assert kinds <= {entry[0] for entry in journal_of(coordinator)}
