"""What goes wrong on purpose: who drops, comes late or sends rubbish is named and never summed."""

import json
from functools import partial

import numpy as np
import pytest
from tests.train.models import FEATURES, binary, double, federation, logistic
from torch import nn

import hanse
from hanse import Clip, Faults, FixedSize, LocalTraining, Pipeline, Poisson, Quorum, Weight
from hanse.errors import ConfigError, DataError, TaskError
from hanse.sim.replay import replay
from hanse.sim.simulate import as_run

TASK = binary(double(logistic))
DATA = federation(clients=8)
SITES = sorted(DATA)
PRIVATE = Pipeline(
    [Weight(by="uniform", denominator=8.0), Clip(norm=1.0), hanse.GaussianNoise(1e-6)]
)
QUIET = hanse.Evaluation(every=0)


def run(data=None, **more) -> hanse.Result:
    settings = {"local": LocalTraining(lr=0.3), "rounds": 1, "seed": 5} | more
    return hanse.simulate(TASK, data or DATA, **settings)


def fates(faults: Faults, number: int = 1, seed: int = 5):
    return {site: faults.fate(seed, number, site) for site in SITES}


def only(sites) -> dict:
    return {site: DATA[site] for site in sites}


def unmoved(result: hanse.Result) -> bool:
    layout, start = TASK.describe(5)
    return result.model_digest == layout.digest(start)


# Corrupt updates


