"""Before a power failure: in a real coordinator's trace, what is told or named is durable."""

import time
from collections.abc import Callable
from pathlib import Path
from sys import executable

import pytest
from tests.crash import lint, marking
from tests.crash.lint import BLOB, KEY, SYNCS, UPLOAD, Call, calls, commits, complaints, names
from tests.crash.supervised import Supervised

from hanse.core.listing import Listing

ROUNDS = 2
TRACED = "fsync,fdatasync,rename,renameat,renameat2,write,pwrite64,openat"
WHOLE, SLOWER_US = 6_000, 3_000
"""Bytes of a write that are in the trace: a page of the database; a sync's extra time."""
ENDED_S = 10.0


def traced(log: Path) -> list[str]:
    slow = f"inject=fsync,fdatasync:delay_exit={SLOWER_US}"
    how = ["-D", "-f", "--seccomp-bpf", "-y", "-s", str(WHOLE), "-e", f"trace={TRACED}", "-e", slow]
    return ["strace", *how, "-o", str(log), executable, str(marking.__file__)]


def traced_run(folder: Path) -> list[Call]:
    log = folder / "trace"
    supervised = Supervised(folder)
    supervised.launching["coordinator"].append(traced(log))
    with supervised:
        supervised.end(id := supervised.submit(ROUNDS))
        ends = time.monotonic() + ENDED_S
        while not all(site["finished"] for site in supervised.told(id)["members"].values()):
            assert time.monotonic() < ends, "a site does not fetch the model"
            time.sleep(0.05)
        time.sleep(0.5)  # the last one's receipt leaves
        assert not supervised.deaths
    ends = time.monotonic() + ENDED_S
    while "+++ exited with 0 +++" not in log.read_text()[-200:]:
        assert time.monotonic() < ends, "the tracer has not ended"
        time.sleep(0.05)
    return calls(log.read_text().splitlines())


def test_a_real_run_tells_and_names_nothing_that_a_power_failure_could_take_back(tmp_path):
    trace = traced_run(tmp_path)
    assert complaints(trace) == []
    check_what_is_seen(trace)
    for which, (of, said) in SYNCED.items():
        found = complaints(lint.without(trace, is_sync(of)))
        assert found, f"without a sync of {which} nothing is told"
        assert all(said in one for one in found)


def check_what_is_seen(trace: list[Call]) -> None:
    """See that the trace has all that the lint is to look at."""
    receipts = {c.content for c in trace if c.content.startswith(b"receipts ")}
    assert len(receipts) == 2 * (2 + 2 * ROUNDS)  # of two sites: prepare, finish, update, counts
    made = [one.name for one in names(trace)]
    kinds = [sum(1 for name in made if kind.search(name)) for kind in (BLOB, KEY, UPLOAD)]
    # a document and models, with their listings; a room for updates and one for counts, of two
    assert kinds == [2 * (2 + ROUNDS), 2 * ROUNDS, 4 * ROUNDS]
    assert len(commits(trace)) >= 5 + ROUNDS
    assert any(c.content.startswith(b"tells ") and c.content.count(b" ") > 1 for c in trace)


def is_sync(of: Callable[[str], bool]) -> Callable[[Call], bool]:
    return lambda call: call.name in SYNCS and of(call.path)


SYNCED = {
    "the journal": (lambda path: path.endswith("-wal"), "tells of"),
    "the journal's folder": (lambda path: path.endswith("/coordinator"), "the name"),
    "a blob": (lambda path: "/unfinished/" in path and not path.endswith(".listing"), "bytes"),
    "a listing": (lambda path: path.endswith(".listing"), "bytes"),
    "a blob's folder": (lambda path: "/sha256/" in path, "the name"),
    "a key": (lambda path: path.endswith("key.new"), "bytes"),
    "an upload": (lambda path: path.endswith(".upload"), "bytes"),
    "a room": (lambda path: "@" in path.rpartition("/")[2], "the name"),
}


# --- by hand

ID, ENTRY = "ab" * 32, "cd" * 32
WAL = "</h/journal.db-wal>"
HEAD, COMMIT = "\\0\\0\\0\\1\\0\\0\\0\\0" + "\\0" * 16, "\\0\\0\\0\\1\\0\\0\\0\\5" + "\\0" * 16
OLD, NEW = "/h/blobs/r/unfinished/77", f"/h/blobs/r/sha256/ab/{'ab' * 31}"
LISTING = Listing.of(b"x")
UP = "/h/spool/r@2/ulm.upload"


def committed(text: str) -> list[str]:
    return [
        f'2 pwrite64(9{WAL}, "{COMMIT}", 24, 32) = 24',
        f'2 pwrite64(9{WAL}, "\\5\\0 {text} \\377", 4096, 56) = 4096',
    ]


SYNC = f"2 fdatasync(9{WAL}) = 0"
TELLS = f'1 write(3</dev/null<char 1:3>>, "receipts {ENTRY}", 73) = 73'
BLOB_MADE = [
    f'3 write(4<{OLD}>, "abc", 3) = 3',
    f"3 fsync(4<{OLD}>) = 0",
    f'3 rename("{OLD}", "{NEW}") = 0',
    "3 fsync(4</h/blobs/r/sha256/ab>) = 0",
]
HEADER = "".join(f"\\{byte:03o}" for byte in LISTING.packed)
UPLOAD_MADE = [
    f'4 openat(AT_FDCWD</>, "{UP}", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 7<{UP}>',
    f'4 write(7<{UP}>, "{HEADER}", {len(LISTING.packed)}) = {len(LISTING.packed)}',
    f'4 pwrite64(7<{UP}>, "sealed", 6, 40) = 6',
    f"4 fsync(7<{UP}>) = 0",
    "4 fsync(8</h/spool/r@2>) = 0",
]
KEY_MADE = [
    '4 write(5</h/spool/r@2/key.new>, "0123", 4) = 4',
    "4 fsync(5</h/spool/r@2/key.new>) = 0",
    '4 rename("/h/spool/r@2/key.new", "/h/spool/r@2/key") = 0',
    "4 fsync(5</h/spool/r@2>) = 0",
]


