"""A run that is over is read when somebody asks for it, and not at each start."""

import shutil
from pathlib import Path

import pytest
from tests.coordinator.service import Coordinator, play_all, serving, spec_of, submit

from hanse.net.transfer import download

SPEC = spec_of("ada", "bob", name="tiny", rounds=2)


@pytest.fixture
def ended(tmp_path: Path) -> tuple[Path, str, dict]:
    """A coordinator that has ended a run, what it said of it, and the run."""
    with serving(tmp_path) as coordinator:
        sites = [coordinator.enrol("ada"), coordinator.enrol("bob")]
        run = submit(coordinator.operator, SPEC)
        play_all(sites, run, SPEC, tmp_path)
        said = told(coordinator, run)
    return tmp_path, run, said


def told(coordinator: Coordinator, run: str) -> dict:
    line = coordinator.operator
    paths = (f"/v1/runs/{run}", f"/v1/runs/{run}/history", f"/v1/runs/{run}/events", "/v1/runs")
    found = {path: line.request("GET", path).json() for path in paths}
    for row in (found[paths[0]], *found["/v1/runs"]["runs"]):
        row.pop("news", None)
        row.pop("members", None)  # when each was heard of last
    return found


def test_a_start_does_not_read_it_and_whoever_asks_is_told_what_was_told_before(ended):
    folder, run, said = ended
    with serving(folder) as coordinator:
        record = coordinator.office.runs.records[run]
        assert (record.over, record.is_taken_up) == ("done", False)
        assert coordinator.office.runs.assignments("ada") == []
        assert not record.is_taken_up
        assert told(coordinator, run) == said
        assert record.is_taken_up


def test_its_models_can_be_downloaded_and_only_by_who_could_before(ended, tmp_path):
    folder, run, said = ended
    model = said[f"/v1/runs/{run}"]["model"]
    with serving(folder) as coordinator:
        path = f"/v1/blobs/{model}/chunks/0"
        stranger = coordinator.person("rob", "researcher")
        assert stranger.exchange("GET", path).status == 404
        assert not coordinator.office.runs.records[run].is_taken_up
        download(coordinator.operator, model, tmp_path / "model", most=2**20)
        assert (
            coordinator.operator.exchange("GET", "/v1/blobs/" + "0" * 64 + "/chunks/0").status
            == 404
        )


def test_one_whose_end_a_site_does_not_know_is_taken_up(tmp_path):
    with serving(tmp_path) as coordinator:
        ada, bob = coordinator.enrol("ada"), coordinator.enrol("bob")
        run = submit(coordinator.operator, SPEC)
        for site in (ada, bob):
            site.answer(site.ask_until("prepare", run), SPEC)
        coordinator.operator.request("POST", f"/v1/runs/{run}/stop")
    with serving(tmp_path) as coordinator:
        assert coordinator.office.runs.records[run].is_taken_up
        assert coordinator.office.runs.assignments("ada")[0]["kind"] == "finish"


def test_a_model_of_it_that_was_lost_keeps_no_coordinator_from_its_work(ended):
    folder, run, _ = ended
    shutil.rmtree(folder / "coordinator" / "blobs" / run)
    with serving(folder) as coordinator:
        assert coordinator.office.runs.assignments("ada") == []
        next_run = submit(coordinator.operator, SPEC)
        assert next_run != run
