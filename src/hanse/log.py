"""What a coordinator or an agent says while it runs: events with fields, one a line.

A field has a name, a type and a form that stand here, and nothing else can be said: so no body, no
token, no text of an error and nothing of the data comes into a log. Standard error gets JSON, or a
line to read if it is a terminal. What a person is told in words is no business of this module.
"""

import errno
import re
import sys
import traceback
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from json import dumps
from pathlib import Path

from hanse.errors import HanseError

HERE = Path(__file__).parent
UNFIT = "?"
"""What stands for a text that has not its field's form: it may come from a peer."""


class Event(StrEnum):
    """What happened; the value is its code in the log."""

    STARTED = "started"
    STOPPED = "stopped"
    # the coordinator
    INVITED = "invited"
    JOINED = "joined"
    LOGGED_IN = "logged-in"
    REVOKED = "revoked"
    SUBMITTED = "submitted"
    STOP_ASKED = "stop-asked"
    DISK_FULL = "disk-full"
    DISK_FREED = "disk-freed"
    CERTIFICATE_RENEWED = "certificate-renewed"
    REQUEST_FAILED = "request-failed"
    READY = "ready"
    NOT_READY = "not-ready"
    # a site
    ON_LINE = "on-line"
    OFF_LINE = "off-line"
    OPENED = "opened"
    ANSWERED = "answered"
    REFUSED = "refused"
    FAILED = "failed"
    JOB_DIED = "job-died"
    FORGOTTEN = "forgotten"
    LEDGER_BEHIND = "ledger-behind"
    KEY_FOLLOWED = "key-followed"


@dataclass(frozen=True, slots=True)
class Line:
    """An event and its fields. TypeError for another field, or a value of another type.

    ``name``: a site or a person; ``run``, ``round``, ``kind``: what an answer is named by; ``code``
    and ``error``: code and class of an error; ``errno``: what the system calls it; ``where``: the
    line of Hanse's source where it arose; ``what``: which of the reasons of not being ready.
    """

    event: Event
    _: KW_ONLY
    name: str | None = None
    role: str | None = None
    run: str | None = None
    round: int | None = None
    kind: str | None = None
    method: str | None = None
    route: str | None = None
    code: str | None = None
    error: str | None = None
    errno: str | None = None
    where: str | None = None
    what: str | None = None
    port: int | None = None
    pid: int | None = None

    def __post_init__(self) -> None:
        """Check the types: nothing is converted."""
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            fits = isinstance(value, str) if field.name in FORMS else is_whole
            if value is not None and not fits:
                raise TypeError(f"{field.name}: a {type(value).__name__} where none belongs")

    @property
    def told(self) -> dict[str, str | int]:
        """The fields that are given, in their order; a text without its form is ``UNFIT``."""
        found: dict[str, str | int] = {"event": self.event.value}
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not None:
                form = FORMS.get(field.name)
                found[field.name] = value if form is None or form.fullmatch(value) else UNFIT
        return found


NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
WORD = re.compile(r"[A-Za-z][A-Za-z_-]{0,39}")
FORMS = {
    "name": NAME,
    "role": WORD,
    "run": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}"),
    "kind": WORD,
    "method": WORD,
    "route": re.compile(r"[a-z0-9/.{}_]{1,80}"),
    "code": WORD,
    "error": WORD,
    "errno": re.compile(r"[A-Z0-9]{1,20}"),
    "where": re.compile(r"[a-z_/]{1,60}\.py:[0-9]{1,6}"),
    "what": WORD,
}
"""Text field → its form. All other fields are whole numbers."""


def log(line: Line) -> None:
    """Write a line to standard error; one that cannot be written is lost, and ends nothing."""
    stream = sys.stderr
    now = datetime.now(UTC)
    text = readable(line, now) if stream.isatty() else as_json(line, now)
    with suppress(OSError):
        stream.write(text + "\n")
        stream.flush()


def as_json(line: Line, now: datetime) -> str:
    """Return the line as a JSON object; ``at`` is in UTC."""
    return dumps({"at": now.isoformat(timespec="milliseconds"), **line.told})


def readable(line: Line, now: datetime) -> str:
    """Return the line for people, by the machine's own time."""
    event, *rest = line.told.items()
    said = [f"{now.astimezone():%H:%M:%S}", str(event[1])]
    return " ".join(said + [f"{name}={value}" for name, value in rest])


def caused(line: Line, error: BaseException) -> Line:
    """Return ``line`` with what may be told of an error: never its text."""
    number = error.errno if isinstance(error, OSError) else None
    return replace(
        line,
        code=error.code if isinstance(error, HanseError) else None,
        error=type(error).__name__,
        errno=None if number is None else errno.errorcode.get(number),
        where=where(error),
    )


def where(error: BaseException) -> str | None:
    """Return the last line of Hanse's own source that an error came through, as ``file:line``."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(HERE)
    ]
    if not frames:
        return None
    return f"{Path(frames[-1].filename).relative_to(HERE)}:{frames[-1].lineno}"
