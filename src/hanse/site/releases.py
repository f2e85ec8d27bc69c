"""The log of all that ever left a site: it makes a name stand for one content, also after a crash.

It holds names, sizes and digests, never data. Whoever can write the file can forget a release; the
audit log, not this file, is what a third party may trust.
"""

import fcntl
import json
import os
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from hanse.core.canonical import Json, encode
from hanse.errors import ConfigError, ProtocolError
from hanse.failpoints import Point, reach
from hanse.sim.files import sync_folder

RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
REFUSED = "refused"
"""What stands for the digest of a refusal: whatever it says, it is the one answer."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """The name of one release: what leaves for which round of which run."""

    run: str
    round: int
    kind: Literal["update", "counts"]

    def __post_init__(self) -> None:
        """Refuse what docs/protocol.md §1 gives no name to."""
        if not RUN.fullmatch(self.run) or self.round < 0 or self.kind not in ("update", "counts"):
            raise ValueError(f"{self.run!r}, round {self.round}, {self.kind!r} names no release")

    def __str__(self) -> str:
        return f"{self.run}/{self.round}/{self.kind}"


class ReleaseLog:
    """All that ever left, one JSON object a line: names, sizes and digests, never data.

    A line is on disk before its release leaves; a line that a crash cut short was none. The file is
    0600 and locked: one agent per log. Raises ConfigError if it cannot be read, is not whole, or is
    another agent's, and if it cannot be written: then nothing leaves until it is opened anew.
    """

    def __init__(self, path: Path) -> None:
        """Open the log at ``path``, or begin it there."""
        self._path, self._lock, self._broken = path, threading.Lock(), False
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._digests = self._read()
            sync_folder(path.parent)
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(
                f"{path} is in use by another agent", hint="stop it, or give this site its own home"
            ) from None
        except OSError as error:
            raise self._failed("opened", error) from error

    def close(self) -> None:
        """Give the file to another agent; nothing leaves by this log any more."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._broken = -1, True

    def open_anew(self) -> None:
        """Read the file again after a failed write: only it tells whether the line is there.

        Does nothing without one. ConfigError if the file cannot be read.
        """
        with self._lock:
            if not self._broken or self._file < 0:
                return
            try:
                self._digests = self._read()
            except OSError as error:
                raise self._failed("read", error) from error
            self._broken = False

    def known(self, occasion: Occasion) -> str:
        """Return the digest by which ``occasion`` has left, or nothing."""
        return self._digests.get(str(occasion), "")

    def once(self, occasion: Occasion, digest: str, size: int) -> None:
        """Have a durable line that ``occasion`` is ``digest``; ProtocolError if it is another."""
        with self._lock:
            known = self._digests.get(str(occasion))
            if known is None:
                self._append(_line(occasion, digest, size))
                self._digests[str(occasion)] = digest
            elif known != digest:
                raise ProtocolError(
                    f"{occasion} has left as {known[:16]}, so {digest[:16]} may not leave as it",
                    hint="the first answer stands; a site that computes other bits the second time "
                    "has other libraries, another processor or more threads than the first time",
                )

    def _append(self, line: bytes) -> None:
        if self._broken:
            raise ConfigError(
                f"{self._path} is closed: nothing may leave", hint="see to disk and rights"
            )
        try:
            written = os.write(self._file, line)
            reach(Point.SITE_RELEASE_WRITTEN)
            os.fsync(self._file)
            reach(Point.SITE_RELEASE_DURABLE)
        except OSError as error:
            self._broken = True  # whether the line is there only a fresh look at the file tells
            raise self._failed("written", error) from error
        if written < len(line):
            self._broken = True
            raise self._failed("written", OSError(0, "no space left for a whole line"))

    def _read(self) -> dict[str, str]:
        """Return occasion → digest of the whole lines, and cut off what is behind the last."""
        with open(self._file, "rb", closefd=False) as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)
        os.lseek(self._file, whole, os.SEEK_SET)
        lines = content[:whole].splitlines()
        return dict(self._parse(number, line) for number, line in enumerate(lines, 1))

    def _parse(self, number: int, line: bytes) -> tuple[str, str]:
        try:
            return _parsed(self._path, number, line)
        except ConfigError:
            os.close(self._file)
            raise

    def _failed(self, what: str, error: OSError) -> ConfigError:
        said = (error.strerror or str(error)).lower()
        return ConfigError(
            f"{self._path} cannot be {what}: {said}; nothing leaves without a line in it",
            hint="see to disk and rights",
        )


def check_log(path: Path) -> int:
    """Return how many releases stand in a log; ConfigError for a line that is none."""
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return len(dict(_parsed(path, number, line) for number, line in enumerate(lines, 1)))


def _parsed(path: Path, number: int, line: bytes) -> tuple[str, str]:
    try:
        told = cast("dict[str, Any]", json.loads(line))
        occasion = Occasion(told["run"], told["round"], told["kind"])
        return str(occasion), str(told["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}, line {number}, is not a release",
            hint="restore the file from a copy: without it nobody knows what has left",
        ) from error


def _line(occasion: Occasion, digest: str, size: int) -> bytes:
    told: dict[str, Json] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "digest": digest,
        "kind": occasion.kind,
        "round": occasion.round,
        "run": occasion.run,
        "size": size,
    }
    return encode(told).encode() + b"\n"
