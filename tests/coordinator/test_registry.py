"""The registry: who may talk to the coordinator is what its journalled events say, no more."""

import json
from dataclasses import replace
from functools import reduce

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hanse.coordinator.registry import ROLES, Registry, fold
from hanse.core.canonical import digest, encode
from hanse.errors import ConfigError
from hanse.net.problems import Conflict, NotTrusted

KEYS = [Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex() for _ in range(3)]
SECRETS = [digest(n) for n in range(5)]


def invited(name="ulm", role="site", secret=0, expires=100.0):
    body = {"name": name, "role": role, "secret": SECRETS[secret], "expires": expires}
    return "invited", body


def joined(name="ulm", key=0, secret=0, now=10.0):
    return "joined", {"name": name, "key": KEYS[key], "secret": SECRETS[secret], "now": now}


def logged_in(name="anna", role="researcher", token=3, secret=0, expires=500.0):
    body = {"name": name, "role": role, "token": SECRETS[token], "expires": expires}
    return "logged_in", {**body, "secret": SECRETS[secret]}


def revoked(name="ulm"):
    return "revoked", {"name": name, "by": "root", "now": 20.0}


def after(*events) -> Registry:
    """The registry of events that went through a journal's text."""
    return reduce(
        lambda had, one: fold(had, one[0], json.loads(encode(one[1]))), events, Registry()
    )


# Invitations


@pytest.mark.parametrize("role", ROLES)
def test_an_invitation_says_for_whom_and_as_what_until_it_expires(role):
    registry = after(invited("ulm", role))
    for now in (-1e9, 0.0, 99.999):
        found = registry.invited(SECRETS[0], now)
        assert (found.name, found.role) == ("ulm", role)


@pytest.mark.parametrize(
    ("events", "secret", "now", "text"),
    [
        ([], 0, 0.0, "no such invitation, or it is used"),
        ([invited()], 1, 0.0, "no such invitation"),
        ([invited()], 0, 100.0, "the invitation of ulm has expired"),
        ([invited(), joined()], 0, 20.0, "no such invitation, or it is used"),
        ([invited("anna", "viewer"), logged_in()], 0, 20.0, "or it is used"),
        ([invited(), revoked("ulm")], 0, 20.0, "no such invitation"),
    ],
)
def test_an_invitation_counts_for_nothing_else(events, secret, now, text):
    with pytest.raises(NotTrusted, match=text):
        after(*events).invited(SECRETS[secret], now)


def test_an_invitation_is_used_by_its_secret_and_others_stay_open():
    registry = after(invited(secret=0), invited("genf", secret=1), joined(secret=0))
    assert set(registry.invitations) == {SECRETS[1]}


# Sites


def test_the_roster_is_all_sites_that_count_sorted_by_name():
    registry = after(joined("ulm", 0), joined("genf", 1, 1), joined("basel", 2, 2))
    assert [entry["name"] for entry in registry.roster] == ["basel", "genf", "ulm"]
    assert registry.roster[2] == {"key": KEYS[0], "name": "ulm"}
    assert registry.roster_digest == digest(registry.roster)
    without = fold(registry, *revoked("genf"))
    assert [entry["name"] for entry in without.roster] == ["basel", "ulm"]
    assert without.roster_digest != registry.roster_digest


def test_the_roster_does_not_depend_on_who_came_first():
    events = [joined("ulm", 0), joined("genf", 1, 1), joined("basel", 2, 2)]
    assert after(*events).roster_digest == after(*events[::-1]).roster_digest


def test_another_key_under_a_name_is_another_roster():
    assert after(joined(key=0)).roster_digest != after(joined(key=1)).roster_digest


@pytest.mark.parametrize(
    "key", ["", "00" * 32, KEYS[0].upper(), KEYS[0][:-2], "zz" * 32], ids=range(5)
)
def test_what_is_no_identity_key_does_not_join(key):
    registry = after(invited())
    with pytest.raises(ValueError, match="is no identity key"):
        fold(registry, "joined", joined()[1] | {"key": key})


# People


def test_a_token_counts_for_its_user_until_it_expires():
    registry = after(logged_in(), logged_in("bert", "viewer", 4, 1))
    name, user = registry.user_of(SECRETS[3], 499.9) or ("", None)
    assert (name, user.role) == ("anna", "researcher")
    assert (registry.user_of(SECRETS[4], 0.0) or "")[0] == "bert"
    assert registry.user_of(SECRETS[3], 500.0) is None
    assert registry.user_of(SECRETS[2], 0.0) is None
    assert registry.user_of("", 0.0) is None


def test_a_revoked_user_is_nobody_from_then_on():
    registry = after(logged_in(), logged_in("bert", "viewer", 4, 1), revoked("anna"))
    assert registry.user_of(SECRETS[3], 0.0) is None
    assert registry.user_of(SECRETS[4], 0.0) is not None


