"""Named places in the production code where a test lets the process die, or a write fail.

    HANSE_FAILPOINT="journal-committed:3:kill" hanse coordinator start

The third time that ``journal-committed`` is reached, the process ends as if by ``kill -9``. Each
place stands before or after an effect that a crash must not lose or double. Not armed, a place
costs one look at an empty table. ``Point`` is all of them: ``tests/crash`` lets a process die at
every one, and finds the same model afterwards.
"""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from enum import StrEnum

from hanse.errors import ConfigError

VARIABLE = "HANSE_FAILPOINT"
DELAY_S = 0.2


class Point(StrEnum):
    """A place; its name says what has just happened, or is about to."""

    JOURNAL_WRITING = "journal-writing"
    JOURNAL_COMMITTING = "journal-committing"
    JOURNAL_COMMITTED = "journal-committed"
    BLOB_SYNCED = "blob-synced"
    BLOB_LISTED = "blob-listed"
    BLOB_NAMED = "blob-named"
    BLOB_DURABLE = "blob-durable"
    BLOB_UNLISTED = "blob-unlisted"
    KEY_WRITTEN = "key-written"
    KEY_NAMED = "key-named"
    KEY_OVERWRITTEN = "key-overwritten"
    KEY_ERASED = "key-erased"
    ROOM_RENAMED = "room-renamed"
    UPLOAD_BEGUN = "upload-begun"
    PIECE_WRITTEN = "piece-written"
    UPLOAD_SYNCED = "upload-synced"
    ANSWER_QUEUED = "answer-queued"
    ANSWER_DURABLE = "answer-durable"
    RUN_STORED = "run-stored"
    RUN_JOURNALLED = "run-journalled"
    SHARE_FOLDED = "share-folded"
    MODEL_MOVED = "model-moved"
    MEMORY_STORED = "memory-stored"
    ROUND_REOPENED = "round-reopened"
    ROUND_ABSORBED = "round-absorbed"
    ROOMS_FORGOTTEN = "rooms-forgotten"
    ROUND_JUDGED = "round-judged"
    SITE_MODEL_FETCHED = "site-model-fetched"
    SITE_SHARE_COMPUTED = "site-share-computed"
    SITE_RELEASE_WRITTEN = "site-release-written"
    SITE_RELEASE_DURABLE = "site-release-durable"
    SITE_LEDGER_WRITTEN = "site-ledger-written"
    SITE_LEDGER_DURABLE = "site-ledger-durable"
    SITE_SHARE_SENT = "site-share-sent"
    SITE_SETTLED = "site-settled"
    SITE_MODEL_KEPT = "site-model-kept"
    SITE_CLEARED = "site-cleared"
    JOB_MEMORY_PROVISIONAL = "job-memory-provisional"
    JOB_SHARE_WRITTEN = "job-share-written"
    JOB_MEMORY_COMMITTED = "job-memory-committed"
    JOB_MEMORY_KEPT = "job-memory-kept"


def reach(point: Point) -> None:
    """Do what is armed for ``point``: nothing, outside of tests.

    Raises OSError (EIO or ENOSPC) where the arming says so; ``kill`` does not return.
    """
    if _armed:
        _strike(point)
    if _watcher is not None:
        _watcher(point)


@contextmanager
def watching(watcher: Callable[[Point], None]) -> Generator[None]:
    """Call ``watcher`` at each place that is reached, in any thread: what it raises goes on."""
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


def armed_by(text: str) -> dict[Point, tuple[int, str]]:
    """Return point → (how many times it is reached until then, action) of a variable's text.

    ConfigError if it cannot be read: ``name:count:action``, several with commas in between.
    """
    found = dict[Point, tuple[int, str]]()
    for one in filter(None, text.split(",")):
        name, _, rest = one.partition(":")
        count, _, action = rest.partition(":")
        if name not in {*Point} or not count.isdecimal() or action not in ACTIONS:
            raise ConfigError(
                f"{VARIABLE}: {one!r} arms nothing",
                hint=f"name:count:action, and the actions are {', '.join(ACTIONS)}",
            )
        found[Point(name)] = max(int(count), 1), action
    return found


def _strike(point: Point) -> None:
    with _lock:
        if point not in _armed:
            return
        left, action = _armed.pop(point)
        if left > 1:
            _armed[point] = left - 1, action
            return
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "delay":
            time.sleep(DELAY_S)
        case _:
            number = getattr(errno, action.upper())
            raise OSError(number, os.strerror(number))


_watcher: Callable[[Point], None] | None = None
ACTIONS = ("kill", "delay", "eio", "enospc")
_lock = threading.Lock()
_armed = armed_by(os.environ.get(VARIABLE, ""))
ARMED: Mapping[Point, tuple[int, str]] = _armed
