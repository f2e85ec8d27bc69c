"""Local training in PyTorch: the one loop that simulator and site share."""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hanse.core import seeds
from hanse.core.buffers import to_moments
from hanse.core.layout import Vector
from hanse.core.metrics import BEYOND, Metric, fixed
from hanse.core.step import Integers
from hanse.core.work import Train, steps_of
from hanse.data.persons import OfPersons
from hanse.errors import TaskError
from hanse.train.local import Trained, Turn
from hanse.train.torch_block import TorchBlocks
from hanse.train.torch_data import (
    CLASSES,
    PROBABILITIES,
    Items,
    Rows,
    check_classes,
    fitting,
    prepare,
    union,
)
from hanse.train.torch_loop import Loop, UserLoop, counts_of
from hanse.train.torch_losses import squeezed
from hanse.train.torch_model import FlatModel, from_numpy
from hanse.train.torch_own import Stepping
from hanse.train.torch_private import PrivateTraining
from hanse.train.torch_stack import stack_of
from hanse.train.torch_steps import (
    Optimizer,
)
from hanse.train.userland import userland

EVALUATION_BATCH = 1024


@contextmanager
def chance(seed: int, device: torch.device, *, everywhere: bool) -> Generator[None]:
    """Seed what a model (``everywhere``: a data set too) may draw from; give it back afterwards."""
    torch_state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a traceback: 0.4 ms
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    states = (random.getstate(), np.random.get_state()) if everywhere else None
    if everywhere:
        random.seed(seed)
        np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])


