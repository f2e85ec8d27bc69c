"""Many clients at once: parameters, inputs and gradients with a leading axis of clients.

What a client trains does not depend on its place in the block, nor on how many others are in it,
as long as it is not alone: a lone client is trained beside a copy of itself.
"""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from hanse.core.layout import Vector
from hanse.core.metrics import fixed_many
from hanse.core.work import Train, seen_of, steps_of
from hanse.train.local import TrainedBlock, Turns
from hanse.train.torch_batches import counting, filled, schedule_of, taken, unit_of, width_of
from hanse.train.torch_data import Items, Rows
from hanse.train.torch_losses import by_row
from hanse.train.torch_model import FlatModel
from hanse.train.torch_stack import Give, Stack
from hanse.train.torch_stepper import Stepper
from hanse.train.userland import userland

MOST = 128
BY_HAND, MAPPED = 2**24, 2**23
"""Bytes of parameters in a block of up to MOST clients: more do not stay in the cache."""
BATCHES, ROWS = 2**26, 2**22
"""Bytes of inputs in a step of a block, and rows in all of its steps: more take too much memory."""
UNFIT: dict[str, tuple[type[nn.Module], ...]] = {
    "recurrent layers": (nn.RNNBase, nn.RNNCellBase),
    "batch normalisation, which mixes the rows of a batch": (_BatchNorm,),
}

Tensors = Sequence[Tensor]
RowLoss = Callable[[Any, Tensor], Tensor]


