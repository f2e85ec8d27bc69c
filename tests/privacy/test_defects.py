"""Mistakes that systems in use make or made, each as a test that Hanse would fail if it made it.

The numbers in the comments are how we count them, by reading the sources of others.
"""

import numpy as np
import pytest
from tests.train.models import binary, federation

import hanse
from hanse import (
    AdaptiveClip,
    Clip,
    Evaluation,
    FixedSize,
    GaussianNoise,
    Pipeline,
    PipelineError,
    Poisson,
    Privacy,
    Quorum,
    Weight,
)
from hanse.core.dp_events import FixedSizeSampled, Gaussian, PoissonSampled, Repeated
from hanse.core.layout import Layout
from hanse.core.ledger import entry_of
from hanse.core.seeds import stream
from hanse.errors import ConfigError
from hanse.privacy import secret
from hanse.privacy.claims import claims
from hanse.report.privacy import privacy

LAYOUT = Layout.build("float32", [("w", (16,), "trainable")])
PUBLIC = Weight(by="uniform", denominator=10.0)
NONE = Evaluation(release="none")


def chance(purpose: str):
    return stream(1, purpose)


def total(bound, counts: list[int]) -> np.ndarray:
    """Return the integer total of clients who all push as far as they can one way."""
    running = bound.accumulator()
    for examples in counts:
        update = np.full(16, 100.0, np.float32)
        share, _ = bound.encode(update, {"examples": examples}, chance)
        running.add(share, bound.grids)
    return running.vector


def test_noise_scaled_for_a_uniform_mean_under_a_mean_weighted_by_examples():
    """No. 3: with 99 clients of 10 rows and one of 1,000 the sensitivity is 50 times what the noise
    is scaled to. Here the large client moves the total by the bound that the noise is scaled to.
    """
    weight = Weight(by="examples", cap=1000, denominator=5.0)
    bound = Pipeline([weight, Clip(1.0), GaussianNoise(1.0)]).bind(LAYOUT, cohort=100)
    grid = bound.grids["model"]
    moved = (total(bound, [10] * 99 + [1000]) - total(bound, [10] * 99)) * 2.0**-grid.exponent
    assert 0.999 * bound.facts.l2 <= np.linalg.norm(moved) <= bound.facts.l2


def test_a_weight_that_nothing_bounds_under_noise():
    """No. 4: a sensitivity that knows the largest weight, and is never called."""
    with pytest.raises(PipelineError, match="the weights before it have no cap"):
        Pipeline([Weight(by="examples", denominator=5.0), Clip(1.0), GaussianNoise(1.0)])


def test_a_total_divided_by_the_weights_that_were_observed():
    """Nos. 4, 5, 17: a realised sum of weights, or count, tells who took part."""
    for weight in (Weight(by="examples", cap=10), Weight(by="uniform")):
        with pytest.raises(PipelineError, match="divided by the weights that were observed"):
            Pipeline([weight, Clip(1.0), GaussianNoise(1.0)])
    bound = Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1e-3)]).bind(LAYOUT, cohort=10)
    few, many = (bound.accumulator() for _ in range(2))
    share, _ = bound.encode(np.ones(16, np.float32), {}, chance)
    many.add(share, bound.grids)
    zero, _ = bound.encode(np.zeros(16, np.float32), {}, chance)
    for _ in range(9):
        many.add(zero, bound.grids)
    few.add(share, bound.grids)
    assert (bound.decode(few, chance)[0].vector == bound.decode(many, chance)[0].vector).all()


def test_an_adaptive_clip_accounted_with_the_inflated_multiplier():
    """No. 5: ε of the noise on the model alone, though the bits were paid for with the rest."""
    pipeline = Pipeline([PUBLIC, AdaptiveClip(cohort=10, bit_noise=1.0), GaussianNoise(1.0)])
    facts = pipeline.bind(LAYOUT, cohort=10).facts
    assert facts.total_multiplier > 1.0, "the model has more noise than is accounted"
    assert facts.noise_multiplier == 1.0
    spec = run(pipeline=pipeline)
    assert claims(spec, 1)[1].event == Repeated(Gaussian(1.0), 1)


def test_the_same_noise_in_each_round():
    """No. 5: a generator that is seeded anew each round."""
    bound = Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)]).bind(LAYOUT, cohort=10)
    drawn = [
        bound.decode(bound.accumulator(), lambda purpose, r=r: stream(7, r, purpose))[0].vector
        for r in range(200)
    ]
    assert len({vector.tobytes() for vector in drawn}) == 200
    pairs = np.corrcoef(np.ravel(drawn[:-1]), np.ravel(drawn[1:]))[0, 1]
    assert abs(pairs) < 5 / np.sqrt(200 * 16)


def run(sampler=None, rounds: int = 3, **given):
    """Return the spec of a run over four clients."""
    found = hanse.simulate(
        binary(), federation(clients=4),
        strategy=None if sampler is None else hanse.fedavg(sampler=sampler),
        rounds=rounds, evaluation=NONE, privacy=Privacy(delta=1e-5), **given,
    )  # fmt: skip
    return found.spec


