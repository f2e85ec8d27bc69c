"""What federation is measured against: each site alone and all data in one place, same budget."""

import json

import numpy as np
import pytest
import torch
from tests.train.models import binary, classes, cnn, federation, images, logistic, table
from torch import nn
from torch.utils.data import Dataset

import hanse
from hanse import ConfigError, LocalTraining, Pipeline, Weight
from hanse.core import metrics, seeds
from hanse.sim.baselines import baselines, budget
from hanse.sim.population import Given
from hanse.sim.repeat import repeat
from hanse.sim.run import Run

DATA = federation(clients=3, tests=15)
LOCAL = LocalTraining(lr=0.2, batch_size=8, epochs=2, momentum=0.5)


def run(task=None, data=None, **more) -> Run:
    settings = {
        "strategy": hanse.fedavg(),
        "local": LOCAL,
        "pipeline": Pipeline([Weight(by="examples")]),
        "rounds": 4,
        "seed": 3,
    }
    return Run(task or binary(), Given(data or DATA), **settings | more)


def alone(task, x, y, who: str, *, epochs: int, test) -> dict:
    """SGD with momentum over ``epochs`` passes in one go, as one would write it by hand."""
    model = task.build(task.describe(3)[1]).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    for epoch in range(epochs):
        order = seeds.permutation(seeds.key(3, 0, who, epoch), len(y))
        for at in range(0, len(y), 8):
            rows = order[at : at + 8]
            optimizer.zero_grad()
            outputs = model(torch.from_numpy(x[rows]))[:, 0]
            task.loss(outputs, torch.from_numpy(y[rows]).float()).backward()
            optimizer.step()
    with torch.no_grad():
        scores = model(torch.from_numpy(test[0]))[:, 0]
        loss = task.loss(scores, torch.from_numpy(test[1]).float()).item()
    numbers = scores.double().numpy()
    auc = metrics.auc.value(metrics.auc.counts(numbers, test[1].astype(float)))
    accuracy = float(((numbers > 0) == test[1]).mean())
    return {"examples": len(test[1]), "loss": loss, "auc": auc, "accuracy": accuracy}


def test_local_only_is_a_bare_loop_of_rounds_times_epochs_passes():
    found, task = baselines(run()), binary()
    for site, ((x, y), test) in DATA.items():
        expected = alone(task, x, y, site, epochs=8, test=test)
        assert found["local"][site] == pytest.approx(expected, abs=1e-4)


def test_pooled_is_a_bare_loop_over_the_union_with_the_same_budget():
    found, task = baselines(run()), binary()
    x, y = (np.concatenate([train[k] for train, _ in DATA.values()]) for k in (0, 1))
    for site, (_, test) in DATA.items():
        expected = alone(task, x, y, "pooled", epochs=8, test=test)
        assert found["pooled"][site] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        (LocalTraining(epochs=2), LocalTraining(epochs=10)),
        (LocalTraining(steps=3), LocalTraining(epochs=5, steps=15)),
    ],
)
def test_the_budget_is_rounds_times_what_is_done_in_one(local, expected):
    assert budget(run(local=local, rounds=5)) == expected


def test_the_rate_of_fedsgd_is_at_its_server_and_holds_for_baselines_too():
    """A federation of one site under FedSGD is gradient descent, and so is its baseline."""
    strategy = hanse.fedsgd(lr=0.05)
    data = {"only": (table(40, 1), table(30, 2))}
    one = run(binary(logistic), data, strategy=strategy, local=strategy.fixed, rounds=6)
    assert budget(one) == LocalTraining(lr=0.05, epochs=6, batch_size=None)
    federated = hanse.simulate(one).history[-1]["evaluation"]["sites"]["only"]
    assert baselines(one)["local"]["only"] == pytest.approx(federated, abs=1e-4)


