"""The listener: who is at the other end, what it refuses, and how it ends. Real TLS on loopback."""

import gc
import hashlib
import itertools
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest
from tests.net.small import Small

from hanse.errors import ConfigError
from hanse.net.authority import client_context, server_context
from hanse.net.guard import GuardedConnection, Limits
from hanse.net.problems import Busy, NotTrusted, SessionLost, TooLarge, answer, error_of
from hanse.net.server import Server
from hanse.net.signing import digest_of

HASTY = Limits(head_s=0.3, body_s=0.3, handshake_s=0.3)
HEAD = b"POST /v1/limited HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n"


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path)


def raw(small, port, *, files=()):
    """A TLS connection without HTTP."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=4)
    return client_context(small.ca_pem, *files).wrap_socket(plain, server_hostname="localhost")


def said(connection):
    """What comes until the other end closes."""
    parts = []
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def drip(connection, *, until):
    while time.monotonic() < until:
        connection.sendall(b"G")
        time.sleep(0.05)


def seconds(work):
    start = time.monotonic()
    work()
    return time.monotonic() - start


def test_the_app_sees_the_client_certificate_and_its_name(small):
    with small.serving() as server:
        told = small.dial(server.port).request("GET", "/v1/who").json()
    pem, end, _ = small.site_files[0].read_text().partition("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(pem + end)
    assert told == {"name": "cleveland", "certificate": digest_of(der)}


def test_without_a_certificate_there_is_no_name(small):
    with small.serving() as server:
        told = small.dial(server.port, files=()).request("GET", "/v1/who").json()
    assert told == {"name": None, "certificate": None}


def test_no_header_tells_a_version_or_the_time(small):
    with small.serving() as server:
        headers = small.dial(server.port).request("GET", "/v1/who").headers
    assert not headers.keys() & {"server", "date", "x-powered-by"}


def test_tls_1_2_is_refused(small):
    context = client_context(small.ca_pem)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with small.serving() as server:
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=4)
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            context.wrap_socket(plain, server_hostname="localhost")


def test_plain_http_gets_no_answer(small):
    with small.serving() as server:
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=4)
        plain.sendall(b"GET /v1/ca HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"HTTP" not in said(plain)


def test_a_listener_that_admits_tls_1_2_cannot_be_made(small):
    with pytest.raises(ValueError, match=r"1\.3"):
        Server(small.app, "127.0.0.1", 0, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.parametrize("sent", [b"", b"GET /v1/ca HTTP/1.1\r\nhost: loc"])
def test_a_head_that_does_not_end_is_closed(small, sent):
    with small.serving(HASTY) as server, raw(small, server.port) as connection:
        connection.sendall(sent)
        assert seconds(lambda: said(connection)) < 2


def test_a_head_that_drips_is_closed(small):
    with small.serving(HASTY) as server, raw(small, server.port) as connection:
        start = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011 -- reset, broken pipe or end of TLS
            drip(connection, until=start + 3)
        assert time.monotonic() - start < 2


def test_a_body_without_progress_is_closed(small):
    with small.serving(HASTY) as server, raw(small, server.port) as connection:
        connection.sendall(HEAD % 900 + b"\r\nabc")
        assert seconds(lambda: said(connection)) < 2


def test_a_body_that_the_app_is_slow_to_read_is_not_closed(small):
    with small.serving(HASTY) as server:  # five times as slow as a body may be
        told = small.dial(server.port).exchange("POST", "/v1/slow", bytes(2**20))
    assert told.body == str(2**20).encode()


def test_a_long_poll_is_not_closed(small):
    with small.serving(HASTY) as server, raw(small, server.port) as connection:
        connection.sendall(b"GET /v1/wait HTTP/1.1\r\nhost: localhost\r\n\r\n")
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(1)


@pytest.mark.parametrize("ends", [b"\r\n\r\n", b""], ids=["whole", "endless"])
@pytest.mark.parametrize("where", [b"GET /%s HTTP/1.1\r\nhost: a", b"GET / HTTP/1.1\r\na: %s"])
def test_a_head_of_more_than_16_kib_is_refused(small, where, ends):
    with small.serving() as server, raw(small, server.port) as connection:
        connection.sendall(where % (b"a" * 17_000) + ends)
        assert said(connection).startswith(b"HTTP/1.1 413 ")


def test_a_head_of_15_kib_is_taken(small):
    with small.serving() as server:
        headers = {"x-long": "a" * 15_000}
        assert small.dial(server.port).exchange("GET", "/v1/who", headers=headers).status == 200


def test_what_is_no_http_is_refused_with_a_problem(small):
    with small.serving() as server, raw(small, server.port) as connection:
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        head, _, body = said(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"urn:hanse:error:protocol" in body


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(small):
    with small.serving() as server, raw(small, server.port) as connection:
        connection.sendall(HEAD % 10**12 + b"\r\n")
        heard = said(connection)
    assert heard.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in heard


def test_a_body_that_is_not_announced_is_read_no_further_than_allowed(small):
    with small.serving() as server, raw(small, server.port) as connection:
        head = b"POST /v1/limited HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head + b"3e9\r\n" + b"a" * 1001 + b"\r\n")
        assert said(connection).startswith(b"HTTP/1.1 413 ")


# A body that is read into the reader's own memory: "sizes" are of the pieces in which it is sent.


def put(size, more=b""):
    return b"PUT /v1/chunks/%d HTTP/1.1\r\nhost: localhost\r\n%s\r\n" % (size, more)


def length(size):
    return b"content-length: %d\r\n" % size


def in_pieces(content, sizes):
    return b"".join(
        b"%x\r\n%s\r\n" % (len(piece), piece) for piece in sliced(content, sizes)
    )  # fmt: skip


def sliced(content, sizes):
    for size in itertools.cycle(sizes):
        if not content:
            return
        yield content[:size]
        content = content[size:]


@pytest.mark.parametrize("sizes", [[1000], [2**20], [2**20 - 1, 1, 2], [2**21 + 3], [65_537, 7]])
def test_a_body_arrives_as_it_is_in_whatever_pieces_it_is_sent(small, sizes):
    content = secrets.token_bytes(3 * 2**20 + 17)
    with small.serving() as server, raw(small, server.port) as connection:
        head = put(len(content), length(len(content)) + b"connection: close\r\n")
        for piece in (head, *sliced(content, sizes)):
            connection.sendall(piece)
        heard = said(connection)
    assert hashlib.sha256(content).hexdigest().encode() in heard


@pytest.mark.parametrize("sizes", [[1000], [2**20 + 1]])
@pytest.mark.parametrize("size", [100, 2**20, 2**20 + 100])
def test_a_body_that_is_not_announced_is_told_when_it_is_longer_than_its_blob(small, size, sizes):
    with small.serving() as server, raw(small, server.port) as connection:
        head = put(size, b"transfer-encoding: chunked\r\nconnection: close\r\n")
        connection.sendall(head + in_pieces(bytes(size), sizes))
        time.sleep(0.05)
        with suppress(OSError):  # it is answered, and closed, before all is sent
            connection.sendall(in_pieces(bytes(300), sizes) + b"0\r\n\r\n")
        assert said(connection).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_is_not_announced_and_fits_is_taken(small):
    content = secrets.token_bytes(2**20 + 100)
    with small.serving() as server, raw(small, server.port) as connection:
        head = put(len(content), b"transfer-encoding: chunked\r\nconnection: close\r\n")
        connection.sendall(head + in_pieces(content, [999]) + b"0\r\n\r\n")
        assert hashlib.sha256(content).hexdigest().encode() in said(connection)


def test_requests_that_are_sent_at_once_have_each_its_own_body(small):
    contents = [secrets.token_bytes(size) for size in (10, 5000, 1)]
    with small.serving() as server, raw(small, server.port) as connection:
        sent = [put(len(c), length(len(c))) + c for c in contents[:2]]
        last = put(1, length(1) + b"connection: close\r\n") + contents[2]
        connection.sendall(b"".join(sent) + last)
        heard = said(connection)
    places = [heard.index(hashlib.sha256(c).hexdigest().encode()) for c in contents]
    assert places == sorted(places)


def test_who_asks_first_is_told_to_go_on(small):
    head = put(3, length(3) + b"expect: 100-continue\r\nconnection: close\r\n")
    with small.serving() as server, raw(small, server.port) as connection:
        connection.sendall(head)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert hashlib.sha256(b"abc").hexdigest().encode() in said(connection)


def test_a_client_that_sends_too_much_hears_why(small):
    with small.serving() as server, pytest.raises(TooLarge):
        small.dial(server.port).exchange("POST", "/v1/limited", bytes(2**20)).accepted()


def test_unknown_connections_have_few_places_and_the_oldest_idle_one_makes_room(small):
    with small.serving(Limits(unknown=3)) as server, ExitStack() as stack:
        known = stack.enter_context(raw(small, server.port, files=small.site_files))
        first, *_ = [stack.enter_context(raw(small, server.port)) for _ in range(8)]
        assert said(first) == b""  # closed
        assert server.counts["unknown"] <= 3
        known.sendall(b"GET /v1/who HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert b"cleveland" in said(known)


def test_a_request_under_way_is_not_evicted_by_idle_connections(small):
    with small.serving(Limits(unknown=3)) as server, ExitStack() as stack:
        busy = stack.enter_context(raw(small, server.port))
        busy.sendall(b"GET /v1/wait HTTP/1.1\r\nhost: a\r\n\r\n")
        small.begun.wait(4)
        for _ in range(8):
            stack.enter_context(raw(small, server.port))
        busy.settimeout(0.3)
        with pytest.raises(TimeoutError):
            busy.recv(1)


def test_handshakes_that_do_not_end_are_closed_and_make_room(small):
    with small.serving(Limits(handshakes=5, handshake_s=0.5)) as server, ExitStack() as stack:
        dial = lambda: socket.create_connection(("127.0.0.1", server.port), timeout=4)  # noqa: E731
        open_ends = [stack.enter_context(dial()) for _ in range(20)]
        assert small.dial(server.port).request("GET", "/v1/who").status == 200
        assert server.counts["handshakes"] <= 5
        for end in open_ends:
            assert said(end) == b""  # closed: early, or after half a second
        end_of = time.monotonic() + 2
        while server.counts["handshakes"] and time.monotonic() < end_of:
            time.sleep(0.01)
        assert server.counts["handshakes"] == 0


def test_a_site_works_on_beside_slow_heads_and_open_handshakes(small):
    def rounds(connection):
        return seconds(lambda: [connection.request("GET", "/v1/who") for _ in range(100)])

    with small.serving() as server, ExitStack() as stack:
        site = small.dial(server.port)
        alone = rounds(site)
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        for _ in range(200):
            stack.enter_context(raw(small, server.port)).sendall(b"GET / HT")
        assert server.counts["unknown"] <= 64
        assert server.counts["handshakes"] <= 64
        assert rounds(site) < 2 * alone + 0.1


def test_a_stop_ends_long_polls_within_two_seconds_with_a_problem(small):
    heard = []
    with small.serving() as server:
        site = small.dial(server.port)

        def wait():
            try:
                site.request("GET", "/v1/wait")
            except Busy as error:
                heard.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        small.begun.wait(4)
        assert seconds(server.stop) < 2
        thread.join()
    assert len(heard) == 1
    assert small.ended == ["cancelled"]


def test_a_stop_without_requests_is_immediate(small):
    with small.serving() as server:
        site = small.dial(server.port)
        site.request("GET", "/v1/who")
        assert seconds(server.stop) < 0.8


def test_what_runs_beside_the_requests_begins_before_the_first_and_ends_after_the_last(small):
    seen = []

    @asynccontextmanager
    async def around():
        seen.append("begin")
        yield
        seen.append("end")

    with small.serving(around=around, on_stop=lambda: seen.append("stop")):
        assert seen == ["begin"]
    assert seen == ["begin", "stop", "end"]


def test_an_error_of_what_runs_beside_the_requests_comes_out_of_start(small):
    @asynccontextmanager
    async def around():
        raise ConfigError("no database")
        yield

    with pytest.raises(ConfigError, match="no database"), small.serving(around=around):
        pass


def test_a_port_in_use_is_an_error_that_says_so(small):
    with small.serving() as server:
        context = server_context(*small.server_files, small.ca_file)
        with pytest.raises(ConfigError, match=f"port {server.port}"):
            Server(small.app, "127.0.0.1", server.port, context).start()


def test_a_renewed_certificate_is_shown_from_the_next_handshake_on(small):
    with small.serving() as server:
        with raw(small, server.port) as connection:
            before = connection.getpeercert(binary_form=True)
        small.certify()
        server.reload(*small.server_files)
        with raw(small, server.port) as connection:
            assert connection.getpeercert(binary_form=True) != before
        with pytest.raises(ConfigError):
            server.reload(small.server_files[0], small.folder / "site.key")
        with raw(small, server.port) as connection:
            assert connection.getpeercert(binary_form=True) != before


RUN = """
import sys
from pathlib import Path
from tests.net.small import Small, Server, server_context
small = Small(Path(sys.argv[1]))
context = server_context(*small.server_files, small.ca_file)
server = Server(small.app, "127.0.0.1", 0, context)
server.run(lambda: print(server.port, flush=True))
print("ended", small.ended, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_within_two_seconds(tmp_path, number):
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)):
            os.kill(process.pid, number)
            assert seconds(lambda: process.wait(4)) < 2
        assert process.stdout.read() == "ended []\n"
    assert process.returncode == 0


@pytest.mark.parametrize("error", [TooLarge, SessionLost, NotTrusted, Busy])
def test_an_error_goes_over_the_wire_as_its_code_and_nothing_else(error):
    status, body = answer(error("the table /var/lib/x is full", hint="secret"))
    assert b"secret" not in body
    assert b"/var" not in body
    assert type(error_of("GET /", status, body)) is error


def test_a_connection_that_has_gone_is_held_by_nothing(small):
    """Neither by the timer of its next request nor by a poll that nobody waits for any more."""
    with small.serving(Limits()) as server:
        for path in ("/v1/ca", "/v1/wait"):
            for _ in range(5):
                with raw(small, server.port) as line:
                    line.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
                    time.sleep(0.05)
        ends = time.monotonic() + 3
        while held() and time.monotonic() < ends:
            time.sleep(0.05)
        assert held() == 0


def held() -> int:
    gc.collect()
    return sum(type(one) is GuardedConnection for one in gc.get_objects())
