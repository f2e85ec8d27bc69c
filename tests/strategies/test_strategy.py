"""Strategies as values, and the program that runs them."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from tests.strategies.quadratics import Quadratic, descent, federation, models

import hanse.strategies
from hanse.core import canonical
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.program import Done, drive
from hanse.core.samplers import All, Poisson
from hanse.core.step import Total
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining, Proximal, Train
from hanse.errors import ConfigError
from hanse.privacy import Clip, GaussianNoise
from hanse.strategies import (
    GlobalModel,
    Strategy,
    StrategyProgram,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedprox,
    fedsgd,
    fedyogi,
)

REQUIRED = {fedsgd: {"lr": 0.1}, fedprox: {"mu": 0.1}}
FUNCTIONS = [fedavg, fedsgd, fedprox, fedavgm, fedadagrad, fedadam, fedyogi]
ADAPTIVE = [fedadagrad, fedadam, fedyogi]


@pytest.fixture(params=FUNCTIONS, ids=lambda function: function.__name__)
def function(request):
    return request.param


def build(function, **settings) -> Strategy:
    return function(**REQUIRED.get(function, {}) | settings)


# As values


def test_a_strategy_bears_the_name_of_its_function(function):
    assert build(function).name == function.__name__


def test_every_setting_is_given_by_name(function):
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_a_strategy_is_equal_to_another_with_its_settings(function):
    assert build(function) == build(function)
    assert build(function) != build(function, sampler=Poisson(rate=0.5))


def test_everyone_takes_part_unless_a_sampler_says_otherwise(function):
    assert build(function).sampler == All()
    assert build(function, sampler=Poisson(rate=0.5)).sampler == Poisson(rate=0.5)


def test_its_settings_have_a_canonical_form_that_shows_every_change(function):
    plain = canonical.digest(build(function).settings())
    for name, parameter in inspect.signature(function).parameters.items():
        value = Poisson(rate=0.5) if name == "sampler" else 0.123
        assert canonical.digest(build(function, **{name: value}).settings()) != plain, parameter


def test_a_setting_that_cannot_be_meant_is_refused_with_a_hint(function):
    for name in inspect.signature(function).parameters:
        if name != "sampler":
            with pytest.raises(ConfigError) as caught:
                build(function, **{name: -1.0})
            assert caught.value.hint, name


@pytest.mark.parametrize("function", ADAPTIVE, ids=lambda function: function.__name__)
def test_v_starts_at_the_square_of_tau_unless_it_is_given(function):
    assert function(tau=0.5).server.start(2)["v"].tolist() == [0.25, 0.25]
    assert function(tau=0.5, initial_accumulator=0.0).server.start(1)["v"].tolist() == [0.0]


def test_only_fedprox_corrects_gradients(function):
    expected = Proximal(0.1) if function is fedprox else None
    assert build(function).correction == expected


def test_only_fedsgd_fixes_how_clients_train(function):
    one_gradient = LocalTraining(optimizer="sgd", lr=1.0, epochs=1, batch_size=None)
    assert build(function).fixed == (one_gradient if function is fedsgd else None)


def test_the_door_of_the_package_is_exact():
    assert sorted(hanse.strategies.__all__) == hanse.strategies.__all__
    assert {function.__name__ for function in FUNCTIONS} <= set(hanse.strategies.__all__)
    assert all(hasattr(hanse.strategies, name) for name in hanse.strategies.__all__)


# As programs

LAYOUT = Layout.build(
    "float64",
    [
        ("weight", (3,), "trainable"),
        ("bn.running_mean", (2,), "buffer"),
        ("bn.running_var", (2,), "buffer"),
        ("head", (2,), "local"),
        ("embedding", (2,), "frozen"),
    ],
)
START = LAYOUT.pack(
    {
        "weight": np.array([1.0, 2.0, 3.0]),
        "bn.running_mean": np.zeros(2),
        "bn.running_var": np.ones(2),
        "head": np.array([5.0, 6.0]),
        "embedding": np.array([7.0, 8.0]),
    }
)
PRIVATE = Pipeline([Weight(by="uniform", denominator=4.0), Clip(1.0), GaussianNoise(1.0)])


def program(strategy=None, *, rounds=3, pipeline=None):
    return StrategyProgram(
        strategy or fedavg(), LAYOUT, descent(lr=0.1, steps=1), pipeline or Pipeline(), rounds
    )


def total(update, *, reports=2, **extras):
    vector = np.zeros(8)
    vector[:3] = update
    return Total(vector, {}, reports, {name: np.asarray(v, float) for name, v in extras.items()})


def tensors(state):
    return {name: view.tolist() for name, view in LAYOUT.views(state.vector).items()}


def test_a_round_asks_the_cohort_to_train_from_the_current_model():
    strategy = fedprox(mu=0.5, sampler=Poisson(rate=0.5))
    one = program(strategy)
    ask = one.ask(one.initial(START))
    assert (ask.round, ask.cohort, ask.pipeline) == (1, Poisson(rate=0.5), Pipeline())
    assert ask.work == Train(descent(lr=0.1, steps=1), Proximal(0.5))
    np.testing.assert_array_equal(ask.payload["model"], START)


def test_a_round_moves_trainable_tensors_only(function):
    one = program(build(function))
    after = one.absorb(one.initial(START), total([1.0, -1.0, 2.0]))
    before, moved = tensors(one.initial(START)), tensors(after)
    assert np.all(np.sign(np.subtract(moved["weight"], before["weight"])) == [1, -1, 1])
    assert {**moved, "weight": 0} == {**before, "weight": 0}
    assert after.round == 1


def test_a_round_leaves_the_state_before_it_as_it_was(function):
    one = program(build(function))
    before = one.initial(START.copy())
    slots = {name: slot.copy() for name, slot in before.slots.items()}
    one.absorb(before, total([1.0, -1.0, 2.0], buffers=np.ones(16)))
    np.testing.assert_array_equal(before.vector, START)
    assert all(np.array_equal(before.slots[name], slot) for name, slot in slots.items())


def test_aggregated_buffers_bypass_the_server_optimiser(function):
    """Running variances fed to Adam or momentum turn negative, and the model to NaN."""
    moments = np.zeros(16)
    moments[:2], moments[8:10] = [1.0, 2.0], [3.0, 8.0]  # E[x], E[x²]
    one = program(build(function))
    after = tensors(one.absorb(one.initial(START), total([0.0, 0.0, 0.0], buffers=moments)))
    assert after["bn.running_mean"] == [1.0, 2.0]
    assert after["bn.running_var"] == [2.0, 4.0]


def test_padding_of_the_model_stays_zero_round_after_round(function):
    one = program(build(function), rounds=9)
    state = one.initial(START)
    for _ in range(5):
        state = one.absorb(state, total([0.3, -0.2, 0.1]))
    for pad in LAYOUT.pads():
        np.testing.assert_array_equal(state.vector[pad], 0)


def test_a_float32_model_is_rounded_once_after_float64_arithmetic():
    layout = Layout.build("float32", [("weight", (1,), "trainable")])
    one = StrategyProgram(fedavg(), layout, LocalTraining(), Pipeline(), 3)
    start = layout.pack({"weight": np.float32([1.0])})
    mean = np.full(16, -(2.0**-25) - 2.0**-50)  # as float32 it is half a step below 1: a tie
    after = one.absorb(one.initial(start), Total(mean, {}, 1))
    assert after.vector.dtype == np.float32
    assert after.vector[0] == 1 - 2.0**-24


def test_a_round_in_which_nothing_was_counted_changes_nothing_but_its_number(function):
    one = program(build(function))
    moving = one.absorb(one.initial(START), total([1.0, -1.0, 2.0]))
    after = one.absorb(moving, total([0.0, 0.0, 0.0], reports=0, buffers=np.zeros(16)))
    assert after.round == 2
    assert after.vector is moving.vector
    assert after.slots is moving.slots


def test_an_empty_round_under_noise_still_releases_the_noise():
    one = program(pipeline=PRIVATE)
    after = one.absorb(one.initial(START), total([0.5, 0.0, 0.0], reports=0))
    assert tensors(after)["weight"] == [1.5, 2.0, 3.0]


def test_the_program_is_done_after_its_rounds():
    one = program(rounds=2)
    first = one.absorb(one.initial(START), total([1.0, 0.0, 0.0]))
    assert isinstance(first, GlobalModel)
    last = one.absorb(first, total([1.0, 0.0, 0.0]))
    assert isinstance(last, Done)
    assert last.state.round == 2
    assert isinstance(one.absorb(first, total([0, 0, 0], reports=0)), Done)


def test_a_program_continued_from_a_kept_state_ends_in_the_same_bits(function):
    clients = [Quadratic(a=1.0, b=0.0), Quadratic(a=10.0, b=1.0, examples=3)]
    strategy = build(function, sampler=Poisson(rate=0.7))
    one, perform = federation(strategy, clients, rounds=6, local=descent(lr=0.05, steps=4))
    whole = list(drive(one, one.initial(np.zeros(8)), perform))
    kept = replace(whole[2])
    assert [state.round for state in whole] == [1, 2, 3, 4, 5, 6]
    for state, again in zip(whole[3:], drive(one, kept, perform), strict=True):
        assert state.vector.tobytes() == again.vector.tobytes()


def test_empty_poisson_cohorts_leave_the_model_where_it_is():
    rare = fedavgm(sampler=Poisson(rate=0.05))
    x = models(rare, [Quadratic(a=1.0, b=1.0)], local=descent(lr=0.1, steps=1), rounds=60)
    moves = [after != before for before, after in zip([0.0, *x], x, strict=False)]
    assert 0 < sum(moves) < 20


def test_a_strategy_with_another_correction_is_another_strategy():
    assert replace(fedavg(), name="fedprox", correction=Proximal(0.1)) == fedprox(mu=0.1)
