"""A client's data set in PyTorch's form: checked once, then handed out as fresh batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

from hanse.errors import DataError

CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
PROBABILITIES = (nn.BCELoss,)


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs and targets as whole tensors; the fast path."""

    inputs: tuple[Tensor, ...]
    targets: Tensor

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.targets)

    def batch(self, index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the rows of ``index`` in fresh tensors."""
        inputs = tuple(part.index_select(0, index) for part in self.inputs)
        return inputs, self.targets.index_select(0, index)


@dataclass(frozen=True, slots=True)
class Items:
    """A data set that is read item by item (images from disk, augmentation)."""

    dataset: Any
    loss: nn.Module
    dtype: torch.dtype
    device: torch.device
    site: str

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.dataset)

    def batch(self, index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the collated items of ``index``."""
        *inputs, targets = default_collate([self.dataset[int(i)] for i in index])
        rows = as_rows(inputs, targets, self.loss, self.dtype, self.site)
        moved = tuple(part.to(self.device) for part in rows.inputs)
        return moved, rows.targets.to(self.device)


def prepare(
    dataset: object, loss: nn.Module, dtype: torch.dtype, device: torch.device, site: str
) -> Rows | Items:
    """Bring ``dataset`` into one of the two forms.

    It is ``(inputs, targets)`` as arrays or tensors, a ``TensorDataset``, or any map-style
    ``Dataset`` whose items are ``(input, …, target)``. Raises DataError if it is empty, if a number
    is NaN or infinite, or if targets are not what the loss takes.
    """
    if isinstance(dataset, TensorDataset):
        dataset = dataset.tensors
    if isinstance(dataset, tuple | list):
        if len(dataset) < 2:
            raise DataError(
                f"{site}: a data set of {len(dataset)} arrays", hint="return (inputs, targets)"
            )
        *inputs, targets = (_tensor(part, site) for part in dataset)
        rows = as_rows(inputs, targets, loss, dtype, site)
        return Rows(tuple(part.to(device) for part in rows.inputs), rows.targets.to(device))
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{site}: {type(dataset).__name__} is not a data set",
            hint="return (inputs, targets) as arrays, or a torch Dataset with a length",
        )
    items = Items(dataset, loss, dtype, device, site)
    if items.n == 0:
        raise _empty(site)
    items.batch(torch.arange(min(2, items.n)))
    return items


def _tensor(part: object, site: str) -> Tensor:
    if isinstance(part, Tensor):
        return part
    array = np.asarray(part)
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"{site}: an array of {array.dtype} is not numeric", hint="encode it as numbers first"
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _empty(site: str) -> DataError:
    return DataError(f"{site}: the data set is empty", hint="check what data(site) reads")


def as_rows(
    inputs: Sequence[Tensor], targets: Tensor, loss: nn.Module, dtype: torch.dtype, site: str
) -> Rows:
    """Check inputs and targets, and convert them to the model's dtype and the loss's targets."""
    if len(targets) == 0:
        raise _empty(site)
    for number, part in enumerate(inputs):
        if len(part) != len(targets):
            raise DataError(
                f"{site}: {len(part)} inputs but {len(targets)} targets",
                hint="inputs and targets have one row per example",
            )
        check_finite(part, site, f"input {number}" if len(inputs) > 1 else "the input")
    check_finite(targets, site, "the target")
    converted = tuple(p.to(dtype) if p.is_floating_point() else p for p in inputs)
    return Rows(tuple(p.contiguous() for p in converted), _targets(targets, loss, dtype, site))


def check_finite(part: Tensor, site: str, what: str) -> None:
    """Raise DataError naming the first row and column that is NaN or infinite."""
    if not part.is_floating_point() or bool(torch.isfinite(part).all()):
        return
    row, *column = torch.nonzero(~torch.isfinite(part))[0].tolist()
    at = f", column {column[0]}" if column else ""
    bad = part[(row, *column)].item()
    raise DataError(
        f"{site}: {what} is {bad} in row {row}{at}",
        hint="fill or drop missing values in data(site), and add a column that says which",
    )


def _targets(targets: Tensor, loss: nn.Module, dtype: torch.dtype, site: str) -> Tensor:
    if isinstance(loss, CLASSES) and targets.ndim != 2:
        whole = targets.to(torch.int64)
        if targets.is_floating_point() and not bool((whole == targets).all()):
            raise DataError(
                f"{site}: {type(loss).__name__} takes class numbers, and the targets hold "
                f"{float(targets[whole != targets][0]):g}",
                hint="return targets as integers 0, 1, 2, …",
            )
        if bool((whole < 0).any()):
            raise DataError(f"{site}: a target is negative", hint="classes count from 0")
        return whole.contiguous()
    if isinstance(loss, nn.BCEWithLogitsLoss | nn.BCELoss) and bool(
        ((targets < 0) | (targets > 1)).any()
    ):
        raise DataError(
            f"{site}: {type(loss).__name__} takes targets between 0 and 1, and they go from "
            f"{float(targets.min()):g} to {float(targets.max()):g}",
            hint="return 0 or 1 per row, or use nn.CrossEntropyLoss for classes",
        )
    return targets.to(dtype).contiguous()
