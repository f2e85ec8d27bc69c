"""Known answers: two implementations, and a file that neither may leave."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.secagg import naive

from hanse.secagg import commitments, masks, shamir, slot, words
from hanse.secagg.aborts import CODES
from hanse.secagg.messages import Dealt, Header
from hanse.secagg.ring import CHUNK, Segment
from hanse.secagg.session import next_of

KNOWN = json.loads(naive.TARGET.read_text())
SESSION, CONTEXT = bytes.fromhex(KNOWN["session"]), bytes.fromhex(KNOWN["context"])
HEADERS = {
    int(i): Header(SESSION, 0, int(i), bytes.fromhex(key), b"", b"", b"")
    for i, key in KNOWN["public_keys"].items()
}


def of(name, client=1):
    return bytes.fromhex(KNOWN[name][str(client)])


def masks_of(client):
    own = masks.Mask(slot.self_seed(of("seeds", client), SESSION, CONTEXT, client))
    secret = of("mask_keys", client)
    others = [h for h in HEADERS.values() if h.client != client]
    return [own, *(slot.pair_mask(secret, client, h, SESSION, CONTEXT) for h in others)]


def test_the_naive_implementation_writes_the_file():
    assert naive.vectors() == KNOWN


def test_published_figures():
    """From the design's prototype, a third implementation."""
    assert KNOWN["pair_seed_1_2"].startswith("e89a125a574ff054efacd3c442cf8bf3")
    assert KNOWN["stream_1_2_of_32"] == ["bcc5631a", "03854161", "014f72bd", "5107440a"]
    assert KNOWN["sent"]["1"] == [
        "fa1a2760", "0f5ac437", "17c42ef6", "def318d0", "1f27be7c", "7242b7e3", "f13e6595",
    ]  # fmt: skip
    assert KNOWN["commitment_1"].startswith("90073ec253c92474f8b494e8973afc75")


def test_keys_seeds_and_streams():
    assert slot.public_of(of("mask_keys")) == HEADERS[1].key
    pair, own = masks_of(1)[1], masks_of(1)[0]
    assert (pair.seed.hex(), own.seed.hex()) == (KNOWN["pair_seed_1_2"], KNOWN["self_seed_1"])
    assert masks_of(2)[1] == masks.Mask(pair.seed, -1)
    zeros = np.zeros(4, "<u4")
    found = masks.masked(zeros, [pair], Segment("", 4), 0, 0)
    assert [f"{value:08x}" for value in found] == KNOWN["stream_1_2_of_32"]
    long = Segment("", CHUNK + 1, 16, 16)
    ends = [
        masks.masked(np.zeros(n, "<u2"), [own], long, 0, c)[-1] for n, c in ((CHUNK, 0), (1, 1))
    ]
    assert [f"{value:04x}" for value in ends] == KNOWN["stream_1_of_16_across_chunks"]
    wide = masks.masked(np.zeros(2, "<u8"), [pair], Segment("", 2, 64, 64), 1, 0)
    assert [f"{value:016x}" for value in wide] == KNOWN["stream_1_2_of_64_segment_1"]


def test_shares_leaves_and_what_is_sealed():
    coefficients = [int(value, 16) for value in KNOWN["coefficients"]]
    found = shamir.evaluated(of("seeds"), coefficients, range(1, 6))
    assert {str(x): share.hex() for x, share in found.items()} == KNOWN["shares"]
    leaves = slot.leaves(SESSION, 0, 1, found, found)
    assert [leaf.hex() for leaf in leaves] == KNOWN["leaves_1"]
    assert commitments.root(leaves).hex() == KNOWN["root_1"]
    promised = slot.commitment(SESSION, 0, 1, of("seeds"))
    assert promised.hex() == KNOWN["commitment_1"]
    header = Header(SESSION, 0, 1, HEADERS[1].key, promised, commitments.root(leaves), b"")
    chain = bytes.fromhex(KNOWN["chain"])
    sealed = slot.seal(chain, header, 2, found[2], found[2])
    assert sealed.hex() == KNOWN["sealed_1_to_2"]
    dealt = Dealt(sealed, commitments.path(leaves, 2), commitments.path(leaves, 3))
    held = slot.opened(chain, header, 2, dealt, 5)
    assert (held.mask_key, held.self_mask) == (found[2], found[2])
    assert next_of(chain).hex() == KNOWN["next_chain"]
    assert slot.opened(next_of(chain), header, 2, dealt, 5).self_mask == b""


@pytest.mark.parametrize("client", range(1, 6))
def test_what_is_sent(client):
    segment = Segment("model", 7)
    vector = segment.to_ring(np.array(KNOWN["inputs"][str(client)]))
    found = masks.masked(vector, masks_of(client), segment, 0, 0)
    assert [f"{value:08x}" for value in found] == KNOWN["sent"][str(client)]


