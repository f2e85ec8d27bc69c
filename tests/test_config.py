"""Run files: what they mean, and one clear line for what cannot be meant."""

import subprocess
import sys

import pytest

from hanse.config.parse import load, parse
from hanse.config.schema import keys_of, words
from hanse.core.samplers import All, FixedSize, Poisson
from hanse.core.spec import Evaluation, Quorum
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.data.partition import ByColumn, Iid
from hanse.data.skew import Dirichlet
from hanse.errors import ConfigError, DataError, HanseError, PipelineError, TaskError
from hanse.names import PARTITIONERS, REDUCERS, SAMPLERS, STEPS, STRATEGIES
from hanse.privacy import Clip, GaussianNoise
from hanse.sim.faults import Faults
from hanse.sim.population import Partitioned, Sites
from hanse.strategies import fedavg, fedprox, fedsgd
from hanse.strategies.fedsgd import ONE_GRADIENT

FULL = """\
task = "app:task"
data = "app:data"
sites = ["cleveland", "hungary", "va-long-beach", "switzerland"]
rounds = 40
seed = 7

[sources]
heart = "data/heart.csv"

[strategy]
name = "fedprox"
mu = 0.1

[local]
optimizer = "sgd"
lr = 0.05
epochs = 2
batch_size = 32

[[pipeline]]
step = "weight"
by = "examples"
cap = 300

[[pipeline]]
step = "clip"
norm = 1.0

[evaluation]
every = 5
release = "per-site"
"""
LEAST = 'task = "app:task"\ndata = "app:data"\nsites = ["a", "b"]\nrounds = 3\n'
SPLIT = 'task = "app:task"\ndata = "app:data"\nrounds = 3\n'


@pytest.fixture
def read(tmp_path):
    """Write a run file and parse it."""

    def parsed(text, *overrides):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return parse(path, overrides)

    return parsed


@pytest.fixture
def refusal(read):
    """Return the error of a run file, which is one line and has a hint."""

    def refused(text, *overrides):
        with pytest.raises(HanseError) as raised:
            read(text, *overrides)
        error = raised.value
        assert "\n" not in str(error)
        assert error.hint
        assert "\n" not in error.hint
        return error

    return refused


def test_a_run_file_becomes_objects(read, tmp_path):
    found = read(FULL)
    assert found.sites == ("cleveland", "hungary", "va-long-beach", "switzerland")
    assert (found.rounds, found.seed, found.clients) == (40, 7, 4)
    assert found.sources == {"heart": tmp_path / "data/heart.csv"}
    assert found.strategy == fedprox(mu=0.1)
    assert found.local == LocalTraining(optimizer="sgd", lr=0.05, epochs=2, batch_size=32)
    assert found.pipeline.steps == (Weight(by="examples", cap=300), Clip(norm=1.0))
    assert found.evaluation == Evaluation(every=5, release="per-site")


def test_what_a_run_file_leaves_out_has_a_default(read):
    found = read(LEAST)
    assert (found.seed, found.sources, found.central, found.inputs) == (0, {}, None, None)
    assert found.strategy == fedavg()
    assert found.local == LocalTraining()
    assert found.pipeline.steps == ()
    assert (found.evaluation, found.quorum, found.faults) == (
        *(Evaluation(), Quorum()),
        Faults(),
    )


@pytest.mark.parametrize(
    ("file", "name"), [("run.toml", "heart-study"), ("quick.toml", "quick"), ("a b!.toml", "a-b")]
)
def test_a_run_is_named_after_its_file_or_folder(tmp_path, file, name):
    folder = tmp_path / "heart-study"
    folder.mkdir()
    (folder / file).write_text(LEAST)
    assert parse(folder / file).name == name


def test_a_run_may_be_named(read, refusal):
    assert read('name = "mine"\n' + LEAST).name == "mine"
    assert str(refusal('name = "a/b"\n' + LEAST)) == 'name = "a/b" cannot name a folder'


@pytest.mark.parametrize(
    ("table", "sampler"),
    [
        ('name = "all"', All()),
        ('name = "fixed"\nsize = 2', FixedSize(2)),
        ('name = "poisson"\nrate = 0.5', Poisson(0.5)),
    ],
)
def test_sampling_names_a_sampler(read, table, sampler):
    assert read(f"{LEAST}[sampling]\n{table}").strategy == fedavg(sampler=sampler)


