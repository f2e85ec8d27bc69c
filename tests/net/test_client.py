"""The dialling end: what it trusts, what it says when it fails, and what it signs."""

import hashlib
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from tests.net.proxy import Line, Tunnel
from tests.net.small import Small

from hanse.errors import ConfigError, ProtocolError, TransportError
from hanse.net.client import Connection, fetch_authority
from hanse.net.keys import IdentityKey
from hanse.net.problems import NotTrusted, SessionLost
from hanse.net.session import SignedConnection

PROXIES = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path)


@pytest.fixture
def port(small):
    with small.serving() as server:
        yield server.port


@pytest.fixture
def other(tmp_path):
    (tmp_path / "other").mkdir()
    return Small(tmp_path / "other")


def failing(connection):
    with pytest.raises(TransportError) as caught:
        connection.request("GET", "/v1/who")
    assert caught.value.hint
    return str(caught.value)


def test_a_refused_connection_says_so(small):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert failing(small.dial(port)) == f"localhost:{port} cannot be reached: Connection refused"


def test_a_name_that_is_not_known_says_so(small):
    assert "is not known by this name" in failing(small.dial(8443, host="nowhere.invalid"))


def test_another_host_name_says_so(small):
    small.certify(["coordinator.example"])
    with small.serving() as server:
        assert "certificate for another host name" in failing(small.dial(server.port))
        by_address = small.dial(server.port, host="127.0.0.1")
        assert "certificate for another host name" in failing(by_address)


def test_an_address_in_the_certificate_is_as_good_as_a_name(small, port):
    assert small.dial(port, host="127.0.0.1").request("GET", "/v1/who").status == 200


def test_another_authority_says_so(small, other, port):
    stranger = Connection(f"https://localhost:{port}", other.ca_pem, proxy="")
    assert "authority that is not the coordinator's" in failing(stranger)


def test_the_systems_authorities_do_not_count(small, other, port, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(small.ca_file))
    stranger = Connection(f"https://localhost:{port}", other.ca_pem, proxy="")
    assert "authority that is not the coordinator's" in failing(stranger)


def test_an_expired_certificate_of_the_coordinator_says_so(small):
    small.certify(now=datetime.now(UTC) - timedelta(days=3))
    with small.serving() as server:
        assert "has expired" in failing(small.dial(server.port))


def test_an_expired_certificate_of_the_site_is_an_error_that_names_it(small, port):
    files = small.site_certificate(now=datetime.now(UTC) - timedelta(days=3), name="old")
    with pytest.raises(TransportError) as caught:
        small.dial(port, files=files).request("GET", "/v1/who")
    assert "expired" in str(caught.value) + caught.value.hint


def test_a_certificate_of_another_coordinator_is_an_error_that_names_it(small, other, port):
    with pytest.raises(TransportError) as caught:
        small.dial(port, files=other.site_files).request("GET", "/v1/who")
    assert "of another coordinator" in caught.value.hint


def test_a_coordinator_that_speaks_tls_1_2_says_so(small):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*small.server_files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def once():  # fmt: skip
            with pytest.raises(OSError):  # noqa: PT011 -- whichever end gives up first
                context.wrap_socket(listener.accept()[0], server_side=True)

        thread = threading.Thread(target=once)  # fmt: skip
        thread.start()
        assert "does not speak TLS 1.3" in failing(small.dial(listener.getsockname()[1]))
        thread.join()


def test_something_else_than_tls_says_so(small):
    def once():
        with listener.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(2**16)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=once)
        thread.start()
        assert "does not speak TLS" in failing(small.dial(listener.getsockname()[1]))
        thread.join()


def test_a_line_that_is_silent_is_given_up(small, port):
    with Line(port) as line:
        site = small.dial(line.port)
        with pytest.raises(TransportError, match="stopped answering"):
            site.exchange("GET", "/v1/wait", timeout_s=0.3)


def test_a_line_that_is_cut_says_so(small, port):
    with Line(port, cut_after=20_000) as line, pytest.raises(TransportError, match="closed"):
        small.dial(line.port).exchange("POST", "/v1/slow", bytes(2**20))


@pytest.mark.parametrize("url", ["http://a:1", "a:8443", "https://", "https://a/b", "https://u@a"])
def test_what_is_no_https_address_is_refused(small, url):
    with pytest.raises(ConfigError, match="no address of a coordinator"):
        Connection(url, small.ca_pem)


def test_a_connection_is_kept_for_the_next_request(small, port):
    with Line(port) as line:
        site = small.dial(line.port)
        for _ in range(5):
            site.request("GET", "/v1/who")
        assert line.connections == 1


def test_a_renewed_client_certificate_is_shown_after_a_reload(small, port):
    site = small.dial(port)
    before = site.request("GET", "/v1/who").json()
    small.site_certificate()
    site.reload()
    assert site.request("GET", "/v1/who").json() != before