def test_baselines_depend_on_the_seed_and_on_nothing_else():
    plain = baselines(run())
    assert baselines(run(strategy=hanse.fedprox(mu=9.0))) == plain
    assert baselines(run(evaluation=hanse.Evaluation(every=0))) == plain
    assert baselines(run(seed=4)) != plain


def test_a_metric_that_is_undefined_at_a_site_is_so_in_baselines_too():
    data = {**DATA, "site-1": (DATA["site-1"][0], (DATA["site-1"][1][0], np.zeros(15)))}
    found = baselines(run(data=data))
    for kind in ("local", "pooled"):
        assert found[kind]["site-1"]["auc"] is None
        assert "only one class" in found[kind]["site-1"]["undefined"]["auc"]


def test_sites_without_test_data_are_pooled_and_not_compared():
    data = {**DATA, "site-1": (DATA["site-1"][0], None)}
    found = baselines(run(data=data))
    assert list(found["local"]) == list(found["pooled"]) == ["site-0", "site-2"]
    assert found["pooled"]["site-0"] == baselines(run())["pooled"]["site-0"]


def test_without_any_test_data_there_is_nothing_to_compare():
    nowhere = {site: (train, None) for site, (train, _) in DATA.items()}
    with pytest.raises(ConfigError, match="no site has test data") as caught:
        baselines(run(data=nowhere))
    assert caught.value.hint


@pytest.mark.parametrize("policy", ["aggregate", "local", "freeze"])
def test_statistics_of_a_baseline_are_those_of_its_own_training(policy):
    data = federation(images, clients=3)
    found = baselines(run(classes(cnn, buffers=policy), data))
    assert found["local"].keys() == data.keys()
    again = baselines(run(classes(cnn, buffers=policy), data))
    assert found == again


def test_data_sets_of_every_form_are_pooled_alike():
    class Rows(Dataset):
        def __init__(self, pair):
            self.x, self.y = pair

        def __len__(self):
            return len(self.y)

        def __getitem__(self, i):
            return self.x[i], self.y[i]

    mixed = {
        site: (Rows(train) if site == "site-1" else train, Rows(test))
        for site, (train, test) in DATA.items()
    }
    items = {site: (Rows(train), test) for site, (train, test) in DATA.items()}
    assert baselines(run(data=mixed)) == baselines(run(data=items)) == baselines(run())


def test_a_federation_of_one_site_is_that_site_alone_but_for_its_restarts():
    """One round, no momentum to restart: local-only, pooled and federated see the same batches."""
    data = {"only": (table(40, 1), table(30, 2))}
    one = run(binary(logistic), data, rounds=1, local=LocalTraining(lr=0.1, batch_size=None))
    found = baselines(one)
    federated = hanse.simulate(one).history[0]["evaluation"]["sites"]["only"]
    for kind in ("local", "pooled"):
        assert found[kind]["only"] == pytest.approx(federated, abs=1e-4)


def test_baselines_of_a_loop_of_ones_own_run_it_too():
    from hanse.train.torch import TorchTask, loop

    passes = []

    @loop
    def train(model, dataset, ctx):
        passes.append((ctx.client, ctx.local.epochs))
        return len(dataset)

    task = TorchTask(model=logistic, loss=nn.BCEWithLogitsLoss(), train=train)
    baselines(run(task))
    assert passes == [("site-0", 8), ("site-1", 8), ("site-2", 8), ("pooled", 8)]


@pytest.mark.parametrize("release", ["sum", "none"])
def test_the_federated_model_stands_in_the_comparison_whatever_a_run_releases(release, tmp_path):
    def compared(release, out):
        evaluation = hanse.Evaluation(release=release)
        repeat(run(evaluation=evaluation), [3], out=out, baselines=True)
        return json.loads((out / "baselines.json").read_text())

    released = compared("per-site", tmp_path / "all")
    found = compared(release, tmp_path / "some")
    assert found == released
    assert set(found["federated"]) == set(DATA)
