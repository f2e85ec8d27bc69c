"""A training loop of the user's own: what it takes to federate a script that exists already."""

import difflib

import numpy as np
import pytest
import torch
from tests.train.models import FEATURES, binary, federation, logistic, table
from torch import nn

import hanse
from hanse import ConfigError, LocalTraining, TaskError
from hanse.train.torch import TorchTask, loop

DATA = federation(clients=3)
LOCAL = LocalTraining(lr=0.1, epochs=2, batch_size=8)


def sgd_loop(model, dataset, ctx):
    optimizer = torch.optim.SGD(model.parameters(), lr=ctx.local.lr)
    loader = torch.utils.data.DataLoader(
        dataset, ctx.local.batch_size, shuffle=True, generator=ctx.generator
    )
    for _ in range(ctx.local.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)
            loss.backward()
            ctx.correct()
            optimizer.step()
    return len(dataset)


def run(train, strategy=None, **more) -> hanse.Result:
    settings = {"local": LOCAL, "rounds": 2, "seed": 3} | more
    return hanse.simulate(binary(logistic, train=train), DATA, strategy=strategy, **settings)


BEFORE = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 3


def load(path):
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    return TensorDataset(torch.from_numpy(table[:, :-1]), torch.from_numpy(table[:, -1:]))


def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def train(model, dataset):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        for x, y in DataLoader(dataset, batch_size=16, shuffle=True):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


if __name__ == "__main__":
    net = model()
    train(net, load("patients.csv"))
    torch.save(net.state_dict(), "net.pt")
"""
AFTER = """
import hanse
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 3


def load(path):
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    return TensorDataset(torch.from_numpy(table[:, :-1]), torch.from_numpy(table[:, -1:]))


def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


@hanse.train.torch.loop
def train(model, dataset, ctx):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(EPOCHS):
        for x, y in DataLoader(dataset, batch_size=16, shuffle=True):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return len(dataset)


if __name__ == "__main__":
    task = hanse.train.torch.TorchTask(model=model, loss=nn.BCEWithLogitsLoss(), train=train)
    data = {site: (load(f"{site}.csv"), None) for site in ("cleveland", "hungary")}
    net = hanse.simulate(task, data, rounds=2).model
    torch.save(net.state_dict(), "net.pt")
