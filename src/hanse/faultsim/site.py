"""A simulated site: production training, memory and gate, on a disk and a line that fail."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from hanse.config.specification import Specification
from hanse.core.frames import model_frame, share_frame
from hanse.core.ledger import Entry, Ledger, step
from hanse.core.listing import Listing
from hanse.core.step import Refused
from hanse.core.sums import on_wire
from hanse.core.work import Train
from hanse.data.site import Site
from hanse.errors import HanseError, ProtocolError
from hanse.failpoints import Point, reach
from hanse.faultsim.coordinator import RUN, Coordinator
from hanse.faultsim.disk import Troubles
from hanse.faultsim.network import Lost, Network
from hanse.faultsim.unit import Unit, data
from hanse.faultsim.world import World
from hanse.sim.station import Kept, Station
from hanse.site.gate import Gate
from hanse.site.kept import ClientMemory
from hanse.site.ledger import reservation
from hanse.site.policy import Policy
from hanse.site.releases import Occasion

TRAIN_S = 0.5
POLICY = Policy("0" * 64)


class Broken(Exception):
    """The site's disk takes nothing now."""


@dataclass
class Everywhere:
    """The same data for all."""

    def open(self, client: str) -> Any:
        """Return (train, test)."""
        return data(Site(client))


class Disk:
    """What a site's processes leave: memory, releases, and frames that nothing forced to disk."""

    def __init__(self) -> None:
        self.shelf = dict[str, tuple[Kept, int]]()
        self.releases = dict[str, str]()
        self.ledger = Ledger()
        self.frames = dict[str, bytes]()
        self.troubles = Troubles()

    # the shelf of a ClientMemory

    def read(self, name: str) -> tuple[Kept, int] | None:
        """Return what was kept."""
        found = self.shelf.get(name)
        return found and ({c: dict(arrays) for c, arrays in found[0].items()}, found[1])

    def write(self, name: str, kept: Kept, round: int) -> None:
        """Keep it."""
        self._sync()
        copied = {c: {n: a.copy() for n, a in arrays.items()} for c, arrays in kept.items()}
        self.shelf[name] = copied, round

    def remove(self, name: str) -> None:
        """Forget it."""
        self.shelf.pop(name, None)

    # the book and the log of a Gate

    def note(self, entry: Entry) -> None:
        """Have ``entry`` in the ledger."""
        if (after := step(self.ledger, entry)) is not self.ledger:
            self._sync()
            self.ledger = after

    def known(self, occasion: Occasion) -> str:
        """Return the digest by which ``occasion`` has left."""
        return self.releases.get(str(occasion), "")

    def check(self, occasion: Occasion, digest: str) -> None:
        """Raise ProtocolError if another has left by the name."""
        known = self.known(occasion)
        if known not in ("", digest):
            raise ProtocolError(f"{occasion} has left as {known[:16]}")

    def once(self, occasion: Occasion, digest: str, size: int) -> None:
        """Note a release; ProtocolError if another has left by its name."""
        self.check(occasion, digest)
        if self._sync():
            self.releases[str(occasion)] = digest

    def _sync(self) -> bool:
        try:
            self.troubles.write()
            self.troubles.sync()
        except OSError as error:
            raise Broken from error
        return True


Life = Generator[Callable[[Callable[[Any], None]], None], Any, Any]
"""What a site does: yields what to wait for, and is sent the answer."""


