"""What a run is: one canonical text whose hash changes with every setting that decides bits."""

import hashlib
import json
from dataclasses import fields, replace

import pytest

from hanse.config.parse import LARGEST_SEED
from hanse.core import canonical
from hanse.core.facts import Facts
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.reduce import Sum
from hanse.core.samplers import All, FixedSize, Poisson
from hanse.core.spec import NAMED_CLIENTS, Evaluation, Privacy, Quorum, RunSpec
from hanse.core.step import Scalar, Step
from hanse.core.weight import Weight
from hanse.core.work import LocalPrivacy, LocalTraining, Proximal
from hanse.data.partition import Iid, Quantity, Shards
from hanse.data.skew import Dirichlet
from hanse.errors import ConfigError, PipelineError
from hanse.privacy import AdaptiveClip, Clip, GaussianNoise, Rotate, ScaledRound, SkellamNoise
from hanse.sim.faults import Faults
from hanse.sim.population import Partitioned
from hanse.strategies import fedavg

LAYOUT = Layout.build("float32", [("weight", (27, 1), "trainable"), ("bias", (1,), "trainable")])
BUFFERED = Layout.build(
    "float32", [("weight", (3,), "trainable"), ("running_mean", (3,), "buffer")]
)
SPEC = RunSpec(
    name="heart",
    task="app:task",
    data="app:data",
    clients=("cleveland", "hungary", "switzerland", "va-long-beach"),
    rounds=40,
    seed=7,
    strategy={"name": "fedavg"},
    sampler=All(),
    local=LocalTraining(lr=0.05, epochs=2),
    pipeline=Pipeline([Weight(by="examples", cap=300), Clip(norm=1.0)]),
    layout=LAYOUT,
    training=(Scalar("examples", 2**32),),
    evaluation_scalars=(Scalar("examples", 2**32), Scalar("loss", 2**42), Scalar("auc", 2**32, 8)),
)
PRIVATE = Pipeline([Weight(by="uniform", denominator=4.0), Clip(1.0), GaussianNoise(1.0)])
HIDING = replace(
    SPEC,
    local=LocalTraining(steps=9, privacy=LocalPrivacy(1.0, 1.1, 0.05)),
    pipeline=Pipeline([Weight(by="uniform"), Clip(1.0)]),
    evaluation=Evaluation(every=0),
)

CHANGES = {
    "name": {"name": "liver"},
    "task": {"task": "app:other"},
    "data": {"data": "app:other"},
    "clients": {"clients": (*SPEC.clients[:3], "zurich")},
    "rounds": {"rounds": 41},
    "seed": {"seed": 8},
    "strategy": {"strategy": {"name": "fedprox"}},
    "lr": {"local": LocalTraining(lr=0.06, epochs=2)},
    "threads": {"local": LocalTraining(lr=0.05, epochs=2, threads=2)},
    "cap": {"pipeline": Pipeline([Weight(by="examples", cap=301), Clip(norm=1.0)])},
    "norm": {"pipeline": Pipeline([Weight(by="examples", cap=300), Clip(norm=1.5)])},
    "every": {"evaluation": Evaluation(every=5)},
    "release": {"evaluation": Evaluation(release="sum")},
    "best": {"evaluation": Evaluation(best="auc")},
    "deadline": {"quorum": Quorum(deadline_s=10.0)},
    "minimum": {"quorum": Quorum(minimum=2)},
    "faults": {"faults": {"dropout": 0.1}},
    "population": {"population": {"partition": "iid"}},
    "shape": {"layout": Layout.build("float32", [("weight", (14, 2), "trainable")])},
    "precision": {"layout": Layout.build("float64", [("weight", (28,), "trainable")])},
    "role": {"layout": Layout.build("float32", [("weight", (28,), "frozen")])},
    "metrics": {"evaluation_scalars": SPEC.evaluation_scalars[:2]},
    "reports": {"training": (*SPEC.training, Scalar("seen", 2**32))},
    "app": {"app": {"app.py": "0" * 64}},
    "sources": {"sources": ("heart",)},
    "purpose": {"purpose": "to find out"},
}


def test_every_setting_that_decides_bits_changes_the_hash():
    hashes = {name: replace(SPEC, **change).hash for name, change in CHANGES.items()}
    assert SPEC.hash not in hashes.values()
    assert len(set(hashes.values())) == len(CHANGES)


