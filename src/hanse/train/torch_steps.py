"""One optimiser step on lists of tensors, and the gradient correction that may come before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hanse.core.work import LocalTraining, Proximal

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Tensors = Sequence[Tensor]

# Arithmetic on whole lists of tensors: private in torch's Python, public in its documentation.
_lists: Any = torch
_add, _add_, _mul_ = _lists._foreach_add, _lists._foreach_add_, _lists._foreach_mul_
_sub = _lists._foreach_sub


def corrected(grads: Tensors, params: Tensors, starts: Tensors, by: Proximal) -> Tensors:
    """Return the gradients with μ·(w − w_start) added (arXiv:1812.06127, eq. 2)."""
    with torch.no_grad():
        return _add(grads, _sub(params, starts), alpha=by.mu)


@dataclass
class Sgd:
    """PyTorch's SGD without an optimiser object: w ← w − lr·v, v ← momentum·v + g + decay·w."""

    local: LocalTraining
    velocity: Tensors = field(default_factory=list[Tensor])

    def step(self, params: Tensors, grads: Tensors) -> None:
        """Take one step. ``grads`` stay as they are: autograd may give one tensor twice."""
        local = self.local
        if local.weight_decay:
            grads = _add(grads, params, alpha=local.weight_decay)
        if local.momentum:
            if self.velocity:
                _mul_(self.velocity, local.momentum)
                _add_(self.velocity, grads)
            else:
                self.velocity = [grad.clone() for grad in grads]
            grads = self.velocity
        _add_(params, grads, alpha=-local.lr)


@dataclass
class Boxed:
    """Any ``torch.optim`` optimiser behind the same call."""

    optimizer: torch.optim.Optimizer

    def step(self, params: Tensors, grads: Tensors) -> None:
        """Take one step."""
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        self.optimizer.step()


def optimizer_of(
    local: LocalTraining, params: list[nn.Parameter], own: Optimizer | None
) -> Sgd | Boxed:
    """Return a new optimiser as ``local`` says; ``own`` is what the task brings."""
    if local.optimizer == "sgd":
        return Sgd(local)
    if local.optimizer == "task":
        assert own is not None
        return Boxed(own(params))
    known = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[local.optimizer]
    decay, eps = local.weight_decay, local.eps
    return Boxed(known(params, lr=local.lr, betas=local.betas, eps=eps, weight_decay=decay))
