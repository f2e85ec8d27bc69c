"""Laws of whole runs: what noise a model takes up, and what becomes of a round that aborts."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tests.train.models import binary, double, federation, logistic

import hanse
from hanse import Clip, Evaluation, Faults, GaussianNoise, LocalTraining, Pipeline, Quorum, Weight
from hanse.errors import ConfigError, PipelineError
from hanse.report.promises import promises
from hanse.sim.process import ProcessState
from hanse.sim.simulate import as_run
from hanse.strategies import GlobalModel

TASK = binary(double(logistic))
DATA = federation(clients=8)
TRAINING = {site: train for site, (train, _) in DATA.items()}
QUIET = Evaluation(every=0)
STILL = LocalTraining(lr=0.0)
"""Nothing is learnt, so that the noise alone moves the model."""
MULTIPLIER, NORM, BY = 2.0, 0.5, 4.0
PRIVATE = Pipeline(
    [Weight(by="uniform", denominator=BY), Clip(norm=NORM), GaussianNoise(MULTIPLIER)]
)
ROUNDS = 3


def parameters(vector: np.ndarray, seed: int) -> np.ndarray:
    """The model's 28 numbers, without the padding between them."""
    layout, _ = TASK.describe(seed)
    return np.concatenate([view.reshape(-1) for view in layout.views(vector).values()])


@cache
def simulated(seed: int, workers: int = 1) -> np.ndarray:
    """How the noise of each round moves the model: [round, parameter]."""
    models = [parameters(TASK.describe(seed)[1], seed)]
    for rounds in range(1, ROUNDS + 1):
        result = hanse.simulate(
            TASK, DATA, pipeline=PRIVATE, local=STILL, evaluation=QUIET, rounds=rounds, seed=seed,
            workers=workers,
        )  # fmt: skip
        models.append(parameters(result.vector, seed))
    return np.diff(models, axis=0)


@cache
def processed(seed: int) -> np.ndarray:
    """The same by the functional form."""
    made = hanse.process(TASK, local=STILL, pipeline=PRIVATE)
    state = made.initialize(seed)
    models = [parameters(state.vector, seed)]
    for _ in range(ROUNDS):
        state, _ = made.next(state, TRAINING)
        models.append(parameters(state.vector, seed))
    return np.diff(models, axis=0)


@pytest.mark.parametrize("moves", [simulated, processed])
def test_every_round_has_noise_of_its_own(moves):
    """Continuous draws: two rounds with one equal number would be a chance of 2^-40."""
    one, two, three = moves(3)
    for this, that in ((one, two), (one, three), (two, three)):
        assert (np.abs(this - that) > 1e-9).all()


@pytest.mark.parametrize("moves", [simulated, processed])
def test_every_seed_has_noise_of_its_own(moves):
    assert (np.abs(moves(3) - moves(4)) > 1e-9).all()


@pytest.mark.parametrize("moves", [simulated, processed])
def test_the_model_takes_up_noise_of_the_standard_deviation_that_is_promised(moves):
    """z·C/denominator, over 2 seeds × 3 rounds × 28 parameters.

    A sum of n squares of standard normals is within n − 2√(nx) and n + 2√(nx) + 2x but for a
    probability of 2·exp(−x) (Laurent, Massart 2000, Lemma 1). x = 14: 2e-6. Fixed seeds.
    """
    drawn = np.concatenate([moves(3), moves(4)]) / (MULTIPLIER * NORM / BY)
    n, x, squares = drawn.size, 14, float((drawn**2).sum())
    assert n == 2 * ROUNDS * 28
    assert n - 2 * math.sqrt(n * x) < squares < n + 2 * math.sqrt(n * x) + 2 * x


def test_workers_add_the_noise_once():
    assert np.array_equal(simulated(3, workers=2), simulated(3))


# A round that aborts

CORRUPT = Faults(corrupt=0.4)
SIX = Quorum(minimum=6)


def run(rounds: int, workers: int = 1, **more) -> hanse.Result:
    return hanse.simulate(
        TASK, DATA, local=LocalTraining(lr=0.3), faults=CORRUPT, quorum=SIX, rounds=rounds,
        seed=0, workers=workers, **more,
    )  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("strategy", [hanse.fedavg(), hanse.fedavgm(), hanse.fedadam()])
def test_the_sum_of_a_round_that_aborts_moves_no_bit_of_the_model(strategy, workers):
    """Shares that are sound have been summed by then: they are thrown away."""
    sound = [s for s in DATA if not CORRUPT.fate(0, 1, s).corrupts]
    assert 2 <= len(sound) < 6
    result = run(1, workers, strategy=strategy)
    assert result.history[0]["aborted"]
    assert result.history[0]["counted"] == []
    layout, start = TASK.describe(0)
    assert result.model_digest == layout.digest(start)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_sum_of_a_round_that_aborts_is_not_in_the_next_one_either(workers):
    """The next round that counts is what it would be alone: the functional form makes it."""
    rounds = next(n for n in range(2, 50) if sum(CORRUPT.fate(0, n, s).corrupts for s in DATA) <= 2)
    result = run(rounds, workers)
    assert [bool(row["aborted"]) for row in result.history] == [True] * (rounds - 1) + [False]
    counted = result.history[-1]["counted"]
    made = hanse.process(TASK, local=LocalTraining(lr=0.3))
    state: ProcessState = made.initialize(0)
    state = replace(state, model=GlobalModel(rounds - 1, state.vector, state.model.slots))
    state, _ = made.next(state, {site: TRAINING[site] for site in counted})
    assert result.model_digest == made.model_digest(state)


# What is refused before anything runs


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"seed": 2**60}, "seed = 1152921504606846976 is not a whole number"),
        ({"seed": 1.5}, "seed = 1.5 is not a whole number"),
        ({"seed": -1}, "seed = -1 is not a whole number"),
        ({"rounds": 2.5}, "rounds = 2.5 is not a whole number"),
        ({"rounds": "3"}, "rounds = '3' is not a whole number"),
        ({"quorum": Quorum(over_selection=1.5)}, "than a sampler of 'all' chooses"),
        (
            {"pipeline": PRIVATE, "evaluation": QUIET, "quorum": Quorum(minimum=2)},
            "minimum = 2: whether a round has so many reports would show",
        ),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_runs(given, text):
    with pytest.raises(ConfigError, match=text) as caught:
        hanse.simulate(TASK, DATA, **given)
    assert caught.value.hint


def test_buffers_beside_a_public_denominator_are_told_before_anything_runs():
    from tests.train.models import classes, cnn, images

    task = classes(cnn)
    task.buffers = "aggregate"
    data = federation(images, clients=2)
    with pytest.raises(PipelineError, match="would be no mean") as caught:
        hanse.simulate(
            task, data, pipeline=Pipeline([Weight(by="uniform", denominator=2.0)]), rounds=1
        )
    assert "observed" in caught.value.hint


@pytest.mark.parametrize("pipeline", [PRIVATE, Pipeline()])
def test_it_is_said_who_sees_who_took_part(pipeline):
    made = as_run(TASK, DATA, None, None, pipeline=pipeline, evaluation=QUIET)
    rows = [row for section in promises(made.spec) for row in section.rows]
    (said,) = [row for row in rows if row[0].startswith("who took part")]
    assert said == ("who took part, was refused or failed", "each round", "no", "no")