OPENED = '2 openat(AT_FDCWD</>, "/h/journal.db-wal", O_RDWR|O_CREAT, 0600) = 9</h/journal.db-wal>'


def said(*lines: str) -> list[str]:
    return complaints(calls(lines))


def test_what_is_in_order_is_not_complained_of():
    assert said(*committed(ENTRY), SYNC, TELLS) == []
    assert said(*BLOB_MADE, *committed(ID), SYNC) == []
    assert said(*KEY_MADE, *UPLOAD_MADE, *committed(LISTING.id), SYNC) == []


@pytest.mark.parametrize(
    "lines",
    [
        [*committed(ENTRY), TELLS, SYNC],
        [*committed(ENTRY), TELLS],
        [SYNC, *committed(ENTRY), TELLS],
        [*committed(ENTRY), SYNC.replace("= 0", "= -1 EIO (Input/output error)"), TELLS],
        [*committed(ENTRY), SYNC.replace("-wal", ""), TELLS],
        [committed(ENTRY)[0], SYNC, committed(ENTRY)[1], TELLS],
        # the event's page is written and synced, and what ends the transaction is not
        [
            f'2 pwrite64(9{WAL}, "{HEAD}", 24, 32) = 24',
            committed(ENTRY)[1],
            SYNC,
            *committed("-"),
            TELLS,
        ],
        # the sync had begun, and is over only after the answer
        [
            *committed(ENTRY),
            SYNC.replace(") = 0", " <unfinished ...>"),
            TELLS,
            "2 <... fdatasync resumed>) = 0",
        ],
        [
            SYNC.replace(") = 0", " <unfinished ...>"),
            *committed(ENTRY),
            "2 <... fdatasync resumed>) = 0",
            TELLS,
        ],
    ],
)
def test_an_answer_before_its_event_is_durable_is_told(lines):
    assert len(found := said(*lines)) == 1
    assert "tells of cdcdcdcdcdcd" in found[0]


def test_a_receipt_of_no_event_is_told():
    assert "which no commit has" in said(*committed(ID), SYNC, TELLS)[0]


def test_a_sync_in_another_thread_that_ends_before_the_answer_is_in_order():
    unfinished = SYNC.replace(") = 0", " <unfinished ...>")
    resumed = "2 <... fdatasync resumed>) = 0 (DELAYED)"
    assert said(*committed(ENTRY), unfinished, BLOB_MADE[0], resumed, TELLS) == []


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([BLOB_MADE[0], *BLOB_MADE[2:]], "the bytes of"),
        ([BLOB_MADE[1], BLOB_MADE[0], *BLOB_MADE[2:]], "the bytes of"),
        ([BLOB_MADE[0], BLOB_MADE[2], BLOB_MADE[1], BLOB_MADE[3]], "the bytes of"),
        ([*BLOB_MADE[:3], *committed(ID), SYNC], "the name"),
        ([*BLOB_MADE[:3], *committed(ID), SYNC, BLOB_MADE[3]], "the name"),
        ([*BLOB_MADE[:2], BLOB_MADE[3], BLOB_MADE[2], *committed(ID)], "the name"),
        ([*committed(ID), SYNC, *BLOB_MADE], "the name"),
        ([*BLOB_MADE[:3]], "the name"),
        ([*BLOB_MADE[:3], BLOB_MADE[3].replace("/ab>", "/cc>")], "the name"),
    ],
)
def test_a_blob_that_is_not_durable_is_told(lines, what):
    found = said(*lines)
    assert found
    assert all(what in one and NEW in one for one in found)


@pytest.mark.parametrize("missing", [3, 4])
def test_an_update_that_is_counted_and_not_durable_is_told(missing):
    made = [line for at, line in enumerate(UPLOAD_MADE) if at != missing]
    (found,) = said(*made, *committed(LISTING.id), SYNC)
    assert ("the bytes of" if missing == 3 else "the name") in found
    assert said(*made) == []  # nobody relies on it


@pytest.mark.parametrize("missing", [1, 3])
def test_a_key_that_is_not_durable_is_told(missing):
    made = [line for at, line in enumerate(KEY_MADE) if at != missing]
    late = UPLOAD_MADE[:4]  # whose folder, too, is not written
    found = said(*made, *late, *committed(LISTING.id), SYNC)
    assert any("/h/spool/r@2/key" in one for one in found)


def test_a_log_whose_name_is_not_durable_is_told():
    after = [*committed(ENTRY), SYNC, TELLS]
    assert said(OPENED, "1 fsync(4</h>) = 0", *after) == []
    for missing in ([], ["1 fsync(4</h>) = -1 EIO (Input/output error)"]):
        (found,) = said(OPENED, *missing, *after)
        assert "the name /h/journal.db-wal" in found


def test_a_trace_that_was_cut_is_not_believed():
    with pytest.raises(ValueError, match="not all"):
        said(f'2 pwrite64(9{WAL}, "abc"..., 4096, 56) = 4096')
