"""What lies between a site and its coordinator: lines that cut, slow down or fall silent; tunnels.

Real sockets on loopback, in a thread of their own.
"""

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PIECE = 2**14


class Proxy:
    """Listens on ``url`` (host:port) between ``with`` and its end; counts what it does."""

    def __init__(self) -> None:
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._counted, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self):
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _counted(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self.serve(reader, writer)
        writer.transport.abort()

    async def serve(self, reader, writer):
        raise NotImplementedError


class Line(Proxy):
    """A line to ``port``: ``cut_after`` bytes of a connection it is cut; ``per_second`` bytes pass.

    ``silent``: connections are accepted, and nothing ever passes.
    """

    def __init__(self, port, *, cut_after=None, per_second=None, silent=False):
        super().__init__()
        self._target, self._cut_after, self._per_second = port, cut_after, per_second
        self._silent, self._allowances = silent, list[Allowance]()

    @property
    def passed(self):
        """The bytes that have passed, of all connections and both ways."""
        return sum(allowance.passed for allowance in self._allowances)

    async def serve(self, reader, writer):
        if self._silent:
            await asyncio.Event().wait()
        there = await asyncio.open_connection("127.0.0.1", self._target)
        self._allowances.append(allowance := Allowance(self._cut_after, self._per_second))
        await both(allowance, (reader, there[1]), (there[0], writer))


@dataclass
class Allowance:
    """What may still pass of a connection, both directions together, and how fast."""

    left: int | None = None
    per_second: float | None = None
    start: float = field(default_factory=time.monotonic)
    passed: int = 0

    async def take(self, size):
        """Return how many of ``size`` bytes may pass, when they may."""
        if self.left is not None:
            size = min(size, self.left)
            self.left -= size
        self.passed += size
        if self.per_second is not None:
            ahead = self.start + self.passed / self.per_second - time.monotonic()
            await asyncio.sleep(max(ahead, 0))
        return size


async def both(allowance, *ways):
    """Carry bytes both ways until one end closes or the allowance is spent."""
    tasks = [asyncio.ensure_future(carry(allowance, *way)) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, writer in ways:
            writer.transport.abort() if allowance.left == 0 else writer.close()


async def carry(allowance, reader, writer):
    while data := await reader.read(PIECE):
        size = await allowance.take(len(data))
        writer.write(data[:size])
        if size < len(data) or allowance.left == 0:
            return
        await writer.drain()


class Tunnel(Proxy):
    """An HTTP proxy that knows CONNECT only; ``account`` is what Proxy-Authorization must say."""

    def __init__(self, *, status="200 OK", account=None):
        super().__init__()
        self.asked, self._status, self._account = [], status, account

    async def serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split("\r\n")[0].split(" ")
        self.asked.append(target)
        allowed = self._account is None or f"authorization: {self._account}" in head.lower()
        status = self._status if allowed else "407 Proxy Authentication Required"
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        await writer.drain()
        if method == "CONNECT" and status.startswith("200"):
            parts = urlsplit(f"//{target}")
            there = await asyncio.open_connection(parts.hostname, parts.port)
            await both(Allowance(), (reader, there[1]), (there[0], writer))
