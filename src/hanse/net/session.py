"""A site's signed requests: session, numbers, and the coordinator's signature (protocol §5).

Both signatures are over what is sent, not over TLS: they hold across a proxy that opens it. They
hide nothing from such a proxy.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from hanse.core.canonical import Json, encode
from hanse.errors import ProtocolError
from hanse.net.client import ANSWER_S, Connection, Incoming, Response
from hanse.net.keys import IdentityKey, verify
from hanse.net.problems import HTTP_BUSY, SessionLost, code_of
from hanse.net.signing import digest_of, request_text, response_text

EMPTY = digest_of(b"")
SESSION_PATH = "/v1/session"


class AnotherKey(ProtocolError):
    """An answer that the coordinator has not signed, or has signed by a key that came later."""


@dataclass(frozen=True, slots=True)
class Session:
    """An open session, and the numbers of its requests."""

    id: str
    sequence: "count[int]" = field(default_factory=lambda: count(1))


class SignedConnection:
    """``connection`` with every request signed by the site's key and every answer verified.

    For any number of threads. ``name`` is the site's, ``coordinator_key`` the coordinator's public
    identity key in hex. A session is opened when it is needed, and once more when it is lost.
    """

    def __init__(
        self, connection: Connection, name: str, key: IdentityKey, coordinator_key: str
    ) -> None:
        """Nothing is sent before the first request."""
        self.connection = connection
        self._name, self._key, self.coordinator_key = name, key, coordinator_key
        self._session: Session | None = None
        self._lock = threading.Lock()
        self.follow: Callable[[], bool] = lambda: False
        """Called when an answer is signed by another key; whether it has found the right one."""

    def request(
        self, method: str, path: str, body: Json = None, *, timeout_s: float = ANSWER_S
    ) -> Response:
        """Send ``body`` as canonical JSON (None: no body) and return the answer.

        Raises the error that the answer tells of; ProtocolError if the coordinator did not sign
        it, TransportError if there is none. It is sent again when the session was lost, and when
        the coordinator has another key, which :attr:`follow` has found.
        """
        content = b"" if body is None else encode(body).encode()
        known, tries = self.coordinator_key, 0
        while True:
            tries += 1
            try:
                return self.send(method, path, content, digest_of(content), timeout_s=timeout_s)
            except SessionLost:
                if tries > 2:
                    raise
            except AnotherKey:
                if tries > 2 or (self.coordinator_key == known and not self.follow()):
                    raise

    def send(
        self,
        method: str,
        path: str,
        content: "bytes | Iterable[memoryview]",
        digest: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = ANSWER_S,
    ) -> Response:
        """Send ``content`` once, under ``digest``; SessionLost, or errors as of :meth:`request`."""
        session, sequence = self._numbered()
        signed = self._signed(method, path, session.id, sequence, digest)
        sent = {"Hanse-Session": session.id, "Hanse-Sequence": str(sequence), **signed}
        response = self.connection.exchange(
            method, path, content, headers={**(headers or {}), **sent}, timeout_s=timeout_s
        )
        return self._verified(response, sent["Hanse-Signature"], session)

    @contextmanager
    def stream(self, path: str, *, timeout_s: float = ANSWER_S) -> Generator[Incoming]:
        """GET ``path`` and give its body as it arrives: it is not signed, so a digest must vouch.

        Errors as of :meth:`send`.
        """
        session, sequence = self._numbered()
        signed = self._signed("GET", path, session.id, sequence, EMPTY)
        sent = {"Hanse-Session": session.id, "Hanse-Sequence": str(sequence), **signed}
        try:
            with self.connection.stream(path, headers=sent, timeout_s=timeout_s) as incoming:
                yield incoming
        except SessionLost:
            self._forget(session)
            raise

    def succeed(self, coordinator_key: str) -> None:
        """Expect the answers to be signed by another key from now on."""
        with self._lock:
            self.coordinator_key, self._session = coordinator_key, None

    def _numbered(self) -> tuple[Session, int]:
        """Return the session and a number that was not used in it."""
        with self._lock:
            if self._session is None:
                self._session = self._open()
            return self._session, next(self._session.sequence)

    def _forget(self, session: Session) -> None:
        with self._lock:
            if self._session is session:
                self._session = None

    def _open(self) -> Session:
        """Open a session: the challenge makes the signature one that no recording has."""
        asked = self.connection.exchange("POST", "/v1/challenge")
        challenge = _text(self._verified(asked, ""), "challenge", 64)
        content = encode({"challenge": challenge, "site": self._name}).encode()
        signed = self._signed("POST", SESSION_PATH, challenge, 0, digest_of(content))
        answer = self.connection.exchange("POST", SESSION_PATH, content, headers=signed)
        return Session(_text(self._verified(answer, signed["Hanse-Signature"]), "session", 32))

    def _signed(
        self, method: str, path: str, session: str, sequence: int, digest: str
    ) -> dict[str, str]:
        text = request_text(
            self.coordinator_key, method, path, session=session, sequence=sequence, digest=digest
        )
        return {"Hanse-Digest": digest, "Hanse-Signature": self._key.sign(text)}

    def _verified(
        self, response: Response, signature: str, session: Session | None = None
    ) -> Response:
        """Return ``response`` if the coordinator signed it for this request; else raise.

        Two things count without a signature, since they make the site ask again and no more: that
        a gateway is busy, and that the session is lost.
        """
        text = response_text(signature, response.status, digest_of(response.body))
        signed = verify(self.coordinator_key, text, response.headers.get("hanse-signature", ""))
        lost = response.status == 401 and code_of(response.body) == SessionLost.code
        if lost and session is not None:
            self._forget(session)
        if signed or lost or response.status in HTTP_BUSY:
            return response.accepted()
        raise AnotherKey(
            f"{response.asked}: the answer ({response.status}) is not signed by the coordinator "
            "that this site knows",
            hint="something on the way changes answers, or the coordinator's identity key changed: "
            "ask its operator",
        )


def _text(response: Response, name: str, length: int) -> str:
    """Return the hex text that is all of the answer; ProtocolError if it is not."""
    told = response.json()
    value = told.get(name) if isinstance(told, dict) and len(told) == 1 else None
    if not (
        isinstance(value, str) and len(value) == length and set(value) <= set("0123456789abcdef")
    ):
        raise ProtocolError(f"{response.asked}: the answer holds no {name}")
    return value
