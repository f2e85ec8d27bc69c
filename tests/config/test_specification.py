"""Specs and layouts as they travel: read back as they were written, or refused."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.config.specification import MOST_BYTES, layout_json, read_layout, read_spec
from hanse.core.canonical import encode
from hanse.core.layout import ROLES, Layout
from hanse.core.metrics import METRICS
from hanse.core.pipeline import Pipeline
from hanse.core.reduce import Sum
from hanse.core.samplers import FixedSize, Poisson
from hanse.core.spec import Evaluation, Privacy, Quorum, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalPrivacy, LocalTraining
from hanse.errors import ProtocolError
from hanse.names import SAMPLERS, SERVERS, STEPS, STRATEGIES
from hanse.privacy import (
    AdaptiveClip,
    Clip,
    GaussianNoise,
    LocalGaussianNoise,
    Rotate,
    ScaledRound,
    SkellamNoise,
)
from hanse.strategies import (
    Strategy,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedprox,
    fedsgd,
    fedyogi,
)
from hanse.train.local import evaluation_scalars, real_sum, training_scalars

LAYOUT = Layout.build(
    "float32",
    [
        ("w", (27, 2), "trainable"),
        ("b", (), "trainable"),
        ("mine", (1,), "local"),
        ("ice", (0, 3), "frozen"),
    ],
)
PLAIN = Layout.build("float64", [("w", (27,), "trainable")])
NORM = Layout.build("float32", [("w", (27, 2), "trainable"), ("running_mean", (4,), "buffer")])
FOUR = ("basel", "genf", "ulm", "zurich")


def spec_of(strategy: Strategy | None = None, metrics=(), **change) -> RunSpec:
    strategy = strategy or fedavg()
    settings = {
        "name": "heart",
        "task": "app:task",
        "data": "app:data",
        "clients": FOUR,
        "rounds": 40,
        "seed": 7,
        "strategy": strategy.settings(),
        "sampler": strategy.sampler,
        "local": strategy.fixed or LocalTraining(),
        "pipeline": Pipeline(),
        "layout": LAYOUT,
        "training": training_scalars(),
        "evaluation_scalars": evaluation_scalars(tuple(METRICS[name] for name in metrics)),
    }
    return RunSpec(**settings | change)


def assert_read_back(spec: RunSpec, strategy: Strategy | None = None) -> None:
    read = read_spec(spec.canonical, spec.layout)
    assert read.spec.hash == spec.hash
    assert read.spec.canonical == spec.canonical
    assert read.spec == replace(spec, clients=tuple(sorted(spec.clients)))
    assert read.spec.bound == spec.bound
    assert read.spec.tally == spec.tally
    assert [metric.name for metric in read.metrics] == spec.json()["metrics"]
    if strategy is not None:
        assert read.strategy == strategy


# What is read back


STRATEGY = (
    fedavg(), fedavg(server_lr=0.5), fedavg(sampler=FixedSize(2)), fedprox(mu=0),
    fedprox(mu=1e-3, server_lr=2), fedsgd(lr=0.3), fedsgd(lr=1e-300, sampler=Poisson(0.25)),
    fedavgm(), fedavgm(server_lr=1e22, momentum=0.0), fedadagrad(server_lr=0.1),
    fedadam(server_lr=0.01, beta1=0.5, beta2=0.999, tau=1e-9), fedyogi(server_lr=1 / 3),
    fedyogi(server_lr=0.1, initial_accumulator=0.0, sampler=Poisson(1)),
)  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGY, ids=lambda strategy: strategy.name)
def test_every_strategy_is_read_back(strategy):
    assert_read_back(spec_of(strategy), strategy)


def test_the_examples_have_every_strategy_server_and_sampler():
    assert {strategy.name for strategy in STRATEGY} == set(STRATEGIES)
    assert {strategy.server.name for strategy in STRATEGY} == set(SERVERS)
    assert {strategy.sampler.name for strategy in STRATEGY} == set(SAMPLERS)


def test_what_a_strategy_fixes_is_read_back():
    strategy = fedsgd(lr=0.3)
    assert read_spec(spec_of(strategy).canonical, LAYOUT).strategy == strategy


PIPELINES = (
    Pipeline(), Pipeline([Weight()]), Pipeline([Weight(by="examples", cap=300)]),
    Pipeline([Weight(by="steps", cap=7.5, denominator=3), Clip(1)]),
    Pipeline([Weight(by="steps", denominator=10.0)]), Pipeline([Weight(by="uniform")]),
    Pipeline([Clip(norm=2.0**-64)]), Pipeline([Clip(norm=2.0**64)]),
    Pipeline([Weight(by="examples"), Clip(0.1), Sum(limit=0.05)]), Pipeline([Sum()]),
    Pipeline([Sum(limit=2.0**-64)]), Pipeline([Sum(limit=2**53)]), Pipeline([AdaptiveClip()]),
    Pipeline([Weight(by="uniform"), AdaptiveClip(0.5, 0.9, 0.1, cohort=60, bit_noise=4)]),
    Pipeline([Clip(0.5), Rotate(), ScaledRound()]),
    Pipeline([Clip(1), Rotate(64), ScaledRound(9)]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("pipeline", "layout"),
    [
        (pipeline, layout)
        for pipeline in PIPELINES
        for layout in (LAYOUT, PLAIN, NORM)
        if layout is not NORM or pipeline.facts().denominator != "public"
    ],
)
def test_every_step_is_read_back(pipeline, layout):
    assert_read_back(spec_of(pipeline=pipeline, layout=layout))


@pytest.mark.parametrize("multiplier", [1, 0.01, 1.1, 100])
@pytest.mark.parametrize("make", [GaussianNoise, LocalGaussianNoise])
def test_noise_is_read_back(multiplier, make):
    steps = [Weight(by="examples", cap=300, denominator=4), Clip(0.75), make(multiplier)]
    evaluation = Evaluation(release="none")
    assert_read_back(spec_of(pipeline=Pipeline(steps), layout=PLAIN, evaluation=evaluation))


@pytest.mark.parametrize("colluding", [0, 1])
def test_noise_in_shares_is_read_back(colluding):
    steps = [Weight(by="uniform", denominator=4), Clip(0.75), Rotate(), ScaledRound(bits=12)]
    evaluation = Evaluation(release="none")
    pipeline = Pipeline([*steps, SkellamNoise(1, honest=3, colluding=colluding)])
    assert_read_back(spec_of(pipeline=pipeline, layout=PLAIN, evaluation=evaluation))


@pytest.mark.parametrize(
    "privacy", [Privacy(1e-6), Privacy(1e-5, 4), Privacy(1e-5, 4.5, "site", "sites")]
)
def test_what_noise_promises_is_read_back(privacy):
    steps = [Weight(by="uniform", denominator=4), AdaptiveClip(cohort=60), GaussianNoise(0.9)]
    evaluation = Evaluation(release="none")
    assert_read_back(
        spec_of(pipeline=Pipeline(steps), layout=PLAIN, evaluation=evaluation, privacy=privacy)
    )


def test_the_examples_have_every_step():
    used = {step.name for pipeline in PIPELINES for step in pipeline.steps} | {
        "gaussian_noise",
        "local_gaussian_noise",
        "skellam_noise",
    }
    assert used == set(STEPS) | {"sum"}


@pytest.mark.parametrize(
    "change",
    [
        {"pipeline": Pipeline([Sum(limit=1e16)])},
        {"pipeline": Pipeline([Weight(cap=1e16)])},
        {"pipeline": Pipeline([Weight(denominator=1e20)])},
        {"quorum": Quorum(deadline_s=1e17)},
        {"local": LocalTraining(lr=1e16)},
    ],
    ids=repr,
)
def test_large_numbers_are_read_back(change):
    assert_read_back(spec_of(**change))


LOCAL = {
    "optimizer": ["sgd", "adam", "adamw", "task"],
    "lr": [0, 1, 0.1, 1e-12, 1e300],
    "epochs": [1, 5],
    "batch_size": [None, 1, 4096],
    "steps": [None, 1, 10_000],
    "momentum": [0, 0.9],
    "weight_decay": [0.0, 1e-4],
    "betas": [(0.9, 0.999), (0, 0.5), (0.0, 1e-7)],
    "eps": [0, 1e-8, 1e-300],
    "threads": [1, 2],
    "amp": [False, True],
}


def test_the_examples_have_every_setting_of_local_training():
    assert {*LOCAL, "privacy"} == {field.name for field in fields(LocalTraining)}


@pytest.mark.parametrize("name", LOCAL)
def test_every_setting_of_local_training_is_read_back(name):
    for value in LOCAL[name]:
        assert_read_back(spec_of(local=LocalTraining(**{name: value})))


@given(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in LOCAL.items()}))
def test_settings_of_local_training_are_read_back_together(settings):
    assert_read_back(spec_of(local=LocalTraining(**settings)))


@pytest.mark.parametrize("private", [(1, 1, 1), (0.5, 1.1, 1e-7), (1e10, 100.0, 0.25)])
@pytest.mark.parametrize("unit", [None, "example"])
def test_private_training_is_read_back(private, unit):
    assert_read_back(
        spec_of(
            local=LocalTraining(steps=3, privacy=LocalPrivacy(*private)),
            pipeline=Pipeline([Weight(by="uniform")]),
            layout=PLAIN,
            evaluation=Evaluation(every=0),
            privacy=None if unit is None else Privacy(1e-6, unit=unit, against="coordinator"),
        )
    )


OTHERS = (
    {"evaluation": Evaluation(every=0)}, {"evaluation": Evaluation(5, "sum", "auc")},
    {"evaluation": Evaluation(release="none")}, {"evaluation": Evaluation(release="simulation")},
    {"strategy": fedavg(sampler=FixedSize(2)), "quorum": Quorum(1.5, 0.001, 0)},
    {"strategy": fedavg(sampler=FixedSize(2)), "quorum": Quorum(10, 3600, 4)},
    {"clients": ("only",)}, {"clients": FOUR[::-1]}, {"clients": ("zürich", "łódź")},
    {"rounds": 1}, {"rounds": 2**53 - 1}, {"seed": 0}, {"seed": 2**53 - 1},
    {"name": "Heart_2.0-b"}, {"data": 'quote " and \\ and \n and \x7f'},
    {"purpose": "für die Forschung \U0001f9ea"},
    {"app": {"app.py": "0" * 64, "lib/more.py": "f" * 64}}, {"sources": ("a.csv", "b.csv")},
    {"faults": {"dropout": 0.1}}, {"population": {"partition": {"alpha": 0.3, "min": [1, 2]}}},
    {"training": (*training_scalars(), real_sum("penalty"), real_sum("kl"))},
    {"layout": PLAIN}, {"layout": NORM}, {"layout": Layout("float32", ())},
)  # fmt: skip


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: next(iter(change)))
def test_everything_else_is_read_back(change):
    assert_read_back(spec_of(**change))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_read_back(name):
    assert_read_back(spec_of(metrics=(name,)))
    assert_read_back(spec_of(metrics=(name, *(other for other in METRICS if other != name))))


# What is refused


FULL = spec_of(
    fedadam(server_lr=0.01, sampler=FixedSize(2)),
    metrics=("auc", "accuracy"),
    pipeline=Pipeline([Weight(by="examples", cap=300, denominator=2.5), Clip(0.5), Sum(0.25)]),
    evaluation=Evaluation(2, "sum", "auc"),
    quorum=Quorum(1.5, 60, 2),
    local=LocalTraining(steps=3),
    training=(*training_scalars(), real_sum("penalty")),
    app={"app.py": "0" * 64},
    sources=("a.csv",),
    purpose="research",
)
OTHER = spec_of(fedprox(mu=0.5, sampler=Poisson(0.5)), local=LocalTraining(batch_size=None))
FREE = {"app", "faults", "population"}
"""Tables that are the run's own: what is in them is shown to people and checked elsewhere."""
DERIVED = ("format", "model", "sums", "clients")
OPTIONAL = {
    ("evaluation", "best"), ("quorum", "deadline_s"), ("local", "steps"),
    ("pipeline", "cap"), ("pipeline", "limit"),
}  # fmt: skip
VALUES = (
    None, True, False, 0, 1, 2, -1, 0.5, 3.5, 10**6, 2**53, 1e-300, "", "x", "sgd", "1", "ulm",
    [], ["x"], [1], [[]], {}, {"x": 1}, {"name": "all"},
)  # fmt: skip

