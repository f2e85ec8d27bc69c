"""A PyTorch model as one flat vector: what is in it, and what user code may do to it."""

import numpy as np
import pytest
import torch
from tests.train.models import binary, cnn, flat, table
from torch import Tensor, nn

import hanse
from hanse import LocalTraining, TaskError
from hanse.core.work import Train
from hanse.train.local import Turn
from hanse.train.torch import TorchTask
from hanse.train.torch_model import FlatModel, tensors_of

CPU = torch.device("cpu")
STEP = Train(LocalTraining(lr=0.1, batch_size=None))


def described(model, buffers=None):
    return binary(model, buffers=buffers).describe(seed=0)


def roles(layout) -> dict[str, str]:
    return {entry.name: entry.role for entry in layout.entries}


def after(model, *, buffers="aggregate", turns=1, **more):
    """The kernel after ``turns`` clients have trained from the same start, and their results."""
    task = binary(model, buffers=buffers, metrics=[], **more)
    kernel, (layout, start) = task.kernel(), task.describe(0)
    data = kernel.prepare(table(12, 1), Turn(0, 0, "a"))
    results = []
    for _ in range(turns):
        trained = kernel.train(start, data, STEP, Turn(0, 1, "a"), None)
        results.append((trained.update.copy(), trained.buffers))
    return kernel, layout, results


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(27, 27, bias=False)
        self.decode = nn.Linear(27, 27, bias=False)
        self.decode.weight = self.encode.weight
        self.out = nn.Linear(27, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.decode(torch.tanh(self.encode(x))))


def test_tied_weights_are_in_the_vector_once_and_stay_tied():
    layout, _ = described(Tied)
    assert list(roles(layout)) == ["encode.weight", "out.weight", "out.bias"]
    assert layout.parameters == 27 * 27 + 28
    result = hanse.simulate(binary(Tied), {"a": (table(12, 1), None)}, rounds=1)
    model = result.model
    assert model.encode.weight is model.decode.weight
    torch.testing.assert_close(
        model.encode.weight, torch.from_numpy(result.parameters["encode.weight"])
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_go_up_to_float32(dtype):
    layout, vector = described(lambda: nn.Linear(27, 1).to(dtype))
    assert (layout.dtype, vector.dtype) == ("float32", np.float32)
    halved = lambda: nn.Linear(27, 1).to(dtype)  # noqa: E731
    result = hanse.simulate(binary(halved), {"a": (table(12, 1), None)}, rounds=1)
    assert result.model.weight.dtype == torch.float32


def test_every_tensor_starts_on_64_bytes_and_is_read_in_place():
    model = FlatModel(cnn(), "aggregate", CPU)
    for entry, (tensor, _) in zip(model.layout.entries, model.views, strict=True):
        assert entry.offset * 4 % 64 == 0
        assert tensor.data_ptr() == model.flat.data_ptr() + 4 * entry.offset
    assert model.flat.data_ptr() % 64 == 0


def frozen_first() -> nn.Module:
    model = nn.Sequential(nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 1))
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parameters_do_not_move_whatever_decays_or_corrects(optimizer):
    local = LocalTraining(optimizer=optimizer, lr=0.1, weight_decay=0.1, epochs=3)
    before = binary(frozen_first).describe(0)
    result = hanse.simulate(
        binary(frozen_first),
        {"a": (table(12, 1), None), "b": (table(20, 2), None)},
        local=local,
        strategy=hanse.fedprox(mu=1.0),
        rounds=2,
    )
    old = before[0].views(before[1])
    assert roles(before[0])["0.weight"] == "frozen"
    np.testing.assert_array_equal(result.parameters["0.weight"], old["0.weight"])
    assert not np.array_equal(result.parameters["2.weight"], old["2.weight"])


class Mover(nn.Linear):
    """Puts other memory under its weight while it trains."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.weight.data = self.weight.data.clone()
        return super().forward(x)


class Still(nn.Linear):
    """A layer of one's own that leaves everything where it is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_tensors_that_user_code_has_moved_are_read_back():
    torch.manual_seed(0)
    plain, moved = (
        hanse.simulate(
            binary(lambda kind=kind: kind(27, 1)), {"a": (table(12, 1), None)}, rounds=2, seed=3
        )
        for kind in (Still, Mover)
    )
    assert plain.model_digest == moved.model_digest


