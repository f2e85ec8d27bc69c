"""Gradients that are written out are those of autograd, and only for what they are written for."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.train.models import binary, double, table, tabular
from torch import nn

from hanse.core.work import LocalTraining, Proximal, Train
from hanse.train.local import Turn
from hanse.train.torch_data import Rows
from hanse.train.torch_stack import stack_of

CLASSES, BITS, REALS = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss(), nn.MSELoss()


class Net(nn.Module):
    """As users write them."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 5), nn.Linear(5, 4, bias=False)])
        self.head = nn.Linear(4, outputs)

    def forward(self, x):
        x = torch.flatten(x, 1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


def chain(*parts) -> nn.Sequential:
    return nn.Sequential(*parts)


def twice_flat(x):
    return torch.flatten(x, 1)


class Helped(Net):
    """With functions and methods that go one way only, and a parent."""

    def forward(self, x):
        return self.end(twice_flat(x))

    def end(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


class Child(Net):
    def forward(self, x):
        return super().forward(x)


TAKEN = {
    "functions and methods": (Helped, CLASSES),
    "a parent's": (Child, CLASSES),
    "a linear model": (lambda: nn.Linear(6, 3), CLASSES),
    "one output": (lambda: nn.Linear(6, 1), BITS),
    "several bits": (lambda: chain(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), BITS),
    "regression": (lambda: chain(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 1)), REALS),
    "a function at the end": (lambda: chain(nn.Linear(6, 2), nn.ReLU()), REALS),
    "no bias": (lambda: chain(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)), CLASSES),
    "a module of one's own": (Net, CLASSES),
    "dropout of nothing": (lambda: chain(nn.Linear(6, 5), nn.Dropout(0.0), nn.ReLU(inplace=True),
                                         nn.Identity(), nn.Linear(5, 3)), CLASSES),
    "flattened": (lambda: chain(nn.Flatten(), nn.Linear(6, 3)), CLASSES),
}  # fmt: skip


def rows(loss, outputs: int, n: int = 7, *, shape=(6,), seed: int = 0) -> Rows:
    torch.manual_seed(seed)
    x = torch.randn(n, *shape, dtype=torch.float64)
    if loss is CLASSES:
        return Rows((x,), torch.randint(0, outputs, (n,)))
    y = torch.rand(n, outputs, dtype=torch.float64)
    return Rows((x,), y.squeeze(1) if outputs == 1 else y)


def takes(stack, data: Rows) -> bool:
    return stack.takes(data.inputs, data.targets)


def by_autograd(module, loss, data: Rows):
    outputs = module(*data.inputs)
    if outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    value = loss(outputs, data.targets)
    return value.item(), torch.autograd.grad(value, [*module.parameters()])


def by_hand(stack, params, data: Rows, share):
    found = list(params)

    def give(place, left, right) -> None:
        found[place] = left if right is None else left @ right

    with torch.no_grad():
        losses = stack.gradients(params, data.inputs, data.targets, share, give)
    return losses, found


@pytest.mark.parametrize(("make", "loss"), TAKEN.values(), ids=TAKEN)
def test_gradients_and_losses_are_those_of_autograd(make, loss):
    torch.manual_seed(1)
    module = make().double()
    params = [*module.parameters()]
    stack = stack_of(module, loss, params)
    assert stack is not None
    data = rows(loss, stack.widths[1])
    assert stack.takes(data.inputs, data.targets)
    value, wanted = by_autograd(module, loss, data)
    losses, found = by_hand(stack, params, data, 1 / 7)
    assert losses.mean().item() == pytest.approx(value, rel=1e-12)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("make", "loss"), TAKEN.values(), ids=TAKEN)
