"""The command line in this process, and a federation so small that a run takes no time."""

import sys
from dataclasses import dataclass

import pytest

from hanse.cli.app import main

APP = """\
import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hanse
from hanse.train.torch import TorchTask, loop

metrics = [hanse.metrics.auc, hanse.metrics.accuracy]
task = TorchTask(model=lambda: nn.Linear(3, 1), loss=nn.BCEWithLogitsLoss(), metrics=metrics)
wide = TorchTask(model=lambda: nn.Linear(3, 2), loss=nn.BCEWithLogitsLoss())
deep = TorchTask(model=lambda: nn.Linear(4, 1), loss=nn.BCEWithLogitsLoss())
classes = TorchTask(model=lambda: nn.Linear(3, 2), loss=nn.CrossEntropyLoss())


@loop
def train(model, dataset, ctx):
    if ctx.round == 3 and Path("stop").exists():
        raise KeyboardInterrupt
    try:
        Path("die").unlink()  # one of the workers only
    except FileNotFoundError:
        pass
    else:
        os.kill(os.getpid(), signal.SIGKILL)
    x, y = dataset.tensors
    loss = nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=ctx.local.lr).step()
    return len(x)


stoppable = TorchTask(
    model=lambda: nn.Linear(3, 1), loss=nn.BCEWithLogitsLoss(), metrics=metrics, train=train
)


def rows(seed, n=30):
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype("float32")
    return x, (x[:, 0] > 0).astype("float32")


def data(site):
    x, y = rows(site.seed)
    return (x[:20], y[:20]), (x[20:], y[20:])


def dataset():
    return rows(1, 90), rows(2, 30)


def one_class(site):
    train, (x, y) = data(site)
    return train, (x, y * 0 if site.id == "west" else y)


def whole_classes(site):
    return tuple((x, y.astype("int64")) for x, y in data(site))


def empty(site):
    (x, y), test = data(site)
    return (x[:0], y[:0]), test


def words(site):
    (x, y), test = data(site)
    return (x, np.where(y > 0, "ill", "well")), test


def nans(site):
    (x, y), test = data(site)
    x[3, 1] = np.nan
    return (x, y), test


def raises(site):
    if site.id == "west":
        raise RuntimeError("the disk is on fire")
    return data(site)


def alone(site):
    return data(site)[0][0]


def known(site):
    if site.id not in ("north", "west"):
        raise hanse.DataError(f'there are no rows of site "{site.id}"', hint="north and west")
    return data(site)


def sourced(site):
    return site.source("table"), None


def inputs(path):
    return np.loadtxt(path, delimiter=",", skiprows=1, dtype="float32") * 1.0
"""
RUN = """\
task = "app:task"
data = "app:data"
name = "small"
sites = ["north", "west"]
rounds = 4
seed = 3

[local]
lr = 0.5
batch_size = 10

[[pipeline]]
step = "weight"
by = "examples"
cap = 20

[[pipeline]]
step = "clip"
norm = 1.0

[evaluation]
every = 2
"""


@dataclass(frozen=True)
class Ran:
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


@pytest.fixture
def hanse(capsys, monkeypatch, tmp_path):
    """Run a command in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Ran(status, *capsys.readouterr())

    yield run
    sys.modules.pop("app", None)


@pytest.fixture
def small(hanse, tmp_path):
    """Lay out app.py and run.toml in the working directory."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "run.toml").write_text(RUN)
    return hanse


@pytest.fixture
def finished(small):
    """Run the small federation into the folder ``done``."""
    ran = small("run", "run.toml", "--out", "done", "--quiet")
    assert ran.status == 0, ran.err
    return small
