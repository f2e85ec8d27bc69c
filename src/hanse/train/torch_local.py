"""Local training in PyTorch: the one loop that simulator and site share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from hanse.core import seeds
from hanse.core.buffers import to_moments
from hanse.core.layout import Vector
from hanse.core.metrics import Metric, fixed
from hanse.core.step import Integers
from hanse.core.work import LocalTraining, Proximal, Train
from hanse.errors import TaskError
from hanse.train.local import Trained, Turn
from hanse.train.torch_data import PROBABILITIES, Items, Rows, prepare
from hanse.train.torch_model import FlatModel
from hanse.train.userland import userland

EVALUATION_BATCH = 1024
Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@dataclass
class Loop:
    """What a training loop of the user's own is given beside model and data set.

    ``local``: the run's [local] settings; ``round``, ``client``: whose turn it is; ``seed``: an
    integer of this turn; ``generator``: a torch generator seeded with it, for shuffling.
    """

    local: LocalTraining
    round: int
    client: str
    seed: int
    device: torch.device
    generator: torch.Generator
    correction: Proximal | None
    starts: list[Tensor]
    parameters: list[nn.Parameter]
    corrected: bool = False

    def correct(self) -> None:
        """Add the strategy's gradient correction: call it between backward() and step().

        Without a correction (FedAvg) it does nothing, so that a loop can always call it.
        """
        self.corrected = True
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.correction is not None:
            pairs = [(p, s) for p, s in zip(self.parameters, self.starts, strict=True) if p.grad is not None]
            apply_correction(grads, [p for p, _ in pairs], [s for _, s in pairs], self.correction)


UserLoop = Callable[[nn.Module, object, Loop], "int | tuple[int, Mapping[str, float]]"]


def apply_correction(
    grads: list[Tensor], params: list[nn.Parameter] | list[Tensor], starts: list[Tensor], by: Proximal
) -> None:
    """Add μ·(w − w_start) to the gradients, in place (arXiv:1812.06127, eq. 2)."""
    with torch.no_grad():
        away = torch._foreach_sub(params, starts)  # pyright: ignore
        torch._foreach_add_(grads, away, alpha=by.mu)  # pyright: ignore


@dataclass
class Sgd:
    """PyTorch's SGD without an optimiser object: w ← w − lr·v, v ← momentum·v + g + decay·w."""

    local: LocalTraining
    velocity: list[Tensor] = field(default_factory=list[Tensor])

    def step(self, params: list[nn.Parameter], grads: list[Tensor]) -> None:
        """Take one step; ``grads`` are consumed."""
        local = self.local
        if local.weight_decay:
            torch._foreach_add_(grads, params, alpha=local.weight_decay)  # pyright: ignore
        if local.momentum:
            if self.velocity:
                torch._foreach_mul_(self.velocity, local.momentum)  # pyright: ignore
                torch._foreach_add_(self.velocity, grads)  # pyright: ignore
            else:
                self.velocity = grads
            grads = self.velocity
        torch._foreach_add_(params, grads, alpha=-local.lr)  # pyright: ignore


