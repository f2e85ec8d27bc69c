"""ε from noise and noise from ε, against published numbers and against dp-accounting."""

import math
import subprocess
import sys

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse
from hanse.core.dp_events import (
    Composed,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    Nothing,
    PoissonSampled,
    Repeated,
    Skellam,
)
from hanse.errors import ConfigError
from hanse.privacy import calibrate, epsilon, pld, rdp
from hanse.privacy.accounting import calibrated, spent


def sampled(z: float, q: float, steps: int) -> Repeated:
    return Repeated(PoissonSampled(q, Gaussian(z)), steps)


# --- published numbers

TABLE = {
    (0.8, 0.001, 100): 0.260337, (1.5, 0.001, 100): 0.029240, (3, 0.001, 100): 0.011205,
    (0.8, 0.05, 100): 6.730629, (2, 0.05, 100): 1.273559, (1.5, 0.2, 100): 8.488586,
    (0.8, 0.001, 1000): 0.467683, (2, 0.001, 1000): 0.061141, (1.5, 0.05, 1000): 6.199692,
    (0.8, 0.001, 20000): 1.285925, (3, 0.05, 20000): 13.950629, (2, 0.001, 50000): 0.481330,
}  # fmt: skip


@pytest.mark.parametrize(("setting", "wanted"), TABLE.items())
def test_a_grid_of_losses_gives_the_table(setting, wanted):
    event = sampled(*setting)
    found = spent(event, 1e-6)
    assert found.accountant == "pld"
    assert found.epsilon == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert rdp.epsilon(event, 1e-6) >= wanted - 1e-4


def test_the_grid_is_refined_where_its_usual_step_is_loose():
    event = sampled(2, 0.001, 50000)
    loose = pld.epsilon(event, 1e-6, finest=1e-4)
    assert loose > 1.002 * 0.481330
    assert pld.epsilon(event, 1e-6) == pytest.approx(0.481330, rel=1e-3)


@pytest.mark.parametrize(
    ("z", "wanted"),
    [(0.5, 9.99726), (1, 4.37718), (2, 1.99309), (4, 0.92634), (5, 0.72552), (10, 0.34067)],
)
def test_one_gaussian_is_computed_exactly(z, wanted):
    found = spent(Gaussian(z), 1e-5)
    assert found.epsilon == pytest.approx(wanted, abs=6e-6)
    assert found.accountant == "exact"
    assert pld.epsilon(Gaussian(z), 1e-5) == pytest.approx(wanted, rel=1e-3)


def test_gaussians_in_a_row_are_one():
    assert spent(Gaussian(4.530877117), 1e-6).epsilon == pytest.approx(0.92739, abs=6e-6)
    many = Composed((Repeated(Gaussian(3), 5), Gaussian(1), Nothing(), Repeated(Gaussian(9), 0)))
    one = Gaussian(1 / math.sqrt(5 / 9 + 1))
    assert spent(many, 1e-5).epsilon == pytest.approx(spent(one, 1e-5).epsilon, rel=1e-12)


@pytest.mark.parametrize("mean", [1e-3, 0.3, 3.0, 30.0, 100.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-12])
def test_the_formula_of_a_gaussian_is_inverted_to_the_last_digits(mean, delta):
    """Against 60 digits of mpmath (dp-accounting brings it)."""
    import mpmath

    mpmath.mp.dps = 60
    found = spent(Gaussian(1 / mean), delta).epsilon
    precise = 1 / mpmath.mpf(1 / mean)
    normal = mpmath.ncdf

    def at(value):
        first, second = precise / 2 - value / precise, -precise / 2 - value / precise
        return normal(first) - mpmath.exp(value) * normal(second)

    if found == 0:
        assert at(mpmath.mpf(0)) <= delta * (1 + 1e-9)
        return
    assert at(mpmath.mpf(found) * (1 + 1e-9) + 1e-12) <= delta
    assert at(mpmath.mpf(found) * (1 - 1e-8)) >= delta


