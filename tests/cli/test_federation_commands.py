"""From nothing to a model across two machines, as people type it; and each command typed wrong.

The story is told once, by real commands in processes of their own; what each one printed is then
looked at by a test each.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

APPS = Path(__file__).parents[1] / "e2e" / "apps"
RUN = """\
task = "plain:brief"
data = "plain:data"
name = "heart"
rounds = 3
"""
SIX_WORDS = r"([a-z]{5} ){5}[a-z]{5}"


class Story:
    """A folder in which commands run, what they printed, and the processes that stay."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes, self.said = folder, dict[str, subprocess.Popen[bytes]](), {}
        self.app = folder / "heart"
        self.app.mkdir()
        (self.app / "plain.py").write_text((APPS / "plain.py").read_text())
        (self.app / "run.toml").write_text(RUN)

    def words(self, *words) -> list[str]:
        return [sys.executable, "-m", "hanse", *map(str, words)]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HANSE_HOME": str(self.folder / "home"), "COLUMNS": "100"}

    def tell(self, name: str, *words, status: int = 0) -> str:
        """Run a command to its end, and keep what it printed."""
        ran = subprocess.run(
            self.words(*words),
            capture_output=True,
            text=True,
            timeout=180,
            cwd=self.folder,
            env=self.environment,
        )
        assert ran.returncode == status, ran.stdout + ran.stderr
        assert "Traceback" not in ran.stdout + ran.stderr
        self.said[name] = ran.stdout + ran.stderr
        return ran.stdout

    def begin(self, name: str, *words) -> None:
        """Start a command that stays."""
        log = open(self.folder / f"{name}.log", "wb")  # noqa: SIM115 -- the child's, closed below
        with log:
            self.processes[name] = subprocess.Popen(
                self.words(*words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )

    def end(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def token(self, *whom) -> Path:
        path = self.folder / f"token-{whom[-1]}"
        path.write_text(self.tell(f"invite {whom[-1]}", "coordinator", "invite", *whom))
        return path

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


def wait(found, most_s: float = 90.0) -> None:
    ends = time.monotonic() + most_s
    while not found():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    told = Story(tmp_path_factory.mktemp("story"))
    try:
        tell(told)
        yield told
    finally:
        for name in [*reversed(told.processes)]:
            told.end(name)


def tell(s: Story) -> None:
    s.tell("init", "coordinator", "init", "--name", "heart-consortium", "--port", "0")
    s.begin("coordinator", "coordinator", "start")
    wait(lambda: "listens on" in s.log("coordinator"))
    port = json.loads((s.folder / "home/coordinator/address.json").read_text())["port"]
    s.url = f"https://localhost:{port}"
    for site in ("cleveland", "hungary"):
        how = ("--token-file", s.token(site), "--yes", "--home", s.folder / site)
        s.tell(f"join {site}", "site", "join", s.url, "--name", site, *how)
    s.tell("sites", "coordinator", "sites")
    for site in ("cleveland", "hungary"):
        s.tell(f"accept {site}", "site", "roster", "accept", "--yes", "--home", s.folder / site)
        s.begin(site, "site", "start", "--app", "heart", "--home", s.folder / site)
    token = s.token("--researcher", "anna")
    s.tell("login", "login", s.url, "--token-file", token)
    s.run = s.tell("submit", "submit", "heart/run.toml", "--sites", "cleveland,hungary").strip()
    s.tell("follow", "status", "--follow")
    s.tell("status", "status")
    s.tell("one", "status", s.run)
    s.tell("why", "why", s.run)
    s.tell("logs", "logs", s.run)
    s.tell("download", "download", s.run, "--out", "fetched")
    s.tell("compare", "run", "heart/run.toml", "--set", 'sites=["cleveland", "hungary"]',
           "--out", "simulated", "--quiet")  # fmt: skip
    at_cleveland = ("--home", s.folder / "cleveland")
    s.tell("site status", "site", "status", *at_cleveland)
    wait((s.folder / "cleveland/runs" / s.run / "model.safetensors").exists)
    s.tell("site model", "site", "model", s.run, "--out", "ours.safetensors", *at_cleveland)
    checked = s.app / "named.toml"
    checked.write_text('sites = ["cleveland", "hungary"]\n' + RUN)
    s.tell("site check", "site", "check", checked, *at_cleveland)
    long = ("--set", "rounds=1000", "--set", "name=long", "--sites", "cleveland,hungary")
    s.long = s.tell("long", "submit", "heart/run.toml", *long).strip()
    s.tell("early", "download", s.long)
    s.tell("stop", "stop", s.long)
    s.tell("why stopped", "why", s.long)


def test_a_coordinator_is_made_and_started(story):
    assert "Coordinator heart-consortium in " in story.said["init"]
    assert "hanse coordinator start" in story.said["init"]
    assert "heart-consortium listens on https://" in story.log("coordinator")


def test_a_token_is_one_line_and_stands_in_no_command(story):
    assert re.fullmatch(r"ht1_[A-Za-z0-9_-]{86}\n", story.said["invite cleveland"])
    token = story.said["invite cleveland"].strip()
    assert token not in "".join(v for k, v in story.said.items() if not k.startswith("invite"))


def test_joining_shows_the_six_words_that_the_coordinator_shows(story):
    words = re.search(SIX_WORDS, story.said["join cleveland"])
    assert words, story.said["join cleveland"]
    assert words[0] in story.said["sites"]
    assert words[0] in story.said["accept hungary"]
    assert "minimum_cohort = 2" in story.said["join cleveland"]  # the policy, as it was written
    policy = story.folder / "cleveland" / "policy.toml"
    assert policy.stat().st_mode & 0o777 == 0o600


def test_a_researcher_logs_in_submits_and_follows(story):
    assert f"Logged in as anna at {story.url}." in story.said["login"]
    assert story.run == "heart-1"
    assert story.said["follow"].splitlines()[-1] == "heart-1: done, round 3/3"
    assert re.search(r"heart-1 +anna +done +3/3", story.said["status"])
    assert "cleveland" in story.said["one"]


def test_why_and_logs_tell_what_happened(story):
    assert story.said["why"].startswith("it is done after 3 of 3 rounds")
    kinds = [json.loads(line)["kind"] for line in story.said["logs"].splitlines()]
    assert kinds[0] == "submitted"
    assert kinds.count("reported") == 6
    assert "concluded" in kinds


def test_the_download_holds_the_bits_of_the_simulation(story):
    here = json.loads((story.folder / "fetched" / "result.json").read_text())
    there = json.loads((story.folder / "simulated" / "result.json").read_text())
    assert here["model_digest"] == there["model_digest"]
    assert here["spec_hash"] == there["spec_hash"]
    assert here["model_digest"][:12] in story.said["download"]
    assert (story.folder / "fetched" / "report.html").exists()


def test_a_site_has_the_model_that_it_helped_to_train(story):
    ours = load_file(story.folder / "ours.safetensors")
    theirs = load_file(story.folder / "fetched" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_site_sees_that_it_is_on_line_and_what_left(story):
    said = story.said["site status"]
    assert "cleveland of heart-consortium" in said
    assert "on line" in said
    assert "heart-1: train, round 3: entry" in said


def test_a_download_before_the_end_says_so(story):
    assert story.said["download"].startswith("Model:")
    assert f"{story.long} has not ended: this is its model after" in story.said["early"]


def test_a_dry_run_says_yes_or_what_to_do(story):
    said = story.said["site check"]
    assert "FAILS" not in said
    for row in ("app", "policy", "ledger", "roster", "model", "disk", "clock"):
        assert re.search(rf"^ *{row} +ok", said, re.MULTILINE), said


def test_a_run_is_stopped_and_says_by_whom(story):
    assert story.said["stop"] == f"{story.long}: stopped\n"
    assert "it was stopped after" in story.said["why stopped"]
    assert "stopped by anna" in story.said["why stopped"]


# Each typed wrong. In one process, without a coordinator where none is needed.


@pytest.fixture
def at_home(hanse, tmp_path, monkeypatch):
    monkeypatch.setenv("HANSE_HOME", str(tmp_path / "home"))
    return hanse


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("coordinator", "start"), 2, "there is no coordinator in"),
        (("coordinator", "invite", "x"), 2, "there is no coordinator in"),
        (("coordinator", "init", "--name", "Upper Case"), 2, "'Upper Case' is no name"),
        (("coordinator", "invite"), 2, "nobody, or several, to invite"),
        (("coordinator", "sites"), 2, "there is no coordinator in"),
        (("coordinator", "revoke", "x"), 2, "there is no coordinator in"),
        (("site", "start", "--app", "."), 2, "is no site yet"),
        (("site", "status"), 2, "is no site yet"),
        (("site", "policy"), 2, "is no site yet"),
        (("site", "roster", "accept", "--yes"), 2, "is no site yet"),
        (("site", "model", "heart-1"), 2, "there is no model of heart-1 here"),
        (("site", "start"), 2, "Missing option '--app'"),
        (("site", "join", "https://localhost:1", "--name", "x"), 2, "cannot be read"),
        (("status",), 2, "nobody is logged in"),
        (("status", "--follow"), 2, "nobody is logged in"),
        (("why", "heart-1"), 2, "nobody is logged in"),
        (("logs", "heart-1"), 2, "nobody is logged in"),
        (("stop", "heart-1"), 2, "nobody is logged in"),
        (("download", "heart-1"), 2, "nobody is logged in"),
        (("why",), 2, "Missing argument 'RUN'"),
        (("submit", "nowhere.toml"), 2, "there is no run file"),
    ],
)
def test_a_command_typed_wrong_says_what_to_do(at_home, words, status, said):
    more = ("--token-file", "nowhere") if words[1:2] == ("join",) else ()
    ran = at_home(*words, *more)
    assert (ran.status, said in ran.err) == (status, True), ran.err
    assert "Hint:" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("token", "said"),
    [("", "token"), ("ht1_short", "token"), ("not a token at all", "token")],
)
def test_a_token_that_is_none_is_refused_before_anything_is_dialled(at_home, tmp_path, token, said):
    (tmp_path / "token").write_text(token)
    url = "https://localhost:1"
    for words in (("site", "join", url, "--name", "x"), ("login", url)):
        ran = at_home(*words, "--token-file", "token")
        assert ran.status == 2
        assert said in ran.err
        assert "Hint:" in ran.err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("why", "heart-9"), 6, "there is no such thing, or it is not yours to know"),
        (("stop", "../x"), 2, "is no run"),
        (("download", "heart-9"), 6, "there is no such thing"),
        (("submit", "heart/run.toml", "--sites", "nowhere"), 2, "nowhere is not a site"),
        (("submit", "heart/run.toml"), 2, "the run file names no sites"),
        (("coordinator", "init", "--name", "again"), 2, "holds a coordinator already"),
        (("coordinator", "invite", "cleveland"), 6, "another answer, token or name"),
        (("coordinator", "revoke", "nobody"), 6, "there is no such thing"),
        (("coordinator", "invite", "--researcher", "Ann A"), 2, "'Ann A' is no name"),
        (("coordinator", "start", "--port", "22222222"), 2, "less than or equal to 65535"),
        (("submit", "heart/run.toml", "--sites", ""), 2, "--sites names none"),
        (("submit", "heart/run.toml", "--sites", "clevland,nil"), 2, 'did you mean "cleveland"?'),
        (("download", "heart-1", "--out", "simulated"), 2, "simulated holds another run already"),
        (("download", "heart-1", "--out", "/proc/nope"), 2, "/proc/"),
        (("site", "model", "heart-1", "--out", "no/such/x", "--home", "hungary"), 2, "no/such/x"),
        (("site", "start", "--app", "none", "--home", "hungary"), 2, "--app none is no folder"),
        (("site", "start", "--app", "heart", "--source", "x", "--home", "hungary"), 2, "NAME=PATH"),
        (
            ("site", "start", "--app", "heart", "--home", "hungary"),
            2,
            "is in use by another process",
        ),
        (("site", "model", "heart-9", "--home", "hungary"), 2, "there is no model of heart-9"),
        (("site", "policy", "--home", "hungary"), 2, "policy.toml"),
        (("site", "join", "http://localhost:1", "--name", "x"), 2, "there is no plain http"),
    ],
)
def test_a_command_that_cannot_be_meant_there_says_what_to_do(
    story, at_home, monkeypatch, words, status, said
):
    monkeypatch.chdir(story.folder)
    monkeypatch.setenv("HANSE_HOME", str(story.folder / "home"))
    more = ("--token-file", "token-anna", "--home", "new") if words[1:2] == ("join",) else ()
    ran = at_home(*words, *more)
    assert (ran.status, said in ran.err) == (status, True), ran.out + ran.err
    assert "Hint:" in ran.err
    assert "Traceback" not in ran.err
