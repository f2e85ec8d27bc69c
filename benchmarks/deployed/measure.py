"""What a tree of processes costs: processor time, memory, and bytes over loopback, from /proc."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def trees(roots: Mapping[str, int]) -> dict[str, list[int]]:
    """Return the pids of each process and all below it, in one look at /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[str, list[int]] = {name: [] for name in roots}
    for name, root in roots.items():
        todo = [root]
        while todo:
            pid = todo.pop()
            found[name].append(pid)
            todo += children.get(pid, [])
    return found


def cpu_s(pid: int) -> float:
    """Return the processor seconds of one process, and of its children that have ended."""
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, parts[11:15])) / TICK


def memory(pid: int) -> tuple[int, int]:
    """Return (RSS, of which anonymous) in bytes: the rest is files, which others may share."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0, 0
    named = {line.split(":")[0]: line.split() for line in told.splitlines()[1:]}
    return int(named["Rss"][1]) * 1024, int(named["Anonymous"][1]) * 1024


def loopback() -> int:
    """Return the bytes that the loopback interface has carried."""
    return int(Path("/sys/class/net/lo/statistics/rx_bytes").read_text())


@dataclass
class Sampler:
    """What named process trees cost while it is entered: ``cpu`` seconds, and peaks of memory.

    Processor time is read at both ends (that of a process that ended is its parent's), the memory
    of ``watched`` at 4 Hz: reading it of all, or more often, slows down what is measured.
    """

    roots: dict[str, int]
    watched: str
    every_s: float = 0.25
    cpu: dict[str, float] = field(default_factory=dict)
    peak: int = 0
    anonymous: int = 0

    def __enter__(self) -> "Sampler":
        self._before, self._stop = self._cpu(), threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def _cpu(self) -> dict[str, float]:
        return {name: sum(map(cpu_s, pids)) for name, pids in trees(self.roots).items()}

    def _loop(self) -> None:
        while not self._stop.wait(self.every_s):
            self._sample()

    def _sample(self) -> None:
        rss, anonymous = memory(self.roots[self.watched])
        self.peak, self.anonymous = max(self.peak, rss), max(self.anonymous, anonymous)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        after = self._cpu()
        self.cpu = {name: after[name] - before for name, before in self._before.items()}


def now() -> float:
    """Return the seconds of a clock that never steps."""
    return time.monotonic()
