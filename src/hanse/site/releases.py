"""The log of all that ever left a site: it makes a name stand for one content, also after a crash.

It holds names, sizes and digests, never data. Whoever can write the file can forget a release; the
audit log, not this file, is what a third party may trust.
"""

import json
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from hanse.core.canonical import Json, encode
from hanse.errors import ConfigError, ProtocolError
from hanse.failpoints import Point
from hanse.sim.lines import Lines, whole_lines

RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
REFUSED = "refused"
"""What stands for the digest of a refusal: whatever it says, it is the one answer."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """The name of one release: what leaves for which round of which run."""

    run: str
    round: int
    kind: Literal["update", "counts"]
    again: int = 0
    """How often the coordinator began the round again; the same bytes may leave each time."""

    def __post_init__(self) -> None:
        """Refuse what docs/protocol.md §1 gives no name to."""
        if not RUN.fullmatch(self.run) or self.round < 0 or self.kind not in ("update", "counts"):
            raise ValueError(f"{self.run!r}, round {self.round}, {self.kind!r} names no release")

    @property
    def release(self) -> str:
        """Its name within the run, in a ledger: each time it may come behind other noise."""
        return f"{self.round}/{self.kind}" + (f"/again-{self.again}" if self.again else "")

    def __str__(self) -> str:
        return f"{self.run}/{self.round}/{self.kind}"


class ReleaseLog:
    """All that ever left, one JSON object a line: names, sizes and digests, never data.

    A line is on disk before its release leaves; one agent per log. Errors as of
    :class:`hanse.sim.lines.Lines`, and ConfigError if the file is not whole.
    """

    def __init__(self, path: Path) -> None:
        """Open the log at ``path``, or begin it there."""
        self._lock = threading.Lock()
        points = (Point.SITE_RELEASE_WRITTEN, Point.SITE_RELEASE_DURABLE)
        self._lines = Lines(path, points, without="nothing leaves")
        self._digests = self._parsed(self._lines.found)

    def close(self) -> None:
        """Give the file to another agent; nothing leaves by this log any more."""
        with self._lock:
            self._lines.close()

    def open_anew(self) -> None:
        """Go back to what is on disk after a failed write; does nothing without one.

        ConfigError if the file cannot be read.
        """
        with self._lock:
            if self._lines.is_broken and not self._lines.is_closed:
                self._digests = self._parsed(self._lines.cut_back())

    def known(self, occasion: Occasion) -> str:
        """Return the digest by which ``occasion`` has left, or nothing."""
        return self._digests.get(str(occasion), "")

    def check(self, occasion: Occasion, digest: str) -> None:
        """Raise ProtocolError if ``occasion`` has left as something else than ``digest``."""
        known = self.known(occasion)
        if known not in ("", digest):
            raise ProtocolError(
                f"{occasion} has left as {known[:16]}, so {digest[:16]} may not leave as it",
                hint="the first answer stands; a site that computes other bits the second time "
                "has other libraries, another processor or more threads than the first time",
            )

    def once(self, occasion: Occasion, digest: str, size: int) -> None:
        """Have a durable line that ``occasion`` is ``digest``; errors as of :meth:`check`."""
        with self._lock:
            self.check(occasion, digest)
            if not self.known(occasion):
                self._lines.append(_line(occasion, digest, size))
                self._digests[str(occasion)] = digest

    def _parsed(self, lines: list[bytes]) -> dict[str, str]:
        try:
            return _digests_in(self._lines.path, lines)
        except ConfigError:
            self._lines.close()
            raise


def check_log(path: Path) -> int:
    """Return how many releases stand in a log; ConfigError for a line that is none."""
    return len(_digests_in(path, whole_lines(path)))


def _digests_in(path: Path, lines: list[bytes]) -> dict[str, str]:
    """Return occasion → digest."""
    return dict(_parsed(path, number, line) for number, line in enumerate(lines, 1))


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
