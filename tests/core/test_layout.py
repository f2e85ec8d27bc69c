"""Where tensors stand in the flat vector, and what the digest of a model covers."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.layout import ALIGNMENT, ROLES, Entry, Layout

MIXED = [
    ("mean", (3,), "buffer"),
    ("w", (27, 1), "trainable"),
    ("mask", (), "frozen"),
    ("b", (1,), "trainable"),
    ("head", (2, 2, 2), "local"),
    ("nothing", (0, 4), "trainable"),
    ("var", (3,), "buffer"),
]
TENSORS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
        st.sampled_from(ROLES),
    ),
    max_size=6,
).map(lambda items: [(f"t{i}", *item) for i, item in enumerate(items)])
DTYPES = st.sampled_from(["float32", "float64"])


def filled(layout: Layout) -> dict[str, np.ndarray]:
    """A tensor of distinct numbers for each entry."""
    return {
        entry.name: np.arange(entry.size, dtype=layout.dtype).reshape(entry.shape) + 100 * i + 1
        for i, entry in enumerate(layout.entries)
    }


@given(DTYPES, TENSORS)
def test_every_tensor_starts_on_64_bytes(dtype, tensors):
    layout = Layout.build(dtype, tensors)
    for entry in layout.entries:
        assert entry.offset * np.dtype(dtype).itemsize % ALIGNMENT == 0
    assert layout.size * np.dtype(dtype).itemsize % ALIGNMENT == 0


@given(DTYPES, TENSORS)
def test_tensors_do_not_overlap_and_waste_less_than_64_bytes_each(dtype, tensors):
    layout = Layout.build(dtype, tensors)
    starts = [entry.offset for entry in layout.entries] + [layout.size]
    for entry, after in zip(layout.entries, starts[1:], strict=True):
        assert 0 <= (after - entry.end) * np.dtype(dtype).itemsize < ALIGNMENT


@given(DTYPES, TENSORS)
def test_pack_is_the_inverse_of_views(dtype, tensors):
    layout = Layout.build(dtype, tensors)
    tensors = filled(layout)
    vector = layout.pack(tensors)
    assert vector.dtype == dtype
    assert vector.shape == (layout.size,)
    for name, view in layout.views(vector).items():
        assert np.array_equal(view, tensors[name])
        assert view.shape == tensors[name].shape
    assert np.array_equal(layout.pack(layout.views(vector)), vector)


@given(DTYPES, TENSORS)
def test_what_is_no_tensor_is_a_pad_and_zero(dtype, tensors):
    layout = Layout.build(dtype, tensors)
    vector = layout.pack(filled(layout))  # tensors have no zeros
    pads = np.zeros(layout.size, dtype=bool)
    for pad in layout.pads():
        pads[pad] = True
    assert np.array_equal(pads, vector == 0)


@given(DTYPES, TENSORS, st.sampled_from(ROLES))
def test_zero_pads_leaves_tensors_alone_in_any_span(dtype, tensors, role):
    layout = Layout.build(dtype, tensors)
    span = layout.span(role)
    vector = layout.pack(filled(layout))
    dirty = np.where(vector == 0, np.array(9, dtype), vector)[span]
    assert np.array_equal(layout.zero_pads(dirty, span), vector[span])


def test_zero_pads_works_in_place():
    layout = Layout.build("float32", MIXED)
    vector = np.ones(layout.size, np.float32)
    assert layout.zero_pads(vector) is vector
    assert vector.sum() == sum(entry.size for entry in layout.entries)


def test_views_share_memory_with_the_vector():
    layout = Layout.build("float64", MIXED)
    vector = layout.zeros()
    layout.views(vector)["head"][1, 1, 1] = 5
    assert vector.sum() == 5


def test_roles_stand_in_order_and_names_as_given_within_a_role():
    layout = Layout.build("float32", MIXED)
    names = ["w", "b", "nothing", "mean", "var", "head", "mask"]
    assert [entry.name for entry in layout.entries] == names
    assert [entry.offset for entry in layout.entries] == [0, 32, 48, 48, 64, 80, 96]
    assert layout.size == 112


def test_a_span_is_a_role_with_its_padding():
    layout = Layout.build("float32", MIXED)
    assert layout.span("trainable") == slice(0, 48)
    assert layout.span("buffer") == slice(48, 80)
    assert layout.span("local") == slice(80, 96)
    assert layout.span("frozen") == slice(96, 112)
    assert layout.span("buffer", "local") == slice(48, 96)
    assert layout.span(*ROLES) == slice(0, layout.size)


def test_a_role_that_no_tensor_has_is_an_empty_span_without_pads():
    layout = Layout.build("float32", [("w", (3,), "trainable")])
    assert layout.span("buffer") == slice(0, 0)
    assert list(layout.pads(layout.span("buffer"))) == []


def test_pads_of_a_span_count_from_its_start():
    layout = Layout.build("float32", MIXED)
    assert list(layout.pads(layout.span("buffer"))) == [slice(3, 16), slice(19, 32)]
    assert list(layout.pads(layout.span("local"))) == [slice(8, 16)]


def test_parameters_are_the_trainable_numbers_without_padding():
    assert Layout.build("float32", MIXED).parameters == 28
    assert Layout.build("float32", []).parameters == 0


def test_a_layout_of_no_tensors_is_empty():
    layout = Layout.build("float32", [])
    assert layout.size == 0
    assert layout.zeros().shape == (0,)


def test_a_tabular_model_with_27_features_is_padded_to_32():
    layout = Layout.build("float32", [("w", (1, 27), "trainable"), ("b", (1,), "trainable")])
    assert [entry.offset for entry in layout.entries] == [0, 32]
    assert layout.entries[0] == Entry("w", (1, 27), "trainable", 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64", "complex64", ">f4", ""])
def test_only_float32_and_float64_have_a_layout(dtype):
    with pytest.raises(ValueError, match="float32 or float64"):
        Layout.build(dtype, [])


def test_a_name_used_twice_is_refused_since_tied_weights_stand_once():
    with pytest.raises(ValueError, match="two tensors are called 'w'"):
        Layout.build("float32", [("w", (2,), "trainable"), ("w", (2,), "buffer")])


def test_an_unknown_role_is_refused():
    with pytest.raises(ValueError):  # noqa: PT011
        Layout.build("float32", [("w", (2,), "learnable")])


# --- digest


@given(DTYPES, TENSORS, st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_tensors(dtype, tensors, shuffler):
    layout = Layout.build(dtype, tensors)
    shuffled = list(tensors)
    shuffler.shuffle(shuffled)
    other, values = Layout.build(dtype, shuffled), filled(layout)
    assert other.digest(other.pack(values)) == layout.digest(layout.pack(values))


def test_the_digest_does_not_depend_on_padding():
    layout = Layout.build("float32", MIXED)
    clean = layout.pack(filled(layout))
    dirty = np.where(clean == 0, np.float32(7), clean)
    assert not np.array_equal(clean, dirty)
    assert layout.digest(dirty) == layout.digest(clean)


def test_the_digest_does_not_depend_on_roles():
    one = Layout.build("float32", [("w", (2,), "trainable"), ("v", (2,), "frozen")])
    two = Layout.build("float32", [("w", (2,), "local"), ("v", (2,), "trainable")])
    values = filled(one)
    assert one.digest(one.pack(values)) == two.digest(two.pack(values))


def test_the_digest_depends_on_names_shapes_dtype_and_values():
    def digest(dtype="float32", name="w", shape=(2, 3), value=0.0):
        layout = Layout.build(dtype, [(name, shape, "trainable")])
        return layout.digest(layout.pack({name: np.full(shape, value)}))

    others = [
        digest(name="v"),
        digest(shape=(3, 2)),
        digest(shape=(6,)),
        digest(shape=(2, 3, 1)),
        digest(dtype="float64"),
        digest(value=1.0),
        digest(value=2.0**-149),
        digest(value=-0.0),
        digest(value=np.nan),
    ]
    assert len({digest(), *others}) == 1 + len(others)


def test_the_digest_sees_values_swapped_between_tensors():
    layout = Layout.build("float32", [("a", (2,), "trainable"), ("b", (2,), "trainable")])
    ones, twos = np.ones(2), np.full(2, 2.0)
    one = layout.digest(layout.pack({"a": ones, "b": twos}))
    assert one != layout.digest(layout.pack({"a": twos, "b": ones}))


def test_a_name_with_a_nul_cannot_pass_for_two_tensors():
    two = Layout.build("float32", [("a", (1,), "trainable"), ("b", (1,), "trainable")])
    try:
        odd = Layout.build("float32", [("a\0float32\0(1,)\0\0\0\0\0b", (1,), "trainable")])
    except ValueError:
        return  # refusing it is as good
    assert odd.digest(odd.zeros()) != two.digest(two.zeros())


def test_the_digest_has_its_golden_value():
    layout = Layout.build("float32", [("w", (1, 27), "trainable"), ("b", (1,), "trainable")])
    vector = layout.pack({"w": np.arange(27).reshape(1, 27) / 8, "b": np.array([-1.5])})
    golden = "f43769287a047b532b6a5c09ba35e3cdd7c06d11938100c5ed1db930d0dec224"
    assert layout.digest(vector) == golden


@pytest.mark.parametrize(
    "vector",
    [np.zeros(16), np.zeros(15, np.float32), np.zeros((1, 16), np.float32), np.zeros(16, ">f4")],
    ids=lambda v: f"{v.dtype.str}{v.shape}",
)
def test_a_vector_that_does_not_fit_has_no_digest(vector):
    layout = Layout.build("float32", [("w", (3,), "trainable")])
    with pytest.raises(ValueError, match="does not fit this layout"):
        layout.digest(vector)


def test_pack_refuses_a_tensor_of_another_shape():
    layout = Layout.build("float32", [("w", (2, 3), "trainable")])
    for shape in ((3, 2), (2,), (7,)):
        with pytest.raises(ValueError):  # noqa: PT011 -- NumPy's own text
            layout.pack({"w": np.ones(shape)})


def test_a_large_layout_is_aligned_whatever_the_shapes():
    shapes = random.Random(0)
    tensors = [(f"t{i}", (shapes.randrange(1, 999),), "trainable") for i in range(200)]
    layout = Layout.build("float64", tensors)
    assert all(entry.offset % 8 == 0 for entry in layout.entries)
