"""All runs of a coordinator: submissions on their way in, a queue, and those that are under way."""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from hanse.config.specification import Specification, read_layout, read_spec
from hanse.coordinator.blobs import BlobStore, BlobWriter, make_folder
from hanse.coordinator.driver import Driver
from hanse.coordinator.journal import Journal
from hanse.coordinator.live import LiveRun
from hanse.coordinator.reserve import Reserve
from hanse.coordinator.spool import Spool
from hanse.core import seeds
from hanse.core.canonical import Json, encode
from hanse.core.frames import Frame, model_frame
from hanse.core.listing import CHUNK, Listing
from hanse.errors import ConfigError, ProtocolError
from hanse.failpoints import Point, reach
from hanse.names import nearest
from hanse.net.problems import Missing, TooLarge
from hanse.privacy import secret

MOST_DRAFTS = 16
MOST_MODEL = 2**36


@dataclass
class Draft:
    """A submission whose initial model, the blob ``model``, is arriving: chunk ``next`` of it."""

    by: str
    document: str
    read: Specification
    model: str
    writer: BlobWriter
    next: int = 0
    chunk: bytearray = field(default_factory=bytearray)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def frame(self) -> Frame:
        """What the model must be."""
        return model_frame(self.read.spec.layout)

    def begin(self) -> None:
        """Forget what came of chunk ``next``: it comes again."""
        with self.lock:
            self.chunk.clear()

    def take(self, listing: Listing, piece: bytes | bytearray | memoryview) -> None:
        """Keep the next bytes of the model; ProtocolError for a chunk that is not the listing's."""
        with self.lock:
            if self.next == len(listing.chunks):
                raise ProtocolError("the initial model is there already")
            self.chunk += piece
            if len(self.chunk) >= listing.length(self.next):
                chunk, self.chunk = self.chunk, bytearray()
                self._check(listing, chunk)
                self.writer.write(chunk)
                self.next += 1

    def _check(self, listing: Listing, chunk: bytearray) -> None:
        if hashlib.sha256(chunk).digest() != listing.chunks[self.next]:
            raise ProtocolError(f"chunk {self.next} of the initial model is not the listing's")
        header = b"" if self.next else self.frame.header
        if bytes(chunk[: len(header)]) != header[: len(chunk)]:
            raise ProtocolError("the initial model is not the frame of the spec's layout")


class Record:
    """A submitted run: who submitted it, its spec's document, the run, and what carries it on.

    A run that is *over*, which has ended as all of its sites know, is only read any more: its
    events are folded when somebody asks for it, not at each start of the coordinator.
    """

    def __init__(
        self, by: str, document: str, take_up: Callable[[], tuple[LiveRun, Driver]], over: str = ""
    ) -> None:
        """``take_up`` folds the run; ``over``: the outcome of one that is over."""
        self.by, self.document, self.over = by, document, over
        self._take_up, self._lock = take_up, threading.Lock()
        self._taken: tuple[LiveRun, Driver] | None = None if over else take_up()

    @property
    def is_taken_up(self) -> bool:
        """Whether its events are in memory."""
        return self._taken is not None

    @property
    def outcome(self) -> str | None:
        """How it ended; None while it is under way."""
        return self.over or self.live.course.outcome

    @property
    def live(self) -> LiveRun:
        """The run; errors as of :func:`specification_of`."""
        return self._both[0]

    @property
    def driver(self) -> Driver:
        """What carries it on."""
        return self._both[1]

    @property
    def _both(self) -> tuple[LiveRun, Driver]:
        with self._lock:
            if self._taken is None:
                self._taken = self._take_up()
            return self._taken


