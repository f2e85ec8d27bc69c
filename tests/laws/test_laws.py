"""Laws that hold for every step: each runs on all of EXAMPLES."""

import inspect
import itertools
import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.laws.steps import EXAMPLES

from hanse.core import canonical
from hanse.core.facts import Facts
from hanse.core.layout import Layout
from hanse.core.pipeline import BoundPipeline, Pipeline
from hanse.core.reduce import Share
from hanse.core.seeds import stream
from hanse.core.step import Place, Refused, Step, Update
from hanse.core.sums import norm, on_grid, on_wire
from hanse.core.weight import Weight
from hanse.errors import PipelineError
from hanse.names import REDUCERS, STEPS
from hanse.privacy import LocalGaussianNoise, Rotate, ScaledRound, SkellamNoise

NAMES = STEPS | REDUCERS
ONE_BY_ONE = (LocalGaussianNoise, Rotate, ScaledRound, SkellamNoise)
COHORT = 5
SIZE = 16  # one tensor of 16 numbers: no padding in float32 and float64
WIRE = {"float32": 2.0**-22, "float64": 2.0**-50}  # relative: the factor's rounding, the product's
DENORMAL = {"float32": 2.0**-149, "float64": 2.0**-1074}
WIDTH = {"float32": 32, "float64": 64}

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=str)
few = settings(max_examples=settings().max_examples // 8)  # each law runs on every example step
every_dtype = pytest.mark.parametrize("dtype", WIRE)


@dataclass(frozen=True)
class Client:
    """What one client has before its pipeline."""

    vector: np.ndarray
    counts: dict[str, int]


def clients(dtype: str, largest: float):
    largest = float(np.dtype(dtype).type(largest))
    element = st.floats(-largest, largest, width=WIDTH[dtype])
    spike = st.tuples(st.integers(0, SIZE - 1), element).map(
        lambda pair: np.eye(1, SIZE, pair[0], dtype=dtype)[0] * np.dtype(dtype).type(pair[1])
    )
    some = st.integers(0, 1000)
    return st.builds(
        lambda vector, examples, steps: Client(vector, {"examples": examples, "steps": steps}),
        arrays(dtype, SIZE, elements=element, fill=element) | spike,
        some,
        some,
    )


def chance(purpose: str) -> np.random.Generator:
    return stream(5, 2, "client", purpose)


def bind(pipeline: Pipeline, dtype: str) -> BoundPipeline:
    layout = Layout.build(dtype, [("w", (SIZE,), "trainable")])
    return pipeline.bind(layout, cohort=COHORT)


def encode(bound: BoundPipeline, client: Client) -> Share | Refused:
    return bound.encode(client.vector, client.counts, chance, announced=bound.announce({}))[0]


def square(vector: np.ndarray) -> Fraction:
    """Exact squared L2 norm."""
    return sum((Fraction(x) ** 2 for x in vector.tolist()), Fraction(0))


# --- claims


@every_dtype
@every_example
@given(data=st.data())
@few
def test_a_share_keeps_the_claims_that_check_makes_for_it(example, dtype, data):
    bound = bind(example.pipeline, dtype)
    largest = float(np.finfo("float32").max) if dtype == "float32" else 1e150
    share = encode(bound, data.draw(clients(dtype, largest)))
    if isinstance(share, Refused):
        assert share.reason.startswith("out of range")
        assert bound.facts.linf < bound.facts.l2  # a bound leaves no coordinate out of range
        return
    facts, grid = bound.facts, bound.grids["model"]
    wire = on_wire(share.vector, share.scale)
    integers = on_grid(wire, grid.exponent)
    step = Fraction(2) ** -grid.exponent
    assert max(map(Fraction, np.abs(wire).tolist())) <= Fraction(facts.linf)
    assert max(map(abs, integers.tolist())) * step <= Fraction(facts.linf) + step / 2
    if math.isfinite(facts.l2):
        assert square(wire) <= Fraction(facts.l2) ** 2
        assert square(integers) * step**2 <= Fraction(facts.l2) ** 2


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if e.step.kind == "bound" and e.unit == 1.0], ids=str
)  # fmt: skip
@every_dtype
@given(data=st.data())
@few
def test_a_bound_never_lengthens_and_is_idempotent(example, dtype, data):
    vector = data.draw(clients(dtype, 1e37)).vector
    place = Place(Facts(), chance, example.step.announce({}))
    once = example.step.encode(Update(vector, norm(vector)), place)
    twice = example.step.encode(once, place)
    assert 0 <= once.scale <= 1
    assert twice.scale == pytest.approx(once.scale, rel=2.0**-50, abs=0)
    assert square(on_wire(once.vector, once.scale)) <= square(vector)


