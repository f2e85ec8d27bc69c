"""Linear layers with pointwise functions between them: gradients written out, by the chain rule.

Autograd and a module's own calls take most of a small model's step, and they take one client at a
time. Here every tensor may have a leading axis of clients: a weight is [out, in] or [K, out, in],
inputs are [B, in] or [K, B, in].
"""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import dis
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hanse.train.torch_losses import DERIVED, Kind, has_hooks, kind_of, sigmoid_

After = Literal["", "relu", "tanh", "sigmoid"]
Tensors = Sequence[Tensor]
Call = tuple[Any, tuple[Any, ...]]
Give = Callable[[int, Tensor, Tensor | None], None]
"""Takes a parameter's place and the factors of its gradient."""

_ops: Any = torch.ops.aten
FORWARD: dict[After, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "sigmoid": sigmoid_,
}
BACKWARD: dict[After, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda delta, value: _ops.threshold_backward(delta, value, 0),
    "tanh": _ops.tanh_backward,
    "sigmoid": _ops.sigmoid_backward,
}
"""(δ after the function, the function's value) → δ before it."""

NAMES: dict[object, After] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    torch.relu: "relu",
    torch.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    F.relu: "relu",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
"""What a traced model calls: a module's type, a function, or a method of the tensor."""


@dataclass(frozen=True, slots=True)
class Layer:
    """x·Wᵀ + b, then a function. ``weight`` and ``bias`` are places in the list of parameters."""

    weight: int
    bias: int | None
    after: After = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers in their order, and the loss behind them; ``widths`` of the inputs and outputs."""

    layers: tuple[Layer, ...]
    kind: Kind
    widths: tuple[int, int]
    does_flatten: bool

    @property
    def is_same_anywhere(self) -> bool:
        """Whether all of its functions have the same bits at the end of a tensor as before it."""
        return all(layer.after in ("", "relu") for layer in self.layers)

    def takes(self, inputs: Tensors, targets: Tensor) -> bool:
        """Return whether these rows are what the layers and the loss are written out for."""
        x, y, (inside, outside) = inputs[0], targets, self.widths
        if len(inputs) > 1 or not x.is_floating_point() or prod(x.shape[1:]) != inside:
            return False
        if x.ndim != 2 and not self.does_flatten:
            return False
        if self.kind == "classes":
            return y.ndim == 1 and y.dtype == torch.int64
        return y.dtype == x.dtype and prod(y.shape[1:]) == outside and y.ndim <= 2

    def gradients(
        self, params: Tensors, inputs: Tensors, y: Tensor, share: Tensor | float, give: Give
    ) -> Tensor:
        """Give each parameter's gradient, last layer first; return the losses of the rows.

        ``inputs``: one, [B, …] or [K, B, …]; ``y`` as the loss takes it; ``share`` is how much a
        row's loss counts: a number, or [K, B]. A gradient is given as two factors to be multiplied,
        so that what subtracts it at once need not have it in memory, or as (itself, None). Who is
        given a gradient may change that parameter.
        """
        is_block = params[self.layers[0].weight].ndim == 3
        product = torch.bmm if is_block else torch.mm
        values = [inputs[0].flatten(2 if is_block else 1)]
        for layer in self.layers:
            values.append(_forward(layer, params, values[-1], is_block))
        value = values.pop()
        losses, delta = DERIVED[self.kind](value, y)
        delta.mul_(share.unsqueeze(-1) if isinstance(share, Tensor) else share)
        for layer in reversed(self.layers):
            if layer.after:
                delta = BACKWARD[layer.after](delta, value)
            value, left, sums = values.pop(), delta.mT, delta.sum(-2)
            if values:
                delta = product(delta, params[layer.weight])
            give(layer.weight, left, value)
            if layer.bias is not None:
                give(layer.bias, sums, None)
        return losses


def _forward(layer: Layer, params: Tensors, value: Tensor, is_block: bool) -> Tensor:
    weight, bias = params[layer.weight], None if layer.bias is None else params[layer.bias]
    if not is_block:
        after = F.linear(value, weight, bias)
    elif bias is None:
        after = torch.bmm(value, weight.mT)
    else:
        after = torch.baddbmm(bias.unsqueeze(1), value, weight.mT)
    return FORWARD[layer.after](after) if layer.after else after


def stack_of(module: nn.Module, loss: nn.Module, params: Tensors) -> Stack | None:
    """Return ``module`` and ``loss`` written out; None if they are not such a stack.

    The model's ``forward`` is traced, not guessed at: layers in a chain, each used once, all of
    ``params`` in them. Layers of a class of the user's own, or with hooks, are not taken, nor a
    model with buffers, which tracing does not see change, nor a ``forward`` that branches: what it
    does once says nothing of the next time.
    """
    kind, parts = kind_of(loss), [*module.modules()]
    if kind is None or any(map(has_hooks, parts)) or any(map(_branches, parts)):
        return None
    if [*module.buffers()]:
        return None
    calls = _calls(module) or []
    layers = _layers(calls, {id(p): n for n, p in enumerate(params)})
    if layers is None:
        return None
    used = [place for layer in layers for place in (layer.weight, layer.bias) if place is not None]
    if sorted(used) != list(range(len(params))):
        return None
    widths = (params[layers[0].weight].shape[1], params[layers[-1].weight].shape[0])
    return Stack(tuple(layers), kind, widths, _flattens(*calls[0]))


def _calls(module: nn.Module) -> list[Call] | None:
    """Return what is called on the input, one after another; None if that is not all there is."""
    if type(module) is nn.Linear:
        return [(module, ())]
    try:
        graph = fx.Tracer().trace(module.train())
    except Exception:  # its flow depends on the data, or it is not torch's alone
        return None
    calls, last = list[Call](), None
    for node in graph.nodes:
        if node.op == "output":
            return calls if node.args == (last,) else None
        if node.op == "placeholder" and last is None:
            last = node
        elif node.args[:1] != (last,) or node.kwargs.keys() - {"inplace"}:
            return None
        else:
            is_module = node.op == "call_module"
            called = module.get_submodule(str(node.target)) if is_module else node.target
            calls.append((called, node.args[1:]))
            last = node
    return None


def _layers(calls: list[Call], places: dict[int, int]) -> list[Layer] | None:
    """Return the layers that ``calls`` make; ``places``: of parameters, by their identity."""
    layers = list[Layer]()
    for number, (called, arguments) in enumerate(calls):
        after = NAMES.get(type(called)) if isinstance(called, nn.Module) else NAMES.get(called)
        if type(called) is nn.Linear:
            found = [places.get(id(p)) for p in called.parameters()]
            if found[0] is None or found[-1] is None:
                return None
            layers.append(Layer(found[0], found[1] if found[1:] else None))
        elif after is not None and layers and not layers[-1].after and not arguments:
            layers[-1] = replace(layers[-1], after=after)
        elif not _is_nothing(called) and (number or not _flattens(called, arguments)):
            return None
    return layers or None


def _branches(part: nn.Module) -> bool:
    """Return whether a module of the user's own takes one way or another when it is called."""
    own = type(part)
    return any(_may_branch(function, own, set()) for function in _named(own, "forward"))


