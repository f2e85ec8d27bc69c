"""Names: built-in, of installed packages, and the user's own modules."""

import os
import py_compile
import sys
from importlib.metadata import EntryPoint

import pytest

from hanse import names
from hanse.core.step import Step
from hanse.errors import ConfigError, HanseError, PipelineError, TaskError
from hanse.names import REDUCERS, SAMPLERS, STEPS, STRATEGIES, lookup, resolve
from hanse.privacy import Clip


@pytest.mark.parametrize(
    ("kind", "table"),
    [("step", STEPS), ("reducer", REDUCERS), ("strategy", STRATEGIES), ("sampler", SAMPLERS)],
)
def test_a_built_in_name_stands_for_what_the_table_says(kind, table):
    assert {name: lookup(kind, name) for name in table} == table


def test_a_step_of_the_pipeline_may_be_a_reducer():
    assert lookup("step", "sum") is REDUCERS["sum"]


@pytest.mark.parametrize("table", [STEPS, REDUCERS])
def test_steps_are_listed_under_their_own_name(table):
    assert all(issubclass(step, Step) and step.name == name for name, step in table.items())


@pytest.mark.parametrize(
    ("kind", "name", "nearest", "error"),
    [
        ("step", "clipp", "clip", PipelineError),
        ("step", "gaussian-noise", "gaussian_noise", PipelineError),
        ("reducer", "summ", "sum", PipelineError),
        ("strategy", "FedAvg", "fedavg", ConfigError),
        ("sampler", "poison", "poisson", ConfigError),
        ("partition", "dirichlett", "dirichlet", ConfigError),
        ("metric", "acuracy", "accuracy", ConfigError),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(kind, name, nearest, error):
    with pytest.raises(error) as raised:
        lookup(kind, name)
    assert str(raised.value) == f'unknown {kind} "{name}"; did you mean "{nearest}"?'
    assert nearest in raised.value.hint


def test_a_name_like_no_other_gets_the_list_only():
    with pytest.raises(PipelineError) as raised:
        lookup("step", "zzz")
    assert str(raised.value) == 'unknown step "zzz"'
    assert (
        raised.value.hint
        == "known are adaptive_clip, clip, gaussian_noise, local_gaussian_noise, rotate, "
        "scaled_round, skellam_noise, sum, weight"
    )


def test_an_installed_package_may_offer_a_step(monkeypatch):
    offer(monkeypatch, "hanse.steps", "shorten", "hanse.privacy:Clip")
    assert lookup("step", "shorten") is Clip
    with pytest.raises(PipelineError, match='did you mean "shorten"'):
        lookup("step", "shortn")


def test_a_built_in_name_cannot_be_taken_by_a_package(monkeypatch):
    offer(monkeypatch, "hanse.steps", "clip", "hanse.privacy:GaussianNoise")
    assert lookup("step", "clip") is Clip


def test_a_package_that_cannot_be_imported_is_named(monkeypatch):
    offer(monkeypatch, "hanse.strategies", "broken", "no_such_module:thing")
    with pytest.raises(TaskError, match='loading strategy "broken" from no_such_module:thing'):
        lookup("strategy", "broken")


def offer(monkeypatch, group, name, value):
    found = EntryPoint(name, value, group)
    monkeypatch.setattr(
        names, "entry_points", lambda group: [found] if group == found.group else []
    )


def test_a_reference_is_imported_from_the_folder(tmp_path):
    write(tmp_path, "app", "task = 1\nclass Inner:\n    deep = 2\n")
    assert resolve("app:task", tmp_path, "task") == 1
    assert resolve("app:Inner.deep", tmp_path, "task") == 2


def test_a_module_of_the_same_name_elsewhere_makes_room(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "app", f"from neighbour_{name} import task")
        write(tmp_path / name, f"neighbour_{name}", f"task = '{name}'")
    assert resolve("app:task", tmp_path / "one", "task") == "one"
    assert resolve("app:task", tmp_path / "two", "task") == "two"
    assert resolve("app:task", tmp_path / "one", "task") == "one"


def test_a_module_is_executed_once(tmp_path):
    write(tmp_path, "app", "task = object()")
    assert resolve("app:task", tmp_path, "task") is resolve("app:task", tmp_path, "task")


@pytest.mark.parametrize(
    ("reference", "code", "message"),
    [
        ("nowhere_at_all:task", "config", "there is no module nowhere_at_all"),
        ("app.inner:task", "config", "there is no module app.inner"),
        ("app:tusk", "config", 'app has no "tusk"; did you mean "task"?'),
        ("app", "config", "does not name an object"),
        (":task", "config", "does not name an object"),
        ("raises:task", "task", "importing raises: ZeroDivisionError: division by zero"),
        ("broken:task", "task", "importing broken: SyntaxError"),
        ("lacks:task", "task", "importing lacks: ModuleNotFoundError: No module named 'zzz'"),
    ],
)
def test_a_reference_that_leads_nowhere_says_where_it_ends(tmp_path, reference, code, message):
    write(tmp_path, "app", "task = 1")
    write(tmp_path, "raises", "1 / 0")
    write(tmp_path, "broken", "def")
    write(tmp_path, "lacks", "import zzz")
    with pytest.raises(HanseError) as raised:
        resolve(reference, tmp_path, "task")
    assert raised.value.code == code
    assert message in str(raised.value)
    assert raised.value.hint


def test_a_framework_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    write(tmp_path, "needs_torch", "import torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match="needs torch, which is not installed") as raised:
        resolve("needs_torch:task", tmp_path, "task")
    assert raised.value.hint == "pip install 'hanse[torch]'"


def write(folder, name, text):
    (folder / f"{name}.py").write_text(text)


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch, tmp_path):
    """Leave no module of a test behind."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("module", ["rewritten", "inner/rewritten"])
def test_what_runs_is_the_source_and_never_kept_bytecode(tmp_path, module):
    """A ``.pyc`` counts for a source of the same size and second; an app's does not count."""
    path = tmp_path / f"{module}.py"
    path.parent.mkdir(exist_ok=True)
    name = module.replace("/", ".")
    path.write_text("what = 'old'\n")
    py_compile.compile(str(path))
    times = path.stat().st_mtime_ns, path.stat().st_mtime_ns
    path.write_text("what = 'new'\n")
    os.utime(path, ns=times)
    assert resolve(f"{name}:what", tmp_path, "task") == "new"
    kept = [*tmp_path.rglob("*.pyc")]
    assert len(kept) == 1  # the one that was there
    del sys.modules[name]
