"""What a trace of system calls says about power failures: what is told, or named, is durable.

The tracer sees a call before it is made and after it was, so of two calls of which one waits for
the other the trace has the order, in whatever threads they are.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from hanse.core.listing import Listing

NEVER = 10**12
BEGUN = re.compile(r"(\d+) +(\w+)\((.*)$")
RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)$")
RESULT = re.compile(r"\) += (-?\d+)")
FD = re.compile(r"\d+<(.*?)>(?:, |\)|$)")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"(\.\.\.)?')
UNFINISHED = " <unfinished ...>"

SYNCS, WRITES = ("fsync", "fdatasync"), ("write", "pwrite64")
BLOB = re.compile(r"/sha256/([0-9a-f]{2})/([0-9a-f]{62})(?:\.listing)?$")
KEY = re.compile(r"/spool/[^/]+/key$")
UPLOAD = re.compile(r"/spool/[^/]+/[^/]+\.upload$")
LOG = "-wal"
FRAME = 24
"""Bytes of a frame's head in SQLite's log; 4 to 8 of them are not 0 where a transaction ends."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the lines at which it began and ended, what it was of, and what it said."""

    name: str
    began: int
    ended: int
    path: str
    target: str
    content: bytes
    flags: str
    result: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction in the journal's log: when it was written, what, and since when it is safe."""

    began: int
    ended: int
    content: bytes
    durable: int


@dataclass(frozen=True, slots=True)
class Named:
    """A name that was made: ``file`` has the bytes, ``ids`` are in the events that rely on it.

    All events rely on the name of SQLite's log, whose bytes are another matter (`Commit`).
    """

    file: str
    name: str
    at: Call
    ids: tuple[str, ...]


def calls(lines: Iterable[str]) -> list[Call]:
    """Return the calls of a trace, in the order in which they began."""
    found, open_calls = dict[int, Call](), dict[str, tuple[int, str, str]]()
    for number, line in enumerate(lines):
        if (begun := BEGUN.match(line)) is not None:
            thread, name, rest = begun.groups()
            if name == "openat" and "O_CREAT" not in rest:
                continue
            if rest.endswith(UNFINISHED):
                open_calls[thread] = (number, name, rest.removesuffix(UNFINISHED))
                found[number] = _call(name, number, NEVER, rest.removesuffix(UNFINISHED))
            else:
                found[number] = _call(name, number, number, rest)
        elif (resumed := RESUMED.match(line)) is not None and resumed[1] in open_calls:
            at, name, rest = open_calls.pop(resumed[1])
            found[at] = _call(name, at, number, rest + resumed[3])
    return [found[number] for number in sorted(found)]


def _call(name: str, began: int, ended: int, rest: str) -> Call:
    """Return a call of its text; ValueError if the trace has not all that is written to a file."""
    result = RESULT.search(rest)
    fd = FD.match(rest)
    strings = [(ast.literal_eval(f"b{m[0].removesuffix('...')}"), m[1]) for m in _strings(rest)]
    paths = [text.decode(errors="replace") for text, _ in strings]
    path, target, content = (fd[1] if fd else ""), "", b""
    if name.startswith("rename"):
        path, target = paths[0], paths[-1]
    elif name in ("openat", "unlink", "unlinkat"):
        path = paths[0] if paths else ""
    elif strings and name in WRITES:
        content = strings[0][0]
        if strings[0][1] and (LOG in path or ("/spool/" in path and len(content) < 64)):
            raise ValueError(f"the trace has not all of what is written to {path}")
    return Call(name, began, ended, path, target, content, rest, int(result[1]) if result else -1)


def _strings(rest: str) -> Iterator[re.Match[str]]:
    return STRING.finditer(rest)


def commits(trace: Sequence[Call]) -> list[Commit]:
    """Return the transactions of the journal's log, in their order."""
    found, head, parts, began = list[Commit](), b"", list[bytes](), NEVER
    for call in trace:
        if call.name not in WRITES or not call.path.endswith(LOG):
            continue
        if len(call.content) == FRAME:
            head = call.content
        elif head:
            parts.append(call.content)
            began = min(began, call.began)
            if any(head[4:8]):
                durable = _first_sync(trace, call.path, after=call.ended)
                found.append(Commit(began, call.ended, b"".join(parts), durable))
                parts, began = [], NEVER
            head = b""
    return found