@pytest.mark.parametrize(
    ("table", "partitioner"),
    [
        ('partition = "iid"', Iid()),
        ('partition = "dirichlet"\nalpha = 0.5', Dirichlet(0.5)),
        ('partition = "column"\ncolumn = "site"', ByColumn("site")),
    ],
)
def test_a_population_splits_one_data_set(read, table, partitioner):
    found = read(f"{SPLIT}[population]\nclients = 9\n{table}")
    assert (found.split.clients, found.split.partitioner) == (9, partitioner)
    assert (found.clients, found.sites) == (9, ())


def test_quorum_and_faults_are_read(read):
    found = read(f'{LEAST}[quorum]\nminimum = 2\n[faults]\ndropout = 0.5\nkind = "inf"')
    assert found.quorum == Quorum(minimum=2)
    assert found.faults == Faults(dropout=0.5, kind="inf")


def test_a_batch_may_be_all_of_the_data(read):
    assert read(f'{LEAST}[local]\nbatch_size = "all"').local.batch_size is None


def test_lists_become_tuples(read):
    assert read(f"{LEAST}[local]\nbetas = [0.8, 0.9]").local.betas == (0.8, 0.9)


def test_fedsgd_brings_its_local_training(read, refusal):
    text = LEAST + '[strategy]\nname = "fedsgd"\nlr = 0.5\n'
    assert read(text).local == ONE_GRADIENT
    assert read(text).strategy == fedsgd(lr=0.5)
    assert read(text + '[local]\nlr = 1.0\nbatch_size = "all"').local == ONE_GRADIENT
    error = refusal(text + "[local]\nepochs = 2")
    assert str(error) == "epochs = 2 in [local]: fedsgd fixes local training, epochs to 1"
    assert "[local]" in error.hint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 0.05", "lrr = 0.05", 'unknown key "lrr" in [local]; did you mean "lr"?'),
        ("rounds = 40", "round = 40", 'unknown key "round" in the run file; did you mean "rounds"'),
        ("mu = 0.1", "muu = 2", 'unknown key "muu" in [strategy]; did you mean "mu"?'),
        ("cap = 300", "kap = 300", 'unknown key "kap" in pipeline step "weight"; did you mean'),
        ("every = 5", "evry = 5", 'unknown key "evry" in [evaluation]; did you mean "every"?'),
        (
            "mu = 0.1",
            "mu = 0.1\nseed = 3",
            'unknown key "seed" in [strategy]: it belongs at the to',
        ),
        ("mu = 0.1", "", 'missing key "mu" in [strategy]'),
        ("rounds = 40", "", 'missing key "rounds" in the run file'),
        ('name = "fedprox"', "", 'missing key "name" in [strategy]'),
        ('step = "clip"', "", 'missing key "step" in pipeline step 2'),
        ("norm = 1.0", "", 'missing key "norm" in pipeline step "clip"'),
        ("lr = 0.05", 'lr = "fast"', 'lr = "fast" in [local] is not a number'),
        ("lr = 0.05", "lr = true", "lr = true in [local] is not a number"),
        ("epochs = 2", "epochs = 2.5", "epochs = 2.5 in [local] is not a whole number"),
        ("rounds = 40", 'rounds = "40"', 'rounds = "40" in the run file is not a whole number'),
        ("rounds = 40", "rounds = 1979-05-27", 'rounds = "1979-05-27" in the run file is not a'),
        (
            '"sgd"',
            '"sdg"',
            'optimizer = "sdg" in [local] is not "sgd", "adam", "adamw" or "task"; d',
        ),
        (
            '"per-site"',
            '"persite"',
            'release = "persite" in [evaluation] is not "per-site", "sum",',
        ),
        ('["cleveland"', '[3, "cleveland"', "sites = [3, "),
        ('"data/heart.csv"', "3", 'sources = {"heart": 3} in the run file is not a table'),
        ('"fedprox"', "3", "name = 3 in [strategy] is not text in quotes"),
        ('task = "app:task"', 'task = "app"', 'task = "app" does not name an object'),
        ('task = "app:task"', "task = 7", "task = 7 in the run file is not text in quotes"),
        ("rounds = 40", "rounds = 0", "rounds = 0 trains nothing"),
        ("rounds = 40", "rounds = 2000000", "rounds = 2000000 is above 1000000"),
        ("seed = 7", "seed = -1", "seed = -1 is below 0"),
        ("epochs = 2", "epochs = 0", "local epochs = 0 trains nothing"),
        ("epochs = 2", "epochs = 99999999999999999", "99999999999999999 is beyond 2^53"),
        ("lr = 0.05", "lr = nan", "local lr = nan is not a number of 0 or more"),
        ('"va-long-beach"', '"VA Long Beach"', "'VA Long Beach' is not a site id"),
        ('"va-long-beach"', '"hungary"', 'site "hungary" is listed twice'),
        ("every = 5", 'every = 5\ncentral = "holdout"', 'central = "holdout" does not name an ob'),
    ],
)
def test_what_cannot_be_meant_is_answered_in_one_line(refusal, old, new, message):
    assert old in FULL
    error = refusal(FULL.replace(old, new, 1))
    assert isinstance(error, ConfigError)
    assert message in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SPLIT, "the run file names no sites"),
        (SPLIT + "sites = []", "the run file names no sites"),
        (LEAST + '[population]\nclients = 2\npartition = "iid"', "sites and [population] exclude"),
        (SPLIT + '[population]\npartition = "iid"', 'missing key "clients" in [population]'),
        (SPLIT + "[population]\nclients = 2", 'missing key "partition" in [population]'),
        (SPLIT + '[population]\nclients = 0\npartition = "iid"', "clients = 0 is below 1"),
        (SPLIT + '[population]\nclients = 2\npartition = "dirichlet"', 'missing key "alpha" in'),
        (LEAST + '[sampling]\nname = "fixed"\nsize = 3', "a cohort of 3 is larger than the popul"),
        (LEAST + '[sampling]\nname = "fixed"', 'missing key "size" in [sampling]'),
        (LEAST + "[quorum]\nminimum = 3", "minimum = 3 reports, and a cohort has at most 2"),
        (LEAST + "[lokal]\nlr = 1", 'unknown key "lokal" in the run file; did you mean "local"?'),
        (LEAST + "local = 3", "local = 3 in the run file is not a table"),
        (LEAST + "[faults]\ndropout = 2.0", "dropout = 2.0 is no probability"),
    ],
)
def test_a_run_must_be_possible_as_a_whole(refusal, text, message):
    assert message in str(refusal(text))


