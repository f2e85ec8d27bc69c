"""A connection that is held to the limits of docs/protocol.md §8, and says who is at its end.

Whoever has no client certificate is unknown: there are few places for the unknown, and a new one
takes that of the oldest who is only waiting. So a flood of connections costs a fixed number of
files and bytes, and no site waits for it. It does not protect the line itself.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from ssl import SSLObject
from typing import Literal, Protocol, TypedDict, cast

import httptools
from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from hanse.errors import HanseError, ProtocolError
from hanse.net.problems import MEDIA_TYPE, Busy, TooLarge, answer
from hanse.net.traffic import Traffic

HELD = 2**16
"""Bytes that TLS holds for a connection, either way, before who sends them waits."""
Stage = Literal["waiting", "sending", "answered"]


class ReadLimits(Protocol):
    """What asyncio's and uvloop's transports over TLS have, and their types leave out."""

    def set_read_buffer_limits(self, high: int) -> None:
        """Stop reading from the socket at ``high`` bytes that nobody takes."""
        ...


class Peer(TypedDict):
    """What TLS says of the other end: ``scope["extensions"]["hanse"]``.

    ``name`` is the common name of the client certificate, ``certificate`` its DER; None without.
    """

    name: str | None
    certificate: bytes | None


class Body:
    """One request's body, poured into the reader's own memory: ``scope["extensions"]["body"]``.

    What comes is copied once, and the reader is woken when its memory is full, not at each piece.
    Not to be mixed with ASGI's ``receive``.
    """

    def __init__(self, cycle: RequestResponseCycle, flow: FlowControl) -> None:
        """Nothing is read yet; what comes meanwhile is held back in ``cycle``."""
        self._cycle, self._flow = cycle, flow
        self._room = memoryview(bytearray())  # what a reader waits for, and has not come
        self._woken: asyncio.Future[None] | None = None

    async def fill(self, into: memoryview) -> int:
        """Fill ``into``; return how many bytes came, fewer only where the body ends or is cut."""
        cycle = self._cycle
        if cycle.waiting_for_100_continue and not cycle.transport.is_closing():
            cycle.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        self._room = into
        held, cycle.body = cycle.body, bytearray()
        cycle.body += self.pour(held)
        try:
            while self._room and cycle.more_body and not cycle.disconnected:
                self._woken = asyncio.get_running_loop().create_future()
                self._flow.resume_reading()
                await self._woken
            return len(into) - len(self._room)
        finally:
            self._room, self._woken = memoryview(bytearray()), None

    def pour(self, data: "bytes | bytearray") -> "bytes | bytearray":
        """Take what a reader waits for; return the rest."""
        taken = data[: len(self._room)]
        self._room[: len(taken)] = taken
        self._room = self._room[len(taken) :]
        if not self._room:
            self.wake()
        return data[len(taken) :]

    def wake(self) -> None:
        """Let the reader look: its memory is full, or nothing more comes."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a listener; times in seconds, sizes in bytes.

    ``head_s``: to send a whole request head. ``idle_s`` and ``known_idle_s``: between two requests,
    without and with a client certificate. ``body_s``: a body without progress. ``reader_s``: a
    response of which nothing is read; longer, since a slow line drains its buffers in large steps.
    ``unknown``: connections without a certificate; ``each``: with that of one site.
    ``handshakes``: TLS handshakes under way.
    """

    head_s: float = 10
    idle_s: int = 15
    known_idle_s: int = 75
    body_s: float = 30
    reader_s: float = 120
    handshake_s: float = 5
    head_bytes: int = 16 * 2**10
    unknown: int = 64
    each: int = 16
    handshakes: int = 64
    connections: int = 2_048

    @property
    def sweep_s(self) -> float:
        """How often connections are looked at."""
        return min(self.head_s, self.body_s, self.reader_s, 10) / 10


@dataclass(slots=True)
class Gate:
    """The connections of one listener that have passed the handshake; lives on the loop."""

    limits: Limits
    open: dict["GuardedConnection", None] = field(
        default_factory=dict["GuardedConnection", None]  # in the order of their arrival
    )
    traffic: Traffic = field(default_factory=Traffic)

    def enter(self, connection: "GuardedConnection") -> None:
        """Take ``connection`` in, in the place of another if there is none left."""
        name = connection.peer["name"]
        self.open[connection] = None
        alike = [other for other in self.open if other.peer["name"] == name]
        if len(alike) > (self.limits.unknown if name is None else self.limits.each):
            _least(alike).close()

    def leave(self, connection: "GuardedConnection") -> None:
        """Forget ``connection``."""
        self.open.pop(connection, None)

    def sweep(self, now: float) -> None:
        """Close every connection whose time is up."""
        for connection in [*self.open]:
            if connection.is_late(now):
                connection.close()


def _least(alike: "list[GuardedConnection]") -> "GuardedConnection":
    """Return the oldest that waits for a head, else for a body, else the newest of all."""
    for stage in ("waiting", "sending"):
        for connection in alike:
            if connection.stage == stage:
                return connection
    return alike[-1]


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's connection with limits on what it receives and the peer in the request's scope."""

    def __init__(self, config: Config, state: ServerState, gate: Gate) -> None:
        """``state`` is shared by the connections of a listener, and so is ``gate``."""
        super().__init__(config=config, server_state=state, app_state={})
        self.gate, self.limits = gate, gate.limits
        self.peer = Peer(name=None, certificate=None)
        self.since = self.loop.time()  # the last progress, or the start of the head
        self._in_head = False
        self._head = 0  # bytes of a head that has not ended
        self._fields = 0  # bytes of its target and headers, as far as they are parsed
        self.body: Body | None = None  # of the request whose head came last
        self.answering: asyncio.Task[None] | None = None
        self._unread: int = 0  # bytes of the response that the peer has not taken, as seen last

    # What happens to the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the client's certificate, and ask for a place."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(HELD)
        cast("ReadLimits", transport).set_read_buffer_limits(HELD)
        self.peer = _peer(transport)
        known = self.peer["name"] is not None
        self.timeout_keep_alive = self.limits.known_idle_s if known else self.limits.idle_s
        self.since = self.loop.time()
        self._in_head = True  # the first request has to come at once
        self.gate.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back, and end the request: nobody waits for its answer.

        What a handler does in a thread goes on; a poll that waits holds no memory any more.
        """
        self.gate.leave(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # the timer would hold all of it until it rings
        if self.body is not None:
            self.body.wake()
        self.body = None
        if self.answering is not None:
            self.answering.cancel()

    def close(self) -> None:
        """Close at once: what is unsent is lost, and the place is free."""
        self.gate.leave(self)
        if not self.transport.is_closing():
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse ``data``; refuse a head that is too long, and what is no HTTP."""
        if self.parser is None:  # pyright: ignore[reportUnnecessaryComparison] -- None when lost
            return
        self.gate.traffic.received += len(data)
        self._unset_keepalive_if_required()
        if not self._in_head:
            self.since = self.loop.time()
            self._in_head = self.stage == "waiting"
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.cycle.keep_alive = False  # what follows is not HTTP, and is not looked at
        except httptools.HttpParserError:
            too_long = self._fields > self.limits.head_bytes
            self.refuse(TooLarge("a long head") if too_long else ProtocolError("no HTTP"))
        else:
            if self._in_head:  # of a part that has not ended the parser tells nothing
                self._head += len(data)
            if self._head > self.limits.head_bytes:
                self.refuse(TooLarge("a long head"))

    def refuse(self, error: HanseError) -> None:
        """Answer with the problem of ``error``, and close."""
        if self.transport.is_closing():
            return
        status, body = answer(error)
        self.gate.traffic.responses[status] += 1
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(STATUS_LINE[status] + head.encode() + b"\r\n\r\n" + body)
        self.transport.close()

    # What the parser finds

    def on_message_begin(self) -> None:
        """Begin a request's scope, with the peer in it."""
        super().on_message_begin()
        self._in_head, self._head, self._fields = True, 0, 0
        self.scope["extensions"] = {"hanse": cast("dict[object, object]", self.peer)}

    def on_url(self, url: bytes) -> None:
        """Take the target, or a part of it."""
        self._take(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._take(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def _take(self, size: int) -> None:
        """Count parsed bytes of the head; the parser passes the error on as its own."""
        self._fields += size
        if self._fields > self.limits.head_bytes:
            raise ValueError(f"a head of more than {self.limits.head_bytes} bytes")

    def on_headers_complete(self) -> None:
        """Start the request; its body has time from now on."""
        self._in_head, self._head = False, 0
        self.since = self.loop.time()
        super().on_headers_complete()
        self.body = Body(self.cycle, self.flow)
        extensions = cast("dict[str, object]", self.scope.get("extensions"))
        extensions["body"] = self.body
        extensions["traffic"] = self.gate.traffic

    def on_body(self, body: bytes) -> None:
        """Give a part of the body to who waits for it; what nobody waits for is held, and slows."""
        if self.body is not None and not self.cycle.response_complete:
            body = bytes(self.body.pour(body))
        if body:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        super().on_message_complete()
        if self.body is not None:
            self.body.wake()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        super()._start_asgi_task(cycle, partial(self._closing, cycle, app))

    async def _closing(
        self,
        cycle: RequestResponseCycle,
        app: ASGI3Application,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Run ``app``; close when it answers before the body has arrived, and when it is stopped.

        The rest of such a body is not worth reading, and what follows it could not be told from it.
        """

        traffic = self.gate.traffic

        async def sending(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.start":
                traffic.responses[message["status"]] += 1
                cycle.keep_alive = cycle.keep_alive and not cycle.more_body
            elif message["type"] == "http.response.body":
                traffic.sent += len(message["body"])
            await send(message)

        self.answering = asyncio.current_task()
        try:
            await app(scope, receive, sending)
        except asyncio.CancelledError:  # the peer has gone, or the listener stops
            if not cycle.disconnected:
                await _stopping(cycle, sending)
        finally:
            self.answering = None
            scope.get("extensions", {}).pop("body", None)  # else each holds the other, for long

    # What time it is

    @property
    def stage(self) -> Stage:
        """What is awaited: a request's head, its body, or the answer to it."""
        if self.cycle is None or self.cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison] -- None before the first request
            return "waiting"
        return "sending" if self.cycle.more_body else "answered"

    def is_late(self, now: float) -> bool:
        """Whether head, body or the reading of the response takes too long."""
        waited = now - self.since
        if self._in_head:
            return waited > self.limits.head_s
        if self.flow.write_paused:
            return self._is_unread(now)
        if self.stage != "sending" or self.flow.read_paused:  # paused: it is the app that is slow
            self.since = now
            return False
        return waited > self.limits.body_s

    def _is_unread(self, now: float) -> bool:
        unread = int(self.transport.get_write_buffer_size())
        if unread != self._unread:
            self._unread, self.since = unread, now
        return now - self.since > self.limits.reader_s


def _peer(transport: asyncio.Transport) -> Peer:
    """Return who is at the other end; the certificate was verified in the handshake."""
    connection = cast("SSLObject", transport.get_extra_info("ssl_object"))
    certificate, subject = connection.getpeercert(binary_form=True), connection.getpeercert()
    if certificate is None or not subject:
        return Peer(name=None, certificate=None)
    parts = cast("tuple[tuple[tuple[str, str], ...], ...]", subject.get("subject", ()))
    names = [value for part in parts for key, value in part if key == "commonName"]
    return Peer(name=names[0] if len(names) == 1 else None, certificate=certificate)


async def _stopping(cycle: RequestResponseCycle, send: ASGISendCallable) -> None:
    """Answer a request that could not end in time."""
    if cycle.response_started:
        cycle.transport.close()
        return
    status, body = answer(Busy("stopping"))
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
