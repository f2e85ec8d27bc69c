"""Intake: a share is what the spec claims of it, or it is refused with a reason."""

import numpy as np
import pytest

from hanse.core.frames import share_frame
from hanse.core.intake import Inspection, check_share
from hanse.core.layout import Layout
from hanse.core.listing import CHUNK
from hanse.core.pipeline import BoundPipeline, Pipeline
from hanse.core.reduce import Share
from hanse.core.seeds import stream
from hanse.core.step import Scalar
from hanse.core.sums import on_wire
from hanse.core.weight import Weight
from hanse.privacy import Clip

LAYOUT = Layout.build("float32", [("w", (20,), "trainable"), ("b", (3,), "trainable")])
LOSS = Scalar("loss", 1000, signed=True)


def bind(*steps, layout=LAYOUT, **more) -> BoundPipeline:
    return Pipeline(steps).bind(layout, cohort=4, scalars=[LOSS], **more)


def tensors(bound: BoundPipeline) -> dict[str, np.ndarray]:
    return {name: np.zeros(n, dtype) for name, dtype, n in share_frame(bound).tensors}


def look(bound: BoundPipeline, content: bytearray, size: int = CHUNK) -> str | None:
    inspection = Inspection(bound)
    for at in range(0, len(content), size):
        inspection.look(at, content[at : at + size])
    return inspection.verdict()


CLIPPED = bind(Weight(by="examples", cap=300), Clip(1.0))
FREE = bind(extras={"buffers": 3})


def test_zeros_are_within_every_bound():
    assert check_share(CLIPPED, tensors(CLIPPED)) is None
    assert check_share(FREE, tensors(FREE)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, 47])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(bad, place):
    for bound, name in ((CLIPPED, "model"), (FREE, "model"), (FREE, "buffers")):
        share = tensors(bound)
        share[name][place % share[name].size] = bad
        assert "not finite" in (check_share(bound, share) or ""), name


def test_a_share_longer_than_the_claim_is_refused_and_one_as_long_is_taken():
    share = tensors(CLIPPED)
    share["model"][3] = 1.0
    assert check_share(CLIPPED, share) is None
    share["model"][3] = np.nextafter(np.float32(1), np.float32(2))
    assert check_share(CLIPPED, share) == "model: not finite, or not within 1"
    share["model"][:] = 0.2  # each coordinate within, the norm 1.13
    assert check_share(CLIPPED, share) == "model: the L2 norm is above 1"


def test_without_a_clip_each_coordinate_is_held_to_the_grid_and_the_norm_is_free():
    share, limit = tensors(FREE), FREE.grids["model"].limit
    share["model"][:] = limit  # a norm of √48 times the limit
    assert check_share(FREE, share) is None
    share["model"][47] = -np.nextafter(np.float32(limit), np.float32(np.inf))
    assert check_share(FREE, share) == f"model: not finite, or not within {limit:g}"
    share = tensors(FREE)
    share["buffers"][1] = FREE.grids["buffers"].limit * 1.001
    assert (check_share(FREE, share) or "").startswith("buffers: ")


@pytest.mark.parametrize(
    ("name", "value", "is_taken"),
    [("loss", -1000, True), ("loss", 1000, True), ("loss", 1001, False), ("loss", -1001, False),
     ("weight", 0, True), ("weight", -1, False), ("weight", 2**62, False)],
)  # fmt: skip
def test_an_integer_is_within_its_schema(name, value, is_taken):
    share = tensors(CLIPPED)
    CLIPPED.unpack(share["scalars"])[name][0] = value
    reason = check_share(CLIPPED, share)
    assert (reason is None) == is_taken
    assert is_taken or (reason or "").startswith(f"{name} is outside")


def test_integers_alone_are_a_share_too():
    tally = bind(layout=Layout("float32", ()))
    assert look(tally, share_frame(tally).pack({"scalars": np.array([1, 5])})) is None
    assert look(tally, share_frame(tally).pack({"scalars": np.array([1, 1001])})) is not None


def test_what_a_client_encodes_is_taken_and_summed_as_if_it_had_never_travelled():
    vector = stream(1, 1, "test").normal(size=LAYOUT.size).astype(np.float32)
    sent = CLIPPED.encode(vector, {"examples": 20, "loss": 3}, lambda name: stream(1, 1, name))[0]
    assert isinstance(sent, Share)
    content = share_frame(CLIPPED).pack(
        {"model": on_wire(sent.vector, sent.scale), "scalars": sent.scalars}
    )
    assert look(CLIPPED, content) is None
    tensors = share_frame(CLIPPED).unpack(content)
    came = Share(tensors["model"], 1.0, tensors["scalars"])
    here, there = CLIPPED.accumulator(), CLIPPED.accumulator()
    here.add(sent, CLIPPED.grids)
    there.add(came, CLIPPED.grids)
    assert np.array_equal(here.vector, there.vector)
    assert np.array_equal(here.scalars, there.scalars)


