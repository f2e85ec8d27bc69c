"""The spool: uploads go on where they were cut, are on disk as ciphertext, and die with the key."""

import itertools
import os
import resource
import shutil
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.coordinator.blobs import Damaged
from hanse.coordinator.spool import Spool
from hanse.coordinator.uploads import NONCE, TAG
from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError
from hanse.failpoints import Point, watching

CONTENT = os.urandom(2 * CHUNK + 1_000)
LISTING = Listing.of(CONTENT)
HEADER, RECORD, PIECE = len(LISTING.packed), NONCE + CHUNK + TAG, 2**18


def chunk(number, content=CONTENT):
    return content[number * CHUNK :][:CHUNK]


def fill(upload, content=CONTENT, upto=None):
    writer, end = upload.writer(), len(content) if upto is None else upto * CHUNK
    while writer.at < end:
        piece = content[writer.at : min(writer.at + PIECE, end)]
        writer.write(piece)
    return upload


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def room(folder):
    return Spool(folder).room("heart-1", 3)


def file_of(folder, name="ulm"):
    return folder / "heart-1@3" / f"{name}.upload"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_arrived_is_read_back_whole_and_by_chunks(room, size):
    content = os.urandom(size)
    upload = fill(room.upload("ulm", Listing.of(content)), content)
    assert upload.is_complete
    upload.finish()
    assert upload.read() == content
    assert b"".join(map(bytes, upload.chunks())) == content


@pytest.mark.parametrize("which", [0, 1], ids=["the file", "its name"])
def test_what_could_not_be_synced_has_not_arrived(room, monkeypatch, which):
    upload = fill(room.upload("ulm", LISTING))
    syncs = iter([None] * which + [OSError(28, "No space left on device")])
    real = os.fsync

    def fsync(file):
        found = next(syncs, None)
        if found is not None:
            raise found
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        upload.finish()
    assert upload.next == 0
    with pytest.raises(ProtocolError, match="0 of 3 chunks"):
        upload.finish()
    assert fill(upload).read() == CONTENT
    upload.finish()
    assert room.found("ulm").read() == CONTENT


def test_chunks_may_be_any_kind_of_bytes(room):
    upload = room.upload("ulm", LISTING)
    writer = upload.writer()
    writer.write(bytearray(chunk(0)))
    writer.write(memoryview(CONTENT)[CHUNK : 2 * CHUNK])
    writer.write(chunk(2))
    assert upload.read() == CONTENT


