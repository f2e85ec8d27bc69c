"""A process dies, or its disk fails or is full, at a call to the system (P1, P9, P10).

The tracer counts for each thread by itself: the N-th call is that of the thread that comes there
first. What a run makes is counted first; then one call after another is what a process dies of,
or meets, and the supervisor starts the next one.
"""

import os
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.crash.supervised import HANSE, KILL, Supervised

import hanse
from hanse.coordinator.journal import WRITE_FAILED
from hanse.errors import ConfigError

pytestmark = pytest.mark.timeout(3600)
SEED = int(os.environ.get("HANSE_SEED", "3"))
ROUNDS = 2
SYNCS = ("fsync", "fdatasync")
KILLED = (*SYNCS, "rename", "unlink", "rmdir", "write", "pwrite64", "sendto", "sendmsg", "writev")
STRIDE = {"write": 4, "pwrite64": 3}
"""Of calls of which there are hundreds, every so many-th in ``make torture``."""
AT_START = ConfigError.exit_status
"""A site's agent that cannot open what it needs says so, and ends."""
FAILED, FULL, FULL_S = "error=EIO", "error=ENOSPC", 1.5
CALL = re.compile(r"(\d+) +(\w+)\(")
NAMES = re.compile(r"fdatasync\(\d+<[^>]*/coordinator>\)")
TOLD = ("input/output error", "no space left on device")


@dataclass(frozen=True)
class Point:
    """The ``number``-th ``call`` of a thread, and what becomes of it."""

    call: str
    number: int
    becomes: str = "signal=SIGKILL"

    def __str__(self) -> str:
        return f"{self.call}:{self.becomes}:when={self.number}{'+' * self.fills}"

    @property
    def fills(self) -> bool:
        """Whether all that come after it fail as well, until the process has ended."""
        return "ENOSPC" in self.becomes


@dataclass(frozen=True)
class Met:
    """What became of a process at a point: its status, if it was not the test that ended it."""

    point: Point
    status: int | None
    injected: tuple[str, ...]


def traced(log: Path, calls: Sequence[str], inject: str = "") -> list[str]:
    # With --seccomp-bpf a call begins at a stop at which no signal can be given.
    fast = [] if "signal=" in inject else ["--seccomp-bpf"]
    how = ["-D", "-f", "-y", *fast, "-o", str(log), "-e", f"trace={','.join(calls)}"]
    return ["strace", *how, *(["-e", f"inject={inject}"] if inject else []), *HANSE]


