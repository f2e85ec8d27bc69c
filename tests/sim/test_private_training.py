"""Runs in which each client hides its single examples."""

from dataclasses import replace

import numpy as np
import pytest
from tests.train.models import binary, classes, cnn, double, federation, images, tabular

import hanse
from hanse import ConfigError, Evaluation, LocalPrivacy, LocalTraining, Pipeline, Privacy, Weight
from hanse.sim.baselines import budget
from hanse.sim.population import Given

PRIVATE = LocalPrivacy(clip=0.5, noise_multiplier=0.8, sampling_rate=0.3)
LOCAL = LocalTraining(lr=0.5, batch_size=8, steps=4, privacy=PRIVATE)
UNIFORM = Pipeline([Weight(by="uniform")])
ROWS = federation()


def run(task=None, data=None, **more) -> hanse.Result:
    settings = {
        "local": LOCAL,
        "pipeline": UNIFORM,
        "rounds": 3,
        "seed": 7,
        "evaluation": Evaluation(release="simulation"),
        "privacy": Privacy(1e-5, unit="example", against="coordinator"),
    }
    return hanse.simulate(task or binary(tabular), data or ROWS, **settings | more)


@pytest.mark.parametrize(
    ("task", "data"),
    [
        (binary(tabular), ROWS),
        (binary(double(tabular)), ROWS),
        (classes(cnn, buffers="freeze"), federation(images)),
    ],
    ids=["tabular", "float64", "cnn"],
)
def test_any_number_of_workers_ends_in_the_same_bits(task, data):
    assert run(task, data).model_digest == run(task, data, workers=2).model_digest


def test_a_client_trains_alike_whoever_else_there_is():
    """Its batches and noise are its own: with a seed they are named by it."""
    first = {"site-0": ROWS["site-0"]}
    assert run(data=first).model_digest == run(data=first).model_digest
    assert run(data=first).model_digest != run(data=first, seed=8).model_digest


def test_nothing_exact_is_in_the_history():
    for row in run().history:
        assert row["train"] is None
        assert row["counted"] == sorted(ROWS)


def test_no_model_is_chosen_by_a_metric():
    assert run().best is None


def test_many_at_once_is_refused_and_auto_goes_one_by_one():
    with pytest.raises(ConfigError, match="clips and noises within each client"):
        run(engine="batched")
    assert run(engine="auto").model_digest == run().model_digest


def test_fedsgd_fixes_local_training():
    with pytest.raises(ConfigError, match="fixes local training"):
        run(strategy=hanse.fedsgd(lr=0.1))


def test_a_process_reports_no_counts_of_examples():
    process = hanse.process(binary(tabular), local=LOCAL, pipeline=UNIFORM)
    state = process.initialize(7)
    state, metrics = process.next(state, {name: train for name, (train, _) in ROWS.items()})
    assert metrics["loss"] is None
    assert metrics["examples"] is None
    assert metrics["counted"] == sorted(ROWS)


def test_a_site_with_more_rows_moves_further():
    """All divide by one batch_size, so that no weight by examples is needed."""
    few, many = federation(clients=1, smallest=20), federation(clients=1, smallest=200)
    quiet = replace(LOCAL, privacy=replace(PRIVATE, noise_multiplier=1e-6))
    start = binary(tabular).describe(7)[1]
    moved = [
        np.linalg.norm(flat(run(data=data, local=quiet, rounds=1)) - start) for data in (few, many)
    ]
    assert moved[1] > 3 * moved[0]


def flat(result: hanse.Result) -> np.ndarray:
    layout, _ = binary(tabular).describe(7)
    return layout.pack(result.parameters)


def test_baselines_train_without_noise():
    """They are what one would get without a federation, and nobody is told of them."""
    quiet = hanse.Run(
        binary(tabular), Given(ROWS), hanse.fedavg(), LOCAL, UNIFORM, rounds=3,
        evaluation=Evaluation(release="simulation"),
    )  # fmt: skip
    assert budget(quiet) == replace(LOCAL, privacy=None, steps=12, epochs=3)


def test_a_task_that_does_not_say_that_it_hides_examples_is_refused(monkeypatch):
    """A claim for training that is as ever would be false."""
    task = binary(tabular)
    monkeypatch.setattr(type(task), "hides_examples", False)
    with pytest.raises(ConfigError, match="asks for clipped and noised steps"):
        run(task)
