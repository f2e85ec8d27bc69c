"""The release gate: what leaves is permitted, within its claim, and written down before it goes."""

import json
import resource
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from hanse.core.frames import share_frame
from hanse.core.layout import Layout
from hanse.core.listing import Listing
from hanse.core.pipeline import Pipeline
from hanse.core.step import Scalar
from hanse.errors import BudgetError, ConfigError, ProtocolError
from hanse.privacy import Clip
from hanse.site.gate import UNSAID, Expected, Gate, Released, Withheld
from hanse.site.ledger import Claim, NoBudget
from hanse.site.policy import Policy
from hanse.site.releases import Occasion, ReleaseLog

LAYOUT = Layout.build("float32", [("w", (16,), "trainable")])
BOUND = Pipeline([Clip(1.0)]).bind(LAYOUT, cohort=4, scalars=[Scalar("examples", 100)])
TALLY = Pipeline().bind(Layout("float32", ()), cohort=4, scalars=[Scalar("hits", 100)])
UPDATE, COUNTS = Occasion("heart-1", 3, "update"), Occasion("heart-1", 3, "counts")
POLICY = Policy("ab" * 32)
EXPECTED = Expected(BOUND)


def share(first: float = 0.5) -> bytearray:
    vector = np.zeros(16, np.float32)
    vector[0] = first
    return share_frame(BOUND).pack(
        {"model": vector, "scalars": np.zeros(BOUND.scalars_size, np.int64)}
    )


@dataclass
class Notebook:
    """A ledger that writes down what it is asked, and has no room for ε above 1."""

    asked: list[tuple[str, ...]] = field(default_factory=list)

    def reserve(self, release: str, claim: Claim) -> None:
        if (claim.epsilon or 0) > 1:
            raise BudgetError("full")
        self.asked.append(("reserve", release))

    def debit(self, release: str, digest: str) -> None:
        self.asked.append(("debit", release, digest))

    def receipt(self, release: str) -> None:
        self.asked.append(("receipt", release))

    def void(self, release: str) -> None:
        self.asked.append(("void", release))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "releases.jsonl"


@pytest.fixture
def gate(path):
    log = ReleaseLog(path)
    yield Gate(POLICY, Notebook(), log)
    log.close()


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_share_within_its_claim_leaves_as_it_is(gate):
    content = share()
    released = gate.release(UPDATE, content, EXPECTED)
    assert isinstance(released, Released)
    assert released.content is content
    assert released.listing == Listing.of(content)


def test_a_file_leaves_like_its_bytes(gate, tmp_path):
    (tmp_path / "share").write_bytes(share())
    released = gate.release(UPDATE, tmp_path / "share", EXPECTED)
    assert isinstance(released, Released)
    assert released.listing == Listing.of(share())


def test_counts_leave_by_the_tally(gate):
    content = share_frame(TALLY).pack({"scalars": np.array([7, *[0] * (TALLY.scalars_size - 1)])})
    assert isinstance(gate.release(COUNTS, content, Expected(TALLY)), Released)
    assert isinstance(gate.release(replace(COUNTS, round=4), share(), Expected(TALLY)), Withheld)


