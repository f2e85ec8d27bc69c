"""What a monitor asks: does it live, can it work, how much is there; and what the log says."""

import asyncio
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.coordinator.service import (
    Coordinator,
    Recording,
    a_process,
    play_all,
    serving,
    spec_of,
    submit,
)

from hanse.coordinator.exposition import Metric, alone, by, exposition
from hanse.coordinator.journal import Journal
from hanse.coordinator.openapi import OTHERWISE
from hanse.coordinator.routes import Route, router
from hanse.coordinator.tally import Tally
from hanse.coordinator.watch import Reason
from hanse.net.problems import code_of

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "operate.md"
SAMPLE = re.compile(
    r'([a-z_]+)(?:\{([a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*)\})?'
    r" (-?[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?)"
)
"""A line of the text format 0.0.4, as narrow as we write it."""


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with serving(tmp_path) as found:
        assert found.office is not None
        found.office.watch.fresh_s = 0.0
        yield found


def scrape(line: Recording) -> dict[str, float]:
    """The samples by name and labels; every line, and the order of lines, is checked."""
    response = line.exchange("GET", "/metrics").accepted()
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text, found, name = response.body.decode(), dict[str, float](), ""
    assert text.endswith("\n")
    for row in text.splitlines():
        if row.startswith("# HELP "):
            name = row.split()[2]
            assert not any(key.partition("{")[0] == name for key in found), f"{name} comes twice"
        elif row.startswith("# TYPE "):
            assert row.split()[2:] in ([name, "counter"], [name, "gauge"])
            assert name.endswith("_total") == row.endswith("counter")
        else:
            sample = SAMPLE.fullmatch(row)
            assert sample, row
            assert sample[1] == name
            found[row.rpartition(" ")[0]] = float(sample[3])
    return found


def ready(coordinator: Coordinator) -> tuple[int, list[str]]:
    response = coordinator.dial().exchange("GET", "/readyz")
    told: Any = response.json()
    if response.status == 200:
        assert told == {"status": "ready"}
        return 200, []
    status, schema = OTHERWISE["readiness"]
    assert (response.status, told["status"]) == (status, "not ready")
    assert set(told) == set(schema["properties"])
    assert set(told["reasons"]) <= set(schema["properties"]["reasons"]["items"]["enum"])
    return response.status, told["reasons"]


def logged(text: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in text.splitlines()]


# Alive, and ready


def test_anyone_sees_that_it_lives_and_is_ready(coordinator):
    assert coordinator.dial().exchange("GET", "/healthz").body == b'{"status":"ok"}'
    assert ready(coordinator) == (200, [])


def test_a_disk_that_is_nearly_full_is_a_reason_and_a_change_is_logged_once(coordinator, capsys):
    watch = coordinator.office.watch
    before, watch.reserve = watch.reserve, 2**62
    assert ready(coordinator) == ready(coordinator) == (503, ["too little disk is free"])
    watch.reserve = before
    assert ready(coordinator) == (200, [])
    told = [(line["event"], line.get("what")) for line in logged(capsys.readouterr().err)]
    assert told == [("not-ready", "disk"), ("ready", None)]


def test_a_clock_before_the_newest_event_is_a_reason(coordinator):
    journal = sqlite3.connect(coordinator.folder / "coordinator" / "journal.db")
    for ahead_s, expected in ((200, (200, [])), (400, (503, [Reason.CLOCK]))):
        at = int(1000 * (time.time() + ahead_s))
        with journal:
            journal.execute("UPDATE event SET at_wall = ? WHERE seq = 1", (at,))
        assert ready(coordinator) == expected
    journal.close()


def test_a_journal_that_has_ended_is_a_reason_and_the_process_is_alive(coordinator):
    coordinator.office.journal.close()
    assert ready(coordinator) == (503, [Reason.JOURNAL])
    assert coordinator.dial().exchange("GET", "/healthz").status == 200