OTHERWISE = {
    LocalTraining: {
        "optimizer": "adam", "lr": 0.11, "epochs": 2, "batch_size": 31, "steps": 9,
        "momentum": 0.5, "weight_decay": 0.01, "betas": (0.9, 0.99), "eps": 1e-7, "threads": 2,
        "amp": True, "privacy": LocalPrivacy(1.0, 1.1, 0.05),
    },
    Evaluation: {"every": 2, "release": "sum", "best": "auc"},
    Quorum: {"over_selection": 1.5, "deadline_s": 1.0, "minimum": 2},
    Faults: {"dropout": 0.1, "delay_s": 1.0, "corrupt": 0.1, "kind": "inf"},
    Dirichlet: {"alpha": 0.51, "sizes": "drawn", "column": "sex", "minimum": 2},
    Quantity: {"alpha": 0.51, "minimum": 2},
    Shards: {"per_client": 3, "column": "sex", "minimum": 2},
    Iid: {"minimum": 2},
    Weight: {"by": "steps", "cap": 9.0, "denominator": 2.0},
    Clip: {"norm": 2.0},
    GaussianNoise: {"noise_multiplier": 2.0},
    Rotate: {"largest": 2**10},
    ScaledRound: {"bits": 12},
    SkellamNoise: {"noise_multiplier": 2.0, "honest": 3, "colluding": 1},
    AdaptiveClip: {
        "initial": 2.0, "quantile": 0.6, "lr": 0.3, "cohort": 9.0, "bit_noise": 0.7,
    },
    Privacy: {"delta": 1e-6, "epsilon": 4.0, "unit": "site", "against": "sites"},
    Sum: {"limit": 4.0},
    FixedSize: {"size": 3},
    Poisson: {"rate": 0.4},
}  # fmt: skip
PLAIN = {
    **{kind: kind() for kind in (Evaluation, Quorum, Faults, Shards, Iid, Sum)},
    LocalTraining: LocalTraining(steps=8),
    Dirichlet: Dirichlet(0.5), Quantity: Quantity(0.5), Weight: Weight(), Clip: Clip(1.0),
    AdaptiveClip: AdaptiveClip(cohort=8.0, bit_noise=0.5), Privacy: Privacy(1e-5),
    Rotate: Rotate(), ScaledRound: ScaledRound(), SkellamNoise: SkellamNoise(1.0, honest=2),
    GaussianNoise: GaussianNoise(1.0), FixedSize: FixedSize(2), Poisson: Poisson(0.3),
}  # fmt: skip


def spec_with(value) -> RunSpec:
    """A spec in which ``value`` stands where a run has it."""
    match value:
        case LocalTraining():
            return replace(HIDING, local=value)
        case Evaluation():
            return replace(SPEC, evaluation=value)
        case Quorum():
            return replace(SPEC, sampler=FixedSize(2), quorum=value)
        case Faults():
            return replace(SPEC, faults=value.settings())
        case FixedSize() | Poisson():
            strategy = fedavg(sampler=value)
            return replace(SPEC, sampler=value, strategy=strategy.settings())
        case Privacy():
            no_metrics = Evaluation(every=0)
            return replace(SPEC, pipeline=PRIVATE, evaluation=no_metrics, privacy=value)
        case GaussianNoise():
            steps = [*PRIVATE.steps[:2], value]
            return replace(SPEC, pipeline=Pipeline(steps), evaluation=Evaluation(every=0))
        case SkellamNoise():
            steps = [*PRIVATE.steps[:2], ScaledRound(), value]
            return replace(SPEC, pipeline=Pipeline(steps), evaluation=Evaluation(every=0))
        case ScaledRound():
            return replace(SPEC, pipeline=Pipeline([Clip(1.0), value]))
        case Step():
            return replace(SPEC, pipeline=Pipeline([value]))
        case _:
            split = Partitioned(lambda: ((), None), 4, value)
            return replace(SPEC, population=split.settings())


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, f.name) for kind in OTHERWISE for f in fields(kind)]
)
def test_every_field_of_what_a_run_is_made_of_changes_the_hash(kind, field):
    """A new field fails here until it has another value above, and is in the spec."""
    plain = PLAIN[kind]
    other = replace(plain, **{field: OTHERWISE[kind][field]})
    assert getattr(plain, field) != getattr(other, field)
    assert spec_with(plain).hash != spec_with(other).hash


@pytest.mark.parametrize("field", ["clip", "noise_multiplier", "sampling_rate"])
def test_every_setting_of_private_training_changes_the_hash(field):
    changed = replace(HIDING.local.privacy, **{field: 0.7})
    local = replace(HIDING.local, privacy=changed)
    assert replace(HIDING, local=local).hash != HIDING.hash


