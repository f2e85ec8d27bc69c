"""How things end for people: each failure is told where it is looked for, in plain words.

Real processes; what a test asserts is what a command prints, at the site or at the researcher's.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.e2e.deployed import Deployed, until
from tests.net.proxy import Line

from hanse.config.parse import parse
from hanse.net.account import submit
from hanse.net.authority import Authority, certificate_expiry, make_request
from hanse.site.enrol import dial, is_due, renew

TWO = ("north", "west")
KILL = signal.SIGKILL
NONE = '[evaluation]\nrelease = "none"\n'
DEADLINE = f"[quorum]\ndeadline_s = 2.0\n{NONE}"


def port_of(deployed: Deployed) -> int:
    found = urlsplit(deployed.federation.account.url).port
    assert found
    return found


@contextmanager
def environment(**more):
    """What processes that are started inside find in their environment."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# The line


def upload_over_a_bad_line(lonely, task: str, most_s: float) -> None:
    with Line(port_of(lonely), cut_after=5 * 2**19, per_second=10**6) as line:
        lonely.redirect("west", f"https://127.0.0.1:{line.port}")
        lonely.restart("west")
        lonely.shows("west", "on line")
        id = lonely.submit(f'task = "plain:{task}"\n{NONE}', sites=TWO, rounds=1)
        told = lonely.end(id, most_s)
        size = json.loads(lonely.hanse("status", id, "--json").out)["members"].keys()
        assert told["outcome"] == "done", told["why"]
        assert sorted(size) == ["north", "west"]
        assert line.connections >= 5  # it was cut again and again
        assert lonely.history(id)[0]["counted"] == ["north", "west"]
        assert lonely.digest(id) == lonely.simulated(id).model_digest


def test_a_site_behind_a_slow_line_that_is_cut_uploads_its_share(lonely):
    upload_over_a_bad_line(lonely, "large", 90)


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_share_of_100_MB_arrives_over_a_slow_line_that_is_cut(lonely):
    upload_over_a_bad_line(lonely, "huge", 800)


def test_a_slow_site_is_waited_for_and_named(deployed):
    id = deployed.submit('task = "plain:slow"', rounds=2)
    said = deployed.says(id, "it waits for west: its report for round")
    assert "north" not in said.replace("it waits for north", "")
    assert deployed.end(id)["outcome"] == "done"
    assert [row["counted"] for row in deployed.history(id)] == [["north", "south", "west"]] * 2
    assert deployed.digest(id) == deployed.simulated(id).model_digest


def test_a_deadline_closes_the_round_and_a_late_report_is_recorded(deployed):
    id = deployed.submit(f'task = "plain:slower"\n{DEADLINE}', rounds=2)
    deployed.says(id, "it waits for west", "the round closes at its deadline")
    assert deployed.end(id)["outcome"] == "done"
    assert [row["counted"] for row in deployed.history(id)] == [["north", "south"]] * 2

    def late():
        events = map(json.loads, deployed.hanse("logs", id).out.splitlines())
        return [event["body"] for event in events if event["kind"] == "late"]

    first = until(late)[0]
    assert (first["site"], first["round"]) == ("west", 1)
    assert first["reason"] == "late: round 1 has ended"
    deployed.shows("west", f"{id}: train, round 1: late: round 1 has ended")


# The app


def test_an_app_that_raises_on_import_is_told_to_its_site_and_refused(deployed):
    id = deployed.submit('task = "broken:task"')
    said = deployed.says(id, "north refuses: [task]", "west refuses: [task]")
    assert "words.txt" not in said  # what is at the site stays there
    assert "the site's operator sees why: hanse site status" in said
    deployed.shows("north", "importing broken", "FileNotFoundError", "words.txt")
    deployed.hanse("stop", id)
    assert "it was stopped" in deployed.why(id)


def test_reasons_leave_a_site_whose_policy_releases_them(deployed):
    old, new = 'release = ["update", "counts"]', 'release = ["update", "counts", "reasons"]'
    deployed.edit_policy("south", old, new)
    id = deployed.submit('task = "broken:task"')
    deployed.says(id, "south refuses: [task] importing broken: FileNotFoundError")
    deployed.edit_policy("south", new, old)
    deployed.hanse("stop", id)