def _first_sync(trace: Sequence[Call], path: str, after: int) -> int:
    """Return when the first sync of ``path`` that began ``after`` was over; NEVER if none was."""
    syncs = (c for c in trace if c.name in SYNCS and c.path == path and c.result == 0)
    return min((call.ended for call in syncs if call.began > after), default=NEVER)


def told_early(trace: Sequence[Call]) -> Iterator[str]:
    """Yield what was told before the event that has it was durable."""
    transactions = commits(trace)
    for call in trace:
        if call.name != "write" or not call.path.startswith("/dev/null"):
            continue
        kind, *ids = call.content.split(b" ")
        for id in ids:
            first = next((one for one in transactions if id in one.content), None)
            if first is None and kind == b"receipts":
                yield f"line {call.began} receipts event {id.decode()[:12]}, which no commit has"
            elif first is not None and first.durable >= call.began:
                yield f"line {call.began} tells of {id.decode()[:12]}, durable at {first.durable}"


def named_early(trace: Sequence[Call]) -> Iterator[str]:
    """Yield what has a name before its bytes are durable, or is relied on before its name is."""
    transactions = commits(trace)
    for one in names(trace):
        needed = _first_use(transactions, one)
        writes = [c for c in trace if c.name in WRITES and c.path == one.file and c.result > 0]
        is_renamed = one.file != one.name
        due = one.at.began if is_renamed else needed
        last = max((call.ended for call in writes if call.began < due), default=one.at.began)
        is_late = _first_sync(trace, one.file, after=last) >= due
        if is_late and (is_renamed or due < NEVER) and not one.name.endswith(LOG):
            yield f"line {due}: the bytes of {one.name} are not durable"
        folder = _first_sync(trace, str(PurePosixPath(one.name).parent), after=one.at.ended)
        if folder >= needed and (is_renamed or needed < NEVER):
            yield f"line {needed}: the name {one.name} is not durable"


def _first_use(transactions: Sequence[Commit], one: Named) -> int:
    """Return when the first transaction began that relies on a name; NEVER if none does."""
    using = (c.began for c in transactions for id in one.ids if id.encode() in c.content)
    return min(using, default=NEVER)


def names(trace: Sequence[Call]) -> list[Named]:
    """Return the names of blobs, uploads and keys that were made."""
    found = list[Named]()
    uploads = dict[str, list[str]]()
    for call in trace:
        if call.result < 0:
            continue
        if call.name == "openat" and UPLOAD.search(call.path) and "O_CREAT" in call.flags:
            head = next(
                c.content
                for c in trace
                if c.began > call.ended and c.name == "write" and c.path == call.path
            )
            id = Listing.unpack(head).id
            uploads.setdefault(str(PurePosixPath(call.path).parent), []).append(id)
            found.append(Named(call.path, call.path, call, (id,)))
        elif call.name == "openat" and call.path.endswith(LOG):
            found.append(Named(call.path, call.path, call, ("",)))
        elif call.name.startswith("rename") and (blob := BLOB.search(call.target)) is not None:
            found.append(Named(call.path, call.target, call, (blob[1] + blob[2],)))
        elif call.name.startswith("rename") and KEY.search(call.target):
            found.append(Named(call.path, call.target, call, ()))
    return [
        replace(one, ids=tuple(uploads.get(str(PurePosixPath(one.name).parent), ())))
        if KEY.search(one.name)
        else one
        for one in found
    ]


def complaints(trace: Sequence[Call]) -> list[str]:
    """Return all that a power failure could show in this trace."""
    return [*told_early(trace), *named_early(trace)]


def without(trace: Sequence[Call], is_left_out: Callable[[Call], bool]) -> list[Call]:
    """Return a trace in which some calls were never made."""
    return [call for call in trace if not is_left_out(call)]