@pytest.mark.parametrize(
    ("event", "delta", "wanted"),
    [
        (Composed((Repeated(Laplace(1), 3), Repeated(Laplace(2), 2))), 1e-14, 4.0),
        (Repeated(PoissonSampled(0.2, Laplace(0.5)), 3), 1e-10, 2.46964),
    ],
)
def test_laplace_noise(event, delta, wanted):
    assert spent(event, delta).epsilon == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize(
    ("z", "q", "steps", "delta", "least", "most"),
    [
        (1.5, 0.04, 2250, 1e-5, 6.7688 * 0.999, 6.777395712150674),  # Opacus: PLD, PRV upper end
        (4, 0.01, 10_000, 1e-5, 0.9, 1.0355),  # Abadi et al. 2016; RDP, new conversion
        (4, 0.01, 40_000, 1e-5, 1.9, 2.2129),
        (1.3, 240 / 60000, 15 * 250, 1e-5, 0.7, 0.9220),  # MNIST of Opacus, new conversion
        (1.1, 240 / 60000, 60 * 250, 1e-5, 2.0, 2.5064),
        (0.7, 240 / 60000, 45 * 250, 1e-5, 5.0, 6.1129),
    ],
)
def test_published_settings(z, q, steps, delta, least, most):
    assert least <= spent(sampled(z, q, steps), delta).epsilon <= most


@pytest.mark.parametrize(
    ("z", "q", "steps", "wanted"),
    [
        (1.5, 0.04, 2250, 7.3299),  # Opacus prints 7.32911, with fractional orders too
        (4, 0.01, 10_000, 1.0355),
        (4, 0.01, 40_000, 2.2129),
        (1.3, 256 / 60000, 15 * 235, 0.9544),
    ],
)
def test_renyi_divergences_give_the_published_bounds(z, q, steps, wanted):
    found = spent(sampled(z, q, steps), 1e-5, "rdp")
    assert found.accountant == "rdp"
    assert wanted * 0.9995 <= found.epsilon <= wanted * 1.01


USERS = {
    (1e5, 1e2): (0.697, 0.700, 0.725, 0.774, 0.884, 1.899, 6.830),
    (1e6, 1e3): (0.892, 0.895, 0.919, 0.985, 1.095, 2.130, 7.505),
}


@pytest.mark.parametrize(("users", "cohort"), USERS)
def test_renyi_divergences_give_the_table_of_user_level_fedavg(users, cohort):
    """McMahan et al. 2018, Table 1, with the conversion that is used here; integer orders."""
    for power, wanted in enumerate(USERS[users, cohort]):
        found = spent(sampled(1.0, cohort / users, 10**power), users**-1.1, "rdp").epsilon
        assert wanted - 0.0006 <= found <= wanted * 1.02 + 0.0006, power


@pytest.mark.parametrize(
    ("dimension", "scale", "wanted"),
    [
        (2**20, 2**14, 5.2255),
        (2**20, 2**12, 5.2701),
        (2**20, 2**10, 5.9570),
        (2**24, 2**14, 5.2695),
    ],
)
def test_skellam_noise(dimension, scale, wanted):
    """One client's C = 1 at ``scale`` steps, z = 1, rounded up or down with norms checked."""
    event = Skellam.rounded(scale, dimension, float(scale) ** 2, beta=math.exp(-0.5))
    found = spent(event, 1e-6)
    assert found.epsilon == pytest.approx(wanted, rel=2e-3)
    assert (found.accountant, bool(found.why)) == ("rdp", True)


def test_divergences_of_gaussians_and_of_their_samples_are_dp_accountings():
    orders = rdp.ORDERS.tolist()
    for z in (0.3, 0.8, 2.5, 20.0):
        for q in (1e-4, 0.01, 0.3, 1.0):
            theirs = RdpAccountant(orders)
            theirs.compose(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)))
            ours = rdp.divergence(PoissonSampled(q, Gaussian(z)))
            wanted = theirs._rdp[rdp.WHOLE]
            assert ours[rdp.WHOLE] == pytest.approx(wanted, rel=1e-6, abs=1e-12)
            assert (ours[rdp.WHOLE] >= wanted * (1 - 1e-9) - 1e-13).all()


@pytest.mark.parametrize(
    ("order", "rate", "multiplier"),
    [(1.5, 0.01, 2.5), (2.5, 0.01, 2.5), (1.25, 0.3, 0.8), (1.5, 1e-4, 0.3), (3.5, 0.9, 20.0),
     (1.75, 0.01, 0.1), (4.5, 1e-6, 900.0)],
)  # fmt: skip
def test_divergences_at_orders_between_are_the_integral(order, rate, multiplier):
    """Against mpmath at 30 digits: never below, and hardly above."""
    import mpmath

    mpmath.mp.dps = 30
    q, z, at = map(mpmath.mpf, (rate, multiplier, order))

    def moment(x):
        likelier = 1 - q + q * mpmath.exp((2 * x - 1) / (2 * z * z))
        return likelier**at * mpmath.exp(-x * x / (2 * z * z)) / (z * mpmath.sqrt(2 * mpmath.pi))

    ends = [-14 * z, -7 * z, -3 * z, 0, 1, at, at + 3 * z, at + 7 * z, at + 14 * z]
    wanted = float(mpmath.log(mpmath.quad(moment, ends)) / (at - 1))
    found = rdp.divergence(PoissonSampled(rate, Gaussian(multiplier)))
    here = float(found[rdp.ORDERS.tolist().index(order)])
    assert wanted <= here <= wanted * (1 + 1e-4)


