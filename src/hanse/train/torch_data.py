"""A client's data set in PyTorch's form: checked once, then handed out as fresh batches."""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, TensorDataset, default_collate

from hanse.data.persons import OfPersons
from hanse.errors import DataError, TaskError

CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
PROBABILITIES = (nn.BCELoss,)
UNIT = (nn.BCELoss, nn.BCEWithLogitsLoss)
REALS = (
    *(*UNIT, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss),
    *(nn.KLDivLoss, nn.SoftMarginLoss, nn.MultiLabelSoftMarginLoss),
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Inputs and targets as whole tensors; the fast path. ``persons``: whose each row is."""

    inputs: tuple[Tensor, ...]
    targets: Tensor
    is_channels_last: bool = False
    persons: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.targets.shape[0]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Shape of a row, and type of its numbers, of each input and of the targets."""
        return tuple((part.shape[1:], part.dtype) for part in (*self.inputs, self.targets))

    def batch(self, index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the rows of ``index`` in fresh tensors."""
        inputs = tuple(part.index_select(0, index) for part in self.inputs)
        if self.is_channels_last:
            inputs = channels_last(inputs)
        return inputs, self.targets.index_select(0, index)

    def dataset(self) -> TensorDataset:
        """Return the rows as a torch data set."""
        return TensorDataset(*self.inputs, self.targets)


@dataclass(frozen=True, slots=True)
class Items:
    """A data set that is read item by item (images from disk, augmentation). ``persons``: whose
    each row is.
    """

    dataset: Any
    loss: nn.Module
    dtype: torch.dtype
    device: torch.device
    site: str
    is_uniform: bool = True
    is_channels_last: bool = False
    persons: NDArray[np.int64] | None = None

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.dataset)

    def batch(self, index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the collated items of ``index``."""
        numbers = index.tolist()
        items = [self.dataset[i] for i in numbers]
        if not self.is_uniform:
            items = [tuple(map(torch.as_tensor, item)) for item in items]
        item = default_collate(items)
        of = type(self.dataset).__name__
        if not isinstance(item, tuple | list) or len(item) < 2 or not all(map(_is_tensor, item)):
            raise DataError(
                f"{self.site}: an item of {of} is not (input, …, target) in numbers",
                hint="return (inputs, targets) as arrays, or a data set of such items",
            )
        *inputs, targets = item
        rows = as_rows(inputs, targets, self.loss, self.dtype, self.site, numbers)
        moved = tuple(part.to(self.device) for part in rows.inputs)
        if self.is_channels_last:
            moved = channels_last(moved)
        return moved, rows.targets.to(self.device)


def channels_last(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return images [n, channels, height, width] with their channels side by side in memory."""
    return tuple(x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs)


def union(parts: Sequence[Rows | Items]) -> Rows | Items:
    """Return the union of several data sets, in their order."""
    rows = [part for part in parts if isinstance(part, Rows)]
    if len(rows) == len(parts):
        inputs = zip(*(part.inputs for part in rows), strict=True)
        targets = torch.cat([part.targets for part in rows])
        columns = tuple(torch.cat(column) for column in inputs)
        return Rows(columns, targets, all(part.is_channels_last for part in rows))
    whole = ConcatDataset([p.dataset if isinstance(p, Items) else p.dataset() for p in parts])
    first = next(part for part in parts if isinstance(part, Items))
    return replace(first, dataset=whole, site="pooled", is_uniform=False, persons=None)


def prepare(
    dataset: Any, loss: nn.Module, dtype: torch.dtype, device: torch.device, site: str
) -> Rows | Items:
    """Bring ``dataset`` into one of the two forms.

    It is ``(inputs, targets)`` as arrays or tensors, a ``TensorDataset``, or any map-style
    ``Dataset`` whose items are ``(input, …, target)``; or one of these :class:`OfPersons`. Raises
    DataError if it is empty, if a number is NaN or infinite, or if targets are not what the loss
    takes.
    """
    if isinstance(dataset, OfPersons):
        found = prepare(dataset.dataset, loss, dtype, device, site)
        return replace(found, persons=dataset.numbers(found.n))
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


def _is_tensor(part: object) -> bool:
    return isinstance(part, Tensor)


def _tensor(part: Any, site: str) -> Tensor:
    if isinstance(part, Tensor):
        return part.detach()
    array = np.asarray(part)
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"{site}: an array of {array.dtype} is not numeric", hint="encode it as numbers first"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch cannot index these
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes
        return torch.from_numpy(np.ascontiguousarray(array))


def _empty(site: str) -> DataError:
    return DataError(f"{site}: the data set is empty", hint="check what data(site) reads")


def as_rows(
    inputs: Sequence[Tensor],
    targets: Tensor,
    loss: nn.Module,
    dtype: torch.dtype,
    site: str,
    numbers: Sequence[int] | None = None,
) -> Rows:
    """Check inputs and targets, and convert them to the model's dtype and the loss's targets.

    ``numbers`` are those of the rows, if they do not start at 0.
    """
    if len(targets) == 0:
        raise _empty(site)
    converted = [p.to(dtype) if p.is_floating_point() else p for p in inputs]
    for number, part in enumerate(converted):
        if len(part) != len(targets):
            raise DataError(
                f"{site}: {len(part)} inputs but {len(targets)} targets",
                hint="inputs and targets have one row per example",
            )
        check_finite(part, site, f"input {number}" if len(inputs) > 1 else "the input", numbers)
    check_finite(targets, site, "the target", numbers)
    return Rows(tuple(p.contiguous() for p in converted), _targets(targets, loss, dtype, site))


def check_finite(part: Tensor, site: str, what: str, numbers: Sequence[int] | None = None) -> None:
    """Raise DataError naming the first row and column that is NaN or infinite."""
    if not part.is_floating_point() or bool(torch.isfinite(part).all()):
        return
    row, *column = torch.nonzero(~torch.isfinite(part))[0].tolist()
    at = f", column {column[0]}" if column else ""
    bad = part[(row, *column)].item()
    raise DataError(
        f"{site}: {what} is {bad} in row {row if numbers is None else numbers[row]}{at}",
        hint="fill or drop missing values in data(site), and add a column that says which",
    )


def _targets(targets: Tensor, loss: nn.Module, dtype: torch.dtype, site: str) -> Tensor:
    """Return class numbers for a loss of classes, reals for one of reals, else what was given."""
    is_real = targets.is_floating_point()
    if isinstance(loss, CLASSES) and (targets.ndim == 1 or not is_real):
        return _class_numbers(targets, loss, site)
    if isinstance(loss, UNIT) and bool(((targets < 0) | (targets > 1)).any()):
        raise DataError(
            f"{site}: {type(loss).__name__} takes targets between 0 and 1, and they go from "
            f"{float(targets.min()):g} to {float(targets.max()):g}",
            hint="return 0 or 1 per row, or use nn.CrossEntropyLoss for classes",
        )
    wanted = dtype if is_real or isinstance(loss, (*REALS, *CLASSES)) else targets.dtype
    return targets.to(wanted).contiguous()


def _class_numbers(targets: Tensor, loss: nn.Module, site: str) -> Tensor:
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


@contextmanager
def fitting(what: str, outputs: object, site: str) -> Generator[None]:
    """Turn what torch and NumPy say of shapes that do not fit ``what`` into a TaskError."""
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("error", "Using a target size")  # torch would broadcast
            yield
    except (ValueError, RuntimeError, IndexError, TypeError, AttributeError, UserWarning) as error:
        raise TaskError(
            f"{site}: model output {shape} does not fit {what}: {str(error).splitlines()[0]}",
            hint="change the model's last layer or the targets that data(site) returns",
            site=site,
            phase="a first batch",
        ) from error


def check_classes(targets: Tensor, classes: int, site: str) -> None:
    """Raise DataError if a class number is beyond the ``classes`` that a model tells apart."""
    if not targets.is_floating_point() and int(targets.max()) >= classes:
        raise DataError(
            f"{site}: a target is class {int(targets.max())}, and the model has {classes} classes",
            hint="classes count from 0; correct the targets or the model's last layer",
        )
