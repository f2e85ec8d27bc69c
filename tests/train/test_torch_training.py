"""Local training: the same arithmetic as PyTorch's own, step by step."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.train.models import (
    FEATURES,
    binary,
    cnn,
    curved,
    double,
    federation,
    logistic,
    state,
    table,
    tabular,
)
from torch import nn
from torch.utils.data import Dataset

import hanse
from hanse import LocalTraining, TaskError
from hanse.core import seeds
from hanse.core.work import Proximal, Train
from hanse.train.local import Turn
from hanse.train.torch import TorchTask

N = 21
X, Y = table(N, 1)


def batches(n: int, local: LocalTraining, turn: Turn) -> list[np.ndarray]:
    """The rows of each step, by the rule that a run's spec states."""
    found = []
    for epoch in range(local.epochs):
        order = seeds.permutation(seeds.key(turn.seed, turn.round, turn.client, epoch), n)
        size = local.batch_size or n
        found += [order[at : at + size] for at in range(0, n, size)]
    return found[: local.steps]


def bare(task: TorchTask, local: LocalTraining, turn: Turn, make, *, mu=0.0, x=X, y=Y):
    """Train as one would without Hanse, on one thread; return the parameters after it."""
    with task.exactly(1):
        return _bare(task, local, turn, make, mu, x, y)


def _bare(task, local, turn, make, mu, x, y):
    model = task.build(task.describe(turn.seed)[1]).train()
    optimizer = make(model.parameters())
    start = [p.detach().clone() for p in model.parameters()]
    dtype = start[0].dtype
    for rows in batches(len(y), local, turn):
        step = torch.from_numpy(x[rows]).to(dtype), torch.from_numpy(y[rows]).to(dtype)
        optimizer.zero_grad()
        loss = task.loss(model(step[0])[:, 0], step[1])
        for p, s in zip(model.parameters(), start, strict=True) if mu else ():
            loss = loss + mu / 2 * ((p - s) ** 2).sum()
        loss.backward()
        optimizer.step()
    return state(model)


def trained(task: TorchTask, local: LocalTraining, turn: Turn, *, mu=None, x=X, y=Y):
    """Train by the kernel; return the parameters after it, and what was counted."""
    kernel, (layout, start) = task.kernel(), task.describe(turn.seed)
    work = Train(local, None if mu is None else Proximal(mu))
    with task.exactly(1):
        counts = kernel.train(start, kernel.prepare((x, y), turn), work, turn, None).counts
    return {n: v.copy() for n, v in layout.views(kernel.vector()).items()}, counts


def assert_near(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=tolerance, err_msg=name
        )


