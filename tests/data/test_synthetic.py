import numpy as np
import pytest

from hanse.data import synthetic
from hanse.errors import ConfigError


def test_thirty_devices_hold_sixty_inputs_and_ten_classes():
    clients = synthetic(1, 1, seed=0)
    assert list(clients) == [f"client-{k}" for k in range(30)]
    for x, y in clients.values():
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert x.shape == (len(y), 60)
        assert len(y) >= 50
        assert set(np.unique(y)) <= set(range(10))


def test_a_clients_data_depend_on_the_seed_and_its_number_only():
    few, many, other = (synthetic(1, 1, clients=c, seed=s) for c, s in ((3, 0), (5, 0), (3, 1)))
    for name, (x, y) in few.items():
        np.testing.assert_array_equal(x, many[name][0])
        np.testing.assert_array_equal(y, many[name][1])
        assert not np.array_equal(x[:50], other[name][0][:50])


def test_sizes_are_lognormal_above_fifty():
    """median e^4 = 55; 300 draws put it within a factor of 2 at 4.8 sd, and the seed is fixed."""
    sizes = np.array([len(y) - 50 for _, y in synthetic(0, 0, clients=300, seed=1).values()])
    assert 27 < np.median(sizes) < 110


def test_the_inputs_spread_falls_with_their_index():
    x, _ = max(synthetic(0, 0, clients=100, seed=2).values(), key=lambda data: len(data[1]))
    assert len(x) > 1_000
    found = x.std(axis=0)
    expected = np.arange(1, 61) ** -0.6  # N(v, diag(j^-1.2)); sd of an estimate under 2.3 %
    np.testing.assert_allclose(found, expected, rtol=0.12)


def test_beta_moves_the_clients_inputs_apart():
    """Fixed seed; the spread of 100 client means is sqrt(beta^2 + 1/60), estimated within 7 %."""
    centres = {
        beta: np.std([x.mean() for x, _ in synthetic(0, beta, clients=100, seed=3).values()])
        for beta in (0, 3)
    }
    assert centres[0] < 0.2
    assert centres[3] > 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha": -1, "beta": 0},
        {"alpha": 0, "beta": float("inf")},
        {"alpha": 0, "beta": 0, "clients": 0},
    ],
)
def test_dials_that_cannot_be_meant_are_refused_with_a_hint(arguments):
    with pytest.raises(ConfigError) as caught:
        synthetic(**arguments, seed=0)
    assert caught.value.hint
