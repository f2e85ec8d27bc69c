"""A step of local training, one client at a time: by autograd, or as a stack has it written out."""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hanse.core.work import Train
from hanse.train.torch_data import Items, Rows
from hanse.train.torch_losses import squeezed
from hanse.train.torch_model import FlatModel
from hanse.train.torch_stack import Stack
from hanse.train.torch_steps import (
    Boxed,
    Optimizer,
    Sgd,
    Tensors,
    corrected,
    gradients,
    is_plain_sgd,
    optimizer_of,
    taking_part,
)

Step = Callable[[Tensors, Tensor], float]
"""Takes an optimiser step on a batch (inputs, targets); returns the sum of its losses."""


@dataclass(frozen=True)
class Stepping:
    """What a step needs. ``starts``: the parameters as the round began; ``own``: the optimiser that
    the task brings.
    """

    model: FlatModel
    loss: nn.Module
    stack: Stack | None
    starts: Tensors
    own: Optimizer | None

    def begin(self, data: Rows | Items, work: Train) -> Step:
        """Return what takes the steps of one client, with a new optimiser."""
        optimizer = optimizer_of(work.local, self.model.parameters, self.own)
        by_autograd = partial(self._by_autograd, work, optimizer)
        stack = None if work.local.amp else self.stack
        if stack is None:
            self.model.training()
            return by_autograd
        by_hand = partial(self._by_hand, stack, work, optimizer)
        if isinstance(data, Rows) and stack.takes(data.inputs, data.targets):
            return by_hand
        self.model.training()

        def step(inputs: Tensors, targets: Tensor) -> float:
            return (by_hand if stack.takes(inputs, targets) else by_autograd)(inputs, targets)

        return step

    def draws(self, data: Rows | Items, work: Train) -> bool:
        """Return whether somebody else's code trains, which may draw random numbers."""
        if self.stack is None or work.local.amp:
            return True
        return isinstance(data, Items) or not self.stack.takes(data.inputs, data.targets)

    def _by_autograd(
        self, work: Train, optimizer: Sgd | Boxed, inputs: Tensors, targets: Tensor
    ) -> float:
        local, device = work.local, self.model.device
        mixed = torch.autocast(device.type, torch.bfloat16) if local.amp else nullcontext()
        with mixed:
            loss = self.loss(squeezed(self.model.module(*inputs), targets), targets)
        found = gradients(loss, self.model.parameters)
        grads, moved, starts = taking_part(found, self.model.parameters, self.starts)
        if any(grad.is_sparse for grad in grads):
            grads = [grad.to_dense() for grad in grads]
        if work.correction is not None:
            grads = corrected(grads, moved, starts, work.correction)
        with torch.no_grad():
            optimizer.step(moved, grads)
        return loss.item() * targets.shape[0]

    def _by_hand(
        self, stack: Stack, work: Train, optimizer: Sgd | Boxed, inputs: Tensors, targets: Tensor
    ) -> float:
        params, lr = self.model.parameters, work.local.lr
        grads: list[Tensor] = [*params]
        is_plain = is_plain_sgd(work)

        def give(place: int, left: Tensor, right: Tensor | None) -> None:
            if not is_plain:
                grads[place] = left if right is None else torch.mm(left, right)
            elif right is None:
                params[place].add_(left, alpha=-lr)
            else:
                params[place].addmm_(left, right, alpha=-lr)

        with torch.no_grad():
            losses = stack.gradients(params, inputs, targets, 1 / targets.shape[0], give)
            if not is_plain:
                if work.correction is not None:
                    grads = [*corrected(grads, params, self.starts, work.correction)]
                optimizer.step(params, grads)
            return losses.sum().item()
