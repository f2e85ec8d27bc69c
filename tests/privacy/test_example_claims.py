"""What noise in training promises of one example: computed from the run file, before it runs."""

import math

import pytest

from hanse import ConfigError, PipelineError
from hanse.config.parse import parse
from hanse.core.dp_events import Gaussian, PoissonSampled, Repeated
from hanse.privacy.accounting import epsilon
from hanse.privacy.claims import OBSERVERS, claims
from hanse.report.explain import explain

RUN = """
task = "app:task"
data = "app:data"
sites = ["basel", "genf"]
rounds = {rounds}
{top}
[local]
batch_size = 32
{local}
[local.privacy]
{private}
[evaluation]
release = "{release}"
[[pipeline]]
step = "weight"
by = "{by}"
{pipeline}
"""
PROMISE = '[privacy]\nunit = "example"\ndelta = 1e-5\nagainst = "coordinator"\n'
GIVEN = "clip = 1.0\nsampling_rate = 0.05\nnoise_multiplier = 1.1\n"
CENTRAL = """denominator = 2.0
[[pipeline]]
step = "clip"
norm = 0.5
[[pipeline]]
step = "gaussian_noise"
noise_multiplier = 2.0
"""


def run_file(tmp_path, private=GIVEN, top="", **more):
    settings = {"rounds": 10, "local": "steps = 20", "release": "none", "by": "uniform"}
    path = tmp_path / "run.toml"
    text = {"private": private, "top": top, "pipeline": "", **settings, **more}
    path.write_text(RUN.format(**text))
    return parse(path)


def told(file) -> str:
    """All that is said of a run file, in one line."""
    sections = explain(file)
    cells = [cell for s in sections for cell in (s.title, *sum(s.rows, ()), *s.notes)]
    return " ".join(cells)


def test_everybody_is_told_the_same_of_an_example_all_steps_of_all_rounds(tmp_path):
    found = claims(run_file(tmp_path, top=PROMISE).sketch)
    event = Repeated(PoissonSampled(0.05, Gaussian(1.1)), 200)
    wanted = epsilon(noise_multiplier=1.1, sampling_rate=0.05, steps=200, delta=1e-5)
    assert [claim.observer for claim in found] == list(OBSERVERS)
    for claim in found:
        assert (claim.unit, claim.event) == ("example", event)
        assert claim.epsilon.epsilon == wanted
        assert claim.epsilon.relation == "add or remove one"


def test_the_claim_counts_the_rounds_that_it_is_asked_for(tmp_path):
    assert claims(run_file(tmp_path).sketch, 3)[0].event.count == 60


def test_all_rows_in_each_step_are_no_sample(tmp_path):
    """200 releases of multiplier 1.1 are one of 1.1/√200, of which there is a formula."""
    file = run_file(tmp_path, GIVEN.replace("0.05", "1.0"), PROMISE)
    assert claims(file.sketch)[0].event == Repeated(Gaussian(1.1), 200)
    assert claims(file.sketch)[0].epsilon.accountant == "exact"


def test_cohorts_that_are_drawn_amplify_nothing(tmp_path):
    """The steps of a round are of one draw, so that they are not sampled by themselves."""
    drawn = '[sampling]\nname = "poisson"\nrate = 0.1\n'
    one, two = (claims(run_file(tmp_path, top=PROMISE + more).sketch) for more in ("", drawn))
    assert one == two


def test_without_a_delta_there_is_an_event_and_no_figure(tmp_path):
    file = run_file(tmp_path)
    assert all(claim.epsilon is None for claim in claims(file.sketch))
    assert "ε is computed once a δ is given" in told(file)


def test_a_client_and_its_examples_have_figures_of_their_own(tmp_path):
    file = run_file(tmp_path, top="[privacy]\ndelta = 1e-5\n", pipeline=CENTRAL)
    found = {(claim.unit, claim.observer): claim.epsilon for claim in claims(file.sketch)}
    assert found["client", "coordinator"] is None
    assert found["example", "coordinator"].epsilon < math.inf
    titles = [section.title for section in explain(file)]
    assert "Privacy of one client, after all 10 rounds at δ = 1e-05" in titles
    assert "Privacy of one example, after all 10 rounds at δ = 1e-05" in titles


