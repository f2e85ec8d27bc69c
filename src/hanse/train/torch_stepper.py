"""An optimiser's step for many clients at once."""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hanse.core.work import Train
from hanse.train.torch_stack import Give
from hanse.train.torch_steps import is_plain_sgd

Tensors = Sequence[Tensor]


@dataclass
class Stepper:
    """The optimiser's step on stacked parameters: [K, …] each, of which the first move.

    SGD as PyTorch defines it, Adam (arXiv:1412.6980, algorithm 1), AdamW (arXiv:1711.05101,
    algorithm 2); ``starts``: what the round started from, for the correction.
    """

    work: Train
    params: Tensors
    starts: Tensors
    memory: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    steps: int = 0

    def __post_init__(self) -> None:
        """Make room for what the optimiser remembers."""
        self.local, self.correction = self.work.local, self.work.correction
        if self.local.optimizer != "sgd" or self.local.momentum:
            self.memory = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.params]
        self.is_plain = is_plain_sgd(self.work)

    def stepping(self, live: int, count: int) -> tuple[list[Tensor], Give]:
        """Begin a step: return the parameters of ``live`` clients that compute, and what moves
        those of the first ``count`` by their gradients. The others' gradients are 0.
        """
        self.steps += 1
        computing = [p[:live] for p in self.params]

        def subtract(place: int, left: Tensor, right: Tensor | None) -> None:
            if right is None:
                computing[place].add_(left, alpha=-self.local.lr)
            else:
                computing[place].baddbmm_(left, right, alpha=-self.local.lr)

        def move(place: int, left: Tensor, right: Tensor | None) -> None:
            grad = left if right is None else torch.bmm(left, right)
            self._move(computing[place][:count], grad[:count], place)

        return computing, subtract if self.is_plain else move

    def _move(self, p: Tensor, grad: Tensor, place: int) -> None:
        if self.correction is not None:
            grad = grad + (p - self.starts[place]) * self.correction.mu
        if self.local.optimizer == "sgd":
            self._sgd(p, grad, place)
        else:
            self._adam(p, grad, place)

    def _sgd(self, p: Tensor, grad: Tensor, place: int) -> None:
        if self.local.weight_decay:
            grad = grad.add(p, alpha=self.local.weight_decay)
        if self.local.momentum:
            grad = self.memory[place][0][: len(p)].mul_(self.local.momentum).add_(grad)
        p.add_(grad, alpha=-self.local.lr)

    def _adam(self, p: Tensor, grad: Tensor, place: int) -> None:
        local, (first, second) = self.local, self.memory[place]
        one, two = local.betas
        if local.optimizer == "adamw":
            p.mul_(1 - local.lr * local.weight_decay)
        elif local.weight_decay:
            grad = grad.add(p, alpha=local.weight_decay)
        mean = first[: len(p)].lerp_(grad, 1 - one)
        square = second[: len(p)].mul_(two).addcmul_(grad, grad, value=1 - two)
        root = square.sqrt().div_(math.sqrt(1 - two**self.steps)).add_(local.eps)
        p.addcdiv_(mean, root, value=-local.lr / (1 - one**self.steps))
