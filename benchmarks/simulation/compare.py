"""Hanse's engines beside the loop that one would write by hand, on the same jobs.

    python benchmarks/simulation/compare.py [--jobs tiny cnn] [--sides exact batched-2] [--rounds 7]

Each side is a process of its own, and they take turns, one measurement at a time: the figure is the
median of the ratios of neighbours, which a machine whose speed drifts does not move. One core: all
but the sides with several workers are bound to processor 0, and tell what a round costs beside the
training of its clients: to plan, weight, clip, check, sum and decode. Results, with versions and
processor, are written to benchmarks/results/simulation.json, in the place of those of the same
jobs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from jobs import JOBS

from hanse.report.environment import environment

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "simulation.json"
SMALL = ["exact", "exact-2", "batched", "batched/numpy", "batched-2"]
SIDES = {"tiny": SMALL, "mlp": SMALL, "cnn": ["exact", "exact-2", "bare-2"], "cnn500": ["exact-2"]}
OTHERS = ["exact", "exact-2"]
BOUND = ["taskset", "-c", "0"]


class Side:
    """A runner: it has done two rounds when it is made."""

    def __init__(self, words: list[str], rounds: int, **more: str) -> None:
        self.words, self.rounds = words, rounds
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | more
        )
        self.first_s = self.measure(1)["age"]
        second = self.measure(1)
        self.norms = {name: second[name] for name in ("norm", "moved") if name in second}

    def measure(self, rounds: int = 0) -> dict[str, float]:
        """Do rounds; return what each took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(rounds or self.rounds, file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{' '.join(self.words)} ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


def ours(job: str, name: str) -> Side:
    """Start a side of our own."""
    side, _, kernels = name.partition("/")
    bound = [] if side.rpartition("-")[2].isdigit() else BOUND
    words = [*bound, sys.executable, str(HERE / "runner.py"), job, name]
    return Side(words, JOBS[job].rounds, HANSE_NUMBA="0" if kernels == "numpy" else "1")


def compared(
    job: str, names: list[str], rounds: int, started: Callable[[str, str], Side] = ours
) -> dict[str, dict[str, float]]:
    """Return what each side took, and its ratio to the naive loop's processor time and wall."""
    sides = dict[str, Side]()
    try:
        for name in ("naive", *names):
            sides[name] = started(job, name)
        for side in sides.values():
            for _ in range(5 if side.rounds > 1 else 1):  # until every client was opened
                side.measure()
        told = [{name: side.measure() for name, side in sides.items()} for _ in range(rounds)]
    finally:
        for side in sides.values():
            side.close()
    found: dict[str, dict[str, float]] = {}
    for name in sides:
        row: dict[str, float] = {"private_mib": max(one[name]["private"] for one in told) / 2**20}
        row |= {"first_s": sides[name].first_s, **sides[name].norms}
        for what in ("cpu", "wall"):
            row[f"{what}_s"] = statistics.median(one[name][what] for one in told)
            ratios = [one[name][what] / one["naive"]["cpu"] for one in told]
            row[f"{what}_ratio"] = statistics.median(ratios)
            row[f"{what}_least"], row[f"{what}_most"] = min(ratios), max(ratios)
        found[name] = row
        beside = [
            one[name]["cpu"] - one[name]["training"] for one in told if one[name].get("training")
        ]
        if beside:
            row["engine_ms"] = 1e3 * statistics.median(beside) / JOBS[job].cohort
        own = f"; beside training {row['engine_ms']:.3f} ms a client" if beside else ""
        print(
            f"{job:6} {name:13} {1e3 * row['cpu_s']:9.2f} ms of processor, {row['cpu_ratio']:.3f} "
            f"× naive ({row['cpu_least']:.3f} to {row['cpu_most']:.3f}); wall "
            f"{1e3 * row['wall_s']:9.2f} ms, {row['wall_ratio']:.3f} ×; "
            f"{row['private_mib']:.0f} MiB; first round after {row['first_s']:.1f} s{own}",
            flush=True,
        )
    return found


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", default=[*JOBS], choices=[*JOBS])
    parser.add_argument("--sides", nargs="+", help="in the place of each job's own")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    found = {
        job: compared(job, arguments.sides or SIDES.get(job, OTHERS), arguments.rounds)
        for job in arguments.jobs
    }
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text())["jobs"] if RESULTS.exists() else {}
    told = {"jobs": {**known, **found}, "environment": environment()}
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
