"""Whether a coordinator is ready to work, looked at once a second at most, whoever asks."""

import asyncio
import shutil
import time
from enum import StrEnum
from math import inf
from pathlib import Path

from hanse.coordinator.doctor import TOLERATED_S
from hanse.coordinator.history import JournalBroken
from hanse.coordinator.journal import Journal
from hanse.coordinator.schema import Entry
from hanse.log import Event, Line, log
from hanse.net.checks import LITTLE

STREAM = "registry"
FRESH_S = 1.0
ANSWERED_S = 2.0
"""How long the journal may take to answer."""


class Reason(StrEnum):
    """Why a coordinator is not ready. There are no others, and none has a value in it."""

    JOURNAL = "the journal cannot be written"
    DISK = "too little disk is free"
    CLOCK = "the clock is before the journal's newest event"


class Watch:
    """Looks at journal, disk and clock. Used on the server's loop only.

    ``reserve``: the free bytes under ``folder`` below which it is not ready.
    """

    def __init__(self, journal: Journal, folder: Path, reserve: int = LITTLE) -> None:
        """Nothing is looked at yet."""
        self.journal, self.folder, self.reserve = journal, folder, reserve
        self.fresh_s = FRESH_S
        self._lock = asyncio.Lock()
        self._asked: asyncio.Future[Entry | None] | None = None
        self._found, self._looked = tuple[Reason, ...](), -inf

    async def reasons(self) -> tuple[Reason, ...]:
        """Return why it is not ready; none if it is. A change is logged."""
        async with self._lock:
            if time.monotonic() - self._looked >= self.fresh_s:
                before, self._found = self._found, await self._look()
                self._looked = time.monotonic()
                _tell(before, self._found)
            return self._found

    async def _look(self) -> tuple[Reason, ...]:
        reasons = list[Reason]()
        try:
            newest = await self._newest()
        except (JournalBroken, TimeoutError):
            reasons.append(Reason.JOURNAL)
            newest = None
        if shutil.disk_usage(self.folder).free < self.reserve:
            reasons.append(Reason.DISK)
        if newest is not None and newest.at_wall / 1000 - time.time() > TOLERATED_S:
            reasons.append(Reason.CLOCK)
        return tuple(reasons)

    async def _newest(self) -> Entry | None:
        """Return the journal's newest event; TimeoutError if it takes too long.

        A question that is not answered is not asked again beside itself.
        """
        if self._asked is None or self._asked.done():
            self._asked = asyncio.ensure_future(self._ask())
        done, _ = await asyncio.wait({self._asked}, timeout=ANSWERED_S)
        if not done:
            raise TimeoutError
        return self._asked.result()

    async def _ask(self) -> Entry | None:
        """Let an append of no event go through all that waits to be written, then read."""
        await asyncio.wrap_future(self.journal.append(STREAM, []))
        return await asyncio.to_thread(self.journal.newest)


def _tell(before: tuple[Reason, ...], now: tuple[Reason, ...]) -> None:
    if before and not now:
        log(Line(Event.READY))
    for reason in now:
        if reason not in before:
            log(Line(Event.NOT_READY, what=reason.name.lower()))
