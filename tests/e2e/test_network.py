"""What is on the wire: TLS 1.3 and nothing else, to one address and no other, whoever pushes."""

import itertools
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.e2e import attack
from tests.e2e.deployed import APPS, command, until
from tests.e2e.namespaces import Namespace, two_machines

import hanse
from hanse.net.account import Account, fetch

LISTENS = "0A"


def listening(pid: int) -> list[int]:
    """Return the TCP ports on which a process listens, of IPv4 and IPv6."""
    fds = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    own = {fd[len("socket:[") : -1] for fd in fds if fd.startswith("socket:[")}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [int(r[1].rpartition(":")[2], 16) for r in rows if r[3] == LISTENS and r[9] in own]


def children(pid: int) -> list[int]:
    """Return a process and all that it started."""
    found = [int(p) for path in Path(f"/proc/{pid}/task").glob("*/children")
             for p in path.read_text().split()]  # fmt: skip
    return [pid] + [one for child in found for one in children(child)]


def port_of(deployed) -> int:
    found = urlsplit(deployed.federation.account.url).port
    assert found
    return found


def shaken(port: int, version: ssl.TLSVersion) -> str | None:
    """Return the version of TLS that the coordinator speaks when asked for this one."""
    context = attack.credulous()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        return wrapped.version()