def test_ten_thousand_frames_with_random_bytes_are_refused_or_within_the_claim():
    content, random = share_frame(CLIPPED).pack(tensors(CLIPPED)), stream(3, 1, "bytes")
    header, taken = len(share_frame(CLIPPED).header), 0
    for _ in range(10_000):
        mutated = bytearray(content)
        for at in random.integers(0, len(content), 4):
            mutated[at] = random.integers(0, 256)
        if mutated[:header] != content[:header]:
            assert "another header" in (look(CLIPPED, mutated) or "")
        elif look(CLIPPED, mutated) is None:
            taken += 1
            vector = share_frame(CLIPPED).views(mutated)["model"].astype(np.float64)
            assert np.isfinite(vector).all()
            assert np.linalg.norm(vector) <= 1.0
    assert 0 < taken < 10_000


def test_a_share_of_several_chunks_is_judged_as_a_whole():
    wide = Layout.build("float64", [("w", (300_000,), "trainable")])  # 2.4 MB: three chunks
    bound = bind(Clip(1.0), layout=wide)
    share, last = tensors(bound), 299_999
    share["model"][[0, 150_000, last]] = 0.57  # a norm of 0.987; any two are far within
    assert look(bound, share_frame(bound).pack(share)) is None
    share["model"][last] = 0.6  # 1.003
    assert look(bound, share_frame(bound).pack(share)) == "model: the L2 norm is above 1"
    share["model"][[150_000, last]] = np.nan, 0.0
    assert "not finite" in (look(bound, share_frame(bound).pack(share)) or "")


@pytest.mark.parametrize("size", [64, 2**16, 2**19])
def test_a_share_is_judged_alike_in_whatever_pieces_it_comes(size):
    wide = Layout.build("float64", [("w", (300_000,), "trainable")])
    bound = bind(Clip(1.0), layout=wide)
    for third, said in ((0.57, None), (0.6, "model: the L2 norm is above 1")):
        share = tensors(bound)
        share["model"][[0, 150_000, 299_999]] = 0.57, 0.57, third
        assert look(bound, share_frame(bound).pack(share), size) == said


def test_a_chunk_that_comes_again_is_judged_by_what_came_last():
    wide = Layout.build("float64", [("w", (300_000,), "trainable")])
    bound = bind(Clip(1.0), layout=wide)
    share = tensors(bound)
    share["model"][[0, 140_000]] = 0.6
    good = bytes(share_frame(bound).pack(share))
    share["model"][140_000] = np.nan
    bad = bytes(share_frame(bound).pack(share))
    for sent, again, said in ((bad, good, None), (good, good, None), (good, bad, "not finite")):
        inspection = Inspection(bound)
        inspection.look(0, sent[:CHUNK])
        for content in (sent[: CHUNK + 2**18], again):  # the second chunk is cut, and comes again
            for at in range(CHUNK, len(content), 2**16):
                inspection.look(at, content[at : at + 2**16])
        verdict = inspection.verdict()
        assert verdict is None if said is None else said in (verdict or "")


def test_a_share_that_was_not_looked_at_whole_is_refused():
    wide = Layout.build("float64", [("w", (300_000,), "trainable")])
    bound = bind(Clip(1.0), layout=wide)
    content = share_frame(bound).pack(tensors(bound))
    inspection = Inspection(bound)
    assert inspection.verdict() == "not all of the share was looked at"
    for at in (0, 2 * CHUNK):
        inspection.look(at, content[at : at + CHUNK])
    assert inspection.verdict() == "not all of the share was looked at"
    with pytest.raises(ValueError, match="after byte 0"):
        inspection.look(CHUNK + 64, content[CHUNK + 64 : 2 * CHUNK])
    inspection.look(CHUNK, content[CHUNK : 2 * CHUNK])
    assert inspection.verdict() is None


def test_a_header_longer_than_a_chunk_is_compared_to_its_end():
    many = {f"segment-{n:05}-{'x' * 60}": 1 for n in range(8500)}
    bound = bind(extras=many)
    content = share_frame(bound).pack(tensors(bound))
    assert len(share_frame(bound).header) > CHUNK
    assert look(bound, content) is None
    content[len(share_frame(bound).header) - 1] ^= 1
    assert "another header" in (look(bound, content) or "")
