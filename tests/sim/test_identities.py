"""What federated learning is when it is something simpler, on real models in both precisions."""

from functools import partial

import numpy as np
import pytest
import torch
from tests.laws.toys import Growing
from tests.train.models import (
    FEATURES,
    binary,
    classes,
    cnn,
    double,
    federation,
    images,
    logistic,
    table,
    tabular,
)

import hanse
from hanse import Clip, FixedSize, LocalTraining, Pipeline, Weight
from hanse.core import seeds
from hanse.train.torch import TorchTask

BINARY = federation()
# A bound makes the grid fine, and n/128 is a weight without rounding (its resolution is 2^-32).
FINE = Pipeline([Weight(by="examples", cap=128), Clip(norm=16.0)])
MODELS = {
    "logistic": (partial(binary, logistic), BINARY),
    "27-16-2": (partial(classes, partial(tabular, 2)), BINARY),
}
PRECISIONS = {"float32": (lambda model: model, 1e-6), "float64": (double, 1e-12)}


def task_of(name: str, precision: str) -> tuple[TorchTask, dict, float]:
    (make, data), (cast, tolerance) = MODELS[name], PRECISIONS[precision]
    task = make()
    task.model = cast(task.model)
    return task, data, tolerance


def assert_near(result: hanse.Result, expected: dict[str, np.ndarray], tolerance: float) -> None:
    for name, value in result.parameters.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance, err_msg=name)


def start_of(task: TorchTask, seed: int) -> torch.nn.Module:
    return task.build(task.describe(seed)[1]).train()


