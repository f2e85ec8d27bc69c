"""What is signed, to the byte; and the window against a plain set."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hanse.errors import ProtocolError
from hanse.net.keys import verify
from hanse.net.signing import SPAN, Window, digest_of, request_text, response_text

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signatures.json").read_text())
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
SEQUENCES = st.lists(
    st.one_of(st.integers(0, 8), st.integers(0, 3 * SPAN), st.integers(0, 2**53)), max_size=60
)


def text_of(row: dict) -> bytes:
    return request_text(
        row["coordinator"],
        row["method"],
        row["path"],
        session=row["session"],
        sequence=row["sequence"],
        digest=row["digest"],
    )


@pytest.mark.parametrize("row", VECTORS["requests"], ids=lambda row: row["path"][:20])
def test_a_request_is_signed_as_the_protocol_says(row):
    assert digest_of(bytes.fromhex(row["body"])) == row["digest"]
    assert text_of(row).hex() == row["text"]
    assert verify(row["public"], text_of(row), row["signature"])


@pytest.mark.parametrize("row", VECTORS["responses"], ids=lambda row: str(row["status"]))
def test_a_response_is_signed_as_the_protocol_says(row):
    text = response_text(row["request"], row["status"], digest_of(bytes.fromhex(row["body"])))
    assert text.hex() == row["text"]
    assert verify(row["public"], text, row["signature"])


@pytest.mark.parametrize("part", ["coordinator", "method", "path", "session", "sequence", "digest"])
def test_each_part_of_a_request_is_under_the_signature(part):
    row = VECTORS["requests"][1]
    changed = {**row, part: 9 if part == "sequence" else row[part] + "0"}
    assert not verify(row["public"], text_of(changed), row["signature"])


@pytest.mark.parametrize("path", VECTORS["unsignable"])
def test_a_part_that_could_pass_for_two_is_refused(path):
    with pytest.raises(ProtocolError, match="not printable ASCII"):
        text_of({**VECTORS["requests"][1], "path": path})
    with pytest.raises(ProtocolError, match="not printable ASCII"):
        response_text(path, 200, digest_of(b""))


@given(st.lists(PRINTABLE, min_size=5, max_size=5), st.lists(PRINTABLE, min_size=5, max_size=5))
def test_two_requests_never_have_one_text(one, two):
    def text(parts):
        key, method, path, session, digest = parts
        return request_text(key, method, path, session=session, sequence=1, digest=digest)

    assert (text(one) == text(two)) == (one == two)
    assert text(one) != response_text(two[0], 200, two[1])


@pytest.mark.parametrize("row", VECTORS["windows"], ids=lambda row: str(row[0]["sequence"]))
def test_a_window_takes_what_the_vectors_say(row):
    window = Window()
    for step in row:
        if step["taken"]:
            window = window.accept(step["sequence"])
        else:
            with pytest.raises(ProtocolError, match=f"sequence {step['sequence']} "):
                window.accept(step["sequence"])


@given(SEQUENCES)
@example([0, 0])
@example([5000, 5000 - SPAN + 1, 5000 - SPAN, 5000 - SPAN + 1])
@example([1, SPAN, SPAN + 1, 1, 2])
@example([2**53, 0])
def test_a_window_takes_what_a_set_that_forgets_nothing_takes(sequences):
    window, taken = Window(), set()
    for sequence in sequences:
        fresh = sequence not in taken and sequence > max(taken, default=0) - SPAN
        try:
            window = window.accept(sequence)
        except ProtocolError:
            assert not fresh
        else:
            assert fresh
            taken.add(sequence)
        assert window.seen < 2**SPAN


def test_a_refusal_leaves_the_window_as_it_was():
    window = Window().accept(7)
    with pytest.raises(ProtocolError, match="used before"):
        window.accept(7)
    assert window == Window().accept(7)
    assert window.accept(6).accept(8) == window.accept(8).accept(6)