Path = tuple[str | int, ...]


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def changed(text: str, path: Path, value: Any) -> str:
    found = json.loads(text)
    at(found, path[:-1])[path[-1]] = value
    return encode(found)


def mutants(text: str) -> Iterator[tuple[str, Path, Any, str]]:
    """(what was done, where, the value, the mutated spec), each of them canonical."""
    whole = json.loads(text)
    for path in places(whole):
        old = at(whole, path)
        for value in VALUES:
            if encode(value) != encode(old):
                yield "changed", path, value, changed(text, path, value)
        found = json.loads(text)
        del at(found, path[:-1])[path[-1]]
        yield "removed", path, None, encode(found)
    for path in ((), *places(whole)):
        if isinstance(at(whole, path), dict):
            for value in (None, 0, "x"):
                yield "added", (*path, "extra"), value, changed(text, (*path, "extra"), value)
        if isinstance(at(whole, path), list):
            found = json.loads(text)
            inner = at(found, path)
            inner.append(inner[0] if inner else "x")
            yield "added", path, None, encode(found)


def is_taken(text: str, layout: Layout = LAYOUT) -> bool:
    """Whether a spec is read; if it is, then as exactly what stands there."""
    try:
        read = read_spec(text, layout)
    except ProtocolError:
        return False
    assert read.spec.canonical == text
    return True


