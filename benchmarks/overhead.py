"""What Hanse adds to local training: a round against the same local SGD as a bare PyTorch loop.

    python benchmarks/overhead.py [--rounds 12] [--clients 50] [--numpy]

A CNN of 1.2 million parameters, 50 clients of about 50 examples, batch 10, one core. Both run the
same number of steps on data of the same sizes, in turn, in one process, so with the same memory
allocator; Hanse with shuffling, weight, clip and exact sum on. The figure is the median of the
paired ratios of processor time; that of the fastest rounds says how much of it is the machine's
other users. The bare loop loads the global model into a module, runs
``torch.optim.SGD`` over shuffled batches, and adds up the weighted differences.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hanse
from hanse.train.torch import TorchTask


def cnn() -> nn.Module:
    """Return the convolutional network of the federated benchmarks (62 classes, 28×28 inputs)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128),
        nn.ReLU(),
        nn.Linear(128, 62),
    )


def clients(count: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images and labels for ``count`` clients, of lognormal sizes around 50."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(3.8, 0.4, count).astype(int), 10, 200)
    return {
        f"client-{i:03d}": (
            rng.normal(size=(n, 1, 28, 28)).astype(np.float32),
            rng.integers(0, 62, n),
        )
        for i, n in enumerate(sizes)
    }


class Bare:
    """The loop that one would write by hand."""

    def __init__(self, data: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        torch.manual_seed(0)
        self.model, self.loss = cnn(), nn.CrossEntropyLoss()
        self.data = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in data.values()]

    def round(self) -> None:
        start = {name: value.clone() for name, value in self.model.state_dict().items()}
        total = {name: torch.zeros_like(value) for name, value in start.items()}
        for x, y in self.data:
            self.model.load_state_dict(start)
            optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            for index in torch.randperm(len(y)).split(10):
                optimizer.zero_grad()
                self.loss(self.model(x[index]), y[index]).backward()
                optimizer.step()
            for name, value in self.model.state_dict().items():
                total[name].add_(value - start[name], alpha=len(y))
        count = sum(len(y) for _, y in self.data)
        self.model.load_state_dict({n: start[n] + total[n] / count for n in start})


class Ours:
    """The same round through the pipeline."""

    def __init__(self, data: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        task = TorchTask(model=cnn, loss=nn.CrossEntropyLoss())
        local = hanse.LocalTraining(optimizer="sgd", lr=0.1, epochs=1, batch_size=10)
        steps = hanse.Pipeline([hanse.Weight(by="examples", cap=200), hanse.Clip(norm=1.0)])
        given = {client: (rows, None) for client, rows in data.items()}
        run = hanse.Run(task, Given(given), hanse.fedavg(), local, steps, rounds=10**6)
        self.pool, self.run = InProcess(run, run.spec), run
        self.program = StrategyProgram(run.strategy, run.spec.layout, local, steps, run.rounds)
        self.state = self.program.initial(run.described[1])

    def round(self) -> None:
        ask = self.program.ask(self.state)
        done = perform(ask, self.run.spec, self.run.faults, self.pool, {})
        self.state = self.program.absorb(self.state, done.total)


def timed(action: object) -> float:
    """Return the processor seconds of one round."""
    began = time.process_time()
    action.round()  # type: ignore[attr-defined]
    return time.process_time() - began


def main() -> None:
    """Measure and print; write benchmarks/results/overhead.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--clients", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = clients(arguments.clients, 0)
    ours, bare = Ours(data), Bare(data)
    for side in (ours, bare):
        side.round()
    pairs = []
    for turn in range(arguments.rounds):
        first, second = (ours, bare) if turn % 2 else (bare, ours)
        times = {id(first): timed(first), id(second): timed(second)}
        pairs.append((times[id(ours)], times[id(bare)]))
    ratios = [mine / theirs for mine, theirs in pairs]
    found = {
        "kernels": kernels().name,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "fastest": min(mine for mine, _ in pairs) / min(theirs for _, theirs in pairs),
        "hanse_s": statistics.median(mine for mine, _ in pairs),
        "bare_s": statistics.median(theirs for _, theirs in pairs),
        "clients": arguments.clients,
        "environment": environment(),
    }
    path = Path(__file__).parent / "results" / f"overhead-{found['kernels']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{found['kernels']} kernels: Hanse {found['hanse_s']:.2f} s, bare loop "
        f"{found['bare_s']:.2f} s a round, ratio {found['ratio']:.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}), of the fastest rounds {found['fastest']:.3f}"
    )


if __name__ == "__main__":
    if "--numpy" in sys.argv:
        sys.argv.remove("--numpy")
        os.environ["HANSE_NUMBA"] = "0"
    from hanse.core.accelerate import kernels

    try:
        from hanse.report.environment import environment
    except ImportError:
        environment = dict
    from hanse.sim.pool import InProcess
    from hanse.sim.population import Given
    from hanse.sim.rounds import perform
    from hanse.strategies import StrategyProgram

    main()