def test_a_pipeline_in_one_bracket_is_told_to_use_two(refusal):
    error = refusal(LEAST + '[pipeline]\nstep = "clip"\nnorm = 1.0')
    assert "is not a list" in str(error)
    assert "[[pipeline]]" in error.hint


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ('step = "clipp"\nnorm = 1', 'unknown step "clipp"; did you mean "clip"?'),
        ('step = "gaussian_noise"\nnoise_multiplier = 1', "gives no privacy"),
        (
            'step = "weight"\n[[pipeline]]\nstep = "clip"\nnorm = 1\n'
            '[[pipeline]]\nstep = "gaussian_noise"\nnoise_multiplier = 1',
            "the weights before it have no cap",
        ),
        (
            'step = "weight"\ncap = 9\n[[pipeline]]\nstep = "clip"\nnorm = 1\n'
            '[[pipeline]]\nstep = "gaussian_noise"\nnoise_multiplier = 1',
            "divided by the weights that were observed",
        ),
        ('step = "sum"\n[[pipeline]]\nstep = "sum"', "a pipeline has one reducer"),
        (
            'step = "weight"\ncap = 9\ndenominator = 2.0\n[[pipeline]]\nstep = "clip"\nnorm = 1\n'
            + '[[pipeline]]\nstep = "gaussian_noise"\nnoise_multiplier = 1\n' * 2,
            "a pipeline has one noise",
        ),
        ('step = "clip"\nnorm = 1\n[[pipeline]]\nstep = "weight"', "stands after"),
        ('step = "clip"\nnorm = 0', "is no bound"),
    ],
)
def test_an_unsound_pipeline_is_refused_before_anything_runs(refusal, steps, message):
    error = refusal(f"{LEAST}[[pipeline]]\n{steps}")
    assert isinstance(error, PipelineError)
    assert message in str(error)