def test_an_app_that_differs_by_a_byte_is_refused_by_the_name_of_the_file(deployed):
    own, (app, sources) = deployed.folder / "own", deployed.federation.sites["west"]
    shutil.copytree(app, own)
    (own / "plain.py").write_bytes((own / "plain.py").read_bytes() + b"\n")
    deployed.federation.sites = {**deployed.federation.sites, "west": (own, sources)}
    deployed.restart("west")
    id = deployed.submit()
    deployed.says(id, "west refuses: plain.py is not the run's:")
    deployed.shows("west", "refused: plain.py is not the run's:")
    shutil.copy(app / "plain.py", own / "plain.py")
    assert deployed.end(id)["outcome"] == "done"  # the site looks again by itself


# Sources and policy


def test_a_source_that_is_missing_is_told_before_anything_starts(deployed):
    nowhere = deployed.folder / "nowhere.csv"
    ran = deployed.site("west", "start", "--app", deployed.app, "--source", f"table={nowhere}")
    assert ran.status == 2
    assert f"--source table={nowhere}: there is no such file or folder" in ran.err


def test_a_source_that_vanished_stops_the_run_until_it_is_back(deployed):
    moved = deployed.table.rename(deployed.folder / "moved.csv")
    more = f'data = "plain:sourced"\n[sources]\ntable = "{deployed.table}"\n{NONE}'
    try:
        id = deployed.submit(more)
        deployed.says(id, "north refuses: [data] preparing failed", "west refuses: [data]")
        deployed.shows("north", str(deployed.table), "does not exist")
    finally:
        moved.rename(deployed.table)
    assert deployed.end(id)["outcome"] == "done"
    assert deployed.digest(id) == deployed.simulated(id).model_digest


def test_a_policy_says_every_reason_and_its_change_lets_the_run_start(deployed):
    path = deployed.home("north").policy
    text = path.read_text()
    strict = text.replace("minimum_cohort = 1", "minimum_cohort = 5\nlargest_clip = 0.5")
    strict += f'\n[sources.table]\npath = "{deployed.table}"\npurposes = ["cardio"]\n'
    path.write_text(strict)
    more = f"""\
data = "plain:sourced"
purpose = "marketing"
[sources]
table = "{deployed.table}"
[[pipeline]]
step = "weight"
by = "uniform"
[[pipeline]]
step = "clip"
norm = 2.0
{NONE}"""
    try:
        id = deployed.submit(more)
        deployed.says(
            id,
            "north refuses: the run has 3 sites, the policy wants 5",
            "north refuses: the run clips to 2, the policy's largest clip is 0.5",
            "north refuses: the run reads table for marketing; it is for cardio",
        )
        until(lambda: deployed.told(id)["members"]["south"]["ready"])
        assert not deployed.told(id)["members"]["north"]["ready"]
    finally:
        path.write_text(text)
    assert deployed.end(id)["outcome"] == "done"


# Coming, going, and being shut out


@pytest.mark.parametrize("number", [KILL, signal.SIGTERM])
def test_a_site_that_is_ended_and_comes_back_changes_no_bit(deployed, number):
    log = deployed.folder / "up" / "west.log"
    before = len(log.read_text())
    id = deployed.submit('task = "plain:brief"', rounds=6)
    deployed.reaches(id, 2)
    deployed.federation.end("west", number)
    said = log.read_text()[before:]
    deployed.says(id, "it waits for west")
    deployed.federation.start_site("west")
    assert "[task]" not in said  # that its process ends with it is no fault of the app's
    assert deployed.end(id)["outcome"] == "done"
    assert deployed.digest(id) == deployed.simulated(id).model_digest


def test_a_coordinator_that_is_killed_and_started_again_changes_no_bit(deployed):
    id = deployed.submit('task = "plain:brief"', rounds=6)
    deployed.reaches(id, 2)
    port = port_of(deployed)
    deployed.federation.end("coordinator", KILL)
    deployed.shows("west", "cannot be reached")
    ran = deployed.hanse("why", id)
    assert ran.status == 75
    assert "cannot be reached" in ran.err
    deployed.federation.start_coordinator(port)
    assert deployed.end(id)["outcome"] == "done"
    assert deployed.digest(id) == deployed.simulated(id).model_digest