def test_a_bearer_token_is_sent_and_not_shown(small, port):
    site = small.dial(port, bearer="secret-token")
    assert "secret" not in repr(site)
    assert site.request("GET", "/v1/who").status == 200


def test_a_proxy_is_asked_for_a_tunnel(small, port):
    with Tunnel() as proxy:
        site = small.dial(port, proxy=f"http://127.0.0.1:{proxy.port}")
        assert site.request("GET", "/v1/who").json()["name"] == "cleveland"
        assert proxy.asked == [f"localhost:{port}"]


def test_a_proxys_account_is_used_and_not_shown(small, port):
    with Tunnel(account="basic dTpwQHNz".lower()) as proxy:
        url = f"http://u:p%40ss@127.0.0.1:{proxy.port}"
        assert small.dial(port, proxy=url).request("GET", "/v1/who").status == 200
        said = failing(small.dial(port, proxy=url.replace("ss@", "other@")))
        assert "407 Proxy Authentication Required" in said
        assert "p%40" not in said


def test_the_environment_names_a_proxy_and_exceptions(small, port, monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    with Tunnel() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        small.dial(port, proxy=None).request("GET", "/v1/who")
        assert len(proxy.asked) == 1
        monkeypatch.setenv("no_proxy", "localhost")
        small.dial(port, proxy=None).request("GET", "/v1/who")
        assert len(proxy.asked) == 1


def test_a_proxy_that_refuses_says_so(small, port):
    with Tunnel(status="403 Forbidden") as proxy:
        said = failing(small.dial(port, proxy=f"http://127.0.0.1:{proxy.port}"))
    assert "gives no way to" in said
    assert "403 Forbidden" in said


def test_the_authority_counts_only_if_the_invitation_names_it(small, port):
    url, named = f"https://localhost:{port}", small.authority.fingerprint
    assert fetch_authority(url, named, proxy="") == small.ca_pem
    with pytest.raises(NotTrusted, match="not the coordinator that the invitation names"):
        fetch_authority(url, hashlib.sha256(b"another").hexdigest(), proxy="")


def test_the_authority_comes_through_a_proxy_too(small, port):
    with Tunnel() as proxy:
        url, way = f"https://localhost:{port}", f"http://127.0.0.1:{proxy.port}"
        assert fetch_authority(url, small.authority.fingerprint, proxy=way) == small.ca_pem


def test_a_signed_request_is_answered_with_a_signature(small, port):
    assert small.sign(port).request("POST", "/v1/echo", {"a": 1}).json() == {"a": 1}


def test_many_threads_share_a_session(small, port):
    signed = small.sign(port)
    with ThreadPoolExecutor(8) as threads:
        ask = lambda n: signed.request("POST", "/v1/echo", {"n": n}).json()["n"]  # noqa: E731
        assert list(threads.map(ask, range(100))) == list(range(100))
    assert len(small.windows) == 1


def test_a_lost_session_is_opened_again(small, port):
    signed = small.sign(port)
    signed.request("POST", "/v1/echo", {})
    small.windows.clear()
    assert signed.request("POST", "/v1/echo", {"b": 2}).json() == {"b": 2}


def test_a_session_that_is_lost_at_once_is_not_opened_for_ever(small, port):
    class Forgetful(dict):
        def __setitem__(self, key, value):
            pass

    small.windows = Forgetful()
    with pytest.raises(SessionLost):
        small.sign(port).request("POST", "/v1/echo", {})


def test_a_replayed_request_is_refused(small, port):
    signed, sent = small.sign(port), []
    exchange = signed.connection.exchange

    class Recorder(Connection):
        def exchange(self, method, path, content=b"", **options):
            sent.append((method, path, content, options))
            return exchange(method, path, content, **options)

    recorder = Recorder(f"https://localhost:{port}", small.ca_pem, proxy="")
    SignedConnection(recorder, small.site, small.site_key, small.key.public).request(
        "POST", "/v1/echo", {"a": 1}
    )
    method, path, content, options = sent[-1]
    replayed = exchange(method, path, content, **options)
    assert replayed.status == 400
    method, path, content, options = sent[1]
    assert path == "/v1/session"
    assert exchange(method, path, content, **options).status == 401


def test_an_answer_that_the_coordinator_did_not_sign_is_refused(small, port):
    with pytest.raises(ProtocolError, match="not signed by the coordinator"):
        small.sign(port).request("POST", "/v1/forged", {})


def test_a_coordinator_with_another_key_is_refused(small, port, tmp_path):
    another = IdentityKey.create(tmp_path / "another.key").public
    signed = SignedConnection(small.dial(port), small.site, small.site_key, another)
    with pytest.raises(ProtocolError, match="not signed by the coordinator"):
        signed.request("POST", "/v1/echo", {})


def test_a_site_with_another_key_is_refused(small, port, tmp_path):
    another = IdentityKey.create(tmp_path / "another.key")
    signed = SignedConnection(small.dial(port), small.site, another, small.key.public)
    with pytest.raises(NotTrusted):
        signed.request("POST", "/v1/echo", {})
