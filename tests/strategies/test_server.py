"""Server optimisers: values worked out by hand, the contract that all keep, settings refused."""

import inspect
import math

import numpy as np
import pytest

from hanse.core import canonical
from hanse.errors import ConfigError
from hanse.strategies.server import Adagrad, Adam, Momentum, Sgd, Yogi

OPTIMIZERS = [
    Sgd(lr=0.5),
    Momentum(lr=0.5, momentum=0.9),
    Adagrad(lr=0.1, beta1=0.5, tau=1e-3, initial_accumulator=1e-6),
    Adam(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3, initial_accumulator=1e-6),
    Yogi(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3, initial_accumulator=1e-6),
]


def follow(optimizer, updates, *, start=0.0):
    """Return the model and the slots after each of ``updates``, for one coordinate."""
    x, slots, steps = np.array([start]), optimizer.start(1), []
    for update in updates:
        x, slots = optimizer.apply(x, np.array([float(update)]), slots)
        steps.append((float(x[0]), {name: float(slot[0]) for name, slot in slots.items()}))
    return steps


# By hand


def test_sgd_steps_along_the_update():
    assert follow(Sgd(lr=0.5), [4, -2], start=10.0) == [(12.0, {}), (11.0, {})]


def test_momentum_adds_half_of_the_last_velocity():
    # v: 1, then 0.5·1 + 2 = 2.5; x: 2·1 = 2, then 2 + 2·2.5 = 7
    first, second = follow(Momentum(lr=2.0, momentum=0.5), [1, 2])
    assert first == (2.0, {"velocity": 1.0})
    assert second == (7.0, {"velocity": 2.5})


def test_adagrad_divides_by_the_root_of_all_squares():
    # v: 9 + 4² = 25, then 25 + 12² = 169; m: 0.5·4 = 2, then 0.5·2 + 0.5·12 = 7
    # x: 2/(5 + 1) = 1/3, then 1/3 + 7/(13 + 1) = 5/6
    optimizer = Adagrad(lr=1.0, beta1=0.5, tau=1.0, initial_accumulator=9.0)
    first, second = follow(optimizer, [4, 12])
    assert first == (pytest.approx(1 / 3), {"m": 2.0, "v": 25.0})
    assert second == (pytest.approx(5 / 6), {"m": 7.0, "v": 169.0})


def test_adam_keeps_running_means_of_the_update_and_its_square():
    # v: 0.75·4 + 0.25·24 = 9 for Δ² = 24, then 0.75·9 + 0.25·37 = 16 for Δ² = 37
    # m: 0.5·√24, then 0.5·m + 0.5·√37; x: m/(3 + 1), then + m/(4 + 1)
    optimizer = Adam(lr=1.0, beta1=0.5, beta2=0.75, tau=1.0, initial_accumulator=4.0)
    first, second = follow(optimizer, [math.sqrt(24), math.sqrt(37)])
    m1 = math.sqrt(24) / 2
    m2 = m1 / 2 + math.sqrt(37) / 2
    assert first == (pytest.approx(m1 / 4), pytest.approx({"m": m1, "v": 9.0}))
    assert second == (pytest.approx(m1 / 4 + m2 / 5), pytest.approx({"m": m2, "v": 16.0}))


def test_yogi_grows_below_the_square_and_shrinks_above_it():
    # v: 5 < 4², so 5 + 0.25·16 = 9; then 9 > 2², so 9 − 0.25·4 = 8
    # m: 0.5·4 = 2, then 0.5·2 + 0.5·2 = 2; x: 2/(3 + 1) = 0.5, then 0.5 + 2/(√8 + 1)
    optimizer = Yogi(lr=1.0, beta1=0.5, beta2=0.75, tau=1.0, initial_accumulator=5.0)
    first, second = follow(optimizer, [4, 2])
    assert first == (0.5, {"m": 2.0, "v": 9.0})
    assert second == (pytest.approx(1.0224077499274832), {"m": 2.0, "v": 8.0})


