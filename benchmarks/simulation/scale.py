"""How time and memory grow with population and cohort: logistic regression, data made on the spot.

    python benchmarks/simulation/scale.py [--largest 8]

Each case is a process of its own. Results are written to benchmarks/results/scale.json.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from torch import nn

import hanse
from hanse.core.samplers import FixedSize
from hanse.report.environment import environment
from hanse.sim.devices import Devices
from hanse.train.torch import TorchTask

RESULTS = Path(__file__).parents[1] / "results" / "scale.json"
FEATURES, CLASSES, EXAMPLES = 784, 10, 20


def data(site: hanse.Site) -> tuple[tuple[np.ndarray, np.ndarray], None]:
    rng = np.random.default_rng(site.number)
    x = rng.standard_normal((EXAMPLES, FEATURES), dtype=np.float32)
    return (x, rng.integers(0, CLASSES, EXAMPLES)), None


def case(population: int, cohort: int, workers: int) -> dict[str, float]:
    """Run three rounds; return seconds of a round and MiB of memory, the parent's and in all."""
    task = TorchTask(model=lambda: nn.Linear(FEATURES, CLASSES), loss=nn.CrossEntropyLoss())
    began = time.monotonic()
    result = hanse.simulate(
        task,
        Devices(data, population),
        strategy=hanse.fedavg(sampler=FixedSize(cohort)),
        local=hanse.LocalTraining(batch_size=10, lr=0.1),
        rounds=4,
        engine="batched",
        workers=workers,
    )
    took = [float(row["seconds"]) for row in result.history[1:]]  # pyright: ignore
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began_s = time.monotonic() - began - sum(took)
    return {"round_s": statistics.median(took), "peak_mib": peak, "start_s": began_s}


def main() -> None:
    """Run the cases, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=8, help="powers of ten of the population")
    parser.add_argument("--case", nargs=3, type=int, help="one case, as JSON")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(case(*arguments.case)))
        return
    cases = [(10**power, 1000, 1) for power in range(4, arguments.largest + 1)]
    cases += [(10**6, cohort, 1) for cohort in (100, 10_000)] + [(10**6, 10_000, 2)]
    rows = list[dict[str, float]]()
    for population, cohort, workers in cases:
        words = [sys.executable, __file__, "--case", *map(str, (population, cohort, workers))]
        told = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
        rows.append({"population": population, "cohort": cohort, "workers": workers, **told})
        print(rows[-1], flush=True)
    RESULTS.write_text(json.dumps({"cases": rows, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