def test_published_divergences_at_orders_between():
    """dp-accounting's, by a series that stops early: up to 3 % above the integral."""
    found = rdp.divergence(Repeated(PoissonSampled(0.01, Gaussian(2.5)), 50))
    orders = rdp.ORDERS.tolist()
    for order, published, slack in (
        (1.5, 6.70579741e-4, 0.04), (2.5, 1.08548710e-3, 1e-3), (5, 2.18075656e-3, 1e-7),
        (50, 2.38460375e-2, 1e-7), (100, 167.416308, 1e-7),
    ):  # fmt: skip
        here = float(found[orders.index(order)])
        assert published * (1 - slack) <= here <= published * (1 + 1e-7)


def test_divergences_of_laplace_noise_are_dp_accountings():
    for b in (0.2, 1.0, 7.0):
        theirs = RdpAccountant(rdp.ORDERS.tolist())
        theirs.compose(dp_accounting.LaplaceDpEvent(b))
        assert rdp.divergence(Laplace(b)) == pytest.approx(theirs._rdp, rel=1e-9)


def test_a_sample_of_a_fixed_size_is_never_below_dp_accountings_bound_and_not_far_above():
    """dp-accounting bounds a Gaussian's higher terms more tightly (Theorem 27). Its multiplier is
    over what replacing one moves, which is 2C.
    """
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    for z, n, m, steps in ((2, 1000, 10, 100), (4, 100, 10, 50), (8, 1000, 10, 100)):
        theirs = RdpAccountant(rdp.ORDERS.tolist(), relation)
        inner = dp_accounting.GaussianDpEvent(z / 2)
        theirs.compose(dp_accounting.SampledWithoutReplacementDpEvent(n, m, inner), steps)
        wanted = theirs.get_epsilon(1e-6)
        found = spent(Repeated(FixedSizeSampled(n, m, Gaussian(z)), steps), 1e-6).epsilon
        assert found >= wanted * (1 - 1e-9)
        assert found <= 1.6 * wanted


def test_a_sample_of_all_is_no_sample_and_of_none_tells_nothing():
    assert spent(PoissonSampled(1.0, Gaussian(1)), 1e-5).epsilon == pytest.approx(4.37718, rel=1e-3)
    for event in (PoissonSampled(0.0, Gaussian(1)), FixedSizeSampled(9, 0, Gaussian(1)), Nothing()):
        assert spent(event, 1e-5).epsilon == 0
    whole = spent(FixedSizeSampled(9, 9, Gaussian(2)), 1e-5).epsilon
    assert whole == rdp.epsilon(Gaussian(1), 1e-5)  # replacing one moves twice as far


def test_no_noise_is_no_privacy():
    for event in (Gaussian(0), PoissonSampled(0.1, Gaussian(0)), Laplace(0), Skellam(4, 2, 0)):
        assert spent(event, 1e-5).epsilon == math.inf


def test_much_noise_and_rare_samples_do_not_cancel_to_nothing():
    """Against 60 digits of mpmath: never below, and hardly above."""
    import mpmath

    mpmath.mp.dps = 60
    for b in (1e3, 1e7, 1e8, 1e12):
        for order, found in zip(rdp.ORDERS.tolist()[:20], rdp.divergence(Laplace(b)), strict=False):
            p, a = 1 / mpmath.mpf(b), mpmath.mpf(order)
            moment = a * mpmath.exp((a - 1) * p) + (a - 1) * mpmath.exp(-a * p)
            wanted = mpmath.log(moment / (2 * a - 1)) / (a - 1)
            assert wanted <= found <= wanted * (1 + 4e-15 * b)
    for q, z in ((1e-8, 100.0), (1e-6, 100.0), (1e-4, 3.0), (0.2, 30.0)):
        found = rdp.divergence(PoissonSampled(q, Gaussian(z)))
        for order in (2, 3, 17):
            p, s = mpmath.mpf(q), mpmath.mpf(z)
            moment = sum(
                mpmath.binomial(order, k)
                * (1 - p) ** (order - k)
                * p**k
                * mpmath.exp((k * k - k) / (2 * s * s))
                for k in range(order + 1)
            )
            wanted = float(mpmath.log(moment) / (order - 1))
            here = found[rdp.ORDERS.tolist().index(order)]
            assert here == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("noise", [1e-300, 1e-200, 1e-99, 1e-9, 1e9, 1e99])