# Names


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["a", "0", "ulm-2", "va-long-beach", "9-lives-", "x" * 63])
def test_a_name_that_nobody_has_is_free(name, role):
    after(invited(), joined()).check_free(name, role)


@pytest.mark.parametrize(
    "name", ["", "-ulm", "Ulm", "zürich", "a b", "a_b", "a.b", "../x", "x" * 64, "ulm\n", "١"]
)
def test_a_name_that_is_none_is_not_free(name):
    with pytest.raises(ConfigError, match="is no name"):
        Registry().check_free(name, "site")


@pytest.mark.parametrize("end", [[], [revoked("ulm"), revoked("anna")]])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["ulm", "anna"])
def test_a_name_is_used_once_even_when_it_is_revoked(end, name, role):
    registry = after(joined("ulm"), logged_in("anna"), *end)
    if (name, role, end) == ("anna", "researcher", []):
        registry.check_free(name, role)  # she logs in anew
    else:
        with pytest.raises(Conflict, match=f"{name} is taken"):
            registry.check_free(name, role)


def test_who_logs_in_anew_ends_her_former_token():
    registry = after(logged_in("anna", token=3), logged_in("anna", token=4, secret=1))
    assert registry.user_of(SECRETS[3], 0.0) is None
    assert (registry.user_of(SECRETS[4], 0.0) or "")[0] == "anna"


# Events


def test_folding_changes_no_registry_that_somebody_holds():
    before = after(invited(), invited("genf", secret=1), joined(secret=0))
    same = replace(before)
    for event in (joined("genf", 1, 1), revoked("ulm"), logged_in(secret=1)):
        assert fold(before, *event) != before
    assert before == same


def test_to_revoke_somebody_who_is_not_there_changes_nothing():
    registry = after(invited(), joined())
    assert fold(registry, *revoked("genf")) == registry
    assert fold(fold(registry, *revoked()), *revoked()) == fold(registry, *revoked())


@pytest.mark.parametrize("kind", ["", "Joined", "submitted", "left"])
def test_an_event_of_another_kind_is_none(kind):
    with pytest.raises(ValueError, match="is no event of the registry"):
        fold(Registry(), kind, joined()[1])


@pytest.mark.parametrize("kind", ["invited", "joined", "logged_in", "revoked"])
def test_a_body_that_lacks_something_is_no_event(kind):
    with pytest.raises(ValueError, match="is no event of the registry"):
        fold(Registry(), kind, {})


NAMES = st.sampled_from(["ulm", "genf", "anna", "bert"])
WISHES = st.one_of(
    st.tuples(st.just("invite"), NAMES, st.sampled_from(ROLES)),
    st.tuples(st.just("use"), NAMES, st.integers(0, 20)),
    st.tuples(st.just("revoke"), NAMES),
)


@given(st.lists(WISHES, max_size=30))
def test_in_any_order_a_site_joins_once_an_invitation_counts_once_and_a_revoked_one_never(wishes):
    """Invitations are asked and used as the coordinator does: what it refuses is no event."""
    registry, events, given_out, used, gone = Registry(), [], [], set(), set()
    for now, wish in enumerate(wishes):
        kind, name, *rest = wish
        try:
            if kind == "invite":
                registry.check_free(name, rest[0])
                secret = digest(f"secret {now}")
                given_out.append(secret)
                body = {"name": name, "role": rest[0], "secret": secret, "expires": now + 10.0}
                event = ("invited", body)
            elif kind == "use":
                secret = given_out[rest[0] % len(given_out)] if given_out else digest("none")
                found = registry.invited(secret, float(now))
                registry.check_free(found.name, found.role)
                assert secret not in used
                assert found.name not in registry.sites
                assert found.name not in gone
                used.add(secret)
                body = {"name": found.name, "secret": secret, "now": float(now), "key": KEYS[0]}
                event = ("joined", body)
                if found.role != "site":
                    token = digest(f"token {now}")
                    told = {**body, "role": found.role, "token": token, "expires": 1e9}
                    event = ("logged_in", told)
            else:
                event = revoked(name)
                gone |= {name} & {*registry.sites, *registry.users}
        except (Conflict, NotTrusted):
            continue
        registry = fold(registry, *event)
        events.append(event)
        assert used.isdisjoint(registry.invitations)
        assert gone.isdisjoint(entry["name"] for entry in registry.roster)
        tokens = [digest(f"token {number}") for number in range(now + 1)]
        seen = [one for token in tokens if (one := registry.user_of(token, 0.0)) is not None]
        assert gone.isdisjoint(name for name, _ in seen)
        assert len({name for name, _ in seen}) == len(seen)
        assert registry.sites.keys().isdisjoint(registry.users)
    assert after(*events) == registry
