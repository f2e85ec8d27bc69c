"""What carries a run on: a thread that does what is due by :mod:`hanse.core.course`.

It adds shares to the running sum as they are counted, closes rounds, and judges models. It waits
for each of its own events to be durable before anybody sees what follows from it: a model is
released once.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hanse.coordinator.blobs import Damaged
from hanse.coordinator.history import JournalBroken
from hanse.coordinator.journal import fail_stop
from hanse.coordinator.live import LiveRun
from hanse.coordinator.total import Memory, absorb, fold
from hanse.core import course, events, rounds, seeds
from hanse.core.canonical import Json
from hanse.core.frames import share_frame
from hanse.core.reduce import Accumulator
from hanse.core.seeds import Draw
from hanse.core.step import Integers
from hanse.failpoints import Point, reach
from hanse.sim.evaluation import tallied
from hanse.sim.rounds import row_of

FIRST_LOOK_S, LAST_LOOK_S, HELD_S = 30.0, 3600.0, 0.5


class ShareLost(Exception):
    """A share that was counted cannot be summed: the disk lost it, or a backup had it not."""


@dataclass(frozen=True, slots=True)
class Look:
    """When the model was looked at last, and how long until it is again."""

    model: str
    at: float
    pause_s: float


class Driver:
    """The thread of one run, and the sum that it has under way."""

    def __init__(
        self,
        run: LiveRun,
        may_go_on: Callable[[], bool] = lambda: True,
        draw: Draw = seeds.stream,
    ) -> None:
        """Destroy what an earlier process had summed already; nothing runs yet.

        While ``may_go_on`` says no, the run waits as it is. ``draw``: where noise comes from; of
        noise that nobody can draw again, what was drawn last before the event of its round counts,
        and nothing else was ever readable.
        """
        self.run, self.stopping, self._may_go_on, self._draw = run, False, may_go_on, draw
        self.look = Look("", 0.0, FIRST_LOOK_S)
        self.summed: Accumulator | None = None
        self.folded: set[str] = set()
        self.thread = threading.Thread(target=self._work, name=f"hanse-{run.id}", daemon=True)
        self._forget_old_rooms()

    def start(self) -> None:
        """Let the thread begin: the run leaves the queue."""
        self.run.is_started = True
        self.thread.start()

    def close(self) -> None:
        """End the run's thread; the run itself goes on at the next start."""
        self.stopping = True
        with self.run.news:
            self.run.news.notify_all()
        if self.thread.is_alive():
            self.thread.join()

    def _work(self) -> None:
        """Carry the run on; end the process if the disk fails."""
        try:
            while not self.stopping and self.run.course.outcome is None:
                seen = self.run.course
                if not self._may_go_on():
                    self._wait(seen, HELD_S)
                elif not self.turn(seen):
                    self._wait(seen, self.wakes(seen) - self.run.clock.now())
        except JournalBroken as error:  # its writer ends the process, perhaps while this is told
            os.write(2, f"Error: [journal] {error}\n".encode())
        except OSError as error:
            fail_stop(error)

    def turn(self, at: course.Course) -> bool:
        """Do what is due in ``at``, the course as it is; False if that is to wait.

        What is damaged, or unforeseen, ends the run with the reason. OSError if the disk fails:
        then what is in memory may be ahead of what is on disk, and the process must end.
        """
        try:
            return self._do(course.due(at), at)
        except ShareLost as lost:
            self._reopen(str(lost))
        except Damaged as error:
            self._record(events.Concluded("failed", str(error), self.run.clock.now()))
        except OSError:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}: this is a bug in Hanse"
            self._record(events.Concluded("failed", said, self.run.clock.now()))
        return True

    def _do(self, action: course.Action, at: course.Course) -> bool:
        match action:
            case course.Open(number):
                announced = self.run.read.spec.bound.announce(self._memory().states)
                self._record(events.Opened(number, announced, self.run.clock.now()))
            case course.Absorb():
                self._absorb(action)
            case course.Judge(scoring):
                self._judge(scoring)
            case course.Conclude():
                self._record(self._concluded())
            case course.Wait(until):
                self._fold(at)
                self._look(at)
                if until is None or until > self.run.clock.now():
                    return False
                self._record(events.Ticked(self.run.clock.now()))
        return True

    def _look(self, at: course.Course) -> None:
        """Verify, now and then, the model that is waited for: sites cannot train on a damaged one.

        They would try for ever, since what they are sent is not verified here; Damaged ends that.
        """
        now, last = self.run.clock.now(), self.look
        if at.model != last.model:
            self.look = Look(at.model, now, FIRST_LOOK_S)
        elif now >= last.at + last.pause_s:
            self.run.blobs.map(at.model)
            self.look = Look(at.model, now, min(2 * last.pause_s, LAST_LOOK_S))

    def wakes(self, seen: course.Course) -> float:
        """Return at which second of the run's clock there is something to do, if nothing comes."""
        action, looks = course.due(seen), self.look.at + self.look.pause_s
        until = action.until if isinstance(action, course.Wait) else None
        return looks if until is None else min(until, looks)

    def _concluded(self) -> events.Event:
        """Return the end of a run whose rounds are over: one that trained nothing has failed."""
        rows, now = [*self.run.history.values()], self.run.clock.now()
        if rows and all(row["aborted"] for row in rows):
            said = f"none of {len(rows)} rounds was counted; the last: {rows[-1]['aborted']}"
            return events.Concluded("failed", said, now)
        return events.Concluded("done", "", now)

    def _record(self, event: events.Event) -> None:
        """Record what the driver itself finds, unless the run was stopped meanwhile."""
        with self.run.lock:
            if self.run.course.outcome is None:
                self.run.record(event)

    def _wait(self, seen: course.Course, seconds: float) -> None:
        """Wait until the run is no more as ``seen``, for so many seconds at most."""
        with self.run.news:
            self.run.news.wait_for(lambda: self.stopping or self.run.course is not seen, seconds)

    def _fold(self, at: course.Course) -> None:
        """Add the counted shares that are not in the running sum yet."""
        if not isinstance(at.opened, rounds.Open | rounds.Done):
            return
        frame, room = share_frame(self.run.read.spec.bound), self.run.room(at.round + 1, "train")
        for site in at.opened.counted:
            if site not in self.folded:
                try:
                    upload = room.found(site)
                    if upload.listing.id != at.blobs[site]:
                        raise ShareLost(f"the update of {site} is not the one that was counted")
                    fold(upload, frame, self.run.read.spec.bound, self._sum())
                except FileNotFoundError as error:
                    raise ShareLost(f"the update of {site} is no more there") from error
                except Damaged as error:
                    raise ShareLost(f"the update of {site}: {error}") from error
                self.folded.add(site)
                reach(Point.SHARE_FOLDED)

    def _reopen(self, reason: str) -> None:
        """Ask for the open round's updates once more: one of them cannot be summed.

        The sites have what they sent, or compute it again, to the same bits.
        """
        number = self.run.course.round + 1
        self.summed, self.folded = None, set[str]()
        self.run.spool.destroy(self.run.id, 2 * number)
        self._record(events.Reopened(number, reason, self.run.clock.now()))
        reach(Point.ROUND_REOPENED)

    def _sum(self) -> Accumulator:
        """Return the running sum of this round, made when it is first needed."""
        if self.summed is None:
            self.summed = self.run.read.spec.bound.accumulator()
        return self.summed

    def _memory(self) -> Memory:
        if self.run.course.memory:
            return Memory.load(self.run.blobs, self.run.course.memory)
        span = self.run.read.spec.layout.span("trainable")
        return Memory(dict(self.run.read.strategy.server.start(span.stop - span.start)), {})  # pyright: ignore

    def _absorb(self, action: course.Absorb) -> None:
        spec, state, memory = self.run.read.spec, action.state, self._memory()
        self._fold(self.run.course)
        model, mark = self.run.course.model, self.run.course.memory
        total = None
        if isinstance(state, rounds.Done) and (state.counted or spec.bound.facts.is_private):
            old = self.run.blobs.map(self.run.course.model)
            model, total = absorb(
                self.run.read, action.round, self._sum(), old, memory, self.run.blobs, self._draw
            )
            reach(Point.MODEL_MOVED)
            mark = memory.store(self.run.blobs)
            reach(Point.MEMORY_STORED)
        row = row_of(state, total, spec)
        previous = self.run.course.model, self.run.course.memory
        self._record(events.Absorbed(action.round, model, mark, row, self.run.clock.now()))
        reach(Point.ROUND_ABSORBED)
        self.summed, self.folded = None, set[str]()
        self._forget_old_rooms()
        reach(Point.ROOMS_FORGOTTEN)
        self._delete(*(blob for blob in previous if blob not in (model, mark)))

    def _judge(self, scoring: course.Scoring) -> None:
        unpack = self.run.read.spec.tally.unpack
        counts: dict[str, Mapping[str, int | Integers]] = {
            site: unpack(np.array(scoring.scores[site], dtype=np.int64))
            for site in sorted(scoring.scores)
        }
        found = tallied(counts, self.run.read.spec, self.run.read.metrics)
        row: dict[str, Json] = {"evaluation": found, "unscored": dict(scoring.lacking)}
        self._record(events.Judged(scoring.round, row, self.run.clock.now()))
        reach(Point.ROUND_JUDGED)
        self._forget_old_rooms()

    def _delete(self, *blobs: str) -> None:
        """Forget models that nobody needs any more."""
        for blob in blobs:
            if blob and blob not in self.run.needed:
                self.run.blobs.delete(blob)

    def _forget_old_rooms(self) -> None:
        """Destroy the keys, and with them the uploads, of all that is summed."""
        open_rooms = {2 * (self.run.course.round + 1)}
        if self.run.course.scoring is not None:
            open_rooms.add(2 * self.run.course.scoring.round + 1)
        for run, number in self.run.spool.rooms():
            if run == self.run.id and (
                number not in open_rooms or self.run.course.outcome is not None
            ):
                self.run.spool.destroy(run, number)
