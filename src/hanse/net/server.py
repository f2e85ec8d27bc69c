"""The listener: an ASGI app behind TLS 1.3, and behind nothing less (docs/protocol.md §3-§8).

Connections are accepted here and not by uvicorn, so that handshakes that do not end are counted
and ended too (security K13). There is no way to listen without TLS, and no header tells a version.
"""

import asyncio
import contextlib
import errno
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import uvloop
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.server import ServerState

from hanse.errors import ConfigError
from hanse.net.guard import Gate, GuardedConnection, Limits

BACKLOG = 1024
GRACE_S = 1.0
GOODBYE_S = 0.5  # a line that is closed waits no longer for the peer to say so too
Around = Callable[[], AbstractAsyncContextManager[object]]


class Server:
    """Serves ``app`` on ``host``:``port`` (0: any free one) with the certificate of ``context``.

    ``around`` gives a context that is entered on the loop before the first request and left after
    the last: what the app has to run beside its requests. ``on_stop`` is called on the loop when
    the end begins, so that the app can answer its long polls; those that go on for ``GRACE_S``
    get a 503. ValueError for a context that admits less than TLS 1.3.
    """

    def __init__(
        self,
        app: ASGI3Application,
        host: str,
        port: int,
        context: ssl.SSLContext,
        *,
        limits: Limits | None = None,
        around: Around = contextlib.nullcontext,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        """Nothing listens before :meth:`start` or :meth:`run`."""
        if context.minimum_version < ssl.TLSVersion.TLSv1_3:
            raise ValueError(f"TLS from {context.minimum_version.name} on, not from 1.3 on")
        self.host, self.port = host, port
        self._context = context
        self._around, self._on_stop = around, on_stop
        self._gate = Gate(limits or Limits())
        self._config = Config(
            app, http=GuardedConnection, ws="none", lifespan="off", interface="asgi3",
            log_config=None, access_log=False, proxy_headers=False,
        )  # fmt: skip
        self._state = ServerState()  # its default headers stay empty: no server, no date
        self._handshakes: dict[asyncio.Task[None], None] = {}  # in the order of their start
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None  # what ended the thread after it had begun

    def start(self) -> None:
        """Serve in a thread; return when connections are accepted. ConfigError as :meth:`run`."""
        ready = Future[None]()
        self._thread = threading.Thread(target=self._work, args=(ready,), name="hanse-server")
        self._thread.start()
        ready.result()

    def stop(self) -> None:
        """End: no new connection, open requests have ``GRACE_S``; return when all is closed.

        Raises what ended the thread before, if something did.
        """
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None:
            self._thread.join()
        if self._failed is not None:
            raise self._failed

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve in this thread until SIGTERM or SIGINT; ``ready`` is called when it listens.

        ConfigError if the address cannot be had; what ``around`` raises goes through.
        """
        listening = Future[None]()
        if ready is not None:
            listening.add_done_callback(lambda _: ready())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(listening, signals=True))

    def reload(self, cert_file: Path, key_file: Path) -> None:
        """Use another certificate from the next handshake on; ConfigError if it cannot be used."""
        try:
            self._context.load_cert_chain(cert_file, key_file, password="")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{cert_file} and {key_file} are not a certificate and its key: {error}",
                hint="the certificate of before stays in use",
            ) from error

    @property
    def counts(self) -> dict[str, int]:
        """How many connections there are: handshakes under way, known, and unknown peers."""
        names = [connection.peer["name"] for connection in self._gate.open]
        unknown = names.count(None)
        known = len(names) - unknown
        return {"handshakes": len(self._handshakes), "known": known, "unknown": unknown}

    def _work(self, ready: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve(ready))
        except BaseException as error:
            self._failed = error if ready.done() else None
            if not ready.done():
                ready.set_exception(error)

    async def _serve(self, ready: Future[None], *, signals: bool = False) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stopping.set)
        self._config.load()
        with _listen(self.host, self.port) as listener:
            self.port = listener.getsockname()[1]
            async with self._around():
                await self._until_stopped(listener, ready)

    async def _until_stopped(self, listener: socket.socket, ready: Future[None]) -> None:
        assert self._stopping is not None
        duties = (self._accept(listener), self._watch(), self._stopping.wait())
        tasks = [asyncio.ensure_future(duty) for duty in duties]
        ready.set_result(None)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a duty ends by an error only
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            listener.close()
            await self._end()

    async def _accept(self, listener: socket.socket) -> None:
        """Take connections as they come; pause when the system has no files left."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    continue  # the peer was gone before it was accepted
                await asyncio.sleep(0.1)
                continue
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        """Begin the handshake, in the place of the oldest that has not ended."""
        gate, limits = self._gate, self._gate.limits
        if len(gate.open) >= limits.connections:
            connection.close()
            return
        if len(self._handshakes) >= limits.handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()
        task = asyncio.ensure_future(self._shake_hands(connection))
        self._handshakes[task] = None
        task.add_done_callback(lambda task: self._handshakes.pop(task, None))

    async def _shake_hands(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):  # the peer's loss alone
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: GuardedConnection(self._config, self._state, self._gate),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._gate.limits.handshake_s,
                ssl_shutdown_timeout=GOODBYE_S,
            )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._gate.limits.sweep_s)
            self._gate.sweep(asyncio.get_running_loop().time())

    async def _end(self) -> None:
        """Let requests end by themselves, then end them, then close what is left."""
        if self._on_stop is not None:
            self._on_stop()
        for handshake in [*self._handshakes]:
            handshake.cancel()
        for connection in [*self._state.connections]:
            connection.shutdown()
        await _until(lambda: not self._state.tasks, GRACE_S)
        for request in self._state.tasks:
            request.cancel()
        await _until(lambda: not self._gate.open, GRACE_S / 2)
        for connection in [*self._gate.open]:
            connection.close()


async def _until(true: Callable[[], bool], most_s: float) -> None:
    """Wait until ``true()``, or for ``most_s``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most_s):
            while not true():
                await asyncio.sleep(0.01)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; ConfigError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            hint="choose another port, or stop what uses this one",
        ) from error
    listener.setblocking(False)
    return listener
