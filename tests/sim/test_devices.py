"""A population that nobody lists: its data comes when a client trains, and goes after it."""

import json

import numpy as np
import pytest
from torch import nn

import hanse
from hanse.config.parse import parse
from hanse.core.samplers import FixedSize
from hanse.errors import ConfigError, DataError
from hanse.sim import station
from hanse.sim.devices import Devices
from hanse.sim.population import Given
from hanse.sim.replay import replay
from hanse.sim.simulate import as_run
from hanse.train.torch import TorchTask

MILLION = 1_000_000
TASK = TorchTask(
    model=lambda: nn.Linear(6, 3), loss=nn.CrossEntropyLoss(), metrics=[hanse.metrics.accuracy]
)


def data(site):
    rng = np.random.default_rng(site.number)
    y = rng.integers(0, 3, 5 + site.number % 20)
    x = np.eye(3, 6)[y] + rng.normal(size=(len(y), 6)) / 4
    return (x.astype("float32"), y), None


CENTRAL = data(hanse.Site("test-999999999"))[0]


def run_of(population, engine="exact", cohort=30, **more) -> hanse.Run:
    return as_run(
        TASK, population, None, None, strategy=hanse.fedavg(sampler=FixedSize(cohort)), rounds=3,
        local=hanse.LocalTraining(batch_size=4, lr=0.3), engine=engine, central=CENTRAL, **more,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["exact", "batched"])
def test_a_million_clients_end_in_one_model_for_any_number_of_workers(engine, tmp_path):
    run = run_of(Devices(data, MILLION), engine)
    result = hanse.simulate(run, out=tmp_path)
    assert [len(row["counted"]) for row in result.history] == [30, 30, 30]
    assert len({name for row in result.history for name in row["counted"]}) > 85
    assert result.history[-1]["central"]["accuracy"] > 0.5
    assert hanse.simulate(run, workers=3).model_digest == result.model_digest
    assert replay(run, result.history).model_digest == result.model_digest
    told = json.loads((tmp_path / "spec.json").read_text())
    assert (told["clients"]["count"], "ids" in told["clients"]) == (MILLION, False)
    assert "1,000,000" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("engine", ["exact", "batched"])
def test_it_trains_what_the_same_clients_train_when_they_are_given(engine, monkeypatch):
    monkeypatch.setattr(station, "AT_ONCE", 7)
    run = run_of(Devices(data, 40), engine)
    many = hanse.simulate(run)
    named = {name: data(hanse.Site(name)) for name in run.population.ids}
    trace = many.history
    assert replay(run_of(Given(named), engine), trace).model_digest == many.model_digest


def test_no_clients_data_stays(monkeypatch):
    monkeypatch.setattr(station, "AT_ONCE", 4)
    opened = list[str]()

    def noted(site):
        opened.append(site.id)
        return data(site)

    run = run_of(Devices(noted, 1000), cohort=10)
    one = station.station_of(run, run.spec)
    sizes = list[int]()
    monkeypatch.setattr(station.Station, "data", watched(sizes))
    one.train(
        run.described[1], run.population.ids[:10], run.work, 1, {}, run.spec.bound.accumulator()
    )
    assert opened == run.population.ids[:10]
    assert max(sizes) == 4
    assert not one.opened


def watched(sizes):
    plain = station.Station.data

    def read(self, client):
        found = plain(self, client)
        sizes.append(len(self.opened))
        return found

    return read


def test_a_client_whose_data_is_damaged_is_named_or_left_out():
    def torn(site):
        if site.number % 2:
            raise DataError(f"{site.id}: the file is torn", hint="copy it again")
        return data(site)

    population = Devices(torn, 10_000)
    with pytest.raises(DataError, match=r"device-\d{4}: the file is torn"):
        hanse.simulate(run_of(population))
    result = hanse.simulate(run_of(population, on_error="drop"))
    for row in result.history:
        assert row["dropped"]
        assert all(name[-1] in "02468" for name in row["counted"])


RUN = """\
task = "app:task"
data = "app:data"
rounds = 2

[evaluation]
central = "app:central"

[sources]
table = "app.py"

[population]
clients = 5000000
partition = "own"

[sampling]
name = "fixed"
size = 5
"""


def test_a_run_file_says_that_clients_have_data_of_their_own(tmp_path):
    (tmp_path / "app.py").write_text(
        "from tests.sim.test_devices import CENTRAL, TASK as task, data\n"
        "def central():\n    return CENTRAL\n"
    )
    (tmp_path / "run.toml").write_text(RUN)
    file = parse(tmp_path / "run.toml")
    run = file.load()
    assert len(run.population.ids) == 5_000_000
    assert file.sketch.cohort == 5
    result = hanse.simulate(run)
    assert result.history[-1]["central"]["accuracy"] >= 0
    assert hanse.simulate(tmp_path / "run.toml", workers=2, backend="spawn").model_digest == (
        result.model_digest
    )


def test_a_partition_of_its_own_has_no_settings(tmp_path):
    (tmp_path / "run.toml").write_text(
        RUN.replace('partition = "own"', 'partition = "own"\nalpha = 1')
    )
    with pytest.raises(ConfigError, match="alpha"):
        parse(tmp_path / "run.toml")


def test_an_empty_population_is_refused():
    with pytest.raises(ConfigError, match="clients = 0"):
        Devices(data, 0)
