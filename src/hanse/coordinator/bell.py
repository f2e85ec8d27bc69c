"""Wakes the long polls of those whose answer has changed; rung from any thread."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Bell:
    """One event per site, and one for all who watch runs. Its loop is that of its first wait."""

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting = dict[str, set[asyncio.Future[None]]]()
        self.is_closing = False

    def ring(self, site: str | None) -> None:
        """Wake the polls of ``site`` (None: all sites, the empty text: none), and watchers."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._ring, site)

    def close(self) -> None:
        """Wake everybody, for good; on the loop."""
        self.is_closing = True
        self._ring(None)

    def _ring(self, site: str | None) -> None:
        named = [*self._waiting] if site is None else [site, ""]
        for name in named:
            for waiting in self._waiting.pop(name, ()):
                if not waiting.done():
                    waiting.set_result(None)

    async def until(self, site: str, is_true: Callable[[], bool], most_s: float) -> None:
        """Wait until ``is_true``, looking when ``site`` is rung for (``""``: anything is), or for
        ``most_s``.
        """
        self._loop = asyncio.get_running_loop()
        ends = self._loop.time() + most_s
        while not self.is_closing:
            waiting = self._loop.create_future()
            self._waiting.setdefault(site, set()).add(waiting)
            try:
                left = ends - self._loop.time()
                if is_true() or left <= 0:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await waiting
            finally:
                self._waiting.get(site, set[asyncio.Future[None]]()).discard(waiting)