def kind_of(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(type(value))
    return "number" if isinstance(value, int | float) else str(type(value))


@pytest.mark.parametrize("spec", [FULL, OTHER], ids=["full", "other"])
def test_a_spec_with_one_change_is_refused_or_is_another_spec(spec):
    """Thousands of them: what is derived, unknown, or missing is never taken."""
    cases, taken = 0, 0
    for what, path, value, text in mutants(spec.canonical):
        cases += 1
        if not is_taken(text):
            continue
        taken += 1
        told = f"{what} {'.'.join(map(str, path))}: {value!r}"
        assert path[0] not in DERIVED, told
        key = (path[0], path[-1])
        if path[0] not in FREE and path[:2] not in {("sources",), ("local", "betas")}:
            assert what != "removed" or key in OPTIONAL or isinstance(path[-1], int), told
            assert what != "added" or path in {("metrics",), ("reports",), ("pipeline",)}, told
    assert cases > 1500
    assert taken < cases / 3


def test_a_setting_of_another_type_is_refused():
    wrong = []
    for what, path, value, text in mutants(FULL.canonical):
        inner = path[0] in FREE and len(path) > 1
        old = None if what != "changed" else at(json.loads(FULL.canonical), path)
        if what == "changed" and not inner and kind_of(value) != kind_of(old) and is_taken(text):
            wrong.append(f"{'.'.join(map(str, path))} = {value!r}")
    assert not wrong, f"{len(wrong)} settings of another type are taken: {wrong}"


@pytest.mark.parametrize("betas", [[], [0.9], [0.9, 0.999, 0.5], ["a", "b"]])
def test_betas_are_two_numbers(betas):
    assert not is_taken(changed(FULL.canonical, ("local", "betas"), betas))


def test_an_engine_that_there_is_not_is_refused():
    assert not is_taken(changed(FULL.canonical, ("engine",), "fast"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rounds":40', '"rounds":40.0'),
        ('"rounds":40', '"rounds": 40'),
        ('"rounds":40', '"rounds":4e1'),
        ('"rounds":40', '"rounds":40,"rounds":40'),
        ('"rounds":40', '"rounds":41,"rounds":40'),
        ('"name":"heart"', '"name":"he\\u0061rt"'),
        ('"seed":7', '"seed":NaN'),
        ('"seed":7', '"seed":1e400'),
        ('"seed":7', '"seed":9007199254740993'),
        ('"name":"heart"', '"name":"\\ud800"'),
        ('"seed":7', '"seed":' + "9" * 5000),
    ],
)
def test_the_same_said_in_other_bytes_is_refused(old, new):
    text = FULL.canonical
    assert old in text
    assert not is_taken(text.replace(old, new))


def test_a_spec_in_another_order_or_with_something_around_it_is_refused():
    text = FULL.canonical
    backwards = json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":"))
    for other in (backwards, text + " ", "\n" + text, text[:-1], text + "{}", f"[{text}]"):
        assert not is_taken(other)
    for other in ("", "null", "[]", "{}", "7", '"x"', "\ufeff" + text):
        assert not is_taken(other)


