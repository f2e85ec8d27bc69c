"""The one-run audit: its statistics hold by simulation, and it tells half of the noise from all."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.train.models import binary, federation

from hanse import (
    Clip,
    Evaluation,
    GaussianNoise,
    LocalPrivacy,
    LocalTraining,
    Pipeline,
    Privacy,
    Weight,
    audit_run,
)
from hanse.cli.audit import said
from hanse.errors import ConfigError
from hanse.privacy import epsilon
from hanse.privacy.audit import audit, lower_bound
from hanse.sim.simulate import as_run

PIPELINE = [Weight(by="uniform", denominator=4.0), Clip(1.0)]


def run(noise: float, rounds: int = 1, **given):
    how = {
        "pipeline": Pipeline([*PIPELINE, *([GaussianNoise(noise)] if noise else [])]),
        "privacy": Privacy(delta=1e-5) if noise else None,
        "evaluation": Evaluation(release="none"),
        "rounds": rounds,
    }
    return as_run(binary(), federation(clients=4), None, {}, **{**how, **given})


# --- the statistics


def test_without_delta_the_bound_is_that_of_a_binomial():
    """Clopper-Pearson's lower limit of a share of right guesses, as an ε."""
    for right, guesses in ((60, 100), (95, 100), (100, 100), (30, 30)):
        p = stats.beta.ppf(0.05, right, guesses - right + 1)
        wanted = max(0.0, math.log(p / (1 - p)))
        assert lower_bound(right, guesses, 400, 0.0, 0.05) == pytest.approx(wanted, abs=1e-6)
    assert lower_bound(50, 100, 400, 0.0, 0.05) == 0
    assert lower_bound(0, 100, 400, 0.0, 0.05) == 0


def test_a_larger_delta_lets_less_be_said():
    said = [lower_bound(95, 100, 400, delta, 0.05) for delta in (0.0, 1e-6, 1e-4, 1e-3)]
    assert said == sorted(said, reverse=True)
    assert said[0] - said[1] < 0.05
    assert said[-1] < said[0] - 0.1


def drawn(truth: float, chance, canaries: int = 200):
    """Return scores of a mechanism of exactly ``truth``: each coin is told, so often right."""
    included = chance.random(canaries) < 0.5
    told = np.where(chance.random(canaries) < 1 / (1 + math.exp(-truth)), included, ~included)
    return told + 1e-3 * chance.random(canaries), included


@pytest.mark.parametrize("truth", [0.0, 0.5, 2.0])
def test_the_bound_is_above_the_truth_no_more_often_than_it_says(truth):
    chance, runs = np.random.default_rng(5), 600
    above = 0
    for _ in range(runs):
        scores, included = drawn(truth, chance)
        above += audit(scores, included, 1e-9).lower > truth
    assert above <= stats.binom.isf(1e-4, runs, 0.05)


def test_the_estimate_finds_the_epsilon_of_gaussians_and_its_interval_covers_it():
    chance, runs, covered, found = np.random.default_rng(6), 200, 0, []
    wanted = epsilon(noise_multiplier=0.5, delta=1e-5)
    for _ in range(runs):
        included = chance.random(400) < 0.5
        told = audit(chance.standard_normal(400) + 2.0 * included, included, 1e-5)
        covered += told.low <= wanted <= told.high
        found.append(told.estimate)
    assert np.median(found) == pytest.approx(wanted, rel=0.03)
    assert covered >= stats.binom.ppf(1e-4, runs, 0.95)


def test_too_few_canaries_are_refused():
    with pytest.raises(ConfigError, match="19 canaries say nothing"):
        audit(np.zeros(19), np.zeros(19, bool), 1e-5)
    with pytest.raises(ConfigError, match="confidence = 1"):
        audit(np.zeros(40), np.zeros(40, bool), 1e-5, 1.0)


# --- runs


def test_the_bound_stays_below_the_claim_and_little_noise_is_found():
    quiet, loud = (audit_run(run(z), canaries=300) for z in (0.05, 8.0))
    for audited in (quiet, loud):
        assert audited.claim is not None
        assert audited.claim.epsilon is not None
        assert audited.found.lower <= audited.claim.epsilon.epsilon
    assert quiet.found.lower > 1.0
    assert quiet.found.estimate > 2 * loud.found.estimate
    assert loud.found.lower < 0.5


def test_a_canary_counts_as_much_as_any_client_may():
    weighted = [Weight(by="examples", cap=50, denominator=4.0), Clip(0.25), GaussianNoise(0.05)]
    audited = audit_run(run(0.05, pipeline=Pipeline(weighted)), canaries=100)
    assert audited.found.right >= 22


def test_an_audit_leaves_the_run_as_it_is_and_repeats():
    audited = run(1.0)
    before = audited.spec.hash
    one, two = (audit_run(audited, canaries=40, seed=3) for _ in range(2))
    assert one.found == two.found
    assert audited.spec.hash == before
    assert audit_run(audited, canaries=40, seed=4).found != one.found


def test_what_cannot_be_audited_is_told():
    with pytest.raises(ConfigError, match="an audit needs the δ"):
        audit_run(run(0.0))


def test_a_claim_for_rows_is_not_held_against_an_attack_by_clients():
    hidden = LocalTraining(steps=2, batch_size=8, privacy=LocalPrivacy(1.0, 1.1, 0.2))
    rows = Privacy(delta=1e-5, unit="example", against="coordinator")
    alone = run(0.0, pipeline=Pipeline([Weight(by="uniform")]), local=hidden, privacy=rows)
    with pytest.raises(ConfigError, match="plants whole clients"):
        audit_run(alone)
    both = audit_run(run(2.0, local=hidden), canaries=40)
    assert both.claim is not None
    assert both.claim.unit == "client"


def test_the_words_say_bound_power_and_claim():
    audited = audit_run(run(8.0), canaries=40)
    told = said(audited)
    assert "lower bound" in told
    assert "its power" in told
    assert "claimed" in told
    assert "ABOVE" not in told
    wrong = replace(audited, found=replace(audited.found, lower=99.0))
    assert "ABOVE the claim" in said(wrong)