PAIRS = {
    "sgd": (LocalTraining(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (
        LocalTraining(lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ),
    "weight decay": (
        LocalTraining(lr=0.1, weight_decay=0.3),
        lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3),
    ),
    "momentum and decay": (
        LocalTraining(lr=0.1, momentum=0.5, weight_decay=0.3),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=0.3),
    ),
    "adam": (
        LocalTraining(optimizer="adam", lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (
        LocalTraining(optimizer="adamw", lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_optimiser_does_to_the_bit_what_torch_optim_does(pair, dtype):
    local, optimizer = PAIRS[pair]
    local = replace(local, epochs=3, batch_size=8)
    task = binary(double(curved) if dtype == "float64" else curved)
    turn = Turn(3, 5, "cleveland")
    found, counts = trained(task, local, turn)
    assert_near(found, bare(task, local, turn, optimizer), 0)
    assert (counts["examples"], counts["steps"], counts["seen"]) == (N, 9, 3 * N)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_optimiser_that_a_task_brings_is_used_and_starts_anew_each_turn(momentum):
    def own(params):
        return torch.optim.SGD(params, lr=0.1, momentum=momentum)

    local = LocalTraining(optimizer="task", epochs=2, batch_size=8)
    task, turn = binary(curved, optimizer=own), Turn(0, 1, "a")
    kernel, (_, start) = task.kernel(), task.describe(0)
    data = kernel.prepare((X, Y), turn)
    updates = [kernel.train(start, data, Train(local), turn, None).update.copy() for _ in range(2)]
    np.testing.assert_array_equal(*updates)
    assert_near(trained(task, local, turn)[0], bare(task, local, turn, own), 0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("mu", [0.01, 2.0])
def test_the_proximal_term_is_part_of_the_gradient(mu, momentum):
    """So that momentum and Adam see it: the gradient of loss + mu/2·‖w − w_start‖²."""
    local = LocalTraining(lr=0.05, momentum=momentum, epochs=3, batch_size=8)
    task, turn = binary(double(tabular)), Turn(1, 2, "b")

    def sgd(params):
        return torch.optim.SGD(params, lr=0.05, momentum=momentum)

    found, _ = trained(task, local, turn, mu=mu)
    assert_near(found, bare(task, local, turn, sgd, mu=mu), 1e-12)
    assert abs(found["0.weight"] - trained(task, local, turn)[0]["0.weight"]).max() > 1e-6


class Sum(nn.Module):
    """Two parameters that are added: autograd hands both of them one and the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.full((FEATURES, 1), 0.1))
        self.personal = nn.Parameter(torch.full((FEATURES, 1), -0.2))

    def forward(self, x):
        return x @ (self.shared + self.personal)


class Offset(nn.Module):
    """A parameter whose gradient is one number, expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.offset = nn.Linear(FEATURES, 1), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.linear(x) + self.offset.sum()


@pytest.mark.parametrize("model", [Sum, Offset])
@pytest.mark.parametrize(("momentum", "decay", "mu"), [(0.9, 0, 0), (0, 0.3, 0), (0.5, 0.3, 0.7)])
def test_parameters_that_share_one_gradient_are_trained_like_any_others(model, momentum, decay, mu):
    local = LocalTraining(lr=0.1, momentum=momentum, weight_decay=decay, epochs=2, batch_size=8)

    def sgd(params):
        return torch.optim.SGD(params, lr=0.1, momentum=momentum, weight_decay=decay)

    task, turn = binary(double(model)), Turn(0, 1, "a")
    found, _ = trained(task, local, turn, mu=mu or None)
    assert_near(found, bare(task, local, turn, sgd, mu=mu), 1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients_train_like_dense_ones(momentum):
    words, y = np.random.default_rng(0).integers(0, 9, (20, 5)), np.arange(20) % 2
    local = LocalTraining(lr=0.1, batch_size=8, momentum=momentum, weight_decay=0.1)
    models = [
        lambda sparse=sparse: nn.Sequential(
            nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(20, 1)
        )
        for sparse in (True, False)
    ]
    data = {"a": ((words, y), None), "b": ((words[::-1].copy(), y), None)}
    strategy = hanse.fedprox(mu=0.1)
    digests = {
        hanse.simulate(binary(m), data, local=local, strategy=strategy, rounds=2).model_digest
        for m in models
    }
    assert len(digests) == 1


def test_a_parameter_that_takes_no_part_stays_where_it_is():
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.spare = nn.Linear(FEATURES, 1), nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x)

    task, turn = binary(Spare), Turn(0, 1, "a")
    layout, start = task.describe(0)
    for mu in (None, 1.0):
        found, _ = trained(task, LocalTraining(lr=0.1, momentum=0.9), turn, mu=mu)
        np.testing.assert_array_equal(found["spare.weight"], layout.views(start)["spare.weight"])
        assert not np.array_equal(found["linear.weight"], layout.views(start)["linear.weight"])


@pytest.mark.parametrize(
    ("epochs", "size", "steps", "expected"),
    [
        (1, 8, None, (3, N)),
        (2, 8, None, (6, 2 * N)),
        (3, None, None, (3, 3 * N)),
        (1, 100, None, (1, N)),
        (2, 8, 4, (4, N + 8)),
        (1, 8, 5, (5, N + 16)),
        (1, N, 1, (1, N)),
    ],
)
def test_steps_and_examples_seen_are_counted(epochs, size, steps, expected):
    local = LocalTraining(epochs=epochs, batch_size=size, steps=steps)
    _, counts = trained(binary(), local, Turn(0, 1, "a"))
    assert (counts["steps"], counts["seen"]) == expected
    assert counts["examples"] == N


def test_the_training_loss_is_the_mean_over_the_examples_seen_while_training():
    local, turn = LocalTraining(lr=0.0, batch_size=8, epochs=2), Turn(0, 1, "a")
    task = binary()
    _, counts = trained(task, local, turn)
    model = task.build(task.describe(0)[1])
    loss = task.loss(model(torch.from_numpy(X))[:, 0], torch.from_numpy(Y).float())
    mean = counts["loss"] * hanse.metrics.FIXED / counts["seen"]
    assert mean == pytest.approx(loss.item(), abs=1e-5)


def test_batches_follow_seed_round_client_and_epoch_and_nothing_else():
    local, task = LocalTraining(lr=0.5, batch_size=4), binary()
    plain = Turn(0, 1, "a")
    first = trained(task, local, plain)[0]["0.weight"]
    np.testing.assert_array_equal(first, trained(task, local, plain)[0]["0.weight"])
    for other in (Turn(0, 2, "a"), Turn(0, 1, "b")):
        assert not np.array_equal(first, trained(task, local, other)[0]["0.weight"])
    orders = [rows.tobytes() for rows in batches(N, LocalTraining(epochs=2), plain)]
    assert len(set(orders)) == 2


def test_dropout_is_drawn_anew_each_turn_and_alike_for_the_same_turn():
    task, local = binary(partial(tabular, dropout=0.5)), LocalTraining(batch_size=None)
    one, again = (trained(task, local, Turn(0, 1, "a"))[0]["0.weight"] for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, trained(task, local, Turn(0, 2, "a"))[0]["0.weight"])


class Noisy(Dataset):
    """Augments with whatever generator comes to hand."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i):
        noise = random.random() + np.random.random() + torch.rand(1).numpy()
        return X[i] + noise, Y[i]


def test_a_data_set_that_draws_from_global_generators_makes_the_same_model_on_any_worker():
    data = {f"s{k}": (Noisy(), Noisy()) for k in range(4)}
    local = LocalTraining(batch_size=8)
    runs = [hanse.simulate(binary(), data, local=local, rounds=2, workers=w) for w in (1, 2, 4)]
    assert len({run.model_digest for run in runs}) == 1
    assert len({run.history[-1]["evaluation"]["pooled"]["loss"] for run in runs}) == 1


def test_a_model_that_draws_while_it_is_evaluated_is_measured_alike_on_any_worker():
    class Sampled(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    data = {f"s{k}": ((X, Y), (X, Y)) for k in range(4)}
    task = binary(lambda: Sampled(FEATURES, 1))
    one, two = (hanse.simulate(task, data, rounds=2, workers=w) for w in (1, 2))
    assert one.history[-1]["evaluation"] == two.history[-1]["evaluation"]
    losses = {row["loss"] for row in one.history[-1]["evaluation"]["sites"].values()}
    assert len(losses) == 4


def test_mixed_precision_is_off_by_default_and_changes_the_bits_when_it_is_on():
    turn = Turn(0, 1, "a")
    plain, mixed = (
        trained(binary(), LocalTraining(amp=amp, lr=0.5, epochs=5), turn)[0]["0.weight"]
        for amp in (False, True)
    )
    assert not LocalTraining().amp
    assert mixed.dtype == np.float32
    assert 0 < abs(mixed - plain).max() < 0.05


def test_an_error_of_the_users_code_while_training_names_site_round_and_line():
    class Picky(nn.Linear):
        def forward(self, x):
            if self.training and len(x) < 8:
                raise KeyError("a batch of five")
            return super().forward(x)

    local = LocalTraining(batch_size=8)
    with pytest.raises(TaskError, match="training at a, round 1: KeyError: 'a batch of five'") as e:
        hanse.simulate(binary(lambda: Picky(FEATURES, 1)), {"a": ((X, Y), None)}, local=local)
    assert (e.value.site, e.value.round, e.value.phase) == ("a", 1, "training")
    assert __file__ in e.value.hint


def test_an_optimiser_that_wants_a_closure_is_told_to_its_author():
    task = binary(optimizer=lambda params: torch.optim.LBFGS(params))
    local = LocalTraining(optimizer="task")
    with pytest.raises(TaskError, match="closure"):
        hanse.simulate(task, {"a": ((X, Y), None)}, local=local, rounds=1)


def test_a_layer_that_needs_two_rows_fails_with_site_and_round():
    local = LocalTraining(batch_size=5)  # 21 rows: the last batch is one
    data = {"a": ((np.zeros((21, 1, 6, 6), np.float32), np.zeros(21)), None)}
    task = TorchTask(
        model=lambda: nn.Sequential(cnn()[:4], nn.BatchNorm1d(64), nn.Linear(64, 3)),
        loss=nn.CrossEntropyLoss(),
        buffers="freeze",
    )
    result = hanse.simulate(task, data, local=local, rounds=1)  # frozen: needs no statistics
    assert result.history[0]["train"]["steps"] == 5
    task = TorchTask(model=task.model, loss=task.loss, buffers="aggregate")
    with pytest.raises(TaskError, match="a, round 1: ValueError: Expected more than 1 value"):
        hanse.simulate(task, data, local=local, rounds=1)


def test_logistic_regression_learns_what_is_there_to_learn():
    train, test = table(400, 1), table(400, 2)
    data = {f"s{k}": ((train[0][k::4], train[1][k::4]), test) for k in range(4)}
    local = LocalTraining(lr=0.5, epochs=3, batch_size=16)
    result = hanse.simulate(binary(logistic), data, local=local, rounds=10)
    assert result.history[-1]["evaluation"]["pooled"]["auc"] > 0.97


class Spare(nn.Module):
    """Has parameters that take no part in the loss."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(FEATURES, 1), nn.Linear(3, 2)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    "local",
    [
        LocalTraining(lr=0.1, weight_decay=0.5, momentum=0.9),
        LocalTraining(optimizer="adam", lr=0.1, weight_decay=0.5),
        LocalTraining(optimizer="adamw", lr=0.1, weight_decay=0.5),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_what_takes_no_part_in_the_loss_is_not_moved_and_the_rest_as_without_it(local):
    one = hanse.simulate(binary(Spare), federation(clients=2), rounds=2, local=local)
    for name in ("unused.weight", "unused.bias"):
        start = binary(Spare).describe(0)
        assert np.array_equal(one.parameters[name], start[0].views(start[1])[name])
    assert not np.array_equal(
        one.parameters["used.weight"], start[0].views(start[1])["used.weight"]
    )


class Alternating(nn.Module):
    """Two heads that take part in turns: one in batches of an even number of rows, one in odd."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(FEATURES, 1), nn.Linear(FEATURES, 1)])

    def forward(self, x):
        return self.heads[len(x) % 2](x)


@pytest.mark.parametrize("pair", PAIRS)
def test_what_takes_part_in_some_steps_only_is_trained_to_the_bit_as_in_torch(pair):
    local, optimizer = PAIRS[pair]
    local, turn = replace(local, epochs=3, batch_size=8), Turn(3, 5, "cleveland")
    assert {len(rows) % 2 for rows in batches(N, local, turn)} == {0, 1}
    task = binary(Alternating)
    assert_near(trained(task, local, turn)[0], bare(task, local, turn, optimizer), 0)
