"""P12: no request, however malformed, is answered by 5xx, costs memory, or disturbs a run."""

import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.coordinator.mutants import Message, mutate
from tests.coordinator.service import (
    Coordinator,
    Recorded,
    Site,
    a_process,
    play_all,
    spec_of,
    submission,
    submit,
)

from hanse.core.listing import CHUNK, PREFIX
from hanse.errors import HanseError
from hanse.net.client import Connection
from hanse.net.session import SignedConnection
from hanse.net.signing import digest_of, request_text

MIB = 2**20
THREADS = 10
PARTIAL = ("in_length", "in_headers", "in_method")
"""Changes after which an answer, or its body, may not come: nobody waits for it long."""
WARM = 2_000
"""So many messages come before memory is first looked at: buffers and caches are made by then."""


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with a_process(tmp_path) as found:
        yield found


class Wire:
    """A keep-alive connection that sends bytes, and reads the status of the answer."""

    def __init__(self, coordinator: Coordinator, certificate: Path | None) -> None:
        self.port = coordinator.port
        self.context = ssl.create_default_context(cadata=coordinator.authority)
        if certificate is not None:
            self.context.load_cert_chain(certificate)
        self.socket: ssl.SSLSocket | None = None

    def open(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=2)
        return self.context.wrap_socket(plain, server_hostname="127.0.0.1")

    def send(self, content: bytes, *, is_whole: bool) -> int:
        """Return the status of the first answer; 0 if the line was closed without one."""
        with suppress(OSError):
            if self.socket is None:
                self.socket = self.open()
            self.socket.settimeout(2 if is_whole else 0.03)
            with suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                self.socket.sendall(content)
            if status := self._read(is_whole):
                return status
        self.close()
        return 0

    def _read(self, keep: bool) -> int:
        assert self.socket is not None
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := self.socket.recv(65536)):
                return 0
            head += more
        head, _, body = head.partition(b"\r\n\r\n")
        fields = head.lower()
        _, has_length, rest = fields.partition(b"content-length: ")
        left = int(rest.split(b"\r\n")[0]) - len(body) if has_length else 0
        while left > 0 and (more := self.socket.recv(65536)):
            left -= len(more)
        if not keep or left or b"connection: close" in fields or not has_length:
            self.close()
        return int(head.split(b" ")[1])

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


@dataclass
class Peer:
    """Who sends mutants: a site that signs what it says, or a person with a token."""

    recorded: list[Recorded]
    certificate: Path | None = None
    bearer: bytes = b""
    line: SignedConnection | None = None
    site: Site | None = None

    def message(self, one: Recorded) -> Message:
        kept = [(n.encode(), v.encode()) for n, v in one.headers.items() if "Hanse" not in n]
        kept += [(b"Authorization", self.bearer)] if self.bearer else []
        return Message(one.method.encode(), one.path.encode(), tuple(kept), one.content)

    def sign(self, one: Message) -> Message:
        if self.line is None or self.site is None:
            return one
        session, sequence = self.line._numbered()
        digest = blob_of(one.body) if b"/chunks/" in one.path else digest_of(one.body)
        with suppress(ValueError, HanseError):  # what cannot be signed goes unsigned
            method, path = one.method.decode("ascii"), one.path.decode("ascii")
            text = request_text(
                self.line.coordinator_key, method, path,
                session=session.id, sequence=sequence, digest=digest,
            )  # fmt: skip
            named = {
                "Hanse-Session": session.id,
                "Hanse-Sequence": str(sequence),
                "Hanse-Digest": digest,
                "Hanse-Signature": self.site.key.sign(text),
            }
            more = tuple((name.encode(), value.encode()) for name, value in named.items())
            return replace(one, headers=(*one.headers, *more))
        return one