def values(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def loss_of(task: TorchTask, model: torch.nn.Module, x, y) -> torch.Tensor:
    """The task's loss, written as one would by hand."""
    dtype = next(model.parameters()).dtype
    outputs = model(torch.from_numpy(x).to(dtype))
    if outputs.shape[1] == 1:
        return task.loss(outputs[:, 0], torch.from_numpy(y).to(dtype))
    return task.loss(outputs, torch.from_numpy(y))


def union(data) -> tuple[np.ndarray, np.ndarray]:
    x, y = zip(*(train for train, _ in data.values()), strict=True)
    return np.concatenate(x), np.concatenate(y)


@pytest.fixture(params=MODELS)
def name(request) -> str:
    return request.param


@pytest.fixture(params=PRECISIONS)
def precision(request) -> str:
    return request.param


@pytest.mark.parametrize("local", [LocalTraining(epochs=2), LocalTraining(momentum=0.9, epochs=2)])
def test_fedprox_without_pull_is_fedavg_to_the_bit(name, precision, local):
    task, data, _ = task_of(name, precision)
    digests = {
        hanse.simulate(task, data, strategy=strategy, local=local, rounds=3).model_digest
        for strategy in (hanse.fedavg(), hanse.fedprox(mu=0))
    }
    assert len(digests) == 1


@pytest.mark.parametrize("strategy", [hanse.fedavgm(momentum=0.0), hanse.fedavg(server_lr=1.0)])
def test_fedavgm_without_momentum_is_fedavg_to_the_bit(strategy):
    task, data, _ = task_of("27-16-2", "float32")
    plain, other = (
        hanse.simulate(task, data, strategy=s, rounds=3).model_digest
        for s in (hanse.fedavg(), strategy)
    )
    assert plain == other


@pytest.mark.parametrize(
    ("lr", "momentum", "epochs", "batch"), [(0.1, 0.0, 1, 8), (0.05, 0.9, 3, 5), (0.2, 0.0, 2, 64)]
)
def test_one_client_is_centralised_sgd_over_the_same_batches(
    name, precision, lr, momentum, epochs, batch
):
    task, data, tolerance = task_of(name, precision)
    (x, y), seed, rounds = union(data), 11, 3
    model = start_of(task, seed)
    for number in range(1, rounds + 1):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        for epoch in range(epochs):
            order = seeds.permutation(seeds.key(seed, number, "only", epoch), len(y))
            for at in range(0, len(y), batch):
                rows = order[at : at + batch]
                optimizer.zero_grad()
                loss_of(task, model, x[rows], y[rows]).backward()
                optimizer.step()
    result = hanse.simulate(
        task,
        {"only": ((x, y), None)},
        local=LocalTraining(lr=lr, momentum=momentum, epochs=epochs, batch_size=batch),
        pipeline=FINE,
        rounds=rounds,
        seed=seed,
    )
    assert_near(result, values(model), tolerance)
    assert sum(row["update"]["clipped"] for row in result.history) == 0


def gradient_descent(task: TorchTask, data, *, lr: float, rounds: int, seed: int):
    model, (x, y) = start_of(task, seed), union(data)
    for _ in range(rounds):
        model.zero_grad()
        loss_of(task, model, x, y).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= lr * p.grad
    return values(model)


@pytest.mark.parametrize("lr", [0.05, 0.4])
def test_fedavg_with_one_full_batch_step_is_gradient_descent_on_the_pooled_loss(
    name, precision, lr
):
    task, data, tolerance = task_of(name, precision)
    expected = gradient_descent(task, data, lr=lr, rounds=5, seed=2)
    for strategy, local in (
        (hanse.fedavg(), LocalTraining(lr=lr, batch_size=None)),
        (hanse.fedsgd(lr=lr), None),
        (hanse.fedavg(), LocalTraining(lr=lr, batch_size=64, steps=1, epochs=3)),
        (hanse.fedavg(server_lr=lr), LocalTraining(lr=1.0, batch_size=None)),
    ):
        result = hanse.simulate(
            task, data, strategy=strategy, local=local, pipeline=FINE, rounds=5, seed=2
        )
        assert_near(result, expected, tolerance)


def test_a_client_counts_as_often_as_it_has_examples_up_to_the_cap():
    task, data, tolerance = task_of("logistic", "float64")
    local = LocalTraining(lr=0.3, epochs=2, batch_size=8)
    single = {
        site: hanse.simulate(task, {site: pair}, local=local, pipeline=FINE, rounds=1, seed=4)
        for site, pair in data.items()
    }
    for cap in (32, 128, None):
        weights = {s: min(len(y), cap or 10**9) for s, ((_, y), _) in data.items()}
        together = hanse.simulate(
            task,
            data,
            local=local,
            pipeline=Pipeline([Weight(by="examples", cap=cap), Clip(norm=4.0)]),
            rounds=1,
            seed=4,
        )
        mean = {
            n: sum(w * single[s].parameters[n] for s, w in weights.items()) / sum(weights.values())
            for n in together.parameters
        }
        assert_near(together, mean, 1e-8 if cap is None else tolerance)


def test_a_client_may_count_by_its_steps():
    """17, 21, 25, 29, 33 rows in batches of 8 are 3, 3, 4, 4, 5 steps; the cap is 4."""
    task, data, tolerance = task_of("logistic", "float64")
    local, clip = LocalTraining(lr=0.3, batch_size=8), Clip(norm=4.0)
    by_steps = Pipeline([Weight(by="steps", cap=4), clip])
    together = hanse.simulate(task, data, local=local, pipeline=by_steps, rounds=1)
    mean = dict.fromkeys(together.parameters, 0.0)
    for weight, (site, pair) in zip((3, 3, 4, 4, 4), sorted(data.items()), strict=True):
        single = hanse.simulate(task, {site: pair}, local=local, pipeline=FINE, rounds=1)
        mean = {n: mean[n] + weight / 18 * single.parameters[n] for n in mean}
    assert_near(together, mean, tolerance)


def test_clients_that_are_copies_of_one_are_that_one():
    """With full batches, data alike make updates alike, whatever the name."""
    task, data, tolerance = task_of("27-16-2", "float64")
    train = data["site-3"]
    local = LocalTraining(lr=0.2, batch_size=None, epochs=4)
    one, many = (
        hanse.simulate(task, federated, local=local, pipeline=FINE, rounds=3)
        for federated in ({"a": train}, {f"s{k}": train for k in range(7)})
    )
    assert_near(many, one.parameters, tolerance)


@pytest.mark.parametrize("sampler", [FixedSize(2), hanse.Poisson(0.5)])
def test_a_round_with_a_cohort_is_the_mean_of_that_cohort_alone(sampler):
    task, data, tolerance = task_of("logistic", "float64")
    local = LocalTraining(lr=0.3, epochs=2, batch_size=8)
    settings = {"local": local, "pipeline": FINE, "rounds": 1, "seed": 6}
    result = hanse.simulate(task, data, strategy=hanse.fedavg(sampler=sampler), **settings)
    cohort = result.history[0]["counted"]
    assert 0 < len(cohort) < len(data)
    alone = hanse.simulate(task, {site: data[site] for site in cohort}, **settings)
    assert_near(result, alone.parameters, tolerance)


def test_zero_learning_rate_leaves_the_initial_model():
    for task, data in ((binary(), BINARY), (classes(cnn, buffers="freeze"), federation(images))):
        result = hanse.simulate(task, data, local=LocalTraining(lr=0.0), rounds=2, seed=9)
        layout, start = task.describe(9)
        assert result.model_digest == layout.digest(start)


def test_a_clip_that_fires_scales_every_update_to_its_norm():
    task, data, _ = task_of("logistic", "float64")
    tight = Pipeline([Weight(by="uniform"), Clip(norm=1e-3)])
    result = hanse.simulate(task, data, pipeline=tight, rounds=1, seed=1)
    before = task.describe(1)[0].views(task.describe(1)[1])
    moved = [result.parameters[n] - before[n] for n in result.parameters]
    length = np.sqrt(sum((m**2).sum() for m in moved))
    assert 0 < length <= 1e-3
    assert result.history[0]["update"]["clipped"] == len(data)


def test_server_optimisers_see_the_mean_update():
    """One round of FedAdam and FedAvgM from the mean that FedAvg finds."""
    task, data, _ = task_of("logistic", "float64")
    layout, start = task.describe(0)
    before = layout.views(start)
    runs = {
        s.name: hanse.simulate(task, data, strategy=s, pipeline=FINE, rounds=1).parameters
        for s in (hanse.fedavg(), hanse.fedadam(server_lr=0.1), hanse.fedavg(server_lr=0.5))
    } | {
        "half": hanse.simulate(
            task, data, strategy=hanse.fedavg(server_lr=0.5), pipeline=FINE, rounds=1
        ).parameters
    }
    full = hanse.simulate(task, data, strategy=hanse.fedavg(), pipeline=FINE, rounds=1).parameters
    for name, now in full.items():
        delta = now - before[name]
        m, v = 0.1 * delta, 0.99 * 1e-6 + 0.01 * delta**2
        expected = before[name] + 0.1 * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(runs["fedadam"][name], expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(runs["half"][name], before[name] + delta / 2, atol=1e-12)


def test_noise_without_clients_moves_the_model_by_its_own_scale():
    """An empty Poisson cohort under a privacy claim still releases noise, of the stated size."""
    task = binary(double(lambda: torch.nn.Linear(FEATURES, 40)), metrics=[])
    multiplier, clip, public = 2.0, 0.5, 4.0
    pipeline = Pipeline(
        [
            Weight(by="uniform", denominator=public),
            Clip(norm=clip),
            hanse.GaussianNoise(multiplier),
        ]
    )
    x, _ = table(9, 1)
    y = np.zeros((9, 40))
    result = hanse.simulate(
        replace_loss(task, torch.nn.MSELoss()),
        {"a": ((x, y), None)},
        strategy=hanse.fedavg(sampler=hanse.Poisson(1e-9)),
        pipeline=pipeline,
        rounds=1,
        evaluation=hanse.Evaluation(every=0),
    )
    layout, start = task.describe(0)
    before = layout.views(start)
    noise = np.concatenate(
        [(result.parameters[n] - before[n]).reshape(-1) for n in result.parameters]
    )
    assert result.history[0]["counted"] == []
    assert noise.std() == pytest.approx(multiplier * clip / public, rel=0.1)  # 5 sd at n = 1,120
    assert layout.parameters == noise.size == 40 * FEATURES + 40


def replace_loss(task: TorchTask, loss: torch.nn.Module) -> TorchTask:
    return TorchTask(model=task.model, loss=loss)


def test_private_training_with_a_known_cohort_is_the_clipped_mean_plus_noise():
    """A seed draws the same noise twice; only a simulation may."""
    task, data, _ = task_of("logistic", "float64")
    local = LocalTraining(lr=0.5)
    steps = [Weight(by="uniform", denominator=5.0), Clip(norm=0.2)]
    runs = [
        hanse.simulate(
            task,
            data,
            local=local,
            pipeline=Pipeline(more),
            rounds=1,
            evaluation=hanse.Evaluation(every=0),
        )
        for more in (
            steps,
            [*steps, hanse.GaussianNoise(1e-3)],
            [*steps, hanse.GaussianNoise(1e-3)],
        )
    ]
    assert runs[1].model_digest == runs[2].model_digest != runs[0].model_digest
    assert_near(runs[1], runs[0].parameters, 6 * 1e-3 * 0.2 / 5)


def test_the_state_of_a_step_moves_on_from_round_to_round():
    """The total of round n counts n times: after each round, n times the step of a plain one."""
    task, data, _ = task_of("logistic", "float64")
    fine = Pipeline([*FINE.steps, Growing()])

    def run(pipeline, rounds):
        return hanse.simulate(
            task, data, local=LocalTraining(lr=0.1), pipeline=pipeline, rounds=rounds
        ).vector

    start, plain, one, two = task.describe(0)[1], run(FINE, 1), run(fine, 1), run(fine, 2)
    np.testing.assert_array_equal(one, plain)
    np.testing.assert_allclose(two - one, 2 * (run(FINE, 2) - plain), rtol=0, atol=1e-12)
    assert np.abs(two - one).max() > 1e-3 < np.abs(one - start).max()