def test_numbers_far_out_are_counted_too(noise):
    for event in (
        *(Gaussian(noise), Laplace(noise), Skellam(3.0, 2.0, noise)),
        *(PoissonSampled(0.1, Gaussian(noise)), FixedSizeSampled(9, 3, Gaussian(noise))),
    ):
        found = spent(Repeated(event, 3), 1e-5).epsilon
        assert found == math.inf or found > 1e6 if noise < 1 else 0 <= found < 0.01


def test_a_sample_of_nothing_tells_nothing():
    for event in (FixedSizeSampled(9, 3, Nothing()), PoissonSampled(0.1, Nothing())):
        assert spent(event, 1e-5).epsilon == 0


def test_a_grid_that_says_more_than_the_divergences_is_not_believed():
    event = sampled(1.0, 0.1, 10)
    found = spent(event, 1e-20)
    assert found.epsilon == rdp.epsilon(event, 1e-20) < math.inf
    assert (found.accountant, bool(found.why)) == ("rdp", True)


def test_another_accountant_is_refused():
    with pytest.raises(ConfigError, match="'gdp' is unknown") as caught:
        spent(Gaussian(1.0), 1e-5, "gdp")
    assert caught.value.hint


# --- what holds of all


NOISES, RATES, STEPS = st.floats(0.8, 8), st.floats(1e-3, 0.3), st.integers(1, 300)


@settings(max_examples=5, deadline=None)
@given(NOISES, RATES, STEPS, st.floats(1.02, 2))
def test_more_noise_fewer_steps_and_smaller_samples_are_more_private(z, q, steps, factor):
    for by in ("rdp", "pld"):
        plain = epsilon(noise_multiplier=z, sampling_rate=q, steps=steps, delta=1e-6, accountant=by)
        slack = 1.001 * plain + 1e-4
        for better in (
            {"noise_multiplier": z * factor},
            {"sampling_rate": q / factor},
            {"steps": steps // 2},
            {"delta": 1e-6 * factor},
        ):
            given_ = {"noise_multiplier": z, "sampling_rate": q, "steps": steps, "delta": 1e-6}
            assert epsilon(**{**given_, **better}, accountant=by) <= slack


@settings(max_examples=10, deadline=None)
@given(NOISES, RATES, STEPS)
def test_renyi_divergences_are_never_below_the_grid(z, q, steps):
    event = sampled(z, q, steps)
    assert rdp.epsilon(event, 1e-6) >= pld.epsilon(event, 1e-6) - 2e-4


@settings(max_examples=50)
@given(st.lists(st.tuples(NOISES, RATES), min_size=1, max_size=4), st.integers(1, 9))
def test_composition_adds_divergences(parts, count):
    events = tuple(PoissonSampled(q, Gaussian(z)) for z, q in parts)
    once = rdp.divergence(Composed(events))
    assert rdp.divergence(Composed(events * count)) == pytest.approx(once * count, rel=1e-12)
    assert rdp.divergence(Repeated(Composed(events), count)) == pytest.approx(once * count)


def test_a_grid_of_mixed_rounds_is_dp_accountings():
    event = Composed((sampled(1.2, 0.02, 50), Repeated(Gaussian(5), 3)))
    theirs = PLDAccountant(value_discretization_interval=2.5e-5)
    theirs.compose(
        dp_accounting.ComposedDpEvent(
            [
                dp_accounting.SelfComposedDpEvent(
                    dp_accounting.PoissonSampledDpEvent(0.02, dp_accounting.GaussianDpEvent(1.2)),
                    50,
                ),
                dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(5), 3),
            ]
        )
    )
    assert spent(event, 1e-6).epsilon == pytest.approx(theirs.get_epsilon(1e-6), rel=1e-3)


