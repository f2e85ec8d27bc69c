"""What a log can say, and what it cannot."""

import errno
import io
import json
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hanse import log as module
from hanse.coordinator.registry import Registry, fold
from hanse.errors import ProtocolError
from hanse.log import FORMS, Event, Line, as_json, caused, log, readable, where

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "operate.md").read_text().partition("## Logs")[2]
NAMES = [field.name for field in fields(Line)][1:]
NOW = datetime(2026, 11, 26, 8, 30, 0, 5000, tzinfo=UTC)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")


def test_a_line_is_one_json_object_with_the_time_in_utc():
    line = Line(Event.ANSWERED, run="heart-1", round=3, kind="train")
    assert as_json(line, NOW) == (
        '{"at": "2026-11-26T08:30:00.005+00:00", "event": "answered", "run": "heart-1", '
        '"round": 3, "kind": "train"}'
    )


def test_a_field_that_is_not_given_is_not_there():
    assert Line(Event.READY).told == {"event": "ready"}


@pytest.mark.parametrize("more", [{"body": "x"}, {"token": "x"}, {"said": "x"}, {"site": "x"}])
def test_another_field_cannot_be_said(more):
    with pytest.raises(TypeError):
        Line(Event.STARTED, **more)


@pytest.mark.parametrize(
    "more", [{"round": "3"}, {"round": 3.0}, {"round": True}, {"name": 3}, {"run": b"x"}]
)
def test_a_value_of_another_type_cannot_be_said(more):
    with pytest.raises(TypeError, match="where none belongs"):
        Line(Event.STARTED, **more)


@pytest.mark.parametrize("name", sorted(FORMS))
@pytest.mark.parametrize(
    "text",
    ["", "two words", "a\nb", 'a"b', "a\x1b[2J", "ü", "age=63", "x" * 200, "a\n", "{'a': 1}"],
)
def test_a_text_without_its_fields_form_is_a_question_mark(name, text):
    assert Line(Event.STARTED, **{name: text}).told[name] == "?"


@pytest.mark.parametrize("token", ["ht1_" + "aZ9_" * 21 + "ab", "aZ-9" * 10 + "xyz"])
def test_a_token_fits_into_no_field_but_a_runs_name(token):
    told = {name: Line(Event.STARTED, **{name: token}).told[name] for name in FORMS}
    assert {name for name, text in told.items() if text != "?"} <= {"run"}


def test_a_terminal_gets_the_same_as_a_line_to_read():
    line = Line(Event.NOT_READY, what="disk")
    said = readable(line, NOW)
    assert re.fullmatch(r"\d\d:\d\d:\d\d not-ready what=disk", said)


@pytest.mark.parametrize(("stream", "begins"), [(io.StringIO, "{"), (Terminal, "")])
def test_standard_error_decides_which(monkeypatch, stream, begins):
    monkeypatch.setattr("sys.stderr", found := stream())
    log(Line(Event.STARTED, port=8443))
    text = found.getvalue()
    assert text.endswith("\n")
    assert text.startswith("{") == bool(begins)
    assert not begins or json.loads(text)["port"] == 8443


def test_a_line_that_cannot_be_written_ends_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr", Full())
    log(Line(Event.STARTED))


def test_of_an_error_class_code_and_place_are_told_and_never_its_text():
    with pytest.raises(ValueError, match="patient") as found:
        fold(Registry(), "patient 17 is 63", {})
    told = caused(Line(Event.REQUEST_FAILED), found.value).told
    assert "patient" not in json.dumps(told)
    place = told.pop("where")
    assert told == {"event": "request-failed", "error": "ValueError"}
    file, _, number = str(place).partition(":")
    line = (Path(module.HERE) / file).read_text().splitlines()[int(number) - 1]
    assert "raise ValueError" in line


def test_an_error_of_hanse_has_its_code_and_one_of_the_system_its_name():
    assert caused(Line(Event.FAILED), ProtocolError("x")).told["code"] == "protocol"
    full = OSError(errno.ENOSPC, "no space left", "/data/patients.csv")
    told = caused(Line(Event.FAILED), full).told
    assert (told["error"], told["errno"]) == ("OSError", "ENOSPC")
    assert "patients" not in json.dumps(told)
    assert where(full) is None


def test_every_field_has_a_form_or_is_a_whole_number():
    types = {field.name: field.type for field in fields(Line)}
    assert {name for name in NAMES if types[name] == str | None} == set(FORMS)
    assert all(types[name] == int | None for name in NAMES if name not in FORMS)


def test_events_and_fields_are_on_the_operators_page_and_no_others():
    events, _, columns = PAGE.partition("| field |")
    rows = [row for row in events.splitlines() if row.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(Event)
    rows = [row for row in columns.splitlines() if row.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`([a-z]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(["at", "event", *NAMES])


def test_every_event_is_written_somewhere():
    sources = [path for path in (ROOT / "src").rglob("*.py") if path.name != "log.py"]
    text = "".join(path.read_text() for path in sources)
    journalled = {"invited", "joined", "logged-in", "revoked", "disk-full", "disk-freed"}
    unused = {event.value for event in Event if f"Event.{event.name}" not in text}
    assert unused == journalled  # of the registry, by their names


def test_nothing_else_is_printed_by_what_runs_for_long():
    for part in ("coordinator", "site", "net", "core"):
        for path in (ROOT / "src" / "hanse" / part).rglob("*.py"):
            assert not re.search(r"^\s*print\(|sys\.stderr", path.read_text(), re.MULTILINE), path