class Runs:
    """The runs, by id, in the order of their submission."""

    def __init__(
        self,
        journal: Journal,
        blobs: Path,
        spool: Spool,
        reserve: Reserve,
        changed: Callable[[str | None], None],
        *,
        parallel: int,
        simulated: bool,
    ) -> None:
        """Take up every run of the journal where it stopped; remove what belongs to none.

        ``blobs`` is the folder of the stores, one for each run: two that come to the same model
        have it twice, and neither can delete it from under the other. Runs wait as long as
        ``reserve`` is not held.
        """
        self.journal, self.spool, self._stores = journal, spool, blobs
        self.reserve = reserve
        self.parallel, self.simulated = parallel, simulated
        self._changed, self._lock = changed, threading.RLock()
        self._drafts = dict[str, Draft]()
        self.records = dict[str, Record]()
        over = self._over()
        for entry in journal.of_kind("submitted"):
            body: Any = entry.body
            self._take_up(entry.stream.removeprefix("run/"), body, over.get(entry.stream, ""))
        make_folder(blobs)
        for left in blobs.iterdir():
            if left.name not in self.records:
                shutil.rmtree(left)
        self._advance()

    def _over(self) -> dict[str, str]:
        """Return stream → outcome of each run that nobody waits for.

        It has ended, all sites that were ready for it know, and nothing of it is in the spool.
        """
        counts, spooled = self.journal.kinds_by_stream(), {run for run, _ in self.spool.rooms()}
        found = dict[str, str]()
        for entry in self.journal.of_kind("concluded"):
            kinds, body = counts[entry.stream], cast(Mapping[str, Any], entry.body)
            all_know = kinds.get("acknowledged", 0) >= kinds.get("prepared", 0)
            if all_know and entry.stream.removeprefix("run/") not in spooled:
                found[entry.stream] = str(body["outcome"])
        return found

    def _take_up(self, id: str, body: Mapping[str, Any], over: str = "") -> None:
        def take_up() -> tuple[LiveRun, Driver]:
            blobs = self._store(id)
            read = specification_of(blobs, body["document"])
            live = LiveRun(
                id, read, body["model"], self.journal, blobs, self.spool, self._on_change
            )
            blobs.sweep({body["document"], *live.needed})
            draw = seeds.stream if self.simulated else secret.fresh
            return live, Driver(live, lambda: self.reserve.is_held, draw)

        self.records[id] = Record(body["by"], body["document"], take_up, over)

    def _store(self, id: str) -> BlobStore:
        """Open the blobs of a run."""
        return BlobStore(self._stores / id)

    def _on_change(self, run: str, site: str | None) -> None:
        if self.records[run].outcome is not None:
            self._advance()
        self._changed(site)

    def _advance(self) -> None:
        """Start runs that wait, while there is room."""
        with self._lock:
            records = [r for r in self.records.values() if r.outcome is None]
            under_way = sum(record.live.is_started for record in records)
            for record in records:
                if not record.live.is_started and under_way < self.parallel:
                    record.driver.start()
                    under_way += 1

    def of(self, id: str) -> Record:
        """Return a run; Missing if there is none."""
        if id not in self.records:
            raise Missing(f"there is no run {id[:120]}")
        return self.records[id]

    def assignments(self, site: str) -> list[dict[str, Json]]:
        """Return what a site is asked now by all runs: nothing while the disk is full."""
        if not self.reserve.is_held:
            return []
        lives = [record.live for record in [*self.records.values()] if not record.over]
        asked = [
            one
            for live in lives
            if site in live.course.members and (live.is_started or live.course.outcome)
            for one in live.assignments(site)
        ]
        return sorted(asked, key=lambda one: (str(one["run"]), str(one["kind"])))

    def draft(
        self,
        by: str,
        spec: str,
        layout: Mapping[str, Any],
        model: str,
        roster: Sequence[Mapping[str, str]],
    ) -> str:
        """Take a submission whose model, the blob ``model``, is still to come; return the run's id.

        ``roster`` is pinned to the run: who joins later takes part from the next one. ConfigError,
        PipelineError or ProtocolError for a run that cannot be deployed here.
        """
        read = read_spec(spec, read_layout(dict(layout)))
        check_deployable(read, {site["name"] for site in roster}, simulated=self.simulated)
        size = model_frame(read.spec.layout).size
        if size > MOST_MODEL:
            raise TooLarge(f"an initial model of {size} bytes, and {MOST_MODEL} are the most")
        told: dict[str, Json] = {"layout": layout, "spec": spec, "simulated": self.simulated}
        document = encode({**told, "roster": roster})
        with self._lock:
            if len(self._drafts) >= MOST_DRAFTS:
                self._drafts.pop(next(iter(self._drafts))).writer.abandon()
            id = self._fresh(read.spec.name)
            self._drafts[id] = Draft(by, document, read, model, self._store(id).writer())
            return id

    def _fresh(self, name: str) -> str:
        number = 1
        while f"{name}-{number}" in self.records or f"{name}-{number}" in self._drafts:
            number += 1
        return f"{name}-{number}"

    def drafted(self, id: str, by: str) -> Draft:
        """Return a submission under way; Missing if there is none of this person's."""
        draft = self._drafts.get(id)
        if draft is None or draft.by != by:
            raise Missing(f"there is no submission {id[:120]}")
        return draft

    def submitted(self, id: str, draft: Draft) -> bool:
        """Let a submission become a run, if its model is whole; whether it is."""
        with draft.lock:
            if draft.next * CHUNK < draft.frame.size:
                return False
            if id in self._drafts:
                model = draft.writer.commit().id
                document = self._store(id).put(draft.document.encode()).id
                body: dict[str, Json] = {"by": draft.by, "document": document, "model": model}
                reach(Point.RUN_STORED)
                self.journal.append_now(f"run/{id}", [("submitted", body)])
                reach(Point.RUN_JOURNALLED)
                with self._lock:
                    self._drafts.pop(id)
                    self._take_up(id, body)
                    self._advance()
                self._changed(None)
        return True

    def close(self) -> None:
        """End all threads; runs go on at the next start."""
        for record in self.records.values():
            if record.is_taken_up:
                record.driver.close()

    def with_blob(self, id: str) -> list[Record]:
        """Return the runs of which blob ``id`` may be read: those in memory, and of those that are
        over the ones that have its file.
        """
        return [
            record
            for run, record in [*self.records.items()]
            if record.is_taken_up or BlobStore(self._stores / run, read_only=True).has(id)
        ]


def specification_of(blobs: BlobStore, document: str) -> Specification:
    """Return the spec in a run's document; errors as of ``BlobStore.map``."""
    told = json.loads(bytes(blobs.map(document)))
    return read_spec(told["spec"], read_layout(told["layout"]))


def check_deployable(read: Specification, sites: Collection[str], *, simulated: bool) -> None:
    """Raise ConfigError for a run that can only be simulated, or has sites that are not here."""
    spec = read.spec
    missing = [site for site in sorted(spec.clients) if site not in sites]
    if missing:
        said = ", ".join(missing) + (" are no sites" if missing[1:] else " is not a site")
        raise ConfigError(
            f"{said} of this coordinator{nearest(missing[0], sites)}",
            hint="hanse coordinator sites lists those that have joined and are not revoked; "
            "hanse coordinator invite SITE lets another one join",
        )
    if spec.faults or spec.population:
        raise ConfigError(
            "faults and populations are for simulations", hint="leave [faults], [population] out"
        )
    if not spec.app:
        raise ConfigError("the run has no app folder", hint="submit a run file")
    if simulated:
        return
    if spec.evaluation.release == "simulation" and spec.evaluation.every:
        raise ConfigError(
            'release = "simulation" measures beside the protocol, which no real site does',
            hint='set [evaluation] release = "none"',
        )