def test_a_site_that_is_revoked_is_out_of_the_next_round(lonely):
    id = lonely.submit(f'task = "plain:brief"\n{DEADLINE}', sites=TWO, rounds=8)
    lonely.reaches(id, 2)
    home = lonely.federation.home.folder
    assert lonely.hanse("coordinator", "revoke", "west", "--home", home).status == 0
    at = lonely.told(id)["round"]
    assert lonely.end(id)["outcome"] == "done"
    rows = lonely.history(id)
    assert rows[0]["counted"] == ["north", "west"]
    assert all(row["counted"] == ["north"] for row in rows if row["round"] > at + 1)
    assert "revoked" in lonely.hanse("coordinator", "sites", "--home", home).out
    lonely.shows("west", "revoked")
    ran = lonely.site("west", "start", "--app", lonely.app)
    assert ran.status != 0
    assert "revoked" in ran.err
    assert lonely.federation.processes["north"].poll() is None


# Names, tokens, addresses, clocks


def invited(deployed: Deployed, name: str) -> Path:
    """Return a file with a token for a site of this name."""
    ran = deployed.hanse(
        "coordinator", "invite", name, "--home", deployed.federation.home.folder
    )  # fmt: skip
    assert ran.status == 0, ran.err
    path = deployed.folder / f"token-{name}"
    path.write_text(ran.out)
    return path


def join(deployed: Deployed, name: str, token: Path, home: str, url: str = ""):
    url = url or deployed.federation.account.url
    return deployed.hanse(
        *("site", "join", url, "--name", name, "--yes"),
        *("--token-file", token, "--home", deployed.folder / home),
    )


def test_a_token_joins_one_site_once(lonely):
    token = invited(lonely, "east")
    assert join(lonely, "east", token, "east").status == 0
    again = join(lonely, "east", token, "east")
    assert again.status == 2
    assert "is the site east already" in again.err
    other = join(lonely, "east", token, "elsewhere")
    assert other.status == 6
    assert "another answer, token or name is there already" in other.err
    assert "Traceback" not in again.err + other.err


def test_a_name_that_is_taken_is_not_given_again(deployed):
    home = deployed.federation.home.folder
    ran = deployed.hanse("coordinator", "invite", "west", "--home", home)
    assert ran.status == 6
    assert "another answer, token or name is there already" in ran.err


def test_a_wrong_host_name_is_told_as_such(lonely):
    lonely.redirect("west", f"https://127.1:{port_of(lonely)}")  # the machine's, by another name
    lonely.restart("west")
    lonely.shows("west", "shows a certificate for another host name")
    token = invited(lonely, "east")
    ran = join(lonely, "east", token, "east", f"https://127.1:{port_of(lonely)}")
    assert ran.status == 75
    assert "shows a certificate for another host name" in ran.err


