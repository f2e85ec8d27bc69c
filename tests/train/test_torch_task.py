"""What a PyTorch task refuses when it is made, before anything is built."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from tests.train.models import binary, logistic, table
from torch import nn

import hanse
from hanse import ConfigError, LocalTraining
from hanse.core.work import Train
from hanse.train import exact
from hanse.train.local import Turn

ONE = {"a": (table(12, 1), None)}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"buffers": "average"}, "buffers='average' is no policy"),
        ({"metrics": ["auc"]}, "'auc' is not a metric"),
        ({"metrics": [hanse.metrics.auc] * 2}, "two metrics are called 'auc'"),
        ({"loss": nn.MSELoss(reduction="sum")}, "reduction='sum'"),
        ({"loss": nn.BCEWithLogitsLoss(reduction="none")}, "reduction='none'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_with_a_hint(settings, text):
    with pytest.raises(ConfigError, match=text) as caught:
        binary(**settings)
    assert caught.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens on a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(device):
    with pytest.raises(ConfigError, match="no CUDA device") as caught:
        hanse.simulate(binary(device=device), ONE, rounds=1)
    assert "auto" in caught.value.hint


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_task_runs_where_it_can(device):
    result = hanse.simulate(binary(logistic, device=device), ONE, rounds=1)
    plain = hanse.simulate(binary(logistic), ONE, rounds=1)
    if not torch.cuda.is_available():
        assert result.model_digest == plain.model_digest
    assert result.model.weight.device == torch.device("cpu")


def test_the_tasks_own_optimiser_has_to_be_there_to_be_asked_for():
    local = LocalTraining(optimizer="task")
    for start in (
        lambda: hanse.simulate(binary(), ONE, local=local),
        lambda: hanse.process(binary(), local=local),
    ):
        with pytest.raises(ConfigError, match='optimizer = "task", and the task brings none'):
            start()


def test_a_strategy_that_fixes_local_training_refuses_another_in_both_forms():
    local = LocalTraining(lr=0.5)
    for start in (
        lambda: hanse.simulate(binary(), ONE, strategy=hanse.fedsgd(lr=0.1), local=local),
        lambda: hanse.process(binary(), hanse.fedsgd(lr=0.1), local=local),
    ):
        with pytest.raises(ConfigError, match="fedsgd fixes local training"):
            start()


def test_the_loss_stays_where_the_model_is_and_keeps_its_weights():
    weight = torch.tensor([3.0])
    loss = nn.BCEWithLogitsLoss(pos_weight=weight)
    task = binary(logistic, loss=loss, metrics=[])
    result = hanse.simulate(task, ONE, local=LocalTraining(lr=0.0), rounds=1)
    x, y = ONE["a"][0]
    expected = loss(result.model(torch.from_numpy(x))[:, 0], torch.from_numpy(y).float()).item()
    assert result.history[0]["train"]["loss"] == pytest.approx(expected, abs=1e-5)


def test_a_kernel_is_new_each_time_and_shares_nothing():
    task = binary()
    _, start = task.describe(0)
    one, two = task.kernel(), task.kernel()
    turn = Turn(0, 1, "a")
    data = one.prepare(table(12, 1), turn)
    one.train(start, data, Train(LocalTraining()), turn, None)
    before = two.vector()
    one.train(start, data, Train(LocalTraining(lr=9.0)), turn, None)
    np.testing.assert_array_equal(two.vector(), before)


def test_one_thread_trains_and_the_fingerprint_tells_settings_apart(monkeypatch):
    task = binary()
    before = torch.get_num_threads()
    with task.exactly(1) as plain, task.exactly(3) as other:
        assert (plain, torch.get_num_threads()) == (other, 3)
    assert torch.get_num_threads() == before
    monkeypatch.setenv(exact.VARIABLE, "COMPATIBLE")
    with task.exactly(1) as compatible:
        assert compatible != plain


def test_matrix_products_that_do_not_depend_on_alignment_are_asked_for_but_not_imposed(monkeypatch):
    monkeypatch.delenv(exact.VARIABLE, raising=False)
    exact.settle()
    assert exact.os.environ[exact.VARIABLE] in ("AVX2,STRICT", "AVX512")
    monkeypatch.setenv(exact.VARIABLE, "COMPATIBLE")
    exact.settle()
    assert exact.os.environ[exact.VARIABLE] == "COMPATIBLE"


def test_the_widest_products_are_asked_for_where_they_do_not_depend_on_alignment():
    wide = "vendor_id : GenuineIntel\nflags : fpu avx512f avx512dq avx512cd avx512bw avx512vl avx2"
    assert exact.setting_for(wide) == "AVX512"
    assert exact.setting_for(wide.replace("GenuineIntel", "AuthenticAMD")) == "AVX2,STRICT"
    assert exact.setting_for(wide.replace("avx512vl", "")) == "AVX2,STRICT"
    assert exact.setting_for("") == "AVX2,STRICT"


SHAPES = [
    (10, 784, 10), (10, 9216, 128), (32, 27, 16), (10, 785, 64), (33, 301, 65), (1, 255, 31),
    (7, 13, 3), (64, 1000, 200), (5, 3000, 17), (256, 62, 100),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matrix_products_do_not_depend_on_alignment(shape):
    """What rule 6 asks for, on the machine that runs this."""
    rows, inside, outside = shape
    rng = np.random.default_rng(0)
    x, w, g = (
        torch.from_numpy(rng.normal(size=size).astype("float32"))
        for size in ((rows, inside), (outside, inside), (rows, outside))
    )

    def products(offset: int) -> list[bytes]:
        a, b, c = (placed(part, offset * k) for k, part in enumerate((x, w, g), 1))
        pair = a.expand(2, *a.shape), b.expand(2, *b.shape)
        found = (a @ b.T, c.T @ a, c @ b, a @ b[0], torch.bmm(pair[0], pair[1].mT))
        return [product.numpy().tobytes() for product in found]

    aligned = products(0)
    for offset in (1, 2, 3, 4, 5, 8, 11, 16):
        assert products(offset) == aligned


def placed(part: torch.Tensor, offset: int) -> torch.Tensor:
    """Return a copy that starts ``offset`` numbers behind where an allocation starts."""
    room = torch.empty(part.numel() + offset)[offset:].view(part.shape)
    return room.copy_(part)


def test_the_probe_is_the_same_on_every_machine():
    left, right = exact.probe()
    assert (left.shape, right.shape) == ((33, 301), (301, 65))
    assert (
        exact.hashlib.sha256(left.tobytes() + right.tobytes()).hexdigest()[:16]
        == "64311ef1a16cbb91"
    )


# What a task is


class Spoken(nn.Linear):
    """Its ``repr`` tells where an object lies."""

    def extra_repr(self) -> str:
        return f"{object()!r}"


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@hanse.train.torch.loop
def one_loop(model, dataset, ctx):
    return 1


@hanse.train.torch.loop
def two_loop(model, dataset, ctx):
    return 2


WEIGHTED = [nn.BCEWithLogitsLoss(pos_weight=torch.tensor(w)) for w in (2.0, 3.0)]
TASKS = {
    "plain": lambda: binary(logistic),
    "another model": lambda: binary(lambda: nn.Sequential(logistic(), nn.Sigmoid())),
    "another loss": lambda: binary(logistic, loss=nn.MSELoss()),
    "a weight of the loss": lambda: binary(logistic, loss=WEIGHTED[0]),
    "another weight of the loss": lambda: binary(logistic, loss=WEIGHTED[1]),
    "a number of the loss": lambda: binary(logistic, loss=nn.HuberLoss(delta=1.0)),
    "another number of the loss": lambda: binary(logistic, loss=nn.HuberLoss(delta=2.0)),
    "fewer metrics": lambda: binary(logistic, metrics=[]),
    "a policy for buffers": lambda: binary(logistic, buffers="freeze"),
    "a loop": lambda: binary(logistic, train=one_loop),
    "another loop": lambda: binary(logistic, train=two_loop),
    "an optimiser": lambda: binary(logistic, optimizer=sgd),
    "another rate": lambda: binary(logistic, optimizer=lambda p: torch.optim.SGD(p, lr=0.2)),
    "another class": lambda: binary(logistic, optimizer=lambda p: torch.optim.Adam(p, lr=0.2)),
    "a partial": lambda: binary(logistic, optimizer=partial(torch.optim.SGD, lr=0.1)),
    "another partial": lambda: binary(logistic, optimizer=partial(torch.optim.SGD, lr=0.2)),
    "another device": lambda: binary(logistic, device="auto"),
    "a repr with an address": lambda: binary(lambda: Spoken(2, 1)),
}


def test_each_part_of_a_task_is_part_of_what_it_is():
    told = {name: make().identity() for name, make in TASKS.items()}
    assert len(set(told.values())) == len(TASKS)
    assert told == {name: make().identity() for name, make in TASKS.items()}


def test_a_task_is_the_same_in_another_process():
    told = [make().identity() for make in TASKS.values()]
    code = (
        "from tests.train.test_torch_task import TASKS;"
        "print([make().identity() for make in TASKS.values()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(told)
