"""Tokens: one form, damage is named, and no error repeats a secret."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError
from hanse.net.invitations import Token, new_token, secret_digest

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "tokens.json").read_text())
FINGERPRINT = "5f" * 32


@pytest.mark.parametrize("row", VECTORS["tokens"], ids=lambda row: row["secret"][:4])
def test_a_token_says_a_secret_and_an_authority(row):
    token = Token.parse(row["token"])
    assert (token.secret.hex(), token.ca_fingerprint) == (row["secret"], row["ca_fingerprint"])
    assert token.text() == row["token"]
    assert secret_digest(token.secret) == row["secret_sha256"]


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["case"])
def test_a_damaged_token_is_refused_and_the_error_says_how_without_repeating_it(row):
    with pytest.raises(ConfigError, match=row["says"]) as refusal:
        Token.parse(row["token"])
    assert refusal.value.hint
    assert row["token"][4:] == "" or row["token"][4:] not in str(refusal.value)


def test_blanks_and_line_breaks_around_a_pasted_token_do_not_matter():
    text, _ = new_token(FINGERPRINT)
    assert Token.parse(f" \t{text}\r\n") == Token.parse(text)


def test_a_new_token_carries_the_authority_and_the_coordinator_keeps_a_digest_only():
    text, digest = new_token(FINGERPRINT)
    token = Token.parse(text)
    assert token.ca_fingerprint == FINGERPRINT
    assert digest == secret_digest(token.secret)
    assert digest not in text


def test_secrets_are_drawn_anew():
    assert len({Token.parse(new_token(FINGERPRINT)[0]).secret for _ in range(50)}) == 50


def test_a_token_does_not_show_its_secret():
    token = Token.parse(new_token(FINGERPRINT)[0])
    shown = f"{token!r} {token}"
    assert FINGERPRINT in shown
    assert token.secret.hex() not in shown
    assert repr(token.secret) not in shown


@pytest.mark.parametrize("fingerprint", ["", "5f" * 31, "g" * 64])
def test_a_token_for_no_authority_cannot_be_made(fingerprint):
    with pytest.raises(ValueError):  # noqa: PT011 -- two reasons, two texts
        new_token(fingerprint)


@given(st.text(max_size=100).map(lambda text: "ht1_" + text) | st.text(max_size=100))
def test_whatever_is_pasted_is_a_token_or_a_config_error(text):
    try:
        token = Token.parse(text)
    except ConfigError:
        return
    assert token.text() == text.strip()