class Sweep:
    """A federation of which one process is traced; how often a thread makes each call in a run."""

    def __init__(self, supervised: Supervised, name: str) -> None:
        self.supervised, self.name = supervised, name
        log = supervised.folder / "trace-0"
        supervised.end(id := supervised.submit(ROUNDS))
        self.digest = hanse.simulate(supervised.app / "unit.toml").model_digest
        supervised.check(id, self.digest)
        supervised.kill(name)  # so that the trace ends
        self.counts, self.traces = Counter[str](), 1
        calls = (CALL.match(line) for line in log.read_text().splitlines())
        for (_, call), count in Counter(one.groups() for one in calls if one).items():
            self.counts[call] = max(self.counts[call], count)
        print(f"HANSE_SEED={SEED}, {name}:", dict(self.counts))

    def points(self, *calls: str, becomes: str = "signal=SIGKILL") -> list[Point]:
        """Return all points of ``calls``; of some calls, every so many-th."""
        numbers = ((call, range(1, self.counts[call] + 1, STRIDE.get(call, 1))) for call in calls)
        return [Point(call, number, becomes) for call, found in numbers for number in found]

    def some(self, count: int, *calls: str, becomes: str = "signal=SIGKILL") -> list[Point]:
        """Return a few points that a seed draws: each call is as likely as the others."""
        draw = random.Random(f"{SEED} {self.name} {calls} {becomes}")
        made = [call for call in calls if self.counts[call]]
        chosen = draw.sample(made, count) if len(made) >= count else draw.choices(made, k=count)
        return [Point(call, draw.randint(1, self.counts[call]), becomes) for call in chosen]

    def strike(self, points: Sequence[Point]) -> list[Met]:
        """Start the process for each point, in as many runs as that takes; all of them end well.

        What lives through a whole run, or finds its disk full for a while, is ended by the test.
        """
        supervised, name = self.supervised, self.name
        supervised.await_successor(name)
        before = len(supervised.deaths)
        logs = [supervised.folder / f"trace-{self.traces + n}" for n in range(len(points))]
        self.traces += len(points)
        words = [traced(log, [p.call], str(p)) for log, p in zip(logs, points, strict=True)]
        supervised.launching[name].extend(words)
        supervised.kill(name)
        spared = self._end_all(points, words, logs)
        deaths = [status for who, status, _ in supervised.deaths[before:] if who == name]
        assert len(deaths) == 1 + len(points)
        return [
            Met(point, None if n in spared else status, injected_in(log))
            for n, (point, log, status) in enumerate(zip(points, logs, deaths[1:], strict=True))
        ]

    def _end_all(
        self, points: Sequence[Point], words: list[list[str]], logs: list[Path]
    ) -> set[int]:
        """Do runs until each process has come and gone; return which of them the test ended."""
        supervised, name, by = self.supervised, self.name, self.supervised.federation.by
        ids, spared = list[str](), set[int]()
        under: Sequence[str] = ()
        last, full_at = by[name], 0.0
        while supervised.launching[name] or any(by[name] is one for one in words):
            if by[name] is not last:
                last, full_at = by[name], 0.0
            at = next((n for n, one in enumerate(words) if one is last), None)
            is_over = not ids or supervised.has_ended(ids[-1])
            if at is not None and points[at].fills and not full_at and injected_in(logs[at]):
                full_at = time.monotonic()
            is_full = bool(full_at) and time.monotonic() > full_at + FULL_S
            if at is not None and (is_full or (is_over and under is last)):
                spared.add(at)
                supervised.kill(name)
                while by[name] is last:
                    time.sleep(0.01)
            if is_over:
                under = by[name]
                ids.append(supervised.submit(ROUNDS))
            time.sleep(0.02)
        for id in ids:
            supervised.end(id)
            supervised.check(id, self.digest)
        return spared

    def told(self) -> int:
        """Return how often a site told its operator that its disk fails, or is full."""
        up = self.supervised.federation
        logs = (up.site_home(self.name).folder / "log.jsonl", up.folder / f"{self.name}.log")
        return sum(log.read_text().count(what) for log in logs for what in TOLD)

    def check(self, points: Sequence[Point]) -> None:
        """Strike at each point: most are reached, and no failure is passed over.

        A failed sync ends a coordinator at once; a site's agent tells of it, and goes on. SQLite
        syncs the name of its log too and goes on if that fails; the journal has done it before.
        """
        print(f"HANSE_SEED={SEED}:", *points)
        is_site = self.name != "coordinator"
        before = self.told() if is_site else 0
        met = self.strike(points)
        killed = [one for one in met if "SIGKILL" in one.point.becomes and one.status is not None]
        failed = [one for one in met if one.point.becomes == FAILED and one.injected]
        full = [one for one in met if one.point.fills and one.injected]
        assert {one.status for one in killed} <= {-KILL}
        for one in failed:
            gone_on = is_site or NAMES.search(one.injected[0])
            assert one.status in ((None, AT_START) if gone_on else (WRITE_FAILED,)), one
        if is_site:
            assert self.told() >= before + len(failed)
        assert len(killed) + len(failed) + len(full) >= len(points) / 2, met


def injected_in(log: Path) -> tuple[str, ...]:
    text = log.read_text() if log.exists() else ""
    return tuple(line for line in text.splitlines() if "(INJECTED)" in line)


@pytest.fixture(scope="module", params=["coordinator", "west"])
def sweep(request, tmp_path_factory):
    supervised = Supervised(tmp_path_factory.mktemp("syscalls"))
    log = supervised.folder / "trace-0"
    supervised.launching[request.param].append(traced(log, KILLED))
    with supervised:
        yield Sweep(supervised, request.param)


@pytest.mark.timeout(300)
def test_a_process_dies_or_its_disk_fails_or_is_full_at_some_calls(sweep):
    kills, fails = (2, 1) if sweep.name == "coordinator" else (3, 2)  # the sites wait for it
    killed, failed = sweep.some(kills, *KILLED), sweep.some(fails, *SYNCS, becomes=FAILED)
    sweep.check([*killed, *failed, *sweep.some(1, "pwrite64", becomes=FULL)])


@pytest.mark.torture
def test_a_process_is_killed_at_every_call(sweep):
    sweep.check(sweep.points(*KILLED))


@pytest.mark.torture
def test_a_disk_fails_at_every_sync(sweep):
    sweep.check(sweep.points(*SYNCS, becomes=FAILED))


@pytest.mark.torture
def test_a_disk_is_full_from_every_write_on(sweep):
    sweep.check(sweep.points("pwrite64", becomes=FULL))