@pytest.mark.parametrize(
    ("sampler", "event"),
    [
        (FixedSize(2), FixedSizeSampled(4, 2, Gaussian(1.0))),
        (Poisson(0.5), PoissonSampled(0.5, Gaussian(1.0))),
        (None, Gaussian(1.0)),
    ],
)
def test_one_sampler_drawn_and_another_accounted(sampler, event):
    """No. 9: cohorts of a fixed size, and an accountant of Poisson sampling."""
    spec = run(sampler, pipeline=Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)]))
    assert claims(spec)[2].event == Repeated(event, 3)


def test_noise_from_a_seed_of_32_bits(monkeypatch):
    """No. 11: a search through all seeds finds the noise. And no. 12: a fallback that is no secret.

    Deployed noise has a key of 256 bits from the operating system, and none without it.
    """
    asked = list[int]()
    monkeypatch.setattr(secret.os, "urandom", lambda n: asked.append(n) or bytes(range(n)))
    secret.fresh("noise")
    assert asked == [32]

    def broken(_: int) -> bytes:
        raise OSError("no randomness")

    monkeypatch.setattr(secret.os, "urandom", broken)
    with pytest.raises(OSError, match="no randomness"):
        secret.fresh("noise")


def test_buffers_that_leave_without_noise_beside_a_private_model():
    """Nos. 3, 13, 14, 19: statistics of a batch norm, noised as weights or not at all."""
    pipeline = Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)])
    with pytest.raises(PipelineError, match="buffers would leave in the clear"):
        pipeline.bind(LAYOUT, cohort=4, extras={"buffers": 4})


def test_steps_or_rounds_that_are_not_counted():
    """No. 16: the number of releases is set to 1 somewhere."""
    spec = run(rounds=7, pipeline=Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)]))
    epsilon = claims(spec)[1].epsilon
    wanted = hanse.privacy.epsilon(noise_multiplier=1.0, steps=7, delta=1e-5)
    assert epsilon is not None
    assert epsilon.epsilon == pytest.approx(wanted)


def test_clients_who_share_their_randomness_over_all_seeds():
    """No. 18: keys of the round's number alone."""
    drawn = {stream(seed, 1, client, "noise").bytes(8) for seed in (0, 1) for client in "ab"}
    assert len(drawn) == 4


def test_a_guarantee_that_does_not_say_whom_it_is_for():
    """No. 20: "private" for rows, read as private for clients."""
    spec = run(pipeline=Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)]))
    assert spec.json()["privacy"]["unit"] == "client"
    (section,) = privacy(spec, simulated=True)
    assert section.title.startswith("Privacy of one client, after all 3 rounds at δ = 1e-05")
    with pytest.raises(ConfigError, match="is no entry"):
        entry_of(
            "reserved",
            {
                "run": "a",
                "sources": [],
                "releases": 1,
                "tells": {"sites": Gaussian(1.0).json()},
            },
        )


def test_a_round_that_ends_because_nobody_came_or_somebody_sent_nan():
    """The general list: a failing round, or a named client, tells who was there."""
    with pytest.raises(ConfigError, match="would show beside a noised model"):
        run(pipeline=Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)]), quorum=Quorum(minimum=2))
    bound = Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)]).bind(LAYOUT, cohort=4)
    empty = bound.decode(bound.accumulator(), chance)[0].vector
    assert empty.any(), "nobody came, and there is noise all the same"


def test_exact_metrics_beside_a_private_model():
    """The general list: losses, counts and clip fractions leave the boundary as they are."""
    pipeline = Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)])
    for release in ("per-site", "sum"):
        with pytest.raises(ConfigError, match="exact metrics leave beside a noised model"):
            hanse.simulate(binary(), federation(clients=4), rounds=1, pipeline=pipeline,
                           evaluation=Evaluation(release=release))  # fmt: skip
    bound = pipeline.bind(LAYOUT, cohort=4, scalars=binary().training_scalars())
    assert bound.scalars_size == 0, "what training counts stays where it was counted"


def test_a_promise_by_replacing_at_the_price_of_adding():
    """The general list: replacing one client by another moves a sum by 2C."""
    spec = run(FixedSize(2), pipeline=Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)]))
    sites, recipients = claims(spec, 1)[1:]
    assert recipients.epsilon is not None
    assert sites.epsilon is not None
    assert recipients.epsilon.relation == "replace one"
    full = hanse.simulate(
        binary(), federation(clients=4), strategy=hanse.fedavg(sampler=FixedSize(4)), rounds=1,
        evaluation=NONE, privacy=Privacy(delta=1e-5),
        pipeline=Pipeline([PUBLIC, Clip(1.0), GaussianNoise(1.0)]),
    ).spec  # fmt: skip
    everybody = claims(full)[2].epsilon
    twice = hanse.privacy.epsilon(noise_multiplier=0.5, delta=1e-5)
    assert everybody is not None
    assert everybody.epsilon >= twice * 0.999
