"""Gradients of a batch's examples from one forward and one backward pass, by hooks on its layers.

Hooks keep what goes into each layer and where its output is in autograd's graph; one backward pass
to those places, and not to the parameters, gives what the rules of
:mod:`hanse.train.torch_examples` need. What they cannot see would be missing from an example's
norm. So the graph of each batch is searched for every use of every parameter, and without exactly
one, by a layer that was called once, there is no answer.
"""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from hanse.train.torch_clipped import Each, RowLoss, Tensors
from hanse.train.torch_examples import RULES, Given, Gradients, Rule, is_known
from hanse.train.torch_recurrent import NAMES, by_example, suffixes, unrolled


@dataclass(frozen=True)
class Piece:
    """A layer, or of an LSTM one layer and direction (``name``), with the parameters that are its
    own: which of the rule's are trained, and their places.
    """

    layer: nn.Module
    name: str
    wanted: tuple[bool, ...]
    places: tuple[int, ...]

    @property
    def rule(self) -> Rule:
        """What gives its examples' gradients."""
        return _recurrent if isinstance(self.layer, nn.LSTM) else RULES[type(self.layer)]

    def takes(self, call: "Call", count: int) -> bool:
        """Return whether it took ``count`` rows, and they still are as they were."""
        if call.versions != _versions(call.given):
            return False
        if isinstance(self.layer, nn.LSTM):
            return call.given[0].shape[1] == count
        if len(call.given) != 1:
            return False
        (given,), least = call.given, 1 if isinstance(self.layer, nn.Embedding) else 2
        if isinstance(self.layer, nn.Conv1d | nn.InstanceNorm1d):
            least = 3
        if isinstance(self.layer, nn.Conv2d | nn.InstanceNorm2d):
            least = 4
        return given.ndim >= least and given.shape[0] == count


@dataclass(frozen=True)
class Call:
    """One call: what went in, and its version then; where the output is in the graph."""

    given: Given
    versions: tuple[int, ...]
    edge: GradientEdge


def _versions(given: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(part._version if isinstance(part, Tensor) else -1 for part in given)


def _recurrent(layer: Any, given: Given, grads: Tensor, wanted: Any) -> Gradients:
    return by_example(given, grads, wanted)


@dataclass
class Hooked:
    """See the module. ``parameters``: the trainable ones, in their order."""

    module: nn.Module
    rows: RowLoss
    parameters: Tensors
    calls: dict[tuple[nn.Module, str], list[Call]] = field(
        default_factory=dict[tuple[nn.Module, str], list[Call]]
    )

    def __post_init__(self) -> None:
        """Find which layer has which parameters."""
        self.at = {id(p): place for place, p in enumerate(self.parameters)}
        self.pieces = list[Piece]()
        for layer in self.module.modules():
            if isinstance(layer, nn.LSTM):
                for name in suffixes(layer):
                    self._add(layer, name, [f"{kind}{name}" for kind in NAMES])
            else:
                self._add(layer, "", ["weight", "bias"])

    def _add(self, layer: nn.Module, name: str, names: list[str]) -> None:
        own: Any = layer.__dict__["_parameters"]
        places = [self.at.get(id(own.get(name))) for name in names]
        found = tuple(place for place in places if place is not None)
        if found:
            self.pieces.append(Piece(layer, name, tuple(p is not None for p in places), found))

    def fits(self) -> bool:
        """Return whether each trainable parameter is one layer's own, and that has a rule."""
        of = Counter(place for piece in self.pieces for place in piece.places)
        is_whole = set(of) == set(range(len(self.parameters))) and set(of.values()) <= {1}
        return is_whole and all(is_known(piece.layer) for piece in self.pieces)

    def __call__(self, inputs: Tensors, targets: Tensor) -> Each | None:
        """Run the model forwards and back, once."""
        self.calls = {}
        try:
            with self._listening():
                outputs = self.module(*inputs)
            losses = self.rows(outputs, targets)
            return self._gradients(losses, len(targets))
        finally:
            self.calls = {}

    @contextmanager
    def _listening(self) -> Generator[None]:
        """Keep what layers are given inside; LSTMs are written out."""
        handles = list[Any]()
        recurrent = list[nn.Module]()
        for layer in {piece.layer: None for piece in self.pieces}:
            if isinstance(layer, nn.LSTM):
                keep = partial(self._keep, layer)
                layer.__dict__["forward"] = partial(unrolled, layer, keep)
                recurrent.append(layer)
            else:
                handles.append(layer.register_forward_hook(self._heard, prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for layer in recurrent:
                del layer.__dict__["forward"]

    def _heard(self, layer: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        self._keep(layer, "", given, output)

    def _keep(self, layer: nn.Module, name: str, given: Given, output: Tensor) -> None:
        if output.requires_grad:
            call = Call(given, _versions(given), get_gradient_edge(output))
            self.calls.setdefault((layer, name), []).append(call)

    def _gradients(self, losses: Tensor, count: int) -> Each | None:
        """Return each example's gradient by the pieces that the graph of ``losses`` has."""
        if losses.shape != (count,):
            return None
        uses = _uses(losses, self.at) if losses.requires_grad else Counter[int]()
        found = list[tuple[Piece, Call]]()
        for piece in self.pieces:
            if not any(uses[place] for place in piece.places):
                continue
            calls = self.calls.get((piece.layer, piece.name), [])
            if len(calls) != 1 or any(uses[place] != 1 for place in piece.places):
                return None
            if not piece.takes(calls[0], count):
                return None
            found.append((piece, calls[0]))
        if not found:
            return Each([], count)
        edges: Any = [call.edge for _, call in found]
        grads: Any = torch.autograd.grad((losses.sum(),), edges, allow_unused=True)
        if any(back is None for back in grads):
            return None
        with torch.no_grad():
            parts = [(piece.rule(piece.layer, call.given, back, piece.wanted), [*piece.places])
                     for (piece, call), back in zip(found, grads, strict=True)]  # fmt: skip
        return Each(parts, count)


def _uses(losses: Tensor, at: dict[int, int]) -> Counter[int]:
    """Return how often each parameter, by its place, enters the graph behind ``losses``."""
    uses, seen, open_ = Counter[int](), set[Any](), [losses.grad_fn]
    while open_:
        node: Any = open_.pop()
        for behind, _ in node.next_functions:
            leaf = getattr(behind, "variable", None)
            if leaf is not None:
                uses[at.get(id(leaf), -1)] += 1
            elif behind is not None and behind not in seen:
                seen.add(behind)
                open_.append(behind)
    return uses
