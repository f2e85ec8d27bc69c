"""Frames: one form for tensors as bytes, whose every header byte the receiver knows before."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.core.frames import ALIGNMENT, DTYPES, Frame, model_frame, share_frame
from hanse.core.layout import ROLES, Layout
from hanse.core.listing import CHUNK
from hanse.core.pipeline import Pipeline
from hanse.core.step import Scalar
from hanse.errors import ProtocolError

DTYPE = st.sampled_from(["float32", "float64", "int64"])
NAMES = st.lists(st.text("abcdefgh_", min_size=1, max_size=8), unique=True, max_size=5)
FRAMES = NAMES.flatmap(
    lambda names: st.tuples(*(st.tuples(st.just(n), DTYPE, st.integers(0, 50)) for n in names))
).map(Frame)
WIDE = FRAMES.filter(lambda frame: all(dtype != "float32" for _, dtype, _ in frame.tensors))
SMALL = Frame((("model", "float32", 3), ("scalars", "int64", 2)))


def arrays_of(frame: Frame, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: random.integers(-1000, 1000, size).astype(dtype)
        for name, dtype, size in frame.tensors
    }


def test_a_frame_is_written_as_the_protocol_says():
    packed = SMALL.pack({"model": np.float32([1, -2, 0.5]), "scalars": np.int64([7, -1])})
    header = (
        b'{"model":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},'
        b'"scalars":{"dtype":"I64","shape":[2],"data_offsets":[12,28]}}'
    )
    assert packed[8 : 8 + len(header)] == header
    length = int.from_bytes(packed[:8], "little")
    assert (8 + length) % 64 == 0
    assert set(packed[8 + len(header) : 8 + length]) <= {0x20}
    assert packed[8 + length :] == bytes.fromhex(
        "0000803f" "000000c0" "0000003f" "0700000000000000" "ffffffffffffffff"
    )  # fmt: skip


@given(FRAMES)
def test_a_header_says_where_each_tensor_stands_and_fills_whole_lines(frame):
    length = int.from_bytes(frame.header[:8], "little")
    assert len(frame.header) == 8 + length
    assert len(frame.header) % ALIGNMENT == 0
    told, at = json.loads(frame.header[8:]), 0
    assert list(told) == [name for name, _, _ in frame.tensors]
    for name, dtype, size in frame.tensors:
        end = at + size * np.dtype(dtype).itemsize
        assert told[name] == {"dtype": DTYPES[dtype], "shape": [size], "data_offsets": [at, end]}
        at = end
    assert frame.size == len(frame.header) + at


@given(FRAMES, st.integers(0, 2**32))
def test_what_is_packed_is_unpacked_to_the_bit(frame, seed):
    arrays = arrays_of(frame, seed)
    packed = frame.pack(arrays)
    assert len(packed) == frame.size
    found = frame.unpack(packed)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()


def test_numbers_that_are_none_travel_unchanged():
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])
    odd.view(np.int64)[0] |= 0xBEEF  # the payload of a NaN
    frame = Frame((("odd", "float64", 5),))
    assert frame.unpack(frame.pack({"odd": odd}))["odd"].tobytes() == odd.tobytes()


def test_unpacked_tensors_are_views_and_nothing_is_copied():
    packed = SMALL.pack(arrays_of(SMALL))
    SMALL.unpack(packed)["model"][1] = 42
    assert SMALL.unpack(packed)["model"][1] == 42
    assert not SMALL.unpack(bytes(packed))["model"].flags.writeable


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": np.zeros(4, np.float32)},
        {"model": np.zeros((3, 1), np.float32)},
        {"model": np.zeros((), np.float32)},
        {"model": np.zeros(3)},
        {"model": np.zeros(3, ">f4")},
        {"scalars": np.zeros(2, np.int32)},
        {"scalars": np.zeros(2)},
    ],
)
def test_an_array_of_another_dtype_or_length_is_not_packed(wrong):
    with pytest.raises(ValueError, match=r"(model|scalars) is "):
        SMALL.pack(arrays_of(SMALL) | wrong)


def test_every_changed_byte_of_a_header_is_refused():
    packed = SMALL.pack(arrays_of(SMALL))
    for at in range(len(SMALL.header)):
        for change in (1, 0x20, 0x80):
            packed[at] ^= change
            with pytest.raises(ProtocolError, match="another header"):
                SMALL.unpack(packed)
            packed[at] ^= change
    SMALL.unpack(packed)


@pytest.mark.parametrize("more", [-1, 1, 64])
def test_another_number_of_bytes_is_refused(more):
    packed = bytes(SMALL.pack(arrays_of(SMALL))) + bytes(64)
    with pytest.raises(ProtocolError, match=f"a frame of {SMALL.size + more} bytes"):
        SMALL.unpack(packed[: SMALL.size + more])


def test_the_frame_of_another_definition_of_the_same_size_is_refused():
    other = Frame((("model", "float32", 3), ("scalers", "int64", 2)))
    assert other.size == SMALL.size
    with pytest.raises(ProtocolError, match="another header"):
        SMALL.unpack(other.pack(arrays_of(other)))


@given(WIDE, st.integers(1, 40).map(lambda n: 8 * n))
def test_the_pieces_of_all_chunks_are_the_tensors(frame, chunk):
    arrays = arrays_of(frame)
    packed = bytes(frame.pack(arrays))
    found = {name: np.full(size, 77, dtype) for name, dtype, size in frame.tensors}
    for at in range(0, len(packed), chunk):
        for name, first, view in frame.pieces(at, packed[at : at + chunk]):
            assert view.size > 0
            assert (found[name][first : first + view.size] == 77).all()
            found[name][first : first + view.size] = view
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


TENSORS = st.lists(
    st.tuples(st.integers(0, 70), st.sampled_from(ROLES)), min_size=1, max_size=6
).map(lambda drawn: [(f"t{n}", (size,), role) for n, (size, role) in enumerate(drawn)])


@settings(max_examples=50)
@given(TENSORS, st.sampled_from(["float32", "float64"]), st.integers(0, 9))
def test_no_number_of_a_share_or_a_model_stands_across_the_edge_of_a_chunk(tensors, dtype, scalars):
    layout = Layout.build(dtype, tensors)
    buffers = layout.span("buffer")
    extras = {"buffers": buffers.stop - buffers.start} if buffers.stop > buffers.start else None
    schema = [Scalar(f"s{n}", 10) for n in range(scalars)]
    bound = Pipeline().bind(layout, cohort=3, scalars=schema, extras=extras)
    for frame in (share_frame(bound), model_frame(layout)):
        told = json.loads(frame.header[8:])
        for name, dtype, _ in frame.tensors:
            at = len(frame.header) + told[name]["data_offsets"][0]
            assert at % np.dtype(dtype).itemsize == 0
    assert CHUNK % 8 == 0


def test_a_share_has_its_segments_in_order_and_leaves_empty_ones_out():
    layout = Layout.build("float32", [("w", (20,), "trainable")])
    few = [Scalar("a", 5), Scalar("b", 5, size=3)]
    bound = Pipeline().bind(layout, cohort=2, scalars=few, extras={"z": 2, "m": 4, "none": 0})
    size = 32 * 4 // 4  # 20 coordinates, padded to whole lines of 64 bytes
    weight = bound.scalars_size - 4
    assert share_frame(bound).tensors == (
        ("model", "float32", size),
        ("scalars", "int64", 4 + weight),
        ("m", "float64", 4),
        ("z", "float64", 2),
    )


def test_counts_are_integers_alone():
    nothing = Layout("float32", ())
    tally = Pipeline().bind(nothing, cohort=2, scalars=[Scalar("examples", 5)])
    names = [name for name, _, _ in share_frame(tally).tensors]
    assert names == ["scalars"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_frame_of_a_model_holds_the_whole_flat_vector(dtype):
    layout = Layout.build(dtype, [("w", (5,), "trainable"), ("f", (2,), "frozen")])
    frame = model_frame(layout)
    assert frame.tensors == (("vector", dtype, layout.size),)
    vector = layout.pack({"w": np.arange(5), "f": np.ones(2)})
    assert np.array_equal(frame.unpack(frame.pack({"vector": vector}))["vector"], vector)


@given(st.binary(max_size=200))
def test_no_bytes_of_a_peer_do_anything_but_be_refused(content):
    with pytest.raises(ProtocolError, match="a frame"):
        SMALL.unpack(content)
