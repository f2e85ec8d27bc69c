"""Numbers that correct code gives: fixed points on quadratics, first steps, identities.

Client i has f_i(x) = a_i/2·(x − b_i)² and weight p_i. K full-gradient steps at rate η take it from
x to x + w_i·(b_i − x) with w_i = 1 − (1 − η·a_i)^K; a proximal term of weight μ makes that
w_i = (1 − (1 − η·(a_i + μ))^K)·a_i/(a_i + μ). So FedAvg's round is affine: it converges to
x* = Σp_i·w_i·b_i/Σp_i·w_i, and is x* + (1 − Σp_i·w_i)^T·(x_0 − x*) after T rounds.
"""

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies.quadratics import BOUND, LAYOUT, Quadratic, descent, final, models

from hanse.core.pipeline import Pipeline
from hanse.core.samplers import FixedSize
from hanse.core.weight import Weight
from hanse.core.work import Train
from hanse.strategies import Strategy, fedadam, fedavg, fedavgm, fedprox, fedsgd

PAIR = (Quadratic(a=1.0, b=0.0), Quadratic(a=10.0, b=1.0))
OPTIMUM = 10 / 11


def near(expected, tolerance):
    return pytest.approx(expected, rel=0, abs=tolerance)


# Printed values


@pytest.mark.parametrize(
    ("lr", "rounds", "expected"),
    [
        (0.05, 60, 0.7134421696847272),
        (0.01, 150, 0.8719870525988809),
        (0.001, 700, 0.9057039624947787),
    ],
)
def test_fedavg_drifts_to_the_fixed_point_of_its_local_steps(lr, rounds, expected):
    x = final(fedavg(), PAIR, local=descent(lr=lr, steps=10), rounds=rounds)
    assert x == near(expected, 1e-12)
    assert x < OPTIMUM


def test_fedavg_with_unequal_local_steps_optimises_another_objective():
    unequal = (replace(PAIR[0], steps=10), replace(PAIR[1], steps=1))
    x = final(fedavg(), unequal, local=descent(lr=0.001, steps=10), rounds=3000)
    assert x == near(0.5011245286978976, 1e-12)


@pytest.mark.parametrize(
    ("mu", "expected"),
    [(0, 0.5), (0.1, 0.5213270142), (1, 0.6451612903), (10, 0.8461538462), (100, 0.9017857143)],
)
def test_fedprox_with_exact_local_solves_has_its_closed_form(mu, expected):
    solvers = tuple(replace(client, exact=True) for client in PAIR)
    x = final(fedprox(mu=mu), solvers, rounds=600)
    w = [client.a / (client.a + mu) for client in PAIR]
    assert x == near(w[1] / sum(w), 1e-12)
    assert x == near(expected, 5e-11)  # the digits that are printed


@pytest.mark.parametrize(
    ("initial_accumulator", "expected"), [(0.0, 0.9900990099), (None, 0.9900504888)]
)
def test_the_first_step_of_fedadam_has_no_bias_correction(initial_accumulator, expected):
    unit_update = [Quadratic(a=1.0, b=1.0)]  # one step at rate 1 goes from 0 to 1
    server = fedadam(server_lr=1.0, initial_accumulator=initial_accumulator)
    assert final(server, unit_update, rounds=1) == near(expected, 5e-11)


# Closed forms beyond the printed parameters


@dataclass(frozen=True)
class Case:
    """A federation, how it trains, and what the closed form says of it."""

    clients: list[Quadratic]
    lr: float
    cap: float | None
    start: float
    mu: float = 0.0

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline([Weight(by="examples", cap=self.cap), BOUND])

    @property
    def omega(self) -> list[float]:
        """The weight of each client."""
        if self.cap is None:
            return [float(client.examples) for client in self.clients]
        return [min(client.examples, self.cap) / self.cap for client in self.clients]

    def mean(self, values) -> float:
        """Return Σp_i·values_i."""
        weighted = (o * value for o, value in zip(self.omega, values, strict=True))
        return math.fsum(weighted) / math.fsum(self.omega)

    def fixed_point(self) -> tuple[float, float]:
        """Return x* and the factor 1 − Σp·w by which a round approaches it."""
        curved = [(client, client.a + self.mu) for client in self.clients]
        w = [(1 - (1 - self.lr * c) ** client.steps) * client.a / c for client, c in curved]
        pulls = [w_i * client.b for w_i, client in zip(w, self.clients, strict=True)]
        return self.mean(pulls) / self.mean(w), 1 - self.mean(w)

    def rounding(self) -> float:
        """Return how far a round may be from the closed form, all numbers being within 8.

        Half a grid step per share, half a resolution (2^-32) per capped weight, float64 noise.
        """
        grid = self.pipeline.bind(LAYOUT, cohort=len(self.clients)).grids["model"]
        weight = 2 * 8 * 2.0**-33 if self.cap else 0.0
        return len(self.clients) * (grid.step / 2 + weight) / sum(self.omega) + 1e-13

    def run(self, strategy: Strategy, *, rounds: int) -> list[float]:
        return models(
            strategy,
            self.clients,
            rounds=rounds,
            local=descent(lr=self.lr, steps=1),
            pipeline=self.pipeline,
            start=self.start,
        )


