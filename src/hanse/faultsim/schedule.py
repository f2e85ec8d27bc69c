"""A schedule: what goes wrong, when; what a federation makes of it; and whether that is right."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from random import Random
from typing import Any, Literal

import numpy as np

from hanse.config.specification import Specification, layout_json, read_layout, read_spec
from hanse.coordinator.blobs import Damaged
from hanse.core.frames import model_frame
from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation, Quorum, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.errors import ConfigError
from hanse.failpoints import Point, watching
from hanse.faultsim.coordinator import Coordinator
from hanse.faultsim.network import Network
from hanse.faultsim.site import SimulatedSite
from hanse.faultsim.unit import Unit
from hanse.faultsim.world import COORDINATOR, Crashed, World
from hanse.privacy import Clip
from hanse.strategies import fedavg
from hanse.train.local import evaluation_scalars, training_scalars

SITES: tuple[str, ...] = ("north", "south", "west")
FAULTY_S = 4.0
"""Faults begin within so many virtual seconds."""
LIVE_S = 400.0
"""Virtual seconds after the last fault within which the run ends, and every site knows it."""

Kind = Literal[
    "kill", "power", "crash-at", "cut", "deaf", "mute", "loss", "double", "slow-line", "slow-site",
    "full", "eio", "flip", "gone",
]  # fmt: skip
KINDS: tuple[Kind, ...] = Kind.__args__  # pyright: ignore
OF_ALL = ("loss", "double", "slow-line")
AT = tuple(Point)


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` befalls ``who`` at virtual second ``at``, for ``seconds``; ``number`` is how often a
    place is passed before the process dies there, or which sync fails.
    """

    at: float
    kind: Kind
    who: str
    seconds: float
    number: int = 1
    point: str = ""


@dataclass(frozen=True)
class Schedule:
    """All that goes wrong in one run. ``deadline_s`` None: every site is waited for."""

    seed: int
    faults: tuple[Fault, ...]
    deadline_s: float | None = None
    rounds: int = 2
    is_judged: bool = False

    @staticmethod
    def drawn(seed: int) -> "Schedule":
        """Return the schedule of a seed: up to six faults."""
        random = Random(seed)
        faults = tuple(_fault(random) for _ in range(random.randint(0, 6)))
        deadline_s, rounds = random.choice((None, None, 2.0)), random.choice((2, 2, 3))
        return Schedule(seed, faults, deadline_s, rounds, random.random() < 0.3)


def _fault(random: Random) -> Fault:
    kind = random.choices(KINDS, weights=[1 if kind == "flip" else 6 for kind in KINDS])[0]
    who = random.choice((COORDINATOR, COORDINATOR, *SITES))
    point = ""
    if kind == "crash-at":
        is_coordinators = who == COORDINATOR
        at_sites = [p for p in AT if p.startswith(("site-", "job-"))]
        point = random.choice([p for p in AT if p not in at_sites] if is_coordinators else at_sites)
    return Fault(
        round(random.uniform(0, FAULTY_S), 3),
        kind,
        who,
        round(random.expovariate(1 / 3.0), 3),
        random.randint(1, 4),
        point,
    )


class Violation(AssertionError):
    """A promise that was broken."""


@cache
def specification(deadline_s: float | None, rounds: int, is_judged: bool) -> Specification:
    """Return the run of all schedules."""
    strategy = fedavg()
    unit = Unit(SITES)
    spec = RunSpec(
        name="unit",
        task="unit:task",
        data="unit:data",
        clients=SITES,
        rounds=rounds,
        seed=5,
        strategy=strategy.settings(),
        sampler=strategy.sampler,
        local=LocalTraining(),
        pipeline=Pipeline([Weight(by="examples", cap=100), Clip(norm=8.0)]),
        layout=unit.layout,
        training=training_scalars(),
        evaluation_scalars=evaluation_scalars(()),
        evaluation=Evaluation(every=1 if is_judged else 0),
        quorum=Quorum(deadline_s=deadline_s),
        app={"unit.py": "0" * 64},
    )
    return read_spec(spec.canonical, read_layout(layout_json(spec.layout)))


