"""A ledger over simulated runs: what they spend adds up, and a budget holds."""

import pytest
from tests.train.models import binary, federation

import hanse
from hanse import (
    Budget,
    Clip,
    Evaluation,
    GaussianNoise,
    LocalPrivacy,
    LocalTraining,
    Pipeline,
    Privacy,
    Weight,
)
from hanse.cli.app import main
from hanse.errors import BudgetError
from hanse.privacy.budget import figure
from hanse.sim.ledger import read_ledger

DATA = federation(clients=4)
HOW = {
    "pipeline": Pipeline(
        [Weight(by="uniform", denominator=4.0), Clip(1.0), GaussianNoise(noise_multiplier=2.0)]
    ),
    "privacy": Privacy(delta=1e-6),
    "evaluation": Evaluation(release="none"),
}


def spent(path) -> float:
    found = figure(read_ledger(path).spent("unnamed", "client", "recipients"), 1e-6)
    assert found is not None
    return found.epsilon


def test_runs_on_the_same_data_add_up_and_the_budget_refuses_one_too_many(tmp_path):
    path = tmp_path / "privacy.ledger"
    budget = Budget(path, epsilon=6.0)
    one = hanse.simulate(binary(), DATA, rounds=3, budget=budget, **HOW)
    again = hanse.simulate(binary(), DATA, rounds=2, budget=budget, **HOW)
    wanted = hanse.privacy.epsilon(noise_multiplier=2.0, steps=5, delta=1e-6)
    assert spent(path) == pytest.approx(wanted)
    first, second = read_ledger(path).accounts.values()
    assert first.debits["3/model"] == one.model_digest
    assert second.debits["2/model"] == again.model_digest
    before = path.read_bytes()
    with pytest.raises(BudgetError, match=r"unnamed may spend ε = 6 .*; ε = 5.551 is spent"):
        hanse.simulate(binary(), DATA, rounds=1, budget=budget, out=tmp_path / "out", **HOW)
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()
    assert hanse.simulate(binary(), DATA, rounds=3, **HOW).model_digest == one.model_digest


def test_a_run_without_noise_spends_more_than_any_budget(tmp_path):
    with pytest.raises(BudgetError, match="asks for no bounded ε"):
        hanse.simulate(binary(), DATA, rounds=1, budget=Budget(tmp_path / "ledger", epsilon=1e6))
    hanse.simulate(binary(), DATA, rounds=1, budget=Budget(tmp_path / "ledger"))
    assert read_ledger(tmp_path / "ledger").spent("unnamed", "client", "sites") is None


def test_a_run_that_goes_on_goes_on_as_itself(tmp_path):
    class Stop:
        def on_start(self, run, spec) -> None: ...

        def on_round(self, row) -> None:
            if row["round"] == 2:
                raise KeyboardInterrupt

        def on_end(self, result) -> None: ...

    how = {**HOW, "rounds": 4, "out": tmp_path / "out", "budget": Budget(tmp_path / "ledger", 6.0)}
    with pytest.raises(KeyboardInterrupt):
        hanse.simulate(binary(), DATA, callbacks=[Stop()], **how)
    (account,) = read_ledger(tmp_path / "ledger").accounts.values()
    assert (account.is_open, len(account.debits)) == (True, 2)
    done = hanse.simulate(binary(), DATA, resume=True, **how)
    (account,) = read_ledger(tmp_path / "ledger").accounts.values()
    assert (account.is_open, len(account.debits)) == (False, 4)
    assert account.debits["4/model"] == done.model_digest


def test_what_a_run_that_will_not_go_on_has_reserved_can_be_given_back(tmp_path, capsys):
    path = tmp_path / "ledger"
    hanse.simulate(binary(), DATA, rounds=1, budget=Budget(path), **HOW)
    (name,) = read_ledger(path).accounts
    assert main(["privacy", "ledger", str(path), "--void", name]) == 0
    assert "0 releases given back" in capsys.readouterr().out
    assert main(["privacy", "ledger", str(path)]) == 0
    assert name in capsys.readouterr().out
    assert main(["privacy", "ledger", str(path), "--void", "nobody"]) == 2
    assert "is not in the ledger" in capsys.readouterr().err
    assert main(["privacy", "ledger", str(tmp_path / "none")]) == 2


def test_a_ledger_shows_what_its_runs_spent_of_the_units_that_they_hide(tmp_path, capsys):
    hidden = LocalTraining(steps=2, batch_size=8, privacy=LocalPrivacy(1.0, 1.1, 0.2))
    path = tmp_path / "ledger"
    hanse.simulate(
        binary(), DATA, rounds=2, budget=Budget(path, epsilon=8.0), local=hidden,
        pipeline=Pipeline([Weight(by="uniform")]), evaluation=Evaluation(release="none"),
        privacy=Privacy(delta=1e-6, unit="example", against="coordinator"),
    )  # fmt: skip
    assert main(["privacy", "ledger", str(path)]) == 0
    told = capsys.readouterr().out
    assert "for an example" in told
    assert "ε = " in told
    assert "no bound" not in told
