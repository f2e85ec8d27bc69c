"""Which rows a model was trained on: told where nothing hides them, and not where noise does."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from tests.train.models import classes, table, tabular

from hanse import ConfigError, LocalTraining, Pipeline, Weight
from hanse.cli.app import main
from hanse.core.dp_events import Gaussian, Repeated
from hanse.core.spec import Evaluation, Privacy
from hanse.core.work import LocalPrivacy
from hanse.data import OfPersons
from hanse.privacy.accounting import spent
from hanse.privacy.membership import (
    auc_of,
    judged,
    likelihood_ratios,
    most_told,
    rate_at,
    scaled,
)
from hanse.sim.membership import Halved, audit_membership
from hanse.sim.population import Population
from hanse.sim.run import Run
from hanse.sim.simulate import as_run


def coins(models, rows, seed=0):
    return np.random.default_rng(seed).random((models, rows)) < 0.5


def test_gaussians_that_are_apart_are_told_as_well_as_they_can_be():
    """Two standard deviations apart: AUC Φ(2/√2) = 0.921, less what 31 models leave unknown."""
    inside, drawn = coins(32, 400), np.random.default_rng(1).standard_normal((32, 400))
    rows = np.random.default_rng(2).standard_normal(400) * 5  # each row's own level
    found = judged(drawn + rows + 2.0 * inside, inside)
    assert 0.90 < found.auc < 0.922
    assert (found.rows, found.models) == (400, 32)
    assert found.guesses == inside.size
    rate = found.rates[0]
    assert [one.false for one in found.rates] == [0.01, 0.1]
    assert rate.low < rate.true < rate.high
    assert 0.3 < rate.true < 0.45  # 1 − Φ(2.326 − 2) = 0.372


def test_what_does_not_depend_on_the_row_is_told_by_chance():
    inside, drawn = coins(16, 500), np.random.default_rng(1).standard_normal((16, 500))
    found = judged(drawn, inside)
    assert abs(found.auc - 0.5) < 0.02
    assert abs(found.rates[-1].true - 0.1) < 0.02


def test_the_attacked_model_has_no_part_in_what_it_is_compared_with():
    """One model that is sure of everything says nothing of who was in it."""
    inside, drawn = coins(12, 300), np.random.default_rng(1).standard_normal((12, 300))
    drawn[3] += 40.0
    members, others = likelihood_ratios(drawn, inside)
    assert abs(auc_of(members, others) - 0.5) < 0.03


def test_rates_and_areas_of_a_few_numbers():
    members, others = np.array([3.0, 2.0, 0.0]), np.array([1.0, 1.0, 2.0, -1.0])
    assert auc_of(members, others) == (4 + 3.5 + 1) / 12
    assert rate_at(members, others, 0.0).true == 1 / 3
    assert rate_at(members, others, 0.25).true == 2 / 3
    np.testing.assert_allclose(scaled([np.log(2.0)]), [0.0], atol=1e-15)
    assert scaled([0.0])[0] < 40


def test_the_most_that_a_claim_lets_be_told():
    assert most_told(0.0, 0.0, 0.1) == pytest.approx(0.1)
    assert most_told(1.0, 1e-5, 0.01) == pytest.approx(np.e * 0.01 + 1e-5)
    assert most_told(1.0, 0.0, 0.5) == pytest.approx(1 - 0.5 / np.e)
    assert most_told(1e6, 0.0, 0.01) == 1.0


def test_too_few_models_or_rows_that_cannot_be_judged_are_refused():
    with pytest.raises(ConfigError, match="3 models are too few"):
        likelihood_ratios(np.zeros((3, 5)), coins(3, 5))
    with pytest.raises(ConfigError, match="no row can be judged"):
        judged(np.zeros((6, 5)), np.ones((6, 5), bool))


# --- whole runs


def data(site):
    """Random labels: whoever gets them right has seen them."""
    x, y = table(40, 1 + site.id.count("b"))
    return (x, np.random.default_rng(len(site.id)).integers(0, 2, len(y))), None


def run(hidden=None, **more) -> Run:
    local = LocalTraining(lr=0.5, batch_size=10, steps=60, privacy=hidden)
    given = {
        "rounds": 2, "local": local, "seed": 1, "evaluation": Evaluation(release="none"),
        "pipeline": Pipeline([Weight(by="uniform")]),
    }  # fmt: skip
    promised = {} if hidden is None else {"privacy": Privacy(1e-5, unit="example")}
    found = more.pop("data", data)
    return as_run(classes(partial(tabular, 2)), found, ["a", "b"], {}, **given | promised | more)


def test_rows_that_a_model_knows_by_heart_are_told_and_noise_hides_them():
    loose = audit_membership(run(), shadows=8)
    assert loose.claim is None
    assert loose.found.auc > 0.75
    private = audit_membership(run(LocalPrivacy(1.0, 20.0, 0.25)), shadows=8)
    assert private.claim is not None
    claim = private.claim
    assert private.found.auc < 0.6
    for rate in private.found.rates:
        assert rate.low <= most_told(claim.epsilon, claim.delta, rate.false)


def test_each_model_sees_half_of_the_rows_by_coins_of_their_own():
    population: Population = run().population
    one, two = (Halved(population, 0, model, {"a": 40, "b": 40}) for model in (0, 1))
    kept = one.coins("a")
    (x, y), test = one.open("a")
    (whole, _), _ = population.open("a")
    assert test is None
    assert len(x) == len(y) == kept.sum()
    np.testing.assert_array_equal(x, whole[kept])
    assert 8 < kept.sum() < 32
    assert (kept != two.coins("a")).any()
    assert (kept != one.coins("b")).any()
    assert Halved(population, 0, 0, {"a": 1}).coins("a").all()


def test_persons_keep_their_rows():
    halved = Halved(run(data=persons).population, 0, 0, {"a": 40})
    train, _ = halved.open("a")
    assert train.ids.tolist() == (np.arange(40) % 7)[halved.coins("a")].tolist()
    assert len(train.dataset[0]) == len(train.ids)


def test_a_row_is_hidden_by_what_hides_its_person_half_as_well_and_not_sampled():
    hidden = LocalPrivacy(1.0, 20.0, 0.25, unit="person")
    attacked = audit_membership(
        run(hidden, data=persons, privacy=Privacy(1e-5, unit="person"), rounds=1), shadows=6
    )
    assert attacked.claim == spent(Repeated(Gaussian(10.0), 60), 1e-5)


def persons(site):
    return OfPersons(data(site)[0], np.arange(40) % 7), None


def test_what_cannot_be_attacked_is_told():
    with pytest.raises(ConfigError, match="2 shadow runs are too few"):
        audit_membership(run(), shadows=2)
    odd = run()
    with pytest.raises(ConfigError, match="SimpleNamespace does not tell how sure"):
        audit_membership(
            replace(odd, task=SimpleNamespace(metrics=(), check=lambda *_: None)), shadows=6
        )


RUN = """
task = "app:task"
data = "app:data"
sites = ["a", "b"]
rounds = 1
[local]
steps = 5
batch_size = 8
"""
APP = """
import numpy as np
from torch import nn
from hanse.train.torch import TorchTask
task = TorchTask(model=lambda: nn.Linear(3, 2), loss=nn.CrossEntropyLoss())
def data(site):
    x = np.random.default_rng(len(site.id)).normal(size=(30, 3)).astype("float32")
    return (x, (x[:, 0] > 0).astype(int)), (x[:9], (x[:9, 0] > 0).astype(int))
"""


def test_the_command_prints_it_and_keeps_it_for_the_report(tmp_path, capsys):
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "run.toml").write_text(RUN)
    file, kept = str(tmp_path / "run.toml"), str(tmp_path / "out")
    assert main(["run", file, "--out", kept]) == 0
    capsys.readouterr()
    words = ["audit", file, "--attack", "membership", "--shadows", "6", "--keep", kept]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "6 shadow runs on half of 60 rows" in printed
    assert "nothing of a row" in printed
    told = json.loads((tmp_path / "out" / "audits.jsonl").read_text())
    assert (told["attack"], told["claimed"], len(told["rates"])) == ("membership", None, 1)
    assert "shadow runs on half of 60 rows" in (tmp_path / "out" / "report.html").read_text()
    for odd in (["--attack", "guess"], ["--keep", str(tmp_path / "none")]):
        assert main(["audit", file, *odd]) == 2
