"""What a run's noise promises: computed from the pipeline that runs, before it runs."""

import math
from dataclasses import replace

import pytest
from tests.train.models import binary, federation

import hanse
from hanse import (
    AdaptiveClip,
    Clip,
    ConfigError,
    FixedSize,
    GaussianNoise,
    Pipeline,
    Poisson,
    Privacy,
    Weight,
)
from hanse.config.parse import parse
from hanse.core.dp_events import FixedSizeSampled, Gaussian, PoissonSampled, Repeated
from hanse.core.spec import Evaluation
from hanse.privacy.claims import claims
from hanse.report.explain import explain

RUN = """
task = "app:task"
data = "app:data"
sites = {sites}
rounds = {rounds}
{more}
[evaluation]
release = "simulation"
[[pipeline]]
step = "weight"
by = "uniform"
denominator = 4.0
[[pipeline]]
step = "clip"
norm = 0.5
[[pipeline]]
step = "gaussian_noise"
{noise}
"""


def run_file(tmp_path, more="", *, noise="", rounds=20, sites=20):
    path = tmp_path / "run.toml"
    names = [f"site-{number}" for number in range(sites)]
    path.write_text(RUN.format(sites=names, rounds=rounds, more=more, noise=noise))
    return parse(path)


def figures(spec, rounds=None) -> dict[str, float]:
    return {
        claim.observer: math.inf if claim.epsilon is None else claim.epsilon.epsilon
        for claim in claims(spec, rounds)
    }


POISSON = '[sampling]\nname = "poisson"\nrate = 0.2\n'
FIXED = '[sampling]\nname = "fixed"\nsize = 4\n'
GIVEN = "noise_multiplier = 1.5"


def test_noise_without_sampling_is_the_analytic_gaussian_for_sites_and_recipients(tmp_path):
    """20 rounds of multiplier z are one of z/√20 (anchors: ε(δ = 1e-5) of σ = 1 is 4.37718)."""
    file = run_file(tmp_path, "[privacy]\ndelta = 1e-5\n", noise=f"noise_multiplier = {20**0.5}")
    found = figures(file.sketch)
    assert found["coordinator"] == math.inf
    assert found["sites"] == found["recipients"] == pytest.approx(4.37718, rel=1e-3)


@pytest.mark.parametrize("sampling", ["", POISSON, FIXED], ids=["all", "poisson", "fixed"])
@pytest.mark.parametrize("against", ["recipients", "sites"])
def test_a_promise_finds_the_least_noise_that_keeps_it(tmp_path, sampling, against):
    promise = f'[privacy]\nepsilon = 3.0\ndelta = 1e-6\nagainst = "{against}"\n'
    found = figures(run_file(tmp_path, sampling + promise).sketch)
    assert 0.99 * 3.0 <= found[against] <= 3.0


def test_who_does_not_know_the_cohort_learns_less(tmp_path):
    file = run_file(tmp_path, POISSON + "[privacy]\ndelta = 1e-6\n", noise=GIVEN)
    found = figures(file.sketch)
    assert found["recipients"] < 0.5 * found["sites"]
    event = claims(file.sketch)[2].event
    assert event == Repeated(PoissonSampled(0.2, Gaussian(1.5)), 20)


def test_a_fixed_cohort_is_counted_for_replacing_a_client_at_twice_the_bound(tmp_path):
    file = run_file(tmp_path, FIXED + "[privacy]\ndelta = 1e-6\n", noise=GIVEN)
    _, sites, recipients = claims(file.sketch)
    assert recipients.event == Repeated(FixedSizeSampled(20, 4, Gaussian(1.5)), 20)
    assert sites.event == Repeated(Gaussian(1.5), 20)
    assert recipients.epsilon is not None
    assert recipients.epsilon.relation == "replace one"
    assert recipients.epsilon.accountant == "rdp"
    assert recipients.epsilon.why


def test_who_is_asked_counts_and_not_who_is_needed(tmp_path):
    """With over-selection a fast client is counted whenever it is asked."""
    more = FIXED + "[quorum]\nover_selection = 1.5\n[privacy]\ndelta = 1e-6\n"
    event = claims(run_file(tmp_path, more, noise=GIVEN).sketch)[2].event
    assert event == Repeated(FixedSizeSampled(20, 6, Gaussian(1.5)), 20)
    promised = more.replace("delta", "epsilon = 3.0\ndelta")
    found = figures(run_file(tmp_path, promised).sketch)
    assert 0.99 * 3.0 <= found["recipients"] <= 3.0


def test_what_is_released_so_far_grows_with_the_rounds_from_nothing(tmp_path):
    file = run_file(tmp_path, POISSON + "[privacy]\ndelta = 1e-6\n", noise=GIVEN)
    found = [figures(file.sketch, rounds)["recipients"] for rounds in (0, 1, 10, 20)]
    assert found[0] == 0
    assert sorted(found) == found
    assert found[-1] == figures(file.sketch)["recipients"]


def test_a_promise_that_the_noise_does_not_keep_is_refused(tmp_path):
    promise = "[privacy]\nepsilon = 1.0\ndelta = 1e-6\n"
    with pytest.raises(ConfigError, match=r"come to ε = .* promises 1") as caught:
        run_file(tmp_path, promise, noise="noise_multiplier = 0.3")
    assert "leave noise_multiplier out" in caught.value.hint
    run_file(tmp_path, promise, noise="noise_multiplier = 30.0")


def test_a_promise_that_no_noise_keeps_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        run_file(tmp_path, "[privacy]\nepsilon = 0.001\ndelta = 1e-9\n", rounds=1000)
    assert caught.value.hint


