"""The release gate: what leaves is permitted, within its claim, and written down before it goes."""

import json
import os
import resource
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from hanse.core.dp_events import Gaussian
from hanse.core.frames import share_frame
from hanse.core.layout import Layout
from hanse.core.ledger import OBSERVERS, Arrived, Debited, Entry, Ledger, Reserved, step
from hanse.core.listing import Listing
from hanse.core.pipeline import Pipeline
from hanse.core.step import Scalar
from hanse.core.weight import Weight
from hanse.errors import BudgetError, ConfigError, ProtocolError
from hanse.privacy import Clip, LocalGaussianNoise
from hanse.site.gate import UNSAID, Gate, Released, Withheld
from hanse.site.policy import Policy
from hanse.site.releases import Occasion, ReleaseLog

LAYOUT = Layout.build("float32", [("w", (16,), "trainable")])
BOUND = Pipeline([Clip(1.0)]).bind(LAYOUT, cohort=4, scalars=[Scalar("examples", 100)])
TALLY = Pipeline().bind(Layout("float32", ()), cohort=4, scalars=[Scalar("hits", 100)])
UPDATE, COUNTS = Occasion("heart-1", 3, "update"), Occasion("heart-1", 3, "counts")
POLICY = Policy("ab" * 32)
WEIGHT = Weight(by="uniform", denominator=4.0)


def share(first: float = 0.5) -> bytearray:
    vector = np.zeros(16, np.float32)
    vector[0] = first
    return share_frame(BOUND).pack(
        {"model": vector, "scalars": np.zeros(BOUND.scalars_size, np.int64)}
    )


@dataclass
class Notebook:
    """A ledger in memory, which writes down what it is asked."""

    ledger: Ledger = field(default_factory=Ledger)
    asked: list[Entry] = field(default_factory=list)

    def note(self, entry: Entry) -> None:
        self.ledger = step(self.ledger, entry)
        self.asked.append(entry)


TOLD = {key: {"client": Gaussian(2.0)} for key in OBSERVERS}


def book(releases: int = 2, tells=TOLD) -> Notebook:
    found = Notebook()
    found.note(Reserved("heart-1", ("heart",), releases, tells))
    found.asked.clear()
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "releases.jsonl"


@pytest.fixture
def gate(path):
    log = ReleaseLog(path)
    yield Gate(POLICY, book(), log)
    log.close()


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_share_within_its_claim_leaves_as_it_is(gate):
    content = share()
    released = gate.release(UPDATE, content, BOUND)
    assert isinstance(released, Released)
    assert released.content is content
    assert released.listing == Listing.of(content)


def test_a_file_leaves_like_its_bytes(gate, tmp_path):
    (tmp_path / "share").write_bytes(share())
    released = gate.release(UPDATE, tmp_path / "share", BOUND)
    assert isinstance(released, Released)
    assert released.listing == Listing.of(share())


def test_counts_leave_by_the_tally(gate):
    content = share_frame(TALLY).pack({"scalars": np.array([7, *[0] * (TALLY.scalars_size - 1)])})
    assert isinstance(gate.release(COUNTS, content, TALLY), Released)
    assert isinstance(gate.release(replace(COUNTS, round=4), share(), TALLY), Withheld)


