"""What a PyTorch task is, as text: the same in every process, another one for another task.

It sees modules by their ``repr``, the numbers and tensors of a loss, and the code of functions with
its constants. It does not see what a function reaches from outside (closures, globals, defaults),
nor the code of ``forward``: a run file's app is hashed whole, an object of a process cannot be.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PLAIN = (bool, int, float, str, type(None))


def identity_of(module: nn.Module, loss: nn.Module, others: Sequence[object]) -> str:
    """Return what a task with this model and loss is; ``others``: functions and plain values."""
    told = (repr(module), repr(loss), _numbers(loss), *map(_told, others))
    return _ADDRESS.sub("", repr(told))  # where an object lies says nothing of it


def _numbers(loss: nn.Module) -> list[object]:
    """Return what a loss holds and its ``repr`` leaves out, such as ``pos_weight``."""
    plain = [
        (name, value)
        for part in loss.modules()
        for name, value in sorted(vars(part).items())
        if isinstance(value, _PLAIN)
    ]
    return [*plain, *((name, _digest(tensor)) for name, tensor in loss.state_dict().items())]


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def _told(value: object) -> object:
    if isinstance(value, partial):
        given: dict[str, Any] = value.keywords
        return (_told(value.func), value.args, sorted(given.items()))  # pyright: ignore[reportUnknownMemberType] -- of any function
    if isinstance(value, CodeType):
        return (
            value.co_qualname,
            value.co_code,
            value.co_names,
            [_told(c) for c in value.co_consts],
        )
    if isinstance(value, frozenset):
        return sorted(map(repr, value))  # pyright: ignore[reportUnknownArgumentType] -- of anything
    code = getattr(value, "__code__", None)
    return value if code is None else _told(code)