@pytest.mark.parametrize("wrong", ["+10m", "-10m"])
def test_a_clock_that_is_wrong_by_ten_minutes_is_found_and_does_no_harm(lonely, wrong):
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "apt-get install faketime"
    fake = {"LD_PRELOAD": str(found[0]), "FAKETIME": wrong, "DONT_FAKE_MONOTONIC": "1"}
    lonely.federation.end("west")
    with environment(**fake, FAKETIME_DONT_FAKE_MONOTONIC="1"):
        lonely.federation.start_site("west")
        home, file = lonely.home("west").folder, lonely.run_file(sites=TWO)
        ran = subprocess.run(
            [sys.executable, "-m", "hanse", "site", "check", str(file), "--home", str(home)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ran.returncode == 5, ran.stdout + ran.stderr
    assert "the clock is 6" in ran.stdout  # 600 s, and what the check took
    assert ("ahead of" if wrong[0] == "+" else "behind") in ran.stdout
    id = lonely.send(file)
    assert lonely.end(id)["outcome"] == "done"


def expired(deployed: Deployed, site: str) -> str:
    """Give the site a certificate of yesterday; return it."""
    private, request = make_request(site)
    authority = Authority.load(deployed.federation.home.folder)
    old = authority.issue_site(request, site, datetime.now(UTC) - timedelta(days=2))
    deployed.home(site).certificate.write_text(old + private)
    return old


def test_an_expired_certificate_is_renewed_by_the_identity_key(lonely):
    lonely.federation.end("west")
    old = expired(lonely, "west")
    assert certificate_expiry(old) < datetime.now(UTC)
    lonely.federation.start_site("west")
    id = lonely.submit(sites=TWO)
    assert lonely.end(id)["outcome"] == "done"
    new = lonely.home("west").certificate.read_text()
    assert certificate_expiry(new) > datetime.now(UTC) + timedelta(hours=23)


def test_an_agent_that_slept_through_its_certificates_life_gets_another(lonely):
    lonely.federation.end("west")
    home = lonely.home("west")
    line = dial(home)
    expired(lonely, "west")
    line.connection.reload()  # all that it has is the expired one
    assert is_due(home)
    renew(home, line)
    assert line.request("POST", "/v1/poll", {"have": "", "wait": 0, "doing": ""}).status == 200


# The disk

MOUNTED = 'mount -t tmpfs -o size=3m none "$1" && cp -a "$2/." "$1" && shift 2 && exec "$@"'


def test_a_full_disk_at_a_site_is_told_and_the_run_goes_on_when_there_is_room(lonely):
    lonely.federation.end("west")
    home = lonely.home("west").folder
    kept = shutil.copytree(home, lonely.folder / "kept")
    words = [sys.executable, "-m", "hanse", "site", "start", "--app", str(lonely.app)]
    words += ["--home", str(home)]
    log = open(lonely.folder / "up" / "west.log", "ab")  # noqa: SIM115 -- the child's
    with log:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", MOUNTED, "sh", str(home), str(kept), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    lonely.federation.processes["west"] = process
    inside = Path(f"/proc/{process.pid}/root{home}")
    until(lambda: (inside / "status.json").exists())

    def status() -> str:
        return lonely.hanse("site", "status", "--home", inside).out

    id = lonely.submit('task = "plain:brief"', sites=TWO, rounds=5)
    lonely.reaches(id, 1)
    fill(inside / "ballast")
    said = until(lambda: (s := status()) and "no space left" in s.lower() and s)
    assert "Traceback" not in said
    assert process.poll() is None
    lonely.says(id, "west")
    (inside / "ballast").unlink()
    assert lonely.end(id)["outcome"] == "done"
    until(lambda: "on line" in status())


def fill(path: Path) -> None:
    """Take all the room that there is."""
    with open(path, "wb", buffering=0) as file:
        for size in (2**16, 2**12, 2**8, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def test_two_runs_that_come_to_the_same_model_each_have_their_own(deployed):
    file = deployed.run_file('task = "plain:brief"', rounds=3, name="twins")
    ids = [deployed.send(file), deployed.send(file)]
    assert [deployed.end(id)["outcome"] for id in ids] == ["done", "done"]
    third = deployed.send(file)  # its initial model was that of two runs that are over
    deployed.end(third)
    assert len({deployed.digest(id) for id in (*ids, third)}) == 1
    for id in ids:
        until(lambda id=id: (deployed.home("west").run(id) / "model.safetensors").exists())


DYING = """
import os
from pathlib import Path
from plain import data, task
if Path({flag!r}).exists():
    os.kill(os.getpid(), 9)
"""


def test_a_job_that_is_killed_again_and_again_is_told_and_tried_again(lonely):
    flag = lonely.folder / "no-memory"
    (lonely.app / "dying.py").write_text(DYING.format(flag=str(flag)))
    run = parse(lonely.run_file('task = "dying:task"', sites=TWO)).load()
    flag.touch()
    id = submit(lonely.line, run)
    lonely.says(id, "west refuses: [task] training failed")
    assert "ended with status -9" in lonely.status("west")
    flag.unlink()
    assert lonely.end(id)["outcome"] == "done"


def test_a_training_that_hangs_is_ended_and_told_and_the_next_round_goes_on(lonely):
    """The site's owner says how long an app may work; the others need not wait for ever (P27)."""
    text = lonely.home("west").policy.read_text()
    limited = text.replace("longest_training_s = 86400.0", "longest_training_s = 4.0")
    lonely.home("west").policy.write_text(limited)
    (lonely.app / "hanging.py").write_text(HANGING)
    id = lonely.submit(f'task = "hanging:task"\n{NONE}', sites=TWO, rounds=3)
    assert lonely.end(id)["outcome"] == "done"
    rows = lonely.history(id)
    assert [row["counted"] for row in rows] == [["north", "west"], ["north"], ["north", "west"]]
    assert "training failed" in rows[1]["dropped"]["west"]
    assert "the run's app had no answer within 4 s, and was ended" in lonely.status("west")


HANGING = """
import time
from dataclasses import dataclass
from plain import Mean, data

@dataclass(frozen=True)
class Hanging(Mean):
    def train(self, start, rows, work, turn, local):
        if (turn.client, turn.round) == ("west", 2):
            time.sleep(600)
        return super().train(start, rows, work, turn, local)

task = Hanging()
"""


def test_a_coordinator_restored_from_an_older_backup_is_noticed_and_serves_on(lonely):
    before, after = lonely.folder / "backup", lonely.federation.home.folder
    assert lonely.end(lonely.submit(NONE, sites=TWO))["outcome"] == "done"
    ran = lonely.hanse("backup", before, "--home", after)
    assert ran.status == 0, ran.err
    lost = lonely.submit(NONE, sites=TWO)
    assert lonely.end(lost)["outcome"] == "done"
    for site in TWO:
        until(lambda site=site: (lonely.home(site).run(lost) / "model.safetensors").exists())
    port = port_of(lonely)
    lonely.federation.end("coordinator", KILL)
    after.rename(lonely.folder / "burnt")
    assert lonely.hanse("restore", before, "--home", after).status == 0
    ran = lonely.hanse("fsck", "--home", after)
    assert ran.status == 0, ran.out
    lonely.federation.start_coordinator(port)
    lonely.federation.account.save(lonely.folder / "login.json")
    for site in TWO:
        lonely.shows(site, "on line", "it was restored from an older backup")
    assert "restored from a backup" in lonely.hanse("status").err
    id = lonely.submit(NONE, sites=TWO)
    assert lonely.end(id)["outcome"] == "done"
    assert lonely.digest(id) == lonely.simulated(id).model_digest
    ran = lonely.hanse("doctor", "--home", after)
    assert ran.status == 0, ran.out
    for site in TWO:
        assert lonely.hanse("fsck", "--home", lonely.home(site).folder).status == 0
        assert lonely.hanse("doctor", "--home", lonely.home(site).folder).status == 0


def test_keys_and_certificates_are_rotated_in_the_middle_of_a_run_and_no_round_is_lost(lonely):
    """The issuer of certificates, the coordinator's identity key, and the sites' certificates."""
    id = lonely.submit(f'task = "plain:brief"\n{NONE}', sites=TWO, rounds=8)
    port, home = port_of(lonely), lonely.federation.home.folder
    for round, what in enumerate(("issuer", "identity", "identity", "issuer"), 1):
        lonely.reaches(id, round)
        ran = lonely.hanse("coordinator", "rotate", what, "--home", home)
        assert ran.status == 0, ran.err
        lonely.federation.end("coordinator", KILL)
        lonely.federation.start_coordinator(port)
        site = lonely.home("north")
        renew(site, dial(site))  # a certificate of the issuer that there is now
    assert lonely.end(id)["outcome"] == "done"
    assert lonely.digest(id) == lonely.simulated(id).model_digest
    assert [row["counted"] for row in lonely.history(id)] == [["north", "west"]] * 8
    for site in TWO:
        log = (lonely.home(site).folder / "log.jsonl").read_text()
        assert log.count("another identity key, named by its last one") == 2
        assert len(lonely.home(site).enrolled().former) == 2
    again = lonely.submit(NONE, sites=TWO)  # the policy names the first key
    assert lonely.end(again)["outcome"] == "done"
