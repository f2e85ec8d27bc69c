"""What explain says of a run file: the run in words, then what its spec promises."""

from dataclasses import replace

import pytest

from hanse.config.parse import parse
from hanse.core.layout import Layout
from hanse.report.explain import explain
from hanse.report.promises import promises

HEAD = 'task = "app:task"\ndata = "app:data"\nsites = ["a", "b", "c"]\nrounds = 9\nseed = 1\n'
WEIGHT = '[[pipeline]]\nstep = "weight"\ncap = 300\n'


@pytest.fixture
def explained(tmp_path):
    """Return a run file and its explanation."""

    def sections(text):
        path = tmp_path / "run.toml"
        path.write_text(HEAD + text)
        file = parse(path)
        return file, explain(file)

    return sections


def rows(section):
    return {row[0]: row[1:] for row in section.rows}


def test_a_run_is_told_before_what_its_spec_promises(explained):
    file, sections = explained(WEIGHT)
    assert sections[0].title == f"Run {file.name}"
    assert sections[1:] == promises(file.sketch, known=False)


def test_a_model_that_is_known_is_told_with_exact_sizes(explained):
    layout = Layout.build("float64", [("w", (3,), "trainable"), ("fixed", (20,), "frozen")])
    file, _ = explained(WEIGHT)
    bound = replace(file.sketch, layout=layout)
    run, *others = explain(file, bound)
    assert rows(run)["model"] == ("3 trainable parameters, float64",)
    assert tuple(others) == promises(bound)


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("", "strategy", "fedavg: server lr 1"),
        (
            'engine = "auto"',
            "engine",
            "auto: simulated clients train one by one or many at once, as is faster",
        ),
        ('[strategy]\nname = "fedprox"\nmu = 0.1', "strategy", "fedprox: mu 0.1, server lr 1"),
        ("", "clients", "3 sites: a, b, c"),
        ("", "rounds", "9; each asks all 3 clients"),
        ('[sampling]\nname = "fixed"\nsize = 2', "rounds", "2 of 3 clients, drawn without repl"),
        ('[sampling]\nname = "poisson"\nrate = 0.5', "rounds", "each client with probability 0.5"),
        (
            '[local]\nbatch_size = "all"\nsteps = 3',
            "a client trains",
            "sgd, lr 0.1; 3 steps of all its data at once",
        ),
        ('[local]\noptimizer = "task"\nepochs = 2', "a client trains", "task; 2 epochs of batches"),
        ("[evaluation]\nevery = 0", "evaluation", "none at the sites"),
        ('[evaluation]\ncentral = "app:holdout"', "evaluation", "central on app:holdout"),
        ("[faults]\ndropout = 0.5", "faults, on purpose", "dropout 0.5"),
    ],
)
def test_the_run_is_told_in_words(explained, text, key, said):
    _, (run, *_) = explained(text)
    assert said in rows(run)[key][0]


def test_a_split_population_is_told(tmp_path):
    path = tmp_path / "run.toml"
    head = HEAD.replace('sites = ["a", "b", "c"]\n', "")
    path.write_text(head + '[population]\nclients = 5000\npartition = "iid"')
    section, *_ = explain(parse(path))
    assert rows(section)["clients"] == ("5,000 simulated, one data set split by iid",)


def test_a_population_that_nobody_lists_is_told(tmp_path):
    (tmp_path / "run.toml").write_text(
        'task = "app:task"\ndata = "app:data"\nrounds = 9\nengine = "batched"\n'
        '[population]\nclients = 2000000\npartition = "own"\n[sampling]\nname = "fixed"\nsize = 9\n'
    )
    told = rows(explain(parse(tmp_path / "run.toml"))[0])
    assert told["clients"] == ("2,000,000 simulated, each with data of its own",)
    assert told["engine"][0].startswith("batched: ")
