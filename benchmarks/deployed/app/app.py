"""No training: each site returns the model that it got, plus a constant of its own."""

import os

import torch
from torch import nn

from hanse.train.torch import TorchTask, loop

SIZE = int(os.environ.get("HANSE_BENCH_PARAMETERS", "262144"))


class Vector(nn.Module):
    """One random vector: constants would be sent once by systems that compare chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(SIZE) - 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.w[0]


@loop
def train(model, dataset, ctx):
    with torch.no_grad():
        model.w += (ctx.seed % 1000) * 1e-6
    return 1


task = TorchTask(model=Vector, loss=nn.MSELoss(), train=train)


def data(site):
    rows = torch.ones(2), torch.ones(2)
    return rows, None
