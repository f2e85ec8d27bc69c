"""One update turned back into the row that it was made of: it works, until there is noise.

Of a first layer with a bias, the gradient of each neuron's weights is the input times that of its
bias, so a quotient of two numbers of the update is a number of the input (Phong et al., IEEE TIFS
13(5), 2018, §3; for more layers and rows, Zhu, Liu, Han, arXiv:1906.08935).
"""

import numpy as np
import pytest
from torch import nn

from hanse import (
    Clip,
    LocalGaussianNoise,
    LocalPrivacy,
    LocalTraining,
    Pipeline,
    Rotate,
    ScaledRound,
    SkellamNoise,
    Weight,
)
from hanse.core.seeds import stream
from hanse.core.step import Refused
from hanse.core.sums import on_wire
from hanse.core.work import Train
from hanse.train.local import Turn
from hanse.train.torch import TorchTask

COLUMNS, ROWS = 12, 40
PLAIN = LocalTraining(lr=0.1, steps=1, batch_size=1)
WEIGHT = Weight(by="uniform", denominator=4.0)
TASK = TorchTask(
    model=lambda: nn.Sequential(nn.Linear(COLUMNS, 6), nn.Tanh(), nn.Linear(6, 1)),
    loss=nn.BCEWithLogitsLoss(),
)


def found(pipeline: Pipeline, local: LocalTraining = PLAIN) -> float:
    """Return how far, in the median over rows, what an attacker makes of one share is from the row:
    1 is as far as saying nothing, 0 is the row itself.
    """
    layout, start = TASK.describe(1)
    bound = pipeline.bind(layout, cohort=10, example_multiplier=local.example_multiplier)
    kernel, rng, errors = TASK.kernel(), np.random.default_rng(3), []
    for number in range(ROWS):
        x = rng.normal(size=(1, COLUMNS)).astype(np.float32)
        y = rng.integers(0, 2, 1)
        turn = Turn(5, number, "bank")
        data = kernel.prepare((x, y), turn)
        trained = kernel.train(start, data, Train(local), turn, None)
        announced = bound.announce({})
        share, _ = bound.encode(
            trained.update,
            trained.counts,
            lambda purpose, n=number: stream(5, n, "bank", purpose),
            announced=announced,
        )
        assert not isinstance(share, Refused)
        errors.append(attacked(bound, layout, on_wire(share.vector, share.scale), x[0]))
    return float(np.median(errors))


def attacked(bound, layout, wired: np.ndarray, row: np.ndarray) -> float:
    """Return the relative error of the best guess, with the share decoded as a sum of one."""
    vector = wired.astype(np.float64)
    if wired.size == layout.span("trainable").stop:
        views = layout.views(vector.astype(np.float32))
        weights, biases = views["0.weight"].astype(float), views["0.bias"].astype(float)
        neuron = np.argmax(abs(biases))
        guess = weights[neuron] / biases[neuron]
        return min(1.0, float(np.linalg.norm(guess - row) / np.linalg.norm(row)))
    raise AssertionError("a share of another length")


@pytest.mark.parametrize(
    "steps", [[], [Clip(0.01)], [WEIGHT, Clip(0.01)]], ids=["nothing", "clip", "weight and clip"]
)
def test_without_noise_the_row_is_read_off_the_update(steps):
    """A clip shortens the whole update, and the quotient stays."""
    assert found(Pipeline(steps)) < 1e-3


@pytest.mark.parametrize(
    ("steps", "local"),
    [
        ([WEIGHT, Clip(0.01), LocalGaussianNoise(1.0)], PLAIN),
        ([WEIGHT, Clip(0.01), ScaledRound(), SkellamNoise(4.0, honest=4)], PLAIN),
        ([Weight(by="uniform")], LocalTraining(
            lr=0.1, steps=1, batch_size=1, privacy=LocalPrivacy(1.0, 1.0, 1.0))),
    ],
    ids=["local noise", "noise in shares", "noise in training"],
)  # fmt: skip
def test_with_noise_at_the_client_it_is_not(steps, local):
    assert found(Pipeline(steps), local) > 0.9


def test_a_rotation_hides_nothing_by_itself():
    """Everybody can turn it back: it is no protection, and is not said to be one."""
    turned = Pipeline([WEIGHT, Clip(0.01), Rotate()])
    layout, _ = TASK.describe(1)
    bound = turned.bind(layout, cohort=10)
    assert not bound.facts.is_private