def blob_of(body: bytes) -> str:
    """The id of the blob whose listing a body begins with, if it does: what an upload is signed by.

    So mutants of uploads get as far as their chunks.
    """
    chunks = -(-int.from_bytes(body[:8], "little") // CHUNK)
    return digest_of(PREFIX + body[: 8 + 32 * min(chunks, len(body))])


@dataclass
class Storm:
    """Mutants from several threads; ``seen``: (status, how) → how often."""

    coordinator: Coordinator
    peers: list[Peer]
    seen: Counter[tuple[int, str]] = field(default_factory=Counter)
    broken: list[bytes] = field(default_factory=list)

    def blow(self, messages: int, seed: int) -> None:
        work = [(messages // THREADS, seed + number) for number in range(THREADS)]
        threads = [threading.Thread(target=self._blow, args=each) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _blow(self, messages: int, seed: int) -> None:
        chance = random.Random(seed)
        wires = [Wire(self.coordinator, peer.certificate) for peer in self.peers]
        for _ in range(messages):
            number = chance.randrange(len(self.peers))
            peer, wire = self.peers[number], wires[number]
            one = mutate(chance, peer.message(chance.choice(peer.recorded)), peer.sign)
            status = wire.send(one.raw, is_whole=one.how not in PARTIAL)
            self.seen[status, one.how] += 1
            if status >= 500 and status != 503:
                self.broken.append(one.raw[:400])
        for wire in wires:
            wire.close()


def recorded_site(coordinator: Coordinator, name: str) -> Peer:
    """A site's requests of a whole small run of its own."""
    site = coordinator.enrol(name)
    site.connection.sent = []
    spec = spec_of(name, name=f"of-{name}", rounds=2)
    run = submit(coordinator.operator, spec)
    site.play(run, spec)
    sent, site.connection.sent = site.connection.sent, None
    spec = spec_of(name, name=f"of-{name}", rounds=1000, seed=3)
    site.answer(site.ask_until("prepare", submit(coordinator.operator, spec)), spec)
    certificate = coordinator.folder / "sites" / name / "tls.pem"
    return Peer(each_once(sent), certificate, line=site.line, site=site)


def recorded_person(coordinator: Coordinator) -> Peer:
    """A researcher's requests, some of them to what is not theirs."""
    line = coordinator.person("mallory", "researcher")
    line.sent = []
    run = submit(line, spec_of("eve", name="mallorys"))
    told, _ = submission(spec_of("eve", name="mallorys"))
    line.request("POST", "/v1/runs", told)
    for what in ("", "/history", "/events"):
        line.request("GET", f"/v1/runs/{run}{what}")
    for path in ("/v1/runs", "/v1/sites", "/v1/about", "/v1/ca"):
        line.request("GET", path)
    for path, body in (("login", {"name": "x", "secret": "0" * 64}), ("invitations", {})):
        line.exchange("POST", f"/v1/{path}", str(body).replace("'", '"').encode())
    model = coordinator.state(run)["model"]
    line.exchange("GET", f"/v1/blobs/{model}/chunks/0")
    bearer = line._headers["Authorization"].encode()
    return Peer(each_once(line.sent), bearer=bearer)


def each_once(sent: list[Recorded]) -> list[Recorded]:
    """One request of each kind, so that polls do not crowd out the rest."""
    return [*{(one.method, one.path): one for one in sent}.values()]


def storm(coordinator: Coordinator, messages: int) -> Storm:
    """Run the same small run in quiet and in a storm of ``messages``; compare what it leaves."""
    good = [coordinator.enrol(name) for name in ("ada", "bob")]
    quiet = spec_of("ada", "bob", name="beside", rounds=3)
    first = submit(coordinator.operator, quiet)
    play_all(good, first, quiet)
    peers = [recorded_site(coordinator, "eve"), recorded_person(coordinator)]
    found = Storm(coordinator, peers)
    found.blow(WARM, seed=1)
    before = coordinator.rss
    second = submit(coordinator.operator, quiet)
    blowing = threading.Thread(target=found.blow, args=(messages - WARM, 2))
    blowing.start()
    play_all(good, second, quiet)
    blowing.join()
    assert coordinator.state(second)["model"] == coordinator.state(first)["model"]
    assert coordinator.process is not None
    assert coordinator.process.poll() is None
    assert coordinator.rss - before <= 64 * MIB, f"{(coordinator.rss - before) / MIB:.0f} MiB more"
    return found


def check(found: Storm, messages: int) -> None:
    assert sum(found.seen.values()) == messages
    statuses = {status for status, _ in found.seen}
    assert {200, 400, 401, 404} <= statuses, statuses  # the mutants get somewhere
    assert not found.broken, f"{len(found.broken)} × 5xx: {found.broken[:3]}"


@pytest.mark.timeout(600)
def test_twenty_thousand_mutated_messages_do_no_harm(coordinator: Coordinator):
    check(storm(coordinator, 20_000), 20_000)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_a_million_mutated_messages_do_no_harm(coordinator: Coordinator):
    check(storm(coordinator, 1_000_000), 1_000_000)


def test_a_body_that_is_larger_than_allowed_is_refused_before_it_is_sent(coordinator: Coordinator):
    line: Connection = coordinator.dial()
    wire = Wire(coordinator, None)
    for path, status in ((b"/v1/join", 413), (b"/v1/login", 413), (b"/v1/poll", 401)):
        head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n"
        assert wire.send(head, is_whole=True) == status
    assert line.exchange("GET", "/v1/about").status == 200


def test_who_is_not_known_cannot_make_the_coordinator_hold_a_large_body(coordinator: Coordinator):
    head = b"POST /v1/runs/none-1/0/train HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (
        100 * MIB
    )
    lines = [Wire(coordinator, None).open() for _ in range(3)]
    before = coordinator.rss
    with ExitStack() as stack:
        for line in lines:
            stack.enter_context(line)
            with suppress(OSError):  # refused, and closed
                line.sendall(head + bytes(40 * MIB))
        assert coordinator.rss - before <= 64 * MIB