class Federation:
    """One schedule under way."""

    def __init__(self, schedule: Schedule) -> None:
        """Start everything, and queue the faults."""
        self.schedule, self.world = schedule, World(schedule.seed)
        self.read = specification(schedule.deadline_s, schedule.rounds, schedule.is_judged)
        layout = self.read.spec.layout
        initial = bytes(model_frame(layout).pack({"vector": np.zeros(layout.size, np.float32)}))
        self.coordinator = Coordinator(self.world, self.read, initial)
        self.network = Network(self.world, self.coordinator)
        self.sites = {
            name: SimulatedSite(name, self.world, self.network, self.read) for name in SITES
        }
        self.armed = dict[tuple[str, str], int]()
        self.down = set[str]()
        self.damaged, self.flipped, self.seen = "", False, 0
        self.again = Counter[int]()
        self.answered = dict[tuple[str, int, str], str]()
        self.world.on_crash, self.world.watch = self._crashed, self._watch
        for name in (COORDINATOR, *SITES):
            self._start(name)
        for fault in schedule.faults:
            self.world.after(fault.at, lambda fault=fault: self._strike(fault))

    # --- faults

    def _strike(self, fault: Fault) -> None:
        who = fault.who

        def after(act: Callable[[], object]) -> None:
            self.world.after(fault.seconds, act)

        match fault.kind:
            case "kill" | "power":
                self.down.add(who)
                after(lambda: (self.down.discard(who), self._start(who)))
                raise Crashed(who, power=fault.kind == "power")
            case "crash-at":
                self.armed[who, fault.point] = fault.number
            case "cut" | "deaf" | "mute" if who != COORDINATOR:
                tables = {"deaf": self.network.deaf, "mute": self.network.mute}
                for table in tables.values() if fault.kind == "cut" else [tables[fault.kind]]:
                    table[who] += 1
                    after(partial(table.subtract, [who]))
            case "loss" | "double":
                setattr(self.network, fault.kind, 0.3)
                after(lambda: setattr(self.network, fault.kind, 0.0))
            case "slow-line":
                self.network.slow = 40.0
                after(lambda: setattr(self.network, "slow", 1.0))
            case "slow-site" if who != COORDINATOR:
                self.sites[who].slow = 10.0
                after(lambda: setattr(self.sites[who], "slow", 1.0))
            case "full":
                self._troubles(who).full = True
                after(lambda: setattr(self._troubles(who), "full", False))
            case "eio":
                self._troubles(who).failing = fault.number
            case "flip":
                self._flip()
            case "gone":
                self.coordinator.spool.on_disk.clear()
                raise Crashed(COORDINATOR)
            case _:
                pass

    def _troubles(self, who: str) -> Any:
        return (self.coordinator if who == COORDINATOR else self.sites[who].disk).troubles

    def _flip(self) -> None:
        """Change a byte of a model, or of an upload, that lies at the coordinator."""
        found = [blob.content for blob in self.coordinator.blobs.found.values()]
        for room in self.coordinator.spool.on_disk.values():
            found += [file.content for file in room.files.values() if file.is_durable]
        content = self.world.random.choice(found)
        if content:
            content[self.world.random.randrange(len(content))] ^= 1 << self.world.random.randrange(
                8
            )
            self.flipped = True

    def _start(self, who: str) -> None:
        if who in self.down or self.damaged:
            return
        try:
            (self.coordinator if who == COORDINATOR else self.sites[who]).start()
        except ConfigError as error:
            self.damaged = str(error)
        except OSError:  # its disk takes nothing yet: the supervisor tries again
            self._crashed(Crashed(who))
        except Crashed as crashed:
            self._crashed(crashed)

    def _crashed(self, crashed: Crashed) -> None:
        """End a process; its supervisor starts it again in a second."""
        process = self.coordinator if crashed.who == COORDINATOR else self.sites[crashed.who]
        process.crash(power=crashed.power)
        self.world.after(1.0, lambda: self._start(crashed.who))

    def passes(self, point: Point) -> None:
        """End the process that passes an armed place."""
        who = self.world.acting
        left = self.armed.get((who, point))
        if left is not None:
            if left > 1:
                self.armed[who, point] = left - 1
            else:
                del self.armed[who, point]
                raise Crashed(who)

    # --- what must hold

    def _watch(self) -> None:
        """Check what must hold after every step."""
        rows = self.coordinator.journal.rows
        for entry in rows[self.seen :]:
            body: Any = entry.body
            if entry.kind == "reopened":
                for site in SITES:
                    self.answered.pop((site, body["round"], "train"), None)
                self.again[body["round"]] += 1
            if entry.kind in ("reported", "refused", "failed", "scored", "unscored"):
                kind = "evaluate" if entry.kind in ("scored", "unscored") else "train"
                key = (body["site"], body["round"], kind)
                if key in self.answered:
                    raise Violation(f"{key} is in the journal twice")
                self.answered[key] = entry.hash
        self.seen = len(rows)
        for site in self.sites.values():
            if site.wrong:
                raise Violation(site.wrong)

    def _receipts_are_journalled(self) -> None:
        hashes = self.coordinator.journal.hashes
        for site in self.sites.values():
            for (round, kind, _), receipt in site.acked.items():
                if kind != "finish" and receipt["entry"] not in hashes:
                    raise Violation(f"{site.name}: the receipt of {kind}, round {round}, is lost")

    def is_over(self) -> bool:
        """Whether the run has ended, everybody knows it, and no fault is to come."""
        live = self.coordinator.live
        if self.damaged:
            return True
        if live is None or live.course.outcome is None:
            return False
        knows = all(site.has_model for site in self.sites.values())
        return knows or live.course.outcome == "failed" or self._lost() != ""

    def _lost(self) -> str:
        """Return that the model of a run that has ended is damaged, if it is."""
        live = self.coordinator.live
        if live is None or not self.flipped:
            return ""
        try:
            self.coordinator.blobs.map(live.course.model)
        except Damaged as error:
            return str(error)
        return ""

    def run(self) -> str:
        """Carry the schedule to its end; return the model's digest, or why there is none.

        Violation if a promise was broken.
        """
        ends = max([f.at + f.seconds for f in self.schedule.faults], default=0.0) + LIVE_S
        with watching(self.passes):
            if not self.world.run(self.is_over, ends):
                raise Violation(f"not over {LIVE_S:g} virtual seconds after the last fault")
        self._receipts_are_journalled()
        if self.damaged:
            if not self.flipped:
                raise Violation(f"damaged, and nothing was flipped: {self.damaged}")
            return self.damaged
        return self._lost() or self._checked()

    def _checked(self) -> str:
        live = self.coordinator.live
        assert live is not None
        if live.course.outcome != "done":
            if self.flipped and "damaged" in live.course.reason:
                return live.course.reason
            if self.schedule.deadline_s is not None and "was counted" in live.course.reason:
                return live.course.reason
            raise Violation(f"{live.course.outcome}: {live.course.reason}")
        if self.again and not (self.flipped or any(f.kind == "gone" for f in self.schedule.faults)):
            raise Violation(f"an acknowledged update was lost: {live.course.again}")
        counted = {number: row["counted"] for number, row in sorted(live.history.items())}
        for site in self.sites.values():
            for (round, kind, again), receipt in site.acked.items():
                if again < self.again[round]:
                    continue  # it was asked anew
                is_in = site.name in counted.get(round, ())
                if kind == "train" and receipt["late"] is None and not is_in:
                    raise Violation(f"{site.name}: acknowledged in round {round}, and not counted")
        vector = model_frame(self.read.spec.layout).unpack(
            self.coordinator.blobs.map(live.course.model)
        )["vector"]
        self._check_places(vector, counted)
        if left := self.coordinator.spool.rooms():
            raise Violation(f"uploads are left: {left}")
        found = self.read.spec.layout.digest(vector)
        if self.schedule.deadline_s is None and self.schedule.faults:
            calm = digest_of(replace(self.schedule, seed=0, faults=()))
            if found != calm:
                raise Violation(f"the model is {found[:16]}, and {calm[:16]} without the faults")
        return found

    def _check_places(self, vector: Any, counted: dict[int, list[str]]) -> None:
        """Compare the model with what the counted updates add up to."""
        mine, known = Unit(SITES).places(vector)
        before = dict.fromkeys(SITES, 0)
        for round in range(1, self.schedule.rounds + 1):
            sites = counted.get(round, [])
            for place, name in enumerate(SITES):
                share = (name in sites) / len(sites) if sites else 0.0
                if abs(mine[place, round - 1] - share) > 1e-6:
                    said = f"{mine[place, round - 1]:g} in the model, {share:g} were counted"
                    raise Violation(f"{name}, round {round}: {said}")
            mean = sum(before[name] for name in sites) / len(sites) if sites else 0.0
            if abs(known[round - 1] - mean) > 1e-5:
                said = f"{known[round - 1]:g} and not {mean:g}"
                raise Violation(f"round {round}: what the sites remember is {said}")
            for name in sites:
                before[name] += 1


@cache
def digest_of(schedule: Schedule) -> str:
    """Return the digest of the model of a schedule."""
    return Federation(schedule).run()


def shrunk(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """Return a schedule with fewer faults that still fails."""
    faults = schedule.faults
    for fault in faults:
        less = tuple(one for one in faults if one is not fault)
        smaller = replace(schedule, faults=less)
        with suppress(RecursionError):
            if fails(smaller):
                faults = less
    return replace(schedule, faults=faults)