def test_many_at_once_have_the_gradients_of_each(make, loss):
    torch.manual_seed(1)
    modules = [make().double() for _ in range(3)]
    stack = stack_of(modules[0], loss, [*modules[0].parameters()])
    assert stack is not None
    each = [rows(loss, stack.widths[1], seed=k) for k in range(3)]
    params = [torch.stack(p) for p in zip(*(m.parameters() for m in modules), strict=True)]
    together = Rows(
        (torch.stack([d.inputs[0] for d in each]),), torch.stack([d.targets for d in each])
    )
    losses, found = by_hand(stack, params, together, torch.full((3, 7), 1 / 7, dtype=torch.float64))
    for k, module in enumerate(modules):
        value, wanted = by_autograd(module, loss, each[k])
        assert losses[k].mean().item() == pytest.approx(value, rel=1e-12)
        for one, two in zip(found, wanted, strict=True):
            torch.testing.assert_close(one[k], two, rtol=1e-11, atol=1e-14)


def test_what_a_row_counts_weighs_its_gradient():
    stack = stack_of(module := nn.Linear(6, 3).double(), CLASSES, [*module.parameters()])
    data, share = rows(CLASSES, 3), torch.tensor([1.0, 1, 0, 0, 0, 0, 0], dtype=torch.float64) / 2
    _, found = by_hand(stack, [*module.parameters()], data, share)
    few = Rows((data.inputs[0][:2],), data.targets[:2])
    for one, two in zip(found, by_autograd(module, CLASSES, few)[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-15)


class Own(nn.Linear):
    """Computes something else than its parent."""

    def forward(self, x):
        return super().forward(x) * 2


class Residual(Net):
    def forward(self, x):
        return self.head(torch.relu(self.layers[1](x)) + x[:, :4])


class Twice(Net):
    def forward(self, x):
        return self.head(self.layers[1](torch.relu(self.layers[0](x)))) * 2


class Moody(Net):
    """Takes one way or another: tracing it once does not tell which."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls % 2:
            return super().forward(x)
        return -super().forward(x)


def mood(x, calls: int):
    return -x if calls % 2 else x


class Elsewhere(Net):
    """Decides in a function."""

    calls = 0

    def forward(self, x):
        return mood(super().forward(x), self.calls)


class Hidden(Net):
    """Decides in a method."""

    calls = 0

    def forward(self, x):
        return self.way(super().forward(x))

    def way(self, x):
        return x if self.calls % 2 else -x


class Asked(Net):
    """Decides in a property."""

    calls = 0

    @property
    def sign(self):
        return 1 if self.calls else -1

    def forward(self, x):
        _ = self.sign
        return super().forward(x)


class Inherited(Moody):
    """Decides in its parent's."""

    def forward(self, x):
        return super().forward(x)


def chosen(*, flip: bool) -> nn.Module:
    """Decides in a function that it closes over."""
    turn = lambda x: -x if flip else x  # noqa: E731

    class Closed(Net):
        def forward(self, x):
            return turn(super().forward(x))

    return Closed()


def tied() -> nn.Module:
    one = nn.Linear(6, 6)
    return chain(one, nn.ReLU(), one, nn.ReLU(), nn.Linear(6, 3))


def hooked() -> nn.Module:
    module = chain(nn.Linear(6, 3))
    module[0].register_forward_hook(lambda _module, _args, out: out * 2)
    return module


def buffered() -> nn.Module:
    module = Net()
    module.register_buffer("seen", torch.zeros(1))
    return module


def unused() -> nn.Module:
    module = Net()
    module.spare = nn.Linear(2, 2)
    return module


NOT_TAKEN = {
    "dropout": (lambda: chain(nn.Linear(6, 5), nn.Dropout(0.1), nn.Linear(5, 3)), CLASSES),
    "convolution": (lambda: chain(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(),
                                  nn.Linear(8, 3)), CLASSES),
    "normalisation": (lambda: chain(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3)), CLASSES),
    "another function": (lambda: chain(nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3)), CLASSES),
    "leaky": (lambda: chain(nn.Linear(6, 4), nn.LeakyReLU(), nn.Linear(4, 3)), CLASSES),
    "two functions": (lambda: chain(nn.Linear(6, 3), nn.ReLU(), nn.Tanh()), CLASSES),
    "a layer of one's own": (lambda: chain(Own(6, 3)), CLASSES),
    "a residual": (Residual, CLASSES), "arithmetic": (Twice, CLASSES), "branches": (Moody, CLASSES),
    "branches in a function": (Elsewhere, CLASSES), "branches in a method": (Hidden, CLASSES),
    "branches in its parent": (Inherited, CLASSES), "branches in a property": (Asked, CLASSES),
    "branches in what it closes over": (lambda: chosen(flip=False), CLASSES),
    "tied weights": (tied, CLASSES), "hooks": (hooked, CLASSES),
    "unused parameters": (unused, CLASSES), "buffers": (buffered, CLASSES),
    "class weights": (Net, nn.CrossEntropyLoss(weight=torch.ones(3))),
    "label smoothing": (Net, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "a class that is ignored": (Net, nn.CrossEntropyLoss(ignore_index=1)),
    "positive weights": (Net, nn.BCEWithLogitsLoss(pos_weight=torch.ones(3))),
    "another loss": (Net, nn.L1Loss()),
}  # fmt: skip