def test_a_spec_without_private_training_is_written_as_it_was():
    """Journals of released versions are read again only if it is."""
    assert set(SPEC.json()["local"]) == {
        *("optimizer", "lr", "epochs", "batch_size", "momentum", "weight_decay", "betas"),
        *("eps", "threads", "amp"),
    }


def test_where_examples_are_hidden_no_count_of_them_leaves():
    names = [scalar.name for scalar in HIDING.bound.schema]
    assert names == ["weight"]  # one for each client, whatever its data
    assert not HIDING.bound.facts.is_private


HIDES = "hides each of them"


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"pipeline": Pipeline([Weight(by="examples", cap=9.0)])}, PipelineError, HIDES),
        ({"pipeline": Pipeline([Weight(by="examples")])}, PipelineError, HIDES),
        ({"layout": BUFFERED}, PipelineError, "running_mean|buffers would leave"),
        ({"evaluation": Evaluation()}, ConfigError, "exact metrics leave"),
        ({"evaluation": Evaluation(release="sum")}, ConfigError, "exact metrics leave"),
        ({"privacy": Privacy(1e-5)}, ConfigError, "hides one example only"),
        ({"privacy": Privacy(1e-5, unit="site")}, ConfigError, "hides one example only"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_would_tell_of_examples_that_are_hidden_is_refused(change, error, text):
    with pytest.raises(error, match=text):
        replace(HIDING, **change)


def test_a_promise_for_an_example_needs_noise_in_training():
    quiet = replace(HIDING.local, privacy=None)
    with pytest.raises(ConfigError, match="clients train without noise") as caught:
        replace(HIDING, local=quiet, privacy=Privacy(1e-5, unit="example"))
    assert "[local.privacy]" in caught.value.hint
    with pytest.raises(ConfigError, match="clients train without noise"):
        replace(HIDING, local=quiet, pipeline=PRIVATE, privacy=Privacy(1e-5, unit="example"))


def test_one_run_can_hide_clients_and_examples():
    both = replace(HIDING, pipeline=PRIVATE, privacy=Privacy(1e-5))
    assert both.bound.facts.is_private
    assert both.bound.facts.example_multiplier == 1.1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": None}, "needs \\[local\\] steps"),
        ({"batch_size": None}, 'batch_size = "all"'),
        ({"amp": True}, "half precision"),
        ({"privacy": (0.0, 1.0, 0.1)}, "clip = 0"),
        ({"privacy": (float("nan"), 1.0, 0.1)}, "clip = nan"),
        ({"privacy": (float("inf"), 1.0, 0.1)}, "clip = inf"),
        ({"privacy": (1.0, 0.0, 0.1)}, "noise_multiplier = 0"),
        ({"privacy": (1.0, float("nan"), 0.1)}, "noise_multiplier = nan"),
        ({"privacy": (1.0, 101.0, 0.1)}, "noise_multiplier = 101"),
        ({"privacy": (1.0, 1.0, 0.0)}, "sampling_rate = 0"),
        ({"privacy": (1.0, 1.0, 1.5)}, "sampling_rate = 1.5"),
        ({"privacy": (1.0, 1.0, 0.1, "client")}, 'unit = "client"'),
    ],
    ids=lambda value: str(value)[:40],
)
def test_private_training_that_would_hide_nothing_is_refused(settings, text):
    numbers = settings.get("privacy", (1.0, 1.1, 0.05))
    with pytest.raises(ConfigError, match=text):
        replace(HIDING.local, **settings | {"privacy": LocalPrivacy(*numbers)})


def test_every_field_of_a_spec_is_changed_above_or_follows_from_one_that_is():
    """The sampler is in the strategy's settings; there is one engine; privacy is below."""
    changed = {name for change in CHANGES.values() for name in change}
    assert {f.name for f in fields(RunSpec)} - changed == {"sampler", "engine", "privacy"}


def test_the_order_in_which_sites_are_listed_does_not_change_the_hash():
    assert replace(SPEC, clients=SPEC.clients[::-1]).hash == SPEC.hash


def test_the_hash_is_sha_256_of_canonical_json():
    assert SPEC.hash == hashlib.sha256(SPEC.canonical.encode()).hexdigest()
    assert canonical.encode(json.loads(SPEC.canonical)) == SPEC.canonical