class Mapped:
    """Gradients of any module and loss, for many clients at once, by ``torch.func.vmap``."""

    def __init__(self, module: nn.Module, names: Sequence[str], rows: RowLoss) -> None:
        """``names``: of the trainable parameters, in their order."""

        def weighted(params: Tensors, x: Any, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
            outputs = functional_call(module, dict(zip(names, params, strict=True)), x)
            losses = rows(outputs, y)
            return (losses * share).sum(), losses.detach()

        self.gradients = vmap(grad(weighted, has_aux=True))

    def __call__(
        self, params: Tensors, inputs: Tensors, targets: Tensor, share: Tensor, give: Give
    ) -> Tensor:
        """Give each parameter's gradient [K, …]; return the losses of the rows [K, B]."""
        found, losses = self.gradients(tuple(params), tuple(inputs), targets, share)
        for place, gradient in enumerate(found):
            give(place, gradient, None)
        return losses


class TorchBlocks:
    """Trains blocks of clients of one flat model. See :class:`hanse.train.local.Blocks`."""

    def __init__(self, model: FlatModel, loss: nn.Module, stack: Stack | None) -> None:
        """Share ``model`` with the kernel that trains one client at a time."""
        self.model, self.loss, self.stack = model, loss, stack
        trainable = [e for e in model.layout.entries if e.role == "trainable"]
        self.spans = [slice(e.offset, e.end) for e in trainable]
        self.names = [e.name for e in trainable]
        self.size = model.layout.span("trainable").stop
        self.room = model.flat.new_zeros((0, self.size))

    def unfit(self, work: Train) -> str:
        """Return why clients of this model cannot be trained many at once; empty if they can."""
        loss, local = self.loss, work.local
        parts, layout = [*self.model.module.modules()], self.model.layout
        if local.optimizer == "task":
            return 'optimizer = "task" steps one client at a time'
        if local.amp:
            return "amp is on"
        if local.privacy is not None:
            return "[local.privacy] clips and noises within each client"
        if by_row(loss) is None:
            return f"{type(loss).__name__} is not known to be a mean over rows"
        if any(isinstance(part, _DropoutNd) and part.p > 0 for part in parts):
            return "the model has dropout, whose draws are each client's own"
        for name, kinds in UNFIT.items():
            if any(isinstance(part, kinds) for part in parts):
                return f"the model has {name}"
        if any(entry.role in ("buffer", "local") for entry in layout.entries):
            return "the model has buffers that training changes"
        if any(getattr(part, "sparse", False) for part in parts):
            return "the model has sparse gradients"
        return ""

    def most(self, data: Rows, work: Train) -> int:
        """Return how many clients make a block of which this one is the largest."""
        room = BY_HAND if self.stack is not None else MAPPED
        width = width_of(data.n, work.local)
        a_row = sum(part[0].numel() * part.element_size() for part in data.inputs)
        limits = (
            room // (self.size * self.model.flat.element_size()),
            BATCHES // (width * a_row),
            ROWS // (width * steps_of(data.n, work.local)),
        )
        return max(2, min(MOST, *limits))

    def group(self, data: Rows | Items, work: Train) -> Hashable | None:
        """Return what the clients of a block have in common; None for one that is in none."""
        if isinstance(data, Items):
            return None
        return (width_of(data.n, work.local), *data.kind)

    @cached_property
    def starts(self) -> list[Tensor]:
        """What a round starts from, in the shapes of the parameters: views of the flat model."""
        shapes = [p.shape for p in self.model.parameters]
        pairs = zip(self.spans, shapes, strict=True)
        return [self.model.flat[span].view(shape) for span, shape in pairs]

    @cached_property
    def mapped(self) -> Mapped:
        """The gradients of any model."""
        rows = by_row(self.loss)
        assert rows is not None, "unfit() says so"
        return Mapped(self.model.module, self.names, rows)

    def train(self, start: Vector, data: Sequence[Rows], work: Train, turns: Turns) -> TrainedBlock:
        """Train clients of one :meth:`group`, most steps first, all from ``start``."""
        self.model.load(start)
        with userland(round=turns.round, phase="training many clients at once"), torch.no_grad():
            self.model.training()
            params, losses = self._trained(data, work, turns)
        updates = self._room(len(data))
        for span, begin, after in zip(self.spans, self.starts, params, strict=True):
            torch.sub(after.flatten(1), begin.flatten(), out=updates[:, span])
        n = np.array([one.n for one in data])
        counts = {
            "examples": n,
            "steps": steps_of(n, work.local),
            "seen": seen_of(n, work.local),
            "loss": fixed_many(losses.numpy(force=True)),
        }
        return TrainedBlock(updates.numpy(force=True), counts)

    def _trained(
        self, data: Sequence[Rows], work: Train, turns: Turns
    ) -> tuple[list[Tensor], Tensor]:
        """Return the parameters, [K, …] each, and the sum of each client's losses."""
        count, stack = len(data), self.stack
        by_hand = stack is not None and stack.takes(data[0].inputs, data[0].targets)
        is_same = stack is not None and by_hand and stack.is_same_anywhere
        unit = 2 if is_same else unit_of(width_of(data[0].n, work.local))
        schedule = filled(schedule_of([one.n for one in data], work.local, turns, unit))
        data = [*data, *[data[0]] * (len(schedule.rows) - count)]
        params = [start.expand(len(data), *start.shape).clone() for start in self.starts]
        stepper = Stepper(work, params, self.starts)
        counts, shares = counting(schedule, params[0])
        total = torch.zeros(len(data), dtype=torch.float64, device=self.model.device)
        gradients = stack.gradients if stack is not None and by_hand else self.mapped
        moving = schedule.counts
        for step, (inputs, targets) in enumerate(taken(data, schedule)):
            live = targets.shape[0]
            computing, give = stepper.stepping(live, moving[step])
            losses = gradients(computing, inputs, targets, shares[:live, step], give)
            total[:live] += (losses * counts[:live, step]).sum(-1)
        return [p[:count] for p in params], total[:count]

    def _room(self, count: int) -> Tensor:
        """Return room for the updates of a block, its pads 0."""
        if self.room.shape[0] < count:
            self.room = self.model.flat.new_zeros((count, self.size))
        return self.room[:count]
