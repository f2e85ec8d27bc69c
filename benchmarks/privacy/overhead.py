"""What clip, weight and central noise add to a round, beside the same round without them.

    python benchmarks/privacy/overhead.py [--jobs cnn] [--rounds 6] [--pairs 5]

The same clients train alike on both sides, in one process; runs take turns, each after a first
round that is not counted, and a figure is the median over pairs of the ratio of their processor
time a round, with all of the ratios.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "simulation"))

from jobs import JOBS, Job
from torch import nn

import hanse
from hanse import Clip, Evaluation, FixedSize, GaussianNoise, LocalTraining, Pipeline, Weight
from hanse.sim.population import Given
from hanse.train.torch import TorchTask

PLAIN = Pipeline([Weight(by="examples")])


def noised(cohort: int) -> Pipeline:
    """Return what the other side has before its sum."""
    weight = Weight(by="examples", cap=50, denominator=cohort * 0.8)
    return Pipeline([weight, Clip(1.0), GaussianNoise(1.0)])


class Watch:
    """Notes the processor time of each round."""

    def __init__(self) -> None:
        self.seconds, self._at = list[float](), 0.0

    def on_start(self, run: object, spec: object) -> None:
        """Begin."""
        self._at = time.process_time()

    def on_round(self, row: object) -> None:
        """End a round, and begin the next."""
        now = time.process_time()
        self.seconds.append(now - self._at)
        self._at = now

    def on_end(self, result: object) -> None:
        """Nothing."""


def a_round(job: Job, pipeline: Pipeline, rounds: int, data: Given) -> float:
    """Return the processor time of a round of a run of ``rounds`` after the first."""
    watch = Watch()
    task = TorchTask(model=job.model, loss=nn.CrossEntropyLoss())
    hanse.simulate(
        task, data, strategy=hanse.fedavg(sampler=FixedSize(job.cohort)), pipeline=pipeline,
        local=LocalTraining(lr=job.lr, batch_size=job.batch), rounds=rounds + 1,
        evaluation=Evaluation(every=0), callbacks=[watch],
    )  # fmt: skip
    return statistics.mean(watch.seconds[1:])


def main() -> None:
    """Print a line for each job."""
    given = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    given.add_argument("--jobs", nargs="+", choices=JOBS, default=["cnn"])
    given.add_argument("--rounds", type=int, default=6)
    given.add_argument("--pairs", type=int, default=5)
    chosen = given.parse_args()
    torch.set_num_threads(1)
    for name in chosen.jobs:
        job = JOBS[name]
        data = Given({client: (rows, None) for client, rows in job.data().items()})
        ratios = list[float]()
        for _ in range(chosen.pairs):
            plain = a_round(job, PLAIN, chosen.rounds, data)
            ratios.append(a_round(job, noised(job.cohort), chosen.rounds, data) / plain)
        spread = ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
        print(f"{name}: {statistics.median(ratios):.3f} ({spread})")


if __name__ == "__main__":
    main()