def test_the_coordinator_has_one_listener_and_it_speaks_tls_1_3_only(deployed):
    pid = deployed.federation.processes["coordinator"].pid
    assert [port for one in children(pid) for port in listening(one)] == [port_of(deployed)]
    assert shaken(port_of(deployed), ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        shaken(port_of(deployed), ssl.TLSVersion.TLSv1_2)
    with socket.create_connection(("127.0.0.1", port_of(deployed)), timeout=5) as plain:
        plain.sendall(b"GET /v1/about HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: read(plain), b""))
    assert b"HTTP" not in answer


def read(plain: socket.socket) -> bytes:
    try:
        return plain.recv(2**12)
    except ConnectionResetError:
        return b""


def test_a_site_listens_on_nothing_while_it_trains(deployed):
    pid = deployed.federation.processes["west"].pid
    id = deployed.submit('task = "plain:brief"', rounds=3)
    deployed.reaches(id, 1)
    found = children(pid)
    assert len(found) >= 2  # the agent, and the job's process
    assert [port for one in found for port in listening(one)] == []
    assert deployed.end(id)["outcome"] == "done"


# One address


@contextmanager
def started(machine, *words, log: Path):
    """Run ``hanse`` on a machine until the end of ``with``."""
    with open(log, "ab") as said:
        process = subprocess.Popen(
            machine.words(sys.executable, "-m", "hanse", *map(str, words)),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


class Apart:
    """A coordinator on one machine, two sites and a researcher on another."""

    def __init__(self, here: Namespace, there: Namespace, folder: Path) -> None:
        self.here, self.there, self.folder = here, there, folder

    def hanse(self, machine: Namespace, *words) -> str:
        ran = machine.inside(lambda: command(*words, folder=self.folder))
        assert ran.status == 0, ran.out + ran.err
        return ran.out

    def set_up(self) -> None:
        """Let the sites join, and the researcher log in."""
        folder, home = self.folder, self.folder / "coordinator"
        for site in ("north", "west"):
            token = self.hanse(self.here, "coordinator", "invite", site, "--home", home)
            (folder / "token").write_text(token)
            how = ("--token-file", folder / "token", "--yes", "--home", folder / site)
            self.hanse(self.there, "site", "join", URL, "--name", site, *how)
        token = self.hanse(
            self.here, "coordinator", "invite", "--researcher", "anna", "--home", home
        )
        (folder / "token").write_text(token)
        self.hanse(self.there, "login", URL, "--token-file", folder / "token")
        for site in ("north", "west"):
            self.hanse(self.there, "site", "roster", "accept", "--yes", "--home", folder / site)

    def told(self, id: str) -> dict:
        return json.loads(self.hanse(self.here, "status", id, "--json"))

    def ended(self, id: str, most_s: float) -> None:
        until(lambda: self.told(id)["outcome"] is not None, most_s)
        assert self.told(id)["outcome"] == "done"

    def digest(self, id: str) -> str:
        """Return the digest of the model that the run came to."""
        into = self.folder / "fetched"
        into.mkdir()
        account = Account.load(self.folder / "login.json")
        found = self.here.inside(lambda: fetch(account.dial(), id, into))
        return found.read.spec.layout.digest(found.vector)

    def site(self, name: str):
        """Start a site's agent."""
        words = ("site", "start", "--app", self.folder / "app", "--home", self.folder / name)
        return started(self.there, *words, log=self.folder / f"{name}.log")

    def app(self, rounds: int) -> Path:
        """Write the app, and return its run file."""
        run = self.folder / "app" / "run.toml"
        run.parent.mkdir()
        (run.parent / "plain.py").write_text((APPS / "plain.py").read_text())
        told = ['task = "plain:task"', 'data = "plain:data"', 'sites = ["north", "west"]']
        run.write_text("\n".join([*told, f"rounds = {rounds}", ""]))
        return run


URL = "https://10.77.0.1:8443"


@contextmanager
def apart(folder: Path):
    home = folder / "coordinator"
    with two_machines() as (here, there):
        found = Apart(here, there, folder)
        where = ("--host", here.address, "--host", "localhost", "--listen", "0.0.0.0")
        found.hanse(here, "coordinator", "init", "--name", "apart", *where, "--home", home)
        with started(here, "coordinator", "start", "--home", home, log=folder / "log"):
            until((home / "address.json").exists)
            found.set_up()
            yield found


def test_no_packet_goes_to_any_other_address(tmp_path):
    with apart(tmp_path) as found:
        run = found.app(rounds=3)
        with found.site("north"), found.site("west"):
            said = found.hanse(found.there, "submit", run, "--follow")
            assert "done, round 3/3" in said
            id = said.split()[0]
            until(lambda: (tmp_path / "west" / "runs" / id / "model.safetensors").exists())
        assert (found.here.elsewhere(), found.there.elsewhere()) == (0, 0)
        found.there.inside(astray)
        assert found.there.elsewhere() == 1  # so it would have been seen


@pytest.mark.parametrize(
    "weather",
    [("input", 30), ("output", 100)]
    + [pytest.param(one, marks=pytest.mark.torture) for one in (("output", 30), ("input", 100))],
)
def test_lost_packets_and_a_line_that_is_open_one_way_cost_time_and_nothing_else(tmp_path, weather):
    """30 % of all packets are lost, for the whole run; or all of one direction, for 5 s (P7)."""
    hook, percent = weather
    with apart(tmp_path) as found:
        run = found.app(rounds=3)
        with found.site("north"), found.site("west"):
            with found.there.losing(hook, percent):
                if percent == 100:
                    time.sleep(1.0)
                    id = found.hanse(found.here, "submit", run).split()[0]
                    time.sleep(5.0)
                else:
                    id = found.hanse(found.there, "submit", run).split()[0]
                    found.ended(id, 60.0)
            began = time.monotonic()
            found.ended(id, 60.0)
            print(weather, round(time.monotonic() - began, 1))
            assert found.digest(id) == hanse.simulate(run).model_digest


def astray() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("203.0.113.1", 53))


# Who pushes


@contextmanager
def attacked(port: int, *sizes: int):
    words = [sys.executable, attack.__file__, str(port), *map(str, sizes)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "all are there\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def round_seconds(deployed, rounds: int) -> float:
    """Return how long a round of a small run takes, as the journal has it; the median."""
    more = 'task = "plain:brief"\n[evaluation]\nrelease = "none"\n'
    id = deployed.submit(more, sites=("north", "west"), rounds=rounds)
    assert deployed.end(id)["outcome"] == "done"
    events = map(json.loads, deployed.hanse("logs", id).out.splitlines())
    ends = [event["at"] for event in events if event["kind"] == "absorbed"]
    return statistics.median(b - a for a, b in itertools.pairwise(ends))


@pytest.mark.parametrize(
    ("slow", "half_open", "bad"),
    [(100, 50, 5), pytest.param(1000, 500, 50, marks=pytest.mark.torture)],
)
def test_rounds_go_on_beside_those_who_only_hold_connections(deployed, slow, half_open, bad):
    rounds = 10 if slow < 1000 else 40
    quiet = round_seconds(deployed, rounds)
    with attacked(port_of(deployed), slow, half_open, bad):
        busy = round_seconds(deployed, rounds)
    assert busy <= 1.25 * quiet, f"{busy:.3f} s beside an attack, {quiet:.3f} s without"
