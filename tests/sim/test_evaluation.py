"""What is measured, where, how often, and what of it may leave a site."""

import json

import numpy as np
import pytest
import torch
from tests.train.models import binary, federation, logistic, table, tabular
from torch import nn

import hanse
from hanse import Clip, ConfigError, Evaluation, LocalTraining, Pipeline, Weight
from hanse.core import metrics
from hanse.data import Dirichlet, Iid
from hanse.sim.population import Partitioned
from hanse.train.torch import TorchTask

DATA = federation(clients=4, tests=15)
TESTS = {site: test for site, (_, test) in DATA.items()}
PRIVATE = Pipeline(
    [Weight(by="uniform", denominator=4.0), Clip(norm=1.0), hanse.GaussianNoise(0.5)]
)


def run(task=None, data=None, **more) -> hanse.Result:
    settings = {"rounds": 3, "local": LocalTraining(lr=0.2), "seed": 2} | more
    return hanse.simulate(task or binary(), data or DATA, **settings)


def measured(result: hanse.Result, x, y) -> dict[str, float]:
    """Loss and metrics of the final model, by hand."""
    with torch.no_grad():
        outputs = result.model(torch.from_numpy(x))[:, 0]
        loss = nn.BCEWithLogitsLoss()(outputs, torch.from_numpy(y).float()).item()
    scores = outputs.double().numpy()
    auc = metrics.auc.value(metrics.auc.counts(scores, y.astype(float)))
    return {"loss": loss, "auc": auc, "accuracy": float(((scores > 0) == y).mean())}


def test_each_site_is_measured_on_its_own_test_data_and_all_together_on_their_union():
    result = run()
    row = result.history[-1]["evaluation"]
    for site, (x, y) in TESTS.items():
        expected = measured(result, x, y)
        assert row["sites"][site] == pytest.approx({"examples": 15, **expected}, abs=1e-4)
    x, y = (np.concatenate(parts) for parts in zip(*TESTS.values(), strict=True))
    assert row["pooled"] == pytest.approx({"examples": 60, **measured(result, x, y)}, abs=1e-4)


def test_a_pooled_metric_weighs_sites_by_their_examples():
    data = dict(DATA)
    data["site-0"] = (DATA["site-0"][0], table(60, 9))
    row = run(data=data).history[-1]["evaluation"]
    hits = sum(round(s["accuracy"] * s["examples"]) for s in row["sites"].values())
    assert row["pooled"]["accuracy"] == hits / row["pooled"]["examples"]
    assert row["pooled"]["examples"] == 60 + 3 * 15


def test_a_metric_that_is_undefined_at_a_site_is_none_there_says_why_and_counts_in_the_pool():
    (x, y), (x_test, _) = DATA["site-1"]
    data = {**DATA, "site-1": ((x, y), (x_test, np.ones(15)))}
    row = run(data=data).history[-1]["evaluation"]
    assert row["sites"]["site-1"]["auc"] is None
    assert row["sites"]["site-1"]["undefined"] == {
        "auc": "only one class: 15 positives, 0 negatives"
    }
    assert row["sites"]["site-1"]["accuracy"] is not None
    assert row["pooled"]["auc"] is not None
    assert "undefined" not in row["pooled"]


def test_a_site_without_test_data_trains_and_is_not_measured():
    data = {**DATA, "site-1": (DATA["site-1"][0], None)}
    row = run(data=data).history[-1]
    assert "site-1" in row["counted"]
    assert "site-1" not in row["evaluation"]["sites"]
    assert row["evaluation"]["pooled"]["examples"] == 45
    nowhere = {site: (train, None) for site, (train, _) in DATA.items()}
    assert run(data=nowhere).history[-1]["evaluation"] is None


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3]), (2, [2, 3]), (9, [3]), (0, [])])
def test_evaluation_is_every_so_many_rounds_and_after_the_last(every, due):
    history = run(evaluation=Evaluation(every=every)).history
    assert [row["round"] for row in history if row["evaluation"]] == due


# What may leave


def test_a_released_sum_names_no_site():
    result = run(evaluation=Evaluation(release="sum"))
    full = run()
    for row, other in zip(result.history, full.history, strict=True):
        assert row["evaluation"]["sites"] == {}
        assert row["evaluation"]["pooled"] == other["evaluation"]["pooled"]
        told = json.dumps(row["evaluation"])
        assert not any(site in told for site in DATA)
        assert not any(repr(at["loss"]) in told for at in other["evaluation"]["sites"].values())
    assert result.json()["sites"] == {}


@pytest.mark.parametrize("evaluation", [Evaluation(release="none"), Evaluation(every=0)])
def test_nothing_is_measured_where_nothing_may_leave(evaluation):
    result = run(evaluation=evaluation)
    assert all(row["evaluation"] is None for row in result.history)
    assert result.best is None
    assert result.best_parameters is None


@pytest.mark.parametrize("release", ["per-site", "sum"])
def test_a_private_run_refuses_to_release_exact_metrics_before_it_starts(release):
    with pytest.raises(ConfigError, match="beside a noised model") as caught:
        run(pipeline=PRIVATE, evaluation=Evaluation(release=release))
    assert "simulation" in caught.value.hint


@pytest.mark.parametrize("release", ["none", "simulation"])
def test_a_private_history_has_no_losses_no_norms_and_no_best_model(release):
    result = run(pipeline=PRIVATE, evaluation=Evaluation(release=release))
    for row in result.history:
        assert row["train"] is None
        assert row["update"] is None
        assert (row["evaluation"] is not None) == (release == "simulation")
    assert result.best is None
    told = json.dumps(result.history)
    assert "loss" not in told or release == "simulation"


