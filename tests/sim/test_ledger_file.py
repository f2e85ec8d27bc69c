"""The privacy ledger on disk: whole or refused, at every byte and after every crash."""

import errno
import random
import resource
import signal
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from hanse.core.dp_events import Gaussian
from hanse.core.ledger import OBSERVERS, Arrived, Debited, Ledger, Lost, Reserved, Void, step
from hanse.errors import BudgetError, ConfigError
from hanse.failpoints import Point, watching
from hanse.privacy.budget import Cap
from hanse.sim.ledger import Head, LedgerFile, read_ledger

HEART = Reserved("heart-1", ("heart",), 9, {key: {"client": Gaussian(2.0)} for key in OBSERVERS})
ENTRIES = (
    HEART, Debited("heart-1", "1/update", "ab" * 32), Arrived("heart-1", "1/update"),
    Debited("heart-1", "2/update", "cd" * 32), Void("heart-1"),
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    """A ledger of some entries."""
    file = LedgerFile(tmp_path / "ledger.jsonl")
    for entry in ENTRIES:
        file.note(entry)
    file.close()
    return tmp_path / "ledger.jsonl"


def test_what_was_noted_is_there_after_a_start(path):
    again, wanted = LedgerFile(path), Ledger()
    for entry in ENTRIES:
        wanted = step(wanted, entry)
    assert again.ledger == wanted == read_ledger(path)
    assert again.head.seq == len(ENTRIES)
    assert again.holds(again.head)
    assert again.holds(Head())
    assert not again.holds(Head(99, "ab"))
    for entry in ENTRIES:
        again.note(entry)  # the run is reserved anew, all else is known
    assert len(path.read_text().splitlines()) == len(ENTRIES) + 2
    assert path.stat().st_mode & 0o777 == 0o600
    again.close()


def test_every_byte_that_is_not_as_written_is_found(path):
    """But for the last one: a line without its end is one that a crash cut short."""
    whole, chance = path.read_bytes(), random.Random(1)
    for at in [*range(0, len(whole) - 1, 2), *range(len(whole) - 90, len(whole) - 1)]:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ConfigError, match="is not what was written there"):
            read_ledger(path)


def test_a_line_that_is_missing_doubled_or_moved_is_found(path):
    lines = path.read_bytes().splitlines(keepends=True)
    for odd in (lines[1:], lines[:1] + lines[2:], [*lines, lines[-1]], [lines[1], lines[0]]):
        path.write_bytes(b"".join(odd))
        with pytest.raises(ConfigError, match="is not what was written there"):
            LedgerFile(path)


def test_a_line_that_a_crash_cut_short_was_none(path):
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        file = LedgerFile(path)
        assert file.head.seq == len(ENTRIES) - 1
        file.note(ENTRIES[-1])
        file.close()
        assert path.read_bytes() == whole


def fails(_point: Point) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("arrived", [False, True])
def test_what_a_failing_disk_did_not_take_was_none(path, arrived):
    whole, file, late = path.read_bytes(), LedgerFile(path), Debited("heart-1", "3/update", "ef")
    if arrived:  # which is not on disk before a sync goes well
        file.note(replace(HEART, run="heart-2"))
        file.note(Debited("heart-2", "1/update", "ab"))
        whole = path.read_bytes()
        file.note(Arrived("heart-2", "1/update"))
        assert file.durable != file.head
    with watching(fails), pytest.raises(ConfigError, match="input/output error"):
        file.note(HEART)
    with pytest.raises(ConfigError, match="is closed"):
        file.note(HEART)
    file.open_anew()
    assert path.read_bytes() == whole
    assert (file.ledger, file.head) == (read_ledger(path), file.durable)
    file.note(HEART)
    file.note(late)
    file.close()
    assert path.read_bytes().startswith(whole)
    assert late.release in read_ledger(path).accounts["heart-1"].debits


def test_a_line_of_which_only_a_part_was_written_is_cut_off(path):
    """What a full disk does: a limit on the file's size, which cuts a write short as that does."""
    whole, file = path.read_bytes(), LedgerFile(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, before[1]))
    try:
        with pytest.raises(ConfigError, match="no space left for a whole line"):
            file.note(HEART)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, kept)
    assert len(path.read_bytes()) == len(whole) + 100
    file.open_anew()
    assert path.read_bytes() == whole
    file.note(HEART)
    file.close()
    assert read_ledger(path).accounts["heart-1"].is_open