def test_noise_without_a_multiplier_needs_a_promise(tmp_path):
    with pytest.raises(ConfigError, match="noise_multiplier"):
        run_file(tmp_path, "[privacy]\ndelta = 1e-6\n")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"delta": 0.0}, "delta = 0"),
        ({"delta": 1.0}, "delta = 1"),
        ({"delta": 1e-5, "epsilon": 0.0}, "epsilon = 0"),
        ({"delta": 1e-5, "epsilon": math.nan}, "epsilon = nan"),
    ],
)
def test_what_is_no_promise_is_refused_with_a_hint(bad, says):
    with pytest.raises(ConfigError, match=says) as caught:
        Privacy(**bad)
    assert caught.value.hint


NOISED = Pipeline([Weight(by="uniform", denominator=4.0), Clip(0.5), GaussianNoise(1.0)])


def test_a_promise_without_noise_is_refused():
    with pytest.raises(ConfigError, match="no step of the pipeline adds noise"):
        hanse.simulate(binary(), federation(clients=4), rounds=1, privacy=Privacy(1e-5))


def test_a_promise_is_checked_in_python_too():
    settings = {"rounds": 3, "evaluation": Evaluation(release="simulation"), "pipeline": NOISED}
    data = federation(clients=4)
    with pytest.raises(ConfigError, match="and \\[privacy\\] promises 2"):
        hanse.simulate(binary(), data, privacy=Privacy(1e-6, epsilon=2.0), **settings)
    kept = hanse.simulate(binary(), data, privacy=Privacy(1e-6, epsilon=20.0), **settings)
    assert kept.model_digest == hanse.simulate(binary(), data, **settings).model_digest


def test_the_bits_of_an_adaptive_clip_are_in_what_is_computed():
    """One Gaussian of the multiplier that was asked for: the vector's own is larger."""
    steps = [Weight(by="uniform", denominator=4.0), AdaptiveClip(cohort=100), GaussianNoise(1.0)]
    settings = {"rounds": 3, "evaluation": Evaluation(release="simulation")}
    run = hanse.Run(
        binary(), hanse.sim.population.Given(federation(clients=4)), hanse.fedavg(),
        hanse.LocalTraining(), Pipeline(steps), privacy=Privacy(1e-6), **settings,
    )  # fmt: skip
    plain = replace(run, pipeline=NOISED)
    assert claims(run.spec) == claims(plain.spec)


def test_an_explanation_says_what_it_comes_to_and_toward_whom(tmp_path):
    file = run_file(tmp_path, POISSON + "[privacy]\nepsilon = 3.0\ndelta = 1e-6\n")
    section = next(s for s in explain(file) if s.title.startswith("Privacy of one client"))
    assert section.title == "Privacy of one client, after all 20 rounds at δ = 1e-06"
    coordinator, sites, recipients = section.rows
    assert coordinator[1:] == ("∞", "no bound: it sees each update before the noise")
    assert float(recipients[1]) <= 3.0 < float(sites[1])
    assert "add or remove one client" in recipients[2]
    assert any("seed" in note for note in section.notes)


def test_without_a_delta_an_explanation_says_how_to_get_a_figure(tmp_path):
    section = next(
        s for s in explain(run_file(tmp_path, noise=GIVEN)) if s.title.startswith("Privacy")
    )
    assert [row[1] for row in section.rows] == ["∞", "–", "–"]
    assert "[privacy] delta = 1e-6" in section.notes[0]


LOCAL = '[privacy]\nepsilon = 5.0\ndelta = 1e-6\nagainst = "coordinator"\n'


@pytest.mark.parametrize("sampling", ["", POISSON, FIXED], ids=["all", "poisson", "fixed"])
def test_noise_of_a_client_promises_the_same_to_everybody(tmp_path, sampling):
    path = tmp_path / "run.toml"
    names = [f"site-{number}" for number in range(20)]
    text = RUN.format(sites=names, rounds=20, more=sampling + LOCAL, noise="")
    path.write_text(text.replace("gaussian_noise", "local_gaussian_noise"))
    file = parse(path)
    found = figures(file.sketch)
    assert len(set(found.values())) == 1
    assert 0.99 * 5.0 <= found["coordinator"] <= 5.0
    section = next(s for s in explain(file) if s.title.startswith("Privacy"))
    assert all("it sends noise alone" in row[2] for row in section.rows)


def test_noise_at_the_coordinator_cannot_promise_anything_against_it(tmp_path):
    for noise in ("", GIVEN):
        with pytest.raises(ConfigError, match="gives no privacy against it") as caught:
            run_file(tmp_path, LOCAL, noise=noise)
        assert "local_gaussian_noise" in caught.value.hint


def test_a_run_without_noise_promises_nothing():
    run = hanse.Run(
        binary(), hanse.sim.population.Given(federation(clients=4)), hanse.fedavg(),
        hanse.LocalTraining(), Pipeline([Clip(1.0)]), rounds=1,
    )  # fmt: skip
    assert claims(run.spec) == ()


def test_a_simulated_run_of_each_sampler_releases_what_it_says():
    for sampler in (FixedSize(2), Poisson(0.5)):
        result = hanse.simulate(
            binary(),
            federation(clients=4),
            rounds=2,
            pipeline=NOISED,
            strategy=hanse.fedavg(sampler=sampler),
            evaluation=Evaluation(release="none"),
            privacy=Privacy(1e-5),
        )
        assert len(result.history) == 2
