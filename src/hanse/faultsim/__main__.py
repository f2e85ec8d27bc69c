"""``python -m hanse.faultsim``: many schedules, and the first that breaks a promise is shrunk."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from hanse.faultsim.schedule import Federation, Schedule, shrunk

TOGETHER = 25


def failure(schedule: Schedule) -> str:
    """Return what a schedule breaks, or nothing."""
    try:
        Federation(schedule).run()
    except Exception as error:  # whatever it is, the schedule shows it again
        return f"{type(error).__name__}: {error}"
    return ""


def failures(seeds: Sequence[int]) -> list[tuple[int, str]]:
    """Return the seeds whose schedules break something, and what."""
    return [(seed, said) for seed in seeds if (said := failure(Schedule.drawn(seed)))]


def many(first: int, count: int, workers: int) -> list[tuple[int, str]]:
    """Return :func:`failures` of ``count`` seeds from ``first`` on, in so many processes."""
    seeds = range(first, first + count)
    parts = [seeds[at : at + TOGETHER] for at in range(0, count, TOGETHER)]
    with ProcessPoolExecutor(workers) as pool:
        return [one for part in pool.map(failures, parts) for one in part]


def faults_of(first: int, count: int) -> Counter[str]:
    """Return how often each kind of fault is in the schedules."""
    seeds = range(first, first + count)
    return Counter(fault.kind for seed in seeds for fault in Schedule.drawn(seed).faults)


def told(seed: int, said: str) -> str:
    """Return a failing schedule, with as few faults as show it."""
    small = shrunk(Schedule.drawn(seed), lambda one: bool(failure(one)))
    lines = [f"seed {seed}: {said}", f"  deadline_s={small.deadline_s}, rounds={small.rounds}"]
    return "\n".join([*lines, *(f"  {fault}" for fault in small.faults)])


def main(given: Sequence[str]) -> int:
    """Print what was done and how fast; 1 if a schedule broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m hanse.faultsim", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(given)
    began = time.perf_counter()
    found = many(asked.seed, asked.schedules, asked.workers)
    took = time.perf_counter() - began
    kinds = faults_of(asked.seed, asked.schedules)
    print(f"{asked.schedules} schedules in {took:.1f} s ({asked.schedules / took:.0f} a second): "
          + ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())))  # fmt: skip
    for seed, said in found[:1]:
        print(told(seed, said))
    print(f"{len(found)} broke a promise" if found else "every promise was kept")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