def test_metrics_may_not_leave_beside_noise(read, refusal):
    private = LEAST + (
        '[[pipeline]]\nstep = "weight"\ncap = 9\ndenominator = 2.0\n'
        '[[pipeline]]\nstep = "clip"\nnorm = 1\n'
        '[[pipeline]]\nstep = "gaussian_noise"\nnoise_multiplier = 1\n'
    )
    assert "lets exact metrics leave beside a noised model" in str(refusal(private))
    found = read(private + '[evaluation]\nrelease = "none"')
    assert found.pipeline.steps[-1] == GaussianNoise(1.0)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("rounds = \n", "line 1, column 10: invalid value"),
        ("a = 1\nb = [1, 2\n", "end of document: unclosed array"),
        ("a = 1\na = 2\n", "line 2, column 6: cannot overwrite a value"),
    ],
)
def test_a_syntax_error_is_named_with_file_line_and_column(refusal, tmp_path, text, place):
    assert str(refusal(text)) == f"{tmp_path / 'run.toml'}, {place}"


def test_a_run_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"task = \xff\n")
    with pytest.raises(ConfigError, match="is not UTF-8 text at byte 7"):
        parse(path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ConfigError, match="a run file has at most 1048576"):
        parse(path)


def test_a_run_file_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    (tmp_path / "runs.toml").write_text(LEAST)
    with pytest.raises(ConfigError, match="there is no run file") as raised:
        parse(tmp_path / "run.toml")
    assert "has runs.toml" in raised.value.hint
    with pytest.raises(ConfigError, match="is a folder, not a run file") as raised:
        parse(tmp_path)
    assert "has runs.toml" in raised.value.hint
    with pytest.raises(ConfigError) as raised:
        parse(tmp_path / "nowhere" / "run.toml")
    assert "hanse new" in raised.value.hint


@pytest.mark.parametrize(
    ("assignment", "read_back", "value"),
    [
        ("rounds=3", lambda f: f.rounds, 3),
        ("local.lr=0.1", lambda f: f.local.lr, 0.1),
        ("local.optimizer=adam", lambda f: f.local.optimizer, "adam"),
        ('local.optimizer="adam"', lambda f: f.local.optimizer, "adam"),
        ("pipeline.clip.norm=2", lambda f: f.pipeline.steps[1].norm, 2.0),
        ("pipeline.1.norm=3.5", lambda f: f.pipeline.steps[1].norm, 3.5),
        ('sites=["a", "b"]', lambda f: f.sites, ("a", "b")),
        ("faults.dropout=0.5", lambda f: f.faults.dropout, 0.5),
        (" local . lr = 0.2", lambda f: f.local.lr, 0.2),
        ("name=a=b", lambda f: f.name, None),
    ],
)
def test_a_value_can_be_overridden(read, refusal, assignment, read_back, value):
    if value is None:
        assert 'name = "a=b"' in str(refusal(FULL, assignment))
    else:
        assert read_back(read(FULL, assignment)) == value


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("local.lrr=0.1", 'unknown key "lrr" in [local]; did you mean "lr"?'),
        ("rounds", '--set rounds is not "key=value"'),
        (".lr=1", '--set .lr=1 is not "key=value"'),
        ("pipeline.clp.norm=1", 'the pipeline has no step "clp"; did you mean "clip"?'),
        ("pipeline.7.norm=1", 'the pipeline has no step "7"'),
        ("rounds.x=1", "rounds is not a table"),
        ("rounds.x.y=1", "rounds.x leads through a value that is not a table"),
        ("local.lr=fast", 'lr = "fast" in [local] is not a number'),
        ("local.lr=1\nrounds=2", 'lr = "1\\nrounds=2" in [local] is not a number'),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(refusal, assignment, message):
    with_newline = refusal(FULL, assignment)
    assert message in str(with_newline)


def test_a_step_that_stands_twice_is_overridden_by_its_number(read, refusal):
    text = LEAST + '[[pipeline]]\nstep = "clip"\nnorm = 1\n' * 2
    assert "the pipeline has 2 steps clip" in str(refusal(text, "pipeline.clip.norm=2"))
    assert [step.norm for step in read(text, "pipeline.1.norm=2").pipeline.steps] == [1, 2]


