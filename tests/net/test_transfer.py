"""Blobs over lines that cut and crawl, with real TLS on loopback."""

import secrets
import time

import pytest
from tests.net.proxy import Line
from tests.net.small import RECEIPT, Small

from hanse.core.listing import CHUNK, Listing
from hanse.errors import ProtocolError, TransportError
from hanse.net.problems import Missing
from hanse.net.transfer import download, upload

MB = 10**6
PATH = "/v1/runs/heart-1/3/train"


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path)


@pytest.fixture
def port(small):
    with small.serving() as server:
        yield server.port


def send(small, line, content, source=None):
    small.size = len(content)
    return upload(line, PATH, content if source is None else source, Listing.of(content))


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_blob_arrives_as_it_is_whatever_its_size(small, port, tmp_path, size):
    content = secrets.token_bytes(size)
    listing = download(small.sign(port), small.hold(content), tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == content
    assert listing == Listing.of(content)
    assert not (tmp_path / "model.part").exists()


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("kind", ["file", "buffer"])
def test_a_source_is_taken_as_it_is_whatever_its_size(small, port, tmp_path, size, kind):
    content = secrets.token_bytes(size)
    (source := tmp_path / "share").write_bytes(content)
    given = source if kind == "file" else bytearray(content)
    assert send(small, small.sign(port), content, given) == RECEIPT
    assert small.uploads[PATH] == content
    assert small.puts == 1


def test_a_download_goes_on_over_a_line_that_is_cut_every_3_mb(small, port, tmp_path):
    content = secrets.token_bytes(20 * MB)
    with Line(port, cut_after=3 * MB) as line:
        download(small.sign(line.port), small.hold(content), tmp_path / "model")
        assert line.connections >= 7
    assert (tmp_path / "model").read_bytes() == content


def test_an_upload_goes_on_over_a_line_that_is_cut_every_3_mb(small, port):
    content = secrets.token_bytes(20 * MB)
    with Line(port, cut_after=3 * MB) as line:
        assert send(small, small.sign(line.port), content) == RECEIPT
        assert line.connections >= 7
    assert small.uploads[PATH] == content


def test_a_transfer_ends_when_nobody_wants_to_go_on(small, port, tmp_path):
    content = secrets.token_bytes(3 * MB)
    model, asked = tmp_path / "model", []
    with Line(port, cut_after=MB) as line:
        signed, blob = small.sign(line.port), small.hold(content)
        with pytest.raises(TransportError):
            download(signed, blob, model, keep_going=lambda: bool(asked.append("?")))
    assert asked
    assert not model.exists()


def test_a_transfer_over_1_mb_a_second_takes_as_long_as_its_bytes_take(small, port, tmp_path):
    content = secrets.token_bytes(MB)
    with Line(port, per_second=MB) as line:
        start = time.monotonic()
        download(small.sign(line.port), small.hold(content), tmp_path / "model")
        assert 0.9 < time.monotonic() - start < 3
        assert send(small, small.sign(line.port), content) == RECEIPT


def test_what_came_before_a_restart_is_used_if_it_is_right(small, port, tmp_path):
    content = secrets.token_bytes(20 * CHUNK)
    (tmp_path / "model.part").write_bytes(content[: 19 * CHUNK + 5])
    with Line(port, cut_after=2 * MB) as line:
        download(small.sign(line.port), small.hold(content), tmp_path / "model")
        assert line.connections <= 2
    assert (tmp_path / "model").read_bytes() == content


@pytest.mark.parametrize("chunks", [2, 9])
def test_what_came_before_is_fetched_again_if_it_is_wrong(small, port, tmp_path, chunks):
    content = secrets.token_bytes(3 * CHUNK)
    (tmp_path / "model.part").write_bytes(content[:CHUNK] + bytes(CHUNK * chunks))
    download(small.sign(port), small.hold(content), tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == content


def test_a_blob_that_is_another_is_refused(small, port, tmp_path):
    blob = small.hold(b"one")
    small.blobs[blob] = Listing.of(b"two"), b"two"
    with pytest.raises(ProtocolError, match="the listing is that of"):
        download(small.sign(port), blob, tmp_path / "model")


def test_a_chunk_that_is_not_the_listings_is_refused(small, port, tmp_path):
    content = bytearray(secrets.token_bytes(2 * CHUNK))
    blob = small.hold(content)
    content[CHUNK + 7] ^= 1  # a disk that went bad
    with pytest.raises(ProtocolError, match="chunk 1 is not"):
        download(small.sign(port), blob, tmp_path / "model")


def test_a_blob_that_is_not_there_is_missing(small, port, tmp_path):
    with pytest.raises(Missing):
        download(small.sign(port), "0" * 64, tmp_path / "model")


def test_a_blob_larger_than_the_spec_allows_is_refused_by_its_first_8_bytes(small, port, tmp_path):
    blob = small.hold(bytes(3 * CHUNK))
    with pytest.raises(ProtocolError, match=f"{3 * CHUNK} bytes, 1000 at most"):
        download(small.sign(port), blob, tmp_path / "model", most=1000)


def test_an_upload_whose_session_is_lost_between_two_requests_goes_on(small, port):
    signed, content = small.sign(port), secrets.token_bytes(2 * CHUNK)
    signed.request("POST", "/v1/echo", {})
    small.windows.clear()  # the coordinator was started again
    assert send(small, signed, content) == RECEIPT


def test_a_taken_upload_that_is_sent_again_gets_the_same_receipt(small, port):
    signed, content = small.sign(port), secrets.token_bytes(20 * CHUNK)
    send(small, signed, content)
    with Line(port, per_second=10 * MB) as line:  # what is on its way when it is told is lost
        assert send(small, small.sign(line.port), content) == RECEIPT
        assert line.passed < 10 * CHUNK
    assert small.uploads[PATH] == content


def test_what_is_there_of_an_upload_is_not_sent_again(small, port):
    content = secrets.token_bytes(20 * CHUNK)
    small.uploading[PATH] = [content[at : at + CHUNK] for at in range(0, 18 * CHUNK, CHUNK)]
    with Line(port, per_second=10 * MB) as line:  # what is on its way when it is told is lost
        assert send(small, small.sign(line.port), content) == RECEIPT
        assert line.passed < 15 * CHUNK
    assert small.uploads[PATH] == content