def test_a_journal_that_hangs_is_a_reason_while_it_does_and_is_asked_once(coordinator):
    held = sqlite3.connect(coordinator.folder / "coordinator" / "journal.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    waits = coordinator.office.journal.append("registry", [("revoked", {"name": "x"})])
    found = list[tuple[int, list[str]]]()
    threads = [threading.Thread(target=lambda: found.append(ready(coordinator))) for _ in range(2)]
    coordinator.office.watch.fresh_s = 1.0
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 2 * [(503, [Reason.JOURNAL])]
    assert not waits.done()
    held.execute("ROLLBACK")
    held.close()
    waits.result(10)
    coordinator.office.watch.fresh_s = 0.0
    assert ready(coordinator) == (200, [])


def test_whoever_asks_again_within_a_second_is_told_the_same(coordinator):
    coordinator.office.watch.fresh_s = 60.0
    assert ready(coordinator) == (200, [])
    coordinator.office.watch.reserve = 2**62
    assert ready(coordinator) == (200, [])


# Numbers


def test_the_numbers_of_a_run_are_those_of_its_journal_before_and_after_a_restart(tmp_path):
    spec = spec_of("ada", "bob", name="tiny", rounds=2)
    with serving(tmp_path) as coordinator:
        ada, bob = coordinator.enrol("ada"), coordinator.enrol("bob")
        viewer = coordinator.person("vic", "viewer")
        before = scrape(viewer)
        assert before['hanse_answers_total{event="reported"}'] == 0
        run = submit(coordinator.operator, spec)
        waiting = scrape(viewer)
        assert waiting['hanse_runs{state="preparing"}'] == 1
        assert waiting[f'hanse_run_rounds{{run="{run}"}}'] == 2
        assert waiting[f'hanse_run_rounds_done{{run="{run}"}}'] == 0
        play_all([ada, bob], run, spec, tmp_path)
        found = scrape(viewer)
        head = coordinator.office.journal.newest().seq
    assert found["hanse_journal_head_seq"] == head
    assert found['hanse_runs{state="done"}'] == 1
    assert f'hanse_run_rounds{{run="{run}"}}' not in found
    answers = {"prepared": 2, "reported": 4, "scored": 4, "acknowledged": 2}
    for event in ("declined", "refused", "failed", "late", "unscored"):
        answers[event] = 0
    for event, count in answers.items():
        assert found[f'hanse_answers_total{{event="{event}"}}'] == count, event
    assert found["hanse_sites_known"] == found["hanse_sites_on_line"] == 2
    assert 0 <= found['hanse_site_silent_seconds{site="ada"}'] < 30
    assert found['hanse_responses_total{status="200"}'] > 20
    with serving(tmp_path) as coordinator:
        again = scrape(coordinator.operator)
    kept = {name: count for name, count in found.items() if "answers" in name or "runs{" in name}
    assert {name: again[name] for name in kept} == kept
    assert again["hanse_sites_on_line"] == 0
    assert 'hanse_site_silent_seconds{site="ada"}' not in again


def test_bytes_both_ways_and_refusals_are_counted(coordinator):
    line = coordinator.operator
    before = scrape(line)
    line.exchange("POST", "/v1/invitations", b" " * 10_000)
    told = len(line.exchange("GET", "/v1/openapi.json").body)
    after = scrape(line)
    assert after["hanse_received_bytes_total"] - before["hanse_received_bytes_total"] > 10_000
    assert after["hanse_sent_bytes_total"] - before["hanse_sent_bytes_total"] > told
    assert after['hanse_responses_total{status="400"}'] == 1


def test_an_answer_that_is_refused_or_late_is_counted_so(coordinator):
    spec = spec_of("ada", "bob", name="tiny")
    ada, bob = coordinator.enrol("ada"), coordinator.enrol("bob")
    run = submit(coordinator.operator, spec)
    for site in (ada, bob):
        site.answer(site.ask_until("prepare", run), spec)
    asked = ada.ask_until("train", run)
    ada.post(f"/v1/runs/{run}/{asked['round']}/train", {"refused": "not finite"})
    bob.answer(bob.ask_until("train", run), spec)
    found = scrape(coordinator.operator)
    assert found['hanse_answers_total{event="refused"}'] == 1
    assert found['hanse_answers_total{event="reported"}'] == 1


def test_disk_certificates_and_process_are_told(coordinator):
    found = scrape(coordinator.operator)
    assert 23 * 3600 < found['hanse_certificate_expiry_seconds{certificate="server"}'] < 25 * 3600
    assert found['hanse_certificate_expiry_seconds{certificate="issuer"}'] > 1800 * 24 * 3600
    assert found["hanse_disk_free_bytes"] > 0
    assert found["process_resident_memory_bytes"] > 2**20
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_open_fds"] > 5


def test_no_number_tells_of_keys_tokens_or_what_was_learned(coordinator):
    spec = spec_of("ada", "bob", name="tiny")
    sites = [coordinator.enrol("ada"), coordinator.enrol("bob")]
    viewer = coordinator.person("vic", "viewer")
    run = submit(coordinator.operator, spec)
    play_all(sites, run, spec)
    text = viewer.exchange("GET", "/metrics").body.decode()
    labels = set(re.findall(r'([a-z_]+)="', text))
    assert labels == {"state", "site", "event", "status", "certificate"}  # no run is under way
    assert not re.search(r"[0-9a-f]{32}|ht1_|loss|examples|vic|operator", text)


def test_a_revoked_site_is_no_known_one(coordinator):
    coordinator.enrol("ada").poll()
    coordinator.revoke("ada")
    found = scrape(coordinator.operator)
    assert found["hanse_sites_known"] == 0
    assert not any('site="ada"' in name for name in found)


def test_who_has_no_token_or_is_a_researcher_gets_no_numbers(coordinator):
    refused = coordinator.dial().exchange("GET", "/metrics")
    assert (refused.status, code_of(refused.body)) == (401, "identity")
    refused = coordinator.person("anna", "researcher").exchange("GET", "/metrics")
    assert (refused.status, code_of(refused.body)) == (403, "forbidden")


def test_the_operators_page_lists_every_metric_and_label_and_every_reason(coordinator):
    submit(coordinator.operator, spec_of(coordinator.enrol("ada").name, name="tiny"))
    coordinator.person("vic", "viewer")
    office = coordinator.office
    office.saw("ada")
    found = scrape(coordinator.operator)
    names = {re.sub(r'="[^"]*"', "", name) for name in found}
    page = PAGE.read_text()
    table = page.partition("## Metrics")[2].partition("## Logs")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z_{}]+)`", row)} == names
    assert all(f"`{reason}`" in page for reason in Reason)


@pytest.mark.usefixtures("where")
def test_a_tally_counts_each_event_once_whenever_it_looks(where):
    journal = Journal.open(where)
    tally = Tally(journal)
    tally.catch_up()
    assert (tally.head, dict(tally.kinds)) == (0, {})
    for number in range(1, 4):
        journal.append_now("run/a", [("reported", {}), ("late", {}), ("reported", {})])
        tally.catch_up()
        tally.catch_up()
        assert (tally.head, dict(tally.kinds)) == (
            3 * number, {"reported": 2 * number, "late": number},
        )  # fmt: skip
    assert journal.counts(7) == {"late": (1, 8), "reported": (1, 9)}
    journal.close()


def test_labels_are_escaped_and_a_metric_may_have_no_number():
    odd = 'a"b\\c\nd'
    text = exposition(
        [Metric("x", "gauge", "X.", by("of", {odd: 1})), Metric("y", "gauge", "Y.", {})]
    )
    assert text == (
        '# HELP x X.\n# TYPE x gauge\nx{of="a\\"b\\\\c\\nd"} 1\n# HELP y Y.\n# TYPE y gauge\n'
    )
    assert exposition([Metric("z", "counter", "Z.", alone(0.5))]).endswith("\nz 0.5\n")


# The log


def test_a_process_logs_its_start_and_its_end_as_json(tmp_path):
    with a_process(tmp_path) as coordinator:
        coordinator.enrol("ada")
        assert coordinator.process is not None
        port, pid = coordinator.port, coordinator.process.pid
    rows = [row for row in (tmp_path / "log").read_text().splitlines() if row.startswith("{")]
    told = [{k: v for k, v in json.loads(row).items() if k != "at"} for row in rows]
    assert told == [
        {"event": "started", "name": "tests", "port": port, "pid": pid},
        {"event": "invited", "name": "ada", "role": "site"},
        {"event": "joined", "name": "ada"},
        {"event": "stopped", "name": "tests"},
    ]
    assert pid != os.getpid()


def test_who_submits_and_who_stops_is_logged(coordinator, capsys):
    coordinator.enrol("ada")
    anna = coordinator.person("anna", "researcher")
    run = submit(anna, spec_of("ada", name="tiny"))
    anna.request("POST", f"/v1/runs/{run}/stop")
    told = [
        (row["event"], row.get("name"), row.get("run")) for row in logged(capsys.readouterr().err)
    ]
    assert told == [
        ("invited", "ada", None), ("joined", "ada", None), ("invited", "anna", None),
        ("logged-in", "anna", None), ("submitted", "anna", run), ("stop-asked", "anna", run),
    ]  # fmt: skip


async def failing(asked: Any) -> None:
    """Meet something that nobody foresaw."""
    raise KeyError(f"patient 17 of {asked.content!r}")


def test_what_nobody_foresaw_is_logged_by_class_and_route_and_no_word_of_it(coordinator, capsys):
    app, sent = router((Route("POST", "/odd/{run}", ("anyone",), failing),), coordinator.office), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/odd/heart-1", "headers": [],
             "query_string": b"age=63"}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 503
    (told,) = logged(capsys.readouterr().err)
    place = told.pop("where")
    assert place.startswith("coordinator/routes.py:")
    told.pop("at")
    assert told == {
        "event": "request-failed", "method": "POST", "route": "/odd/{run}", "error": "KeyError",
    }  # fmt: skip
