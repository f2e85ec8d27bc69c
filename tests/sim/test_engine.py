"""The engine that trains many clients at once: one model for any number of workers, or none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.sim.test_resume import Interrupted, StopAfter
from tests.train.models import FEATURES, binary, federation, tabular
from torch import nn

import hanse
from hanse import ConfigError, LocalTraining
from hanse.config.parse import load
from hanse.core.samplers import FixedSize
from hanse.sim.engine import choose
from hanse.sim.output import Folder
from hanse.sim.replay import replay
from hanse.sim.simulate import as_run
from hanse.train import torch_block
from hanse.train.torch import TorchTask

LOCAL = LocalTraining(lr=0.1, batch_size=8, epochs=2)
PIPELINE = hanse.Pipeline([hanse.Weight(by="examples", cap=60), hanse.Clip(norm=0.2)])


def rows(n: int, seed: int):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, FEATURES)).astype("float32")
    return x, (x[:, 0] > 0).astype("int64")


SIZES = np.random.default_rng(3).integers(1, 70, 40)
DATA = {f"client-{k:02d}": (rows(int(n), k), rows(9, k + 100)) for k, n in enumerate(SIZES)}


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 3, 4), nn.ReLU(), nn.Flatten(),
        nn.Linear(3 * (FEATURES - 3), 1),
    )  # fmt: skip


def made(model=tabular, engine="batched", **settings) -> hanse.Run:
    chosen = {"strategy": hanse.fedavg(sampler=FixedSize(23)), "local": LOCAL, "rounds": 3}
    chosen = {**chosen, "pipeline": PIPELINE, **settings}
    task = model if isinstance(model, TorchTask) else binary(model)
    return as_run(task, settings.pop("data", DATA), None, None, engine=engine, **{
        k: v for k, v in chosen.items() if k != "data"
    })  # fmt: skip


@pytest.mark.parametrize("model", [tabular, conv])
def test_any_number_of_workers_ends_in_one_model(model):
    run = made(model)
    results = [hanse.simulate(run, workers=n) for n in (1, 2, 3)]
    assert len({result.model_digest for result in results}) == 1
    assert results[0].history[-1]["update"] == results[2].history[-1]["update"]


@pytest.mark.parametrize("limit", ["MOST", "ROWS", "BATCHES", "BY_HAND", "MAPPED"])
@pytest.mark.parametrize("model", [tabular, conv])
def test_smaller_blocks_end_in_the_same_model(model, limit, monkeypatch):
    wanted = hanse.simulate(made(model)).model_digest
    sizes = list[int]()
    plain = torch_block.TorchBlocks.train

    def noted(self, start, data, work, turns):
        sizes.append(len(data))
        return plain(self, start, data, work, turns)

    monkeypatch.setattr(torch_block.TorchBlocks, "train", noted)
    monkeypatch.setattr(torch_block, limit, 300 if limit == "ROWS" else 1)
    assert hanse.simulate(made(model)).model_digest == wanted
    used = limit not in ("BY_HAND", "MAPPED") or (limit == "BY_HAND") == (model is tabular)
    assert (max(sizes) < 10) == used


@pytest.mark.parametrize("model", [tabular, conv])
def test_after_one_round_it_is_within_what_is_promised_of_exact(model):
    one, many = (hanse.simulate(made(model, engine, rounds=1)) for engine in ("exact", "batched"))
    assert one.spec_hash != many.spec_hash
    apart = np.linalg.norm(one.vector - many.vector) / np.linalg.norm(one.vector)
    assert 0 < apart <= 1e-5
    row, other = one.history[0], many.history[0]
    assert row["counted"] == other["counted"]
    assert row["update"]["clipped"] == other["update"]["clipped"] > 0
    assert row["update"]["longest"] == pytest.approx(other["update"]["longest"], rel=1e-4)
    assert row["train"] == pytest.approx(other["train"], rel=1e-4)


def test_it_learns_as_exact_does():
    one, many = (hanse.simulate(made(engine=e, rounds=15)) for e in ("exact", "batched"))
    first, other = (result.json()["metrics"]["auc"] for result in (one, many))
    assert first == pytest.approx(other, abs=0.02)
    assert other > 0.9


def test_spawned_workers_and_this_process_agree_where_the_run_file_says_so(tmp_path):
    (tmp_path / "app.py").write_text(
        "from tests.train.models import binary\n"
        "from tests.sim.test_engine import DATA\n"
        "task = binary()\n"
        "def data(site):\n    return DATA[site.id]\n"
    )
    run_file = tmp_path / "run.toml"
    sites = json.dumps(sorted(DATA)[:6])
    run_file.write_text(
        f'task = "app:task"\ndata = "app:data"\nsites = {sites}\nrounds = 2\nengine = "auto"\n'
    )
    run = replace(load(run_file), engine="batched")
    here = hanse.simulate(run)
    assert here.spec.engine == "batched"
    assert hanse.simulate(run, workers=2, backend="spawn").model_digest == here.model_digest


def test_faults_and_refusals_are_those_of_one_by_one():
    faults = hanse.Faults(dropout=0.2, corrupt=0.3)
    one, many = (
        hanse.simulate(made(engine=e, faults=faults, quorum=hanse.Quorum(minimum=1)))
        for e in ("exact", "batched")
    )
    for row, other in zip(one.history, many.history, strict=True):
        for key in ("counted", "refused", "dropped"):
            assert row[key] == other[key]
    assert any(row["refused"] for row in many.history)


def test_a_run_goes_on_with_the_engine_that_it_began_with(tmp_path, monkeypatch):
    whole = hanse.simulate(made(rounds=4))
    run = made(engine="auto", rounds=4)
    with pytest.raises(Interrupted):
        hanse.simulate(run, out=tmp_path, callbacks=[StopAfter(2)], checkpoint_s=0)
    begun = Folder(tmp_path).engine()
    assert begun in ("exact", "batched")
    monkeypatch.setattr("hanse.sim.engine._try", lambda *_: pytest.fail("it measured again"))
    ended = hanse.simulate(run, out=tmp_path, resume=True, workers=2)
    assert ended.spec.engine == begun
    if begun == "batched":
        assert ended.model_digest == whole.model_digest
    again = replay(replace(run, engine=begun), ended.history)
    assert again.model_digest == ended.model_digest


def test_what_was_chosen_and_why_is_in_the_record_and_the_report(tmp_path):
    result = hanse.simulate(made(engine="auto"), out=tmp_path)
    told = json.loads((tmp_path / "environment.json").read_text())["engine"]
    assert told["asked"] == "auto"
    assert told["chosen"] == result.spec.engine == result.json()["engine"]
    assert "a client one at a time" in told["why"]
    assert told["why"] in (tmp_path / "report.html").read_text()


def dropping() -> nn.Module:
    return tabular(dropout=0.5)


class Mixing(nn.Module):
    """Rows of a batch see each other: filled up, a batch is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(FEATURES, 4), nn.Linear(4, 1)

    def forward(self, x):
        hidden = torch.tanh(self.one(x))
        return self.two(hidden - hidden.mean(0))