@pytest.mark.parametrize(
    ("kind", "reason"), [("nan", "not finite"), ("inf", "not finite"), ("shape", "of shape")]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_corrupt_updates_are_refused_named_and_never_summed(kind, reason, workers):
    faults = Faults(corrupt=0.4, kind=kind)
    bad = [site for site, fate in fates(faults).items() if fate.corrupts]
    result = run(faults=faults, workers=workers)
    row = result.history[0]
    assert 0 < len(bad) < 8
    assert sorted(row["refused"]) == bad
    assert all(reason in why for why in row["refused"].values())
    assert row["counted"] == [site for site in SITES if site not in bad]
    assert row["train"]["examples"] == sum(len(DATA[site][0][1]) for site in row["counted"])
    assert result.model_digest == run(only(row["counted"])).model_digest


def test_refused_clients_do_not_tip_the_next_rounds_either():
    faults = Faults(corrupt=0.3)
    result = run(faults=faults, rounds=6)
    assert sum(len(row["refused"]) for row in result.history) > 5
    assert np.isfinite(result.vector).all()
    assert all(row["update"]["norm"] < 10 for row in result.history)


def test_a_round_in_which_everyone_is_refused_aborts_and_leaves_the_model():
    result = run(faults=Faults(corrupt=1.0))
    assert "0 reports counted, 1 needed: 8 refused" in result.history[0]["aborted"]
    assert result.history[0]["counted"] == []
    assert unmoved(result)


def test_an_update_beyond_the_grid_is_refused_with_its_limit():
    result = run(local=LocalTraining(lr=1e6), pipeline=Pipeline([Weight(by="uniform")]))
    assert all(
        why == "out of range: a coordinate is not within 65536"
        for why in result.history[0]["refused"].values()
    )
    assert unmoved(result)


def test_under_a_privacy_claim_a_refused_update_is_a_zero_and_a_participant():
    faults = Faults(corrupt=0.4)
    bad = [site for site, fate in fates(faults).items() if fate.corrupts]
    noisy, clean = (
        run(data, pipeline=PRIVATE, evaluation=QUIET, faults=f)
        for data, f in ((DATA, faults), (only(set(SITES) - set(bad)), Faults()))
    )
    assert sorted(noisy.history[0]["refused"]) == bad
    assert noisy.history[0]["aborted"] is None
    np.testing.assert_allclose(noisy.vector, clean.vector, rtol=0, atol=1e-5)


# Dropouts


def test_dropouts_are_named_and_the_round_is_that_of_the_others():
    faults = Faults(dropout=0.5)
    gone = [site for site, fate in fates(faults).items() if fate.drops]
    result = run(faults=faults)
    row = result.history[0]
    assert 0 < len(gone) < 8
    assert row["dropped"] == dict.fromkeys(gone, "dropped out")
    assert row["cohort"] == 8
    assert result.model_digest == run(only(row["counted"])).model_digest


def test_a_round_without_a_soul_aborts_and_leaves_the_model():
    result = run(faults=Faults(dropout=1.0), rounds=3)
    assert [row["round"] for row in result.history] == [1, 2, 3]
    for row in result.history:
        assert "0 reports counted, 1 needed: 8 dropped" in row["aborted"]
        assert row["train"] is None
        assert row["update"] is None
        assert row["bytes"]["up"] == 0
    assert unmoved(result)


def test_under_a_privacy_claim_a_round_without_a_soul_still_releases_its_noise():
    result = run(faults=Faults(dropout=1.0), pipeline=PRIVATE, evaluation=QUIET)
    assert result.history[0]["aborted"] is None
    assert not unmoved(result)


@pytest.mark.parametrize("minimum", [4, 5, 8])
def test_with_fewer_reports_than_the_minimum_the_round_aborts(minimum):
    faults = Faults(dropout=0.5)
    left = [site for site, fate in fates(faults).items() if not fate.drops]
    result = run(faults=faults, quorum=Quorum(minimum=minimum))
    row = result.history[0]
    if len(left) >= minimum:
        assert row["counted"] == left
    else:
        assert f"{minimum} needed" in row["aborted"]
        assert row["counted"] == []
        assert unmoved(result)


def test_both_sides_of_the_minimum_occur_above():
    left = sum(not fate.drops for fate in fates(Faults(dropout=0.5)).values())
    assert 4 <= left < 8


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_summed_before_a_round_aborted_is_not_in_the_model(workers):
    faults = Faults(corrupt=0.4)
    sound = [site for site, fate in fates(faults).items() if not fate.corrupts]
    assert 0 < len(sound) < 6
    result = run(faults=faults, quorum=Quorum(minimum=6), workers=workers)
    assert "6 needed" in result.history[0]["aborted"]
    assert unmoved(result)


def test_an_aborted_round_does_not_disturb_the_next():
    """Nothing of its sums is left over, in this process or in workers."""
    faults = Faults(dropout=0.5)
    result = run(faults=faults, quorum=Quorum(minimum=5), rounds=6, workers=2)
    aborted = [row["round"] for row in result.history if row["aborted"]]
    assert 0 < len(aborted) < 6
    again = run(faults=faults, quorum=Quorum(minimum=5), rounds=6)
    assert result.model_digest == again.model_digest
    assert not unmoved(result)


# Time


def arrivals(faults: Faults, sites) -> list[str]:
    drawn = fates(faults)
    return sorted(sites, key=lambda site: (drawn[site].delay_s, site))


def test_at_the_deadline_the_round_closes_with_those_who_are_there():
    faults = Faults(delay_s=10.0)
    result = run(faults=faults, quorum=Quorum(deadline_s=8.0))
    row = result.history[0]
    early = [site for site, fate in fates(faults).items() if fate.delay_s < 8.0]
    assert 0 < len(early) < 8
    assert row["counted"] == early
    assert row["dropped"] == {}
    assert set(row["late"]) == set(SITES) - set(early)
    assert set(row["late"].values()) == {"late: the round closed at its deadline"}
    assert result.model_digest == run(only(early)).model_digest


def test_a_deadline_that_nobody_meets_aborts_the_round():
    result = run(faults=Faults(delay_s=10.0), quorum=Quorum(deadline_s=1e-9))
    assert "0 reports counted, 1 needed" in result.history[0]["aborted"]
    assert unmoved(result)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_over_selection_takes_the_first_that_arrive_and_no_more(size):
    faults, sampler = Faults(delay_s=10.0), FixedSize(size)
    quorum = Quorum(over_selection=1.6)
    result = run(faults=faults, strategy=hanse.fedavg(sampler=sampler), quorum=quorum)
    row = result.history[0]
    asked = FixedSize(quorum.asked(size, 8)).sample(SITES, 5, 1)
    assert row["cohort"] == len(asked) > size
    assert row["counted"] == sorted(arrivals(faults, asked)[:size])
    assert set(row["late"]) == set(asked) - set(row["counted"])
    assert result.model_digest == run(only(row["counted"])).model_digest


def test_over_selected_clients_make_up_for_dropped_and_refused_ones():
    faults = Faults(delay_s=10.0, dropout=0.2, corrupt=0.2)
    sampler, drawn = FixedSize(3), fates(Faults(delay_s=10.0, dropout=0.2, corrupt=0.2))
    result = run(
        faults=faults,
        strategy=hanse.fedavg(sampler=sampler),
        quorum=Quorum(over_selection=10.0),
    )
    sound = [s for s in arrivals(faults, SITES) if not (drawn[s].drops or drawn[s].corrupts)]
    assert len(sound) < 8
    assert result.history[0]["counted"] == sorted(sound[:3])


def test_the_whole_cohort_is_waited_for_without_a_deadline():
    assert run(faults=Faults(delay_s=1e9)).model_digest == run().model_digest


# Cohorts


def test_an_empty_poisson_cohort_aborts_the_round_and_leaves_the_model():
    result = run(strategy=hanse.fedavg(sampler=Poisson(1e-6)), rounds=2)
    for row in result.history:
        assert row["cohort"] == 0
        assert row["aborted"] == "0 reports counted, 1 needed: 0 in the cohort"
    assert unmoved(result)


def test_an_empty_poisson_cohort_is_no_abort_where_none_is_needed():
    sampler = Poisson(1e-6)
    result = run(strategy=hanse.fedavgm(sampler=sampler), quorum=Quorum(minimum=0))
    assert result.history[0]["aborted"] is None
    assert unmoved(result)


def test_a_momentum_of_the_server_does_not_roll_on_through_an_aborted_round():
    strategy = hanse.fedavgm(momentum=0.9)
    faults = Faults(dropout=0.5)
    settings = {"strategy": strategy, "faults": faults, "quorum": Quorum(minimum=5)}
    models = [run(rounds=r, **settings).model_digest for r in range(1, 7)]
    rows = run(rounds=6, **settings).history
    for before, after, row in zip(models, models[1:], rows[1:], strict=False):
        assert (before == after) == (row["aborted"] is not None)


# The dials


@pytest.mark.parametrize("name", ["dropout", "corrupt"])
def test_probabilities_are_hit_by_the_share_of_clients(name):
    """10,000 draws at 0.3: six standard deviations are 0.0275, a false alarm in 5·10^8 seeds."""
    faults = Faults(**{name: 0.3})
    fields = {"dropout": "drops", "corrupt": "corrupts"}
    hits = [
        getattr(faults.fate(1, r, f"c{k}"), fields[name]) for r in range(100) for k in range(100)
    ]
    assert np.mean(hits) == pytest.approx(0.3, abs=0.0275)


def test_delays_are_exponential_in_virtual_time():
    """The mean of 10,000 has standard deviation 0.04: six of them are 0.24."""
    faults = Faults(delay_s=4.0)
    delays = [faults.fate(1, r, f"c{k}").delay_s for r in range(100) for k in range(100)]
    assert np.mean(delays) == pytest.approx(4.0, abs=0.24)
    assert np.median(delays) == pytest.approx(4.0 * np.log(2), abs=0.24)


def test_fates_depend_on_seed_round_and_client_only():
    faults = Faults(dropout=0.5, delay_s=1.0, corrupt=0.5)
    assert faults.fate(1, 2, "a") == faults.fate(1, 2, "a")
    others = [faults.fate(2, 2, "a"), faults.fate(1, 3, "a"), faults.fate(1, 2, "b")]
    assert len({fate.delay_s for fate in (faults.fate(1, 2, "a"), *others)}) == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 1.1},
        {"dropout": float("nan")},
        {"corrupt": -0.1},
        {"delay_s": -1.0},
        {"delay_s": float("inf")},
        {"kind": "odd"},
    ],
)
def test_faults_that_cannot_be_meant_are_refused_with_a_hint(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))) as caught:
        Faults(**settings)
    assert caught.value.hint


