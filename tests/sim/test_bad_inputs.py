"""Mistakes at the door of the simulator: one clear line, before anything is trained."""

import json

import numpy as np
import pytest
from tests.train.models import binary, federation, table, tabular

import hanse
from hanse import Evaluation, FixedSize, LocalTraining, Pipeline, Quorum
from hanse.data import Iid
from hanse.errors import ConfigError, DataError, HanseError, TaskError
from hanse.sim.population import Given, Partitioned

DATA = federation(clients=3)
X, Y = table(12, 1)


@pytest.fixture(params=[False, True], ids=["in memory", "with a folder"])
def settings(request, tmp_path) -> dict:
    return {"rounds": 1, **({"out": tmp_path / "run"} if request.param else {})}


def refused(kind: type[HanseError], text: str, *arguments, **settings) -> HanseError:
    with pytest.raises(kind, match=text) as caught:
        hanse.simulate(*arguments, **settings)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


# Settings


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rounds": 0}, "rounds = 0 trains nothing"),
        ({"workers": 0}, "workers = 0"),
        ({"strategy": hanse.fedavg(sampler=FixedSize(4))}, "a cohort of 4 is larger"),
        ({"quorum": Quorum(minimum=4)}, "minimum = 4 reports"),
        ({"evaluation": Evaluation(best="f1")}, "best = 'f1'"),
        ({"local": LocalTraining(optimizer="task")}, 'optimizer = "task"'),
        ({"data": {}}, "the population is empty"),
        ({"data": None}, "no data"),
        ({"data": lambda site: DATA[site.id]}, "no sites"),
        ({"data": lambda site: DATA[site.id], "sites": []}, "no sites"),
        ({"data": lambda site: DATA[site.id], "sites": ["site-1", "site-1"]}, "listed twice"),
        (
            {"data": lambda site: DATA[site.id], "sites": ["St. Mary"]},
            "'St. Mary' is not a site id",
        ),
        ({"data": {"Site_1": DATA["site-1"]}}, "'Site_1' is not a site id"),
        ({"data": {1: DATA["site-1"]}}, "1 is not a site id"),
    ],
)
def test_settings_that_cannot_be_meant_are_config_errors(change, text):
    arguments = {"data": DATA, "rounds": 1} | change
    refused(ConfigError, text, binary(), **arguments)


def test_an_unsound_pipeline_is_refused_when_it_is_written():
    with pytest.raises(hanse.PipelineError, match="no L2 bound") as caught:
        Pipeline([hanse.GaussianNoise(1.0)])
    assert "Clip" in caught.value.hint


def test_a_run_file_that_is_not_there_is_told_with_its_path():
    refused(ConfigError, "there is no run file .*no such file.toml", "no such file.toml")


def test_what_a_run_file_would_silently_lose_is_refused():
    """Beside a run, data and sites have nowhere to go."""
    whole = hanse.Run(binary(), Given(DATA), hanse.fedavg(), LocalTraining(), Pipeline(), rounds=1)
    for extra in ({"data": DATA}, {"sites": ["a"]}, {"sources": {"heart": "x.csv"}}):
        refused(ConfigError, "run", whole, **extra)


# Data functions


