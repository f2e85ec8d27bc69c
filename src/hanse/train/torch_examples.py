"""Gradients of single examples, layer by layer, from what went into it and what came back.

Of a layer with input a and output z, ∂loss/∂z = g gives each example's gradient by the layer's
parameters, and one backward pass gives g for all examples at once. Of a linear layer on vectors it
is the outer product g·aᵀ, whose norm is |g|·|a| (Goodfellow, arXiv:1510.01799) and whose clipped
sum is one product of matrices: it is never written out. Of other layers it is written out, and the
clipped sum is a weighted sum of it, with no second backward pass (book-keeping, Bu et al.,
arXiv:2210.00038).

Where a layer is applied at several places of an example, its norm could be had from two Gram
matrices without writing the gradient out (Li et al., arXiv:2110.05679). That subtracts large
numbers from each other, so that the norm found may be far below the true one, and the clip would
let more through than it says. Written out, the norm is that of what is summed.
"""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Given = tuple[Tensor, ...]
Wanted = Sequence[bool]
FAR = 2.0**80
FEW = 4
"""Channels below which images are not copied channels last."""


class Gradients(Protocol):
    """The gradients of B examples by the parameters of one layer, written out or not."""

    def norms(self) -> Tensor:
        """Return the L2 norm of each, [B], in float64; not finite where a number is not."""
        ...

    def total(self, factors: Tensor) -> list[Tensor]:
        """Return the sum over examples times ``factors`` [B], by parameter.

        An example whose factor is 0 adds nothing, whatever its numbers.
        """
        ...


@dataclass
class Outer:
    """Of a linear layer on vectors: ``inputs`` [B, I], ``grads`` [B, O] by its outputs."""

    inputs: Tensor
    grads: Tensor
    wanted: Wanted

    def norms(self) -> Tensor:
        """Return √(|a|²·|g|² + |g|²), as far as weight and bias are wanted.

        Infinite beyond |a| = 2^80: what is left of g would be too small for float32, whose
        rounding of it, times a, is more than the room below the clip.
        """
        grad = _lengths(self.grads)
        both = torch.zeros_like(grad)
        if self.wanted[0]:
            inputs = _lengths(self.inputs)
            both = grad * inputs.masked_fill(inputs > FAR, torch.inf)
        return torch.hypot(both, grad) if self.wanted[1] else both

    def total(self, factors: Tensor) -> list[Tensor]:
        """Return the clipped sums of weight [O, I] and bias [O]."""
        out = factors == 0
        inputs, grads = self.inputs, self.grads
        if bool(out.any()):
            inputs, grads = (_without(part, out) for part in (inputs, grads))
        scaled = grads * factors.to(grads.dtype).unsqueeze(1)
        found: list[Tensor] = [scaled.T @ inputs] if self.wanted[0] else []
        return [*found, scaled.sum(0)] if self.wanted[1] else found


@dataclass
class Written:
    """Written out: of each parameter [B, …]."""

    each: list[Tensor]

    def norms(self) -> Tensor:
        """Return the norm of all of an example's numbers."""
        lengths = [torch.linalg.vector_norm(part.flatten(1), dim=1).double() for part in self.each]
        return torch.linalg.vector_norm(torch.stack(lengths), dim=0)

    def total(self, factors: Tensor) -> list[Tensor]:
        """Return the clipped sum by parameter."""
        out, found = factors == 0, list[Tensor]()
        is_any = bool(out.any())
        for part in self.each:
            kept = _without(part, out) if is_any else part
            summed = factors.to(kept.dtype) @ kept.flatten(1)
            found.append(summed.view(part.shape[1:]))
        return found


class Turned(Written):
    """Written out, the first of a convolution with its channels last: [B, out, kernel, …, in]."""

    def total(self, factors: Tensor) -> list[Tensor]:
        """Return the clipped sum by parameter, in the parameters' shape."""
        weight, *rest = Written.total(self, factors)
        return [weight.movedim(-1, 1), *rest]


@dataclass
class Looked:
    """Of an embedding: the rows that its examples looked up, those of one example added up.

    ``rows`` [K, D], of ``examples`` [K] and of the table's ``entries`` [K].
    """

    rows: Tensor
    examples: Tensor
    entries: Tensor
    count: int
    shape: torch.Size

    def norms(self) -> Tensor:
        """Return the norm of an example's rows."""
        squares = _lengths(self.rows).square()
        return squares.new_zeros(self.count).index_add_(0, self.examples, squares).sqrt()

    def total(self, factors: Tensor) -> list[Tensor]:
        """Return the clipped sum, as large as the table."""
        of_rows = factors.to(self.rows.dtype)[self.examples]
        rows = _without(self.rows, of_rows == 0) * of_rows.unsqueeze(1)
        return [rows.new_zeros(self.shape).index_add_(0, self.entries, rows)]


def _lengths(part: Tensor) -> Tensor:
    """Return the norm of each row in float64: squares neither overflow nor vanish in it."""
    return torch.linalg.vector_norm(part.double(), dim=1)


def _without(part: Tensor, out: Tensor) -> Tensor:
    """Return ``part`` with zeros for the examples that are left out: 0·NaN is no zero."""
    return part.masked_fill(out.view(-1, *[1] * (part.ndim - 1)), 0.0)


def _linear(layer: Any, given: Given, grads: Tensor, wanted: Wanted) -> Gradients:
    (inputs,) = given
    if inputs.ndim == 2:
        return Outer(inputs, grads, wanted)
    inputs, grads = inputs.flatten(1, -2), grads.flatten(1, -2)
    found: list[Tensor] = [torch.bmm(grads.mT, inputs)] if wanted[0] else []
    return Written([*found, grads.sum(1)] if wanted[1] else found)


