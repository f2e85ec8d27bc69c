"""What a tree of processes costs: processor time, memory, and bytes over loopback, from /proc."""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(root: int) -> list[int]:
    """Return the pids of a process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
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
    """Samples processes at 10 Hz; ``cpu`` and ``peak`` by the names given to their roots."""

    roots: dict[str, int]
    every_s: float = 0.1
    cpu: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    anonymous: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> "Sampler":
        self._seen: dict[str, dict[int, tuple[float, float]]] = {n: {} for n in self.roots}
        self._stop = threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def _loop(self) -> None:
        while not self._stop.wait(self.every_s):
            self._sample()

    def _sample(self) -> None:
        for name, root in self.roots.items():
            rss = anonymous = 0
            for pid in tree(root):
                used = cpu_s(pid)
                first, _ = self._seen[name].get(pid, (used, used))
                self._seen[name][pid] = (first, used)
                both = memory(pid)
                rss, anonymous = rss + both[0], anonymous + both[1]
            self.peak[name] = max(self.peak.get(name, 0), rss)
            self.anonymous[name] = max(self.anonymous.get(name, 0), anonymous)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        for name, seen in self._seen.items():
            self.cpu[name] = sum(last - first for first, last in seen.values())


def now() -> float:
    """Return the seconds of a clock that never steps."""
    return time.monotonic()
