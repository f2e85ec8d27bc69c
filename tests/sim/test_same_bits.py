"""One run, one model, bit for bit: for any workers, any order of arrival, any place of data."""

import os
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.models import (
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
from hanse import Clip, Faults, LocalTraining, Pipeline, Quorum, Weight
from hanse.config.parse import parse
from hanse.data import Dirichlet
from hanse.sim.population import Partitioned
from hanse.train.torch import TorchTask

ROUNDS = 3
BOUNDED = Pipeline([Weight(by="examples", cap=40), Clip(norm=0.5)])
SGD = LocalTraining(lr=0.1, batch_size=8, epochs=2)
MOMENTUM = replace(SGD, momentum=0.9, weight_decay=1e-3)
ADAM = replace(SGD, optimizer="adam", lr=0.01)


@dataclass(frozen=True)
class Case:
    task: TorchTask
    data: dict
    local: LocalTraining = SGD
    strategy: hanse.Strategy = hanse.fedavg()  # noqa: RUF009 -- a frozen value

    def run(self, **more) -> hanse.Result:
        settings = {"pipeline": BOUNDED, "rounds": ROUNDS, "seed": 7} | more
        return hanse.simulate(
            self.task, self.data, local=self.local, strategy=self.strategy, **settings
        )


ROWS, PIXELS = federation(), federation(images)
CASES = {
    "logistic": Case(binary(logistic), ROWS),
    "logistic, float64": Case(binary(double(logistic)), ROWS),
    "27-16-2, momentum": Case(classes(partial(tabular, 2)), ROWS, MOMENTUM),
    "27-16-1, adam": Case(binary(tabular), ROWS, ADAM),
    "27-16-1, dropout, fedprox": Case(
        binary(partial(tabular, dropout=0.5)), ROWS, MOMENTUM, hanse.fedprox(mu=0.1)
    ),
    "27-16-1, fedadam": Case(binary(tabular), ROWS, SGD, hanse.fedadam(server_lr=0.1)),
    "cnn, aggregate": Case(classes(cnn, buffers="aggregate"), PIXELS, SGD),
    "cnn, local": Case(classes(cnn, buffers="local"), PIXELS, MOMENTUM),
    "cnn, freeze": Case(classes(cnn, buffers="freeze"), PIXELS, ADAM),
}
FEW = ["27-16-2, momentum", "27-16-1, dropout, fedprox", "cnn, aggregate", "cnn, local"]
digests: dict[str, str] = {}


def digest(name: str) -> str:
    """The digest of the plain run: one worker, this process."""
    if name not in digests:
        digests[name] = CASES[name].run().model_digest
    return digests[name]


@pytest.fixture(params=CASES)
def name(request) -> str:
    return request.param


def kept_rows(result: hanse.Result) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


def test_any_number_of_workers_makes_the_same_model_and_history(name):
    plain = CASES[name].run()
    digests[name] = plain.model_digest
    for workers in (2, 4):
        result = CASES[name].run(workers=workers)
        assert result.model_digest == plain.model_digest, workers
        assert kept_rows(result) == kept_rows(plain), workers


def test_another_seed_makes_another_model(name):
    assert CASES[name].run(seed=8, rounds=1).model_digest != digest(name)


@pytest.mark.parametrize("few", FEW)
def test_one_worker_process_makes_the_model_that_this_process_makes(few):
    assert CASES[few].run(workers=1, backend="fork").model_digest == digest(few)


@pytest.mark.parametrize("few", FEW)
def test_the_order_in_which_clients_arrive_does_not_matter(few):
    late = CASES[few].run(faults=Faults(delay_s=10.0))
    assert late.model_digest == digest(few)


def test_delays_do_shuffle_the_order_of_arrival():
    faults = Faults(delay_s=10.0)
    orders = {
        tuple(sorted(ROWS, key=lambda site: faults.fate(7, number, site).delay_s))
        for number in range(1, ROUNDS + 1)
    }
    assert len(orders) == ROUNDS


@pytest.mark.parametrize("few", FEW)
def test_data_may_be_slices_of_one_big_array_or_own_arrays(few):
    """A slice that starts at row 3 of 27 floats does not start on 16 bytes."""
    case = CASES[few]
    whole = [np.concatenate([part[k] for part, _ in case.data.values()]) for k in (0, 1)]
    offset, sliced = 0, {}
    for site, ((x, _), test) in case.data.items():
        sliced[site] = (tuple(part[offset : offset + len(x)] for part in whole), test)
        offset += len(x)
    addresses = [x.__array_interface__["data"][0] % 16 for (x, _), _ in sliced.values()]
    assert case.data is PIXELS or any(addresses)
    assert replace(case, data=sliced).run().model_digest == digest(few)


@pytest.mark.parametrize("few", FEW)
def test_memory_layout_and_byte_offset_of_arrays_do_not_matter(few):
    def moved(x, y):
        room = np.empty(x.nbytes + 4, np.uint8)[4:]  # 4 bytes off any alignment that malloc gave
        copy = room.view(np.float32).reshape(x.shape[::-1]).T
        copy[...] = x
        return copy, y.astype(np.int32)

    case = CASES[few]
    data = {site: (moved(*train), test) for site, (train, test) in case.data.items()}
    assert replace(case, data=data).run().model_digest == digest(few)


@pytest.mark.parametrize("few", FEW)
def test_sites_that_read_their_data_make_the_same_model_as_data_in_memory(few):
    case = CASES[few]
    read = hanse.simulate(
        case.task,
        lambda site: case.data[site.id],
        list(case.data)[::-1],
        local=case.local,
        strategy=case.strategy,
        pipeline=BOUNDED,
        rounds=ROUNDS,
        seed=7,
    )
    assert read.model_digest == digest(few)


def test_a_population_that_splits_one_array_makes_the_same_model_as_an_array_per_client():
    split = Partitioned(lambda: (table(120, 1), None), 6, Dirichlet(alpha=0.5))
    run = replace(CASES["27-16-2, momentum"], data=split)
    seeded = split.seeded(7)
    copies = {c: tuple(part.copy() for part in seeded.open(c)[0]) for c in seeded.ids}
    given = replace(run, data={client: (part, None) for client, part in copies.items()})
    assert run.run().model_digest == given.run().model_digest
    assert run.run(workers=2).model_digest == given.run().model_digest


@pytest.mark.parametrize("few", FEW)
def test_chance_outside_the_run_does_not_matter_and_is_left_as_it_was(few):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert CASES[few].run().model_digest == digest(few)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert bool((torch.get_rng_state() == states[2]).all())


def test_numpy_kernels_make_the_model_that_numba_makes():
    script = (
        "import hanse; hanse.train.torch.loop\n"  # the adapter is there without being imported
        "from tests.sim.test_same_bits import CASES, FEW, digest\n"
        "from hanse.core.accelerate import kernels\n"
        "print(kernels().name, *map(digest, FEW))"
    )
    root = Path(__file__).parents[2]
    env = {**os.environ, "HANSE_NUMBA": "0", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kernel, *found = done.stdout.split()
    assert kernel == "numpy"
    assert found == [digest(few) for few in FEW]


APP = """
from torch import nn
import hanse
from hanse.train.torch import TorchTask
import numpy as np

def model():
    return nn.Sequential(nn.Linear(27, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))

task = TorchTask(model=model, loss=nn.BCEWithLogitsLoss(), metrics=[hanse.metrics.auc])

def data(site):
    rng = np.random.default_rng(site.seed)
    x = rng.normal(size=(20, 27)).astype(np.float32)
    return (x, x[:, 0] > 0), None
"""
RUN = """
task = "app:task"
data = "app:data"
sites = ["a", "b", "c"]
rounds = 2
seed = 7
[local]
batch_size = 8
"""


@pytest.fixture
def run_file(tmp_path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path / "run.toml"


def test_spawned_workers_make_the_same_model_also_with_another_seed_and_more_rounds(run_file):
    changed = {"seed": 8, "rounds": 3}
    spawned = hanse.simulate(run_file, backend="spawn", workers=2, **changed)
    assert spawned.model_digest == hanse.simulate(run_file, **changed).model_digest
    assert spawned.model_digest != hanse.simulate(run_file).model_digest


def test_spawned_workers_refuse_settings_that_the_run_file_does_not_hold(run_file):
    local = LocalTraining(lr=1.0)
    with pytest.raises(hanse.ConfigError, match="spawn") as caught:
        hanse.simulate(run_file, local=local, backend="spawn", workers=1)
    assert caught.value.hint


def test_spawned_workers_honour_what_is_set_beside_the_run_file(run_file):
    changed = parse(run_file, ["local.lr=0.3", "rounds=3"]).load()
    spawned = hanse.simulate(changed, backend="spawn", workers=2)
    assert spawned.model_digest == hanse.simulate(changed).model_digest
    assert spawned.model_digest != hanse.simulate(run_file, rounds=3).model_digest


def test_spawned_workers_need_a_run_file():
    with pytest.raises(hanse.ConfigError, match="spawn"):
        CASES["logistic"].run(backend="spawn", workers=2)


@pytest.mark.parametrize("few", FEW)
def test_process_and_simulate_make_the_same_model_also_with_the_state_saved_between(few, tmp_path):
    case = CASES[few]
    process = hanse.process(case.task, case.strategy, local=case.local, pipeline=BOUNDED)
    state = process.initialize(seed=7)
    for _ in range(ROUNDS):
        state, metrics = process.next(
            state, {site: train for site, (train, _) in case.data.items()}
        )
        state.save(tmp_path / "state.safetensors")
        state = type(state).load(tmp_path / "state.safetensors")
    result = case.run()
    assert process.model_digest(state) == result.model_digest
    assert metrics["loss"] == result.history[-1]["train"]["loss"]
    assert metrics["counted"] == result.history[-1]["counted"]


def test_over_selection_gives_the_same_model_for_any_number_of_workers():
    case = replace(CASES["27-16-1, adam"], strategy=hanse.fedavg(sampler=hanse.FixedSize(2)))
    settings = {
        "quorum": Quorum(over_selection=2.0),
        "faults": Faults(delay_s=5.0, dropout=0.2, corrupt=0.2),
        "rounds": 5,
    }
    plain = case.run(**settings)
    assert any(row["refused"] for row in plain.history)
    assert any(row["dropped"] for row in plain.history)
    for workers in (2, 3):
        other = case.run(**settings, workers=workers)
        assert other.model_digest == plain.model_digest
        assert kept_rows(other) == kept_rows(plain)
