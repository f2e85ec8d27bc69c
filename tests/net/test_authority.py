"""The authority's certificates, and TLS between real sockets on loopback."""

import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hanse.errors import ConfigError, ProtocolError
from hanse.net.authority import (
    DAY,
    Authority,
    certificate_expiry,
    certificate_fingerprint,
    client_context,
    common_name,
    make_request,
    server_context,
)
from hanse.net.keys import private_pem, write_private

NOW = datetime.now(UTC).replace(microsecond=0)
HOSTS = ["localhost", "127.0.0.1", "::1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("root"), "heart-consortium", NOW)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Authority:
    """Another authority, with the same name."""
    return Authority.create(tmp_path_factory.mktemp("stranger"), "heart-consortium", NOW)


def kept(folder: Path, name: str, *pems: str) -> Path:
    """A private file of these PEMs."""
    write_private(folder / name, "".join(pems).encode())
    return folder / name


def server_of(root: Authority, folder: Path, pair: tuple[str, str]) -> ssl.SSLContext:
    """The coordinator's end, with ``pair`` as key and certificate."""
    ca = kept(folder, "ca.pem", root.certificate_pem)
    return server_context(kept(folder, "server.pem", pair[1]), kept(folder, "key.pem", pair[0]), ca)


def site_file(root: Authority, folder: Path, name: str = "cleveland", **when) -> Path:
    """A site's key and certificate in one file."""
    key, request = make_request(name)
    return kept(folder, "site.pem", root.issue_site(request, name, **({"now": NOW} | when)), key)


@contextmanager
def listening(context: ssl.SSLContext) -> Iterator[int]:
    """A server that tells one client the name in its certificate, then the connection ends."""

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(4)
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                shown = tls.getpeercert(binary_form=True)
                tls.sendall((common_name(shown) if shown else "nobody").encode())
                tls.unwrap()
        except OSError:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def greeted(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost") -> str:
    """What the server calls the client; SSLError if either end refuses the other."""
    with (
        listening(server) as port,
        socket.create_connection(("127.0.0.1", port), 4) as plain,
        client.wrap_socket(plain, server_hostname=host) as tls,
    ):
        assert tls.version() == "TLSv1.3"
        return tls.recv(100).decode()


# --- certificates -----------------------------------------------------------------------------


def test_an_authority_is_loaded_as_it_was_created_and_its_key_is_its_owners_alone(tmp_path):
    created = Authority.create(tmp_path, "heart-consortium")
    loaded = Authority.load(tmp_path)
    assert loaded.certificate_pem == created.certificate_pem
    assert loaded.fingerprint == created.fingerprint
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()} == {0o600}
    assert "heart" not in repr(loaded)  # nothing of key or certificate


def test_the_fingerprint_is_what_openssl_prints(tmp_path):
    root = Authority.create(tmp_path, "heart-consortium")
    command = ["openssl", "x509", "-in", tmp_path / "authority.pem", "-noout", "-fingerprint"]
    printed = subprocess.run([*command, "-sha256"], capture_output=True, check=True, text=True)
    assert printed.stdout.split("=")[1].strip().replace(":", "").lower() == root.fingerprint


def test_an_authority_is_never_overwritten(tmp_path):
    created = Authority.create(tmp_path, "heart-consortium")
    with pytest.raises(ConfigError, match="is there already"):
        Authority.create(tmp_path, "heart-consortium")
    assert Authority.load(tmp_path).fingerprint == created.fingerprint


def test_a_creation_that_was_cut_before_its_key_was_kept_is_simply_done_again(tmp_path):
    Authority.create(tmp_path, "heart-consortium")
    (tmp_path / "authority-key.pem").unlink()
    (tmp_path / "issuer.pem").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        Authority.load(tmp_path)
    created = Authority.create(tmp_path, "heart-consortium")
    assert Authority.load(tmp_path).fingerprint == created.fingerprint


def test_a_key_without_the_certificate_that_goes_with_it_is_refused(tmp_path, stranger):
    Authority.create(tmp_path, "heart-consortium")
    for content in (stranger.certificate_pem, "noise"):
        write_private(tmp_path / "authority.pem", content.encode(), replace=True)
        with pytest.raises(ConfigError, match="no root and an issuer under it"):
            Authority.load(tmp_path)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_an_authority_has_a_name_that_a_certificate_can_carry(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot name an authority"):
        Authority.create(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_root_of_ten_years_signs_issuers_of_five_who_sign_leaves_only(root):
    for certificate, below, years in ((root.root, 1, 10), (root.certificate, 0, 5)):
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        told = constraints.critical, constraints.value.ca, constraints.value.path_length
        assert told == (True, True, below)
        told = usage.critical, usage.value.key_cert_sign, usage.value.digital_signature
        assert told == (True, True, False)
        days = (certificate.not_valid_after_utc - NOW).days
        assert 365 * years <= days < 365 * years + 10
    assert isinstance(root.private.curve, ec.SECP256R1)
    root.certificate.verify_directly_issued_by(root.root)


def test_another_issuer_is_made_by_the_roots_key_which_may_lie_elsewhere(tmp_path, stranger):
    (tmp_path / "a").mkdir()
    old = Authority.create(tmp_path / "a", "heart-consortium", NOW)
    Authority.rotate(tmp_path / "a")
    new = Authority.load(tmp_path / "a")
    assert new.fingerprint == old.fingerprint
    assert new.certificate.serial_number != old.certificate.serial_number
    assert new.certificate.subject != old.certificate.subject
    away = (tmp_path / "a" / "authority-key.pem").rename(tmp_path / "root-key.pem")
    assert Authority.load(tmp_path / "a").fingerprint == old.fingerprint
    with pytest.raises(ConfigError, match="No such file"):
        Authority.rotate(tmp_path / "a")
    Authority.rotate(tmp_path / "a", away)
    other = kept(tmp_path, "other.pem", private_pem(stranger.private))
    with pytest.raises(ConfigError, match="is not the key of the root"):
        Authority.rotate(tmp_path / "a", other)


def test_what_the_old_issuer_has_signed_stays_good_at_both_ends(tmp_path):
    (tmp_path / "a").mkdir()
    old = Authority.create(tmp_path / "a", "heart-consortium", NOW)
    Authority.rotate(tmp_path / "a", now=NOW)
    new, servers, clients = Authority.load(tmp_path / "a"), [], []
    for name, issuer in (("old", old), ("new", new)):
        folder = tmp_path / name
        folder.mkdir()
        servers.append(server_of(issuer, folder, issuer.issue_server(HOSTS, NOW)))
        clients.append(client_context(old.certificate_pem, site_file(issuer, folder)))
    for server in servers:
        for client in clients:
            assert greeted(server, client) == "cleveland"


def test_a_sites_certificate_says_what_the_protocol_says_and_nothing_of_the_request(root):
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hungary")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    pem = root.issue_site(request, "cleveland", NOW)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    found = {type(extension.value): extension for extension in certificate.extensions}
    assert common_name(pem) == common_name(certificate.public_bytes(Encoding.DER)) == "cleveland"
    assert len(certificate.subject) == 1
    assert certificate.public_key() == key.public_key()
    assert x509.SubjectAlternativeName not in found
    assert found[x509.BasicConstraints].critical
    assert not found[x509.BasicConstraints].value.ca
    assert found[x509.KeyUsage].value.digital_signature
    assert list(found[x509.ExtendedKeyUsage].value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate_expiry(pem) == certificate.not_valid_after_utc == NOW + DAY
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    certificate.verify_directly_issued_by(root.certificate)


def test_no_two_certificates_share_a_serial_number(root):
    request = make_request("cleveland")[1]
    pems = [root.issue_site(request, "cleveland", NOW) for _ in range(20)]
    assert len({x509.load_pem_x509_certificate(pem.encode()).serial_number for pem in pems}) == 20


def signed_by(key) -> str:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def test_an_ed25519_key_gets_a_certificate_too(root, tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    pem = root.issue_site(signed_by(key), "cleveland", NOW)
    shown = kept(tmp_path, "site.pem", pem, private_pem(key))
    server = server_of(root, tmp_path, root.issue_server(HOSTS, NOW))
    assert greeted(server, client_context(root.certificate_pem, shown)) == "cleveland"


WRONG_KINDS = [
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP256K1()),
    rsa.generate_private_key(65537, 2048),
]


@pytest.mark.parametrize("key", WRONG_KINDS, ids=["P-384", "secp256k1", "RSA"])
def test_a_key_of_another_kind_gets_none(root, key):
    with pytest.raises(ProtocolError, match="neither P-256 nor Ed25519"):
        root.issue_site(signed_by(key), "cleveland", NOW)


def test_a_request_for_somebody_elses_key_gets_none(root):
    mine, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    der = x509.load_pem_x509_csr(signed_by(mine).encode()).public_bytes(Encoding.DER)
    point = [
        key.public_key().public_numbers().x.to_bytes(32, "big")
        + key.public_key().public_numbers().y.to_bytes(32, "big")
        for key in (mine, theirs)
    ]
    forged = x509.load_der_x509_csr(der.replace(*point)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(ProtocolError, match="its own key has not signed"):
        root.issue_site(forged, "cleveland", NOW)


@pytest.mark.parametrize("text", ["", "noise", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "é"])
def test_noise_gets_none(root, text):
    with pytest.raises(ProtocolError, match="no certificate request"):
        root.issue_site(text, "cleveland", NOW)


@pytest.mark.parametrize("name", ["", "-a", "A", "a" * 64, "a\n", "a b", "é"])
def test_a_name_that_no_site_may_have_gets_none(root, name):
    with pytest.raises(ValueError, match="no name of a site"):
        root.issue_site(make_request("cleveland")[1], name, NOW)


def test_local_time_is_not_taken_for_utc(root):
    with pytest.raises(ValueError, match="no time zone"):
        root.issue_site(make_request("cleveland")[1], "cleveland", NOW.replace(tzinfo=None))


@pytest.mark.parametrize("host", ["", "https://a", "a:8443", "[::1]", "*.a", "-a", "a..b", "é.org"])
def test_a_host_that_is_no_name_and_no_address_is_refused(root, host):
    with pytest.raises(ConfigError, match="no DNS name and no IP address") as refusal:
        root.issue_server(["localhost", host], NOW)
    assert refusal.value.hint


def test_a_server_certificate_names_at_least_one_host(root):
    with pytest.raises(ConfigError, match="for no host"):
        root.issue_server([], NOW)


@pytest.mark.parametrize("content", ["", "noise", b"", b"\x30\x00", b"-----BEGIN CERTIFICATE-----"])
def test_what_is_no_certificate_is_a_protocol_error(content):
    with pytest.raises(ProtocolError, match="no certificate"):
        common_name(content)


def test_a_certificate_without_a_name_of_its_own_names_nobody(root):
    nameless = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), root.private.public_key(), 1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(root.private, SHA256())
    )
    with pytest.raises(ProtocolError, match="0 common names"):
        common_name(nameless.public_bytes(Encoding.DER))


def test_the_fingerprint_of_a_certificate_is_that_of_its_authority(root, stranger):
    assert certificate_fingerprint(root.certificate_pem) == root.fingerprint
    assert certificate_fingerprint(stranger.certificate_pem) != root.fingerprint


# --- TLS --------------------------------------------------------------------------------------


@pytest.fixture
def server(root, tmp_path) -> ssl.SSLContext:
    return server_of(root, tmp_path, root.issue_server(HOSTS, NOW))


@pytest.mark.parametrize("host", HOSTS)
def test_a_site_is_known_by_its_certificate_under_every_name_of_the_coordinator(
    root, server, tmp_path, host
):
    client = client_context(root.certificate_pem, site_file(root, tmp_path))
    assert greeted(server, client, host) == "cleveland"


def test_key_and_certificate_may_be_two_files(root, server, tmp_path):
    key, request = make_request("cleveland")
    certificate = kept(tmp_path, "site.pem", root.issue_site(request, "cleveland", NOW))
    client = client_context(root.certificate_pem, certificate, kept(tmp_path, "site-key.pem", key))
    assert greeted(server, client) == "cleveland"


def test_a_client_without_a_certificate_is_let_in_as_nobody(root, server):
    assert greeted(server, client_context(root.certificate_pem)) == "nobody"


def test_a_certificate_of_another_authority_of_the_same_name_is_refused(
    root, stranger, server, tmp_path
):
    client = client_context(root.certificate_pem, site_file(stranger, tmp_path))
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca|decrypt.error"):
        greeted(server, client)


def test_an_expired_certificate_of_a_site_is_refused(root, server, tmp_path):
    shown = site_file(root, tmp_path, now=NOW - timedelta(hours=25))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.expired"):
        greeted(server, client_context(root.certificate_pem, shown))


@pytest.mark.parametrize("minutes", [-10, 10, 59])
def test_a_certificate_issued_by_a_clock_that_is_off_by_minutes_works(root, tmp_path, minutes):
    now = NOW + timedelta(minutes=minutes)
    server = server_of(root, tmp_path, root.issue_server(HOSTS, now))
    client = client_context(root.certificate_pem, site_file(root, tmp_path, now=now))
    assert greeted(server, client) == "cleveland"


def test_the_certificate_of_a_server_cannot_be_shown_by_a_client(root, server, tmp_path):
    key, certificate = root.issue_server(["cleveland"], NOW)
    shown = kept(tmp_path, "site.pem", certificate, key)
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.certificate"):
        greeted(server, client_context(root.certificate_pem, shown))


def test_a_site_cannot_pass_for_the_coordinator(root, tmp_path):
    key, request = make_request("localhost")
    server = server_of(root, tmp_path, (key, root.issue_site(request, "localhost", NOW)))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)certificate purpose"):
        greeted(server, client_context(root.certificate_pem))


def test_a_server_of_another_authority_is_refused(stranger, server):
    with pytest.raises(ssl.SSLCertVerificationError):
        greeted(server, client_context(stranger.certificate_pem))


def test_a_server_under_another_host_name_is_refused(root, server):
    for host, says in (("coordinator", "Hostname mismatch"), ("127.0.0.2", "IP address mismatch")):
        with pytest.raises(ssl.SSLCertVerificationError, match=says):
            greeted(server, client_context(root.certificate_pem), host)


def test_an_expired_server_is_refused(root, tmp_path):
    server = server_of(root, tmp_path, root.issue_server(HOSTS, NOW - timedelta(hours=25)))
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        greeted(server, client_context(root.certificate_pem))


def test_tls_1_2_is_refused_by_either_end(root, server, tmp_path):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(cadata=root.certificate_pem)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        greeted(server, old)
    past = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past.load_cert_chain(tmp_path / "server.pem", tmp_path / "key.pem")
    past.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        greeted(past, client_context(root.certificate_pem))


def test_no_session_outlives_its_connection(root, server, tmp_path):
    client = client_context(root.certificate_pem, site_file(root, tmp_path))
    with (
        listening(server) as port,
        socket.create_connection(("127.0.0.1", port), 4) as plain,
        client.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.recv(100) == b"cleveland"
        assert not (tls.session and tls.session.has_ticket)


def test_nobody_but_the_given_authority_is_trusted(root):
    assert client_context(root.certificate_pem).cert_store_stats()["x509_ca"] == 1


def test_wrong_files_are_config_errors_with_a_hint(root, tmp_path):
    server_key, certificate = root.issue_server(HOSTS, NOW)
    good, other_key = kept(tmp_path, "good.pem", certificate), make_request("cleveland")[0]
    other = kept(tmp_path, "other.pem", other_key)
    key, noise = kept(tmp_path, "key.pem", server_key), kept(tmp_path, "noise.pem", "noise")
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:x"], check=True
    )
    for files in (
        (good, other, good),
        (good, None, good),
        (good, locked, good),
        (noise, key, good),
        (good, key, noise),
        (tmp_path / "missing", key, good),
        (good, key, tmp_path / "missing"),
    ):
        with pytest.raises(ConfigError, match="certificate") as refusal:
            server_context(*files)
        assert refusal.value.hint
    for pem in ("", "noise"):
        with pytest.raises(ConfigError, match="the authority's certificate"):
            client_context(pem)
