"""Blobs: what is stored is what is read, or an error."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.coordinator.blobs import BlobStore, Damaged
from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError

SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17)


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "blobs")


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def file_of(store, id):
    return store._folder / id[:2] / id[2:]


@pytest.mark.parametrize("size", SIZES)
def test_a_blob_is_read_as_it_was_put_whole_and_by_chunks(store, size):
    content = os.urandom(size)
    listing = store.put(content)
    assert listing == Listing.of(content) == store.listing(listing.id)
    assert b"".join(store.open_chunks(listing.id)) == content
    assert store.map(listing.id) == content
    for number in range(len(listing.chunks)):
        assert store.read_chunk(listing.id, number) == content[number * CHUNK :][:CHUNK]
        assert b"".join(store.open_chunks(listing.id, number)) == content[number * CHUNK :]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2 * CHUNK), max_size=6))
def test_the_sizes_of_the_pieces_do_not_matter(tmp_path_factory, sizes):
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    content = np.random.default_rng(0).bytes(sum(sizes))
    with store.writer() as writer:
        at = 0
        for size in sizes:
            writer.write(memoryview(content)[at : at + size])
            at += size
        assert writer.commit() == Listing.of(content)


def test_a_blob_is_still_there_when_the_store_is_opened_again(store, tmp_path):
    id = store.put(b"abc").id
    assert bytes(BlobStore(tmp_path / "blobs").map(id)) == b"abc"


def test_the_same_blob_twice_is_one_blob_and_heals_a_damaged_one(store):
    id = store.put(b"abc").id
    flip(file_of(store, id), 0)
    assert store.put(b"abc").id == id
    assert store.ids() == [id]
    assert store.map(id) == b"abc"


def test_the_same_blob_from_many_threads_is_one_blob(store):
    content, found = os.urandom(2 * CHUNK), []
    threads = [threading.Thread(target=lambda: found.append(store.put(content))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Listing.of(content)] * 4
    assert store.map(found[0].id) == content


@pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 4])
def test_a_flipped_bit_is_noticed_by_every_way_of_reading_it(store, at):
    listing = store.put(os.urandom(2 * CHUNK + 5))
    flip(file_of(store, listing.id), at)
    damaged = f"chunk {at // CHUNK} of blob {listing.id} is damaged"
    with pytest.raises(Damaged, match=damaged):
        store.read_chunk(listing.id, at // CHUNK)
    with pytest.raises(Damaged, match=damaged):
        list(store.open_chunks(listing.id))
    with pytest.raises(Damaged, match=damaged):
        store.map(listing.id)
    for number in {0, 1, 2} - {at // CHUNK}:
        store.read_chunk(listing.id, number)


@pytest.mark.parametrize("at", [0, 8, 8 + 32])
def test_a_flipped_bit_in_a_listing_is_noticed(store, at):
    id = store.put(bytes(CHUNK + 5)).id
    flip(file_of(store, id).with_name(id[2:] + ".listing"), at)
    for read in (store.listing, store.map, store.open_chunks, lambda id: store.read_chunk(id, 0)):
        with pytest.raises(Damaged, match="the listing of blob"):
            read(id)


def test_a_blob_that_was_cut_off_is_noticed(store):
    id = store.put(bytes(CHUNK + 5)).id
    os.truncate(file_of(store, id), CHUNK)
    with pytest.raises(Damaged, match="chunk 1"):
        store.map(id)


def test_a_chunk_that_a_blob_does_not_have_is_an_error_of_the_peers(store):
    id = store.put(bytes(CHUNK + 5)).id
    for number in (-1, 2):
        with pytest.raises(ProtocolError, match=f"chunk {number} of a blob of 2 chunks"):
            store.read_chunk(id, number)
    for first in (-1, 3):
        with pytest.raises(ProtocolError, match=f"chunk {first} of a blob of 2 chunks"):
            store.open_chunks(id, first)
    assert list(store.open_chunks(id, 2)) == []


@pytest.mark.parametrize("id", ["0" * 64, "", "../../secret", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_blob_that_is_not_there_is_not_found_whatever_it_is_called(store, id):
    for read in (store.listing, store.map, store.open_chunks, lambda id: store.read_chunk(id, 0)):
        with pytest.raises(FileNotFoundError):
            read(id)


def test_a_deleted_blob_is_gone_and_what_was_mapped_stays_readable(store):
    one, two = store.put(b"one").id, store.put(b"two").id
    mapped = store.map(one)
    store.delete(one)
    store.delete(one)
    assert store.ids() == [two]
    assert mapped == b"one"
    with pytest.raises(FileNotFoundError):
        store.listing(one)


def test_a_mapped_blob_is_aligned_and_cannot_be_written(store):
    mapped = store.map(store.put(np.arange(1_000.0).tobytes()).id)
    array = np.frombuffer(mapped)
    assert array.ctypes.data % 4096 == 0
    assert not array.flags.writeable
    with pytest.raises(TypeError):
        mapped[0] = 1


def test_what_was_not_committed_leaves_nothing(store, tmp_path):
    with store.writer() as writer:
        writer.write(b"abc")
    with pytest.raises(TypeError), store.writer() as writer:
        writer.write("not bytes")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_killed_writer_left_is_removed_at_the_next_start(tmp_path):
    store = BlobStore(tmp_path)
    writer = store.writer()
    writer.write(b"abc")
    assert len(list((tmp_path / "unfinished").iterdir())) == 1
    BlobStore(tmp_path)
    assert list((tmp_path / "unfinished").iterdir()) == []
    writer.abandon()


def test_files_and_folders_are_for_their_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        BlobStore(tmp_path / "blobs").put(b"abc")
    finally:
        os.umask(old)
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in (tmp_path / "blobs").rglob("*")}
    assert modes == {True: 0o700, False: 0o600}
