"""What explain says follows from the facts, and never promises more than they do."""

import pytest

from hanse.config import parse
from hanse.core.layout import Layout
from hanse.report.explain import explain, size_of

HEAD = 'task = "app:task"\ndata = "app:data"\nsites = ["a", "b", "c"]\nrounds = 9\nseed = 1\n'
WEIGHT = '[[pipeline]]\nstep = "weight"\ncap = 300\n'
PUBLIC = '[[pipeline]]\nstep = "weight"\ncap = 300\ndenominator = 2.0\n'
CLIP = '[[pipeline]]\nstep = "clip"\nnorm = 0.5\n'
NOISE = '[[pipeline]]\nstep = "gaussian_noise"\nnoise_multiplier = 1.2\n'


@pytest.fixture
def explained(tmp_path):
    """Return title → section of a run file's explanation."""

    def sections(text, change=None):
        path = tmp_path / "run.toml"
        path.write_text(HEAD + text)
        file = parse(path)
        return {s.title: s for s in explain(file, change and change(file.sketch))}

    return sections


def rows(section):
    return {row[0]: row[1:] for row in section.rows}


def sights(sections):
    return rows(sections["Who sees what, once these are real sites"])


def test_steps_stand_in_the_order_of_application_with_what_holds_after_them(explained):
    section = explained(WEIGHT + CLIP)["Pipeline, in the order in which it is applied"]
    assert [(name, facts) for name, _, facts in section.rows] == [
        ("clip (norm = 0.5)", "L2 norm ≤ 0.5; each |coordinate| ≤ 0.5"),
        (
            "weight (by = examples, cap = 300, denominator = observed)",
            "weight ≤ 1; the total is divided by the sum of the weights counted",
        ),
        ("sum", "as before"),
    ]
    purpose = section.rows[0][1]
    assert purpose.startswith("Scale an update")
    assert "0.5" in purpose  # the setting stands where the documentation names it
    assert "`" not in purpose


def test_a_weight_without_a_cap_is_called_so(explained):
    section = explained('[[pipeline]]\nstep = "weight"\n')[
        "Pipeline, in the order in which it is applied"
    ]
    assert "weight ≤ 1.04858e+06, which is no cap" in section.rows[0][2]


def test_the_grid_is_that_of_the_run(explained):
    grid = rows(explained(WEIGHT + CLIP)["Exact sums"])
    assert grid["limit"] == ("|coordinate| ≤ 0.5; a share beyond it is refused",)
    assert grid["largest cohort"][0].startswith("3:")
    assert "2^-51" in grid["grid"][0]


def test_plain_sums_show_the_coordinator_each_update_and_its_counts(explained):
    seen = sights(explained(WEIGHT + CLIP))
    assert seen["a site's update"] == (
        "each one, clipped to norm 0.5, times its weight",
        *["only inside the model"] * 2,
    )
    assert seen["a site's weight, examples, steps, examples seen, training loss"][0] == "each one"
    assert seen["a site's test results"][0] == "each site's counts, every round"
    assert seen["a site's data"] == ("no", "no", "no")


def test_an_update_without_a_bound_is_seen_as_it_is(explained):
    assert sights(explained(""))["a site's update"][0].startswith("each one, as it is")


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("sum", "each site's counts, every round; it hands on their sum only"),
        ("none", "no: there are none"),
        ("simulation", "no: only this simulation has them"),
    ],
)
def test_the_release_of_evaluation_decides_who_sees_it(explained, release, said):
    seen = sights(explained(f'[evaluation]\nrelease = "{release}"'))
    assert seen["a site's test results"] == (said, "no", "no")


def test_central_noise_is_never_said_to_protect_against_the_coordinator(explained):
    sections = explained(PUBLIC + CLIP + NOISE + '[evaluation]\nrelease = "none"')
    seen = sights(sections)
    assert seen["a site's update"] == (
        "each one, clipped to norm 0.5, times its weight",
        *["only inside the model, under noise"] * 2,
    )
    assert seen["a site's examples, steps, examples seen, training loss"][0].startswith("no")
    (noise, _) = sections["Who sees what, once these are real sites"].notes
    assert "Noise multiplier 1.2" in noise
    assert "the coordinator sees updates before the noise" in noise
    assert "ε is not computed yet" in noise


def test_without_noise_the_model_is_not_called_harmless(explained):
    notes = " ".join(explained(WEIGHT)["Who sees what, once these are real sites"].notes)
    assert "There is no noise" in notes
    assert "turned back into data" in notes


def test_bytes_are_per_parameter_where_the_model_is_unknown(explained):
    sent = rows(explained(WEIGHT)["Bytes per client and round"])
    assert sent["up"] == ("4 B × parameters + 40 B (5 integers)",)
    assert sent["down"] == ("4 B × parameters: 4.0 MB per million",)
    assert "up, an evaluation" in sent
    assert "up, an evaluation" not in rows(
        explained("[evaluation]\nevery = 0")["Bytes per client and round"]
    )


def test_bytes_are_exact_where_it_is_known(explained):
    from dataclasses import replace

    layout = Layout.build("float64", [("w", (3,), "trainable"), ("fixed", (20,), "frozen")])
    sections = explained(WEIGHT, lambda spec: replace(spec, layout=layout))
    sent = rows(sections["Bytes per client and round"])
    assert sent["up"] == ("104 B, of which 5 integers",)  # 8 of 8 B, and 5 of 8 B
    assert sent["down"] == ("256 B",)  # (8 + 24) of 8 B
    assert rows(sections["Run " + next(iter(sections)).removeprefix("Run ")])["model"] == (
        "3 trainable parameters, float64",
    )


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("", "strategy", "fedavg: server lr 1"),
        ('[strategy]\nname = "fedprox"\nmu = 0.1', "strategy", "fedprox: mu 0.1, server lr 1"),
        ("", "clients", "3 sites: a, b, c"),
        ("", "rounds", "9; each asks all 3 clients"),
        ('[sampling]\nname = "fixed"\nsize = 2', "rounds", "2 of 3 clients, drawn without repl"),
        ('[sampling]\nname = "poisson"\nrate = 0.5', "rounds", "each client with probability 0.5"),
        (
            '[local]\nbatch_size = "all"\nsteps = 3',
            "a client trains",
            "of all its data at once, at",
        ),
        ('[local]\noptimizer = "task"\nepochs = 2', "a client trains", "task; 2 epochs of batches"),
        ("[evaluation]\nevery = 0", "evaluation", "none at the sites"),
        ('[evaluation]\ncentral = "app:holdout"', "evaluation", "central on app:holdout"),
        ("[faults]\ndropout = 0.5", "faults, on purpose", "dropout 0.5"),
    ],
)
def test_the_run_is_told_in_words(explained, text, key, said):
    section = next(iter(explained(text).values()))
    assert said in rows(section)[key][0]


def test_a_split_population_is_told(tmp_path):
    path = tmp_path / "run.toml"
    head = HEAD.replace('sites = ["a", "b", "c"]\n', "")
    path.write_text(head + '[population]\nclients = 5000\npartition = "iid"')
    section, *_ = explain(parse(path))
    assert rows(section)["clients"] == ("5,000 simulated, one data set split by iid",)


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4e6, "4.0 MB"), (2e12, "2,000.0 GB")],
)
def test_sizes_are_said_in_powers_of_a_thousand(count, said):
    assert size_of(count) == said
