"""Samplers: who takes part, how often, and what is said of it to an accountant.

Frequencies are tested at a fixed seed with bounds that hold for any sample size: Hoeffding's for a
frequency, Dvoretzky–Kiefer–Wolfowitz's (with Massart's constant) for a distribution. A correct
sampler with another seed fails each such test with probability below ALARM.
"""

import hashlib
import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from hanse.core import canonical, seeds
from hanse.core.samplers import All, FixedSize, Poisson, SamplingLaw
from hanse.errors import ConfigError

ALARM = 1e-6
ROUNDS = 20_000
SEED = 11
SAMPLERS = [All(), FixedSize(size=3), Poisson(rate=0.3)]


def people(n):
    return tuple(f"client-{i:03}" for i in range(n))


def hoeffding(trials, events=1):
    """Return by how much any of ``events`` frequencies may miss its probability."""
    return math.sqrt(math.log(2 * events / ALARM) / (2 * trials))


def cohorts(sampler, population, rounds=ROUNDS):
    return [sampler.sample(population, SEED, round) for round in range(1, rounds + 1)]


@pytest.fixture(params=SAMPLERS, ids=lambda sampler: sampler.name)
def sampler(request):
    return request.param


class TestSampler:
    """What every sampler does."""

    def test_a_cohort_is_sorted_and_has_each_client_once(self, sampler):
        shuffled = tuple(np.random.default_rng(2).permutation(people(20)).tolist())
        for round in range(1, 50):
            cohort = sampler.sample(shuffled, SEED, round)
            assert list(cohort) == sorted(set(cohort))
            assert set(cohort) <= set(shuffled)

    def test_the_same_seed_and_round_give_the_same_cohort(self, sampler):
        first = [sampler.sample(people(20), SEED, round) for round in (1, 2, 3)]
        again = [sampler.sample(people(20), SEED, round) for round in (3, 2, 1)]
        assert first == again[::-1]

    def test_no_cohort_is_larger_than_is_said(self, sampler):
        largest = sampler.largest(10)
        assert max(map(len, cohorts(sampler, people(10), 500))) <= largest <= 10

    def test_its_law_is_of_its_kind_and_its_rate_a_probability(self, sampler):
        law = sampler.law(10)
        assert law.kind == sampler.name
        assert 0 < law.rate <= 1

    def test_its_settings_are_its_name_and_all_that_it_was_built_from(self, sampler):
        settings = sampler.settings()
        canonical.encode(settings)
        assert type(sampler)(**{k: v for k, v in settings.items() if k != "name"}) == sampler
        assert settings["name"] == sampler.name


# All


def test_all_takes_everyone_every_round():
    assert set(cohorts(All(), people(5), 20)) == {people(5)}
    assert All().largest(5) == 5
    assert All().law(5) == SamplingLaw("all", 1.0)


# Fixed size, without replacement


def test_a_fixed_size_is_kept_every_round():
    assert {len(set(cohort)) for cohort in cohorts(FixedSize(4), people(10), 500)} == {4}
    assert FixedSize(4).largest(10) == 4


def test_every_subset_of_a_fixed_size_is_equally_likely():
    """10 pairs of 5, each in a tenth of the rounds; so each client is in two fifths of them."""
    seen = Counter(cohorts(FixedSize(2), people(5)))
    allowed = hoeffding(ROUNDS, events=10)
    for pair in combinations(people(5), 2):
        assert abs(seen[pair] / ROUNDS - 1 / 10) < allowed


def test_every_client_is_equally_likely_in_a_fixed_size():
    seen = Counter(client for cohort in cohorts(FixedSize(7), people(50)) for client in cohort)
    allowed = hoeffding(ROUNDS, events=50)
    for client in people(50):
        assert abs(seen[client] / ROUNDS - 7 / 50) < allowed