def test_a_spec_is_refused_beside_another_layout():
    assert not is_taken(FULL.canonical, PLAIN)
    renamed = read_layout(json.loads(encode(layout_json(LAYOUT)).replace('"mine"', '"yours"')))
    assert not is_taken(FULL.canonical, renamed)


def test_a_spec_that_is_too_long_is_refused_before_it_is_read():
    with pytest.raises(ProtocolError, match="cannot be read: 8388609 bytes"):
        read_spec("[" * (MOST_BYTES + 1), LAYOUT)


def test_what_does_not_read_back_is_named():
    text = changed(FULL.canonical, ("sums", "exponent"), 3)
    with pytest.raises(ProtocolError, match="does not read back") as caught:
        read_spec(text, LAYOUT)
    assert "look at sums" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        changed(FULL.canonical, ("purpose",), "@").replace('"@"', "[" * 9000 + "]" * 9000),
        changed(FULL.canonical, ("local", "lr"), "@").replace('"@"', "1" + "0" * 400),
        changed(FULL.canonical, ("pipeline", 1, "norm"), "@").replace('"@"', "1" + "0" * 400),
    ],
    ids=["deep", "deep inside", "huge rate", "huge norm"],
)
def test_depth_and_size_of_a_spec_are_refused_like_anything_else(text):
    assert not is_taken(text)


