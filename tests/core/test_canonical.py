"""Canonical JSON against RFC 8785, and what it refuses."""

import hashlib
import json
import math
import struct
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.canonical import digest, encode, number

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "canonical.json").read_text())

EXACT = 2**53
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-EXACT, EXACT),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)
VALUES = st.recursive(
    SCALARS,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXT, inside, max_size=4),
    max_leaves=12,
)


def read(text: str):
    """JSON as ECMAScript reads it: every number is a double, 71718850629883780 too."""
    return json.loads(text, parse_int=float)


def double(bits: str) -> float:
    return struct.unpack(">d", bytes.fromhex(bits))[0]


@pytest.mark.parametrize("row", VECTORS["numbers"], ids=lambda row: row["ieee754"])
def test_numbers_are_written_as_rfc_8785_appendix_b_says(row):
    assert number(double(row["ieee754"])) == row["json"]
    assert encode(double(row["ieee754"])) == row["json"]


@pytest.mark.parametrize("row", VECTORS["values"], ids=lambda row: row["sha256"][:8])
def test_values_have_one_form_and_one_digest(row):
    assert encode(row["value"]) == row["canonical"]
    assert digest(row["value"]) == row["sha256"]


@pytest.mark.parametrize("bits", VECTORS["refused_numbers"])
def test_a_number_that_is_not_finite_is_refused(bits):
    with pytest.raises(ValueError, match="no JSON form"):
        encode({"x": [double(bits)]})


@pytest.mark.parametrize("text", VECTORS["refused_integers"])
def test_an_integer_without_an_exact_double_is_refused(text):
    with pytest.raises(ValueError, match="write it as a string"):
        encode(int(text))


@pytest.mark.parametrize("value", VECTORS["refused_values"], ids=ascii)
def test_half_a_surrogate_pair_is_refused(value):
    # RFC 8785 §3.2.2.2: "MUST cause a compliant JCS implementation to terminate"
    with pytest.raises(ValueError):  # noqa: PT011 -- UnicodeEncodeError will do
        encode(value)


@pytest.mark.parametrize(
    "value", [{1, 2}, 1j, object(), b"ab", bytearray(b"ab"), {1: 2}, {None: 0}, [{"a": {3: 4}}]],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_has_no_word_for_is_a_type_error(value):
    with pytest.raises(TypeError):
        encode(value)


def test_a_numpy_double_is_written_as_the_number_it_is():
    assert number(np.float64(1.5)) == "1.5"
    assert encode([np.float64(-1e-7), np.float64(1e21)]) == "[-1e-7,1e+21]"


def test_a_subclass_of_int_is_written_as_its_number():
    assert encode([IntEnum("Colour", "RED").RED]) == "[1]"


def test_any_mapping_and_any_sequence_will_do():
    assert encode(OrderedDict(b=(1, 2), a=range(2))) == '{"a":[0,1],"b":[1,2]}'
    assert encode(MappingProxyType({"x": None})) == '{"x":null}'


def test_the_integers_at_the_edge_are_taken():
    assert encode([EXACT, -EXACT]) == "[9007199254740992,-9007199254740992]"


@given(VALUES)
def test_reading_the_canonical_form_gives_the_value_back(value):
    assert read(encode(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_reading_a_number_gives_the_same_double(value):
    assert float(number(value)) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_shorter_decimal_would_do(value):
    digits = number(value).split("e")[0].lstrip("-").replace(".", "").strip("0")
    shorter = f"{value:.{max(len(digits) - 2, 0)}e}"
    assert len(digits) <= 1 or float(shorter) != value


@given(VALUES)
def test_the_canonical_form_of_what_was_read_is_the_same(value):
    assert encode(read(encode(value))) == encode(value)


@given(st.dictionaries(TEXT, st.integers(0, 9)), st.randoms(use_true_random=False))
def test_the_order_of_insertion_does_not_matter(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert encode(dict(items)) == encode(value)


@given(st.dictionaries(TEXT, st.none(), min_size=2))
def test_keys_stand_in_the_order_of_their_utf_16_code_units(value):
    units = [
        struct.unpack(f">{len(b) // 2}H", b)
        for b in (name.encode("utf-16-be") for name in json.loads(encode(value)))
    ]
    assert units == sorted(units)


@given(VALUES)
def test_the_digest_is_sha_256_of_the_utf_8_form(value):
    assert digest(value) == hashlib.sha256(encode(value).encode("utf-8")).hexdigest()


def test_one_and_one_point_zero_are_the_same_number():
    assert encode(1) == encode(1.0) == "1"
    assert encode(True) == "true"
    assert math.copysign(1, read(encode(-0.0))) == 1