def _named(own: type, name: str) -> list[Any]:
    """Return what a class, and those it is made from, call ``name``; torch's own left out."""
    found = [vars(each).get(name) for each in own.__mro__ if not _is_torchs(each)]
    return [getattr(each, "fget", each) for each in found if each is not None]  # a property's


def _may_branch(function: Any, own: type, seen: set[Any]) -> bool:
    """Return whether ``function``, or a function or method that it names, has a condition.

    What is not Python's is taken to have one, unless it is torch's.
    """
    code = getattr(function, "__code__", None)
    if code is None or code in seen:
        return code is None
    seen.add(code)
    cells = function.__closure__ or ()
    named = [cell.cell_contents for cell in cells if cell.cell_contents is not own]
    for one in dis.get_instructions(code):
        if "_IF_" in one.opname:
            return True
        if one.opname == "LOAD_GLOBAL":
            named.append(function.__globals__.get(one.argval))
        if one.opname in ("LOAD_METHOD", "LOAD_ATTR"):
            named += _named(own, one.argval)
    called = [each for each in named if callable(each) and not _is_torchs(each)]
    return any(_may_branch(each, own, seen) for each in called)


def _is_torchs(thing: Any) -> bool:
    module = str(getattr(thing, "__module__", None) or "")
    return module.split(".")[0] in ("torch", "builtins", "_operator") or thing is super


def _is_nothing(called: Any) -> bool:
    return type(called) is nn.Identity or (type(called) is nn.Dropout and called.p == 0)


def _flattens(called: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether a call makes a row of each example."""
    if isinstance(called, nn.Flatten):
        return (called.start_dim, called.end_dim) == (1, -1)
    return (called is torch.flatten or called == "flatten") and arguments in ((1,), (1, -1))