class Odd:
    """Something that no data function should return."""


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, r"data\(a\) returned NoneType, not \(train, test\)"),
        (5, r"data\(a\) returned int, not"),
        (X, r"data\(a\) returned ndarray, not"),
        ((X, Y), r"data\(a\) returned \(ndarray, ndarray\), not"),
        ((X, Y, X, Y), r"data\(a\) returned \(ndarray, ndarray, ndarray, ndarray\), not"),
        (((X, Y),), r"data\(a\) returned \(tuple\), not"),
        ({"train": (X, Y)}, r"data\(a\) returned dict, not"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_data_function_returns_has_to_be_train_and_test(returned, text, workers, settings):
    def data(site):
        return returned if site.id == "a" else DATA["site-1"]

    error = refused(TaskError, text, binary(), data, ["a", "b"], workers=workers, **settings)
    assert error.site == "a"


@pytest.mark.parametrize(
    "returned",
    [
        ((), None),
        ((X,), None),
        ((X, 5), None),
        ((X, None), None),
        ((X[0], Y), None),
        ((X, Y.reshape(3, 4)), None),
        ((X, Y[:3]), None),
        ((X[:0], Y[:0]), None),
        (("x", "y"), None),
        ((X, Y), (X, Y[:3])),
        ((X, Y), ("x", "y")),
        ((X, Y), 5),
        (Odd(), None),
        ([Odd(), Odd()], None),
        ("heart.csv", None),
        ({"x": X, "y": Y}, None),
        (iter([(X, Y)]), None),
    ],
)
def test_nonsense_for_data_is_a_data_or_task_error_that_names_the_site(returned, settings):
    with pytest.raises((DataError, TaskError), match=r"\bb\b") as caught:
        hanse.simulate(
            binary(),
            lambda site: returned if site.id == "b" else DATA["site-1"],
            ["a", "b"],
            **settings,
        )
    assert caught.value.hint


def test_targets_of_another_shape_at_one_site_are_no_riddle(settings):
    data = {"a": ((X, Y), None), "b": ((X, Y.reshape(-1, 1)), None)}
    assert hanse.simulate(binary(tabular), data, **settings).history[0]["counted"] == ["a", "b"]


def test_a_data_function_that_raises_names_site_and_line(settings):
    def data(site):
        return {"a": DATA["site-1"]}[site.id]

    error = refused(
        TaskError,
        "reading the data set at b: KeyError: 'b'",
        binary(),
        data,
        ["a", "b"],
        **settings,
    )
    assert (error.site, error.phase) == ("b", "reading the data set")
    assert f"{__file__}:" in error.hint


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_is_unknown_or_missing_is_named_with_its_site(workers, tmp_path, settings):
    def data(site):
        np.loadtxt(site.source("heart"))
        return DATA["site-1"]

    here = {"liver": tmp_path / "liver.csv"}
    text = "[ab] has no source 'heart' \\(it has liver\\)"
    for_all = {"workers": workers, **settings}
    refused(DataError, text, binary(), data, ["a", "b"], sources=here, **for_all)
    here = {"heart": tmp_path / "gone.csv"}
    text = "source 'heart' is .*gone.csv, which does not exist"
    refused(DataError, text, binary(), data, ["a", "b"], sources=here, **for_all)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_data_of_few_sites_is_read_once_and_its_classes_are_told(workers, tmp_path):
    def data(site):
        with open(tmp_path / site.id, "a") as file:
            file.write("read\n")
        return DATA[f"site-{site.id}"]

    out = tmp_path / "run"
    hanse.simulate(binary(), data, ["0", "1", "2"], rounds=2, workers=workers, out=out)
    assert [(tmp_path / site).read_text() for site in "012"] == ["read\n"] * 3
    told = json.loads((out / "population.json").read_text())
    ones = {part["id"]: part["counts"][1] for part in told["parts"]}
    assert ones == {site: int(DATA[f"site-{site}"][0][1].sum()) for site in "012"}


# Populations


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda: 5, "returned int, not"),
        (lambda: ((X, Y), None, None, None), "returned .*not"),
        (lambda: ((X,), None), "."),
        (lambda: (Odd(), None), "."),
        (lambda: 1 / 0, "reading the data set: ZeroDivisionError"),
    ],
)
def test_a_data_set_that_cannot_be_split_is_told_to_its_author(function, text, settings):
    split = Partitioned(function, 4, Iid())
    with pytest.raises((DataError, TaskError), match=text):
        hanse.simulate(binary(), split, **settings)


def test_more_clients_than_rows_are_refused(settings):
    split = Partitioned(lambda: ((X, Y), None), 13, Iid())
    with pytest.raises(HanseError, match="13"):
        hanse.simulate(binary(), split, **settings)


def test_a_population_of_nobody_is_refused():
    with pytest.raises(ConfigError, match="clients = 0"):
        Partitioned(lambda: ((X, Y), None), 0, Iid())


# The folder


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    refused(ConfigError, "cannot make", binary(), DATA, rounds=1, out=tmp_path / "file" / "run")


# The functional form


def test_a_process_refuses_more_clients_than_its_sums_have_room_for():
    process = hanse.process(binary(), cohort=2)
    data = {site: train for site, (train, _) in DATA.items()}
    with pytest.raises(ConfigError, match="3 clients, and the process was made for at most 2") as e:
        process.next(process.initialize(), data)
    assert "cohort=3" in e.value.hint


def test_a_process_without_clients_leaves_the_model():
    process = hanse.process(binary())
    state, metrics = process.next(process.initialize(seed=1), {})
    assert process.model_digest(state) == process.model_digest(process.initialize(seed=1))
    assert metrics["counted"] == []
    assert metrics["loss"] is None


def test_a_process_names_clients_whose_updates_it_refused():
    data = {site: train for site, (train, _) in DATA.items()}
    process = hanse.process(binary(), local=LocalTraining(lr=1e38))
    _, metrics = process.next(process.initialize(), data)
    assert set(metrics["refused"]) == set(DATA)
    assert metrics["counted"] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_data_of_a_client_that_no_early_round_asks_is_told_before_the_first(workers):
    data = federation(clients=4)
    data["site-3"][0][0][3, 1] = np.nan
    seen = []

    class See:
        def on_start(self, run, spec): ...

        def on_round(self, row):
            seen.append(row)

        def on_end(self, result): ...

    with pytest.raises(DataError, match="site-3: the input is nan in row 3"):
        hanse.simulate(
            binary(), data, strategy=hanse.fedavg(sampler=hanse.FixedSize(1)), rounds=20,
            workers=workers, callbacks=[See()],
        )  # fmt: skip
    assert not seen
