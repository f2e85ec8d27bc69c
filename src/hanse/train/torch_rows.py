"""How sure a model is of each row of a data set."""

# torch's annotations are incomplete; what leaves this module is annotated.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hanse.core.layout import Vector
from hanse.errors import ConfigError
from hanse.privacy.membership import scaled
from hanse.train.local import Turn
from hanse.train.torch_local import EVALUATION_BATCH, TorchKernel
from hanse.train.torch_losses import by_row

LIKELIHOODS: Final = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
"""Losses that are −ln p of the right answer."""


def confidences(
    kernel: TorchKernel, vector: Vector, dataset: object, site: str
) -> NDArray[np.float64]:
    """See :meth:`hanse.train.torch.TorchTask.confidences`."""
    rows = by_row(kernel.loss)
    if rows is None:
        raise ConfigError(
            f"{type(kernel.loss).__name__} is not known to be a mean over rows",
            hint="use a loss of torch without class weights and ignore_index",
        )
    data = kernel.prepare(dataset, Turn(0, 0, site))
    kernel.model.load(vector)
    module, found = kernel.model.module.eval(), list[NDArray[np.float64]]()
    with torch.no_grad():
        for index in torch.arange(data.n, device=kernel.model.device).split(EVALUATION_BATCH):
            inputs, targets = data.batch(index)
            found.append(rows(module(*inputs), targets).double().numpy(force=True))
    losses = np.concatenate(found)
    return scaled(losses) if isinstance(kernel.loss, LIKELIHOODS) else -losses
