"""An LSTM written out, so that each example's gradient can be told from the others'.

torch's own layer has one kernel for all steps, whose backward pass gives the weights' gradients
summed over the batch. Here the gradient by the gates of each step comes out (back-propagation
through time, as for any LSTM: Hochreiter, Schmidhuber, Neural Computation 9(8), 1997), from which
each example's follows by a product of matrices. Same numbers, up to rounding.
"""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanse.train.torch_examples import Given, Gradients, Wanted, Written

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
Keep = Callable[[str, Given, Tensor], None]
"""Takes the name of a layer and direction, what went in, and the gates before their functions."""


class _Steps(torch.autograd.Function):
    """All steps of one layer in one direction.

    ``gates`` [T, B, 4H] (i, f, g, o) without the part of the hidden state, ``weight`` [4H, H],
    ``hidden`` and ``cell`` [B, H] → the hidden states [T, B, H] and the last cell. The gradient by
    ``weight`` is not computed: it is read off that by ``gates``.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the steps; keep what each gate let through."""
        size, open_ = hidden.shape[1], torch.empty_like(gates)
        cells = gates.new_empty((len(gates) + 1, *cell.shape))
        curved, hiddens = torch.empty_like(cells[1:]), torch.empty_like(cells[1:])
        cells[0] = cell
        for step, gate in enumerate(gates):
            now = torch.addmm(gate, hidden, weight.T, out=open_[step])
            now[:, : 2 * size].sigmoid_()
            now[:, 2 * size : 3 * size].tanh_()
            now[:, 3 * size :].sigmoid_()
            i, f, g, o = now.split(size, 1)
            torch.mul(f, cells[step], out=cells[step + 1]).addcmul_(i, g)
            torch.tanh(cells[step + 1], out=curved[step])
            hidden = torch.mul(o, curved[step], out=hiddens[step])
        ctx.save_for_backward(open_, cells, curved, weight)
        return hiddens, cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        """Return the gradients by gates, hidden and cell."""
        open_, cells, curved, weight = ctx.saved_tensors
        by_hidden, by_cell = grads
        i, f, g, o = open_.chunk(4, 2)
        into_cell = o * (1 - curved * curved)
        slopes = [g * i * (1 - i), cells[:-1] * f * (1 - f), i * (1 - g * g)]
        slopes = torch.stack(slopes, 2)
        last = curved * o * (1 - o)
        back, hidden, cell = torch.empty_like(open_), by_hidden[-1], by_cell
        split = back.view(*back.shape[:2], 4, -1)
        for step in range(len(back) - 1, -1, -1):
            cell = torch.addcmul(cell, hidden, into_cell[step])
            torch.mul(slopes[step], cell.unsqueeze(1), out=split[step, :, :3])
            torch.mul(hidden, last[step], out=split[step, :, 3])
            cell = cell * f[step]
            hidden = (
                torch.addmm(by_hidden[step - 1], back[step], weight) if step else back[0] @ weight
            )
        return back, None, hidden, cell


def suffixes(layer: nn.LSTM) -> list[str]:
    """Return the name of each layer and direction, as its parameters have it."""
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"_l{k}{way}" for k in range(layer.num_layers) for way in ways]


def unrolled(layer: nn.LSTM, keep: Keep, inputs: Any, state: Any = None) -> Any:
    """Return what ``layer`` returns, after telling ``keep`` of each layer and direction.

    What it cannot take (packed sequences, a single row) goes to torch's own, and is not told.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim != 3:
        return type(layer).forward(layer, inputs, state)
    x = inputs.transpose(0, 1) if layer.batch_first else inputs
    names, ways = suffixes(layer), 2 if layer.bidirectional else 1
    if state is None:
        nothing = x.new_zeros((len(names), x.shape[1], layer.hidden_size))
        state = (nothing, nothing)
    hiddens, cells = list[Tensor](), list[Tensor]()
    for k in range(layer.num_layers):
        outputs = list[Tensor]()
        for place in range(k * ways, (k + 1) * ways):
            steps, cell = _run(layer, names[place], x, state[0][place], state[1][place], keep)
            is_back = names[place].endswith("_reverse")
            hiddens.append(steps[0] if is_back else steps[-1])
            cells.append(cell)
            outputs.append(steps)
        x = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
        if k < layer.num_layers - 1:
            x = F.dropout(x, layer.dropout, layer.training)
    out = x.transpose(0, 1) if layer.batch_first else x
    return out, (torch.stack(hiddens), torch.stack(cells))


def _run(
    layer: nn.LSTM, name: str, x: Tensor, hidden: Tensor, cell: Tensor, keep: Keep
) -> tuple[Tensor, Tensor]:
    """Return the hidden states [T, B, H], in the order of time, and the last cell."""
    is_back = name.endswith("_reverse")
    x = x.flip(0) if is_back else x
    into, across = getattr(layer, f"weight_ih{name}"), getattr(layer, f"weight_hh{name}")
    bias = None
    if layer.bias:
        bias = getattr(layer, f"bias_ih{name}") + getattr(layer, f"bias_hh{name}")
    gates = F.linear(x, into, bias)
    found: Any = _Steps.apply(gates, across, hidden, cell)
    steps, last = found
    before = torch.cat([hidden.unsqueeze(0), steps[:-1]]).detach()
    keep(name, (x, before), gates)
    return steps.flip(0) if is_back else steps, last


class Crosswise(Written):
    """Written out, matrices as [B, in, out]: the order in which they are quickest made."""

    def total(self, factors: Tensor) -> list[Tensor]:
        """Return the clipped sum by parameter, in the parameters' shape."""
        return [part.T if part.ndim == 2 else part for part in Written.total(self, factors)]


def by_example(given: Given, grads: Tensor, wanted: Wanted) -> Gradients:
    """Return the gradients of one layer and direction: ``given`` inputs and hidden states before
    each step, ``grads`` [T, B, 4H] by the gates.
    """
    back, bias = grads.transpose(0, 1), grads.sum(0)
    pairs = zip(given, wanted, strict=False)  # biases are wanted behind the two
    found = [torch.bmm(part.permute(1, 2, 0), back) for part, is_wanted in pairs if is_wanted]
    return Crosswise([*found, *[bias for is_wanted in wanted[2:] if is_wanted]])