class Average(nn.Module):
    """Keeps a running mean of what it sees in a buffer that it assigns anew, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(27, 1)
        self.register_buffer("mean", torch.zeros(27))
        self.register_buffer("scratch", torch.zeros(27), persistent=False)
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("late", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
                self.scratch = self.scratch + 1
                self.seen = self.seen + 1
                self.late = x.mean(0) if self.late is None else self.late + x.mean(0)
        late = 0 if self.late is None else self.late
        return self.linear(x - self.mean + self.scratch + self.seen + late)


def test_a_buffer_that_user_code_assigns_anew_is_read_back():
    _, layout, [(_, buffers)] = after(Average)
    assert buffers is not None
    found = layout.views(np.concatenate([np.zeros(layout.span("buffer").start), buffers]))
    x, _ = table(12, 1)
    np.testing.assert_allclose(found["mean"], 0.5 * x.mean(0), rtol=1e-6)


def test_nothing_of_one_turn_is_left_at_the_next():
    """Not in buffers outside the vector, whether integer, not persistent, or None at first."""
    _, _, (first, second) = after(Average, turns=2)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_buffer_that_changes_its_shape_is_refused():
    class Grows(Average):
        def forward(self, x: Tensor) -> Tensor:
            self.mean = torch.zeros(3)
            return self.linear(x)

    with pytest.raises(TaskError, match=r"mean .* shape \(27,\) and has \(3,\) now") as caught:
        after(Grows)
    assert caught.value.site == "a"


def test_integer_buffers_are_not_in_the_vector_and_start_anew_each_turn():
    kernel, layout, _ = after(lambda: nn.Sequential(nn.BatchNorm1d(27), nn.Linear(27, 1)), turns=3)
    assert "0.num_batches_tracked" not in roles(layout)
    assert int(kernel.model.module[0].num_batches_tracked) == 1


def test_constant_buffers_keep_their_values():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(27, 1)
            self.register_buffer("mask", torch.arange(27) % 2 == 0)
            self.register_buffer("scale", torch.full((27,), 0.3), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x * self.mask * self.scale)

    result = hanse.simulate(binary(Masked), {"a": (table(12, 1), None)}, rounds=2)
    assert roles(result.layout) == {"linear.weight": "trainable", "linear.bias": "trainable"}
    assert result.model.mask.tolist() == [k % 2 == 0 for k in range(27)]
    masked = result.parameters["linear.weight"][0, 1::2]
    np.testing.assert_array_equal(masked, binary(Masked).describe(0)[1][1:27:2])


# BatchNorm: the policy


def test_buffers_without_a_policy_are_refused_with_the_three_to_choose_from():
    with pytest.raises(TaskError, match="does not say what becomes of them") as caught:
        binary(cnn).describe(0)
    assert all(policy in caught.value.hint for policy in ("aggregate", "local", "freeze"))


@pytest.mark.parametrize(
    ("policy", "role"), [("aggregate", "buffer"), ("local", "local"), ("freeze", "frozen")]
)
def test_a_policy_gives_buffers_their_role(policy, role):
    layout, _ = described(cnn, policy)
    assert roles(layout)["1.running_mean"] == roles(layout)["1.running_var"] == role


def test_aggregated_statistics_are_those_of_the_union():
    """A mean of variances would miss how far the sites' means are apart."""
    rng = np.random.default_rng(5)
    data = {
        site: ((rng.normal(shift, scale, (n, 27)), np.zeros(n)), None)
        for site, n, shift, scale in (("a", 30, -3.0, 1.0), ("b", 90, 2.0, 0.5))
    }

    def model() -> nn.Module:
        norm = nn.BatchNorm1d(27, momentum=1.0)  # statistics of the last batch: all rows
        return nn.Sequential(norm, nn.Linear(27, 1)).double()

    result = hanse.simulate(
        binary(model, buffers="aggregate", metrics=[]),
        data,
        local=LocalTraining(lr=0.0, batch_size=None),
        rounds=1,
    )
    union = np.concatenate([x for (x, _), _ in data.values()])
    np.testing.assert_allclose(result.parameters["0.running_mean"], union.mean(0), atol=1e-6)
    bessel = {"a": 30 / 29, "b": 90 / 89}  # torch keeps the unbiased variance of a batch
    second = sum(
        len(x) / 120 * (bessel[site] * x.var(0) + x.mean(0) ** 2)
        for site, ((x, _), _) in data.items()
    )
    variance = second - union.mean(0) ** 2
    np.testing.assert_allclose(result.parameters["0.running_var"], variance, atol=1e-6)
    np.testing.assert_allclose(variance, union.var(0), rtol=0.02)


