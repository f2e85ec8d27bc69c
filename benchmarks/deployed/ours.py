"""Rounds of a deployed Hanse on loopback, real processes and TLS, without training.

    python benchmarks/deployed/ours.py --sites 10 --mb 100 --rounds 5

Prints one JSON object: seconds, processor seconds and loopback bytes a round, and the peak memory
of the coordinator, after one round to warm up.
"""

import argparse
import json
import os
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from measure import Sampler, loopback, now

RUN = """\
task = "app:task"
data = "app:data"
sites = {sites}
rounds = {rounds}
name = "bench"
[strategy]
name = "{strategy}"
{settings}
[[pipeline]]
step = "weight"
by = "uniform"
[evaluation]
every = 0
"""


def written(folder: Path, names: list[str], rounds: int, strategy: str) -> Path:
    """Return the run file, in an app folder that is made."""
    app = folder / "app"
    app.mkdir()
    (app / "app.py").write_text((Path(__file__).parent / "app" / "app.py").read_text())
    settings = "server_lr = 1e-9" if strategy == "fedadam" else ""
    file = app / "run.toml"
    file.write_text(
        RUN.format(sites=json.dumps(names), rounds=rounds, strategy=strategy, settings=settings)
    )
    return file


def measure(sites: int, size: int, rounds: int, strategy: str = "fedavg") -> dict[str, object]:
    """Return the medians of ``rounds`` rounds after one to warm up."""
    os.environ["HANSE_BENCH_PARAMETERS"] = str(size // 4)
    from hanse.config.parse import parse
    from hanse.net.account import news, submit
    from hanse.up import Federation, _remove

    names = [f"site-{number}" for number in range(sites)]
    folder = Path(tempfile.mkdtemp(prefix="hanse-bench-"))
    file = written(folder, names, rounds + 1, strategy)
    try:
        began = now()
        with Federation(folder, dict.fromkeys(names, (file.parent, {}))) as federation:
            started = now() - began
            line = federation.account.dial()
            run = parse(file).load()
            id = submit(line, run)
            roots = {name: process.pid for name, process in federation.processes.items()}
            sampler, marks = None, []
            for told in news(line, id):
                federation.check_alive()
                while len(marks) < told["round"]:
                    marks.append((now(), loopback()))
                    if sampler is None:
                        sampler = Sampler(roots, "coordinator").__enter__()
                    elif len(marks) == rounds + 1:  # what follows is no round: sites fetch the end
                        sampler.__exit__()
            told = line.request("GET", f"/v1/runs/{id}/events").json()
        ends = [e["at"] for e in told["events"] if e["kind"] == "absorbed"]
        seconds = [b - a for a, b in pairwise(ends)]
        return {
            "system": "hanse",
            "strategy": strategy,
            "sites": sites,
            "bytes": size,
            "seconds": statistics.median(seconds),
            "all": seconds,
            "cpu_s": sum(sampler.cpu.values()) / rounds,
            "server_cpu_s": sampler.cpu["coordinator"] / rounds,
            "lo_bytes": (marks[rounds][1] - marks[0][1]) / rounds,
            "server_peak": sampler.peak,
            "server_anonymous": sampler.anonymous,
            "started_s": started,
        }
    finally:
        _remove(folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--mb", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strategy", default="fedavg")
    told = parser.parse_args()
    size = int(told.mb * 1e6) // 4 * 4
    print(json.dumps(measure(told.sites, size, told.rounds, told.strategy)))


if __name__ == "__main__":
    main()
