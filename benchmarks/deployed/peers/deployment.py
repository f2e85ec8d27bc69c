"""A peer's processes on this machine: start, follow, measure rounds, and stop every one of them."""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from measure import Sampler, loopback, now, trees

MARK = "HANSE_BENCH_DEPLOYMENT"


@dataclass
class Deployment:
    """Processes in a temporary folder, all known by a mark in their environment.

    Peers detach what they start, so no tree and no process group holds all of them: leaving ends
    each process that bears the mark.
    """

    environment: dict[str, str]
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def __enter__(self) -> "Deployment":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that leaving is not skipped
        self.folder = Path(tempfile.mkdtemp(prefix="hanse-peers-"))
        self.mark = f"{MARK}={secrets.token_hex(8)}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def started(self, name: str, *words: str, **more: str) -> None:
        """Start a process that stays; ``more`` is environment of its own."""
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                words, env=self._environment(more), cwd=self.folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def done(self, *words: str, limit_s: float, cwd: Path | None = None, **more: str) -> str:
        """Run a command to its end and return what it printed; RuntimeError if it fails."""
        done = subprocess.run(
            words, env=self._environment(more), cwd=cwd or self.folder, timeout=limit_s,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)} ends with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def log(self, name: str) -> str:
        """Return what a process has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def until(self, holds: Callable[[], bool], what: str, limit_s: float) -> None:
        """Wait for ``holds``; RuntimeError if a process ends first, or the time does."""
        ends = now() + limit_s
        while not holds():
            gone = [name for name, process in self.processes.items() if process.poll() is not None]
            if gone or now() > ends:
                why = f"{gone[0]} ended" if gone else f"not within {limit_s:.0f} s"
                logs = "\n".join(f"{n}: {self.log(n)[-1500:]}" for n in gone or self.processes)
                raise RuntimeError(f"{what}: {why}\n{logs}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask all that bear the mark to end, and kill what has not ended after 10 s."""
        for sign, limit_s in (signal.SIGTERM, 10), (signal.SIGKILL, 10):
            ends = now() + limit_s
            for pid in self._marked():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
            while self._marked() and now() < ends:
                time.sleep(0.1)
        for process in self.processes.values():
            process.wait(5)

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        """Return ours without our modules and without a proxy, then what is asked for."""
        ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        plain = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        return ours | plain | self.environment | more | dict([self.mark.split("=")])

    def _marked(self) -> list[int]:
        """Return the pids that live; one that has ended has no environment any more."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


class TreeSampler(Sampler):
    """A Sampler whose memory is that of the whole watched tree: peers' servers are several.

    Counters in /proc/PID/status, not smaps: those of gigabytes take long to read. Pages that two
    processes share count twice, some 10 MB each.
    """

    def _sample(self) -> None:
        pids = trees({"": self.roots[self.watched]})[""]
        told = [_status(pid) for pid in pids]
        self.peak = max(self.peak, sum(rss for rss, _ in told))
        self.anonymous = max(self.anonymous, sum(anonymous for _, anonymous in told))


def _status(pid: int) -> tuple[int, int]:
    """Return (RSS, of which anonymous) in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    named = {line.split(":")[0]: line.split() for line in lines}
    if "VmRSS" not in named:  # it has ended
        return 0, 0
    return int(named["VmRSS"][1]) * 1024, int(named["RssAnon"][1]) * 1024


def measured(
    deployment: Deployment, ends: Callable[[], Sequence[float]], rounds: int, limit_s: float
) -> dict[str, object]:
    """Return the medians of ``rounds`` rounds after one to warm up.

    ``ends`` tells when each round ended, so far, by any one clock; the process named ``server``,
    with all below it, is the server.
    """
    roots = {name: process.pid for name, process in deployment.processes.items()}
    carried: list[int] = []

    def ended() -> bool:
        if len(ends()) > len(carried):
            carried.append(loopback())
            return True
        return False

    deployment.until(ended, "the first round", limit_s)
    with TreeSampler(roots, "server") as sampler:
        for number in range(rounds):
            deployment.until(ended, f"round {number + 1} after the first", limit_s)
    seconds = [b - a for a, b in pairwise(ends()[: rounds + 1])]
    return {
        "seconds": statistics.median(seconds),
        "all": seconds,
        "cpu_s": sum(sampler.cpu.values()) / rounds,
        "server_cpu_s": sampler.cpu["server"] / rounds,
        "lo_bytes": (carried[-1] - carried[0]) / rounds,
        "server_peak": sampler.peak,
        "server_anonymous": sampler.anonymous,
    }


def round_limit_s(sites: int, size: int) -> float:
    """Return how long a round may take: several times what a slow machine was seen to need."""
    return 60 + 5 * sites + sites * size / 2e6


def command(measure: Callable[[int, int, int], dict[str, object]]) -> None:
    """Measure what the command line asks for (sites, bytes, rounds), and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--mb", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    print(json.dumps(measure(told.sites, int(told.mb * 1e6) // 4 * 4, told.rounds)))


def free_ports(number: int) -> list[str]:
    """Return ports of loopback that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [str(one.getsockname()[1]) for one in sockets]


def answers(port: str) -> bool:
    """Whether somebody listens at a port of loopback."""
    try:
        socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
    except OSError:
        return False
    return True