def test_the_line_is_in_the_log_when_the_bytes_may_leave_and_holds_no_data(gate, path):
    gate.release(UPDATE, share(), BOUND)
    (told,) = lines(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert told.pop("at").endswith("+00:00")
    assert told == {
        "digest": Listing.of(share()).id, "kind": "update", "round": 3, "run": "heart-1",
        "size": len(share()),
    }  # fmt: skip


def test_the_ledger_is_debited_with_the_digest_before_anything_leaves(gate):
    for _ in range(2):
        gate.release(UPDATE, share(), BOUND)
        gate.arrived(UPDATE)
    debited = Debited("heart-1", "3/update", Listing.of(share()).id)
    arrived = Arrived("heart-1", "3/update")
    assert gate.book.asked == [debited, arrived, debited, arrived]
    assert gate.known(UPDATE) == Listing.of(share()).id
    assert gate.book.ledger.accounts["heart-1"].debits == {"3/update": Listing.of(share()).id}


def test_what_was_not_reserved_does_not_leave_and_nothing_is_written(path):
    for found in (Notebook(), book(releases=0)):
        log = ReleaseLog(path)
        with pytest.raises(BudgetError):
            Gate(POLICY, found, log).release(UPDATE, share(), BOUND)
        log.close()
        assert path.read_text() == ""


def test_of_a_run_that_nothing_bounds_the_first_release_is_debited(path):
    log = ReleaseLog(path)
    gate = Gate(POLICY, book(tells={}), log)
    for round in (1, 2, 3):
        assert isinstance(gate.release(replace(UPDATE, round=round), share(), BOUND), Released)
        gate.arrived(replace(UPDATE, round=round))
    assert [*gate.book.ledger.accounts["heart-1"].debits] == ["1/update"]
    log.close()


def test_noised_content_is_on_disk_before_it_is_debited(path, tmp_path, monkeypatch):
    bound = Pipeline([WEIGHT, Clip(1.0), LocalGaussianNoise(1.0)]).bind(LAYOUT, cohort=4)
    file, log, synced = tmp_path / "1.frame", ReleaseLog(path), []
    file.write_bytes(share_frame(bound).pack({"model": np.zeros(16, np.float32),
                                              "scalars": np.zeros(0, np.int64)}))  # fmt: skip
    gate = Gate(POLICY, book(), log)

    def sync(number: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{number}"), len(gate.book.asked)))

    monkeypatch.setattr(os, "fsync", sync)
    assert isinstance(gate.release(UPDATE, file, bound), Released)
    assert synced[:2] == [(str(file), 0), (str(tmp_path), 0)]
    log.close()


@pytest.mark.parametrize("first", [np.nan, np.inf, -np.inf, 1.5, -1.0001])
def test_a_share_outside_its_claim_does_not_leave_and_its_reason_stays(gate, path, first):
    withheld = gate.release(UPDATE, share(first), BOUND)
    assert isinstance(withheld, Withheld)
    assert withheld.said == UNSAID
    assert "not finite" in withheld.reason or "above 1" in withheld.reason
    assert [told["digest"] for told in lines(path)] == ["refused"]
    assert gate.book.asked == []


def test_bytes_that_are_not_the_frame_of_the_spec_do_not_leave(gate, tmp_path):
    (tmp_path / "empty").touch()
    odd = bytearray(share())
    odd[9] ^= 1
    for round, content in enumerate((share()[:-4], odd, b"", tmp_path / "empty"), 1):
        withheld = gate.release(replace(UPDATE, round=round), content, BOUND)
        assert isinstance(withheld, Withheld)
        assert "frame" in withheld.reason


def test_a_file_that_is_not_there_is_the_operators_to_see(gate, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        gate.release(UPDATE, tmp_path / "none", BOUND)


def test_a_kind_that_the_policy_does_not_release_stays_and_the_coordinator_may_know(gate):
    strict = replace(gate, policy=replace(POLICY, release=("counts",)))
    withheld = strict.release(UPDATE, share(), BOUND)
    assert isinstance(withheld, Withheld)
    assert withheld.said == withheld.reason
    assert "policy does not let update leave" in withheld.said


def test_reasons_leave_only_where_the_policy_releases_them(gate):
    said = "row 7 is John"
    assert gate.withhold(UPDATE, said) == Withheld(UNSAID, said)
    frank = replace(gate, policy=replace(POLICY, release=("update", "reasons")))
    assert frank.withhold(UPDATE, said) == Withheld(said, said)


def test_the_same_bytes_leave_again_and_have_one_line(gate, path):
    first, second = (gate.release(UPDATE, share(), BOUND) for _ in range(2))
    assert first == second
    assert len(lines(path)) == 1


def test_other_bytes_under_the_same_name_do_not_leave(gate, path):
    gate.release(UPDATE, share(), BOUND)
    before = path.read_bytes()
    with pytest.raises(ProtocolError, match="heart-1/3/update has left as"):
        gate.release(UPDATE, share(0.25), BOUND)
    assert [entry.kind for entry in gate.book.asked] == ["debited"]
    with pytest.raises(ProtocolError, match="has left as"):
        gate.withhold(UPDATE, "changed its mind")
    assert path.read_bytes() == before
    assert isinstance(gate.release(replace(UPDATE, round=4), share(0.25), BOUND), Released)


def test_a_refusal_is_the_one_answer_too(gate):
    gate.withhold(UPDATE, "no memory")
    gate.withhold(UPDATE, "no memory at 0x7f")
    with pytest.raises(ProtocolError, match="has left as refused"):
        gate.release(UPDATE, share(), BOUND)


def test_after_a_restart_the_log_still_knows_what_has_left(path):
    log = ReleaseLog(path)
    Gate(POLICY, book(9), log).release(UPDATE, share(), BOUND)
    log.close()
    again = Gate(POLICY, book(9), ReleaseLog(path))
    with pytest.raises(ProtocolError, match="has left as"):
        again.release(UPDATE, share(0.25), BOUND)
    assert isinstance(again.release(UPDATE, share(), BOUND), Released)
    assert len(lines(path)) == 1
    again.record.close()


def test_a_line_that_a_crash_cut_short_was_no_release(path):
    log = ReleaseLog(path)
    for round in (1, 2):
        Gate(POLICY, book(9), log).release(replace(UPDATE, round=round), share(), BOUND)
    log.close()
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in range(second, len(whole)):  # at every byte of the second line
        path.write_bytes(whole[:cut])
        log = ReleaseLog(path)
        log.once(replace(UPDATE, round=2), "ab" * 32, 1)
        log.close()
        assert [told["round"] for told in lines(path)] == [1, 2]


DAMAGED = [b"{}", b"[]", b"\xff", b'{"run": 3}', b"not json"]
DAMAGED += [b'{"run":"a","round":%s,"kind":"update","digest":"a"}' % n for n in (b"-1", b'"1"')]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_log_that_is_damaged_stops_the_site(path, line):
    path.write_bytes(line + b"\n")
    with pytest.raises(ConfigError, match="line 1, is not a release"):
        ReleaseLog(path)


def test_two_agents_cannot_have_one_log(path):
    log = ReleaseLog(path)
    with pytest.raises(ConfigError, match="in use by another process"):
        ReleaseLog(path)
    log.close()
    ReleaseLog(path).close()


def test_a_log_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be opened: is a directory"):
        ReleaseLog(tmp_path)


@contextmanager
def files_of_at_most(size: int):
    """Let this process write no file beyond ``size`` bytes: like a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 10])
def test_on_a_full_disk_nothing_leaves_until_the_log_is_opened_anew(gate, path, room):
    gate.release(UPDATE, share(), BOUND)
    later, error = replace(UPDATE, round=4), None
    with files_of_at_most(path.stat().st_size + room):
        try:
            gate.release(later, share(), BOUND)
        except ConfigError as raised:
            error = raised
    assert "nothing leaves without a line in it" in str(error)
    with pytest.raises(ConfigError, match="is closed: nothing leaves"):
        gate.release(later, share(), BOUND)
    gate.record.close()
    again = Gate(POLICY, book(9), ReleaseLog(path))
    assert isinstance(again.release(later, share(), BOUND), Released)
    assert [told["round"] for told in lines(path)] == [3, 4]
    again.record.close()


@pytest.mark.parametrize("name", [("", 1, "update"), ("a/b", 1, "update"), ("a", -1, "counts"),
                                  ("a", 1, "rows"), ("a" * 121, 1, "update")])  # fmt: skip
def test_a_release_has_a_name_of_the_protocol(name):
    with pytest.raises(ValueError, match="names no release"):
        Occasion(*name)
