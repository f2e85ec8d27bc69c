"""What rounds cost: processor time, wall time and memory of a process and all that it started.

Imports numpy alone: it also runs in the environments of the peers.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

MARK = "HANSE_BENCH_SIDE"
"""In the environment of a side whose processes leave its tree: all of them bear the same value."""


def tree(root: int) -> list[int]:
    """Return a process and all below it."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                todo += map(int, task.read_text().split())
    return found


def marked(mark: str) -> list[int]:
    """Return the processes whose environment has the mark; one that has ended has none any more."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def processes() -> list[int]:
    """Return all processes of this side."""
    mark = os.environ.get(MARK)
    return sorted({*tree(os.getpid()), *marked(mark)}) if mark else tree(os.getpid())


def cpu_s() -> dict[int, float]:
    """Return the processor seconds of each process of this side, ended threads too."""
    found = {}
    for pid in processes():
        with suppress(OSError):
            found[pid] = time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) returns
    return found


def age_s() -> float:
    """Return the seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return up - ticks / os.sysconf("SC_CLK_TCK")


def private() -> int:
    """Return the bytes of memory of this side that are no file's, each shared page in its part."""
    names, total = ("Pss_Anon", "Pss_Shmem"), 0
    for pid in processes():
        with suppress(OSError):
            rows = map(str.split, Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
            total += 1024 * sum(int(row[1]) for row in rows if row[0].rstrip(":") in names)
    return total


def rounds(more: Callable[[], dict[str, float]] = dict) -> Iterator[int]:
    """Yield the number of each round that standard input asks for: a line, so many rounds.

    A round lasts until the next number is asked for. After the last of a line, one line of JSON
    tells processor and wall seconds a round, and what ``more()`` has to say. Whatever else is
    printed goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    number = 0
    for line in sys.stdin:
        before, began = cpu_s(), time.perf_counter()
        for _ in range(int(line)):
            yield (number := number + 1)
        wall, after = time.perf_counter() - began, cpu_s()
        cpu = sum(spent - before.get(pid, 0.0) for pid, spent in after.items())
        told = {"cpu": cpu / int(line), "wall": wall / int(line), "age": age_s()}
        print(json.dumps({**told, "private": private(), **more()}), file=answers, flush=True)


def norms(weights: np.ndarray, start: np.ndarray) -> dict[str, float]:
    """Return the length of the weights, and of the way that they went."""
    return {"norm": float(np.linalg.norm(weights)), "moved": float(np.linalg.norm(weights - start))}