def test_the_spec_says_how_sums_are_made():
    assert SPEC.json()["sums"] == {"exponent": 50, "limit": 1.0, "cohort": 4}
    assert SPEC.json()["model"] == {
        "dtype": "float32",
        "parameters": 28,
        "size": 48,
        "layout": SPEC.json()["model"]["layout"],
    }
    assert SPEC.json()["metrics"] == ["auc"]
    assert SPEC.json()["engine"] == "exact"


def test_a_large_population_is_named_by_its_digest():
    few = tuple(f"c{k}" for k in range(NAMED_CLIENTS))
    many = (*few, "last")
    assert replace(SPEC, clients=few).json()["clients"]["ids"] == sorted(few)
    told = replace(SPEC, clients=many).json()["clients"]
    assert told == {"count": NAMED_CLIENTS + 1, "digest": told["digest"]}
    assert told["digest"] == hashlib.sha256("\0".join(sorted(many)).encode()).hexdigest()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rounds": 0}, "rounds = 0 trains nothing"),
        ({"rounds": -3}, "rounds = -3 trains nothing"),
        ({"rounds": 2.5}, "rounds = 2.5 is not a whole number"),
        ({"rounds": True}, "rounds = True is not a whole number"),
        ({"seed": 2**60}, "seed = 1152921504606846976 is not a whole number from 0 to 2"),
        ({"rounds": "3"}, "rounds = '3' is not a whole number"),
        ({"rounds": float("nan")}, "rounds = nan is not a whole number"),
        ({"rounds": 2**53}, "rounds = 9007199254740992 is not a whole number"),
        ({"seed": 2**53}, "seed = 9007199254740992 is not a whole number"),
        ({"seed": -1}, "seed = -1 is not a whole number"),
        ({"seed": 1.0}, "seed = 1.0 is not a whole number"),
        ({"clients": ()}, "the population is empty"),
        (
            {"sampler": Poisson(0.5), "quorum": Quorum(over_selection=1.5)},
            "over_selection = 1.5 asks more clients than a sampler of 'poisson' chooses",
        ),
        ({"quorum": Quorum(over_selection=2.0)}, "than a sampler of 'all' chooses"),
        (
            {
                "pipeline": PRIVATE,
                "evaluation": Evaluation(release="none"),
                "quorum": Quorum(minimum=2),
            },
            "minimum = 2: whether a round has so many reports would show beside a noised model",
        ),
        ({"sampler": FixedSize(5)}, "a cohort of 5 is larger than the population of 4"),
        ({"quorum": Quorum(minimum=5)}, "minimum = 5 reports, and a cohort has at most 4"),
        (
            {"sampler": FixedSize(2), "quorum": Quorum(minimum=3)},
            "minimum = 3 reports, and a cohort has at most 2",
        ),
    ],
)
def test_a_run_that_cannot_be_meant_is_refused_with_a_hint(change, text):
    with pytest.raises(ConfigError, match=text) as caught:
        replace(SPEC, **change)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Evaluation(every=-1), "evaluation every -1 rounds"),
        (lambda: Evaluation(release="all"), "release = 'all' is unknown"),
        (lambda: Quorum(over_selection=0.9), "over_selection = 0.9 is not between 1 and 10"),
        (lambda: Quorum(over_selection=float("nan")), "over_selection = nan"),
        (lambda: Quorum(minimum=-1), "minimum = -1 reports"),
        (lambda: Quorum(deadline_s=0.0), "deadline_s = 0.0"),
        (lambda: Quorum(deadline_s=float("nan")), "deadline_s = nan"),
        (lambda: LocalTraining(epochs=0), "local epochs = 0 trains nothing"),
        (lambda: LocalTraining(batch_size=0), "local batch_size = 0 trains nothing"),
        (lambda: LocalTraining(steps=-1), "local steps = -1 trains nothing"),
        (lambda: LocalTraining(threads=0), "local threads = 0 trains nothing"),
        (lambda: LocalTraining(epochs=1.5), "local epochs = 1.5 trains nothing"),
        (lambda: LocalTraining(lr=-0.1), "local lr = -0.1 is not a number of 0 or more"),
        (lambda: LocalTraining(momentum=float("nan")), "local momentum = nan"),
        (lambda: LocalTraining(weight_decay=float("inf")), "local weight_decay = inf"),
        (lambda: LocalTraining(optimizer="lion"), "optimizer 'lion' is unknown"),
        (lambda: Proximal(-0.1), "mu = -0.1"),
    ],
)
def test_settings_out_of_range_are_refused_with_a_hint(make, text):
    with pytest.raises(ConfigError, match=text) as caught:
        make()
    assert caught.value.hint


