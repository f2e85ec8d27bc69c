"""DP-SGD: what is summed is what it says, and one example moves it by the clip at most."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import opacus
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.train.models import binary, classes, cnn, images, table, tabular
from tests.train.private_models import BY_HOOKS, MODELS, OTHERWISE, made
from torch import Tensor, nn

import hanse
from hanse import ConfigError, LocalTraining, TaskError
from hanse.core.seeds import stream
from hanse.core.work import LocalPrivacy, Proximal, Train
from hanse.privacy.secret import fresh
from hanse.train.local import Turn
from hanse.train.torch import TorchTask
from hanse.train.torch_clipped import Alone, Mapped
from hanse.train.torch_hooked import Hooked
from hanse.train.torch_losses import by_row
from hanse.train.torch_private import PrivateTraining, batch, noised
from hanse.train.torch_recurrent import suffixes, unrolled

ROWS = by_row(nn.CrossEntropyLoss())
PRIVATE = LocalPrivacy(clip=1.0, noise_multiplier=1.0, sampling_rate=0.2)
LOCAL = LocalTraining(lr=0.1, batch_size=8, steps=5, privacy=PRIVATE)
TURN = Turn(3, 1, "one")


def parameters(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def alone(module: nn.Module) -> Alone:
    return Alone(module, ROWS, parameters(module))


def mapped(module: nn.Module) -> Mapped:
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    return Mapped(module, ROWS, parameters(module), names)


def hooked(module: nn.Module) -> Hooked:
    return Hooked(module, ROWS, parameters(module))


def summed(way, inputs: Tensor, targets: Tensor, clip: float) -> Tensor:
    """The clipped sum, flat; parameters that take no part are zero."""
    into = [None] * len(way.parameters)
    way((inputs,), targets).clipped(clip, into)
    found = [
        torch.zeros_like(p) if s is None else s for s, p in zip(into, way.parameters, strict=True)
    ]
    return torch.cat([part.flatten() for part in found]).detach()


def by_hand(module: nn.Module, inputs: Tensor, targets: Tensor, clip: float) -> Tensor:
    """The same as plain loops."""
    params = parameters(module)
    total = torch.zeros(sum(p.numel() for p in params), dtype=torch.float64)
    for x, y in zip(inputs, targets, strict=True):
        loss = nn.functional.cross_entropy(module(x[None]), y[None])
        grads = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        flat = torch.cat([g.flatten() for g in grads])
        total = total + flat * min(1.0, clip / float(flat.norm()))
    return total


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("clip", [0.3, 1e6])
def test_clipped_sums_are_those_of_plain_loops(name, clip):
    module, inputs, targets = made(name, 6)
    wanted = by_hand(module, inputs, targets, clip)
    ways = [alone(module)]
    if not any(isinstance(part, nn.RNNBase) for part in module.modules()):
        ways.append(mapped(module))
    if name in BY_HOOKS:
        assert hooked(module).fits()
        ways.append(hooked(module))
    for way in ways:
        # the clip leaves 2^-16 of room
        torch.testing.assert_close(summed(way, inputs, targets, clip), wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", BY_HOOKS)
def test_norms_by_hooks_are_those_of_one_at_a_time(name):
    module, inputs, targets = made(name, 6)
    one, two = (way(module)((inputs,), targets).norms() for way in (hooked, alone))
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", OTHERWISE)
def test_hooks_are_not_trusted_where_they_miss_something(name):
    """By what the model is, by its graph, or because a few rows show it."""
    module, inputs, targets = made(name, 6)
    way = hooked(module)
    if not way.fits() or way((inputs,), targets) is None:
        return
    found = training(module)._clipped(data_of(module, inputs, targets))
    assert not any(isinstance(way, Hooked) for way in found.ways)


@pytest.mark.parametrize("name", ["twice", "behind the layer"])
def test_the_graph_of_a_batch_tells_of_uses_that_hooks_do_not_hear(name):
    """Whatever a few rows showed: which layers a model uses may follow from the data."""
    module, inputs, targets = made(name, 6)
    way = hooked(module)
    assert way.fits()
    assert way((inputs,), targets) is None


def task(module: nn.Module, **more) -> TorchTask:
    return TorchTask(model=lambda: copy.deepcopy(module), loss=nn.CrossEntropyLoss(), **more)


def training(module: nn.Module) -> PrivateTraining:
    return task(module).kernel().private


def data_of(module: nn.Module, inputs: Tensor, targets: Tensor):
    return task(module).kernel().prepare((inputs, targets), TURN)


def test_a_clipped_sum_is_that_of_opacus():
    """In float64. (Its gradients of an embedding forget padding_idx, which autograd does not.)"""
    for name in ("mlp", "conv1d", "cnn", "padded alike", "at several places"):
        module, inputs, targets = made(name, 6)
        for part in module.modules():
            if isinstance(part, nn.ReLU):
                part.inplace = False  # which its hooks cannot take
        ours = summed(hooked(module), inputs, targets, 0.3)
        theirs = opacus.GradSampleModule(module, loss_reduction="sum")
        nn.functional.cross_entropy(theirs(inputs), targets, reduction="sum").backward()
        each = torch.cat([p.grad_sample.flatten(1) for p in theirs.parameters()], dim=1)
        factors = (0.3 / each.norm(dim=1)).clamp(max=1.0)
        torch.testing.assert_close(ours, factors @ each, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True),
        nn.LSTM(4, 5, 3, dropout=0.5, bias=False),
    ],
    ids=repr,
)
def test_an_lstm_written_out_returns_what_torch_s_does(layer):
    layer, x = layer.double(), torch.randn(6, 7, 4, dtype=torch.float64)
    size = (len(suffixes(layer)), 6 if layer.batch_first else 7, 5)
    state = (torch.randn(size).double(), torch.randn(size).double())
    for told in ((x,), (x, state)):
        layer.eval()
        (out, ends), heard = layer(*told), list[str]()
        keep = partial(lambda heard, name, *_: heard.append(name), heard)
        found, last = unrolled(layer, keep, *told)
        for one, two in zip((found, *last), (out, *ends), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
        assert heard == suffixes(layer)
    twice = [unrolled(layer.train(), lambda *_: None, x)[0] for _ in range(2)]
    assert torch.equal(*twice) is not bool(layer.dropout)


HUGE = st.sampled_from([0.0, 1.0, -3.0, 1e-30, 1e12, -1e30, 3e38, math.inf, -math.inf, math.nan])
INPUTS = arrays(np.float32, (5, 7), elements=HUGE | st.floats(-10, 10, width=32))


@pytest.mark.parametrize("way", [hooked, mapped, alone], ids=lambda way: way.__name__)
@settings(max_examples=40, deadline=None)
@given(INPUTS, st.integers(0, 4), st.floats(-10, 10).map(lambda power: 2.0**power))
@example(np.full((5, 7), 3e38, np.float32), 0, 2.0**-5)  # what is left has few bits in float32
def test_one_example_moves_the_sum_by_the_clip_at_most(way, inputs, place, clip):
    """Without it a row of NaN is in its place, which counts as nothing: in a smaller batch the
    last digits of other rows can differ, since a product of matrices adds in another order.
    """
    module, _, targets = made("mlp", 5)
    module, rows = module.float(), torch.from_numpy(inputs.copy())
    without = rows.clone()
    without[place] = math.nan
    whole = summed(way(module), rows, targets, clip).double()
    less = summed(way(module), without, targets, clip).double()
    assert bool(torch.isfinite(whole).all())
    assert float((whole - less).norm()) <= clip


@pytest.mark.parametrize("name", ["cnn", "at several places", "embedding", "lstm"])
def test_an_example_that_overflows_adds_nothing(name):
    module, inputs, targets = made(name, 4)
    way = hooked(module) if name in BY_HOOKS else alone(module)
    if inputs.dtype.is_floating_point:
        inputs[1] = math.nan
    else:
        next(module.children()).weight.data[10] = math.inf
        inputs.clamp_(max=9)[1, 0] = 10
    kept = [0, 2, 3]
    whole, less = (summed(way, inputs[k], targets[k], 0.5) for k in ([0, 1, 2, 3], kept))
    torch.testing.assert_close(whole, less)


def test_the_clip_is_reached():
    module, inputs, targets = made("mlp", 1)
    length = float(summed(hooked(module), 1e3 * inputs, targets, 0.5).norm())
    assert 0.5 * (1 - 2**-15) < length < 0.5


def local_of(rate=0.2, clip=1.0, noise=1.0, **more) -> LocalTraining:
    private = LocalPrivacy(clip=clip, noise_multiplier=noise, sampling_rate=rate)
    return replace(LOCAL, privacy=private, **more)


def trained(task: TorchTask, data, local: LocalTraining, turn: Turn = TURN, **more):
    kernel = task.kernel()
    start = task.describe(0)[1]
    return kernel.train(start, kernel.prepare(data, turn), Train(local, **more), turn, None)


def again(data, local: LocalTraining, mu: float) -> np.ndarray:
    """Train as plain loops would, from the same streams."""
    module, private = (
        task(made("mlp", 1)[0]).build(task(made("mlp", 1)[0]).describe(0)[1]),
        local.privacy,
    )
    params = [*module.parameters()]
    starts, speed = [p.detach().clone() for p in params], [torch.zeros_like(p) for p in params]
    kernel = training(made("mlp", 1)[0])
    for step in range(local.steps):
        chosen = batch(TURN, step, len(data[1]), private.sampling_rate)
        total = np.zeros(kernel.size)
        flat = by_hand(module, data[0][chosen], data[1][chosen], private.clip)
        if len(chosen):
            for span, part in zip(
                kernel.spans, flat.split([p.numel() for p in params]), strict=True
            ):
                total[span] = part.numpy()
        mean = noised(total, private, TURN, step) / local.batch_size
        for place, (p, span) in enumerate(zip(params, kernel.spans, strict=True)):
            grad = torch.from_numpy(mean[span]).view(p.shape)
            grad = grad + mu * (p.detach() - starts[place]) + local.weight_decay * p.detach()
            speed[place] = local.momentum * speed[place] + grad
            p.data -= local.lr * speed[place]
    moved = np.zeros(kernel.size)
    for p, start, span in zip(params, starts, kernel.spans, strict=True):
        moved[span] = (p.detach() - start).flatten().numpy()
    return moved


def test_training_is_what_plain_loops_do_with_the_same_streams():
    """Momentum, weight decay and the correction of FedProx come after clip and noise."""
    module, inputs, targets = made("mlp", 30)
    local = local_of(noise=0.3, clip=0.5, momentum=0.9, weight_decay=0.1, steps=6)
    found = trained(task(module), (inputs, targets), local, correction=Proximal(0.2))
    wanted = again((inputs, targets), local, 0.2)
    np.testing.assert_allclose(found.update, wanted, rtol=1e-4, atol=1e-6)
    assert found.counts == {"examples": 0, "steps": 6, "seen": 0, "loss": 0}


@pytest.mark.parametrize("n", [3, 8, 50])
def test_the_sum_is_divided_by_the_batch_size_however_many_were_taken(n):
    module, inputs, targets = made("mlp", n)
    local = local_of(rate=1.0, noise=1e-9, clip=0.5, batch_size=10, steps=1, lr=1.0)
    found = trained(task(module), (inputs, targets), local)
    wanted = by_hand(module, inputs, targets, 0.5) / 10
    kernel = training(module)
    update = np.concatenate([found.update[span] for span in kernel.spans])
    np.testing.assert_allclose(update, -wanted.numpy(), rtol=1e-4, atol=1e-6)


def test_a_batch_larger_than_memory_is_taken_in_parts(monkeypatch):
    module, inputs, targets = made("cnn", 20)
    local = local_of(rate=1.0, noise=1e-9, steps=2)
    whole = trained(task(module), (inputs, targets), local).update.copy()
    monkeypatch.setattr("hanse.train.torch_private.WRITTEN", 10_000)
    at_once = training(module)._clipped(data_of(module, inputs, targets)).at_once
    assert 1 < at_once < 10
    parts = trained(task(module), (inputs, targets), local).update
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-12)


def test_noise_has_the_variance_it_is_accounted_with():
    """128,000 draws: the variance is off by more than 2 % once in 10^6 times, the mean likewise."""
    private = LocalPrivacy(clip=0.7, noise_multiplier=1.3, sampling_rate=0.1)
    drawn = np.stack([noised(np.zeros(64), private, TURN, step) for step in range(2000)])
    assert abs(drawn.var() / (0.7 * 1.3) ** 2 - 1) < 5 * math.sqrt(2 / drawn.size)
    assert abs(drawn.mean()) < 5 * 0.7 * 1.3 / math.sqrt(drawn.size)
    assert np.abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 5 / drawn.size**0.5


def test_noise_is_on_a_grid_that_does_not_depend_on_what_it_hides():
    private = LocalPrivacy(clip=1.0, noise_multiplier=1.0, sampling_rate=0.1)
    for total in (0.0, 1 / 3, -1e-9, 123.456):
        found = noised(np.full(100, total), private, TURN, 0) * 2.0**20
        assert (found == np.rint(found)).all()


def test_empty_batches_are_noised_all_the_same():
    """No row is ever taken: 4 steps of noise z·C·lr/B each. Off by 12 %, once in 10^6 times."""
    data = table(20, 1)
    local = local_of(rate=1e-12, noise=2.0, clip=0.5, batch_size=4, steps=4, lr=0.1)
    found = trained(classes(partial(tabular, 2)), data, local).update
    found = found[found != 0]  # the places between parameters
    stddev = math.sqrt(4) * 2.0 * 0.5 * 0.1 / 4
    assert abs(found.var() / stddev**2 - 1) < 5 * math.sqrt(2 / found.size)


def test_parameters_that_take_no_part_are_noised_too():
    """Whether a layer is used may follow from the data."""
    module, inputs, targets = made("unused", 9)
    found = trained(task(module), (inputs, targets), LOCAL).update
    assert (np.concatenate([found[span] for span in training(module).spans]) != 0).all()


def test_each_example_is_taken_by_itself_with_the_rate():
    """Of 400 rows over 2,000 steps: the number taken has a binomial's mean and variance, and each
    row its share. Five standard deviations; for 400 rows, one in 5,000 runs.
    """
    taken = np.zeros((2000, 400), dtype=bool)
    for step in range(2000):
        taken[step, batch(TURN, step, 400, 0.1).numpy()] = True
    sizes = taken.sum(1)
    assert abs(sizes.mean() - 40) < 5 * math.sqrt(36 / 2000)
    assert abs(sizes.var() / 36 - 1) < 5 * math.sqrt(2 / 2000)
    assert np.abs(taken.mean(0) - 0.1).max() < 5 * math.sqrt(0.09 / 2000)


def test_a_turn_has_its_bits_and_another_round_has_others():
    data, torch_task = table(30, 1), classes(partial(tabular, 2, dropout=0.5))
    one = trained(torch_task, data, LOCAL).update.copy()
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.default_generator.get_state(), np.random.get_state()[1].copy()
    assert np.array_equal(trained(torch_task, data, LOCAL).update, one)
    assert torch.equal(torch.default_generator.get_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    for turn in (replace(TURN, round=2), replace(TURN, client="two"), replace(TURN, seed=4)):
        assert (trained(torch_task, data, LOCAL, turn).update != one)[one != 0].all()


def test_all_that_a_claim_rests_on_comes_from_the_turn():
    """Across real sites that is the operating system: nobody can seed it."""
    data, secret = table(30, 1), replace(TURN, draw=fresh)
    found = [trained(binary(tabular), data, LOCAL, secret).update.copy() for _ in range(2)]
    assert (found[0] != found[1])[found[0] != 0].all()
    asked = list[str]()

    def noting(*names):
        asked.append(names[-1])
        return stream(*names)

    trained(binary(tabular), data, LOCAL, replace(TURN, draw=noting))
    assert sorted(set(asked)) == sorted(
        ["dp-sgd model", *(f"dp-sgd {what} {k}" for what in ("batch", "noise") for k in range(5))]
    )


class Mixing(nn.Module):
    """What BatchNorm does, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(27, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - x.mean(0))