NO_MU = st.just(0.0)
MUS = NO_MU | st.floats(0, 10)


def cases(*, a=(0.1, 10.0), steps=(1, 20), mus=NO_MU, fractions=(0.05, 0.95)):
    client = st.builds(
        Quadratic,
        a=st.floats(*a),
        b=st.floats(-4, 4),
        examples=st.integers(1, 1000),
        steps=st.integers(*steps),
    )

    def case(clients, mu, fraction, cap, start):
        lr = fraction / (max(client.a for client in clients) + mu)  # so that descent contracts
        return Case(clients, lr, cap, start, mu)

    return st.builds(
        case,
        clients=st.lists(client, min_size=1, max_size=4),
        mu=mus,
        fraction=st.floats(*fractions),
        cap=st.none() | st.floats(1, 1000),
        start=st.floats(-4, 4),
    )


@given(cases(mus=MUS), st.integers(1, 8))
def test_every_round_of_fedavg_and_fedprox_follows_the_closed_form(case, rounds):
    strategy = fedprox(mu=case.mu) if case.mu else fedavg()
    x_star, factor = case.fixed_point()
    expected = [x_star + factor**t * (case.start - x_star) for t in range(1, rounds + 1)]
    assert case.run(strategy, rounds=rounds) == near(expected, rounds * case.rounding())


@given(cases(mus=MUS))
def test_a_round_from_the_fixed_point_stays_there(case):
    x_star, _ = case.fixed_point()
    settled = replace(case, start=x_star)
    assert settled.run(fedprox(mu=case.mu), rounds=1) == near([x_star], case.rounding())


@given(cases(a=(1.0, 3.0), steps=(20, 30), mus=st.floats(0, 0.5), fractions=(0.7, 0.95)))
def test_fedprox_converges_to_its_fixed_point_from_anywhere(case):
    x_star, factor = case.fixed_point()
    assert factor < 0.35
    x = case.run(fedprox(mu=case.mu), rounds=30)[-1]  # 8·0.35^30 < 2e-13
    assert x == near(x_star, case.rounding() / (1 - factor) + 2e-13)


# Identities


@given(cases())
def test_fedprox_with_mu_0_is_fedavg_to_the_bit(case):
    assert case.run(fedprox(mu=0), rounds=5) == case.run(fedavg(), rounds=5)


@given(cases())
def test_fedavgm_with_momentum_0_is_fedavg_to_the_bit(case):
    assert case.run(fedavgm(momentum=0), rounds=5) == case.run(fedavg(), rounds=5)


@given(cases())
def test_a_server_step_at_rate_1_gives_the_weighted_mean_of_the_local_models(case):
    """FedOpt with SGD at rate 1 on the mean update is FedAvg as Algorithm 1 writes it."""
    work = Train(descent(lr=case.lr, steps=1))
    mean = case.mean(client.train(case.start, work) for client in case.clients)
    assert case.run(fedavg(server_lr=1.0), rounds=1) == near([mean], case.rounding())


@given(st.floats(0.1, 10), st.floats(-4, 4), st.integers(1, 20), st.floats(0.05, 0.95))
def test_one_client_is_centralised_gradient_descent(a, b, steps, fraction):
    lr, x = fraction / a, 4.0
    for _ in range(5 * steps):
        x -= lr * a * (x - b)
    local = descent(lr=lr, steps=steps)
    assert final(fedavg(), [Quadratic(a, b)], rounds=5, local=local, start=4.0) == near(x, 1e-12)


@given(cases(steps=(1, 1)))
def test_one_full_batch_step_is_gradient_descent_on_the_weighted_objective(case):
    x, expected = case.start, []
    for _ in range(5):
        x -= case.lr * case.mean(client.a * (x - client.b) for client in case.clients)
        expected.append(x)
    assert case.run(fedavg(), rounds=5) == near(expected, 5 * case.rounding())


@given(cases(a=(0.1, 1.0), steps=(1, 1)))
def test_fedsgd_is_fedavg_with_one_full_batch_step(case):
    bound = 5 * (1 + case.lr) * case.rounding()
    assert case.run(fedsgd(lr=case.lr), rounds=5) == near(case.run(fedavg(), rounds=5), bound)


def test_a_cohort_of_one_learns_from_that_client_alone():
    x = models(fedavg(sampler=FixedSize(1)), PAIR, local=descent(lr=0.05, steps=1), rounds=40)
    steps = zip([0.0, *x], x, strict=False)
    followed = [
        [after == near(before - 0.05 * client.a * (before - client.b), 1e-13) for client in PAIR]
        for before, after in steps
    ]
    assert all(any(row) for row in followed)
    assert {(True, False), (False, True)} <= {tuple(row) for row in followed}