def test_a_ledger_that_has_lost_lines_stays_closed_after_a_failed_write(path):
    file, left = LedgerFile(path), path.read_bytes()[:-10]
    with watching(fails), pytest.raises(ConfigError):
        file.note(HEART)
    path.write_bytes(left)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"cannot be read: only \d+ of \d+ bytes are left"):
            file.open_anew()
        assert path.read_bytes() == left
    with pytest.raises(ConfigError, match="is closed"):
        file.note(HEART)
    file.close()


def test_one_process_has_it(path):
    file = LedgerFile(path)
    with pytest.raises(ConfigError, match="in use by another process"):
        LedgerFile(path)
    file.close()
    with pytest.raises(ConfigError, match="is closed"):
        file.note(replace(HEART, run="heart-2"))


def test_a_loss_takes_the_number_behind_what_is_lost(path):
    file, lost = LedgerFile(path), Head(40, "ef" * 32)
    assert not file.holds(lost)
    file.note(Lost(lost.seq, lost.hash))
    assert (file.head.seq, file.holds(lost)) == (41, True)
    file.close()
    again = LedgerFile(path)
    assert (again.head.seq, again.holds(lost), again.ledger.is_incomplete) == (41, True, True)
    with pytest.raises(BudgetError, match="no bounded ε"):
        again.reserve(replace(HEART, run="heart-2"), {"heart": Cap(1e6)})
    again.reserve(replace(HEART, run="heart-2"), {})
    again.close()


# --- crashes


FAILS = -9
"""Not a death: the disk takes nothing."""


class Crash(Exception):
    """The process ends here."""


class Gatekeeper(RuleBasedStateMachine):
    """A gate that debits, then lets out; it dies anywhere, and begins again with the same wishes.

    ``out``: what has left, which the ledger must know of at every moment.
    """

    points = 0

    def __init__(self) -> None:
        super().__init__()
        self.path = self.folder / f"{id(self)}.jsonl"
        self.path.unlink(missing_ok=True)
        self.file, self.out, self.armed = LedgerFile(self.path), dict[str, str](), 0
        self.reserved = False

    def teardown(self) -> None:
        self.file.close()
        self.path.unlink()

    def _strike(self, _point: Point) -> None:
        type(self).points += 1
        self.armed -= 1
        if self.armed == 0:
            raise Crash
        if self.armed == FAILS - 1:
            raise OSError(errno.EIO, "Input/output error")

    def _act(self, entry, digest: str = "", crash: int = 0, torn: float = 0.0) -> None:
        """Note ``entry``; what is debited leaves; the process may die at the ``crash``-th point."""
        self.armed = crash
        before, ledger = self.path.stat().st_size, self.file.ledger
        try:
            with watching(self._strike):
                self.file.note(entry)
            if isinstance(entry, Debited):
                assert self.out.setdefault(entry.release, entry.digest) == entry.digest
        except BudgetError:
            pass
        except ConfigError:
            assert crash == FAILS
            self.file.open_anew()
            assert read_ledger(self.path) == self.file.ledger == ledger
        except Crash:
            self.file.close()
            written = self.path.stat().st_size - before
            if crash == 1:  # not on disk yet: a power cut may leave any part of it
                with open(self.path, "r+b") as file:
                    file.truncate(before + int(torn * written))
            self.file = LedgerFile(self.path)
            assert read_ledger(self.path) == self.file.ledger

    crashes = st.sampled_from([0, 0, 1, 2, FAILS])
    torn = st.sampled_from([0.0, 0.5, 1.0])

    @rule(crash=crashes, torn=torn)
    def reserve(self, crash, torn):
        self._act(HEART, crash=crash, torn=torn)

    @rule(round=st.integers(1, 12), digest=st.sampled_from(["ab", "cd"]), crash=crashes, torn=torn)
    def release(self, round, digest, crash, torn):
        self._act(Debited("heart-1", f"{round}", digest), crash=crash, torn=torn)

    @rule(crash=crashes, torn=torn)
    def end(self, crash, torn):
        self._act(Void("heart-1"), crash=crash, torn=torn)

    @invariant()
    def what_left_is_debited_once_and_as_it_left(self):
        account = self.file.ledger.accounts.get("heart-1")
        debits = {} if account is None else account.debits
        assert self.out.items() <= debits.items()
        assert len(debits) <= HEART.releases


def test_debit_before_release_and_once_over_ten_thousand_crash_points(tmp_path):
    Gatekeeper.folder, Gatekeeper.points = tmp_path, 0
    run_state_machine_as_test(
        Gatekeeper,
        settings=settings(
            max_examples=700, stateful_step_count=60, deadline=None,
            suppress_health_check=[*HealthCheck],
        ),
    )  # fmt: skip
    assert Gatekeeper.points >= 10_000
