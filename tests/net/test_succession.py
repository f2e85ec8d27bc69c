"""Identity keys that follow each other: each is named by the one before, nothing else counts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError, ProtocolError
from hanse.net.keys import IdentityKey
from hanse.net.succession import FILE, MOST, PREFIX, follow, read, rotate


@pytest.fixture
def keys(tmp_path):
    """A folder whose identity key was rotated twice, and its three keys."""
    identity = tmp_path / "identity.pem"
    first = IdentityKey.create(identity).public
    return tmp_path, [first, rotate(tmp_path, identity), rotate(tmp_path, identity)]


def test_who_knows_any_of_the_keys_comes_to_the_last_one(keys):
    folder, (first, second, third) = keys
    assert IdentityKey.load(folder / "identity.pem").public == third
    told = read(folder)
    assert follow(first, told, third) == [second, third]
    assert follow(second, told, third) == [third]
    assert follow(third, told, third) == []
    assert follow(first, [], first) == []


def test_a_key_that_none_of_the_known_has_named_is_not_followed(keys, tmp_path):
    folder, (first, second, third) = keys
    stranger = IdentityKey.create(tmp_path / "other.pem")
    told = read(folder)
    signed = {"key": stranger.public, "signature": stranger.sign(PREFIX + stranger.public.encode())}
    for statements in (told, [*told, signed], [signed], [{**told[1], "key": stranger.public}]):
        with pytest.raises(ProtocolError, match="has not named"):
            follow(first, statements, stranger.public)
    with pytest.raises(ProtocolError, match="has not named"):
        follow(first, told[1:], third)  # a link is missing
    with pytest.raises(ProtocolError, match="has not named"):
        follow(third, told, second)  # nobody goes back


@pytest.mark.parametrize("told", [None, 7, "x", [1], [{"key": "a"}], {"key": "a"}, [[]]])
def test_what_is_no_succession_is_refused(keys, told):
    with pytest.raises(ProtocolError):
        follow(keys[1][0], told, keys[1][2])


@given(st.integers(0, 200), st.integers(0, 7))
def test_every_bit_of_a_statement_counts(tmp_path_factory, at, bit):
    folder = tmp_path_factory.mktemp("k")
    first = IdentityKey.create(folder / "identity.pem").public
    second = rotate(folder, folder / "identity.pem")
    text = bytearray(json.dumps(read(folder)).encode())
    text[at % len(text)] ^= 1 << bit
    try:
        told = json.loads(text)
    except ValueError:
        return
    with pytest.raises(ProtocolError):
        follow(first, told, second)


@pytest.mark.parametrize("stopped", ["before the key", "after the key"])
def test_a_rotation_that_was_stopped_is_simply_done_again(keys, stopped):
    folder, (first, _, third) = keys
    before = (folder / "identity.pem").read_bytes()
    fourth = rotate(folder, folder / "identity.pem")
    if stopped == "before the key":
        (folder / "identity.pem").write_bytes(before)
        assert follow(first, read(folder)[:-1], third)
    last = rotate(folder, folder / "identity.pem")
    assert follow(first, read(folder), last)[-1] == last
    assert (fourth in follow(first, read(folder), last)) == (stopped == "after the key")


def test_keys_do_not_follow_each_other_for_ever(keys):
    folder, _ = keys
    (folder / FILE).write_text(json.dumps([{"key": "", "signature": ""}] * MOST))
    with pytest.raises(ConfigError, match="have followed each other"):
        rotate(folder, folder / "identity.pem")