class SimulatedSite:
    """One site; ``acked`` are the receipts that it was given, by (round, kind, how often asked)."""

    def __init__(self, name: str, world: World, network: Network, read: Specification) -> None:
        """Nothing runs yet."""
        self.name, self.world, self.network, self.read = name, world, network, read
        self.disk, self.slow, self.life = Disk(), 1.0, 0
        self.acked = dict[tuple[int, str, int], dict[str, Any]]()
        self.models = dict[int, str]()
        self.is_over, self.has_model, self._living = False, False, None
        self.wrong: str = ""

    def start(self) -> None:
        """Start the process, unless it lives."""
        if self._living is None:
            kernel: Any = Unit(tuple(self.read.spec.clients))
            self.station = Station(kernel, Everywhere(), self.read.spec.bound, self.read.spec.seed)  # pyright: ignore
            self.memory = ClientMemory(self.name, self.station, self.disk)
            self.made = set[str]()
            gate: Any = self.disk
            self.gate = Gate(POLICY, self.disk, gate)
            self._living = self._live()
            self._go_on(None, self.life)

    def crash(self, *, power: bool) -> None:
        """End the process."""
        self._living, self.life = None, self.life + 1
        if power:
            for name in self.disk.frames:  # nothing forced them to disk: they may be anything
                if self.world.random.random() < 0.5:
                    self.disk.frames[name] = b"\0" * len(self.disk.frames[name])

    def _go_on(self, sent: Any, life: int) -> None:
        if self._living is None or life != self.life:
            return
        before, self.world.acting = self.world.acting, self.name
        try:
            waits = self._living.send(sent)
        except StopIteration:
            self._living = None
            return
        finally:
            self.world.acting = before
        waits(lambda answer: self._go_on(answer, life))

    def _live(self) -> Life:
        have = ""
        while not self.is_over:
            told = yield lambda on, have=have: self.network.poll(self.name, have, on)
            if isinstance(told, Lost):
                have = ""
                yield from self._pause()
                continue
            asked, have = told
            for one in asked:
                have = ""
                try:
                    yield from self._answer(one)
                except (HanseError, Broken):
                    yield from self._pause()
                    break

    def _pause(self) -> Life:
        yield from self._for(self.world.random.uniform(0.1, 2.0))

    def _for(self, seconds: float) -> Life:
        yield lambda on: self.world.after(seconds, lambda: on(None))

    def _ask(self, ask: Callable[[Coordinator], Any]) -> Life:
        """Return what the coordinator says; raise the error that it says, or ProtocolError."""
        told = yield lambda on: self.network.call(self.name, ask, on)
        if isinstance(told, HanseError):
            if "another" in str(told) and "there already" in str(told):
                self.wrong = f"{self.name}: {told}"
            raise told
        return told

    def _answer(self, asked: dict[str, Any]) -> Life:
        key, round = (self.name, asked["round"], asked["kind"]), asked["round"]
        match asked["kind"]:
            case "prepare":
                self.disk.note(reservation(RUN, self.read.spec))
                body = {"accepted": True, "fingerprint": "f"}
                told = yield from self._ask(lambda c: c.answer(key, body))
            case "finish":
                yield from self._settle(asked)
                yield from self._model(asked["blob"])
                reach(Point.SITE_MODEL_KEPT)
                self.has_model = True
                told = yield from self._ask(lambda c: c.answer(key, {}))
                self.is_over = not isinstance(told, Lost)
            case kind:
                self.models.setdefault(round, asked["blob"])
                if kind == "train" and self.models[round] != asked["blob"]:
                    self.wrong = f"{self.name} was given two models in round {round}"
                content = yield from self._made(asked)
                told = yield from self._send(asked, content)
        if not isinstance(told, Lost) and told["state"] == "taken":
            again = asked["body"].get("again", 0)
            self._acknowledged((round, asked["kind"], again), told["receipt"])

    def _acknowledged(self, asked: tuple[int, str, int], receipt: dict[str, Any]) -> None:
        known = self.acked.setdefault(asked, receipt)
        if known != receipt and asked[1] != "finish":
            self.wrong = f"{self.name} has two receipts for {asked[1]} of round {asked[0]}"

    def _settle(self, asked: dict[str, Any]) -> Life:
        if asked["counted"] is not None:
            self.memory.settle(asked["counted"])
            reach(Point.SITE_SETTLED)
        yield from self._for(0.001)

    def _made(self, asked: dict[str, Any]) -> Life:
        """Return the frame of the answer: what has left before, or a new one, through the gate."""
        round, kind, spec = asked["round"], asked["kind"], self.read.spec
        occasion = Occasion(RUN, round, "update" if kind == "train" else "counts")
        yield from self._settle(asked)
        name, known = f"{round}-{kind}", self.disk.known(occasion)
        there = self.disk.frames.get(name)
        if there is None or not (name in self.made or Listing.of(there).id == known):
            model = yield from self._model(asked["blob"])
            reach(Point.SITE_MODEL_FETCHED)
            yield from self._for(TRAIN_S * self.slow * self.world.random.uniform(0.5, 1.5))
            self.disk.frames[name] = bytes(self._computed(kind, model, round, asked["body"]))
            self.made.add(name)
            reach(Point.SITE_SHARE_COMPUTED)
        content = self.disk.frames[name]
        bound = spec.bound if kind == "train" else spec.tally
        self.gate.release(occasion, content, bound)
        reach(Point.SITE_RELEASE_DURABLE)
        return content

    def _model(self, id: str) -> Life:
        """Return the model of that id, whole and verified."""
        model = yield from self._ask(lambda c: c.model_of(id))
        if isinstance(model, Lost) or Listing.of(model).id != id:
            raise ProtocolError("the model did not come, or is another one")
        return model

    def _computed(self, kind: str, model: bytes, round: int, body: Any) -> bytearray:
        spec = self.read.spec
        vector = model_frame(spec.layout).unpack(model)["vector"]
        if kind == "evaluate":
            counts = self.station.counts(vector, self.name, round, spec.tally)
            assert not isinstance(counts, Refused)
            return share_frame(spec.tally).pack({"scalars": counts.scalars})
        work = Train(spec.local, self.read.strategy.correction)
        share = self.station.share(vector, self.name, work, round, body["announced"])
        assert not isinstance(share, Refused)
        self.memory.trained(round)
        arrays = {"model": on_wire(share.vector, share.scale), "scalars": share.scalars}
        return share_frame(spec.bound).pack({**arrays, **share.extras})

    def _send(self, asked: dict[str, Any], content: bytes) -> Life:
        """Send a frame until it is taken; after a lost answer by its listing alone."""
        key, listing = (self.name, asked["round"], asked["kind"]), Listing.of(content)
        first, tries = 0, 0
        while True:
            cut = len(content)
            if self.world.random.random() < self.network.loss:
                cut = self.world.random.randint(0, cut)
            told = yield from self._ask(
                lambda c, at=first, cut=cut: c.put(key, listing, content, at, cut)
            )
            if isinstance(told, Lost):
                first, tries = len(listing.chunks), tries + 1
                yield from self._pause()
            elif told["state"] == "taken":
                reach(Point.SITE_SHARE_SENT)
                return told
            else:
                first, tries = told["from"], tries + 1
            if tries > 3:  # look first whether it is still asked
                return Lost()