@dataclass
class Boxed:
    """Any ``torch.optim`` optimiser behind the same call."""

    optimizer: torch.optim.Optimizer

    def step(self, params: list[nn.Parameter], grads: list[Tensor]) -> None:
        """Take one step."""
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        self.optimizer.step()


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
        self.optimizer, self.loop, self.reports = optimizer, loop, reports
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
        by_id = {id(tensor): index for index, (tensor, _) in enumerate(model.views)}
        order = sorted(range(len(model.parameters)), key=lambda i: by_id[id(model.parameters[i])])
        self.parameters = [model.parameters[i] for i in order]

    def prepare(self, dataset: object, turn: Turn) -> Rows | Items:
        """Check ``dataset``, and that two rows of it fit the model and its loss."""
        with userland(site=turn.client, phase="reading the data set"):
            data = prepare(dataset, self.loss, self.model.flat.dtype, self.model.device, turn.client)
        self._try(data, turn)
        return data

    def _try(self, data: Rows | Items, turn: Turn) -> None:
        inputs, targets = data.batch(torch.arange(min(2, data.n), device=self.model.device))
        module = self.model.module.eval()
        with torch.no_grad(), userland(site=turn.client, phase="the model on a first batch"):
            outputs = module(*inputs)
        try:
            with torch.no_grad():
                self._loss(outputs, targets)
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise TaskError(
                f"{turn.client}: model output {shape} does not fit {type(self.loss).__name__} "
                f"with targets {tuple(targets.shape)} of {targets.dtype}: "
                f"{str(error).splitlines()[0]}",
                hint="change the model's last layer or the targets that data(site) returns",
                site=turn.client,
                phase="the loss on a first batch",
            ) from error

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.ndim == targets.ndim + 1 and outputs.shape[-1] == 1:
            outputs = outputs.squeeze(-1)
        return self.loss(outputs, targets)

    def train(
        self, start: Vector, data: Rows | Items, work: Train, turn: Turn, local: Vector | None
    ) -> Trained:
        """Train from ``start``; see :meth:`hanse.train.local.Kernel.train`."""
        self._load(start, local)
        if work.correction is not None or self.loop is not None:
            self.start.copy_(self.model.flat)
        torch.manual_seed(seeds.key(turn.seed, turn.round, turn.client, "torch") >> 1)
        with userland(site=turn.client, round=turn.round, phase="training"):
            run = self._own_loop if self.loop is None else self._user_loop
            counts = run(data, work, turn)
        return self._trained(start, counts)

    def _load(self, vector: Vector, local: Vector | None) -> None:
        self.model.load(vector)
        if local is not None:
            self.model.flat[self.local].copy_(torch.from_numpy(local))

    def _own_loop(self, data: Rows | Items, work: Train, turn: Turn) -> dict[str, int]:
        local, module, params = work.local, self.model.training(), self.parameters
        optimizer = self._optimizer(local)
        size, steps, seen, total = local.batch_size or data.n, 0, 0, 0.0
        enough = local.steps or local.epochs * -(-data.n // size)
        device = self.model.device
        for epoch in range(-(-enough // -(-data.n // size))):
            order = seeds.permutation(seeds.key(turn.seed, turn.round, turn.client, epoch), data.n)
            for index in torch.from_numpy(order).to(device).split(size)[: enough - steps]:
                inputs, targets = data.batch(index)
                with torch.autocast(device.type, torch.bfloat16, enabled=local.amp):
                    loss = self._loss(module(*inputs), targets)
                grads = list(torch.autograd.grad(loss, params, materialize_grads=True))
                if work.correction is not None:
                    apply_correction(grads, params, self.starts, work.correction)
                with torch.no_grad():
                    optimizer.step(params, grads)
                steps, seen = steps + 1, seen + len(index)
                total += float(loss.detach()) * len(index)
        return {"examples": data.n, "steps": steps, "seen": seen, "loss": fixed(total)}

    def _optimizer(self, local: LocalTraining) -> Sgd | Boxed:
        if local.optimizer == "sgd":
            return Sgd(local)
        if local.optimizer == "task":
            assert self.optimizer is not None
            return Boxed(self.optimizer(self.parameters))
        known = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[local.optimizer]
        return Boxed(
            known(
                self.parameters,
                lr=local.lr,
                betas=local.betas,
                eps=local.eps,
                weight_decay=local.weight_decay,
            )
        )

    def _user_loop(self, data: Rows | Items, work: Train, turn: Turn) -> dict[str, int]:
        seed = seeds.key(turn.seed, turn.round, turn.client, "loop") >> 1
        generator = torch.Generator().manual_seed(seed)
        loop = Loop(
            *(work.local, turn.round, turn.client, seed, self.model.device, generator),
            *(work.correction, self.starts, self.parameters),
        )
        dataset = data.dataset if isinstance(data, Items) else _as_dataset(data)
        assert self.loop is not None
        returned = self.loop(self.model.training(), dataset, loop)
        examples, reports = returned if isinstance(returned, tuple) else (returned, {})
        if work.correction is not None and not loop.corrected:
            raise TaskError(
                "the strategy corrects gradients, and the loop never called ctx.correct()",
                hint="call ctx.correct() between loss.backward() and optimizer.step()",
            )
        return self._reported(examples, reports)

    def _reported(self, examples: object, reports: Mapping[str, float]) -> dict[str, int]:
        if not isinstance(examples, int) or isinstance(examples, bool) or examples < 0:
            raise TaskError(
                f"the loop returned {examples!r} as its number of examples",
                hint="return the number of examples, or (number, {'loss': mean loss})",
            )
        unknown = sorted(set(reports) - {"loss", *self.reports})
        if unknown:
            raise TaskError(
                f"the loop reports {unknown[0]!r}, which it did not declare",
                hint=f'declare it: @hanse.train.torch.loop(reports=("{unknown[0]}",))',
            )
        sums = {name: fixed(float(reports.get(name, 0.0)) * examples) for name in self.reports}
        loss = fixed(float(reports.get("loss", 0.0)) * examples)
        return {"examples": examples, "steps": 0, "seen": examples, "loss": loss, **sums}

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
        with torch.no_grad(), userland(site=turn.client, round=turn.round, phase="evaluation"):
            for index in torch.arange(data.n, device=self.model.device).split(EVALUATION_BATCH):
                inputs, targets = data.batch(index)
                outputs = module(*inputs)
                total += float(self._loss(outputs, targets)) * len(index)
                seen, wanted = self._as_scores(outputs), targets.double().numpy(force=True)
                for metric in self.metrics:
                    counts[metric.name] += metric.counts(seen, wanted)
        return {"examples": data.n, "loss": fixed(total), **counts}

    def vector(self) -> Vector:
        """Return a copy of the whole flat model as the last call left it."""
        return self.model.read().numpy(force=True).copy()

    def pool(self, parts: Sequence[Rows | Items]) -> Rows | Items:
        """Return the union of several data sets, in their order."""
        rows = [part for part in parts if isinstance(part, Rows)]
        if len(rows) == len(parts):
            inputs = zip(*(part.inputs for part in rows), strict=True)
            targets = torch.cat([part.targets for part in rows])
            return Rows(tuple(torch.cat(columns) for columns in inputs), targets)
        sets = [p.dataset if isinstance(p, Items) else _as_dataset(p) for p in parts]
        first = next(part for part in parts if isinstance(part, Items))
        return replace(first, dataset=torch.utils.data.ConcatDataset(sets), site="pooled")

    def _as_scores(self, outputs: Tensor) -> np.ndarray:
        """Return outputs as float64 scores; probabilities become logits, which metrics expect."""
        if isinstance(self.loss, PROBABILITIES):
            outputs = torch.logit(outputs.double(), eps=1e-12)
        return outputs.double().numpy(force=True)


def _as_dataset(data: Rows) -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(*data.inputs, data.targets)