class TorchKernel:
    """One flat model and what trains it. See :class:`hanse.train.local.Kernel`."""

    def __init__(
        self,
        model: FlatModel,
        loss: nn.Module,
        metrics: tuple[Metric, ...],
        optimizer: Optimizer | None,
        loop: UserLoop | None,
        reports: tuple[str, ...],
    ) -> None:
        """Take over ``model``; nothing else may use its module."""
        self.model, self.loss, self.metrics = model, loss.to(model.device), metrics
        self.loop, self.reports = loop, reports
        layout = model.layout
        self.trainable = layout.span("trainable")
        self.buffers, self.local = layout.span("buffer"), layout.span("local")
        self.scratch = np.empty(self.trainable.stop, dtype=layout.dtype)
        self.start = torch.empty_like(model.flat)
        self.starts = [
            self.start[e.offset : e.end].view(e.shape)
            for e in layout.entries
            if e.role == "trainable"
        ]
        self.parameters = model.parameters
        stack = None if loop else stack_of(model.module, loss, model.parameters)
        self.stepping = Stepping(model, self.loss, stack, self.starts, optimizer)
        self.private = PrivateTraining(model, self.loss, self.starts, optimizer)
        self.blocks = None if loop else TorchBlocks(model, self.loss, stack)
        self.tried = dict[Any, tuple[int, bool]]()
        self.is_convolutional = any(isinstance(p, nn.Conv2d) for p in model.module.modules())

    def prepare(self, dataset: object, turn: Turn) -> Rows | Items:
        """Check ``dataset``, and that two rows of it fit the model, its loss and its metrics.

        Arrays of a kind that was tried before are not tried again.
        """
        dtype, device = self.model.flat.dtype, self.model.device
        rows = dataset.dataset if isinstance(dataset, OfPersons) else dataset
        is_arrays = isinstance(rows, tuple | list | TensorDataset)
        with (
            nullcontext() if is_arrays else self._chance(turn, "prepare", everywhere=True),
            userland(site=turn.client, phase="reading the data set"),
        ):
            data = prepare(dataset, self.loss, dtype, device, turn.client)
        kind = data.kind if isinstance(data, Rows) else None
        if kind is None or kind not in self.tried:
            with self._chance(turn, "prepare", everywhere=True):
                self.tried[kind] = self._try(data, turn), self._takes_channels_last(data)
        width, is_channels_last = self.tried[kind]
        if isinstance(self.loss, CLASSES) and isinstance(data, Rows):
            check_classes(data.targets, width, turn.client)
        return replace(data, is_channels_last=True) if is_channels_last else data

    def _chance(
        self, turn: Turn, purpose: str, *, everywhere: bool
    ) -> AbstractContextManager[None]:
        seed = seeds.key(turn.seed, turn.round, turn.client, purpose) >> 1
        return chance(seed, self.model.device, everywhere=everywhere or self.loop is not None)

    def _takes_channels_last(self, data: Rows | Items) -> bool:
        """Return whether to train on images in the memory format in which convolutions are fastest.

        It has other bits. A model that calls ``view`` on what a convolution returns cannot take it:
        a rule, not a measurement, so that it is the same everywhere.
        """
        if not self.is_convolutional:
            return False
        faster = replace(data, is_channels_last=True)
        inputs, _ = faster.batch(torch.arange(min(2, data.n), device=self.model.device))
        try:
            with torch.no_grad():
                self.model.module.train()(*inputs)
        except Exception:  # what is wrong with the model itself is told when it trains
            return False
        return True

    def _try(self, data: Rows | Items, turn: Turn) -> int:
        """Let model, loss and metrics take two rows; return how many columns come out."""
        inputs, targets = data.batch(torch.arange(min(2, data.n), device=self.model.device))
        module = self.model.module.eval()
        with torch.no_grad(), userland(site=turn.client, phase="the model on a first batch"):
            outputs = module(*inputs)
        shapes = f"with targets {tuple(targets.shape)} of {targets.dtype}"
        with fitting(f"{type(self.loss).__name__} {shapes}", outputs, turn.client):
            loss = self._loss(outputs, targets)
            if loss.numel() != 1:
                raise ValueError(f"the loss has shape {tuple(loss.shape)}, and must be one number")
        for metric in self.metrics:
            with fitting(f"the metric {metric.name} {shapes}", outputs, turn.client):
                metric.counts(*self._as_scores(outputs, targets))
        return outputs.shape[1] if isinstance(outputs, Tensor) and outputs.ndim > 1 else 1

    def _loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return self.loss(squeezed(outputs, targets), targets)

    def train(
        self, start: Vector, data: Rows | Items, work: Train, turn: Turn, local: Vector | None
    ) -> Trained:
        """Train from ``start``; see :meth:`hanse.train.local.Kernel.train`."""
        self._load(start, local)
        if work.correction is not None or self.loop is not None:
            self.start.copy_(self.model.flat)
        with (
            self._drawing(data, work, turn),
            userland(site=turn.client, round=turn.round, phase="training"),
        ):
            run = self._own_loop if self.loop is None else self._user_loop
            counts = (run if work.local.privacy is None else self.private.run)(data, work, turn)
            return self._trained(start, counts)

    def _drawing(self, data: Rows | Items, work: Train, turn: Turn) -> AbstractContextManager[None]:
        """Seed what the model may draw from in training. Where examples are hidden, from a private
        stream: else whoever knows the seed would know which rows dropout let through.
        """
        everywhere = isinstance(data, Items)
        if work.local.privacy is not None:
            seed = int.from_bytes(turn.stream("dp-sgd model").bytes(8), "little") >> 1
            return chance(seed, self.model.device, everywhere=everywhere)
        draws = self.loop is not None or self.stepping.draws(data, work)
        return self._chance(turn, "torch", everywhere=everywhere) if draws else nullcontext()

    def _load(self, vector: Vector, local: Vector | None) -> None:
        self.model.load(vector)
        if local is not None:
            self.model.flat[self.local].copy_(from_numpy(local))

    def _own_loop(self, data: Rows | Items, work: Train, turn: Turn) -> dict[str, int]:
        local, n = work.local, data.n
        size, steps, seen, total = local.batch_size or n, 0, 0, 0.0
        enough = steps_of(n, local)
        step = self.stepping.begin(data, work)
        for epoch in range(-(-enough // -(-n // size))):
            order = seeds.permutation(seeds.key(turn.seed, turn.round, turn.client, epoch), n)
            numbers = torch.from_numpy(order).to(self.model.device)
            for index in numbers.split(size)[: enough - steps]:
                total += step(*data.batch(index))
                steps, seen = steps + 1, seen + index.shape[0]
        return {"examples": n, "steps": steps, "seen": seen, "loss": fixed(total)}

    def _user_loop(self, data: Rows | Items, work: Train, turn: Turn) -> dict[str, int]:
        seed = seeds.key(turn.seed, turn.round, turn.client, "loop") >> 1
        generator = torch.Generator().manual_seed(seed)
        loop = Loop(
            *(work.local, turn.round, turn.client, seed, self.model.device, generator),
            *(work.correction, self.starts, self.parameters),
        )
        dataset = data.dataset if isinstance(data, Items) else data.dataset()
        assert self.loop is not None
        returned = self.loop(self.model.training(), dataset, loop)
        if work.correction is not None and not loop.was_corrected:
            raise TaskError(
                "the strategy corrects gradients, and the loop never called ctx.correct()",
                hint="call ctx.correct() between loss.backward() and optimizer.step()",
            )
        return counts_of(returned, self.reports)

    def _trained(self, start: Vector, counts: dict[str, int]) -> Trained:
        after = self.model.read().numpy(force=True)
        update = np.subtract(after[self.trainable], start[self.trainable], out=self.scratch)
        buffers = after[self.buffers]
        return Trained(
            update,
            counts,
            to_moments(self.model.layout, buffers) if buffers.size else None,
            after[self.local].copy() if self.local.stop > self.local.start else None,
        )

    def evaluate(
        self, vector: Vector, data: Rows | Items, turn: Turn, local: Vector | None
    ) -> Mapping[str, int | Integers]:
        """Return counts; see :meth:`hanse.train.local.Kernel.evaluate`."""
        self._load(vector, local)
        module, total = self.model.module.eval(), 0.0
        counts = {m.name: np.zeros(m.size, dtype=np.int64) for m in self.metrics}
        with (
            torch.no_grad(),
            self._chance(turn, "evaluate", everywhere=isinstance(data, Items)),
            userland(site=turn.client, round=turn.round, phase="evaluation"),
        ):
            for index in torch.arange(data.n, device=self.model.device).split(EVALUATION_BATCH):
                inputs, targets = data.batch(index)
                outputs = module(*inputs)
                total += float(self._loss(outputs, targets)) * len(index)
                for name, fresh in self._measure(outputs, targets):
                    counts[name] = np.minimum(counts[name] + fresh, BEYOND)
        return {"examples": data.n, "loss": fixed(total), **counts}

    def vector(self) -> Vector:
        """Return a copy of the whole flat model as the last call left it."""
        return self.model.read().numpy(force=True).copy()

    def pool(self, parts: Sequence[Rows | Items]) -> Rows | Items:
        """Return the union of several data sets, in their order."""
        return union(parts)

    def _measure(self, outputs: Any, targets: Tensor) -> Iterator[tuple[str, Integers]]:
        if self.metrics:
            scores, wanted = self._as_scores(outputs, targets)
            for metric in self.metrics:
                yield metric.name, metric.counts(scores, wanted)

    def _as_scores(self, outputs: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return both as metrics expect them: in float64, and logits instead of probabilities."""
        if isinstance(self.loss, PROBABILITIES):
            outputs = torch.logit(outputs.double(), eps=1e-12)
        return outputs.double().numpy(force=True), targets.double().numpy(force=True)
