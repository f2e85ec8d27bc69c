"""Noise that hides a person: all of its rows move the sum by the clip at most."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy.test_example_claims import GIVEN, PROMISE, run_file, told
from tests.train.models import classes, table, tabular
from torch.utils.data import TensorDataset

import hanse
from hanse import ConfigError, DataError, LocalTraining
from hanse.core.dp_events import Gaussian, PoissonSampled, Repeated
from hanse.core.seeds import stream
from hanse.core.work import LocalPrivacy, Train
from hanse.data import OfPersons
from hanse.privacy.accounting import epsilon
from hanse.privacy.claims import claims, release_of
from hanse.train.local import Turn
from hanse.train.torch_private import by_person

PRIVATE = LocalPrivacy(1.0, 1.0, 0.5, unit="person", rows_per_person=3)
LOCAL = LocalTraining(lr=0.1, batch_size=4, steps=3, privacy=PRIVATE)
TURN = Turn(3, 1, "one")
PERSON = GIVEN + 'unit = "person"\nrows_per_person = 4\n'


def kernel_and_data(x, y, ids):
    kernel = classes(partial(tabular, 2)).kernel()
    return kernel, kernel.prepare(OfPersons((x, y), ids), TURN)


def total(kernel, data, numbers, clip):
    """The sum of the clipped gradients of some rows, without noise."""
    training = kernel.private
    return training._summed(training._clipped(data), data, torch.as_tensor(numbers), clip)


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    most=st.sampled_from([None, 1, 2, 5]),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
    step=st.integers(0, 99),
)
def test_a_person_less_moves_the_sum_by_the_clip_at_most(ids, most, size, step):
    """The rows of whoever is taken, with and without one of them."""
    x, y = table(len(ids), 1)
    kernel, data = kernel_and_data(size * x, y, ids)
    everyone = replace(PRIVATE, clip=0.7, sampling_rate=1.0, rows_per_person=most)
    numbers, clip = kernel.private._taken(data, everyone, TURN, step)
    whole = total(kernel, data, numbers, clip)
    for person in {*ids}:
        others = np.asarray(ids)[numbers.numpy()] != person
        without = total(kernel, data, numbers[others], clip[others])
        assert np.linalg.norm(whole - without) <= 0.7 * (1 + 1e-6)


def test_the_bound_is_nearly_reached():
    """Five rows alike, of one person, with gradients far above the clip."""
    x, y = np.full((5, 27), 1e3, np.float32), np.zeros(5, np.int64)
    kernel, data = kernel_and_data(x, y, ["a"] * 5)
    everyone = replace(PRIVATE, clip=0.7, sampling_rate=1.0, rows_per_person=None)
    taken = kernel.private._taken(data, everyone, TURN, 0)
    assert 0.99 * 0.7 <= np.linalg.norm(total(kernel, data, *taken)) <= 0.7


def test_a_step_takes_persons_whole_up_to_so_many_rows_and_each_by_itself():
    """Of 12,000 draws a rate is off by more than 5 deviations once in 10^6 times."""
    persons = np.array([0] * 7 + [1] + [2] * 2 + [3] * 5)
    sizes, taken, rows = [], np.zeros(4), np.zeros(15)
    for step in range(3000):
        numbers, of = by_person(TURN, step, persons, 0.3, 4)
        whose = persons[numbers.numpy()]
        found, counts = np.unique(whose, return_counts=True)
        assert counts.tolist() == [min(4, (persons == p).sum()) for p in found]
        assert of.tolist() == [min(4, (persons == p).sum()) for p in whose]
        assert (np.diff(numbers.numpy()) > 0).all()
        taken[found] += 1
        rows[numbers.numpy()] += 1
        sizes.append(len(found))
    deviation = 5 * np.sqrt(0.3 * 0.7 / 3000)
    assert np.abs(taken / 3000 - 0.3).max() < deviation
    assert np.abs(rows[:7] / taken[0] - 4 / 7).max() < 5 * np.sqrt(0.25 / taken[0])
    assert abs(np.var(sizes) - 4 * 0.3 * 0.7) < 0.1  # independent: a shared draw would have 3.4


def test_with_one_row_each_persons_are_examples():
    x, y = table(30, 1)
    kernel, data = kernel_and_data(x, y, [f"p{n}" for n in range(30)])
    numbers, of = by_person(TURN, 0, data.persons, 0.4, 3)
    drawn = stream(TURN.seed, TURN.round, TURN.client, "dp-sgd batch 0").random(30)
    assert of.tolist() == [1] * len(numbers)
    assert len(numbers) == (drawn < 0.4).sum()
    one = total(kernel, data, numbers, 1.0 / of.double())
    np.testing.assert_array_equal(one, total(kernel, data, numbers, 1.0))


def test_ids_are_told_apart_and_nothing_else():
    x, y = table(6, 1)
    _, data = kernel_and_data(x, y, ["b", "a", "b", "c", "a", "b"])
    assert data.persons.tolist() == [1, 0, 1, 2, 0, 1]
    _, again = kernel_and_data(x, y, np.array([7, -2, 7, 90, -2, 7]))
    assert again.persons.tolist() == data.persons.tolist()
    items = classes(partial(tabular, 2)).kernel()
    one_by_one = TensorDataset(torch.as_tensor(x), torch.as_tensor(y))
    listed = torch.utils.data.Subset(one_by_one, range(6))
    assert items.prepare(OfPersons(listed, ["a"] * 6), TURN).persons.tolist() == [0] * 6


@pytest.mark.parametrize(
    ("ids", "text"),
    [([1.5, 2.0], "object"), (np.array([1.5, 2.0]), "float64"), (np.ones((2, 1), int), "shape"),
     (["a", " "], "is empty"), (["a", None], "object"), (["a", float("nan")], "object"),
     ([1, "1"], "object"), ([1, True], "object"), (["a", "a\0"], "object"),
     (np.array(["a", float("nan")], object), "object"), (["a"], "1 ids of persons for 2 rows")],
)  # fmt: skip
def test_ids_that_tell_nobody_apart_are_refused(ids, text):
    x, y = table(2, 1)
    with pytest.raises(DataError, match=text) as caught:
        kernel_and_data(x, y, ids)
    assert caught.value.hint


def test_persons_have_to_be_said():
    x, y = table(8, 1)
    kernel = classes(partial(tabular, 2)).kernel()
    data = kernel.prepare((x, y), TURN)
    start = classes(partial(tabular, 2)).describe(0)[1]
    with pytest.raises(DataError, match="whose each row is is not said") as caught:
        kernel.train(start, data, Train(LOCAL), TURN, None)
    assert "OfPersons" in caught.value.hint


def test_the_claim_for_a_person_is_that_for_an_example_of_the_same_numbers(tmp_path):
    top = PROMISE.replace("example", "person")
    found = claims(run_file(tmp_path, PERSON, top).sketch)
    assert {claim.unit for claim in found} == {"person"}
    wanted = epsilon(noise_multiplier=1.1, sampling_rate=0.05, steps=200, delta=1e-5)
    assert {claim.epsilon.epsilon for claim in found} == {wanted}


def test_a_person_at_two_sites_is_told_of_twice_and_each_site_counts_its_own(tmp_path):
    top = PROMISE.replace("example", "person")
    spec = run_file(tmp_path, PERSON + "sites_per_person = 2\n", top).sketch
    event = Repeated(PoissonSampled(0.05, Gaussian(1.1)), 400)
    assert {claim.event for claim in claims(spec)} == {event}
    assert release_of(spec)["coordinator"] == {
        "person": Repeated(PoissonSampled(0.05, Gaussian(1.1)), 20)
    }
    said = told(run_file(tmp_path, PERSON + "sites_per_person = 2\n", top))
    assert "of persons drawn with probability 0.05, at 2 clients; neighbours add or remove" in said
    assert "each person with probability 0.05, at most 4 of its rows, together clipped to 1" in said
    assert "hides single persons against everybody" in said


def test_noise_is_found_for_persons_and_for_all_of_their_sites(tmp_path):
    without = PERSON.replace("noise_multiplier = 1.1\n", "")
    top = PROMISE.replace("example", "person") + "epsilon = 3.0\n"
    one = run_file(tmp_path, without, top).sketch
    two = run_file(tmp_path, without + "sites_per_person = 2\n", top).sketch
    for spec in (one, two):
        assert 0.99 * 3.0 <= claims(spec)[0].epsilon.epsilon <= 3.0
    assert two.local.privacy.noise_multiplier > 1.1 * one.local.privacy.noise_multiplier


@pytest.mark.parametrize(
    ("private", "promise", "text"),
    [
        (GIVEN, PROMISE.replace("example", "person"), "hides one example"),
        (PERSON, PROMISE, "hides one person"),
        (GIVEN + "rows_per_person = 4\n", PROMISE, 'beside unit = "example"'),
        (PERSON.replace("= 4", "= 0"), "", "is no number of them"),
        (PERSON + "sites_per_person = true\n", "", "sites_per_person"),
        (PERSON, '[privacy]\ndelta = 1e-5\nunit = "site"\n', "hides one person only"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, private, promise, text):
    with pytest.raises(ConfigError, match=text) as caught:
        run_file(tmp_path, private, promise)
    assert caught.value.hint


def test_settings_of_the_other_unit_stay_out_of_a_spec():
    assert "sites_per_person" not in LocalPrivacy(1.0, 1.0, 0.5).settings()
    assert PRIVATE.settings()["rows_per_person"] == 3
    assert "rows_per_person" not in replace(PRIVATE, rows_per_person=None).settings()


def visits(site):
    x, y = table(40, 1 + site.id.count("b"))
    return OfPersons((x, y), np.arange(40) % 11), None


def test_a_federation_trains_so_in_one_process_or_two():
    digests = {
        hanse.simulate(
            classes(partial(tabular, 2)), visits, sites=["a", "b"], rounds=2, local=LOCAL, seed=1,
            workers=workers, pipeline=hanse.Pipeline([hanse.Weight(by="uniform")]),
            evaluation=hanse.Evaluation(release="none"),
        ).model_digest
        for workers in (1, 2)
    }  # fmt: skip
    assert len(digests) == 1