@every_dtype
@every_example
@given(data=st.data())
@few
def test_many_at_once_are_encoded_and_summed_as_each_is(example, dtype, data):
    bound = bind(example.pipeline, dtype)
    some = data.draw(st.lists(clients(dtype, 1e30), min_size=1, max_size=COHORT))
    each = [encode(bound, client) for client in some]
    vectors = np.stack([client.vector for client in some])
    counts = {name: np.array([client.counts[name] for client in some]) for name in some[0].counts}
    shares = bound.encode_many(vectors, counts, bound.announce({}))
    if any(isinstance(share, Refused) for share in each) or any(
        isinstance(step, ONE_BY_ONE) for step in example.pipeline.steps
    ):
        assert shares is None  # one by one, so that whoever is refused is named
        return
    assert shares is not None
    one, many = bound.accumulator(), bound.accumulator()
    many.add_many(shares, bound.grids)
    for number, share in enumerate(each):
        one.add(share, bound.grids)
        told = (share.scale, share.length, share.was_bounded, share.scalars.tolist())
        assert told == (
            *(shares.scales[number], shares.lengths[number], shares.were_bounded[number]),
            shares.scalars[number].tolist(),
        )
    assert (one.vector.tolist(), one.scalars.tolist()) == (
        *(many.vector.tolist(), many.scalars.tolist()),
    )
    assert one.reports == many.reports


# --- the two ends meet


def through(bound: BoundPipeline, client: Client) -> Update:
    """What the steps let through, with its factors pending; codecs let through what they get."""
    update = Update(client.vector, norm(client.vector), counts=client.counts)
    for step, before, _ in bound.trace:
        if step.kind == "linear" or isinstance(step, SkellamNoise):
            continue
        update = step.encode(update, Place(before, chance, step.announce({})))
    return update


@every_dtype
@every_example
@given(data=st.data())
@few
def test_decode_of_the_sum_is_the_mean_of_what_the_step_lets_through(example, dtype, data):
    bound = bind(example.pipeline, dtype)
    # Within every example's limit, so that nobody is refused.
    largest = min(bound.grids["model"].limit, 2.0**16) / 1024
    cohort = data.draw(st.lists(clients(dtype, largest), max_size=COHORT))
    running, grid = bound.accumulator(), bound.grids["model"]
    for client in cohort:
        running.add(encode(bound, client), bound.grids)
    total, _ = bound.decode(running, chance)

    updates = [through(bound, client) for client in cohort]
    weight = next(step for step in bound.pipeline.applied if isinstance(step, Weight))
    by = weight.denominator
    if by == "observed":
        by = sum(update.weight for update in updates) or 1.0
    parts = [update.vector.astype(np.float64) * update.scale for update in updates]
    mean = np.array([math.fsum(column) / by for column in np.transpose(parts)] or np.zeros(SIZE))
    error = sum((np.abs(part) * WIRE[dtype] for part in parts), np.zeros(SIZE))
    error += len(parts) * (grid.step / 2 + DENORMAL[dtype]) + np.abs(mean) * by * 2.0**-50
    # 16 fixed draws: one is beyond 7 standard deviations with probability below 1e-10.
    if bound.facts.noise_multiplier:
        error += 7 * bound.facts.noise_multiplier * bound.facts.l2
    error += len(parts) * example.error + example.total_error
    assert (np.abs(total.vector / example.unit - mean) <= error / by).all()
    assert total.reports == len(cohort)