def _convolution(layer: Any, given: Given, grads: Tensor, wanted: Wanted) -> Gradients:
    """Of a convolution: at each place, what its kernel saw times what came back.

    Laid out as the inputs are in memory: copying what the kernels saw takes most of the time.
    """
    (inputs,), groups = given, layer.groups
    bias = [grads.flatten(2).sum(2)] if wanted[1] else []
    if not wanted[0]:
        return Written(bias)
    seen = _seen(layer, inputs)
    b, places = len(inputs), seen.shape[2] * seen.shape[3]
    is_last = inputs.ndim == 4 and inputs.is_contiguous(memory_format=torch.channels_last)
    if is_last and groups == 1 and inputs.shape[1] >= FEW:
        rows = seen.permute(0, 2, 3, 4, 5, 1).reshape(b, places, -1)
        back = grads.permute(0, 2, 3, 1).reshape(b, places, -1)
        each = torch.bmm(back.mT, rows).view(b, -1, *layer.kernel_size, inputs.shape[1])
        return Turned([each, *bias])
    rows = seen.permute(0, 1, 4, 5, 2, 3).reshape(b * groups, -1, places)
    each = torch.bmm(grads.reshape(b * groups, -1, places), rows.mT)
    return Written([each.view(b, *layer.weight.shape), *bias])


def _seen(layer: Any, inputs: Tensor) -> Tensor:
    """Return a view of what the kernel sees: [B, channels, height, width, kernel, kernel] with the
    height and width of the outputs; a height of 1 where there is one dimension.
    """
    before, after = _padding(layer)
    size, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    if any((*before, *after)):
        sides = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
        inputs = F.pad(inputs, sides)
    if len(size) == 1:
        inputs = inputs.unsqueeze(2)
        size, stride, dilation = (1, *size), (1, *stride), (1, *dilation)
    for axis in (0, 1):
        width = dilation[axis] * (size[axis] - 1) + 1
        inputs = inputs.unfold(2 + axis, width, stride[axis])[..., :: dilation[axis]]
    return inputs


def _padding(layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many zeros a convolution puts before and after, by dimension."""
    if layer.padding == "same":
        whole = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return tuple(n // 2 for n in whole), tuple(n - n // 2 for n in whole)
    sides = (0,) * len(layer.kernel_size) if layer.padding == "valid" else tuple(layer.padding)
    return sides, sides


def _embedding(layer: Any, given: Given, grads: Tensor, wanted: Wanted) -> Gradients:
    (numbers,) = given
    count, entries = len(numbers), layer.num_embeddings
    places = numbers.reshape(count, -1)
    rows = grads.reshape(-1, grads.shape[-1])
    if layer.padding_idx is not None:
        rows = rows.masked_fill((places == layer.padding_idx).view(-1, 1), 0.0)
    own = torch.arange(count, device=places.device).unsqueeze(1) * entries + places
    found, inverse = torch.unique(own, return_inverse=True)
    summed = rows.new_zeros((len(found), rows.shape[1])).index_add_(0, inverse.flatten(), rows)
    return Looked(summed, found // entries, found % entries, count, layer.weight.shape)


def _by_place(normal: Tensor, grads: Tensor, wanted: Wanted, kept: int) -> Gradients:
    """Of a layer γ·x + β at each place: sums over all dimensions but the first and the last
    ``kept``.
    """
    each = [grads * normal if wanted[0] else None, grads if wanted[1] else None]
    over = tuple(range(1, grads.ndim - kept))
    return Written([p.sum(over) if over else p for p in each if p is not None])


def _layer_norm(layer: Any, given: Given, grads: Tensor, wanted: Wanted) -> Gradients:
    shape = layer.normalized_shape
    normal = F.layer_norm(given[0], shape, None, None, layer.eps)
    return _by_place(normal, grads, wanted, len(shape))


def _rms_norm(layer: Any, given: Given, grads: Tensor, wanted: Wanted) -> Gradients:
    shape = layer.normalized_shape
    return _by_place(F.rms_norm(given[0], shape, None, layer.eps), grads, wanted, len(shape))


def _group_norm(layer: Any, given: Given, grads: Tensor, wanted: Wanted) -> Gradients:
    normal = F.group_norm(given[0], layer.num_groups, None, None, layer.eps)
    return _by_place(normal.transpose(1, -1), grads.transpose(1, -1), wanted, 1)


def _instance_norm(layer: Any, given: Given, grads: Tensor, wanted: Wanted) -> Gradients:
    normal = F.instance_norm(given[0], eps=layer.eps)
    return _by_place(normal.transpose(1, -1), grads.transpose(1, -1), wanted, 1)


Rule = Callable[[Any, Given, Tensor, Wanted], Gradients]
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.InstanceNorm1d: _instance_norm,
    nn.InstanceNorm2d: _instance_norm,
}
"""What has its gradients written here: exactly these types, no subclass."""


def is_known(layer: nn.Module) -> bool:
    """Return whether a rule gives the gradients of ``layer``, with its settings."""
    if type(layer) is nn.LSTM:
        return layer.proj_size == 0
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    if type(layer) not in RULES or not own <= {"weight", "bias"}:
        return False
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.padding_mode == "zeros"
    if isinstance(layer, nn.Embedding):
        return not layer.scale_grad_by_freq
    return not getattr(layer, "track_running_stats", False)