def test_the_largest_seed_is_that_of_a_run_file():
    assert replace(SPEC, seed=LARGEST_SEED).seed == LARGEST_SEED
    with pytest.raises(ConfigError, match=r"from 0 to 2\^53 - 1"):
        replace(SPEC, seed=LARGEST_SEED + 1)


@pytest.mark.parametrize("release", ["per-site", "sum"])
def test_exact_metrics_beside_a_noised_model_are_refused(release):
    evaluation = Evaluation(release=release)
    with pytest.raises(ConfigError, match="lets exact metrics leave beside a noised model") as e:
        replace(SPEC, pipeline=PRIVATE, evaluation=evaluation)
    assert '"none"' in e.value.hint
    assert '"simulation"' in e.value.hint


@pytest.mark.parametrize(
    "evaluation",
    [Evaluation(release="none"), Evaluation(release="simulation"), Evaluation(every=0)],
)
def test_a_noised_model_without_released_metrics_is_sound(evaluation):
    assert replace(SPEC, pipeline=PRIVATE, evaluation=evaluation).bound.facts.is_private


def test_a_private_report_carries_none_of_the_tasks_integers():
    private = replace(SPEC, pipeline=PRIVATE, evaluation=Evaluation(every=0))
    assert [scalar.name for scalar in private.bound.schema] == []
    assert [scalar.name for scalar in SPEC.bound.schema] == ["weight", "examples"]


def test_buffers_of_a_model_are_refused_under_noise_and_a_segment_without_it():
    assert dict(replace(SPEC, layout=BUFFERED).bound.extras) == {"buffers": 16}
    with pytest.raises(PipelineError, match="buffers would leave in the clear"):
        replace(SPEC, layout=BUFFERED, pipeline=PRIVATE, evaluation=Evaluation(every=0))


def test_the_facts_are_folded_again_with_what_the_run_is():
    facts: Facts = SPEC.bound.facts
    assert (facts.cohort, facts.coordinates, facts.bits) == (4, 48, 32)
    double = replace(SPEC, layout=CHANGES["precision"]["layout"])
    assert double.bound.facts.bits == 64


@pytest.mark.parametrize(
    ("sampler", "quorum", "expected"),
    [
        (All(), Quorum(), 4),
        (FixedSize(2), Quorum(), 2),
        (FixedSize(2), Quorum(over_selection=1.3), 3),
        (FixedSize(3), Quorum(over_selection=9.0), 4),
        (Poisson(0.1), Quorum(), 4),
    ],
)
def test_the_largest_cohort_counts_everyone_who_can_be_asked(sampler, quorum, expected):
    spec = replace(SPEC, sampler=sampler, quorum=quorum)
    assert spec.cohort == spec.json()["sums"]["cohort"] == expected


@pytest.mark.parametrize(
    ("every", "due"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (9, [7]), (0, [])]
)
def test_evaluation_is_due_every_so_many_rounds_and_after_the_last(every, due):
    evaluation = Evaluation(every=every)
    assert [number for number in range(1, 8) if evaluation.is_due(number, 7)] == due


def test_evaluations_are_tallied_over_all_clients_whoever_trains():
    spec = replace(SPEC, sampler=FixedSize(1))
    assert (spec.tally.start.cohort, spec.tally.scalars_size) == (4, 11)  # with a weight of each


@pytest.mark.parametrize(("clients", "bound"), [(4, 2**60 - 1), (1, 2**60), (5000, 2**49)])
def test_sums_of_real_numbers_have_the_room_that_the_cohort_leaves(clients, bound):
    """An elastic bound gives way; one that is not would be refused."""
    ids = tuple(f"c{k}" for k in range(clients))
    loss = Scalar("loss", 2**60, resolution=2.0**-16, signed=True, elastic=True)
    spec = replace(SPEC, clients=ids, training=(loss,), evaluation_scalars=(loss,))
    for bind in (spec.bound, spec.tally):
        found = next(scalar for scalar in bind.schema if scalar.name == "loss")
        assert bound <= found.bound
        assert found.bound * clients < 2**62
    with pytest.raises(PipelineError, match="overflow 63 bits"):
        replace(SPEC, clients=ids, training=(replace(loss, bound=2**62, elastic=False),))


def test_defaults_are_left_out_of_a_spec_and_none_is_written():
    told = SPEC.json()
    assert "steps" not in told["local"]
    assert "deadline_s" not in told["quorum"]
    assert "best" not in told["evaluation"]
    assert "null" not in SPEC.canonical
