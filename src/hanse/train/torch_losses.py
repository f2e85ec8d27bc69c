"""What the engine knows of losses: their rows, and for the common ones their derivatives."""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["classes", "bits", "reals"]
BY_ROW = (
    *(nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.MSELoss),
    *(nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss),
)
"""Losses whose mean over a batch is the mean over its rows."""


def squeezed(outputs: Any, targets: Tensor) -> Any:
    """Return outputs of one column as a vector, where the targets are one."""
    column = isinstance(outputs, Tensor) and outputs.ndim == targets.ndim + 1
    return outputs.squeeze(-1) if column and outputs.shape[-1] == 1 else outputs


def by_row(loss: Any) -> Callable[[Any, Tensor], Tensor] | None:
    """Return the loss of each row, [B] of (outputs, targets); None if a mean of it is not known."""
    if type(loss) not in BY_ROW or getattr(loss, "weight", None) is not None or has_hooks(loss):
        return None
    if getattr(loss, "ignore_index", -1) >= 0:
        return None
    each = copy.copy(loss)
    each.reduction = "none"

    def rows(outputs: Any, targets: Tensor) -> Tensor:
        losses = each(squeezed(outputs, targets), targets)
        return losses.reshape(len(losses), -1).mean(1)

    return rows


def kind_of(loss: Any) -> Kind | None:
    """Return which of DERIVED a loss is; None if it is none of them."""
    if by_row(loss) is None:
        return None
    if type(loss) is nn.CrossEntropyLoss:
        return "classes" if loss.label_smoothing == 0 else None
    if type(loss) is nn.BCEWithLogitsLoss:
        return "bits" if loss.pos_weight is None else None
    return "reals" if type(loss) is nn.MSELoss else None


def has_hooks(part: Any) -> bool:
    """Return whether somebody hooked into a module's calls."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, name) for name in hooks)


def _classes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of class numbers: −log softmax(z)_y, and softmax(z) − 1_y."""
    at = targets.unsqueeze(-1)
    if outputs.ndim == 2:
        odds = outputs.log_softmax(-1)
        losses = odds.gather(-1, at).neg_().squeeze(-1)
        return losses, odds.exp_().scatter_(-1, at, -1.0, reduce="add")
    shifted = outputs - outputs.amax(-1, keepdim=True)  # log_softmax takes thrice as long
    chosen, odds = shifted.gather(-1, at), shifted.exp_()
    whole = odds.sum(-1, keepdim=True)
    losses = (whole.log() - chosen).squeeze(-1)
    return losses, odds.div_(whole).scatter_(-1, at, -1.0, reduce="add")


def _bits(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of logits: softplus(z) − t·z, and σ(z) − t; the mean over outputs."""
    targets = targets.reshape(outputs.shape)
    losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(-1)
    return losses, sigmoid_(outputs).sub_(targets).div_(outputs.shape[-1])


def _reals(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error: (z − t)², and 2(z − t); the mean over outputs."""
    apart = outputs - targets.reshape(outputs.shape)
    return apart.square().mean(-1), apart.mul_(2 / outputs.shape[-1])


def sigmoid_(values: Tensor) -> Tensor:
    """Put 1/(1 + e^−x) in the place of each x.

    torch's own computes what is left over at the end of a tensor with other bits.
    """
    return values.neg_().exp_().add_(1).reciprocal_()


DERIVED: dict[Kind, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "classes": _classes,
    "bits": _bits,
    "reals": _reals,
}
"""(outputs, targets) → the loss of each row, and its derivative by the outputs."""
