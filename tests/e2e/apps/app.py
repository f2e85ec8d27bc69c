"""Tasks of every kind that changes bits: the app that the sites of these tests have installed."""

import numpy as np
import torch
from torch import nn

import hanse
from hanse.train.torch import TorchTask, loop

FEATURES = 27  # a row of 27 floats does not end on 16 bytes: the case that shows alignment
ROWS = {"north": 41, "south": 23, "west": 90}
METRICS = [hanse.metrics.auc, hanse.metrics.accuracy]


def logistic() -> nn.Module:
    return nn.Linear(FEATURES, 1)


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)
    )


def binary(model, **more) -> TorchTask:
    return TorchTask(model=model, loss=nn.BCEWithLogitsLoss(), metrics=METRICS, **more)


@loop(reports=("norm",))
def own_loop(model, dataset, ctx):
    x, y = dataset.tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=ctx.local.lr)
    for _ in range(3):
        rows = torch.randperm(len(x), generator=ctx.generator)[:16]
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x[rows])[:, 0], y[rows])
        loss.backward()
        ctx.correct()
        optimizer.step()
    return len(x), {"loss": loss.item(), "norm": float(model.weight.detach().norm())}


task = binary(logistic)
double = binary(lambda: logistic().double())
aggregated = binary(normed, buffers="aggregate")
kept = binary(normed, buffers="local")
frozen = binary(normed, buffers="freeze")
own = binary(logistic, train=own_loop)


def rows(seed: int, n: int):
    x = np.random.default_rng(seed).normal(size=(n, FEATURES)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.float32)


def data(site: hanse.Site):
    n = ROWS[site.id]
    x, y = rows(site.seed, n + 19)
    return (x[:n], y[:n]), (x[n:], y[n:])


def visits(site):
    train, test = data(site)
    return hanse.data.OfPersons(train, [f"patient {n % 9}" for n in range(len(train[-1]))]), test
