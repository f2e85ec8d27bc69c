"""What is on the wire: TLS 1.3 and nothing else, to one address and no other, whoever pushes."""

import itertools
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.e2e import attack
from tests.e2e.deployed import APPS, command, until
from tests.e2e.namespaces import two_machines

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


def test_no_packet_goes_to_any_other_address(tmp_path):
    home = tmp_path / "coordinator"
    url = "https://10.77.0.1:8443"

    def hanse(machine, *words):
        ran = machine.inside(lambda: command(*words, folder=tmp_path))
        assert ran.status == 0, ran.out + ran.err
        return ran.out

    with two_machines() as (here, there):
        where = ("--host", here.address, "--host", "localhost", "--listen", "0.0.0.0")
        hanse(here, "coordinator", "init", "--name", "apart", *where, "--home", home)
        starting = started(here, "coordinator", "start", "--home", home, log=tmp_path / "log")
        with starting:
            until((home / "address.json").exists)
            for site in ("north", "west"):
                (tmp_path / "token").write_text(
                    hanse(here, "coordinator", "invite", site, "--home", home)
                )
                how = ("--token-file", tmp_path / "token", "--yes", "--home", tmp_path / site)
                hanse(there, "site", "join", url, "--name", site, *how)
            token = hanse(here, "coordinator", "invite", "--researcher", "anna", "--home", home)
            (tmp_path / "token").write_text(token)
            hanse(there, "login", url, "--token-file", tmp_path / "token")
            for site in ("north", "west"):
                hanse(there, "site", "roster", "accept", "--yes", "--home", tmp_path / site)
            run = tmp_path / "app" / "run.toml"
            run.parent.mkdir()
            (run.parent / "plain.py").write_text((APPS / "plain.py").read_text())
            run.write_text(
                'task = "plain:task"\ndata = "plain:data"\nsites = ["north", "west"]\nrounds = 3\n'
            )
            north, west = (
                started(
                    *(there, "site", "start", "--app", run.parent, "--home", tmp_path / site),
                    log=tmp_path / f"{site}.log",
                )
                for site in ("north", "west")
            )
            with north, west:
                said = hanse(there, "submit", run, "--follow")
                assert "done, round 3/3" in said
                id = said.split()[0]
                until(lambda: (tmp_path / "west" / "runs" / id / "model.safetensors").exists())
        assert (here.elsewhere(), there.elsewhere()) == (0, 0)
        there.inside(astray)
        assert there.elsewhere() == 1  # so it would have been seen


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
