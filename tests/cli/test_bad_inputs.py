"""What cannot work is answered with one clear line, a hint and a stable exit status."""

import re

import pytest

CONFIG, PIPELINE, TASK, DATA = 2, 3, 4, 5


def check(ran, status, code, *said):
    """One error and its hint, one line each; nothing on standard output; no traceback."""
    error, hint, *rest = ran.err.splitlines()
    assert rest == []
    assert error.startswith(f"Error: [{code}] ")
    assert hint.startswith("Hint: ")
    assert len(hint) > len("Hint: ")
    for part in said:
        assert part in error
    assert (ran.status, ran.out) == (status, "")


@pytest.mark.parametrize("command", ["run", "explain"])
def test_a_run_file_that_is_not_there(hanse, command):
    check(hanse(command, "run.toml"), CONFIG, "config", "there is no run file", "run.toml")


@pytest.mark.parametrize("command", ["run", "explain"])
def test_a_syntax_error_is_named_with_line_and_column(small, tmp_path, command):
    (tmp_path / "run.toml").write_text('task = "app:task"\nrounds = = 3\n')
    ran = small(command, "run.toml")
    check(ran, CONFIG, "config", "run.toml, line 2, column 10: invalid value")
    assert "rounds = = 3" in ran.err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("local.lrr=0.1", 'unknown key "lrr" in [local]; did you mean "lr"?'),
        ("local.lr=fast", 'lr = "fast" in [local] is not a number'),
        ("rounds=0", "rounds = 0 trains nothing"),
        ("strategy.name=fedavgg", 'unknown strategy "fedavgg"; did you mean "fedavg"?'),
        ('sites=["north", "The West"]', "'The West' is not a site id"),
        ("task=app:tusk", 'app has no "tusk"; did you mean "task"?'),
        ("task=ap:task", "there is no module ap"),
        ("data=app:metrics", "is the list, not a function"),
    ],
)
def test_a_value_that_cannot_be_meant(small, setting, message):
    check(small("run", "run.toml", "--set", setting), CONFIG, "config", message)


def test_a_cohort_larger_than_the_population(small):
    options = ("--set", "sampling.name=fixed", "--set", "sampling.size=9")
    ran = small("run", "run.toml", *options)
    check(ran, CONFIG, "config", "a cohort of 9 is larger than the population of 2")


def test_zero_rounds_and_zero_seeds(small):
    check(small("run", "run.toml", "--rounds", "0"), CONFIG, "config", "rounds = 0 trains nothing")
    check(small("run", "run.toml", "--seeds", "0"), CONFIG, "config", "0 seeds")
    check(small("run", "run.toml", "--workers", "0", "-q"), CONFIG, "config", "workers = 0")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("step", "clipp")], 'unknown step "clipp"; did you mean "clip"?'),
        ([("step", "gaussian_noise"), ("noise_multiplier", 1)], "gives no privacy"),
    ],
)
def test_an_unsound_pipeline_is_refused_by_explain_and_run(small, tmp_path, steps, message):
    lines = "\n".join(f"{key} = {value!r}" for key, value in steps)
    head = (tmp_path / "run.toml").read_text().partition("[[pipeline]]")[0]
    (tmp_path / "run.toml").write_text(f"{head}[[pipeline]]\n{lines}")
    for command in ("explain", "run"):
        check(small(command, "run.toml"), PIPELINE, "pipeline", message)


@pytest.mark.parametrize(
    ("function", "status", "code", "said"),
    [
        ("empty", DATA, "data", ["north", "empty"]),
        ("words", DATA, "data", ["north"]),
        ("nans", DATA, "data", ["north", "nan in row 3"]),
        ("raises", TASK, "task", ["west", "RuntimeError: the disk is on fire"]),
        ("alone", TASK, "task", ["data(north) returned ndarray, not (train, test)"]),
        ("sourced", DATA, "data", ["north has no source 'table'"]),
    ],
)
def test_data_that_cannot_be_trained_on_names_the_site(small, function, status, code, said):
    ran = small("run", "run.toml", "--quiet", "--set", f"data=app:{function}")
    check(ran, status, code, *said)


def test_a_site_that_the_data_do_not_know(small):
    options = ("--set", "data=app:known", "--set", 'sites=["north", "wset"]', "-q")
    check(small("run", "run.toml", *options), DATA, "data", 'there are no rows of site "wset"')


def test_a_source_that_is_not_there(small):
    options = ("--set", "data=app:sourced", "--set", "sources.table=data/table.csv", "-q")
    ran = small("run", "run.toml", *options)
    check(ran, DATA, "data", "source 'table' is", "data/table.csv, which does not exist")


@pytest.mark.parametrize("task", ["wide", "deep"])
def test_a_model_whose_shape_does_not_fit(small, task):
    ran = small("run", "run.toml", "--quiet", "--set", f"task=app:{task}")
    check(ran, TASK, "task", "north", "shape" if task == "deep" else "does not fit")


