"""The simulated coordinator: its production machines, started again on what its disk kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hanse.config.specification import Specification
from hanse.coordinator.driver import Driver
from hanse.coordinator.live import Key, LiveRun
from hanse.coordinator.receiving import Receiving
from hanse.coordinator.routes import BROKEN
from hanse.core.canonical import Json, digest
from hanse.core.listing import CHUNK, Listing
from hanse.errors import HanseError
from hanse.faultsim.disk import Blobs, Journal, Spool, Troubles
from hanse.faultsim.world import COORDINATOR, Crashed, World
from hanse.net.problems import Busy, Missing

RUN = "unit-1"
POLL_S = 25.0
PIECE = 320
Told = Callable[[Any], None]


@dataclass
class VirtualClock:
    """The run's time, in virtual seconds."""

    world: World
    base: float
    began: float

    def now(self) -> float:
        """Return the seconds."""
        return self.base + self.world.now - self.began


class Coordinator:
    """One run at a coordinator. ``live`` is None while the process is away."""

    def __init__(self, world: World, read: Specification, initial: bytes) -> None:
        """Store the run, as a submission does; nothing runs yet."""
        self.world, self.read, self.troubles = world, read, Troubles()
        self.journal = Journal(world, self.troubles)
        self.blobs, self.spool = Blobs(self.troubles), Spool(world, self.troubles)
        self.model = self.blobs.put(initial).id
        self.live: LiveRun | None = None
        self.life = 0

    def start(self) -> None:
        """Start the process; ConfigError if its disk is damaged. Nothing if it lives."""
        if self.live is not None:
            return
        self.journal.start()
        self.parked, self.turning = list[tuple[str, str, Told]](), False
        stores: dict[str, Any] = {
            "journal": self.journal, "blobs": self.blobs, "spool": self.spool
        }  # fmt: skip
        live = LiveRun(RUN, self.read, self.model, changed=self._changed, **stores)
        live.clock = VirtualClock(self.world, live.course.now, self.world.now)  # pyright: ignore
        live.is_started = True
        self.blobs.sweep({*live.needed})
        self.driver = Driver(live)
        self.live = live
        self._turn_soon()

    def crash(self, *, power: bool) -> None:
        """End the process."""
        self.live, self.life = None, self.life + 1
        if power:
            self.blobs.lose_power()
        self.spool.start(power=power)

    def _in_this_life(self, act: Callable[[], None]) -> Callable[[], None]:
        life = self.life
        return lambda: act() if self.life == life and self.live is not None else None

    def _changed(self, run: str, site: str | None) -> None:
        """Wake those whom an event concerns, as the bell does."""
        for one in [*self.parked]:
            if site is None or one[0] == site:
                self.world.soon(self._in_this_life(lambda one=one: self._told(one)))
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self.turning:
            self.turning = True
            self.world.soon(self._in_this_life(self._turn))

    def _turn(self) -> None:
        """Do what the driver's thread does between two waits."""
        assert self.live is not None
        self.turning = False
        if self.live.course.outcome is not None:
            return
        seen = self.live.course
        try:
            again = self.driver.turn(seen)
        except OSError as error:
            raise Crashed(COORDINATOR) from error
        if again:
            self._turn_soon()
        else:
            left = max(self.driver.wakes(seen) - self.live.clock.now(), 0.0)
            self.world.after(left + 0.001, self._in_this_life(self._turn_soon))

    # --- what sites ask

    def asked(self, ask: Callable[["Coordinator"], Any]) -> Any:
        """Return the answer to a request, or the error that the site is told."""
        try:
            return ask(self)
        except HanseError as error:
            return error
        except OSError as error:
            if error.errno in BROKEN:
                raise Crashed(COORDINATOR) from error
            return Busy("the disk fails, or is full")

    def poll(self, site: str, have: str, told: Told) -> None:
        """Give the assignments of a site once they are not what it has."""
        one = (site, have, told)
        self.parked.append(one)
        self._told(one)
        if one in self.parked:
            self.world.after(POLL_S, self._in_this_life(lambda: self._told(one, at_last=True)))

    def _told(self, one: tuple[str, str, Told], *, at_last: bool = False) -> None:
        site, have, told = one
        assert self.live is not None
        found: list[dict[str, Json]] = self.live.assignments(site)
        if one in self.parked and (at_last or digest(found) != have):
            self.parked.remove(one)
            told((found, digest(found)))

    def model_of(self, id: str) -> bytes:
        """Give a model that a site may read now."""
        assert self.live is not None
        if id not in self.live.readable or id not in self.blobs.found:
            raise Missing("no such blob")
        return bytes(self.blobs.found[id].content)

    def answer(self, key: Key, body: Mapping[str, Json]) -> dict[str, Json]:
        """Take an answer that is JSON."""
        assert self.live is not None
        return self.live.answer(key, body)

    def put(
        self, key: Key, listing: Listing, content: bytes, first: int, cut: int
    ) -> dict[str, Json]:
        """Take an answer that is a blob, from chunk ``first`` on; ``cut``: so many bytes of it."""
        assert self.live is not None
        found = self.live.receive(key, listing)
        if not isinstance(found, Receiving):
            return found
        writer = found.writer(first)
        for at in range(first * CHUNK, min(len(content), cut), PIECE):
            if writer is None:
                break
            found.take(writer, content[at : at + PIECE])
            self.world.meanwhile()
        return self.live.progress(key, found)