def test_the_line_is_in_the_log_when_the_bytes_may_leave_and_holds_no_data(gate, path):
    gate.release(UPDATE, share(), EXPECTED)
    (told,) = lines(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert told.pop("at").endswith("+00:00")
    assert told == {
        "digest": Listing.of(share()).id, "kind": "update", "round": 3, "run": "heart-1",
        "size": len(share()),
    }  # fmt: skip


def test_the_ledger_is_debited_with_the_digest_before_anything_leaves(gate):
    gate.reserve(UPDATE, Claim())
    gate.release(UPDATE, share(), EXPECTED)
    gate.arrived(UPDATE)
    name, digest = "heart-1/3/update", Listing.of(share()).id
    assert gate.ledger.asked == [
        ("reserve", name), ("reserve", name), ("debit", name, digest), ("receipt", name),
    ]  # fmt: skip


def test_without_budget_nothing_leaves_and_nothing_is_written(gate, path):
    with pytest.raises(BudgetError):
        gate.release(UPDATE, share(), replace(EXPECTED, claim=Claim(("heart",), 2.0)))
    assert path.read_text() == ""


def test_the_ledger_of_today_permits_what_claims_no_privacy_and_nothing_else():
    ledger = NoBudget()
    ledger.reserve("heart-1/3/update", Claim(("heart",)))
    ledger.debit("heart-1/3/update", "ab")
    ledger.receipt("heart-1/3/update")
    ledger.void("heart-1/3/update")
    with pytest.raises(BudgetError, match="claims ε = 1, and this site keeps no privacy ledger"):
        ledger.reserve("heart-1/3/update", Claim(("heart",), 1.0, 1e-6))


@pytest.mark.parametrize("first", [np.nan, np.inf, -np.inf, 1.5, -1.0001])
def test_a_share_outside_its_claim_does_not_leave_and_its_reason_stays(gate, path, first):
    withheld = gate.release(UPDATE, share(first), EXPECTED)
    assert isinstance(withheld, Withheld)
    assert withheld.said == UNSAID
    assert "not finite" in withheld.reason or "above 1" in withheld.reason
    assert [told["digest"] for told in lines(path)] == ["refused"]
    assert gate.ledger.asked == [("void", "heart-1/3/update")]


def test_bytes_that_are_not_the_frame_of_the_spec_do_not_leave(gate, tmp_path):
    (tmp_path / "empty").touch()
    odd = bytearray(share())
    odd[9] ^= 1
    for round, content in enumerate((share()[:-4], odd, b"", tmp_path / "empty"), 1):
        withheld = gate.release(replace(UPDATE, round=round), content, EXPECTED)
        assert isinstance(withheld, Withheld)
        assert "frame" in withheld.reason


def test_a_file_that_is_not_there_is_the_operators_to_see(gate, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        gate.release(UPDATE, tmp_path / "none", EXPECTED)


def test_a_kind_that_the_policy_does_not_release_stays_and_the_coordinator_may_know(gate):
    strict = replace(gate, policy=replace(POLICY, release=("counts",)))
    withheld = strict.release(UPDATE, share(), EXPECTED)
    assert isinstance(withheld, Withheld)
    assert withheld.said == withheld.reason
    assert "policy does not let update leave" in withheld.said


def test_reasons_leave_only_where_the_policy_releases_them(gate):
    said = "row 7 is John"
    assert gate.withhold(UPDATE, said) == Withheld(UNSAID, said)
    frank = replace(gate, policy=replace(POLICY, release=("update", "reasons")))
    assert frank.withhold(UPDATE, said) == Withheld(said, said)


def test_the_same_bytes_leave_again_and_have_one_line(gate, path):
    first, second = (gate.release(UPDATE, share(), EXPECTED) for _ in range(2))
    assert first == second
    assert len(lines(path)) == 1


def test_other_bytes_under_the_same_name_do_not_leave(gate, path):
    gate.release(UPDATE, share(), EXPECTED)
    before = path.read_bytes()
    with pytest.raises(ProtocolError, match="heart-1/3/update has left as"):
        gate.release(UPDATE, share(0.25), EXPECTED)
    with pytest.raises(ProtocolError, match="has left as"):
        gate.withhold(UPDATE, "changed its mind")
    assert path.read_bytes() == before
    assert isinstance(gate.release(replace(UPDATE, round=4), share(0.25), EXPECTED), Released)


def test_a_refusal_is_the_one_answer_too(gate):
    gate.withhold(UPDATE, "no memory")
    gate.withhold(UPDATE, "no memory at 0x7f")
    with pytest.raises(ProtocolError, match="has left as refused"):
        gate.release(UPDATE, share(), EXPECTED)


def test_after_a_restart_the_log_still_knows_what_has_left(path):
    log = ReleaseLog(path)
    Gate(POLICY, NoBudget(), log).release(UPDATE, share(), EXPECTED)
    log.close()
    again = Gate(POLICY, NoBudget(), ReleaseLog(path))
    with pytest.raises(ProtocolError, match="has left as"):
        again.release(UPDATE, share(0.25), EXPECTED)
    assert isinstance(again.release(UPDATE, share(), EXPECTED), Released)
    assert len(lines(path)) == 1
    again.record.close()


def test_a_line_that_a_crash_cut_short_was_no_release(path):
    log = ReleaseLog(path)
    for round in (1, 2):
        Gate(POLICY, NoBudget(), log).release(replace(UPDATE, round=round), share(), EXPECTED)
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
    with pytest.raises(ConfigError, match="in use by another agent"):
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
    gate.release(UPDATE, share(), EXPECTED)
    later, error = replace(UPDATE, round=4), None
    with files_of_at_most(path.stat().st_size + room):
        try:
            gate.release(later, share(), EXPECTED)
        except ConfigError as raised:
            error = raised
    assert "nothing leaves without a line in it" in str(error)
    with pytest.raises(ConfigError, match="is closed: nothing may leave"):
        gate.release(later, share(), EXPECTED)
    gate.record.close()
    again = Gate(POLICY, NoBudget(), ReleaseLog(path))
    assert isinstance(again.release(later, share(), EXPECTED), Released)
    assert [told["round"] for told in lines(path)] == [3, 4]
    again.record.close()


@pytest.mark.parametrize("name", [("", 1, "update"), ("a/b", 1, "update"), ("a", -1, "counts"),
                                  ("a", 1, "rows"), ("a" * 121, 1, "update")])  # fmt: skip
def test_a_release_has_a_name_of_the_protocol(name):
    with pytest.raises(ValueError, match="names no release"):
        Occasion(*name)