def test_a_site_that_is_listed_twice_is_refused():
    with pytest.raises(Exception, match="twice"):
        read_spec(spec_of(clients=("ulm", "ulm", "zurich")).canonical, LAYOUT)


# Layouts


NAMES = st.lists(st.text(max_size=5).filter(str.isprintable), unique=True, max_size=6)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
LAYOUTS = NAMES.flatmap(
    lambda names: st.tuples(
        *(st.tuples(st.just(name), SHAPES, st.sampled_from(ROLES)) for name in names)
    )
)


@given(LAYOUTS, st.sampled_from(["float32", "float64"]))
def test_every_layout_is_read_back(tensors, dtype):
    layout = Layout.build(dtype, tensors)
    assert read_layout(json.loads(encode(layout_json(layout)))) == layout


def layout_of(*tensors: list, dtype: Any = "float32", **more) -> dict:
    return {"dtype": dtype, "tensors": list(tensors), **more}


W, B, M = ["w", [2, 3], "trainable"], ["b", [3], "trainable"], ["m", [3], "buffer"]


@pytest.mark.parametrize(
    "found",
    [
        layout_of(M, W),  # roles are not in their order
        layout_of(["f", [1], "frozen"], ["l", [1], "local"]),
        layout_of(W, W),
        layout_of(W, ["w", [1], "buffer"]),
        layout_of(["w", [2], "trained"]),
        layout_of(["w", [2], "Trainable"]),
        layout_of(["w", [2], None]),
        layout_of(["w", [2], ["trainable"]]),
        layout_of(["w", [-1], "trainable"]),
        layout_of(["w", [2, -3], "trainable"]),
        layout_of(["w", [2**40], "trainable"]),
        layout_of(["w", [2**70], "trainable"]),
        layout_of(["w", [2.0], "trainable"]),
        layout_of(["w", ["2"], "trainable"]),
        layout_of(["w", [None], "trainable"]),
        layout_of(["w", [[2]], "trainable"]),
        layout_of(["w", "23", "trainable"]),
        layout_of(["w", 2, "trainable"]),
        layout_of(["w", None, "trainable"]),
        layout_of([7, [2], "trainable"]),
        layout_of([None, [2], "trainable"]),
        layout_of(["w", [2]]),
        layout_of(["w", [2], "trainable", 0]),
        layout_of({"w": [2]}),
        layout_of("abc"),
        layout_of(W, dtype="float16"),
        layout_of(W, dtype="int64"),
        layout_of(W, dtype=None),
        layout_of(W, dtype=["float32"]),
        layout_of(W, extra=1),
        {"tensors": [W]},
        {"dtype": "float32"},
        {"dtype": "float32", "tensors": None},
        {"dtype": "float32", "tensors": {"w": W}},
        {},
        [],
        None,
        "float32",
        7,
    ],
    ids=str,
)
def test_a_layout_that_is_none_is_refused(found):
    with pytest.raises(ProtocolError, match="a layout that cannot be read"):
        read_layout(found)


def test_neighbours_of_one_role_may_stand_in_any_order_and_are_then_another_layout():
    one, two = read_layout(layout_of(W, B, M)), read_layout(layout_of(B, W, M))
    assert one != two
    assert spec_of(layout=one).hash != spec_of(layout=two).hash


@pytest.mark.parametrize(
    "tensors",
    [
        [["w", [2**39, 2**39], "trainable"]],  # 2^78, which wraps to 0
        [["w", [2**39, 2**24 + 1], "trainable"]],  # wraps to a negative number
        [["w", [2**39], "trainable"], ["b", [2**39], "trainable"], ["m", [2**39], "buffer"]],
        [["w", [True], "trainable"]],
    ],
    ids=["to nothing", "below nothing", "in sum", "true"],
)
def test_a_layout_larger_than_any_blob_is_refused(tensors):
    with pytest.raises(ProtocolError):
        read_layout(layout_of(*tensors))