@every_dtype
@every_example
def test_a_share_is_the_same_for_the_same_place(example, dtype):
    bound = bind(example.pipeline, dtype)
    vector = (stream(1, "same").standard_normal(SIZE) * 1e-4).astype(dtype)
    one, two = (encode(bound, Client(vector.copy(), {"examples": 5, "steps": 3})) for _ in "ab")
    assert one.vector.tobytes() == two.vector.tobytes()
    assert one.scale == two.scale
    assert one.scalars.tobytes() == two.scalars.tobytes()


@every_dtype
@every_example
def test_steps_do_not_write_into_the_update_they_get(example, dtype):
    bound = bind(example.pipeline, dtype)
    vector = (stream(1, "kept").standard_normal(SIZE) * 1e-4).astype(dtype)
    before, counts = vector.tobytes(), {"examples": 5, "steps": 3}
    vector.flags.writeable = False
    running = bound.accumulator()
    running.add(encode(bound, Client(vector, counts)), bound.grids)
    assert vector.tobytes() == before
    assert counts == {"examples": 5, "steps": 3}


# --- facts


def folded(pipeline: Pipeline, facts: Facts) -> Facts:
    for step in pipeline.applied:
        facts = step.check(facts)
        facts = replace(facts, memory=facts.memory or step.has_memory)
    return facts


@every_example
def test_the_facts_of_a_pipeline_are_its_steps_folded(example):
    assert example.pipeline.facts() == folded(example.pipeline, Facts())
    bound = bind(example.pipeline, "float32")
    assert bound.facts == folded(example.pipeline, bound.start)


def test_the_facts_of_any_chain_of_examples_are_its_steps_folded():
    def of(*kinds: str) -> list[tuple[Step, ...]]:
        return [(), *((e.step,) for e in EXAMPLES if e.step.kind in kinds)]

    built = 0
    for parts in itertools.product(of("weight"), of("bound"), of("noise"), of("reducer")):
        steps = [step for part in parts for step in part]
        try:
            pipeline = Pipeline(steps)
        except PipelineError:
            assert any(step.kind == "noise" for step in steps)
            continue
        built += 1
        assert pipeline.facts() == folded(pipeline, Facts())
    assert built > 100


@every_example
def test_checking_is_pure_and_says_the_same_each_time(example):
    before = next(facts for step, facts, _ in example.pipeline.trace() if step is example.step)
    kept = replace(before)
    assert example.step.check(before) == example.step.check(before)
    assert before == kept


@every_example
def test_a_step_never_claims_less_than_zero_or_nan(example):
    for _, before, after in example.pipeline.trace():
        assert after.l2 >= 0
        assert after.linf >= 0
        assert after.linf <= after.l2 or after.l2 == before.l2


# --- settings and names


@every_example
def test_settings_go_through_json_and_come_back_as_the_same_step(example):
    # Canonical JSON has doubles only: 2^64 is written 18446744073709552000.
    table = json.loads(canonical.encode(example.step.settings()), parse_int=float)
    assert NAMES[table.pop("step")](**table) == example.step


@every_example
def test_a_step_is_in_the_name_table_under_its_own_name(example):
    assert NAMES[example.step.name] is type(example.step)


def test_every_named_step_has_an_example_here():
    assert {type(example.step) for example in EXAMPLES} == set(NAMES.values())


@every_example
def test_steps_are_values(example):
    step = example.step
    again = type(step)(**{n: v for n, v in step.settings().items() if n != "step"})
    assert again == step
    assert hash(again) == hash(step)
    (name, value), *_ = ((f, getattr(step, f)) for f in inspect.signature(type(step)).parameters)
    with pytest.raises(AttributeError):
        setattr(step, name, value)