class Remembering(nn.Module):
    """Keeps a mean of what it saw."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(27, 2)
        self.register_buffer("mean", torch.zeros(27), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.inner(x)


@pytest.mark.parametrize(
    ("torch_task", "text"),
    [
        (classes(Mixing), "depends on the other rows"),
        (classes(partial(Remembering, persistent=False)), "changes its buffer mean"),
        (classes(partial(Remembering, persistent=True), buffers="freeze"), "changes its buffer"),
    ],
    ids=["mixing", "remembering", "remembering, frozen"],
)
def test_a_model_in_which_examples_meet_is_refused(torch_task, text):
    with pytest.raises(TaskError, match=text):
        trained(torch_task, table(30, 1), LOCAL)


class Looking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(5, 4, max_norm=1.0), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.table(x).mean(1))


@hanse.train.torch.loop
def own(model, dataset, ctx):
    return len(dataset)


@pytest.mark.parametrize(
    ("torch_task", "text", "hint"),
    [
        (classes(cnn, buffers="aggregate"), "without noise", "GroupNorm"),
        (classes(cnn, buffers="local"), "without noise", "GroupNorm"),
        (
            classes(lambda: nn.Sequential(nn.BatchNorm1d(27, track_running_stats=False))),
            "0 is a BatchNorm1d: an example's gradient depends on the others",
            "nn.GroupNorm",
        ),
        (classes(Looking), "max_norm", "leave"),
        (
            classes(tabular, loss=nn.CrossEntropyLoss(weight=torch.ones(2))),
            "not known to be a mean over rows",
            "class weights",
        ),
        (classes(tabular, train=own), "a loop of your own", "leave out"),
    ],
    ids=["aggregate", "local", "batch norm", "max_norm", "weights", "loop"],
)
def test_what_cannot_be_trained_privately_is_refused(torch_task, text, hint):
    with pytest.raises(ConfigError, match=text) as caught:
        torch_task.check(Train(LOCAL), "uniform")
    assert hint in caught.value.hint


def test_batch_norm_with_frozen_statistics_can_be_trained():
    data = images(30, 1)
    found = trained(classes(cnn, buffers="freeze"), data, LOCAL)
    assert found.buffers is None
    assert np.isfinite(found.update).all()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "task"])
def test_any_optimiser_follows_the_noised_gradient(optimizer):
    torch_task = binary(tabular, optimizer=lambda params: torch.optim.RMSprop(params, lr=0.01))
    found = trained(torch_task, table(30, 1), replace(LOCAL, optimizer=optimizer)).update
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


def test_a_model_learns_under_noise():
    """Two of 27 features decide: nine in ten right after 60 steps of ε = 1.6 at δ = 1e-5."""
    torch_task = classes(partial(tabular, 2))
    data = table(2000, 1)
    local = local_of(rate=0.1, clip=1.0, noise=2.0, batch_size=200, steps=60, lr=2.0)
    found = trained(torch_task, data, local).update
    vector = torch_task.describe(0)[1].copy()
    vector[: found.size] += found
    with torch.no_grad():
        guess = torch_task.build(vector)(torch.from_numpy(table(1000, 2)[0])).argmax(1)
    assert (guess.numpy() == table(1000, 2)[1]).mean() > 0.9
