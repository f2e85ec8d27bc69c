"""The commands, in this process and in an empty folder."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from hanse.cli.app import main
from hanse.cli.rounds import Screen
from hanse.config.parse import load
from hanse.sim.repeat import fresh, repeat, unfinished
from hanse.sim.trained import open_trained
from hanse.train.torch_export import predict

TEMPLATES = ("tabular", "image", "sequence")


def test_the_version_is_printed(hanse):
    assert re.fullmatch(r"hanse \d+\.\d+\.\d+\S*\n", hanse("--version").out)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"], ["explain", "--help"]])
def test_help_is_printed_where_it_is_asked_for(hanse, arguments):
    ran = hanse(*arguments)
    assert ran.status == 0
    assert "Usage: hanse" in ran.out


def test_every_command_takes_debug_and_explains_itself(hanse):
    listed = hanse("--help").out
    for command in ("run", "explain", "new", "compare", "predict", "export", "report"):
        assert command in listed
        assert "--debug" in hanse(command, "--help").out


class TestRun:
    """``hanse run``."""

    def test_a_line_is_printed_for_each_evaluated_round(self, small):
        ran = small("run", "run.toml", "--out", "done")
        assert (ran.status, ran.err) == (0, "")
        lines = ran.out.splitlines()
        assert lines[0] == "small, seed 3"
        assert re.match(
            r"round 2/4  counted 2/2  train loss 0\.\d+  auc \S+  accuracy \S+", lines[1]
        )
        assert re.search(r"north \S+  west \S+  \S+ s, 0 s left$", lines[2])
        assert "Report: done/report.html" in ran.out
        assert "mean of sites" in ran.out

    def test_a_quiet_run_prints_the_end_only(self, small):
        ran = small("run", "run.toml", "--quiet")
        assert "small: 4 rounds in" in ran.out
        assert "counted" not in ran.out

    def test_json_is_one_object_and_nothing_else(self, small):
        ran = small("run", "run.toml", "--json", "--out", "done")
        told = json.loads(ran.out)
        assert ran.err == ""
        keys = "run, spec_hash, model_digest, engine, rounds, metrics, bytes, out"
        assert set(keys.split(", ")) <= set(told)
        assert (told["run"], told["engine"], told["rounds"], told["out"]) == (
            *("small", "exact", 4),
            "done",
        )
        assert told == json.loads(Path("done/result.json").read_text())

    def test_the_default_folder_has_name_and_time(self, small):
        small("run", "run.toml", "-q")
        (folder,) = Path("runs").iterdir()
        assert re.fullmatch(r"small-\d{8}-\d{6}", folder.name)
        wanted = {"spec.json", "history.jsonl", "result.json", "report.html", "run.toml"}
        assert wanted | {"model.safetensors", "model.best.safetensors"} <= set(os.listdir(folder))

    def test_options_and_overrides_reach_the_run(self, small):
        options = ("--rounds", 2, "--seed", 9, "--set", "local.lr=0.25", "--workers", 2)
        told = json.loads(small("run", "run.toml", "--json", *options).out)
        spec = json.loads((Path(told["out"]) / "spec.json").read_text())
        assert (told["rounds"], told["seed"], spec["local"]["lr"]) == (2, 9, 0.25)

    def test_a_worker_that_dies_is_told_in_a_line_and_changes_nothing(self, small, tmp_path):
        words = ("run", "run.toml", "--set", "task=app:stoppable", "--json", "--out")
        whole = json.loads(small(*words, "one").out)
        (tmp_path / "die").touch()
        ran = small(*words, "two", "--workers", 2)
        assert json.loads(ran.out)["model_digest"] == whole["model_digest"]
        (line,) = ran.err.splitlines()
        assert line.startswith("Warning: worker process")
        assert "status -9; another takes its place" in line

    def test_the_engine_of_a_run_file_is_used_and_told(self, small):
        engine = ("--set", 'engine="batched"', "--set", "task=app:classes")
        told = [
            json.loads(small("run", "run.toml", *engine, "--json", "--out", f"w{n}", "--workers", n,
                             "--set", "data=app:whole_classes").out)
            for n in (1, 2)
        ]  # fmt: skip
        assert [one["engine"] for one in told] == ["batched", "batched"]
        assert told[0]["model_digest"] == told[1]["model_digest"]
        assert small("replay", "w1").status == 0

    def test_workers_do_not_change_the_model(self, small):
        one, two = (
            json.loads(small("run", "run.toml", "--json", "--workers", n, "--out", f"w{n}").out)
            for n in (1, 2)
        )
        assert one["model_digest"] == two["model_digest"]

    def test_seeds_and_baselines_are_laid_side_by_side(self, small):
        ran = small("run", "run.toml", "--seeds", 2, "--baselines", "--out", "done")
        assert ran.status == 0, ran.err
        assert "small, seed 4 (2 of 2)" in ran.out
        assert re.search(r"local only +federated +pooled", ran.out)
        assert "95 % interval over 2 seeds" in ran.out
        assert re.search(r"mean of sites +\d\.\d+ ± \d\.\d+ ", ran.out)
        assert {"seed-3", "seed-4", "summary.json", "report.html"} == set(os.listdir("done"))

    def test_json_of_several_seeds_has_means(self, small):
        told = json.loads(small("run", "run.toml", "--seeds", 2, "--json", "--out", "done").out)
        assert told == json.loads(Path("done/summary.json").read_text())
        assert [run["seed"] for run in told["runs"]] == told["seeds"] == [3, 4]
        assert set(told["metrics"]["auc"]) == {"mean", "half"}

    def test_what_is_not_defined_is_na_and_says_why(self, small):
        ran = small("run", "run.toml", "--quiet", "--set", "data=app:one_class")
        assert re.search(r"west +10 +n/a", ran.out)
        assert re.search(r"n/a: west.*only one class: 0 positives, 10 negatives", ran.out)

    def test_refused_updates_are_told(self, small):
        options = ("--set", "faults.corrupt=1.0", "--set", "quorum.minimum=0")
        ran = small("run", "run.toml", "--quiet", *options)
        assert "8 updates refused, the first: not finite" in ran.out

    def test_dropouts_are_told(self, small):
        options = ("--set", "faults.dropout=1.0", "--set", "quorum.minimum=1")
        ran = small("run", "run.toml", *options)
        assert "counted aborted" in ran.out
        assert "4 rounds aborted" in ran.out
        assert "8 reports lost to dropouts" in ran.out

    def test_an_interrupted_run_goes_on_to_the_same_bits(self, small, tmp_path):
        options = ("--set", "task=app:stoppable", "--set", "pipeline.clip.norm=0.5")
        whole = json.loads(small("run", "run.toml", *options, "--json").out)
        (tmp_path / "stop").touch()
        ran = small("run", "run.toml", *options, "--out", "done", "--quiet")
        assert (ran.status, ran.out) == (130, "")
        assert ran.err.startswith("Interrupted. Go on with: hanse run run.toml --set task=app:stop")
        (tmp_path / "stop").unlink()
        again = ran.err.partition("Go on with: hanse ")[2].split()
        told = json.loads(small(*again, "--json").out)
        assert told["out"] == "done"
        assert told["model_digest"] == whole["model_digest"]

    def test_the_newest_unfinished_run_is_resumed_unless_one_is_named(self, small, tmp_path):
        (tmp_path / "stop").touch()
        options = ("--set", "task=app:stoppable", "--quiet")
        assert small("run", "run.toml", *options).status == 130
        (folder,) = Path("runs").iterdir()
        (tmp_path / "stop").unlink()
        assert small("run", "run.toml", *options, "--resume").status == 0
        assert (folder / "result.json").exists()

    def test_several_seeds_go_on_where_they_stopped(self, small, tmp_path):
        run = (
            "run",
            "run.toml",
            "--set",
            "task=app:stoppable",
            "--seeds",
            2,
            "--out",
            "done",
            "-q",
        )
        (tmp_path / "stop").touch()
        assert small(*run).status == 130
        (tmp_path / "stop").unlink()
        assert small(*run, "--resume").status == 0
        before = (tmp_path / "done/seed-3/history.jsonl").stat().st_mtime_ns
        (tmp_path / "done/summary.json").unlink()
        assert small(*run, "--resume").status == 0
        assert (tmp_path / "done/seed-3/history.jsonl").stat().st_mtime_ns == before

    def test_baselines_may_follow_a_run_that_has_ended(self, finished):
        ran = finished("run", "run.toml", "--out", "done", "--baselines", "--resume", "-q")
        assert ran.status == 0, ran.err
        assert re.search(r"local only +federated +pooled", ran.out)

    def test_an_interrupt_before_the_first_round_says_so(self, small, tmp_path):
        text = (tmp_path / "app.py").read_text()
        (tmp_path / "app.py").write_text(text + "\nmodel = None\nraise KeyboardInterrupt\n")
        ran = small("run", "run.toml")
        assert (ran.status, ran.err) == (130, "Interrupted before the first round.\n")

    def test_a_population_is_judged_centrally(self, small, tmp_path):
        text = (tmp_path / "run.toml").read_text().replace('sites = ["north", "west"]\n', "")
        population = '\n[population]\nclients = 9\npartition = "iid"\n'
        (tmp_path / "run.toml").write_text(text.replace("app:data", "app:dataset") + population)
        ran = small("run", "run.toml", "--out", "done")
        assert ran.status == 0, ran.err
        assert re.search(r"round 4/4  counted 9/9  train loss \S+  auc 0\.\d+", ran.out)


def test_a_terminal_gets_a_table_that_grows(small, tmp_path):
    console = Console(force_terminal=True, width=120, height=20, record=True, file=io.StringIO())
    screen = Screen(console, 1, baselines=True)
    repeat(load("run.toml"), [3], out=tmp_path / "done", baselines=True, callbacks=[screen])
    screen.close()
    text = Console(width=120, record=True, file=io.StringIO())
    text.print(screen.table())
    drawn = text.export_text()
    assert re.search(r"round +counted +train loss +auc +accuracy +north +west", drawn)
    assert re.search(r"2/4 +2/2 ", drawn)
    assert re.search(r"4/4 +2/2 ", drawn)
    assert "a site's column shows its AUC" in drawn
    assert "training a model at each site alone" in console.export_text()


class TestExplain:
    """``hanse explain``."""

    def test_it_runs_nothing_and_imports_nothing(self, small, tmp_path):
        (tmp_path / "app.py").write_text("raise SystemExit('imported')")
        ran = small("explain", "run.toml")
        assert (ran.status, ran.err) == (0, "")
        assert "Who sees what" in ran.out
        assert "4 B × parameters + 40 B" in ran.out

    def test_overrides_are_explained(self, small):
        assert "L2 norm ≤ 7" in small("explain", "run.toml", "--set", "pipeline.clip.norm=7").out

    def test_a_model_gives_exact_sizes(self, small):
        out = small("explain", "run.toml", "--model").out
        assert "4 trainable parameters, float32" in out
        assert "168 bytes, of which 5 integers" in out


class TestNew:
    """``hanse new``."""

    @pytest.mark.parametrize("template", TEMPLATES)
    def test_what_it_makes_runs_at_once_and_learns(self, hanse, template):
        made = hanse("new", "study", "--template", template)
        assert made.status == 0
        assert "hanse run study/run.toml" in made.out
        assert "generated" in made.out
        assert "generated" in Path("study/app.py").read_text()
        assert hanse("explain", "study/run.toml").status == 0
        ran = hanse("run", "study/run.toml", "--json")
        assert ran.status == 0, ran.err
        told = json.loads(ran.out)
        assert (told["metrics"] or told["central"])["accuracy"] > 0.7

    def test_nothing_is_written_over(self, hanse):
        hanse("new", "study")
        ran = hanse("new", "study")
        assert ran.status == 2
        assert "study/app.py is there already" in ran.err

    def test_a_folder_that_cannot_be_made_is_named(self, hanse):
        Path("file").touch()
        ran = hanse("new", "file/study")
        assert ran.status == 2
        assert "file/study cannot be made" in ran.err


class TestFinishedRuns:
    """``hanse compare``, ``report``, ``predict``, ``export``."""

    def test_runs_are_compared(self, finished):
        finished("run", "run.toml", "--set", "local.lr=0.25", "--out", "other", "-q")
        ran = finished("compare", "done", "other", "--out", "both.html")
        assert ran.status == 0
        assert re.search(r"local.lr +0.5 +0.25", ran.out)
        assert re.search(r"AUC +\d", ran.out)
        assert Path("both.html").read_text().startswith("<!")

    def test_equal_models_are_told(self, finished):
        finished("run", "run.toml", "--workers", 2, "--out", "other", "-q")
        assert "equal, bit for bit" in finished("compare", "done", "other").out

    def test_a_report_is_written_again(self, finished):
        Path("done/report.html").unlink()
        ran = finished("report", "done")
        assert ran.status == 0
        assert "mean of sites" in ran.out
        assert Path("done/report.html").exists()

    def test_rows_are_predicted_as_the_model_says(self, finished, tmp_path):
        x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
        np.savetxt("rows.csv", x, delimiter=",", header="a,b,c", comments="")
        rows = list(csv.DictReader(finished("predict", "done", "rows.csv").out.splitlines()))
        model = open_trained(tmp_path / "done").model
        expected = torch.sigmoid(model(torch.from_numpy(x))[:, 0]).tolist()
        assert [float(row["probability"]) for row in rows] == pytest.approx(expected, rel=1e-6)

    def test_the_app_may_read_the_rows_itself(self, small, tmp_path):
        small("run", "run.toml", "--out", "done", "-q", "--set", "inputs=app:inputs")
        (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
        assert len(small("predict", "done", "rows.csv").out.splitlines()) == 3
        small("predict", "done", "rows.csv", "--best", "--out", "said.csv")
        assert Path("said.csv").read_text().startswith("score,probability\n")

    @pytest.mark.parametrize(
        ("form", "name"), [("torchscript", "model.pt"), ("onnx", "model.onnx")]
    )
    def test_a_model_is_exported(self, finished, tmp_path, form, name):
        ran = finished("export", "done", "--format", form)
        assert ran.status == 0, ran.err
        x = torch.randn(7, 3)
        expected = open_trained(tmp_path / "done").model(x).detach().numpy()
        assert run_exported(tmp_path / "done" / name, x) == pytest.approx(expected, rel=1e-5)


def run_exported(path, x):
    if path.suffix == ".pt":
        with warnings.catch_warnings(action="ignore"):  # torch deprecates it
            return torch.jit.load(str(path))(x).detach().numpy()
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(path)).run(None, {"input_0": x.numpy()})[0]


@pytest.mark.parametrize(
    ("outputs", "loss", "columns"),
    [
        (1, torch.nn.BCEWithLogitsLoss(), ["score", "probability"]),
        (1, torch.nn.BCELoss(), ["probability"]),
        (1, torch.nn.MSELoss(), ["output"]),
        (2, torch.nn.MSELoss(), ["output_0", "output_1"]),
        (3, torch.nn.CrossEntropyLoss(), ["class", *(f"probability_{k}" for k in range(3))]),
    ],
)
def test_predictions_are_named_after_what_the_loss_takes_them_for(outputs, loss, columns):
    found = predict(torch.nn.Linear(2, outputs), loss, np.ones((4, 2)))
    assert list(found) == columns
    assert all(len(column) == 4 for column in found.values())


def test_folders_of_runs_do_not_collide(tmp_path):
    first = fresh("heart", tmp_path)
    first.mkdir()
    second = fresh("heart", tmp_path)
    assert first != second
    second.mkdir()
    os.utime(first, (2**31, 2**31))
    assert unfinished("heart", tmp_path) == first
    (first / "result.json").touch()
    assert unfinished("heart", tmp_path) == second


def test_version_and_explain_work_where_torch_is_not_installed(small, tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from hanse.cli.app import main\n"
        "commands = ['--version'], ['explain', 'run.toml'], ['run', 'run.toml']\n"
        "sys.exit([main(command) for command in commands] != [0, 0, 2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "Who sees what" in done.stdout
    assert done.stderr == (
        "Error: [config] app needs torch, which is not installed\n"
        "Hint: pip install 'hanse[torch]'\n"
    )


def test_a_reader_that_goes_away_is_no_error(small, tmp_path):
    done = subprocess.run(
        f"{sys.executable} -c 'from hanse.cli.app import run; run()' explain run.toml | head -1",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.startswith("Run small"), done.stderr) == (True, "")


def test_main_returns_a_status(capsys):
    assert main(["--version"]) == 0
