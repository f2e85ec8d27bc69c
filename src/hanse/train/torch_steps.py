"""One optimiser step on lists of tensors, and the gradient correction that may come before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hanse.core.work import LocalTraining, Proximal, Train

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Tensors = Sequence[Tensor]

# Arithmetic on whole lists of tensors: private in torch's Python, public in its documentation.
_lists: Any = torch
_add, _add_, _mul_ = _lists._foreach_add, _lists._foreach_add_, _lists._foreach_mul_
_sub = _lists._foreach_sub

_engine: Any = torch.autograd.Variable._execution_engine  # pyright: ignore[reportPrivateUsage]


def gradients(loss: Tensor, params: Tensors) -> Sequence[Tensor | None]:
    """Return the gradient of ``loss``, one number, by each parameter; None where there is none.

    That is ``torch.autograd.grad(loss, params, allow_unused=True)`` without its checks, which take
    a quarter of a small model's step.
    """
    seed = torch.ones_like(loss)
    return _engine.run_backward(
        (loss,), (seed,), False, False, tuple(params), True, accumulate_grad=False
    )


def is_plain_sgd(work: Train) -> bool:
    """Return whether a step is the gradient times the learning rate, and nothing else."""
    local = work.local
    pull = 0.0 if work.correction is None else work.correction.mu
    rest = local.momentum or local.weight_decay or pull
    return local.optimizer == "sgd" and not rest


def corrected(grads: Tensors, params: Tensors, starts: Tensors, by: Proximal) -> Tensors:
    """Return the gradients with μ·(w − w_start) added (arXiv:1812.06127, eq. 2)."""
    with torch.no_grad():
        return _add(grads, _sub(params, starts), alpha=by.mu)


def taking_part(
    grads: Sequence[Tensor | None], params: Tensors, starts: Tensors
) -> tuple[Tensors, Tensors, Tensors]:
    """Return the three without the parameters that have no gradient: nothing moves those.

    As in PyTorch, neither weight decay nor momentum does.
    """
    there = [index for index, grad in enumerate(grads) if grad is not None]
    if len(there) == len(grads):
        return grads, params, starts  # pyright: ignore[reportReturnType] -- none is None
    found = [grad for grad in grads if grad is not None]
    return found, [params[index] for index in there], [starts[index] for index in there]


@dataclass
class Sgd:
    """PyTorch's SGD without an optimiser object: w ← w − lr·v, v ← momentum·v + g + decay·w."""

    local: LocalTraining
    velocity: dict[int, Tensor] = field(default_factory=dict[int, Tensor])

    def step(self, params: Tensors, grads: Tensors) -> None:
        """Take one step. ``grads`` stay as they are: autograd may give one tensor twice."""
        local = self.local
        if local.weight_decay:
            grads = _add(grads, params, alpha=local.weight_decay)
        if local.momentum:
            grads = self._velocities(params, grads)
        _add_(params, grads, alpha=-local.lr)

    def _velocities(self, params: Tensors, grads: Tensors) -> Tensors:
        """Return each parameter's velocity, moved on; the first one is its gradient."""
        known = [(self.velocity[id(p)], g) for p, g in zip(params, grads, strict=True)
                 if id(p) in self.velocity]  # fmt: skip
        if known:
            velocities, fresh = zip(*known, strict=True)
            _mul_(velocities, self.local.momentum)
            _add_(velocities, fresh)
        for p, g in zip(params, grads, strict=True):
            if id(p) not in self.velocity:
                self.velocity[id(p)] = g.clone()
        return [self.velocity[id(p)] for p in params]


@dataclass
class Boxed:
    """Any ``torch.optim`` optimiser behind the same call."""

    optimizer: torch.optim.Optimizer

    def step(self, params: Tensors, grads: Tensors) -> None:
        """Take one step."""
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        self.optimizer.step()
        for p in params:
            p.grad = None  # one that takes no part in the next step has none


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