def test_cohorts_of_consecutive_rounds_are_independent():
    """A client of one round is in the next as often as anyone: rate², not more, not less."""
    drawn = cohorts(FixedSize(2), people(5))
    both = Counter(
        c for one, two in zip(drawn[::2], drawn[1::2], strict=True) for c in {*one} & {*two}
    )
    allowed = hoeffding(ROUNDS // 2, events=5)
    for client in people(5):
        assert abs(both[client] / (ROUNDS // 2) - (2 / 5) ** 2) < allowed


def test_a_cohort_of_the_whole_population_is_everyone():
    assert FixedSize(5).sample(people(5), SEED, 1) == people(5)


def test_a_cohort_larger_than_the_population_is_refused_with_both_numbers():
    for attempt in (FixedSize(6).largest, lambda n: FixedSize(6).sample(people(n), SEED, 1)):
        with pytest.raises(
            ConfigError, match="cohort of 6 is larger than the population of 5"
        ) as e:
            attempt(5)
        assert "5 or less" in e.value.hint


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_cohort_of_fixed_size_is_refused(size):
    with pytest.raises(ConfigError, match="empty") as caught:
        FixedSize(size)
    assert caught.value.hint


def test_the_law_of_a_fixed_size_is_its_share_of_the_population():
    assert FixedSize(5).law(20) == SamplingLaw("fixed", 0.25)


# Poisson


def test_the_size_of_a_poisson_cohort_is_binomial():
    n, rate = 12, 0.3
    sizes = np.array([len(cohort) for cohort in cohorts(Poisson(rate), people(n))])
    mass = [math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n + 1)]
    measured = np.array([np.mean(sizes <= k) for k in range(n + 1)])
    assert np.abs(measured - np.cumsum(mass)).max() < hoeffding(ROUNDS)


def test_clients_of_a_poisson_cohort_come_independently_and_at_the_rate():
    n, rate = 6, 0.3
    drawn = cohorts(Poisson(rate), people(n))
    alone = Counter(client for cohort in drawn for client in cohort)
    pairs = Counter(pair for cohort in drawn for pair in combinations(cohort, 2))
    allowed = hoeffding(ROUNDS, events=n + math.comb(n, 2))
    for client in people(n):
        assert abs(alone[client] / ROUNDS - rate) < allowed
    for pair in combinations(people(n), 2):
        assert abs(pairs[pair] / ROUNDS - rate**2) < allowed


def test_a_poisson_cohort_may_be_empty_and_may_be_everyone():
    drawn = set(cohorts(Poisson(0.5), people(3), 500))  # each missed with probability below 1e-28
    assert () in drawn
    assert people(3) in drawn
    assert Poisson(0.5).largest(3) == 3


def test_a_poisson_rate_of_1_takes_everyone():
    assert set(cohorts(Poisson(1.0), people(5), 100)) == {people(5)}


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ConfigError, match="no probability") as caught:
        Poisson(rate)
    assert caught.value.hint


def test_the_law_of_poisson_sampling_is_its_rate_whatever_the_population():
    assert Poisson(0.25).law(20) == Poisson(0.25).law(7) == SamplingLaw("poisson", 0.25)


# Randomness by name

RANDOM = [FixedSize(size=10), Poisson(rate=0.2)]


@pytest.mark.parametrize("sampler", RANDOM, ids=lambda sampler: sampler.name)
def test_rounds_draw_different_cohorts(sampler):
    """Two agree with probability 1/C(100, 10) < 1e-13, or 0.68^100 < 1e-16; any of 100 < ALARM."""
    assert len(set(cohorts(sampler, people(100), 100))) == 100


@pytest.mark.parametrize("sampler", RANDOM, ids=lambda sampler: sampler.name)
def test_seeds_draw_different_cohorts_in_the_same_round(sampler):
    """Keys made from the round number alone would give all seeds the same clients."""
    drawn = {sampler.sample(people(100), seed, 1) for seed in range(100)}
    assert len(drawn) == 100


@pytest.mark.parametrize("sampler", RANDOM, ids=lambda sampler: sampler.name)
def test_seed_and_round_do_not_trade_places(sampler):
    assert sampler.sample(people(50), 2, 1) != sampler.sample(people(50), 1, 2)


def test_a_client_that_is_not_there_changes_no_draw_of_another():
    for round in range(1, 200):
        everyone = people(60)
        without = tuple(client for client in everyone if client != "client-017")
        one = set(Poisson(0.2).sample(everyone, SEED, round)) - {"client-017"}
        assert set(Poisson(0.2).sample(without, SEED, round)) == one
        fixed = set(FixedSize(12).sample(everyone, SEED, round))
        other = set(FixedSize(12).sample(without, SEED, round))
        assert len(fixed - other) == ("client-017" in fixed)  # its place alone goes to another


def test_two_clients_are_drawn_independently_in_one_round():
    """Over 20,000 rounds, how often both of a pair take part: Hoeffding's bound at ALARM."""
    pairs = list(combinations(people(6), 2))
    both = Counter(
        pair for cohort in cohorts(Poisson(0.3), people(6)) for pair in combinations(cohort, 2)
    )
    for pair in pairs:
        assert both[pair] / ROUNDS == pytest.approx(0.09, abs=hoeffding(ROUNDS, 2 * len(pairs)))


def test_a_client_is_drawn_independently_from_round_to_round():
    taken = np.array(["client-003" in cohort for cohort in cohorts(Poisson(0.3), people(6))])
    for lag in (1, 2, 3, 7):
        both = float((taken[lag:] & taken[:-lag]).mean())
        assert both == pytest.approx(0.09, abs=hoeffding((ROUNDS - lag) // (2 * lag), 8))


def ticket(name: str, seed: int, round: int) -> int:
    """A ticket in Python's own integers, from the words of the docstring."""

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    identity = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    first, second = (seeds.key(seed, round, "cohort", which) for which in ("first", "second"))
    return mixed((mixed(identity ^ first) + second) % 2**64)


NAMES = ("basel", "genf", "ulm", "zurich", "łódź", "a" * 60, "client-1", "client-10", "client-2")


@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1])
def test_who_takes_part_follows_from_the_name_alone(seed):
    """The sampler against its definition: below the rate; the smallest."""
    for round in range(1, 60):
        tickets = {name: ticket(name, seed, round) for name in NAMES}
        drawn = seeds.tickets(NAMES, seed, round, "cohort")
        assert dict(zip(NAMES, drawn.tolist(), strict=True)) == tickets
        expected = sorted(name for name in NAMES if (tickets[name] >> 11) * 2.0**-53 < 0.4)
        assert list(Poisson(0.4).sample(NAMES, seed, round)) == expected
        smallest = sorted(sorted(NAMES, key=tickets.__getitem__)[:4])
        assert list(FixedSize(4).sample(NAMES, seed, round)) == smallest


def test_a_draw_that_is_the_rate_itself_is_not_below_it():
    """So that exactly rate·2^53 of the 2^53 draws take part."""
    for name in NAMES:
        draw = (ticket(name, SEED, 1) >> 11) * 2.0**-53
        assert name not in Poisson(draw).sample(NAMES, SEED, 1)
        assert name in Poisson(math.nextafter(draw, 1)).sample(NAMES, SEED, 1)


@pytest.mark.parametrize("sampler", RANDOM, ids=lambda sampler: sampler.name)
def test_the_order_in_which_a_population_is_listed_draws_nobody_else(sampler):
    everyone = people(60)
    for round in range(1, 50):
        assert sampler.sample(everyone[::-1], SEED, round) == sampler.sample(everyone, SEED, round)


@pytest.mark.parametrize("rate", [1e-3, 0.03, 0.5, 0.97])
def test_no_client_of_a_large_population_is_favoured(rate):
    """1,000 clients in 2,000 rounds, by names that differ in a digit: each one's frequency.

    Hoeffding's bound for all of them together, and for the mean of all draws, which are
    independent, at ALARM.
    """
    population = tuple(f"site-{number:04d}" for number in range(1000))
    taken = Counter(c for cohort in cohorts(Poisson(rate), population, 2000) for c in cohort)
    found = np.array([taken[client] for client in population]) / 2000
    assert np.abs(found - rate).max() < hoeffding(2000, events=1000)
    assert abs(found.mean() - rate) < hoeffding(2000 * 1000)
