"""A step of DP-SGD beside a plain step of the same model, in one process.

    python benchmarks/privacy/dp_sgd.py [--nets cnn mlp lstm] [--batch 256] [--rounds 9]

Each side takes a step in its turn, and the figure is the median of the ratios to the plain step
before it: loss, backward pass and SGD by torch. One thread. ``clipped`` is the sum of the clipped
gradients alone, ``step`` all of it: batch drawn, rows gathered, clipped, noised and moved;
``secret`` the same with noise from a key of the operating system's. ``vmap`` is the clipped sum by
``torch.func.vmap``; ``opacus`` and ``opacus ghost`` are its forward and backward passes with
clipped gradients and without noise, where it is installed.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hanse.core.work import LocalPrivacy, LocalTraining, Train
from hanse.privacy.secret import fresh
from hanse.report.environment import environment
from hanse.train.local import Turn
from hanse.train.torch import TorchTask
from hanse.train.torch_clipped import Mapped
from hanse.train.torch_losses import by_row
from hanse.train.torch_private import batch, noised
from hanse.train.torch_steps import optimizer_of

RESULTS = Path(__file__).parent.parent / "results" / "dp_sgd.json"
PRIVATE = LocalPrivacy(clip=1.0, noise_multiplier=1.0, sampling_rate=0.1)
Side = Callable[[], None]


def cnn() -> nn.Module:
    """225,034 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    """269,322 parameters."""
    return nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


class Words(nn.Module):
    """A layer of 100 over 20 words of 500: 148,900 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(500, 64), nn.LSTM(64, 100, batch_first=True)
        self.out = nn.Linear(100, 500)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.table(x))[0][:, -1])


def rows(name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    if name == "lstm":
        return rng.integers(0, 500, (n, 20)), rng.integers(0, 500, n)
    shape = (1, 28, 28) if name == "cnn" else (784,)
    return rng.normal(size=(n, *shape)).astype(np.float32), rng.integers(0, 10, n)


NETS: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "mlp": mlp, "lstm": Words}


def sides(name: str, size: int) -> dict[str, Side]:
    """Return what takes one step of each side, ``plain`` first."""
    task = TorchTask(model=NETS[name], loss=nn.CrossEntropyLoss())
    kernel, turn = task.kernel(), Turn(1, 1, "one")
    data: Any = kernel.prepare(rows(name, 10 * size), turn)
    module, private = kernel.model.training(), kernel.private
    local = LocalTraining(lr=1e-4, batch_size=size, steps=1, privacy=PRIVATE)
    optimizer, clipped = optimizer_of(local, kernel.model.parameters, None), private._clipped(data)
    kernel.model.training()
    plain = torch.optim.SGD(kernel.model.parameters, lr=1e-4)
    numbers = torch.randperm(10 * size)[:size]
    inputs, targets = data.batch(numbers)

    def plainly() -> None:
        plain.zero_grad()
        nn.functional.cross_entropy(module(*inputs), targets).backward()
        plain.step()

    def stepping(turn: Turn) -> Side:
        def step() -> None:
            batch(turn, 0, data.n, 0.1)  # one of another size every time: this one is not taken
            total = private._summed(clipped, data, numbers, 1.0)
            private._move(noised(total, PRIVATE, turn, 0), local, Train(local), optimizer)

        return step

    loss = by_row(nn.CrossEntropyLoss())
    assert loss is not None
    mapped = Mapped(module, loss, kernel.model.parameters, private.names)
    found: dict[str, Side] = {
        "plain": plainly,
        "clipped": lambda: clipped.add(inputs, targets, 1.0, [None] * len(private.spans)),
        "step": stepping(turn),
        "secret": stepping(replace(turn, draw=fresh)),
    }
    if name != "lstm":  # torch maps its kernel one row at a time
        found["vmap"] = lambda: mapped(inputs, targets).clipped(1.0, [None] * len(private.spans))
    return found | peers(task, inputs, targets)


def peers(task: TorchTask, inputs: tuple[Tensor, ...], targets: Tensor) -> dict[str, Side]:
    """Return Opacus's sides, if it is installed and takes the model."""
    try:
        from opacus import GradSampleModule
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
    except ImportError:
        return {}
    if any(isinstance(part, nn.LSTM) for part in task._module(0).modules()):
        return {}  # it takes a layer of its own in the place of torch's
    hooked = GradSampleModule(copy.deepcopy(task._module(0)), loss_reduction="sum")
    ghost = GradSampleModuleFastGradientClipping(
        copy.deepcopy(task._module(0)), max_grad_norm=1.0, use_ghost_clipping=True,
        loss_reduction="sum",
    )  # fmt: skip

    def by_hooks() -> None:
        hooked.zero_grad()
        nn.functional.cross_entropy(hooked(*inputs), targets, reduction="sum").backward()
        each = [p.grad_sample for p in hooked.parameters()]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in each]).norm(dim=0)
        factors = (1.0 / norms).clamp(max=1.0)
        for g in each:
            torch.einsum("n,n...->...", factors, g)

    def by_ghost() -> None:
        ghost.zero_grad()
        losses = nn.functional.cross_entropy(ghost(*inputs), targets, reduction="none")
        losses.sum().backward(retain_graph=True)
        factors = ghost.get_clipping_coef()
        ghost.zero_grad()
        ghost.disable_hooks()
        (losses * factors).sum().backward()
        ghost.enable_hooks()

    return {"opacus": by_hooks, "opacus ghost": by_ghost}


def measure(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """Return each side's median ratio to the plain step before it, and that one's milliseconds."""
    ratios = {name: list[float]() for name in sides}
    plain = list[float]()
    for turn in range(rounds + 1):
        for name, side in sides.items():
            before = timed(sides["plain"])
            took = timed(side)
            if turn:  # the first warms up
                plain.append(before)
                ratios[name].append(took / before)
    found = {name: round(statistics.median(values), 2) for name, values in ratios.items()}
    del found["plain"]
    return {"plain, ms": round(1e3 * statistics.median(plain), 2), **found}


def timed(side: Side) -> float:
    began = time.process_time()
    side()
    return time.process_time() - began


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--nets", nargs="+", choices=NETS, default=[*NETS])
    words.add_argument("--batch", type=int, nargs="+", default=[256])
    words.add_argument("--rounds", type=int, default=9)
    asked = words.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    task = TorchTask(model=mlp, loss=nn.CrossEntropyLoss())
    with task.exactly(1):
        for name in asked.nets:
            for size in asked.batch:
                found = measure(sides(name, size), asked.rounds)
                results[f"{name}, batch {size}"] = found
                told = ", ".join(f"{side} {value}" for side, value in found.items())
                print(f"{name}, batch {size}: {told}", flush=True)
        results["environment"] = environment()
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
