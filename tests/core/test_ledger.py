"""The machine of the privacy ledger: what is refused, what composes, what changes nothing."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.dp_events import Composed, Gaussian, Repeated
from hanse.core.ledger import (
    OBSERVERS,
    Arrived,
    Debited,
    Ledger,
    Lost,
    Reserved,
    Void,
    body_of,
    entry_of,
    step,
)
from hanse.errors import BudgetError, ConfigError
from hanse.privacy.budget import Cap, check

NOISE = Gaussian(2.0)
LOCAL = {who: {"client": NOISE} for who in OBSERVERS}
CENTRAL = {key: {"client": NOISE} for key in OBSERVERS[1:]}
TRAINED = {key: {"example": NOISE} for key in OBSERVERS}
HEART = Reserved("heart-1", ("heart",), 3, LOCAL)


def after(*entries) -> Ledger:
    ledger = Ledger()
    for entry in entries:
        ledger = step(ledger, entry)
    return ledger


def debit(round: int, digest: str = "ab") -> Debited:
    return Debited("heart-1", f"{round}/update", digest)


def spent(ledger: Ledger, unit="client", against="coordinator", source="heart") -> int | None:
    """Return how many of NOISE are spent; None for no bound."""
    event = ledger.spent(source, unit, against)
    assert event is None or isinstance(event, Composed)
    return None if event is None else sum(inner.count for inner in event.events)


def test_what_is_reserved_counts_until_the_run_ends_and_then_what_was_debited():
    open_ = after(HEART, debit(1), debit(2))
    assert spent(open_) == 3
    assert spent(step(open_, Void("heart-1"))) == 2
    assert open_.spent("heart", "client", "sites") == Composed((Repeated(NOISE, 3),))
    assert spent(after(HEART, Void("heart-1"))) == 0
    assert spent(open_, source="lung") == 0


def test_saying_it_again_changes_nothing():
    told = [HEART, debit(1), Arrived("heart-1", "1/update"), Void("heart-1"), Lost(3, "ab")]
    ledger = Ledger()
    for entry in told:
        ledger = step(ledger, entry)
        assert step(ledger, entry) is ledger
    assert step(Ledger(), Void("nothing")) == Ledger()


def test_other_bytes_never_leave_by_a_name_that_is_debited():
    ledger = after(HEART, debit(1))
    with pytest.raises(BudgetError, match="is debited as ab, so cd may not leave as it"):
        step(ledger, debit(1, "cd"))
    with pytest.raises(BudgetError, match="may not leave"):
        step(step(ledger, Void("heart-1")), debit(1, "cd"))
    assert step(step(ledger, Void("heart-1")), debit(1)).digest_of("heart-1", "1/update") == "ab"


def test_more_than_was_reserved_never_leaves():
    ledger = after(HEART, debit(1), debit(2), debit(3))
    with pytest.raises(BudgetError, match="release 4 of a run that has 3"):
        step(ledger, debit(4))
    with pytest.raises(BudgetError, match="release 2 of a run that has 1"):
        step(after(HEART, debit(1), Void("heart-1")), debit(2))
    with pytest.raises(BudgetError, match="has reserved nothing"):
        step(Ledger(), debit(1))
    with pytest.raises(BudgetError, match="never was debited"):
        step(ledger, Arrived("heart-1", "4/update"))


def test_a_run_cannot_reserve_something_else_later():
    for other in (
        replace(HEART, releases=4),
        replace(HEART, tells={}),
        replace(HEART, tells={key: {"person": NOISE} for key in OBSERVERS}),
    ):
        with pytest.raises(BudgetError, match="asks for something else now"):
            step(after(HEART, Void("heart-1")), other)
    again = step(after(HEART, debit(1), Void("heart-1")), HEART)
    assert spent(again) == 3
    assert again.digest_of("heart-1", "1/update") == "ab"


def test_a_coarser_unit_covers_a_part_of_it_half_as_well_and_not_the_other_way_round():
    ledger = after(replace(HEART, tells={key: {"person": NOISE} for key in OBSERVERS}))
    assert ledger.spent("heart", "client", "coordinator") is None
    for unit, multiplier in (("person", 2.0), ("example", 1.0)):
        told = ledger.spent("heart", unit, "coordinator")
        assert told == Composed((Repeated(Gaussian(multiplier), 3),))


def test_a_part_that_is_two_units_further_in_is_no_other_than_one():
    whole = after(replace(HEART, tells={key: {"client": NOISE} for key in OBSERVERS}))
    assert whole.spent("heart", "example", "sites") == whole.spent("heart", "person", "sites")


def test_noise_that_an_observer_sees_behind_bounds_nothing_toward_it():
    ledger = after(replace(HEART, tells=CENTRAL))
    assert [spent(ledger, against=who) for who in OBSERVERS] == [None, 3, 3]
    both = step(ledger, replace(HEART, run="heart-2", tells={}))
    assert [spent(both, against=who) for who in OBSERVERS] == [None, None, None]
    assert spent(after(replace(HEART, tells={}), Void("heart-1"))) == 0, "nothing has left"


def test_what_is_lost_is_spent_without_bound():
    assert spent(after(HEART, Lost(9, "ab"))) is None
    assert spent(after(Lost(9, "ab")), source="lung") is None


# --- the cap


def test_a_cap_is_refused_with_cap_spend_and_request():
    caps = {"heart": Cap(6.0)}
    ledger = check(Ledger(), HEART, caps)
    with pytest.raises(BudgetError) as caught:
        check(ledger, replace(HEART, run="heart-2"), caps)
    assert str(caught.value) == (
        "heart may spend ε = 6 at δ = 1e-06 toward the coordinator, for a client; ε = 4.152 is "
        "spent or reserved, heart-2 asks for ε = 4.152, and both come to ε = 6.165"
    )
    assert check(ledger, HEART, caps) == ledger, "what it has reserved already it may say again"
    assert check(ledger, replace(HEART, run="heart-2"), {"heart": Cap(9.0)}) is not ledger
    assert check(ledger, replace(HEART, run="lung-1", sources=("lung",)), caps) is not ledger


@pytest.mark.parametrize("asked", [replace(HEART, tells={}), replace(HEART, tells=CENTRAL),
                                   replace(HEART, tells=TRAINED)])  # fmt: skip
def test_what_no_noise_bounds_breaks_every_cap(asked):
    with pytest.raises(BudgetError, match="asks for no bounded ε"):
        check(Ledger(), asked, {"heart": Cap(1e6)})
    check(Ledger(), asked, {})


def test_a_cap_holds_over_many_small_runs_as_over_one_large_one():
    """No ε by itself: what composes are the events."""
    ledger, runs = Ledger(), 0
    caps = {"heart": Cap(8.0)}
    try:
        while True:
            run = replace(HEART, run=f"heart-{runs}", releases=1)
            ledger, runs = check(ledger, run, caps), runs + 1
    except BudgetError:
        pass
    check(Ledger(), replace(HEART, releases=runs), caps)
    with pytest.raises(BudgetError):
        check(Ledger(), replace(HEART, releases=runs + 1), caps)
    assert runs > 3


# --- any order of anything


RUNS = ("a", "b")
ENTRIES = st.one_of(
    st.builds(
        Reserved,
        st.sampled_from(RUNS),
        st.sampled_from([("heart",), ("heart", "lung")]),
        st.integers(0, 3),
        st.sampled_from([LOCAL, CENTRAL, TRAINED, {}]),
    ),
    st.builds(Debited, st.sampled_from(RUNS), st.sampled_from("1234"), st.sampled_from(["x", "y"])),
    st.builds(Arrived, st.sampled_from(RUNS), st.sampled_from("1234")),
    st.builds(Void, st.sampled_from(RUNS)),
)


@settings(max_examples=500)
@given(st.lists(ENTRIES, max_size=30))
def test_a_debit_is_never_undone_and_reservations_are_never_exceeded(entries):
    ledger, debited = Ledger(), {}
    for entry in entries:
        before = ledger
        try:
            ledger = step(ledger, entry)
        except BudgetError:
            assert ledger is before
            continue
        if isinstance(entry, Debited):
            known = debited.setdefault((entry.run, entry.release), entry.digest)
            assert known == entry.digest
        for (run, release), digest in debited.items():
            assert ledger.digest_of(run, release) == digest
        for account in ledger.accounts.values():
            assert len(account.debits) <= account.reserved.releases
            assert account.arrived <= account.debits.keys()


@given(ENTRIES)
def test_an_entry_is_what_its_json_says(entry):
    assert entry_of(entry.kind, body_of(entry)) == entry


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("spent", {}),
        ("void", {}),
        ("void", {"run": 3}),
        ("void", {"run": "a", "more": 1}),
        ("debited", {"run": "a", "release": "1", "digest": None}),
        ("lost", {"seq": -1, "hash": "ab"}),
        ("reserved", {**body_of(HEART), "releases": -1}),
        ("reserved", {**body_of(HEART), "tells": {"sites": {"row": NOISE.json()}}}),
        ("reserved", {**body_of(HEART), "tells": {"nobody": {"client": NOISE.json()}}}),
        ("reserved", {**body_of(HEART), "tells": {"sites": {"client": {"kind": "magic"}}}}),
    ],
)
def test_what_is_no_entry_is_refused(kind, body):
    with pytest.raises(ConfigError, match="is no"):
        entry_of(kind, body)