@pytest.mark.parametrize("server", [hanse.fedavgm(), hanse.fedadam(), hanse.fedyogi()])
def test_aggregated_variances_never_pass_through_the_server_optimiser(server):
    data = {f"s{k}": ((table(20, k)[0] * 3, table(20, k)[1]), None) for k in range(3)}
    norm = lambda: nn.Sequential(nn.BatchNorm1d(27), nn.Linear(27, 1))  # noqa: E731
    task = binary(norm, buffers="aggregate", metrics=[])
    moved, plain = (
        hanse.simulate(task, data, strategy=strategy, rounds=3, local=LocalTraining(lr=0.0))
        for strategy in (server, hanse.fedavg())
    )
    np.testing.assert_array_equal(
        moved.parameters["0.running_var"], plain.parameters["0.running_var"]
    )
    assert (moved.parameters["0.running_var"] > 0).all()


def test_frozen_statistics_stay_and_their_layers_normalise_with_them():
    def model() -> nn.Module:
        module = nn.Sequential(nn.BatchNorm1d(27), nn.Dropout(0.5), nn.Linear(27, 1))
        module[0].running_mean.fill_(5.0)
        module.register_buffer("note", torch.ones(1))
        return module

    kernel, layout, [(_, buffers)] = after(model, buffers="freeze")
    assert buffers is None
    assert roles(layout)["0.running_mean"] == "frozen"
    module = kernel.model.training()
    assert not module[0].training
    assert module.training
    assert module[1].training, "dropout beside frozen statistics still drops"
    np.testing.assert_array_equal(module[0].running_mean, np.full(27, 5.0))


def test_local_statistics_stay_at_their_site():
    data = {
        k: ((table(20, 1)[0] + shift, table(20, 1)[1]), None) for k, shift in (("a", 9), ("b", 0))
    }
    norm = lambda: nn.Sequential(nn.BatchNorm1d(27), nn.Linear(27, 1))  # noqa: E731
    result = hanse.simulate(binary(norm, buffers="local", metrics=[]), data, rounds=2)
    np.testing.assert_array_equal(result.parameters["0.running_mean"], np.zeros(27))
    np.testing.assert_array_equal(result.parameters["0.running_var"], np.ones(27))


# What no vector can hold


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda: nn.ReLU(), "no trainable parameters"),
        (lambda: frozen_first()[:1], "no trainable parameters"),
        (
            lambda: nn.Sequential(nn.Linear(27, 4).double(), nn.Linear(4, 1)),
            "mixes float32, float64",
        ),
        (lambda: nn.LazyLinear(1), "weight has no shape yet"),
        (lambda: nn.Linear(27, 1, dtype=torch.complex64), "mixes complex64"),
        (lambda: "a model", "returned str, not an nn.Module"),
        (lambda: 1 / 0, "building the model: ZeroDivisionError"),
    ],
)
def test_a_model_that_cannot_be_federated_is_refused_with_a_hint(model, text):
    with pytest.raises(TaskError, match=text) as caught:
        TorchTask(model=model, loss=nn.MSELoss()).describe(0)
    assert caught.value.hint


def test_the_vector_that_a_seed_initialises_does_not_depend_on_chance_outside():
    torch.manual_seed(1)
    _, first = described(cnn, "freeze")
    torch.manual_seed(2)
    _, again = described(cnn, "freeze")
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, binary(cnn, buffers="freeze").describe(seed=1)[1])


def test_a_built_model_has_the_parameters_of_the_vector_and_is_in_eval_mode():
    task = binary(cnn, buffers="aggregate")
    layout, vector = task.describe(3)
    model = task.build(vector)
    assert not model.training
    for name, (tensor, _) in tensors_of(model, "aggregate").items():
        np.testing.assert_array_equal(tensor.detach().numpy(), layout.views(vector)[name])
    assert (
        flat({n: p.detach().numpy() for n, p in model.named_parameters()}).size == layout.parameters
    )