@pytest.mark.parametrize("wire", [20, 24, 32])
def test_what_is_packed(wire):
    segment, values = Segment("", 5, 32, wire), np.array(KNOWN["packed_values"])
    content = segment.packed(segment.to_ring(values))
    assert content.hex() == KNOWN["packed"][str(wire)]
    assert segment.centred(segment.unpacked(content, 5)).tolist() == values.tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_numbers_come_back_from_the_wire(data):
    ring, wire = data.draw(st.sampled_from([(16, 16), (32, 20), (32, 24), (32, 32), (64, 64)]))
    half = 2 ** (wire - 1)
    values = data.draw(st.lists(st.integers(-half, half - 1), max_size=9))
    segment = Segment("x", len(values), ring, wire)
    content = segment.packed(segment.to_ring(np.array(values, np.int64)))
    assert len(content) == segment.sized(len(values))
    assert segment.centred(segment.unpacked(content, len(values))).tolist() == values
    with pytest.raises(ValueError, match="are not"):
        segment.unpacked(content + b"\0", len(values))


@pytest.mark.parametrize(("ring", "wire"), [(32, 16), (16, 20), (64, 32), (8, 8)])
def test_widths_that_there_are_not(ring, wire):
    with pytest.raises(ValueError, match="bits"):
        Segment("x", 1, ring, wire)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not(data):
    secret = data.draw(st.binary(min_size=32, max_size=32))
    n = data.draw(st.integers(3, 9))
    t = data.draw(st.integers(2, n))
    found = shamir.shared(secret, t, range(1, n + 1), naive_random(data))
    chosen = data.draw(st.permutations(range(1, n + 1)))
    some = {x: found[x] for x in chosen[:t]}
    assert shamir.recovered(some, shamir.weights(chosen[:t])) == naive.recovered(some) == secret
    fewer = chosen[: t - 1]
    with suppress(ValueError):  # of no 32 bytes
        assert shamir.recovered({x: found[x] for x in fewer}, shamir.weights(fewer)) != secret


def naive_random(data):
    seed = data.draw(st.integers(1, 2**32))
    return lambda size: naive.derived(seed.to_bytes(8, "big"), None, b"x", bytes([size])) * 2


def test_what_is_no_secret_or_no_point():
    with pytest.raises(ValueError, match="a secret of 31 bytes"):
        shamir.shared(bytes(31), 2, (1, 2), bytes)
    with pytest.raises(ValueError, match="no point"):
        shamir.evaluated(bytes(32), [1], (0,))
    largest = (shamir.PRIME - 1).to_bytes(33, "big")
    with pytest.raises(ValueError, match="of no secret"):
        shamir.recovered({1: largest}, {1: 1})


def test_the_prime_is_one_and_the_smallest_above():
    def passes(number, base):
        odd, twice = number - 1, 0
        while odd % 2 == 0:
            odd, twice = odd // 2, twice + 1
        value = pow(base, odd, number)
        return value in (1, number - 1) or any(
            (value := value * value % number) == number - 1 for _ in range(twice - 1)
        )

    bases = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71]
    assert all(passes(shamir.PRIME, base) for base in bases)
    assert not any(passes(number, 3) for number in range(2**256 + 1, shamir.PRIME, 2))


@pytest.mark.parametrize("count", range(1, 18))
def test_a_path_leads_from_its_leaf_to_the_root_and_from_no_other(count):
    leaves = [words.digest("node", bytes([n])) for n in range(count)]
    top = commitments.root(leaves)
    assert top == naive.root(leaves)
    for at, leaf in enumerate(leaves):
        steps = commitments.path(leaves, at)
        assert commitments.leads(leaf, at, count, steps, top)
        for other in {*range(count)} - {at}:
            assert not commitments.leads(leaf, other, count, steps, top)
        assert not commitments.leads(leaf, at, count, (*steps, leaf), top)
        assert not commitments.leads(bytes(32), at, count, steps, top)
        for place in range(len(steps)):
            bent = (*steps[:place], b"" if steps[place] else leaf, *steps[place + 1 :])
            assert not commitments.leads(leaf, at, count, bent, top)


def test_every_code_and_every_label_is_used_and_every_code_is_on_the_page():
    source = "".join(path.read_text() for path in PACKAGE.glob("*.py"))
    page = (PACKAGE.parents[2] / "docs" / "protocol.md").read_text()
    for code in CODES:
        assert source.count(f'"{code}"') >= 2, code
        assert f"| `{code}` |" in page
    for label in words.LABELS:
        assert source.count(f'"{label}"') + source.count(f'b"{label}"') >= 2, label


def test_no_generator_of_numpy_or_pythons_is_reachable():
    """Keys and masks come from what is handed in, and the operating system's is handed in."""
    for path in PACKAGE.glob("*.py"):
        text = path.read_text()
        assert "import random" not in text
        assert "np.random" not in text
        assert "default_rng" not in text
        assert "core.seeds" not in text
        assert "pickle" not in text


PACKAGE = naive.TARGET.parents[2] / "src" / "hanse" / "secagg"
