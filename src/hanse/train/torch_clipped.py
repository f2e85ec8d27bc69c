"""The sum of the clipped gradients of a batch's examples, in one of three ways.

By hooks (:mod:`hanse.train.torch_hooked`): one forward and one backward pass over the batch, and
the layers' own rules. By ``torch.func.vmap``: any model whose operations it maps. One
at a time: any model. The first is only right where each parameter is used once, by a layer with a
rule, and each layer has the examples as its first dimension. That is found from the graph of each
batch, and by trying it on a few rows; else the others are taken, in their order. They give the same
up to rounding.
"""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from hanse.train.torch_examples import Gradients, Written

Tensors = Sequence[Tensor]
RowLoss = Callable[[Any, Tensor], Tensor]
Sums = list[Tensor | None]
ROOM = 2.0**-16
"""Relative room below the clip, for the rounding of a norm and of what it scales."""
LEAST = 2.0**-100
"""Of a gradient of which less than this part is left, nothing is."""
WRITTEN = 2**28
"""Bytes of gradients that are written out at once: a larger batch is taken in parts."""


@dataclass
class Each:
    """The gradients of B examples, in parts: (gradients, the places of their parameters)."""

    parts: list[tuple[Gradients, list[int]]]
    count: int

    def norms(self) -> Tensor:
        """Return the L2 norm of each example's gradient by all parameters, [B] in float64."""
        if not self.parts:
            return torch.zeros(self.count, dtype=torch.float64)
        norms = torch.stack([gradients.norms() for gradients, _ in self.parts])
        return torch.linalg.vector_norm(norms, dim=0)

    def written(self) -> int:
        """Return how many bytes of gradients are written out."""
        written = [g.each for g, _ in self.parts if isinstance(g, Written)]
        return sum(part.numel() * part.element_size() for each in written for part in each)

    def clipped(self, clip: float | Tensor, into: Sums) -> None:
        """Add the clipped sum to ``into``, by parameter: min(1, clip/norm) times each. ``clip``:
        for all, or for each [B].

        A gradient that is not finite, or so long that its square is not, counts as zero; so does
        one of which less than 2^-100 would be left: float32 has no such factor to a part in ROOM.
        """
        norms = self.norms()
        factors = (clip * (1 - ROOM) / norms).clamp(max=1.0)
        factors = factors.masked_fill(~torch.isfinite(norms) | (factors < LEAST), 0.0)
        for gradients, places in self.parts:
            for place, summed in zip(places, gradients.total(factors), strict=True):
                before = into[place]
                into[place] = summed if before is None else before + summed


Way = Callable[[Tensors, Tensor], Each | None]
"""(inputs, targets) of a batch → the gradients of its examples; None where it cannot tell."""


@dataclass
class Mapped:
    """By ``torch.func.vmap`` over the gradient of one row, for any module that it takes."""

    module: nn.Module
    rows: RowLoss
    parameters: Tensors
    names: Sequence[str]

    def __call__(self, inputs: Tensors, targets: Tensor) -> Each:
        """Return each example's gradient, written out."""
        each = vmap(grad(self._loss), in_dims=(None, 0, 0), randomness="different")
        params = tuple(p.detach() for p in self.parameters)
        found = each(params, tuple(inputs), targets)
        return Each([(Written([*found]), [*range(len(found))])], len(targets))

    def _loss(self, params: Tensors, inputs: Tensors, target: Tensor) -> Tensor:
        row = tuple(part.unsqueeze(0) for part in inputs)
        named = dict(zip(self.names, params, strict=True))
        return self.rows(functional_call(self.module, named, row), target.unsqueeze(0)).sum()


@dataclass
class Alone:
    """One example at a time, by autograd."""

    module: nn.Module
    rows: RowLoss
    parameters: Tensors

    def __call__(self, inputs: Tensors, targets: Tensor) -> Each:
        """Return each example's gradient, written out."""
        each = [self._one(inputs, targets, k) for k in range(len(targets))]
        written = [torch.stack(column) for column in zip(*each, strict=True)]
        return Each([(Written(written), [*range(len(written))])], len(targets))

    def _one(self, inputs: Tensors, targets: Tensor, k: int) -> list[Tensor]:
        row = tuple(part[k : k + 1].clone() for part in inputs)
        loss = self.rows(self.module(*row), targets[k : k + 1]).sum()
        if not loss.requires_grad:
            return [torch.zeros_like(p) for p in self.parameters]
        grads: Any = torch.autograd.grad(loss, [*self.parameters], allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g
            for p, g in zip(self.parameters, grads, strict=True)
        ]


@dataclass
class Clipped:
    """The clipped sums of one model, by the first of ``ways`` that can; ``at_once`` examples."""

    ways: Sequence[Way]
    at_once: int

    def add(self, inputs: Tensors, targets: Tensor, clip: float | Tensor, into: Sums) -> None:
        """Add the clipped sum over a batch to ``into``, by parameter. ``clip``: for all, or for
        each [B].
        """
        for way in self.ways:
            each = way(inputs, targets)
            if each is not None:
                return each.clipped(clip, into)
        raise AssertionError("the last way can always")
