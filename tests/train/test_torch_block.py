"""Many clients at once: each trains what it trains alone, whoever trains beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.train.models import FEATURES, binary, double, table, tabular
from torch import nn

from hanse.core.work import LocalTraining, Proximal, Train, seen_of, steps_of
from hanse.train.local import Turn, Turns
from hanse.train.torch import TorchTask, loop
from hanse.train.torch_batches import width_of

SETTINGS = {
    "plain": Train(LocalTraining(lr=0.1, batch_size=8, epochs=2)),
    "steps": Train(LocalTraining(lr=0.1, batch_size=8, steps=5)),
    "all at once": Train(LocalTraining(lr=0.1, batch_size=None, epochs=3)),
    "momentum": Train(LocalTraining(lr=0.1, batch_size=8, momentum=0.9, weight_decay=0.01)),
    "adam": Train(LocalTraining(optimizer="adam", lr=0.01, batch_size=8, weight_decay=0.1)),
    "adamw": Train(LocalTraining(optimizer="adamw", lr=0.01, batch_size=8, weight_decay=0.1)),
    "proximal": Train(LocalTraining(lr=0.1, batch_size=8, epochs=3), Proximal(0.5)),
}


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 4, 5), nn.Tanh(), nn.Flatten(),
        nn.LayerNorm(4 * (FEATURES - 4)), nn.Linear(4 * (FEATURES - 4), 1),
    )  # fmt: skip


def smooth() -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, 3), nn.Sigmoid(), nn.Linear(3, 1)
    )


MODELS = {"written out": tabular, "smooth": smooth, "mapped": conv}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
every_setting = pytest.mark.parametrize("work", SETTINGS.values(), ids=SETTINGS)


def prepared(kernel, sizes):
    return {
        f"client-{k}": kernel.prepare(table(int(n), k), Turn(0, 0, f"client-{k}"))
        for k, n in enumerate(sizes)
    }


def in_blocks(kernel, start, data, work, most: int):
    """Train all of ``data``, in blocks of up to ``most``; client → (update, counts)."""
    groups: dict = {}
    for client, rows in data.items():
        groups.setdefault(kernel.blocks.group(rows, work), []).append(client)
    found = {}
    for group in groups.values():
        names = sorted(group, key=lambda client: (-data[client].n, client))
        for first in range(0, len(names), most):
            block = names[first : first + most]
            rows = [data[client] for client in block]
            told = kernel.blocks.train(start, rows, work, Turns(0, 1, block))
            for k, client in enumerate(block):
                found[client] = told.updates[k].copy(), told.one(k).counts
    return found


@every_model
@every_setting
def test_a_client_trains_in_a_block_what_it_trains_alone(model, work):
    task = binary(double(model))
    kernel, start = task.kernel(), task.describe(0)[1]
    assert kernel.blocks.unfit(work) == ""
    assert (kernel.stepping.stack is None) == (model is conv)
    data = prepared(kernel, [1, 2, 7, 8, 9, 15, 16, 17, 40, 41, 8, 3])
    found = in_blocks(kernel, start, data, work, 5)
    for client, rows in data.items():
        alone = kernel.train(start, rows, work, Turn(0, 1, client), None)
        assert np.linalg.norm(alone.update) > 1e-4
        np.testing.assert_allclose(found[client][0], alone.update, rtol=1e-7, atol=1e-12)
        assert found[client][1] == pytest.approx(alone.counts, abs=1)


@every_model
@every_setting
def test_its_bits_do_not_depend_on_who_trains_beside_it(model, work):
    task = binary(model)
    kernel, start = task.kernel(), task.describe(0)[1]
    sizes = np.random.default_rng(0).integers(1, 40, 33)
    data = prepared(kernel, sizes)
    wanted = in_blocks(kernel, start, data, work, 1)
    for most in (2, 3, 7, 16, 33):
        found = in_blocks(kernel, start, data, work, most)
        for client in data:
            assert found[client][0].tobytes() == wanted[client][0].tobytes(), (most, client)
            assert found[client][1] == wanted[client][1]
    some = dict(list(data.items())[5:20:2])
    for client, (update, _) in in_blocks(kernel, start, some, work, 4).items():
        assert update.tobytes() == wanted[client][0].tobytes()


@every_model
def test_in_single_precision_it_is_within_what_is_promised_of_the_exact_one(model):
    work = Train(LocalTraining(lr=0.1, batch_size=8, epochs=2))
    task = binary(model)
    kernel, start = task.kernel(), task.describe(0)[1]
    data = prepared(kernel, np.random.default_rng(1).integers(5, 60, 64))
    found, apart, moved = in_blocks(kernel, start, data, work, 64), [], []
    for client, rows in data.items():
        alone = kernel.train(start, rows, work, Turn(0, 1, client), None).update
        off = np.linalg.norm(found[client][0] - alone)
        apart.append(off / np.linalg.norm(alone))
        moved.append(off / np.linalg.norm(start))
    assert np.median(apart) <= 1e-5
    assert max(apart) <= 1e-3
    assert max(moved) <= 1e-5


def test_inputs_in_several_windows_are_the_same_inputs(monkeypatch):
    work = Train(LocalTraining(lr=0.1, batch_size=4, epochs=3))
    task = binary(tabular)
    kernel, start = task.kernel(), task.describe(0)[1]
    data = prepared(kernel, [30, 22, 9])
    whole = in_blocks(kernel, start, data, work, 3)
    monkeypatch.setattr("hanse.train.torch_batches.WINDOW", 1)
    for client, (update, counts) in in_blocks(kernel, start, data, work, 3).items():
        assert (update.tobytes(), counts) == (whole[client][0].tobytes(), whole[client][1])


def test_several_inputs_and_several_outputs_are_mapped():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Embedding(5, 4)

        def forward(self, x, z):
            return torch.tanh(self.one(x)) * self.two(z)

    task = TorchTask(model=lambda: Two().double(), loss=nn.SmoothL1Loss())
    kernel, start = task.kernel(), task.describe(0)[1]
    rng, work = np.random.default_rng(0), Train(LocalTraining(lr=0.2, batch_size=4))
    data = {
        f"c{k}": kernel.prepare(
            (rng.normal(size=(n, 3)), rng.integers(0, 5, n), rng.normal(size=(n, 4))),
            Turn(0, 0, "c"),
        )
        for k, n in enumerate((9, 6, 4))
    }
    for client, (update, _) in in_blocks(kernel, start, data, work, 3).items():
        alone = kernel.train(start, data[client], work, Turn(0, 1, client), None)
        np.testing.assert_allclose(update, alone.update, rtol=1e-9, atol=1e-13)


def model_with(part: nn.Module) -> TorchTask:
    return binary(lambda: nn.Sequential(nn.Linear(FEATURES, 4), part, nn.Linear(4, 1)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(FEATURES, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.cell(x.unsqueeze(1))[0][:, 0])


PLAIN = Train(LocalTraining())
UNFIT = {
    "dropout": (model_with(nn.Dropout(0.5)), PLAIN),
    "batch normalisation": (TorchTask(
        model=lambda: nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
        loss=nn.BCEWithLogitsLoss(), buffers="aggregate"), PLAIN),
    "recurrent": (binary(Recurrent), PLAIN),
    "amp": (binary(tabular), Train(LocalTraining(amp=True))),
    "optimizer": (binary(tabular), Train(LocalTraining(optimizer="task"))),
    "mean over rows": (TorchTask(model=tabular, loss=nn.CosineEmbeddingLoss()), PLAIN),
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), UNFIT.items(), ids=UNFIT)
def test_what_cannot_be_trained_in_blocks_says_why(name, case):
    task, work = case
    assert name in task.kernel().blocks.unfit(work)


def test_a_loop_of_ones_own_trains_one_client_at_a_time():
    @loop
    def own(model, dataset, ctx):
        return len(dataset)

    task = TorchTask(model=tabular, loss=nn.BCEWithLogitsLoss(), train=own)
    assert task.kernel().blocks is None


def test_the_width_of_a_batch_is_the_clients_own():
    local = LocalTraining(batch_size=32)
    assert [width_of(n, local) for n in (1, 2, 3, 5, 31, 32, 33, 500)] == [
        1, 2, 4, 8, 32, 32, 32, 32,
    ]  # fmt: skip
    assert width_of(31, replace(local, batch_size=10)) == 10
    assert width_of(33, replace(local, batch_size=None)) == 64


@pytest.mark.parametrize("work", SETTINGS.values(), ids=SETTINGS)
def test_counts_of_arrays_are_the_counts_of_each(work):
    n = np.arange(1, 60)
    for count in (steps_of, seen_of):
        assert list(count(n, work.local)) == [count(int(one), work.local) for one in n]
