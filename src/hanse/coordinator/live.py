"""A run under way at the coordinator: its course, as the journal has it, and the answers of sites.

Answers of sites come from many threads; each becomes an event, which counts at once and is
receipted once it is durable. The journal keeps the order in which events are queued, so what
follows from an event is never durable without it. What the coordinator itself finds counts once it
is durable.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hanse.config.specification import Specification
from hanse.coordinator.blobs import BlobStore
from hanse.coordinator.journal import Journal
from hanse.coordinator.receiving import Receiving
from hanse.coordinator.schema import Entry
from hanse.coordinator.spool import Room, Spool
from hanse.core import course, events, rounds
from hanse.core.canonical import Json, digest
from hanse.core.frames import share_frame
from hanse.core.intake import Inspection
from hanse.core.listing import Listing
from hanse.core.pipeline import BoundPipeline
from hanse.errors import ProtocolError
from hanse.failpoints import Point, reach
from hanse.net.problems import Conflict

Key = tuple[str, int, str]
"""(site, round, kind): what names one answer of a run."""


@dataclass
class Clock:
    """The run's time: seconds that go on from the last journalled event, and never step back."""

    base: float
    began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Return the seconds."""
        return self.base + (time.monotonic() - self.began)


@dataclass
class Queued:
    """An event that counts already, and is not durable yet: nobody is told of it."""

    event: events.Event
    future: "Future[list[Entry]]"
    again: int = 0
    why_late: str | None = None

    @property
    def key(self) -> Key | None:
        """Which answer it is the taking of."""
        return _key_of(self.event)


class LiveRun:
    """One run: its course, its receipts, and what is arriving for it."""

    def __init__(
        self,
        id: str,
        read: Specification,
        model: str,
        journal: Journal,
        blobs: BlobStore,
        spool: Spool,
        changed: Callable[[str, str | None], None],
    ) -> None:
        """Fold what the journal has of the run. ``changed(run, site)`` is told of each event.

        ``site`` is who is asked something new by it: None for several, the empty text for nobody.
        """
        self.id, self.read, self.stream = id, read, f"run/{id}"
        self.journal, self.blobs, self.spool, self.changed = journal, blobs, spool, changed
        self.course = course.begin(read.spec, model)
        self.receipts = dict[Key, dict[str, Json]]()
        self.queued = dict[Key, Queued]()
        self.history = dict[int, dict[str, Any]]()
        self.lock, self.news = threading.RLock(), threading.Condition()
        self.receiving = dict[Key, Receiving]()
        self.news_number, self.reopened = 1, 0
        self.best: tuple[int, str, float, str] | None = None
        for entry in journal.read(self.stream):
            if entry.kind in events.KINDS:
                event = events.from_json(entry.kind, entry.body)  # pyright: ignore
                self._keep(event)
                self._receipted(event, self._why_late(event), entry)
        self.clock = Clock(self.course.now)
        self.is_started = False

    # --- events

    def record(self, event: events.Event) -> None:
        """Journal what is no site's answer, and let it count. ProtocolError if it must not.

        Nobody sees what follows, a new model above all, before the event is durable.
        """
        with self.lock:
            course.step(self.course, event)
            self.journal.append_now(self.stream, [events.to_json(event)])
            self._keep(event)
        self._tell(event)

    def _queue(self, event: events.Event) -> "Queued":
        with self.lock:
            course.step(self.course, event)
            future = self.journal.append(self.stream, [events.to_json(event)])
            queued = Queued(event, future, self.reopened)
            self._keep(event)
            queued.why_late = self._why_late(event)
            if queued.key is not None:
                self.queued[queued.key] = queued
            reach(Point.ANSWER_QUEUED)
            return queued

    def _durable(self, queued: "Queued") -> dict[str, Json]:
        """Wait until an event is durable; return its receipt."""
        entry = queued.future.result()[0]
        reach(Point.ANSWER_DURABLE)
        with self.lock:
            stands = queued.again == self.reopened
            receipt = self._receipted(queued.event, queued.why_late, entry, stands=stands)
            if queued.key is not None:
                self.queued.pop(queued.key, None)
        self._tell(queued.event)
        return receipt

    def _tell(self, event: events.Event) -> None:
        """Wake those whom a durable event concerns."""
        self.changed(self.id, self._who_hears(event))
        with self.news:
            self.news_number += 1
            self.news.notify_all()

    def _who_hears(self, event: events.Event) -> str | None:
        """Return whom to wake: nobody if the driver goes on at once, since its event tells more.

        Who answered knows that it did; it is asked no more, or, who declined, again.
        """
        now = self.course
        if now.outcome is None and not isinstance(course.due(now), course.Wait):
            return ""
        if isinstance(event, events.Declined):
            return event.site
        return None if _key_of(event) is None else ""

    def _keep(self, event: events.Event) -> None:
        self.course = course.step(self.course, event)
        match event:
            case events.Absorbed(number, _, _, row) | events.Judged(number, row):
                self.history[number] = {**self.history.get(number, {}), **row}
                if isinstance(event, events.Judged):
                    self._keep_best(number, row)
            case events.Reopened(number):
                self._forget(number)
            case _:
                pass

    def _forget(self, number: int) -> None:
        """Forget the updates of a round that begins again: who is asked anew may answer anew."""
        self.reopened += 1
        for table in (self.receipts, self.queued, self.receiving):
            for key in [key for key in table if key[1:] == (number, "train")]:
                del table[key]

    def _receipted(
        self, event: events.Event, why_late: str | None, entry: Entry, *, stands: bool = True
    ) -> dict[str, Json]:
        """Return an answer's receipt; keep it, unless the answer was forgotten meanwhile."""
        key = _key_of(event)
        if key is None:
            return {}
        receipt: dict[str, Json] = {
            "run": self.id,
            "site": key[0],
            "round": key[1],
            "kind": key[2],
            "digest": getattr(event, "digest", ""),
            "entry": entry.hash,
            "seq": entry.seq,
            "late": why_late,
        }
        if stands:
            self.receipts[key] = receipt
        return receipt

    def _why_late(self, event: events.Event) -> str | None:
        """Return why an answer that was taken does not count, if it came too late."""
        if isinstance(event, events.Late):
            return event.reason
        if isinstance(event, events.Reported) and isinstance(self.course.opened, rounds.Final):
            return self.course.opened.discarded.get(event.site)
        return None

    def _keep_best(self, number: int, row: Mapping[str, Any]) -> None:
        """Note the best model so far; a choice by a metric is a release, so not under noise."""
        found: Any = row.get("evaluation") or {"pooled": {}}
        pooled: dict[str, Any] = found["pooled"]
        if self.read.spec.bound.facts.keeps_counts:
            return
        up = {metric.name: metric.higher_is_better for metric in self.read.metrics}
        name = self.read.spec.evaluation.best or next(iter(up), "loss")
        value = pooled.get(name)
        if value is None:
            return
        better = self.best is None or (
            value > self.best[2] if up.get(name, False) else value < self.best[2]
        )
        if better:
            self.best = (number, name, value, self.course.model)

    @property
    def needed(self) -> set[str]:
        """The ids of the blobs that the run cannot go on without, or has promised to somebody."""
        return self.readable | {self.course.memory}

    @property
    def readable(self) -> set[str]:
        """The ids of the models that who takes part in the run may read now."""
        return {self.course.model} | ({self.best[3]} if self.best else set[str]())

    # --- answers of sites

    def assignments(self, site: str) -> list[dict[str, Json]]:
        """Return what a site is asked now, as it travels."""
        return [asked.json(self.id) for asked in course.assignments(self.course, site)]

    def answer(self, key: Key, body: Mapping[str, Json]) -> dict[str, Json]:
        """Take an answer without a blob; return what docs/protocol.md §6 says."""
        mark = self._mark(key, body, None)
        with self.lock:
            known = self._known(key) or self._too_late(key, mark)
            if known is None:
                self._check_asked(key)
                known = self._queue(self._event(*key, mark, body))
        return self._told(key, known, mark)

    def receive(self, key: Key, listing: Listing) -> Receiving | dict[str, Json]:
        """Return where the blob of an answer goes; or what the site is told, if it goes nowhere."""
        mark = self._mark(key, {}, listing.id)
        with self.lock:
            known = self._known(key) or self._too_late(key, mark)
            if known is None:
                self._check_asked(key)
                found = self.receiving.get(key)
                if found is None or found.upload.listing.id != listing.id:
                    upload = self.room(key[1], key[2]).upload(key[0], listing)
                    found = Receiving(mark, upload, Inspection(self._bound(key[2])))
                    self.receiving[key] = found
                return found
        return self._told(key, known, mark)

    def _mark(self, key: Key, body: Mapping[str, Json], blob: str | None) -> str:
        """Return the digest of an answer."""
        _, round, kind = key
        return digest({"run": self.id, "round": round, "kind": kind, "body": body, "blob": blob})

    def _check_asked(self, key: Key) -> None:
        site, round, kind = key
        asked = course.assignments(self.course, site)
        if not any((one.kind, one.round) == (kind, round) for one in asked):
            raise ProtocolError(f"{site}: {kind} of round {round} was not asked")

    def _told(self, key: Key, known: "dict[str, Json] | Queued", mark: str) -> dict[str, Json]:
        """Return what is told of an answer that is there; Conflict if that is another one."""
        receipt = self._settled(known)
        if receipt["digest"] != mark:
            raise Conflict(f"{key[0]}: another {key[2]} of round {key[1]} is there already")
        return _taken(receipt)

    def _known(self, key: Key) -> "dict[str, Json] | Queued | None":
        """Return the receipt of an answer, or what will be it; the caller holds the lock."""
        return self.receipts.get(key) or self.queued.get(key)

    def _settled(self, known: "dict[str, Json] | Queued") -> dict[str, Json]:
        """Return the receipt; the caller does not hold the lock, so that others go on."""
        return self._durable(known) if isinstance(known, Queued) else known

    def _too_late(self, key: Key, mark: str) -> "Queued | None":
        late = course.is_late(self.course, key[2], key[1])
        return self._queue(self._late(key, mark)) if late else None

    def _late(self, key: Key, mark: str) -> events.Event:
        site, round, kind = key
        reason = f"late: round {round} has ended"
        return events.Late(site, round, kind, mark, reason, self.clock.now())

    def size_of(self, kind: str) -> int:
        """Return the bytes of the blob that answers ``kind``; ProtocolError if none does."""
        return share_frame(self._bound(kind)).size

    def _bound(self, kind: str) -> BoundPipeline:
        if kind not in ("train", "evaluate"):
            raise ProtocolError(f"{kind} is not answered by a blob")
        return self.read.spec.bound if kind == "train" else self.read.spec.tally

    def room(self, round: int, kind: str) -> Room:
        """Return the room of what arrives in a round: updates and counts are kept apart."""
        return self.spool.room(self.id, 2 * round + (kind == "evaluate"))

    def progress(self, key: Key, receiving: Receiving) -> dict[str, Json]:
        """Return what is missing of an answer; take it when nothing is."""
        with receiving.lock:
            if not receiving.upload.is_complete:
                return {"state": "missing", "from": receiving.upload.next}
            if self._known(key) is None:
                receiving.upload.finish()
        with self.lock:
            known = self._known(key)
            if known is None and self.receiving.get(key) is not receiving:
                raise ProtocolError(f"{key[0]}: another answer came meanwhile")
            if known is None:
                self.receiving.pop(key)
                is_late = course.is_late(self.course, key[2], key[1])
                mark = receiving.digest
                event = self._late(key, mark) if is_late else self._arrived(key, receiving)
                known = self._queue(event)
        return self._told(key, known, receiving.digest)

    def _arrived(self, key: Key, receiving: Receiving) -> events.Event:
        site, round, kind = key
        now, fault = self.clock.now(), receiving.inspection.verdict()
        if kind == "evaluate":
            if fault is not None:
                return events.Unscored(site, round, receiving.digest, fault, now)
            counts = self._counts(site, round, kind)
            return events.Scored(site, round, receiving.digest, counts, now)
        if fault is not None:
            return events.Refused(site, round, receiving.digest, fault, now)
        blob = receiving.upload.listing.id
        return events.Reported(site, round, receiving.digest, blob, now)

    def _counts(self, site: str, round: int, kind: str) -> tuple[int, ...]:
        content = self.room(round, kind).found(site).read()
        return tuple(share_frame(self.read.spec.tally).unpack(content)["scalars"].tolist())

    def _event(
        self, site: str, round: int, kind: str, mark: str, body: Mapping[str, Json]
    ) -> events.Event:
        now = self.clock.now()
        match kind, body:
            case "prepare", {"accepted": True, "fingerprint": str(seal), **rest} if not rest:
                return events.Prepared(site, round, mark, seal, now)
            case "prepare", {"accepted": False, "reasons": [*told], **rest} if not rest:
                reasons = tuple(_line(reason) for reason in told)
                return events.Declined(site, round, mark, reasons, now)
            case "finish", {**rest} if not rest:
                return events.Acknowledged(site, round, mark, now)
            case "train", {"refused": str(reason), **rest} if not rest:
                return events.Refused(site, round, mark, _line(reason), now)
            case "train", {"failed": str(reason), **rest} if not rest:
                return events.Failed(site, round, mark, _line(reason), now)
            case "evaluate", {"refused": str(reason), **rest} if not rest:
                return events.Unscored(site, round, mark, _line(reason), now)
            case "evaluate", {"failed": str(reason), **rest} if not rest:
                return events.Unscored(site, round, mark, _line(reason), now)
            case _:
                raise ProtocolError(f"{site}: an answer to {kind} that is none")

    def stop(self, by: str) -> None:
        """End the run, on somebody's word; one that has ended stays as it is."""
        with self.lock:
            if self.course.outcome is None:
                self.record(events.Concluded("stopped", f"stopped by {by}", self.clock.now()))


def _taken(receipt: dict[str, Json]) -> dict[str, Json]:
    return {"state": "taken", "receipt": receipt}


def _key_of(event: events.Event) -> Key | None:
    """Return which answer an event is the taking of."""
    match event:
        case events.Prepared(site, number) | events.Declined(site, number):
            return site, number, "prepare"
        case events.Reported(site, number) | events.Refused(site, number):
            return site, number, "train"
        case events.Failed(site, number):
            return site, number, "train"
        case events.Scored(site, number) | events.Unscored(site, number):
            return site, number, "evaluate"
        case events.Acknowledged(site, number):
            return site, number, "finish"
        case events.Late(site, number, kind):
            return site, number, kind
        case _:
            return None


def _line(reason: object) -> str:
    """Return what a site says as one short line of printable text."""
    text = " ".join(str(reason).split())[:500]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
