"""Joining a federation, and staying in it: keys are made here and never leave (protocol §4)."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hanse.errors import ConfigError, ProtocolError
from hanse.net.authority import certificate_expiry, make_request
from hanse.net.client import Connection, fetch_authority
from hanse.net.invitations import Token
from hanse.net.keys import IdentityKey, write_private
from hanse.net.session import SignedConnection
from hanse.net.succession import follow
from hanse.net.words import site_words
from hanse.site.home import SITE, Enrolled, SiteHome

HALF = timedelta(hours=12)


def join(home: SiteHome, url: str, name: str, token: str) -> str:
    """Enrol at the coordinator with a token; return the six words that stand for this site.

    An interrupted join is taken up by the same token. Raises ConfigError for a folder that is a
    site already, a token that is damaged, expired or used, a coordinator that is not the token's.
    """
    if (home.folder / SITE).exists():
        raise ConfigError(
            f"{home.folder} is the site {home.enrolled().name} already",
            hint="give another --home to join as another site",
        )
    invitation = Token.parse(token)
    home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = fetch_authority(url, invitation.ca_fingerprint)
    key = _identity(home.identity)
    private, request = make_request(name)
    connection = Connection(url, authority)
    told: Any = connection.request(
        "POST",
        "/v1/join",
        {"name": name, "secret": invitation.secret.hex(), "request": request, "key": key.public},
    ).json()
    try:
        certificate, coordinator = str(told["certificate"]), str(told["key"])
        federation = str(told["coordinator"])
    except (KeyError, TypeError) as error:
        raise ProtocolError("the coordinator's answer to a join is none") from error
    write_private(home.certificate, (certificate + private).encode(), replace=True)
    write_private(home.authority, authority.encode(), replace=True)
    home.keep(Enrolled(name, connection.url, coordinator, federation))
    return site_words(name, key.public, coordinator)


def _identity(path: Path) -> IdentityKey:
    return IdentityKey.load(path) if path.exists() else IdentityKey.create(path)


def dial(home: SiteHome, followed: Callable[[], None] = lambda: None) -> SignedConnection:
    """Return the way to the coordinator, with a certificate that counts: renewed if need be.

    ``followed`` is called when the coordinator has another identity key, which is taken over.
    """
    line = _line(home, home.certificate, followed)
    if is_due(home):
        renew(home, line)
    return line


def _follow_key(home: SiteHome, line: SignedConnection, followed: Callable[[], None]) -> bool:
    """Follow the coordinator to the identity key that it has now; whether the line had another.

    ProtocolError unless the key that this site knows has named it, or one that it named.
    """
    enrolled = home.enrolled()
    told: Any = line.connection.request("GET", "/v1/about").json()
    later = follow(enrolled.coordinator, told.get("succession"), str(told.get("key")))
    if later:
        former = (*enrolled.former, enrolled.coordinator, *later[:-1])
        home.keep(replace(enrolled, coordinator=later[-1], former=former))
    current = later[-1] if later else enrolled.coordinator
    if line.coordinator_key == current:
        return False
    line.succeed(current)
    followed()
    return True


def _line(
    home: SiteHome, certificate: Path | None, followed: Callable[[], None]
) -> SignedConnection:
    """Return a way to the coordinator on which ``certificate``, or none, is shown."""
    enrolled = home.enrolled()
    connection = Connection(enrolled.url, home.authority.read_text(), certificate)
    line = SignedConnection(connection, enrolled.name, home.key(), enrolled.coordinator)
    line.follow = lambda: _follow_key(home, line, followed)
    return line


def is_due(home: SiteHome) -> bool:
    """Whether the certificate has reached half its life."""
    return certificate_expiry(home.certificate.read_text()) - datetime.now(UTC) < HALF


def renew(home: SiteHome, line: SignedConnection) -> None:
    """Get another certificate for a new key, and let ``line`` show it from now on.

    The identity key vouches for it, and it is asked for without the old certificate, which may
    have expired.
    """
    private, request = make_request(home.enrolled().name)
    told: Any = (
        _line(home, None, lambda: None).request("POST", "/v1/renew", {"request": request}).json()
    )
    write_private(home.certificate, (str(told["certificate"]) + private).encode(), replace=True)
    line.connection.reload()
