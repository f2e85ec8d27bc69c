"""P28: no share with a number, size, shape or dtype that the spec does not allow is ever summed."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.coordinator.service import (
    WIDE,
    Coordinator,
    Site,
    path_of,
    serving,
    share_of,
    spec_of,
    submit,
)

from hanse.coordinator.receiving import Receiving
from hanse.coordinator.spool import Room, Spool
from hanse.core.frames import share_frame
from hanse.core.intake import Inspection
from hanse.core.listing import CHUNK, Listing
from hanse.core.spec import Evaluation, Quorum, RunSpec
from hanse.errors import HanseError, ProtocolError
from hanse.net.problems import Conflict

Chance = np.random.Generator
SPEC = spec_of("ada")
FRAME = share_frame(SPEC.bound)
HEADER = len(FRAME.header)


# Ways to be wrong: each changes a good share in its place, or returns other bytes.


def views(share: bytearray) -> dict[str, np.ndarray]:
    return FRAME.views(memoryview(share))


def not_finite(share: bytearray, chance: Chance) -> None:
    model = views(share)["model"]
    model[chance.integers(model.size)] = chance.choice([np.nan, np.inf, -np.inf])


def odd_nan(share: bytearray, chance: Chance) -> None:
    model = views(share)["model"].view(np.uint32)
    bits = int(chance.integers(1, 2**22)) | 0x7F800000 | int(chance.integers(2)) << 31
    model[chance.integers(model.size)] = bits


def above_the_limit(share: bytearray, chance: Chance) -> None:
    model, limit = views(share)["model"], SPEC.bound.grids["model"].limit
    far = np.float32(limit * 2.0 ** chance.uniform(0.001, 100))
    model[chance.integers(model.size)] = chance.choice([far, -far])


def above_the_norm(share: bytearray, chance: Chance) -> None:
    model = views(share)["model"]
    model *= np.float32(chance.uniform(1.0001, 3) / np.linalg.norm(model.astype(np.float64)))


def scalars_out_of_schema(share: bytearray, chance: Chance) -> None:
    place = chance.integers(views(share)["scalars"].size)
    scalar = SPEC.bound.schema[place]  # each of them is one number
    lowest = -scalar.bound if scalar.signed else 0
    beyond = int(2 ** chance.uniform(0, 20))
    views(share)["scalars"][place] = chance.choice(
        [np.int64(scalar.bound + beyond), np.int64(lowest - beyond), np.int64(-(2**63))]
    )


def another_size(share: bytearray, chance: Chance) -> bytes:
    if chance.integers(2):
        return bytes(share[: int(chance.integers(1, len(share)))])
    return bytes(share) + chance.bytes(int(chance.integers(1, 200)))


def another_dtype(share: bytearray, chance: Chance) -> bytes:
    other = str(chance.choice(["F64", "F16", "I32"])).encode()
    return bytes(share).replace(b"F32", other, 1)


def another_shape(share: bytearray, chance: Chance) -> bytes:
    size = str(views(share)["model"].size).encode()
    return bytes(share).replace(b"[" + size + b"]", b"[%02d]" % chance.integers(10, 31), 1)


def another_header(share: bytearray, chance: Chance) -> None:
    share[chance.integers(HEADER)] ^= 1 << int(chance.integers(8))
    not_finite(share, chance)


NUMBERS = [not_finite, odd_nan, above_the_limit, above_the_norm, scalars_out_of_schema]
FORMS = [another_size, another_dtype, another_shape, another_header]
PIECE = 2**16
Wrong = Callable[[bytearray, Chance], bytes | None]


def bad(wrong: Wrong, chance: Chance, spec: RunSpec = SPEC, round: int = 1) -> bytes:
    while True:
        share = share_of(spec, "ada", round)
        content = wrong(share, chance)
        content = bytes(share) if content is None else content
        if content != bytes(share_of(spec, "ada", round)):
            return content


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Spool(tmp_path / "spool").room("tiny-1", 2)


def taken(room: Room, content: bytes) -> bool:
    """Whether the coordinator would sum this: what `LiveRun` does with an answer and its chunks.

    A peer that was told of a mistake asks again, as it may.
    """
    inspection, listing = Inspection(SPEC.bound), Listing.of(content)
    if listing.size != inspection.frame.size:
        return False
    receiving = Receiving("", room.upload("ada", listing), inspection)
    writer = receiving.writer(receiving.upload.next)
    assert writer is not None
    with suppress(ProtocolError):
        for at in range(writer.at, len(content), PIECE):
            receiving.take(writer, content[at : at + PIECE])
    return receiving.upload.is_complete and receiving.inspection.verdict() is None


def test_good_shares_are_taken(room: Room):
    for round in range(200):
        assert taken(room, bytes(share_of(SPEC, "ada", round)))


@pytest.mark.parametrize(
    "wrong", [*NUMBERS, *FORMS],
    ids=lambda wrong: wrong.__name__,
)  # fmt: skip
def test_none_of_ten_thousand_bad_shares_is_taken(room: Room, wrong: Wrong):
    chance = np.random.default_rng(28)
    for _ in range(10_000 // len(NUMBERS + FORMS) + 1):
        content = bad(wrong, chance)
        assert not taken(room, content), content.hex()


# The same over the wire


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with serving(tmp_path_factory.mktemp("shares")) as found:
        yield found


@pytest.fixture(scope="module")
def ada(coordinator: Coordinator) -> Site:
    return coordinator.enrol("ada")


@pytest.fixture(scope="module")
def bob(coordinator: Coordinator) -> Site:
    return coordinator.enrol("bob")


def ready(coordinator: Coordinator, spec: RunSpec, *sites: Site) -> str:
    run = submit(coordinator.operator, spec)
    for site in sites:
        site.answer(site.ask_until("prepare", run), spec)
    return run


def deliver(site: Site, path: str, content: bytes) -> None:
    """Send a share as stubbornly as a peer can: what is refused is asked for again."""
    for _ in range(2):
        try:
            site.put(path, content)
        except HanseError:
            continue


def unless_answered(site: Site, path: str) -> None:
    with suppress(Conflict):
        site.post(path, {"refused": "tests"})


def counted(coordinator: Coordinator, run: str) -> list[list[str]]:
    told = coordinator.operator.request("GET", f"/v1/runs/{run}/history").json()
    return [row["counted"] for row in told["history"]]  # type: ignore[index,union-attr,call-overload]


@pytest.mark.parametrize(
    "wrongs",
    [[*NUMBERS, another_size], FORMS[1:]],
    ids=["numbers", "forms"],
)
def test_no_bad_share_over_the_wire_is_counted(coordinator: Coordinator, ada: Site, wrongs):
    chance, rounds = np.random.default_rng(29), 5 * len(wrongs)
    spec = spec_of("ada", rounds=rounds, evaluation=Evaluation(0, "none"), quorum=Quorum(minimum=0))
    run = ready(coordinator, spec, ada)
    before = coordinator.state(run)["model"]
    for round in range(1, rounds + 1):
        asked = ada.ask_until("train", run)
        assert asked["round"] == round
        deliver(ada, path_of(asked), bad(wrongs[round % len(wrongs)], chance, spec, round))
        unless_answered(ada, path_of(asked))
    told = coordinator.wait_for(run, "ended")
    assert counted(coordinator, run) == [[]] * rounds
    assert told["model"] == before


def test_asking_what_is_missing_does_not_disturb_a_share_that_arrives(
    coordinator: Coordinator, ada: Site, bob: Site
):
    spec = spec_of("ada", "bob", layout=WIDE, name="twice", rounds=1)
    run = ready(coordinator, spec, ada, bob)
    path = path_of(ada.ask_until("train", run))
    share = share_of(spec, "ada", 1)
    with sending(ada, path, share, CHUNK + 64) as put:
        until_from(ada, path, share, 1)
        put.end()
    assert put.told["state"] == "taken"
    bob.answer(bob.ask_until("train", run), spec)
    bob.ask_until("evaluate", run)
    assert counted(coordinator, run) == [["ada", "bob"]]


def test_who_comes_back_sends_and_the_old_connection_no_more(
    coordinator: Coordinator, ada: Site, bob: Site
):
    spec = spec_of("ada", "bob", layout=WIDE, name="back", rounds=1)
    run = ready(coordinator, spec, ada, bob)
    path = path_of(ada.ask_until("train", run))
    share = share_of(spec, "ada", 1)
    share_frame(spec.bound).views(memoryview(share))["model"][-9:] = np.nan  # in the second chunk
    with sending(ada, path, share, CHUNK + PIECE) as old:
        until_from(ada, path, share, 1)
        with sending(ada, path, share, PIECE, first=1) as new:
            time.sleep(0.3)
            old.end()
            assert old.told == {}
            new.end()
    assert new.told["state"] == "taken"
    bob.answer(bob.ask_until("train", run), spec)
    bob.ask_until("evaluate", run)
    assert counted(coordinator, run) == [["bob"]]


def test_an_upload_that_was_replaced_does_not_spoil_the_new_one(
    coordinator: Coordinator, ada: Site, bob: Site
):
    spec = spec_of("ada", "bob", layout=WIDE, name="replaced", rounds=1)
    run = ready(coordinator, spec, ada, bob)
    path = path_of(ada.ask_until("train", run))
    old, new = share_of(spec, "ada", 1), share_of(spec, "ada", 2)
    with sending(ada, path, old, 1000) as put_old:
        time.sleep(0.2)
        with sending(ada, path, new, CHUNK):
            until_from(ada, path, new, 1)
            put_old.end()
    assert put_old.told == {}
    bob.answer(bob.ask_until("train", run), spec)
    bob.ask_until("evaluate", run, within_s=2.0)
    assert counted(coordinator, run) == [["ada", "bob"]]


def test_an_upload_that_ends_after_another_answer_gets_no_receipt_of_its(
    coordinator: Coordinator, ada: Site, bob: Site
):
    spec = spec_of("ada", "bob", layout=WIDE, name="another", rounds=1)
    run = ready(coordinator, spec, ada, bob)
    path = path_of(ada.ask_until("train", run))
    share = share_of(spec, "ada", 1)
    with sending(ada, path, share, CHUNK + PIECE) as put:
        until_from(ada, path, share, 1)
        assert ada.post(path, {"failed": "tests"})["state"] == "taken"
        put.end()
    assert put.told == {}
    with pytest.raises(Conflict):
        ada.put(path, share)
    bob.answer(bob.ask_until("train", run), spec)
    bob.ask_until("evaluate", run)
    assert counted(coordinator, run) == [["bob"]]


class sending:
    """A PUT under way: the first ``size`` bytes at once, the rest when it ends; ``told``: of it."""

    def __init__(
        self, site: Site, path: str, content: bytearray, size: int, first: int = 0
    ) -> None:
        self.rest, self.told = threading.Event(), {}
        arguments = (site, path, bytes(content), size, first)
        self.thread = threading.Thread(target=self.put, args=arguments)

    def put(self, site: Site, path: str, content: bytes, size: int, first: int) -> None:
        listing, content = Listing.of(content), memoryview(content)[first * CHUNK :]

        def pieces():
            yield memoryview(listing.packed)
            yield content[:size]
            self.rest.wait(5)
            yield content[size:]

        with suppress(HanseError):
            told = site.line.send("PUT", f"{path}/chunks/{first}", pieces(), listing.id)
            self.told = told.json()

    def __enter__(self) -> "sending":
        self.thread.start()
        return self

    def end(self) -> None:
        self.rest.set()
        self.thread.join()

    def __exit__(self, *_: object) -> None:
        self.end()


def until_from(site: Site, path: str, content: bytearray, first: int) -> None:
    """Ask until chunk ``first`` is the next."""
    for _ in range(100):
        told = site.put(path, content, first=len(Listing.of(content).chunks))
        if told.get("from") == first:
            return
        time.sleep(0.02)
    raise AssertionError(f"chunk {first} is not awaited: {told}")
