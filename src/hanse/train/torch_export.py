"""What becomes of a trained PyTorch model: predictions, TorchScript, ONNX."""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hanse.errors import ConfigError, DataError
from hanse.train.torch_data import PROBABILITIES
from hanse.train.torch_local import EVALUATION_BATCH
from hanse.train.userland import userland

Columns = dict[str, NDArray[np.generic]]


def predict(module: nn.Module, loss: nn.Module, inputs: object) -> Columns:
    """Return named columns [n] for ``inputs``: an array of n rows, or a tuple of such arrays.

    A loss of two classes gives ``probability`` (and the ``score`` it comes from), cross-entropy the
    ``class`` and a ``probability_k`` for each, any other loss what the model puts out. Raises
    DataError for inputs that are empty or not numbers, TaskError if the model fails on them.
    """
    tensors = _tensors(inputs, next(module.parameters()).dtype)
    batches = range(0, len(tensors[0]), EVALUATION_BATCH)
    with torch.no_grad(), userland(phase="the model on these inputs"):
        outputs = torch.cat(
            [module(*(t[b : b + EVALUATION_BATCH] for t in tensors)) for b in batches]
        )
    return _columns(outputs.double().reshape(len(outputs), -1), loss)


def _tensors(inputs: object, dtype: torch.dtype) -> list[Tensor]:
    parts: Any = inputs if isinstance(inputs, tuple | list) else (inputs,)
    arrays = [np.asarray(part) for part in parts]
    if not arrays or any(not a.ndim or not len(a) for a in arrays):
        raise DataError("there are no rows to predict", hint="check the file")
    tensors = list[Tensor]()
    for array in arrays:
        if array.dtype.kind not in "biuf":
            raise DataError(f"the inputs are {array.dtype}, not numbers", hint="return numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise DataError(
                f"the inputs have NaN or infinite values, the first in row {row}",
                hint="fill them in as for training",
            )
        tensor = torch.from_numpy(array.copy())
        tensors.append(tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return tensors


def _columns(outputs: Tensor, loss: nn.Module) -> Columns:
    if isinstance(loss, nn.CrossEntropyLoss):
        chances = torch.softmax(outputs, dim=1).numpy()
        named: Columns = {f"probability_{k}": chances[:, k] for k in range(chances.shape[1])}
        return {"class": chances.argmax(axis=1), **named}
    flat = {f"output_{k}": column.numpy() for k, column in enumerate(outputs.unbind(1))}
    if len(flat) > 1:
        return dict(flat)
    only = outputs[:, 0]
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return {"score": only.numpy(), "probability": torch.sigmoid(only).numpy()}
    return {"probability" if isinstance(loss, PROBABILITIES) else "output": only.numpy()}


def export(module: nn.Module, example: Sequence[Tensor], form: str, path: Path) -> None:
    """Write ``module`` to ``path`` as ``torchscript`` or ``onnx``; the first axis stays free.

    ``example`` is a batch of two rows. Raises ConfigError for another form or where a package is
    missing, TaskError where the model cannot be written in that form.
    """
    if form not in ("torchscript", "onnx"):
        raise ConfigError(f'format "{form}" is unknown', hint="use torchscript or onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    (_torchscript if form == "torchscript" else _onnx)(module, tuple(example), path)


def _torchscript(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    with warnings.catch_warnings(), userland(phase="writing TorchScript"):
        warnings.simplefilter("ignore")  # torch says that TorchScript is old; it was asked for
        traced: Any = torch.jit.trace(module, example)
        traced.save(str(path))


def _onnx(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise ConfigError(
                f"ONNX needs {package}, which is not installed", hint="pip install 'hanse[onnx]'"
            )
    rows = torch.export.Dim("rows")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # packages that are not needed
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        userland(phase="writing ONNX"),
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example,
            str(path),
            input_names=[f"input_{k}" for k in range(len(example))],
            output_names=["output"],
            dynamic_shapes=[{0: rows} for _ in example],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