def test_an_app_that_cannot_be_imported(small, tmp_path):
    (tmp_path / "app.py").write_text("import torch\n1 / 0\n")
    ran = small("run", "run.toml")
    check(ran, TASK, "task", "importing app: ZeroDivisionError: division by zero")
    assert "app.py:2" in ran.err


def test_a_folder_that_holds_a_run_is_not_written_over(finished):
    ran = finished("run", "run.toml", "--out", "done", "-q")
    check(ran, CONFIG, "config", "done holds a run already")
    ran = finished("run", "run.toml", "--out", "done", "--seeds", 2, "-q")
    check(ran, CONFIG, "config", "done holds a run")
    ran = finished("run", "run.toml", "--out", "done", "--resume", "-q")
    check(ran, CONFIG, "config", "done holds a run that has ended")


def test_there_is_nothing_to_resume(small):
    check(small("run", "run.toml", "--resume"), CONFIG, "config", "waits to be resumed")
    ran = small("run", "run.toml", "--resume", "--out", "nowhere")
    check(ran, CONFIG, "config", "there is no run in nowhere")


def test_baselines_need_test_data_at_the_sites(small, tmp_path):
    text = (tmp_path / "run.toml").read_text().replace('sites = ["north", "west"]\n', "")
    population = '\n[population]\nclients = 3\npartition = "iid"\n'
    (tmp_path / "run.toml").write_text(text.replace("app:data", "app:dataset") + population)
    ran = small("run", "run.toml", "--baselines", "--quiet")
    check(ran, CONFIG, "config", "no site has test data")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explian"], "No such command 'explian'. Did you mean 'explain'"),
        (["run"], "Missing argument 'RUN.toml'"),
        (["run", "run.toml", "--rouns", "3"], "No such option: --rouns"),
        (["run", "run.toml", "--rounds", "many"], "Invalid value for '--rounds'"),
        (["new", "d", "--template", "audio"], "'audio' is not one of 'tabular', 'image'"),
        (["compare", "one"], "1 run has nothing to be compared with"),
        (["report", "nowhere"], "nowhere holds no run"),
        (["predict", "nowhere", "x.csv"], "there is no nowhere/model.safetensors"),
        (["export", "nowhere", "--format", "onnx"], "there is no nowhere/model.safetensors"),
        (["export", "nowhere", "--format", "pmml"], "'pmml' is not one of 'torchscript', 'onnx'"),
    ],
)
def test_a_command_that_cannot_be_meant(hanse, arguments, said):
    check(hanse(*arguments), CONFIG, "config", said)


@pytest.mark.parametrize(
    ("rows", "status", "said"),
    [
        ("a,b,c\n1,2,x\n", DATA, 'line 2: c is "x"'),
        ("a,b,c\n1,2,\n", DATA, "NaN"),
        ("a,b\n1,2\n", TASK, "shapes cannot be multiplied"),
        ("", DATA, "rows.csv"),
        (None, DATA, "rows.csv cannot be read"),
    ],
)
def test_rows_that_cannot_be_predicted(finished, tmp_path, rows, status, said):
    if rows is not None:
        (tmp_path / "rows.csv").write_text(rows)
    ran = finished("predict", "done", "rows.csv")
    check(ran, status, {DATA: "data", TASK: "task"}[status], said)


def test_a_model_that_does_not_fit_its_task_any_more(finished, tmp_path):
    text = (tmp_path / "app.py").read_text()
    (tmp_path / "app.py").write_text(text.replace("nn.Linear(3, 1)", "nn.Linear(5, 1)"))
    import sys

    del sys.modules["app"]
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n")
    ran = finished("predict", "done", "rows.csv")
    check(ran, CONFIG, "config", "done/model.safetensors does not fit app:task: weight is (1, 3)")


def test_a_model_file_that_is_torn(finished, tmp_path):
    model = tmp_path / "done" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:50])
    check(finished("predict", "done", "x.csv"), CONFIG, "config", "is not a whole safetensors file")


def test_a_run_file_that_has_moved_can_be_named(finished, tmp_path):
    (tmp_path / "run.toml").rename(tmp_path / "moved.toml")
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n")
    check(finished("predict", "done", "rows.csv"), CONFIG, "config", "the run file of done is not")
    ran = finished("predict", "done", "rows.csv", "--run-file", "moved.toml")
    assert (ran.status, ran.err) == (0, "")


def test_an_error_that_nobody_foresaw_is_called_a_bug(small, monkeypatch):
    monkeypatch.setattr("hanse.cli.run.repeat", lambda *_, **__: 1 // 0)
    ran = small("run", "run.toml")
    said = "ZeroDivisionError: integer division or modulo by zero: this is a bug in Hanse"
    check(ran, 70, "internal", said)
    assert "--debug" in ran.err


def test_debug_shows_the_traceback_too(small):
    for arguments in (["run", "run.toml", "--set", "rounds=0"], ["explain", "nowhere.toml"]):
        ran = small(*arguments, "--debug")
        assert ran.status == CONFIG
        assert "Traceback (most recent call last)" in ran.err
        assert re.search(r"^Error: \[config\] ", ran.err, re.MULTILINE)