class Deciding(nn.Module):
    """What it does depends on the numbers: nothing that vmap can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(FEATURES, 1)

    def forward(self, x):
        return self.one(x) if float(x.sum()) > -1e9 else -self.one(x)


@pytest.mark.parametrize(
    ("model", "said"),
    [(dropping, "dropout"), (Mixing, "differs by"), (Deciding, "vmap")],
)
def test_what_cannot_be_trained_so_is_said_and_auto_does_without(model, said):
    with pytest.raises(ConfigError) as caught:
        hanse.simulate(made(model))
    assert said in str(caught.value)
    assert "exact" in caught.value.hint
    choice = choose(made(model, engine="auto"))
    assert (choice.engine, said in choice.why) == ("exact", True)


class OneByOne(torch.utils.data.Dataset):
    def __init__(self, x, y) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def test_data_that_is_read_item_by_item_is_named():
    data = {**DATA, "client-07": (OneByOne(*DATA["client-07"][0]), None)}
    run = made(data=data, strategy=hanse.fedavg())
    with pytest.raises(ConfigError, match=r"client-07.*item by item"):
        hanse.simulate(run)


def test_real_sites_train_exactly_whatever_the_simulator_does():
    run = made()
    assert run.spec.engine == "batched"
    assert run.deployed().spec.engine == "exact"
    assert run.deployed().spec.hash == made(engine="exact").spec.hash


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match="unknown"):
        made(engine="fast")


def test_small_federations_of_sites_train_in_blocks_too():
    run = as_run(binary(), federation(clients=3), None, None, rounds=2, engine="batched")
    assert hanse.simulate(run).model_digest == hanse.simulate(run, workers=2).model_digest