def test_a_simulators_own_measurements_do_not_change_the_model():
    silent, seen = (
        run(pipeline=PRIVATE, evaluation=Evaluation(release=release))
        for release in ("none", "simulation")
    )
    assert silent.model_digest == seen.model_digest


# Central data


def test_central_data_is_measured_beside_the_sites():
    x, y = table(40, 77)
    result = run(central=(x, y))
    assert result.history[-1]["central"] == pytest.approx(
        {"examples": 40, **measured(result, x, y)}, abs=1e-4
    )
    assert result.json()["central"] == result.history[-1]["central"]
    assert run().history[-1]["central"] is None


@pytest.mark.parametrize("pipeline", [Pipeline([Weight(by="examples")]), PRIVATE])
def test_central_data_is_no_sites_and_is_measured_though_nothing_may_leave_them(pipeline):
    quiet = Evaluation(release="none", every=2)
    result = run(central=table(40, 77), evaluation=quiet, pipeline=pipeline)
    assert [row["round"] for row in result.history if row["central"]] == [2, 3]
    assert all(row["evaluation"] is None for row in result.history)


# The best model


def peaks(result: hanse.Result, name: str, best) -> int:
    values = [row["evaluation"]["pooled"][name] for row in result.history]
    return values.index(best(values)) + 1


@pytest.mark.parametrize(("name", "best"), [(None, max), ("accuracy", max), ("loss", min)])
def test_the_best_model_is_the_first_at_the_best_value_of_its_metric(name, best):
    local = LocalTraining(lr=8.0, batch_size=4)
    result = run(rounds=8, local=local, evaluation=Evaluation(best=name))
    number = peaks(result, name or "auc", best)
    assert (result.best.round, result.best.metric) == (number, name or "auc")
    again = run(rounds=number, local=local)
    for tensor, value in result.best_parameters.items():
        np.testing.assert_array_equal(value, again.parameters[tensor])


def test_errors_are_best_when_they_are_least():
    task = TorchTask(model=logistic, loss=nn.MSELoss(), metrics=[hanse.metrics.mse])
    result = run(task, rounds=6, local=LocalTraining(lr=0.05, batch_size=4))
    assert result.best.round == peaks(result, "mse", min)


def test_central_data_picks_the_best_model_where_there_is_some():
    x, y = table(40, 77)
    result = run(central=(x, y), rounds=8, local=LocalTraining(lr=8.0, batch_size=4))
    values = [row["central"]["auc"] for row in result.history]
    assert result.best.value == max(values)
    assert result.best.round == values.index(max(values)) + 1


def test_a_metric_that_the_task_does_not_have_cannot_pick_the_best():
    with pytest.raises(ConfigError, match="best = 'f1' is not what the task measures") as caught:
        run(evaluation=Evaluation(best="f1"))
    assert "loss, auc, accuracy" in caught.value.hint


# A model that is no longer finite


class Bursts(nn.Linear):
    """Puts out something infinite where it is evaluated, at rows of sevens only."""

    def forward(self, x):
        outputs = super().forward(x)
        return outputs if self.training else torch.where(x[:, :1] == 7, torch.inf, outputs)


def test_a_loss_that_is_not_finite_is_undefined_and_not_a_large_number():
    (x, y), (x_test, y_test) = DATA["site-1"]
    sevens = x_test.copy()
    sevens[5:, 0] = 7
    data = {**DATA, "site-1": ((x, y), (sevens, y_test * 0))}
    row = run(binary(lambda: Bursts(27, 1)), data).history[-1]["evaluation"]
    why = "the loss is not finite"
    expected = {"examples": 15, "loss": None, "auc": None, "accuracy": None}
    undefined = {"loss": why, "auc": why, "accuracy": why}
    assert row["sites"]["site-1"] == {**expected, "undefined": undefined}
    assert row["sites"]["site-0"]["loss"] > 0
    assert row["pooled"]["loss"] is None
    assert row["pooled"]["undefined"] == undefined
    assert run(binary(lambda: Bursts(27, 1)), data).best is None


# One data set, split


def test_one_data_set_is_split_by_the_runs_seed_and_measured_centrally():
    train, test = table(200, 1), table(60, 2)
    split = Partitioned(lambda: (train, test), 10, Dirichlet(alpha=0.5))
    result = run(data=split, strategy=hanse.fedavg(sampler=hanse.FixedSize(4)))
    row = result.history[-1]
    assert row["cohort"] == 4
    assert row["evaluation"] is None
    assert row["central"] == pytest.approx({"examples": 60, **measured(result, *test)}, abs=1e-4)
    other = run(data=split, seed=3)
    assert other.spec.population == result.spec.population
    positives = [[split.seeded(s).open(c)[0][1].sum() for c in split.ids] for s in (2, 2, 3)]
    assert positives[0] == positives[1] != positives[2]


def test_a_population_of_items_is_split_like_one_of_arrays():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 120

        def __getitem__(self, i):
            return X[i], Y[i]

    X, Y = table(120, 1)
    digests = {
        run(data=Partitioned(lambda form=form: (form, None), 6, Iid())).model_digest
        for form in ((X, Y), torch.utils.data.TensorDataset(*map(torch.from_numpy, (X, Y))), Rows())
    }
    assert len(digests) == 1


def test_a_large_population_is_summed_and_not_listed():
    (x, y), test = table(4, 1), table(2, 2)
    data = {f"c{k:03d}": ((x, y), test) for k in range(201)}
    row = run(binary(tabular), data, rounds=1).history[-1]["evaluation"]
    assert row["sites"] == {}
    assert row["pooled"]["examples"] == 402