@settings(max_examples=30)
@given(st.lists(st.integers(1, CHUNK), min_size=1, max_size=20))
def test_pieces_may_have_any_size(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("spool")
    upload = Spool(folder).room("heart-1", 3).upload("ulm", LISTING)
    writer = upload.writer()
    for size in itertools.cycle(sizes):
        if writer.at == len(CONTENT):
            break
        end = min(writer.at + size, (writer.at // CHUNK + 1) * CHUNK)
        writer.write(CONTENT[writer.at : end])
        assert upload.next == (writer.at + (CHUNK - 1) * upload.is_complete) // CHUNK
    assert upload.read() == CONTENT
    shutil.rmtree(folder)


@settings(max_examples=30)
@given(st.integers(0, len(CONTENT) - 1), st.booleans())
def test_a_chunk_that_was_cut_begins_anew_under_another_nonce(tmp_path_factory, cut, restarts):
    folder = tmp_path_factory.mktemp("spool")
    upload = Spool(folder).room("heart-1", 3).upload("ulm", LISTING)
    writer = upload.writer()
    while writer.at < cut:
        writer.write(CONTENT[writer.at : min(cut, (writer.at // CHUNK + 1) * CHUNK)])
    before = file_of(folder).read_bytes()[HEADER + cut // CHUNK * RECORD :]
    if restarts:
        upload = Spool(folder).room("heart-1", 3).upload("ulm", LISTING)
    assert upload.next == cut // CHUNK
    assert fill(upload).read() == CONTENT
    after = file_of(folder).read_bytes()[HEADER + cut // CHUNK * RECORD :]
    assert before[:NONCE] != after[:NONCE]
    shutil.rmtree(folder)


def test_of_two_connections_the_later_one_sends(room):
    upload = fill(room.upload("ulm", LISTING), upto=1)
    old = upload.writer()
    old.write(chunk(1)[:PIECE])
    new = upload.writer()
    for piece in (chunk(1)[PIECE:], chunk(1)):
        with pytest.raises(ProtocolError, match="another connection sends this upload"):
            old.write(piece)
    new.write(chunk(1))
    assert upload.next == 2
    assert fill(upload).read() == CONTENT


def test_an_upload_goes_on_where_it_was_cut_after_a_new_start(folder, room):
    fill(room.upload("ulm", LISTING), upto=2)
    upload = Spool(folder).room("heart-1", 3).upload("ulm", LISTING)
    assert (upload.next, upload.is_complete) == (2, False)
    assert fill(upload).read() == CONTENT


def test_a_finished_upload_is_complete_after_a_new_start(folder, room):
    fill(room.upload("ulm", LISTING)).finish()
    upload = Spool(folder).room("heart-1", 3).upload("ulm", LISTING)
    assert upload.is_complete
    upload.finish()
    assert upload.read() == CONTENT


@pytest.mark.parametrize(
    "kept", [0, HEADER - 1, HEADER, HEADER + 5, HEADER + NONCE, HEADER + RECORD - 1]
)
def test_a_chunk_that_is_not_on_disk_whole_is_asked_for_again(folder, room, kept):
    fill(room.upload("ulm", LISTING), upto=2)
    os.truncate(file_of(folder), kept)
    upload = Spool(folder).room("heart-1", 3).upload("ulm", LISTING)
    assert upload.next == 0
    assert fill(upload).read() == CONTENT


def test_the_same_upload_is_the_one_that_is_under_way(room):
    upload = fill(room.upload("ulm", LISTING), upto=1)
    assert room.upload("ulm", Listing.of(CONTENT)) is upload


def test_another_listing_begins_an_upload_anew(folder, room):
    fill(room.upload("ulm", LISTING))
    before = file_of(folder).read_bytes()
    other = CONTENT[:CHUNK] + os.urandom(CHUNK)
    upload = room.upload("ulm", Listing.of(other))
    assert upload.next == 0
    fill(upload, other)
    after, header = file_of(folder).read_bytes(), len(upload.listing.packed)
    assert after[header : header + CHUNK] != before[HEADER : HEADER + CHUNK]
    assert upload.read() == other


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([chunk(0)], "chunk 1 has another digest"),
        ([chunk(1)[:PIECE], chunk(1)[:-PIECE]], "chunk 1 has another digest"),
        ([chunk(1) + b"x"], "chunk 1 has more than 1048576 bytes"),
        ([chunk(1)[:PIECE], chunk(1)], "chunk 1 has more than"),
    ],
)
def test_a_chunk_that_is_not_the_listings_has_not_arrived(folder, room, pieces, said):
    upload = fill(room.upload("ulm", LISTING), upto=1)
    writer = upload.writer()
    for piece in pieces[:-1]:
        writer.write(piece)
    with pytest.raises(ProtocolError, match=said):
        writer.write(pieces[-1])
    with pytest.raises(ProtocolError, match="another connection"):
        writer.write(chunk(1))
    assert upload.next == 1
    assert Spool(folder).room("heart-1", 3).upload("ulm", LISTING).next == 1
    assert fill(upload).read() == CONTENT


def test_what_comes_behind_the_last_chunk_is_refused(room):
    upload = fill(room.upload("ulm", LISTING))
    with pytest.raises(ProtocolError, match="behind the last chunk"):
        upload.writer().write(b"more")
    assert upload.read() == CONTENT


def test_an_upload_with_missing_chunks_cannot_be_finished(room):
    with pytest.raises(ProtocolError, match="1 of 3 chunks have arrived"):
        fill(room.upload("ulm", LISTING), upto=1).finish()


def test_nothing_of_the_content_is_on_disk(folder, room):
    content = bytes(range(256)) * 8_192  # 2 MiB: each 16 bytes of it come again and again
    fill(room.upload("ulm", Listing.of(content)), content).finish()
    stored = file_of(folder).read_bytes()[HEADER:]
    assert len({stored[at : at + 16] for at in range(0, len(stored), 16)}) >= len(stored) // 16
    assert content[:16] not in stored


def test_the_same_content_is_another_ciphertext_under_another_name(folder, room):
    for name in ("ulm", "bonn"):
        fill(room.upload(name, LISTING))
    assert room.names() == ["bonn", "ulm"]
    one, two = (file_of(folder, name).read_bytes() for name in ("ulm", "bonn"))
    assert one[HEADER : HEADER + 64] != two[HEADER : HEADER + 64]


@settings(max_examples=30)
@given(st.integers(0, HEADER + 3 * (NONCE + TAG) + len(CONTENT) - 1))
def test_any_flipped_bit_is_noticed(tmp_path_factory, at):
    folder = tmp_path_factory.mktemp("spool")
    upload = fill(Spool(folder).room("heart-1", 3).upload("ulm", LISTING))
    path = file_of(folder)
    stored = bytearray(path.read_bytes())
    stored[at] ^= 1
    path.write_bytes(stored)
    again = Spool(folder).room("heart-1", 3).upload("ulm", LISTING)
    assert again.next == max(0, (at - HEADER)) // RECORD
    if at >= HEADER:  # the upload under way knows its key, and needs the header no more
        with pytest.raises(Damaged, match=f"chunk {again.next} of the upload"):
            upload.read()
    shutil.rmtree(folder)


def test_a_discarded_upload_is_gone_and_its_late_chunks_fail(folder, room):
    writer = fill(room.upload("ulm", LISTING), upto=1).writer()
    room.discard("ulm")
    room.discard("ulm")
    assert room.names() == []
    with pytest.raises(ProtocolError, match="has ended"):
        writer.write(chunk(1))
    assert room.upload("ulm", LISTING).next == 0


def test_an_upload_whose_place_was_taken_twice_writes_nothing_into_its_successors(room):
    other = Listing.of(CONTENT[::-1])
    old = room.upload("ulm", LISTING).writer()
    for listing, content in ((other, CONTENT[::-1]), (LISTING, CONTENT)):
        new = room.upload("ulm", listing)
        with pytest.raises(ProtocolError, match="has ended"):
            old.write(chunk(0))
        new.writer().write(content[: listing.length(0)])
        assert new.read() == content[: listing.length(0)]


def test_a_destroyed_room_is_gone_with_its_key(folder):
    spool = Spool(folder)
    upload = fill(spool.room("heart-1", 3).upload("ulm", LISTING))
    stored, room = file_of(folder).read_bytes(), spool.room("heart-1", 3)
    spool.destroy("heart-1", 3)
    spool.destroy("heart-1", 3)
    assert room.destroy() is None
    assert spool.rooms() == []
    spool.close()
    assert list(folder.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        upload.read()
    with pytest.raises(FileNotFoundError, match="was destroyed"):
        room.upload("ulm", LISTING)
    fill(spool.room("heart-1", 3).upload("ulm", LISTING), upto=1)
    file_of(folder).write_bytes(stored)  # as a backup would bring it back
    assert Spool(folder).room("heart-1", 3).upload("ulm", LISTING).next == 0


def test_destroying_overwrites_the_key_where_it_lies(folder, room):
    path = folder / "heart-1@3" / "key"
    key = path.read_bytes()
    with open(path, "rb") as file:
        room.destroy()
        assert len(key) == 32
        assert file.read() == b""


def test_what_was_destroyed_and_not_removed_yet_is_removed_at_the_next_start(folder, room):
    fill(room.upload("ulm", LISTING))
    left = room.destroy()  # and then the process is killed
    assert left in folder.iterdir()
    again = Spool(folder)
    assert again.rooms() == []
    again.close()
    assert list(folder.iterdir()) == []


def test_rooms_that_were_left_are_listed_and_can_be_destroyed(folder):
    spool = Spool(folder)
    for run, round in (("heart-1", 10), ("heart-1", 9), ("a.b_c", 0)):
        spool.room(run, round).upload("ulm", LISTING)
    again = Spool(folder)
    assert again.rooms() == [("a.b_c", 0), ("heart-1", 9), ("heart-1", 10)]
    again.destroy("heart-1", 9)
    again.destroy("heart-1", 9)
    again.destroy("never", 1)
    assert again.rooms() == [("a.b_c", 0), ("heart-1", 10)]


@pytest.mark.parametrize("left", [None, b"", b"half a key"])
def test_a_room_without_a_whole_key_is_emptied_and_begun_anew(folder, room, left):
    fill(room.upload("ulm", LISTING))
    key = folder / "heart-1@3" / "key"
    key.unlink() if left is None else key.write_bytes(left)
    again = Spool(folder).room("heart-1", 3)
    assert again.names() == []
    assert fill(again.upload("ulm", LISTING)).read() == CONTENT
    assert len(key.read_bytes()) == 32


def test_each_room_has_a_key_of_its_own_that_shows_nowhere(folder):
    spool = Spool(folder)
    rooms = [spool.room("heart-1", round) for round in range(2)]
    uploads = [room.upload("ulm", LISTING) for room in rooms]
    keys = {(folder / f"heart-1@{round}" / "key").read_bytes() for round in range(2)}
    assert len(keys) == 2
    shown = repr((spool, rooms, uploads))
    assert not any(key.hex() in shown or repr(key) in shown for key in keys)


def test_the_same_room_is_one_room(folder):
    spool = Spool(folder)
    assert spool.room("heart-1", 3) is spool.room("heart-1", 3)


@pytest.mark.parametrize("run", ["", "..", ".hidden", "a/b", "a@1", "x" * 121, "é"])
def test_a_run_that_is_no_run_has_no_room(folder, run):
    with pytest.raises(ValueError, match="there is no round 1"):
        Spool(folder).room(run, 1)


@pytest.mark.parametrize("name", ["", "..", "a/b", "Ulm", "key\n", "x" * 128])
def test_a_name_that_is_none_has_no_upload(room, name):
    with pytest.raises(ValueError, match="no name of an upload"):
        room.upload(name, LISTING)


def test_a_chunk_for_which_there_is_no_disk_can_be_sent_again(room):
    upload = fill(room.upload("ulm", LISTING), upto=1)
    old, size = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.RLIMIT_FSIZE
    soft, hard = resource.getrlimit(size)
    resource.setrlimit(size, (HEADER + RECORD + 5_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            upload.writer().write(chunk(1))
    finally:
        resource.setrlimit(size, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert upload.next == 1
    assert fill(upload).read() == CONTENT


def test_files_and_folders_are_for_their_owner_alone(folder):
    old = os.umask(0)
    try:
        fill(Spool(folder).room("heart-1", 3).upload("ulm", LISTING)).finish()
    finally:
        os.umask(old)
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in (folder.parent).rglob("*")}
    assert modes == {True: 0o700, False: 0o600}


def test_a_key_is_overwritten_before_anything_is_removed(folder, room):
    seen, path = [], folder / "heart-1@3" / "key"
    before = path.read_bytes()

    def look(point):
        if point == Point.KEY_OVERWRITTEN:
            seen.append(path.read_bytes())

    with watching(look):
        room.destroy()
    (found,) = seen
    assert len(found) == len(before)
    assert found != before
