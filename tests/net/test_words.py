"""Words against the proquints of arXiv:0901.4016, and what they tell apart."""

import json
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.net.words import proquint, site_words, six_words

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "words.json").read_text())


@pytest.mark.parametrize("row", VECTORS["published"], ids=lambda row: row["address"])
def test_addresses_are_written_as_the_paper_writes_them(row):
    number = int(ip_address(row["address"]))
    assert f"{proquint(number >> 16)}-{proquint(number & 0xFFFF)}" == row["proquints"]


@pytest.mark.parametrize("row", VECTORS["digests"], ids=lambda row: row["digest"][:8])
def test_a_digest_is_six_words(row):
    assert six_words(row["digest"]) == row["words"]


@pytest.mark.parametrize(
    "row", VECTORS["sites"], ids=lambda row: f"{row['name']}-{row['site'][:4]}"
)
def test_a_site_has_its_words(row):
    assert site_words(row["name"], row["site"], row["coordinator"]) == row["words"]


def test_name_and_either_key_change_the_words():
    assert len({row["words"] for row in VECTORS["sites"]}) == len(VECTORS["sites"])


@pytest.mark.parametrize("text", VECTORS["refused"])
def test_what_is_no_digest_has_no_words(text):
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        six_words(text)
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        site_words("cleveland", text, "00" * 32)
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        site_words("cleveland", "00" * 32, text)


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
def test_two_numbers_never_share_a_word(one, two):
    assert (proquint(one) == proquint(two)) == (one == two)


@given(st.binary(min_size=32, max_size=32))
def test_the_first_12_bytes_are_in_the_words_and_no_others(digest):
    words = six_words(digest.hex())
    assert words == six_words((digest[:12] + bytes(20)).hex())
    assert words != six_words((bytes([digest[0] ^ 1]) + digest[1:]).hex())
    assert words != six_words((digest[:11] + bytes([digest[11] ^ 1]) + digest[12:]).hex())
