"""Whole runs with seeds: what a federation is for, seen from the outside.

Thresholds are relations between runs of ours, or well below what the run reaches; the seeds are
fixed, so nothing here fails by chance.
"""

import json
from pathlib import Path

import numpy as np
from tests.train.models import tabular
from torch import nn

import hanse
from hanse import Clip, Evaluation, Faults, FixedSize, LocalTraining, Pipeline, Quorum, Weight
from hanse.config.parse import parse
from hanse.data import Dirichlet, synthetic
from hanse.sim.baselines import baselines
from hanse.sim.population import Partitioned
from hanse.train.torch import TorchTask

HEART = Path(__file__).parents[2] / "examples" / "healthcare" / "heart" / "run.toml"
SITES = {"cleveland", "hungary", "switzerland", "va-long-beach"}


def hospitals(seed: int) -> dict[str, dict[str, float]]:
    """AUC per hospital: local only, federated, pooled."""
    run = parse(HEART, ()).load().with_seed(seed)
    beside = baselines(run)
    federated = hanse.simulate(run).history[-1]["evaluation"]["sites"]
    return {
        kind: {site: row["auc"] for site, row in sites.items()}
        for kind, sites in (beside | {"federated": federated}).items()
    }


def test_four_hospitals_are_better_off_together_than_alone_and_as_well_as_pooled():
    runs = [hospitals(seed) for seed in (1, 2, 3)]

    def mean(kind: str, *sites: str) -> float:
        values = [run[kind][site] for run in runs for site in sites]
        return float(np.mean([value for value in values if value is not None]))

    assert all(set(run["federated"]) == SITES for run in runs)
    assert mean("federated", *SITES) > mean("local", *SITES)
    assert mean("federated", *SITES) > 0.75
    assert abs(mean("federated", *SITES) - mean("pooled", *SITES)) < 0.05
    strong = ("cleveland", "hungary")
    assert mean("federated", *strong) > mean("local", *strong) - 0.02


# A large, uneven, unreliable population: synthetic(1, 1) of the FedProx paper


DEVICES = synthetic(1.0, 1.0, clients=30, seed=5)
MULTINOMIAL = TorchTask(
    model=lambda: nn.Linear(60, 10),
    loss=nn.CrossEntropyLoss(),
    metrics=[hanse.metrics.accuracy],
)


def devices(**more) -> hanse.Result:
    data = {k: ((x[:80], y[:80]), (x[:40], y[:40])) for k, (x, y) in DEVICES.items()}
    settings = {
        "strategy": hanse.fedprox(mu=0.1, sampler=FixedSize(10)),
        "local": LocalTraining(lr=0.02, batch_size=10, epochs=2),
        "pipeline": Pipeline([Weight(by="examples", cap=100), Clip(norm=2.0)]),
        "rounds": 20,
        "seed": 5,
        "evaluation": Evaluation(every=20),
    }
    return hanse.simulate(MULTINOMIAL, data, **settings | more)


def accuracy(result: hanse.Result) -> float:
    return result.history[-1]["evaluation"]["pooled"]["accuracy"]


def test_training_goes_on_through_dropouts_delays_and_rubbish(tmp_path):
    rough = {
        "faults": Faults(dropout=0.2, delay_s=30.0, corrupt=0.1, kind="inf"),
        "quorum": Quorum(over_selection=1.5, deadline_s=90.0, minimum=6),
    }
    calm, shaken = devices(), devices(**rough, out=tmp_path / "run")
    assert accuracy(calm) > 0.6
    assert accuracy(shaken) > accuracy(calm) - 0.1
    history = shaken.history
    assert sum(len(row["dropped"]) + len(row["refused"]) for row in history) > 40
    for row in history:
        assert row["aborted"] or 6 <= len(row["counted"]) <= 10
        named = [*row["counted"], *row["refused"], *row["dropped"], *row["late"]]
        assert len(named) == len(set(named)) <= row["cohort"]
    again = devices(**rough, workers=2)
    assert again.model_digest == shaken.model_digest
    told = json.loads((tmp_path / "run" / "result.json").read_text())
    assert told["model_digest"] == shaken.model_digest
    assert told["spec_hash"] == again.spec_hash


def test_adaptive_servers_learn_where_averages_do():
    results = {
        strategy.name: accuracy(devices(strategy=strategy))
        for strategy in (
            hanse.fedadam(server_lr=0.05, sampler=FixedSize(10)),
            hanse.fedyogi(server_lr=0.05, sampler=FixedSize(10)),
        )
    }
    assert min(results.values()) > 0.55, results


def test_clients_that_cannot_be_told_apart_still_teach_a_model():
    """200 clients under central noise: Poisson cohorts, uniform weights, a public denominator."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 27)).astype(np.float32)
    y = (x[:, 0] - x[:, 1] > 0).astype(np.int64)
    split = Partitioned(lambda: ((x[:5000], y[:5000]), (x[5000:], y[5000:])), 200, Dirichlet(1.0))
    task = TorchTask(model=tabular, loss=nn.BCEWithLogitsLoss(), metrics=[hanse.metrics.auc])
    result = hanse.simulate(
        task,
        split,
        strategy=hanse.fedavg(sampler=hanse.Poisson(0.25)),
        local=LocalTraining(lr=0.5, batch_size=None, epochs=3),
        pipeline=Pipeline(
            [Weight(by="uniform", denominator=50.0), Clip(norm=0.5), hanse.GaussianNoise(0.5)]
        ),
        evaluation=Evaluation(every=25, release="none"),
        rounds=25,
        seed=1,
    )
    assert result.history[-1]["central"]["auc"] > 0.9
    assert result.history[-1]["train"] is None
    sizes = [row["cohort"] for row in result.history]
    assert min(sizes) < 50 < max(sizes)