def test_a_promise_finds_the_least_noise_that_keeps_it(tmp_path):
    without = "clip = 1.0\nsampling_rate = 0.05\n"
    file = run_file(tmp_path, without, PROMISE + "epsilon = 3.0\n")
    assert 0.99 * 3.0 <= claims(file.sketch)[0].epsilon.epsilon <= 3.0


def test_a_promise_for_examples_leaves_the_pipeline_as_it_is(tmp_path):
    """Noise on the total is for clients: it is not found from a promise for examples."""
    pipeline = CENTRAL.replace("noise_multiplier = 2.0\n", "")
    with pytest.raises(ConfigError, match="noise_multiplier"):
        run_file(tmp_path, GIVEN, PROMISE + "epsilon = 30.0\n", pipeline=pipeline)


def test_noise_that_does_not_keep_the_promise_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"multiplier 1.1 come to ε = 3.9\d+ at δ = 1e-05"):
        run_file(tmp_path, top=PROMISE + "epsilon = 3.0\n")
    run_file(tmp_path, top=PROMISE + "epsilon = 4.0\n")


def test_the_coordinator_is_not_excepted(tmp_path):
    for against in OBSERVERS:
        top = PROMISE.replace("coordinator", against) + "epsilon = 4.0\n"
        run_file(tmp_path, top=top)


@pytest.mark.parametrize(
    ("settings", "error", "text", "hint"),
    [
        ({"private": "clip = 1.0"}, ConfigError, 'missing key "noise_multiplier"', "add"),
        ({"private": GIVEN.replace("0.05", "0.0")}, ConfigError, "no probability", "batch_size"),
        ({"private": GIVEN + "microbatches = 4"}, ConfigError, "microbatches", "keys"),
        ({"private": GIVEN + 'unit = "client"'}, ConfigError, "unit", "example"),
        ({"private": GIVEN.replace("1.0", '"a"')}, ConfigError, "clip", "clip"),
        ({"local": ""}, ConfigError, r"needs \[local\] steps", "steps ="),
        ({"local": "steps = 9\namp = true"}, ConfigError, "half precision", "amp"),
        ({"by": "examples"}, PipelineError, "hides each of them", "uniform"),
        ({"release": "per-site"}, ConfigError, "exact metrics leave", "none"),
        ({"release": "sum"}, ConfigError, "exact metrics leave", "none"),
        ({"top": "[privacy]\ndelta = 1e-5\n"}, ConfigError, "hides one example only", "example"),
        (
            {"top": '[privacy]\ndelta = 1e-5\nunit = "site"\nepsilon = 3.0\n'},
            ConfigError,
            'unit = "site", all data of a client',
            'unit = "example"',
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_run_file_that_would_hide_nothing_is_refused(tmp_path, settings, error, text, hint):
    with pytest.raises(error, match=text) as caught:
        run_file(tmp_path, **settings)
    assert hint in caught.value.hint


def test_an_override_reaches_the_settings_of_private_training(tmp_path):
    run_file(tmp_path)
    found = parse(tmp_path / "run.toml", ["local.privacy.clip=0.25"])
    assert found.local.privacy.clip == 0.25


def test_explain_says_what_is_drawn_what_leaves_and_what_is_not_hidden(tmp_path):
    said = told(run_file(tmp_path, top=PROMISE))
    for text in (
        "each row with probability 0.05, clipped to 1, noise of multiplier 1.1, divided by 32",
        "each of 20 steps a round the noise, of examples drawn with probability 0.05; neighbours "
        "add or remove one example; by PLD",
        "one row of one client's training data",
        "each one, trained under noise",
        "a site's examples, steps, examples seen, training loss no: stays at the site",
        "hides single rows against everybody",
        "A simulation draws its noise from the seed",
    ):
        assert text in said
    assert "There is no noise" not in said
    assert "cohort drawn" not in said
