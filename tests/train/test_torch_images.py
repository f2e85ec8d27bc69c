"""Images are trained with their channels side by side in memory, where the model takes them so."""

import numpy as np
import pytest
import torch
from tests.train.models import cnn, images
from torch import nn

import hanse
from hanse.core.work import LocalTraining, Train
from hanse.train import exact
from hanse.train.local import Turn
from hanse.train.torch import TorchTask
from hanse.train.torch_data import union
from hanse.train.torch_steps import gradients

TURN = Turn(3, 1, "north")


class Viewing(nn.Module):
    """Flattens by ``view``, which needs the channels one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 4, 3), nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        found = torch.relu(self.conv(x))
        return self.out(found.view(len(x), -1))


def task(model, **more) -> TorchTask:
    return TorchTask(model=model, loss=nn.CrossEntropyLoss(), **more)


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3))


def test_the_format_is_chosen_by_what_the_model_takes():
    assert task(plain).kernel().prepare(images(9, 1), TURN).is_channels_last
    assert not task(Viewing).kernel().prepare(images(9, 1), TURN).is_channels_last


def test_a_model_without_convolutions_keeps_what_it_was_given():
    def flat():
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))

    assert not task(flat).kernel().prepare(images(9, 1), TURN).is_channels_last


def test_a_batch_has_the_values_it_had_and_its_channels_side_by_side():
    x = np.random.default_rng(0).normal(size=(5, 3, 6, 6)).astype(np.float32)

    def model():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3))

    data = task(model).kernel().prepare((x, np.zeros(5, dtype=np.int64)), TURN)
    (found,), _ = data.batch(torch.tensor([4, 1]))
    assert np.array_equal(found.numpy(), x[[4, 1]])
    assert found.stride() == (108, 1, 18, 3)
    (found,), _ = union([data, data]).batch(torch.tensor([9]))
    assert found.stride() == (108, 1, 18, 3)


@pytest.mark.parametrize("model", [plain, Viewing, cnn])
def test_training_does_what_torch_does_up_to_rounding(model):
    made = task(model, buffers="aggregate" if model is cnn else None)
    x, y = images(24, 1)
    kernel, start = made.kernel(), made.describe(0)[1]
    work = Train(LocalTraining(lr=0.1, epochs=1, batch_size=24))
    found = kernel.train(start, kernel.prepare((x, y), TURN), work, TURN, None)
    module = made.build(start).train()
    loss = nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
    expected = torch.autograd.grad(loss, list(module.parameters()))
    views = made.describe(0)[0].views(np.concatenate([found.update, start[found.update.size :]]))
    for (name, _), gradient in zip(module.named_parameters(), expected, strict=True):
        assert np.allclose(views[name], -0.1 * gradient.numpy(), rtol=1e-4, atol=1e-6), name


def test_one_row_through_batch_norm_is_told_when_it_trains_not_when_it_is_read():
    x, y = images(1, 1)
    kernel = task(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 6), nn.BatchNorm2d(3), nn.Flatten()),
        buffers="aggregate",
    ).kernel()
    assert not kernel.prepare((x, y), TURN).is_channels_last


def test_the_digest_does_not_depend_on_the_workers():
    data = {f"site-{n}": (images(8 + n, n), images(4, 9)) for n in range(4)}
    run = [hanse.simulate(task(plain), data, rounds=2, seed=1, workers=w) for w in (1, 2)]
    assert run[0].model_digest == run[1].model_digest


@pytest.mark.parametrize("shape", [(), (1,)])
def test_gradients_are_those_of_autograd(shape):
    used, unused = torch.randn(4, requires_grad=True), torch.randn(2, requires_grad=True)

    def loss():
        return (used**3).sum().reshape(shape)

    found = gradients(loss(), [used, unused])
    expected = torch.autograd.grad(loss(), [used, unused], torch.ones(shape), allow_unused=True)
    assert torch.equal(found[0], expected[0])
    assert found[1] is expected[1] is None


def test_freed_memory_is_kept_inside_only_and_changes_no_bit():
    with exact.kept_memory(), exact.kept_memory():
        assert exact._keepers == [2]
    assert exact._keepers == [0]
    made = task(plain)
    work, start = Train(LocalTraining(lr=0.1, epochs=2)), made.describe(0)[1]
    kernel = made.kernel()
    data = kernel.prepare(images(30, 1), TURN)
    outside = kernel.train(start, data, work, TURN, None).update.copy()
    with exact.kept_memory():
        inside = kernel.train(start, data, work, TURN, None).update
    assert np.array_equal(outside, inside)
