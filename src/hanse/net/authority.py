"""The coordinator's certificate authority, and TLS as both ends speak it (docs/protocol.md §4).

Certificates follow RFC 5280, so strictly that OpenSSL's strict mode takes them. They are never
revoked: a roster that is asked on each request does that, and a day's life is the back-stop. Who
steals the issuer's key can pass for the coordinator and for any site in TLS; identity keys (§5)
are what stands then.
"""

import hashlib
import re
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hanse.errors import ConfigError, ProtocolError
from hanse.net.keys import private_pem, read_private, write_private

KEY_FILE = "authority-key.pem"
CERTIFICATE_FILE = "authority.pem"
ISSUER_FILE = "issuer.pem"
YEARS_10, YEARS_5 = timedelta(days=3652), timedelta(days=1826)
DAY = timedelta(hours=24)
EARLY = timedelta(hours=1)
"""A certificate is valid from an hour before it is issued, for sites whose clock is behind. One
whose clock is ahead sees it end early, which is no matter: it is renewed at half its life."""

LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(\.{LABEL})*", re.IGNORECASE)
SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
Subject = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True)
class Authority:
    """A root that everybody trusts, and the issuer under it that signs: ECDSA P-256 keys.

    The root's key is needed only to make an issuer: its file may lie elsewhere in between.
    """

    root: x509.Certificate = field(repr=False)
    private: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)
    """The issuer's key and certificate."""

    @staticmethod
    def create(folder: Path, name: str, now: datetime | None = None) -> "Authority":
        """Draw a root for ten years from ``now`` (None: this moment), and an issuer for five.

        ConfigError if one is there, or for a name that is empty or longer than 64 characters.

        The root's key is written last: a folder that holds one holds all the rest too.
        """
        key, now = ec.generate_private_key(ec.SECP256R1()), now or datetime.now(UTC)
        root = _root(key, _root_name(name), now)
        authority = _issuer(key, root, now)
        if not (folder / KEY_FILE).exists():
            write_private(folder / CERTIFICATE_FILE, _pem(root).encode(), replace=True)
            authority.write(folder)
        write_private(folder / KEY_FILE, private_pem(key).encode())
        return authority

    @staticmethod
    def load(folder: Path) -> "Authority":
        """Return the authority in ``folder``; ConfigError if it is missing or damaged."""
        files = folder / CERTIFICATE_FILE, folder / ISSUER_FILE
        try:
            root = x509.load_pem_x509_certificate(read_private(files[0]))
            content = read_private(files[1])
            found = Authority(root, _key_in(content), x509.load_pem_x509_certificate(content))
            found.certificate.verify_directly_issued_by(root)
            if found.certificate.public_key() != found.private.public_key():
                raise ValueError("another key")
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
            raise ConfigError(
                f"{files[0]} and {files[1]} are no root and an issuer under it",
                hint="restore both from one backup",
            ) from None  # what the parser says may quote the file
        return found

    @staticmethod
    def rotate(folder: Path, key_file: Path | None = None, now: datetime | None = None) -> None:
        """Put another issuer in the place of the one in ``folder``, by the root's key.

        What the old one has signed stays good until it ends. ConfigError if the root's key is not
        in ``key_file`` (None: where it was made), or is another root's.
        """
        root, path = Authority.load(folder).root, key_file or folder / KEY_FILE
        try:
            key = _key_in(read_private(path))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if key is None or key.public_key() != root.public_key():
            raise ConfigError(
                f"{path} is not the key of the root in {folder / CERTIFICATE_FILE}",
                hint="name the file that has it: --root-key FILE",
            )
        _issuer(key, root, now or datetime.now(UTC)).write(folder)

    def write(self, folder: Path) -> None:
        """Keep the issuer in ``folder``: its certificate and its key in one file."""
        content = _pem(self.certificate) + private_pem(self.private)
        write_private(folder / ISSUER_FILE, content.encode(), replace=True)

    @cached_property
    def certificate_pem(self) -> str:
        """The root's certificate."""
        return _pem(self.root)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the root's certificate in DER, in hex: what an invitation token carries."""
        return certificate_fingerprint(self.certificate_pem)

    def issue_server(
        self, hosts: Sequence[str], now: datetime, lifetime: timedelta = DAY
    ) -> tuple[str, str]:
        """Return (key, certificates) of the coordinator, in PEM, under a fresh P-256 key.

        The issuer's certificate comes behind its own.

        ``hosts`` are the DNS names and IP addresses it answers to; ConfigError for what is neither.
        """
        if not hosts:
            raise ConfigError(
                "a server certificate for no host", hint="name the hosts that sites will dial"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._leaf(key.public_key(), "coordinator", now, lifetime)
        builder = builder.add_extension(x509.SubjectAlternativeName(_hosts(hosts)), critical=False)
        return private_pem(key), self._sign(builder, ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_site(self, csr_pem: str, name: str, now: datetime, lifetime: timedelta = DAY) -> str:
        """Return the client certificate, in PEM, of the site ``name`` for the key in ``csr_pem``;
        behind it the issuer's.

        Nothing else in the request counts: no name, no extension. ProtocolError if it is no request
        signed by its own key, or the key is neither P-256 nor Ed25519. ValueError for a ``name``
        that no site may have.
        """
        if not SITE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a site")
        builder = self._leaf(_requested_key(csr_pem), name, now, lifetime)
        return self._sign(builder, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _leaf(
        self, key: Subject, name: str, now: datetime, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        issuer = _issued_by(self.certificate)
        return (
            _certificate(key, _name(name), self.certificate.subject)
            .not_valid_before(_aware(now) - EARLY)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(issuer, critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder, purpose: x509.ObjectIdentifier) -> str:
        usage = x509.ExtendedKeyUsage([purpose])
        signed = builder.add_extension(usage, critical=True).sign(self.private, SHA256())
        return _pem(signed) + _pem(self.certificate)


def make_request(name: str) -> tuple[str, str]:
    """Return (key, certificate signing request) of a site, in PEM, under a fresh P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(name))
    return private_pem(key), _pem(request.sign(key, SHA256()))


def certificate_fingerprint(pem: str) -> str:
    """Return the SHA-256 of a certificate in DER, in hex; ProtocolError if it is none."""
    return hashlib.sha256(_certificate_of(pem).public_bytes(Encoding.DER)).hexdigest()


def certificate_expiry(pem: str) -> datetime:
    """Return when a certificate ends, in UTC; ProtocolError if it is none."""
    return _certificate_of(pem).not_valid_after_utc


def common_name(certificate: "str | bytes") -> str:
    """Return the common name in a certificate, PEM or DER; ProtocolError if it has not one."""
    names = _certificate_of(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise ProtocolError(f"a certificate with {len(names)} common names, not 1")
    return names[0].value


def server_context(certificate_file: Path, key_file: Path | None, ca_file: Path) -> ssl.SSLContext:
    """Return TLS 1.3 as the coordinator speaks it: a client may show a certificate of the root's.

    Without ``key_file`` the key is in ``certificate_file`` too. There are no session tickets: each
    connection shows its certificate anew, so one that has ended ends. ConfigError for wrong files.
    """
    context = _tls13(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{ca_file} is no certificate: {error}", hint=_RENEW) from error
    _show(context, certificate_file, key_file)
    return context


def client_context(
    ca_pem: str, certificate_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """Return TLS 1.3 as a site or a researcher speaks it: nobody is trusted but ``ca_pem``.

    The system's authorities do not count, and the host's name must be in the certificate. Without
    ``key_file`` the key is in ``certificate_file`` too. ConfigError for wrong files.
    """
    context = _tls13(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and checks the host's name
    context.hostname_checks_common_name = False
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the authority's certificate is none: {error}", hint=_RENEW) from error
    if certificate_file:
        _show(context, certificate_file, key_file)
    return context


_RENEW = "restore the file from your backup, or join again"


def _tls13(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _show(context: ssl.SSLContext, certificate_file: Path, key_file: Path | None) -> None:
    """Load what ``context`` shows of itself; a key with a password fails instead of asking."""
    try:
        context.load_cert_chain(certificate_file, key_file, password="")
    except (OSError, ValueError) as error:
        files = f"{certificate_file} and {key_file}" if key_file else str(certificate_file)
        raise ConfigError(
            f"{files}: no certificate and the key that goes with it: {error}", hint=_RENEW
        ) from error


def _root(key: ec.EllipticCurvePrivateKey, name: x509.Name, now: datetime) -> x509.Certificate:
    return (
        _certificate(key.public_key(), name, name)
        .not_valid_before(_aware(now) - EARLY)
        .not_valid_after(now + YEARS_10)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .sign(key, SHA256())
    )


def _issuer(key: ec.EllipticCurvePrivateKey, root: x509.Certificate, now: datetime) -> Authority:
    """Return a new issuer under a root with this key. Each has a name of its own."""
    private = ec.generate_private_key(ec.SECP256R1())
    told = root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hanse"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"issuer {secrets.token_hex(8)}"),
            x509.NameAttribute(NameOID.COMMON_NAME, told),
        ]
    )
    certificate = (
        _certificate(private.public_key(), name, root.subject)
        .not_valid_before(_aware(now) - EARLY)
        .not_valid_after(min(now + YEARS_5, root.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(_issued_by(root), critical=False)
        .sign(key, SHA256())
    )
    return Authority(root, private, certificate)


def _issued_by(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    known = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _key_in(content: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the private key in PEM; ValueError if there is no elliptic one."""
    key = load_pem_private_key(content[content.index(b"-----BEGIN PRIVATE") :], password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("no elliptic key")
    return key


def _certificate(key: Subject, subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    """Return what a key is for: signing certificates, or handshakes; nothing else."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _requested_key(csr_pem: str) -> Subject:
    """Return the key of a request that is signed by it, and of a kind whose strength is known."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        if not isinstance(key, Subject) or (
            isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, ec.SECP256R1)
        ):
            raise ProtocolError("a certificate request for a key that is neither P-256 nor Ed25519")
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise ProtocolError(f"no certificate request in PEM: {error}") from error
    if not signed:
        raise ProtocolError("a certificate request that its own key has not signed")
    return key


def _certificate_of(content: "str | bytes") -> x509.Certificate:
    data = content.encode() if isinstance(content, str) else content
    try:
        if data.lstrip().startswith(b"-----"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except ValueError as error:
        raise ProtocolError(f"no certificate: {error}") from error


def _hosts(hosts: Sequence[str]) -> list[x509.GeneralName]:
    return [_host(host) for host in hosts]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        if HOST.fullmatch(host):
            return x509.DNSName(host)
    raise ConfigError(
        f"{host!r} is no DNS name and no IP address",
        hint="give names without scheme, port, brackets or wildcard; others than ASCII as xn--…",
    )


def _root_name(name: str) -> x509.Name:
    """Return the root's name, which no leaf has: those have no organisation."""
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise ConfigError(
            f"{name!r} cannot name an authority", hint="give 1 to 64 printable characters"
        )
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hanse")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _aware(now: datetime) -> datetime:
    """Return ``now``; ValueError if it has no time zone and so might be local time."""
    if now.tzinfo is None:
        raise ValueError(f"{now} has no time zone")
    return now


def _pem(signed: "x509.Certificate | x509.CertificateSigningRequest") -> str:
    return signed.public_bytes(Encoding.PEM).decode()
