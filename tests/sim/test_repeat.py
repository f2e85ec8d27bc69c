"""Several seeds beside their baselines: means, intervals, and what is written."""

import json

import numpy as np
import pytest
from torch import nn

from hanse.core import metrics
from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.errors import ConfigError
from hanse.sim.population import Sites
from hanse.sim.repeat import MEAN, repeat
from hanse.sim.run import Run
from hanse.strategies import fedavg
from hanse.train.torch import TorchTask


def data(site):
    rng = np.random.default_rng(site.seed)
    x = rng.normal(size=(40, 2)).astype("float32")
    y = (x[:, 0] + rng.normal(size=40) > 0).astype("float32")
    if site.id == "one-class":
        y[25:] = 0
    return (x[:25], y[:25]), (x[25:], y[25:])


def small_run(*sites, **changes):
    task = TorchTask(
        model=lambda: nn.Linear(2, 1), loss=nn.BCEWithLogitsLoss(), metrics=[metrics.auc]
    )
    return Run(
        task,
        Sites(data, sites or ("a", "b")),
        fedavg(),
        LocalTraining(lr=0.5),
        Pipeline([Weight(by="examples")]),
        rounds=3,
        **changes,
    )


class Seen:
    """Counts what a callback sees."""

    def __init__(self):
        self.seeds, self.rounds = [], 0

    def on_start(self, run, spec):
        self.seeds.append(run.seed)

    def on_round(self, row):
        self.rounds += 1

    def on_end(self, result):
        pass


def test_one_seed_fills_the_folder_itself(tmp_path):
    summary = repeat(small_run(), [0], out=tmp_path / "run")
    assert (tmp_path / "run" / "result.json").exists()
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "summary.json").exists()
    assert summary.results[0]["seed"] == 0
    assert summary.metrics == ("auc", "loss")


def test_several_seeds_have_a_folder_each_and_a_summary_above(tmp_path):
    seen = Seen()
    summary = repeat(small_run(), [4, 5, 6], out=tmp_path, callbacks=[seen], baselines=True)
    assert (seen.seeds, seen.rounds) == ([4, 5, 6], 9)
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told == summary.json()
    assert told["seeds"] == [4, 5, 6]
    assert told["metric names"] == ["auc", "loss"]
    assert set(told["table"]) == {"a", "b", MEAN}
    assert [len(told["table"]["a"][k]["auc"]) for k in ("local", "federated", "pooled")] == [3] * 3
    assert len({run["model_digest"] for run in told["runs"]}) == 3
    assert (tmp_path / "report.html").exists()


def test_the_table_holds_what_the_seeds_measured(tmp_path):
    summary = repeat(small_run(), [0, 1], out=tmp_path, baselines=True)
    for place, seed in enumerate((0, 1)):
        baselines = json.loads((tmp_path / f"seed-{seed}" / "baselines.json").read_text())
        sites = summary.results[place]["sites"]
        assert summary.table["a"]["federated"]["auc"][place] == sites["a"]["auc"]
        for kind in ("local", "pooled"):
            assert summary.table["b"][kind]["auc"][place] == baselines[kind]["b"]["auc"]


def test_means_are_over_sites_and_intervals_over_seeds(tmp_path):
    summary = repeat(small_run(), [0, 1, 2], out=tmp_path, baselines=True)
    for kind, cells in summary.table[MEAN].items():
        for seed, mean in enumerate(cells["auc"]):
            values = [summary.table[site][kind]["auc"][seed] for site in ("a", "b")]
            assert mean == pytest.approx(sum(values) / 2)
    pooled = summary.pooled("auc")
    values = [result["metrics"]["auc"] for result in summary.results]
    assert pooled.mean == pytest.approx(np.mean(values))
    t_of_two = 4.3027  # the 0.975 quantile of Student's t with 2 degrees of freedom
    assert pooled.half == pytest.approx(t_of_two * np.std(values, ddof=1) / np.sqrt(3), rel=1e-4)


def test_a_site_without_a_value_is_left_out_of_the_mean_of_every_kind(tmp_path):
    summary = repeat(small_run("a", "one-class"), [0], out=tmp_path, baselines=True)
    assert summary.table["one-class"]["pooled"]["auc"] == [None]
    for kind in ("local", "federated", "pooled"):
        assert summary.table[MEAN][kind]["auc"] == summary.table["a"][kind]["auc"]


def test_a_run_that_releases_no_site_has_baselines_and_no_mean_of_its_own(tmp_path):
    run = small_run(evaluation=Evaluation(release="sum"))
    summary = repeat(run, [0], out=tmp_path, baselines=True)
    assert set(summary.table["a"]) == {"federated", "local", "pooled"}
    assert summary.pooled("auc").mean is not None


def test_the_same_seed_gives_the_same_model_alone_or_among_others(tmp_path):
    alone = repeat(small_run(), [5], out=tmp_path / "alone")
    among = repeat(small_run(), [4, 5], out=tmp_path / "among")
    assert alone.results[0]["model_digest"] == among.results[1]["model_digest"]


def test_what_has_ended_is_kept_when_seeds_are_resumed(tmp_path):
    first = repeat(small_run(), [1, 2], out=tmp_path, baselines=True)
    seen = Seen()
    again = repeat(small_run(), [1, 2], out=tmp_path, resume=True, callbacks=[seen], baselines=True)
    assert seen.seeds == []
    assert again == first
    longer = repeat(small_run(), [1, 2, 3], out=tmp_path, resume=True, callbacks=[seen])
    assert seen.seeds == [3]
    assert longer.results[:2] == first.results


@pytest.mark.parametrize(
    ("seeds", "resume", "message"),
    [
        ([], False, "0 seeds"),
        (range(1001), False, "1001 seeds"),
        ([1, 2], False, "holds a run already"),
        ([1], False, "holds a run of several seeds"),
        ([1, 2], True, "holds a run with other settings"),
    ],
)
def test_a_folder_is_not_mixed_up(tmp_path, seeds, resume, message):
    repeat(small_run(), [1, 2], out=tmp_path)
    other = small_run(evaluation=Evaluation(every=2))
    with pytest.raises(ConfigError, match=message):
        repeat(other, seeds, out=tmp_path, resume=resume)


def test_several_seeds_are_not_laid_into_a_run_of_one(tmp_path):
    repeat(small_run(), [1], out=tmp_path)
    with pytest.raises(ConfigError, match="holds a run of one seed already"):
        repeat(small_run(), [1, 2], out=tmp_path)


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(ConfigError, match="there is no run in"):
        repeat(small_run(), [1], out=tmp_path / "nowhere", resume=True)
