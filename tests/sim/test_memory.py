"""What clients keep between rounds: theirs alone, and only if their report was counted."""

import numpy as np
import pytest
from tests.laws.toys import Feedback, Rounds
from tests.train.models import classes, cnn, federation, images, table
from torch import nn

import hanse
from hanse import Clip, Faults, FixedSize, LocalTraining, Pipeline, Quorum, Weight
from hanse.train.torch import TorchTask

PIXELS = federation(images, clients=6)
LOCAL_NORM = classes(cnn, buffers="local")
SHAKY = Faults(dropout=0.3, corrupt=0.2, delay_s=3.0)
SAMPLED = hanse.fedavg(sampler=FixedSize(3))
OVER = Quorum(over_selection=1.5, minimum=2)


class Seen(nn.Module):
    """Counts in a local float buffer how often a client's training was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(27, 1)
        self.register_buffer("turns", nn.Parameter().new_zeros(1))

    def forward(self, x):
        if self.training:
            self.turns += 1
        return self.linear(x) * 0 + self.turns


ROWS = {f"s{k}": (table(9, k), table(5, k)) for k in range(6)}
COUNTING = TorchTask(model=Seen, loss=nn.MSELoss(), buffers="local")
ONE_STEP = LocalTraining(lr=0.0, batch_size=None)


def turns(result: hanse.Result, number: int) -> dict[str, int]:
    """How often each client has been counted by its own buffer, read from its squared error.

    Labels are 0 or 1, so a model that puts out k everywhere has the loss p·(k − 1)² + (1 − p)·k².
    """
    found = {}
    for site, row in result.history[number - 1]["evaluation"]["sites"].items():
        p = ROWS[site][1][1].mean()
        losses = [p * (k - 1) ** 2 + (1 - p) * k**2 for k in range(20)]
        found[site] = int(np.argmin([abs(row["loss"] - loss) for loss in losses]))
        assert row["loss"] == pytest.approx(losses[found[site]], abs=1e-4)
    return found


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "faults", [Faults(), Faults(dropout=0.4), Faults(corrupt=0.4), SHAKY], ids=str
)
def test_what_a_client_keeps_is_committed_only_when_its_report_was_counted(workers, faults):
    """Refused, dropped, late, surplus and aborted turns leave no trace."""
    result = hanse.simulate(
        COUNTING,
        ROWS,
        strategy=SAMPLED,
        local=ONE_STEP,
        faults=faults,
        quorum=OVER,
        rounds=8,
        workers=workers,
    )
    counted = dict.fromkeys(ROWS, 0)
    for row in result.history:
        for site in row["counted"]:
            counted[site] += 1
        assert turns(result, row["round"]) == counted
    assert sum(counted.values()) > 8
    if faults == SHAKY:
        assert any(row["aborted"] for row in result.history)
        assert any(row["refused"] for row in result.history)


def test_local_statistics_are_the_same_for_any_number_of_workers():
    runs = [
        hanse.simulate(
            LOCAL_NORM, PIXELS, strategy=SAMPLED, faults=SHAKY, quorum=OVER, rounds=5, workers=w
        )
        for w in (1, 2, 3)
    ]
    assert len({run.model_digest for run in runs}) == 1
    assert runs[0].history[-1]["evaluation"] == runs[2].history[-1]["evaluation"]


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_of_steps_is_kept_like_that_of_models(workers):
    """Error feedback at the client, and a step's own state at the server, over dropouts."""
    pipeline = Pipeline([Weight(by="uniform"), Feedback(), Rounds()])
    settings = {
        "pipeline": pipeline,
        "strategy": SAMPLED,
        "local": LocalTraining(lr=1.5, epochs=2),
        "rounds": 4,
        "faults": Faults(dropout=0.3),
    }
    task = TorchTask(model=lambda: nn.Linear(27, 1), loss=nn.BCEWithLogitsLoss())
    result = hanse.simulate(task, ROWS, workers=workers, **settings)
    assert result.model_digest == hanse.simulate(task, ROWS, **settings).model_digest
    forgetful = Pipeline([Weight(by="uniform"), Rounds()])
    other = hanse.simulate(task, ROWS, **settings | {"pipeline": forgetful})
    assert other.model_digest != result.model_digest


def test_the_functional_form_keeps_client_memory_in_its_state(tmp_path):
    data = {site: train for site, (train, _) in PIXELS.items()}
    process = hanse.process(LOCAL_NORM, pipeline=Pipeline([Weight(cap=40), Clip(norm=5.0)]))
    state, kept = process.initialize(seed=1), None
    for number in range(3):
        before = state
        state, _ = process.next(state, data)
        if number == 1:
            kept = before
    again = kept
    for _ in range(2):
        again, _ = process.next(again, data)
    assert process.model_digest(again) == process.model_digest(state)
    state.save(tmp_path / "state")
    loaded = type(state).load(tmp_path / "state")
    assert loaded.clients.keys() == data.keys()
    for site, named in loaded.clients.items():
        np.testing.assert_array_equal(named["local"], state.clients[site]["local"])


def test_next_leaves_the_state_that_it_was_given_as_it_was():
    data = {site: train for site, (train, _) in PIXELS.items()}
    process = hanse.process(LOCAL_NORM, hanse.fedadam())
    first, _ = process.next(process.initialize(seed=1), data)
    vector = first.vector.copy()
    local = {site: named["local"].copy() for site, named in first.clients.items()}
    one, _ = process.next(first, data)
    two, _ = process.next(first, data)
    assert process.model_digest(one) == process.model_digest(two)
    np.testing.assert_array_equal(first.vector, vector)
    for site, array in local.items():
        np.testing.assert_array_equal(first.clients[site]["local"], array)
