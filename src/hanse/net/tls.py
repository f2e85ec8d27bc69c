"""TLS at the listener's end: asyncio's own, with one receiving buffer for all connections.

uvloop's keeps 256 KiB for each, and as much again of what is encrypted: of a hundred sites that
send at once, more than a model. What is received is decrypted at once, so one buffer is enough.
"""

import asyncio
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from typing import Any, cast

BUFFER = 2**16
HELD = 2**16
"""Bytes that a connection holds, either way, before who sends them waits."""


class SharedTls(SSLProtocol):
    """One connection's TLS. ``buffer`` is that of all connections of its loop."""

    max_size = BUFFER

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        waiter: "asyncio.Future[None]",
        buffer: bytearray,
        *,
        handshake_s: float,
        goodbye_s: float,
    ) -> None:
        """``waiter`` tells when the handshake is over; ``protocol`` gets a transport then."""
        super().__init__(
            loop,
            protocol,
            context,
            waiter,
            server_side=True,
            ssl_handshake_timeout=handshake_s,  # pyright: ignore[reportArgumentType] -- any number
            ssl_shutdown_timeout=goodbye_s,
        )
        self._ssl_buffer, self._ssl_buffer_view = buffer, memoryview(buffer)
        ends = cast("Any", self)  # typeshed does not know these
        ends._set_read_buffer_limits(HELD)
        ends._set_write_buffer_limits(HELD)


async def shake_hands(
    connection: socket.socket,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    buffer: bytearray,
    *,
    handshake_s: float,
    goodbye_s: float,
) -> None:
    """Make ``protocol`` the end of an accepted connection; OSError if the handshake fails.

    ``buffer`` has ``BUFFER`` bytes, for all connections of this loop. A handshake may take
    ``handshake_s``, the end of TLS ``goodbye_s``.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    tls = SharedTls(
        loop, protocol, context, waiter, buffer, handshake_s=handshake_s, goodbye_s=goodbye_s
    )
    transport, _ = await loop.connect_accepted_socket(lambda: tls, connection)
    try:
        await waiter
    except BaseException:
        transport.abort()
        raise
