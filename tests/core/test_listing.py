"""Blobs: one listing and one id for each byte string, and none for what contradicts itself."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.listing import CHUNK, MOST_CHUNKS, PREFIX, Listing, digests
from hanse.errors import ProtocolError

SIZES = (0, 1, 31, 32, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5)
DIGEST = b"d" * 32


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
def test_a_listing_is_the_size_and_a_digest_for_each_chunk(size):
    whole = content(size)
    by_hand = [hashlib.sha256(whole[at : at + CHUNK]).digest() for at in range(0, size, CHUNK)]
    listing = Listing.of(whole)
    assert listing == Listing(size, tuple(by_hand))
    assert listing.packed == size.to_bytes(8, "little") + b"".join(by_hand)
    assert listing.id == hashlib.sha256(b"hanse/1 blob\n" + listing.packed).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_a_listing_comes_back_from_its_bytes(size):
    listing = Listing.of(content(size))
    assert Listing.unpack(listing.packed) == listing
    assert Listing.unpack(listing.packed).id == listing.id


@pytest.mark.parametrize("size", SIZES)
def test_the_lengths_of_the_chunks_add_up_to_the_size_and_none_is_empty(size):
    listing = Listing.of(content(size))
    lengths = [listing.length(number) for number in range(len(listing.chunks))]
    assert sum(lengths) == size
    assert all(0 < length <= CHUNK for length in lengths)
    assert all(length == CHUNK for length in lengths[:-1])


def test_bytes_that_may_change_and_views_of_them_have_the_same_listing():
    whole = content(CHUNK + 7)
    listing = Listing.of(whole)
    assert Listing.of(bytearray(whole)) == listing
    assert Listing.of(memoryview(b"x" + whole)[1:]) == listing


@given(st.integers(0, 2 * CHUNK + 99), st.integers(1, 255))
def test_every_byte_of_a_blob_is_in_its_id(at, change):
    whole = bytearray(content(2 * CHUNK + 100))
    before = Listing.of(whole)
    whole[at] ^= change
    after = Listing.of(whole)
    assert after.id != before.id
    assert [a != b for a, b in zip(after.chunks, before.chunks, strict=True)].count(True) == 1


def test_the_same_chunks_in_another_order_are_another_blob():
    one, two = digests([content(CHUNK), content(CHUNK)[::-1]])
    assert Listing(2 * CHUNK, (one, two)).id != Listing(2 * CHUNK, (two, one)).id


def test_the_last_chunk_of_zeros_is_not_taken_for_a_shorter_one():
    assert Listing.of(bytes(5)).id != Listing.of(bytes(6)).id
    assert Listing.of(b"").id != Listing.of(bytes(1)).id


def test_an_id_is_no_digest_of_the_bytes_alone():
    """A blob whose content is a listing has another id than the blob of that listing."""
    listing = Listing.of(content(40))
    assert Listing.of(PREFIX + listing.packed).id != listing.id
    assert Listing.of(listing.packed).id != listing.id


@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        (-1, ()),
        (0, (DIGEST,)),
        (1, ()),
        (1, (DIGEST, DIGEST)),
        (CHUNK, (DIGEST, DIGEST)),
        (CHUNK + 1, (DIGEST,)),
        (1, (b"d" * 31,)),
        (1, (b"d" * 33,)),
        (2 * CHUNK, (b"d" * 64, b"")),
        (CHUNK * MOST_CHUNKS + 1, ()),
        (2**63, ()),
    ],
)
def test_a_listing_that_contradicts_itself_cannot_be_made(size, chunks):
    with pytest.raises(ProtocolError, match=f"a blob of {size} bytes"):
        Listing(size, chunks)


@given(st.binary(max_size=8 + 3 * 32))
def test_any_bytes_are_the_one_listing_that_they_pack_or_none(packed):
    try:
        listing = Listing.unpack(packed)
    except ProtocolError:
        return
    assert listing.packed == packed


@pytest.mark.parametrize("length", [0, 1, 7, 9, 31, 32, 39, 41])
def test_bytes_of_the_wrong_number_are_no_listing(length):
    with pytest.raises(ProtocolError, match=f"a listing of {length} bytes"):
        Listing.unpack(bytes(length))
