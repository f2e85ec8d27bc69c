"""Who sends a request: a site by its signature, a person by a token, or nobody (protocol §5).

Challenges, sessions and numbers are in memory only: after a restart everyone opens a new session,
and a recorded request is worth nothing.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Literal

from starlette.requests import Request

from hanse.coordinator.registry import Registry
from hanse.errors import ProtocolError
from hanse.net.keys import verify
from hanse.net.problems import NotTrusted, SessionLost
from hanse.net.signing import Window, request_text

CHALLENGE_S, SESSION_S = 60.0, 3600.0
MOST_CHALLENGES, MOST_SESSIONS = 4096, 1024
Role = Literal["anyone", "site", "researcher", "viewer", "operator"]


@dataclass(frozen=True, slots=True)
class Who:
    """The sender of a request; ``signature`` is a site's, to which the response is tied."""

    role: Role = "anyone"
    name: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """A site's open session."""

    site: str
    used: float
    window: Window = field(default_factory=Window)


class Desk:
    """Gives out challenges and sessions. Used on the server's loop only."""

    def __init__(self, coordinator_key: str) -> None:
        """Nobody is known yet."""
        self._key = coordinator_key
        self._challenges = OrderedDict[str, float]()
        self._sessions = OrderedDict[str, Session]()

    def challenge(self) -> str:
        """Return 32 random bytes in hex, good once and for a minute."""
        while len(self._challenges) >= MOST_CHALLENGES:
            self._challenges.popitem(last=False)
        fresh = secrets.token_hex(32)
        self._challenges[fresh] = time.monotonic()
        return fresh

    def open(
        self, request: Request, registry: Registry, site: str, challenge: str, digest: str
    ) -> tuple[str, Who]:
        """Return the id of a new session, whose opening ``site`` has signed; NotTrusted if not."""
        given = self._challenges.pop(challenge, None)
        if given is None or time.monotonic() - given > CHALLENGE_S:
            raise SessionLost("the challenge is not known any more")
        signature = self._verified(request, registry, site, challenge, 0, digest)
        while len(self._sessions) >= MOST_SESSIONS:
            self._sessions.popitem(last=False)
        fresh = secrets.token_hex(16)
        self._sessions[fresh] = Session(site, time.monotonic())
        return fresh, Who("site", site, signature)

    def site(self, request: Request, registry: Registry, digest: str) -> Who:
        """Return the site that signed a request; SessionLost, NotTrusted, or ProtocolError."""
        id, name = request.headers.get("hanse-session", ""), self.site_of(request)
        session = self._sessions[id]
        number = request.headers.get("hanse-sequence", "")
        if not number.isascii() or not number.isdecimal() or len(number) > 15:
            raise ProtocolError("a request without a sequence")
        signature = self._verified(request, registry, name, id, int(number), digest)
        window = session.window.accept(int(number))
        self._sessions[id] = replace(session, window=window, used=time.monotonic())
        self._sessions.move_to_end(id)
        return Who("site", session.site, signature)

    def site_of(self, request: Request) -> str:
        """Return whose session a request names; its signature is still to be checked."""
        session = self._sessions.get(request.headers.get("hanse-session", ""))
        if session is None or time.monotonic() - session.used > SESSION_S:
            raise SessionLost("no such session")
        return session.site

    def forget(self, site: str) -> None:
        """End the sessions of a site."""
        for id in [id for id, session in self._sessions.items() if session.site == site]:
            del self._sessions[id]

    def _verified(
        self,
        request: Request,
        registry: Registry,
        site: str,
        session: str,
        sequence: int,
        digest: str,
    ) -> str:
        member = registry.sites.get(site)
        if member is None or member.revoked:
            raise NotTrusted(f"{site[:80]}: not enrolled, or revoked")
        told = request.headers.get("hanse-digest", "")
        if told != digest:
            raise NotTrusted(f"{site}: the body is not the one that was signed")
        text = request_text(
            self._key,
            request.method,
            path_of(request),
            session=session,
            sequence=sequence,
            digest=digest,
        )
        signature = request.headers.get("hanse-signature", "")
        if not verify(member.key, text, signature):
            raise NotTrusted(f"{site}: a wrong signature")
        return signature


def path_of(request: Request) -> str:
    """Return path and query as they were sent."""
    query = request.scope.get("query_string", b"")
    raw: bytes = request.scope["raw_path"]
    return (raw + (b"?" + query if query else b"")).decode("ascii")


def certificate_name(request: Request) -> str:
    """Return the common name of the client certificate, empty without one."""
    return request.scope.get("extensions", {}).get("hanse", {}).get("name") or ""


def person(request: Request, registry: Registry, now: float) -> Who | None:
    """Return who carries a bearer token, None without one; NotTrusted if it does not count."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if not token:
        return None
    found = registry.user_of(token_digest(token), now) if kind == "Bearer" else None
    if found is None:
        raise NotTrusted("a token that does not count")
    name, user = found
    return Who(user.role, name)


def token_digest(token: str) -> str:
    """Return what is kept of a bearer token."""
    return hashlib.sha256(b"hanse/1 bearer\n" + token.encode()).hexdigest()