def test_the_history_is_json_whatever_goes_wrong():
    faults = Faults(dropout=0.3, delay_s=5.0, corrupt=0.3)
    result = run(faults=faults, quorum=Quorum(deadline_s=6.0, minimum=3), rounds=5)
    again = json.loads(json.dumps(result.history, allow_nan=False))
    assert again == result.history
    assert partial(json.dumps, allow_nan=False)(result.json())


# Clients that raise


def broken(*, of: str) -> dict:
    """All data, and at ``of`` a value that is no number."""
    (x, y), test = DATA[of]
    worse = x.copy()
    worse[1, 2] = np.nan
    return {**DATA, of: ((worse, y), test)}


class Fails(nn.Linear):
    """Raises when it trains on rows of 7."""

    def __init__(self) -> None:
        super().__init__(FEATURES, 1)

    def forward(self, x):
        if self.training and bool((x == 7).all()):
            raise ZeroDivisionError("no luck")
        return super().forward(x)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("engine", ["exact", "batched"])
def test_who_has_data_that_cannot_be_read_is_left_out_if_asked_for(workers, engine):
    data = broken(of="site-3")
    with pytest.raises(DataError, match=r"site-3.*nan"):
        run(data, workers=workers, engine=engine)
    result = run(data, rounds=2, workers=workers, engine=engine, on_error="drop")
    for row in result.history:
        assert "nan" in row["dropped"]["site-3"]
        assert row["counted"] == [site for site in SITES if site != "site-3"]
        assert row["bytes"]["up"] == 7 * (row["bytes"]["down"] // 8 + 5 * 8)
    healthy = run(only(result.history[0]["counted"]), rounds=2, engine=engine)
    assert result.model_digest == healthy.model_digest


@pytest.mark.parametrize("workers", [1, 2])
def test_who_raises_while_training_is_left_out_if_asked_for(workers):
    (x, y), test = DATA["site-3"]
    data = {**DATA, "site-3": ((x * 0 + 7, y), test)}
    with pytest.raises(TaskError, match="training at site-3, round 1: ZeroDivisionError"):
        hanse.simulate(binary(Fails), data, rounds=1, workers=workers)
    result = hanse.simulate(binary(Fails), data, rounds=1, workers=workers, on_error="drop")
    assert "no luck" in result.history[0]["dropped"]["site-3"]
    assert len(result.history[0]["counted"]) == 7


def test_where_more_are_asked_than_needed_another_takes_the_place(tmp_path):
    quorum, sampler = Quorum(over_selection=2.0, minimum=1), FixedSize(4)
    settings = {"quorum": quorum, "strategy": hanse.fedavg(sampler=sampler), "rounds": 3}
    result = run(broken(of="site-3"), on_error="drop", **settings)
    assert all(len(row["counted"]) == 4 for row in result.history)
    assert all("site-3" not in row["counted"] for row in result.history)
    healthy = as_run(TASK, DATA, None, None, local=LocalTraining(lr=0.3), seed=5, **settings)
    recorded = replay(healthy, result.history)
    assert recorded.model_digest == result.model_digest


def test_what_becomes_of_errors_is_one_of_two():
    with pytest.raises(ConfigError, match="on_error"):
        run(on_error="ignore")