@pytest.mark.parametrize(("make", "loss"), NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_what_it_is_not_written_for_is_left_to_autograd(make, loss):
    module = make()
    assert stack_of(module, loss, [*module.parameters()]) is None


def test_a_frozen_parameter_is_left_to_autograd():
    module = Net()
    module.head.bias.requires_grad_(False)
    trained = [p for p in module.parameters() if p.requires_grad]
    assert stack_of(module, CLASSES, trained) is None


def test_a_stack_takes_only_rows_of_its_shape_and_targets_of_its_loss():
    stack = stack_of(module := nn.Linear(6, 3), CLASSES, [*module.parameters()])
    assert takes(stack, rows(CLASSES, 3))
    assert not takes(stack, rows(CLASSES, 3, shape=(2, 3)))  # a linear layer of each row's rows
    assert not takes(stack, Rows((torch.randn(4, 6),), torch.rand(4, 3)))  # class probabilities
    assert not takes(stack, Rows((torch.randn(4, 6), torch.randn(4, 6)), torch.zeros(4).long()))
    assert not takes(stack, Rows((torch.randint(0, 5, (4, 6)),), torch.zeros(4).long()))
    flat = stack_of(module := chain(nn.Flatten(), nn.Linear(6, 3)), REALS, [*module.parameters()])
    assert takes(flat, Rows((torch.randn(4, 2, 3),), torch.rand(4, 3)))
    assert not takes(flat, Rows((torch.randn(4, 2, 3),), torch.rand(4)))  # torch would broadcast
    assert not takes(flat, Rows((torch.randn(4, 2, 3),), torch.rand(4, 3).double()))


LOCAL = {
    "plain": Train(LocalTraining(lr=0.1, batch_size=8, epochs=2)),
    "momentum": Train(LocalTraining(lr=0.1, batch_size=8, momentum=0.9, weight_decay=0.01)),
    "adam": Train(LocalTraining(optimizer="adam", lr=0.01, batch_size=8, steps=7)),
    "proximal": Train(LocalTraining(lr=0.1, batch_size=8, epochs=3), Proximal(0.5)),
}


@pytest.mark.parametrize("work", LOCAL.values(), ids=LOCAL)
def test_a_kernel_trains_by_hand_what_it_trains_by_autograd(work):
    task = binary(double(tabular))
    kernel, start = task.kernel(), task.describe(0)[1]
    data = kernel.prepare(table(45, 1), Turn(0, 0, "site-1"))
    assert kernel.stepping.stack is not None
    hand = copy.deepcopy(kernel.train(start, data, work, Turn(0, 1, "site-1"), None))
    kernel.stepping = replace(kernel.stepping, stack=None)
    autograd = kernel.train(start, data, work, Turn(0, 1, "site-1"), None)
    assert np.linalg.norm(hand.update) > 1e-3
    np.testing.assert_allclose(hand.update, autograd.update, rtol=1e-9, atol=1e-13)
    assert hand.counts == pytest.approx(autograd.counts, abs=1)


def test_models_of_the_examples_are_written_out():
    assert binary(partial(tabular, 1)).kernel().stepping.stack is not None