@pytest.mark.parametrize("step", [*STEPS.values()])
def test_a_step_is_written_as_it_is_read(read, step):
    values = {"norm": 2.0, "noise_multiplier": 0.5, "cap": 3.0, "honest": 1}
    chosen = {k: v for k, v in values.items() if k in keys_of(step).types}
    made = step(**chosen)
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in made.settings().items()]
    before = ""
    if made.kind in ("noise", "linear"):
        before = (
            '[[pipeline]]\nstep = "weight"\ncap = 2\ndenominator = 1.0\n'
            '[[pipeline]]\nstep = "clip"\nnorm = 1\n'
        )
    if made.name == "skellam_noise":
        before += '[[pipeline]]\nstep = "scaled_round"\n'
    tail = '\n[evaluation]\nrelease = "none"'
    found = read(f"{LEAST}{before}[[pipeline]]\n" + "\n".join(lines) + tail)
    assert found.pipeline.steps[-1] == made


@pytest.mark.parametrize("table", [STEPS, REDUCERS, STRATEGIES, SAMPLERS, PARTITIONERS])
def test_every_setting_that_a_run_file_can_name_has_a_type_in_words(table):
    for make in table.values():
        for name, kind in keys_of(make).types.items():
            assert name == "sampler" or words(kind) != "a value of its kind", make


APP = """\
class Task:
    metrics = ()
    def describe(self, seed): ...
    def kernel(self): ...
    def check(self, local, work): ...
task = Task()
number = 3
def data(site): return None, None
def holdout(): return "held out"
def broken(): raise ValueError("no holdout")
"""


@pytest.fixture
def loaded(tmp_path):
    """Write a run file and app.py, and load the run."""
    (tmp_path / "app.py").write_text(APP)

    def run(text, *overrides):
        (tmp_path / "run.toml").write_text(text)
        return load(tmp_path / "run.toml", overrides)

    yield run
    sys.modules.pop("app", None)


def test_a_loaded_run_has_the_users_objects(loaded, tmp_path):
    run = loaded(FULL, "seed=9")
    assert type(run.task).__name__ == "Task"
    assert isinstance(run.population, Sites)
    assert run.population.seed == run.seed == 9
    assert (run.name, run.folder) == (tmp_path.name, tmp_path)
    assert run.references == {
        "task": "app:task",
        "data": "app:data",
        "run_file": str(tmp_path / "run.toml"),
        "overrides": '["seed=9"]',
    }


def test_a_loaded_population_is_split(loaded):
    run = loaded(SPLIT + '[population]\nclients = 5\npartition = "iid"')
    assert isinstance(run.population, Partitioned)
    assert (run.population.clients, run.population.partitioner) == (5, Iid())


def test_central_evaluation_calls_its_function(loaded):
    assert loaded(LEAST + '[evaluation]\ncentral = "app:holdout"').central == "held out"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("app:task", "app:tasc", 'app has no "tasc"; did you mean "task"?'),
        ("app:task", "app:number", 'task = "app:number" is the int, not a task'),
        ("app:task", "app:holdout", 'task = "app:holdout" is the function holdout, not a task'),
        ("app:data", "app:number", 'data = "app:number" is the int, not a function'),
        ("app:task", "ap:task", "there is no module ap"),
    ],
)
def test_references_are_checked_when_they_are_loaded(loaded, old, new, message):
    with pytest.raises(ConfigError) as raised:
        loaded(LEAST.replace(old, new))
    assert message in str(raised.value)
    assert raised.value.hint


def test_a_holdout_that_raises_is_the_users_error(loaded):
    with pytest.raises(TaskError, match="no holdout"):
        loaded(LEAST + '[evaluation]\ncentral = "app:broken"')


def test_a_source_that_is_not_there_is_the_data_owners_error(loaded, tmp_path):
    run = loaded(FULL)
    (tmp_path / "app.py").write_text("")
    from hanse.data.site import Site

    with pytest.raises(DataError, match=r"source 'heart' is .*heart.csv, which does not exist"):
        Site("hungary", run.population.sources).source("heart")


def test_parsing_imports_neither_torch_nor_the_users_code(tmp_path):
    (tmp_path / "app.py").write_text("raise SystemExit('imported')")
    (tmp_path / "run.toml").write_text(FULL)
    script = (
        "import sys; from hanse.config.parse import parse; parse(sys.argv[1]).sketch.bound;"
        "assert not {'torch', 'app'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run.toml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