"""


def changed_lines(before: str, after: str) -> int:
    """Lines that a user types: those that are new or different."""
    rows = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return sum(row.startswith("+") and not row.startswith("+++") for row in rows)


def test_a_script_that_exists_is_federated_in_under_ten_changed_lines(tmp_path, monkeypatch):
    assert changed_lines(BEFORE, AFTER) < 10
    rng = np.random.default_rng(0)
    for site, n in (("patients", 60), ("cleveland", 40), ("hungary", 20)):
        x = rng.normal(size=(n, 4))
        np.savetxt(tmp_path / f"{site}.csv", np.c_[x, x[:, 0] > 0], delimiter=",")
    monkeypatch.chdir(tmp_path)
    nets = []
    for script in (BEFORE, AFTER):
        exec(compile(script, "script.py", "exec"), {"__name__": "__main__"})
        nets.append(torch.load(tmp_path / "net.pt", weights_only=True))
    assert nets[0].keys() == nets[1].keys()


def test_a_loop_makes_the_same_model_for_any_number_of_workers():
    digests = {run(loop(sgd_loop), workers=workers).model_digest for workers in (1, 2, 3)}
    assert len(digests) == 1
    assert run(loop(sgd_loop), seed=4).model_digest not in digests


def test_a_loop_is_corrected_like_the_built_in_one():
    @loop
    def whole(model, dataset, ctx):
        optimizer = torch.optim.SGD(model.parameters(), lr=ctx.local.lr)
        x, y = dataset.tensors
        for _ in range(ctx.local.epochs):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y).backward()
            ctx.correct()
            optimizer.step()
        return len(y)

    local = LocalTraining(lr=0.5, epochs=4, batch_size=None)
    task = binary(lambda: logistic().double())
    for strategy in (hanse.fedavg(), hanse.fedprox(mu=1.5)):
        own = hanse.simulate(
            binary(task.model, train=whole), DATA, strategy=strategy, local=local, rounds=2
        )
        built_in = hanse.simulate(task, DATA, strategy=strategy, local=local, rounds=2)
        for name, value in own.parameters.items():
            np.testing.assert_allclose(value, built_in.parameters[name], rtol=0, atol=1e-7)


def test_a_loop_that_never_corrects_is_refused_under_fedprox_only():
    @loop
    def forgetful(model, dataset, ctx):
        ctx.correct = lambda: None
        return sgd_loop(model, dataset, ctx)

    assert run(forgetful).history[-1]["counted"]
    with pytest.raises(TaskError, match=r"never called ctx.correct\(\)") as caught:
        run(forgetful, hanse.fedprox(mu=0.1))
    assert (caught.value.site, caught.value.round) == ("site-0", 1)
    assert "backward()" in caught.value.hint


def test_gradients_that_a_loop_leaves_behind_do_not_reach_the_next_client():
    @loop
    def untidy(model, dataset, ctx):
        x, y = dataset.tensors
        nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.5 * p.grad
        model.weight.requires_grad_(False)
        return len(y)

    assert len({run(untidy, workers=workers).model_digest for workers in (1, 3)}) == 1


def test_a_loop_is_given_its_turn_its_settings_and_a_seed_of_its_own():
    seen = {}

    @loop
    def curious(model, dataset, ctx):
        assert model.training
        assert ctx.local == LOCAL
        assert ctx.device == torch.device("cpu")
        seen[ctx.client, ctx.round] = (ctx.seed, torch.rand(1, generator=ctx.generator).item())
        return len(dataset)

    run(curious)
    assert set(seen) == {(site, number) for site in DATA for number in (1, 2)}
    assert len(set(seen.values())) == len(seen)


def test_a_loop_counts_the_examples_it_says_and_its_means_are_weighted_by_them():
    shares = {"site-0": (10, 0.25, 1.0), "site-1": (30, 0.5, 0.0), "site-2": (0, 9.0, 9.0)}

    @loop(reports=["dice"])
    def telling(model, dataset, ctx):
        n, loss, dice = shares[ctx.client]
        return np.int64(n), {"loss": torch.tensor(loss), "dice": dice}

    row = run(telling, rounds=1).history[0]["train"]
    assert row["examples"] == 40
    assert row["loss"] == pytest.approx((10 * 0.25 + 30 * 0.5) / 40)
    assert row["dice"] == pytest.approx(10 / 40)


def test_a_loop_that_reports_no_loss_has_none_in_the_history():
    row = run(loop(lambda model, dataset, ctx: len(dataset)), rounds=1).history[0]
    assert row["train"] is None or row["train"]["loss"] is None
    process = hanse.process(binary(logistic, train=loop(sgd_loop)), local=LOCAL)
    data = {site: train for site, (train, _) in DATA.items()}
    _, metrics = process.next(process.initialize(), data)
    assert metrics["loss"] is None
    assert metrics["examples"] == sum(len(y) for _, y in data.values())


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "returned None as its number of examples"),
        (-1, "returned -1 as its number"),
        (1.5, "returned 1.5 as its number"),
        (True, "returned True as its number"),
        ((3, {"loss": 0.1, "dice": 0.5}), "reports 'dice', which it did not declare"),
        ((3, {"auc": 0.5}), "reports 'auc', which it did not declare"),
        ((3, 4, 5), "too many values to unpack"),
        ((3, {"loss": "small"}), "could not convert string to float"),
    ],
)
def test_what_a_loop_may_not_return_is_refused_with_site_and_round(returned, text):
    with pytest.raises(TaskError, match=text) as caught:
        run(loop(lambda model, dataset, ctx: returned))
    assert (caught.value.site, caught.value.round) == ("site-0", 1)
    assert caught.value.hint


@pytest.mark.parametrize("returned", [3, (3, {"loss": 0.1})])
def test_a_report_that_was_declared_has_to_be_made(returned):
    with pytest.raises(TaskError, match="does not report 'dice'"):
        run(loop(lambda model, dataset, ctx: returned, reports=("dice",)))


@pytest.mark.parametrize("names", ["loss", ("examples",), ("weight",), ("dice", "dice")])
def test_the_name_of_a_report_is_free_and_its_own(names):
    with pytest.raises(ConfigError, match="the name is taken"):
        loop(sgd_loop, reports=names)


def test_one_report_may_be_declared_by_its_bare_name():
    assert binary(train=loop(sgd_loop, reports="dice")).reports == ("dice",)


def test_a_function_that_is_not_marked_is_refused():
    def unmarked(model, dataset, ctx):
        return len(dataset)

    with pytest.raises(ConfigError, match="'unmarked' is not marked as a loop") as caught:
        TorchTask(model=logistic, loss=nn.MSELoss(), train=unmarked)
    assert "@hanse.train.torch.loop" in caught.value.hint


def test_steps_cannot_be_the_weight_of_a_loop_that_counts_none():
    with pytest.raises(ConfigError, match="steps"):
        run(loop(sgd_loop), pipeline=hanse.Pipeline([hanse.Weight(by="steps", cap=10)]))


def test_a_loss_that_is_not_finite_is_a_refusal_not_a_crash():
    @loop
    def broken(model, dataset, ctx):
        return len(dataset), {"loss": float("nan") if ctx.client == "site-1" else 0.5}

    row = run(broken, rounds=1).history[0]
    assert list(row["refused"]) == ["site-1"]
    assert row["train"]["loss"] == 0.5


def test_a_loop_may_load_other_weights_into_the_model():
    """``load_state_dict(assign=True)`` puts other parameters in the place of the model's."""

    @loop
    def loading(model, dataset, ctx):
        ones = {name: torch.ones_like(p) for name, p in model.state_dict().items()}
        model.load_state_dict(ones, assign=True)
        return len(dataset)

    result = run(loading, local=LocalTraining())
    np.testing.assert_array_equal(result.parameters["weight"], np.ones((1, FEATURES)))


def test_the_data_set_of_a_loop_is_the_users_own_if_it_is_read_item_by_item():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 17

        def __getitem__(self, i):
            x, y = table(17, 1)
            return x[i], y[i]

    seen = []

    @loop
    def look(model, dataset, ctx):
        seen.append(type(dataset))
        return len(dataset)

    task = binary(logistic, train=look)
    hanse.simulate(task, {"a": (Rows(), None), "b": (table(9, 2), None)}, rounds=1)
    assert seen == [Rows, torch.utils.data.TensorDataset]