# --- noise from ε


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
    ("target", "q", "steps", "delta"),
    [(1.0, 0.01, 1000, 1e-6), (8.0, 0.04, 2000, 1e-5), (0.2, 1.0, 1, 1e-5), (4.0, 1.0, 50, 1e-6)],
)
def test_noise_that_was_found_inverts_to_its_epsilon(target, q, steps, delta, accountant):
    setting = {"sampling_rate": q, "steps": steps, "delta": delta, "accountant": accountant}
    z = calibrate(epsilon=target, **setting)
    assert 0.99 * target <= epsilon(noise_multiplier=z, **setting) <= target


@pytest.mark.parametrize(
    ("steps", "accountant", "wanted"), [(2000, "rdp", 1.3562), (2000, "pld", 1.2915)]
)
def test_noise_for_the_settings_of_opacus(steps, accountant, wanted):
    found = calibrate(
        epsilon=8.0, delta=1e-5, sampling_rate=0.04, steps=steps, accountant=accountant
    )
    assert found == pytest.approx(wanted, rel=0.006)


def test_noise_for_one_sampled_query():
    found = calibrate(epsilon=1.0, delta=1e-5, sampling_rate=0.01)
    assert found == pytest.approx(0.67379294682, rel=2e-3)


def test_noise_for_a_cohort_of_a_fixed_size():
    found = calibrated(lambda z: Repeated(FixedSizeSampled(1000, 20, Gaussian(z)), 50), 2.0, 1e-6)
    back = spent(Repeated(FixedSizeSampled(1000, 20, Gaussian(found)), 50), 1e-6).epsilon
    assert 0.99 * 2.0 <= back <= 2.0


def test_where_nothing_is_released_no_noise_is_needed():
    assert calibrate(epsilon=1.0, delta=1e-6, steps=0) == 0
    assert calibrate(epsilon=1.0, delta=1e-6, sampling_rate=0.0, steps=9) == 0


def test_a_small_target_is_met_closely_too():
    setting = {"sampling_rate": 0.001, "steps": 1000, "delta": 1e-5}
    z = calibrate(epsilon=0.05, **setting)
    assert 0.99 * 0.05 <= epsilon(noise_multiplier=z, **setting) <= 0.05


def test_what_no_noise_keeps_is_refused_with_a_hint():
    with pytest.raises(ConfigError, match=r"still comes to more than ε = 0\.01") as caught:
        calibrated(lambda z: Repeated(Gaussian(z), 1000), 0.01, 1e-6, most=100.0)
    assert caught.value.hint


@pytest.mark.parametrize(
    "bad",
    [
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
        {"sampling_rate": -0.1},
        {"sampling_rate": 1.1},
        {"steps": -1},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
    ],
)
def test_arguments_that_are_none_are_refused_with_a_hint(bad):
    plain = {"noise_multiplier": 1.0, "delta": 1e-6, "sampling_rate": 0.1, "steps": 10}
    with pytest.raises(ConfigError) as caught:
        epsilon(**{**plain, **bad})
    assert caught.value.hint


@pytest.mark.parametrize(
    "bad", [{"epsilon": 0.0}, {"epsilon": math.nan}, {"epsilon": math.inf}, {"delta": 2.0}]
)
def test_a_target_that_is_none_is_refused_with_a_hint(bad):
    with pytest.raises(ConfigError) as caught:
        calibrate(**{"epsilon": 1.0, "delta": 1e-6, **bad})
    assert caught.value.hint


# --- the door


def test_it_is_reached_from_the_door():
    assert hanse.privacy.epsilon is epsilon
    assert hanse.privacy.calibrate is calibrate


def test_without_dp_accounting_the_bound_is_used_and_said(monkeypatch):
    monkeypatch.setattr(pld, "is_installed", lambda: False)
    found = spent(sampled(1.23456, 0.01, 77), 1e-6)
    assert found.accountant == "rdp"
    assert "hanse[dp]" in found.why


def test_neither_dp_accounting_nor_scipy_is_imported_before_it_is_needed():
    script = (
        "import sys, hanse, hanse.privacy, hanse.config.parse\n"
        "hanse.privacy.epsilon(noise_multiplier=1.0, delta=1e-5)\n"
        "print([m for m in ('scipy', 'dp_accounting', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_orders_are_above_one_and_sorted():
    assert rdp.ORDERS[0] > 1
    assert (np.diff(rdp.ORDERS) > 0).all()
    assert {*range(2, 65)} <= {*rdp.ORDERS[rdp.WHOLE].tolist()}