def test_yogi_leaves_v_alone_where_it_equals_the_square():
    optimizer = Yogi(lr=1.0, beta1=0.0, beta2=0.5, tau=1.0, initial_accumulator=16.0)
    assert follow(optimizer, [-4]) == [(pytest.approx(-4 / 5), {"m": -4.0, "v": 16.0})]


# The contract


@pytest.fixture(params=OPTIMIZERS, ids=lambda optimizer: optimizer.name)
def optimizer(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def walk(optimizer, x, updates):
    slots = optimizer.start(x.size)
    for update in updates:
        x, slots = optimizer.apply(x, update, slots)
    return x


class TestServerOptimizer:
    """What every server optimiser does."""

    def test_it_changes_none_of_its_arguments(self, optimizer, rng):
        x, update = rng.normal(size=8), rng.normal(size=8)
        slots = optimizer.start(8)
        before = [array.copy() for array in (x, update, *slots.values())]
        optimizer.apply(x, update, slots)
        for array, copy in zip((x, update, *slots.values()), before, strict=True):
            np.testing.assert_array_equal(array, copy)

    def test_its_slots_keep_their_names_and_are_float64_vectors(self, optimizer, rng):
        slots = optimizer.start(8)
        _, after = optimizer.apply(rng.normal(size=8), rng.normal(size=8), slots)
        assert after.keys() == slots.keys()
        assert {(s.shape, s.dtype) for s in [*slots.values(), *after.values()]} <= {
            ((8,), np.dtype("float64"))
        }

    def test_it_moves_towards_the_first_update(self, optimizer, rng):
        update = rng.normal(size=8)
        moved = walk(optimizer, np.zeros(8), [update])
        np.testing.assert_array_equal(np.sign(moved), np.sign(update))

    def test_it_does_not_move_without_updates(self, optimizer, rng):
        x = rng.normal(size=8)
        np.testing.assert_array_equal(walk(optimizer, x, np.zeros((3, 8))), x)

    def test_padding_stays_zero(self, optimizer, rng):
        updates = rng.normal(size=(5, 8))
        updates[:, 3:] = 0
        moved = walk(optimizer, np.zeros(8), updates)
        assert np.all(moved[:3] != 0)
        np.testing.assert_array_equal(moved[3:], 0)

    def test_coordinates_do_not_mix(self, optimizer, rng):
        """So that slicing a model, or a vector register's width, changes no bit."""
        x, updates = rng.normal(size=101), rng.normal(size=(5, 101))
        whole = walk(optimizer, x, updates)
        parts = [walk(optimizer, x[i : i + 1], updates[:, i : i + 1]) for i in range(101)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))

    def test_its_settings_are_its_name_and_all_that_it_was_built_from(self, optimizer):
        settings = optimizer.settings()
        canonical.encode(settings)
        assert type(optimizer)(**{k: v for k, v in settings.items() if k != "name"}) == optimizer
        assert settings["name"] == optimizer.name


# Settings refused

RATES = ("lr", "tau")
DECAYS = ("momentum", "beta1", "beta2")


def built_with(optimizer, name, value):
    settings = {k: v for k, v in optimizer.settings().items() if k != "name"}
    return type(optimizer)(**settings | {name: value})


WRONG = [
    pytest.param(optimizer, name, value, id=f"{optimizer.name}-{name}-{value}")
    for optimizer in OPTIMIZERS
    for name in inspect.signature(type(optimizer)).parameters
    for value in (-0.1, math.nan, math.inf, *([0.0] if name in RATES else []), 1.0)
    if value != 1.0 or name in DECAYS
]


@pytest.mark.parametrize(("optimizer", "name", "value"), WRONG)
def test_settings_that_define_no_step_are_refused_with_a_hint(optimizer, name, value):
    said = "server learning rate" if name == "lr" else name
    with pytest.raises(ConfigError, match=f"{said} of {value}") as caught:
        built_with(optimizer, name, value)
    assert said in caught.value.hint or name == "initial_accumulator"


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
def test_the_ends_of_the_allowed_ranges_are_taken(optimizer):
    for name in set(DECAYS) | {"initial_accumulator"}:
        if hasattr(optimizer, name):
            assert getattr(built_with(optimizer, name, 0.0), name) == 0.0
