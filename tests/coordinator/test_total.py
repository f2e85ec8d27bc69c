"""From uploads to the next model: the bits of one process, and never a model per site in memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.laws.toys import Rounds

from hanse.config.specification import Specification, read_spec
from hanse.coordinator.blobs import BlobStore, Damaged
from hanse.coordinator.spool import Room, Spool
from hanse.coordinator.total import Memory, absorb, fold
from hanse.core import seeds
from hanse.core.frames import model_frame, share_frame
from hanse.core.layout import Layout
from hanse.core.listing import CHUNK, Listing
from hanse.core.pipeline import Pipeline
from hanse.core.reduce import Accumulator, Share
from hanse.core.spec import Evaluation, RunSpec
from hanse.core.sums import on_wire
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.privacy import Clip, GaussianNoise
from hanse.strategies import (
    GlobalModel,
    StrategyProgram,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedprox,
    fedsgd,
    fedyogi,
)
from hanse.train.local import training_scalars

SITES = ("basel", "genf", "ulm")
STRATEGIES = (
    fedavg(server_lr=0.7), fedprox(mu=0.1), fedsgd(lr=0.3), fedavgm(server_lr=0.5, momentum=0.9),
    fedadagrad(server_lr=0.1), fedadam(server_lr=0.01), fedyogi(server_lr=0.01),
)  # fmt: skip
PRIVATE = Pipeline([Weight(by="examples", cap=300, denominator=2.5), Clip(2.0), GaussianNoise(1.0)])
CLIPPED = Pipeline([Weight(by="examples", cap=300), Clip(2.0)])


def layout_of(dtype: str, size: int, *, buffers: bool = True) -> Layout:
    """A layout of every role; ``size`` trainable numbers in two tensors."""
    kept = [("n.running_mean", (5,), "buffer"), ("n.running_var", (5,), "buffer")]
    return Layout.build(
        dtype,
        [
            ("w", (size - 3,), "trainable"),
            ("b", (3,), "trainable"),
            *(kept if buffers else []),
            ("mine", (9,), "local"),
            ("ice", (3,), "frozen"),
        ],
    )


LONG = layout_of("float32", 300_007)  # 1.2 MB: its second chunk begins within the model
WIDE = layout_of("float64", 300_007)  # 2.4 MB: three chunks
SHORT = layout_of("float32", 20)


def reading(strategy, layout: Layout, pipeline: Pipeline = CLIPPED) -> Specification:
    private = pipeline.facts().is_private
    spec = RunSpec(
        name="heart",
        task="app:task",
        data="app:data",
        clients=SITES,
        rounds=9,
        seed=7,
        strategy=strategy.settings(),
        sampler=strategy.sampler,
        local=strategy.fixed or LocalTraining(),
        pipeline=pipeline,
        layout=layout,
        training=training_scalars(),
        evaluation_scalars=(),
        evaluation=Evaluation(release="none") if private else Evaluation(),
    )
    if any(step.name not in {"weight", "clip", "gaussian_noise"} for step in pipeline.steps):
        return Specification(spec, strategy, ())
    return read_spec(spec.canonical, layout)


def share_of(read: Specification, site: str, round: int) -> Share:
    bound, layout = read.spec.bound, read.spec.layout
    random = seeds.stream(3, round, site)
    span, kept = layout.span("trainable"), layout.span("buffer")
    update = random.normal(scale=0.01, size=span.stop - span.start).astype(layout.dtype)
    counts = {"examples": int(random.integers(1, 500)), "steps": 4, "seen": 9, "loss": 77}
    buffers = layout.zero_pads(random.uniform(1, 2, kept.stop - kept.start), kept)
    sent, _ = bound.encode(
        layout.zero_pads(update, span),
        counts,
        lambda name: seeds.stream(3, name),
        extras={"buffers": buffers} if bound.extras else {},
        announced={"rounds": round - 1},
    )
    assert isinstance(sent, Share), sent
    return sent


def frame_of(read: Specification, share: Share) -> bytes:
    tensors = {"model": on_wire(share.vector, share.scale), "scalars": share.scalars}
    return bytes(share_frame(read.spec.bound).pack(tensors | dict(share.extras)))


def upload(room: Room, site: str, content: bytes):
    found = room.upload(site, Listing.of(content))
    writer = found.writer()
    for number in range(len(found.listing.chunks)):
        writer.write(content[number * CHUNK :][:CHUNK])
    return found


def folded(read: Specification, room: Room, shares: dict[str, Share]) -> Accumulator:
    summed = read.spec.bound.accumulator()
    for site, share in shares.items():
        content = frame_of(read, share)
        fold(upload(room, site, content), share_frame(read.spec.bound), read.spec.bound, summed)
    return summed


def added(read: Specification, shares: dict[str, Share]) -> Accumulator:
    summed = read.spec.bound.accumulator()
    for share in shares.values():
        summed.add(share, read.spec.bound.grids)
    return summed


def same(one: Accumulator, two: Accumulator) -> bool:
    return (
        one.reports == two.reports
        and np.array_equal(one.vector, two.vector)
        and np.array_equal(one.scalars, two.scalars)
        and all(np.array_equal(one.extras[name], two.extras[name]) for name in two.extras)
    )


def first_model(layout: Layout) -> np.ndarray:
    vector = seeds.stream(1, "model").normal(size=layout.size).astype(layout.dtype)
    return layout.zero_pads(vector)


def assert_one_process_and_a_coordinator_agree(read: Specification, folder: Path, rounds: int):
    """Round after round, the coordinator loading what it stored; models and slots to the bit."""
    spec, blobs, spool = read.spec, BlobStore(folder / "blobs"), Spool(folder / "spool")
    program = StrategyProgram(read.strategy, spec.layout, spec.local, spec.pipeline, spec.rounds)
    state, kept = program.initial(first_model(spec.layout)), {}
    frame = model_frame(spec.layout)
    model = blobs.put(frame.pack({"vector": state.vector})).id
    memory = Memory(dict(state.slots), {})
    for number in range(1, rounds + 1):
        shares = {site: share_of(read, site, number) for site in SITES}
        total, kept = spec.bound.decode(
            added(read, shares), lambda name, n=number: seeds.stream(spec.seed, n, name), kept
        )
        state = program.absorb(state, total)
        assert isinstance(state, GlobalModel)
        summed = folded(read, spool.room("heart-1", number), shares)
        model, theirs = absorb(read, number, summed, blobs.map(model), memory, blobs)
        stored = memory.store(blobs)
        memory = Memory.load(blobs, stored) if stored else Memory({}, {})
        vector = frame.unpack(blobs.map(model))["vector"]
        assert vector.tobytes() == state.vector.tobytes()
        assert theirs.reports == len(SITES)
        assert memory.slots.keys() == state.slots.keys()
        for name, slot in state.slots.items():
            assert memory.slots[name].tobytes() == slot.tobytes()
        assert memory.states.keys() == kept.keys()
    assert state.vector.tobytes() != first_model(spec.layout).tobytes()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_uploads_become_the_model_of_one_process_for_every_strategy(strategy, tmp_path):
    read = reading(strategy, SHORT)
    assert_one_process_and_a_coordinator_agree(read, tmp_path, rounds=4)


@pytest.mark.parametrize("layout", [LONG, WIDE], ids=["float32", "float64"])
@pytest.mark.parametrize("strategy", [STRATEGIES[0], STRATEGIES[5]], ids=["fedavg", "fedadam"])
def test_vectors_longer_than_a_chunk_do_too(layout, strategy, tmp_path):
    assert model_frame(layout).size > CHUNK
    assert model_frame(layout).size % CHUNK
    assert_one_process_and_a_coordinator_agree(reading(strategy, layout), tmp_path, rounds=2)


@pytest.mark.parametrize("strategy", [STRATEGIES[0], STRATEGIES[6]], ids=["fedavg", "fedyogi"])
def test_noise_is_that_of_one_process(strategy, tmp_path):
    layout = layout_of("float32", 300_007, buffers=False)
    assert_one_process_and_a_coordinator_agree(reading(strategy, layout, PRIVATE), tmp_path, 2)


@pytest.mark.parametrize(
    "pipeline",
    [Pipeline(), Pipeline([Weight(by="examples")]), Pipeline([Weight(by="steps", denominator=5)])],
    ids=repr,
)
def test_shares_without_a_bound_do_too(pipeline, tmp_path):
    is_public = pipeline.facts().denominator == "public"
    layout = layout_of("float32", 20, buffers=False) if is_public else SHORT
    read = reading(STRATEGIES[3], layout, pipeline)
    assert_one_process_and_a_coordinator_agree(read, tmp_path, rounds=2)


def test_the_states_of_steps_go_from_round_to_round(tmp_path):
    pipeline = Pipeline([Weight(by="uniform"), Rounds()])
    read = reading(STRATEGIES[3], SHORT, pipeline)
    assert_one_process_and_a_coordinator_agree(read, tmp_path, rounds=3)


def test_a_model_of_which_nothing_is_trained_or_that_is_all_of_it_is_moved_too(tmp_path):
    for name, role in (("whole", "trainable"), ("frozen", "frozen")):
        layout = Layout.build("float32", [("w", (17,), role)])
        read, blobs = reading(STRATEGIES[3], layout), BlobStore(tmp_path / name)
        vector = first_model(layout)
        old = blobs.put(model_frame(layout).pack({"vector": vector})).id
        size = layout.span("trainable").stop
        memory = Memory(dict(read.strategy.server.start(size)), {})
        shares = {site: share_of(read, site, 1) for site in SITES}
        summed = folded(read, Spool(tmp_path / f"{name}-spool").room("r-1", 1), shares)
        new, _ = absorb(read, 1, summed, blobs.map(old), memory, blobs)
        assert (new == old) == (role == "frozen")
        loaded = Memory.load(blobs, memory.store(blobs))
        assert loaded.slots["velocity"].size == size


# The sum


@pytest.mark.parametrize("layout", [SHORT, LONG, WIDE], ids=["short", "long", "wide"])
def test_folding_uploads_in_any_order_is_adding_their_shares(layout, tmp_path):
    read, spool = reading(STRATEGIES[0], layout), Spool(tmp_path)
    shares = {site: share_of(read, site, 1) for site in SITES}
    expected = added(read, shares)
    assert expected.vector.any()
    assert expected.extras["buffers"].any()
    for number, order in enumerate((SITES, SITES[::-1])):
        ordered = {site: shares[site] for site in order}
        assert same(folded(read, spool.room("heart-1", number), ordered), expected)


def test_an_update_that_the_disk_gives_back_otherwise_is_not_summed_as_nothing(tmp_path):
    read = reading(fedavg(), SHORT)
    share = frame_of(read, share_of(read, "ulm", 1))
    upload(Spool(tmp_path).room("heart-1", 0), "ulm", share).finish()
    path = tmp_path / "heart-1@0" / "ulm.upload"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    found = Spool(tmp_path).room("heart-1", 0).found("ulm")
    with pytest.raises(Damaged, match="chunk 0 of a counted update is damaged"):
        fold(found, share_frame(read.spec.bound), read.spec.bound, read.spec.bound.accumulator())


@pytest.mark.parametrize("size", [2**18 - 32, 2**18 - 16, 2**18, 2**18 + 16, 2**18 + 3])
def test_it_does_not_matter_where_a_chunk_ends(size, tmp_path):
    """The edge lies in the model, between it and the integers, in these, or in the buffers."""
    read = reading(STRATEGIES[0], layout_of("float32", size))
    shares = {"ulm": share_of(read, "ulm", 1)}
    summed = folded(read, Spool(tmp_path).room("heart-1", 1), shares)
    assert same(summed, added(read, shares))


def test_a_model_that_is_moved_leaves_the_old_one_as_it_was(tmp_path):
    read, blobs = reading(STRATEGIES[5], LONG), BlobStore(tmp_path / "blobs")
    packed = model_frame(LONG).pack({"vector": first_model(LONG)})
    old = blobs.put(packed).id
    span = LONG.span("trainable")
    memory = Memory(dict(read.strategy.server.start(span.stop - span.start)), {})
    shares = {"ulm": share_of(read, "ulm", 1)}
    summed = folded(read, Spool(tmp_path / "spool").room("heart-1", 1), shares)
    new, _ = absorb(read, 1, summed, blobs.map(old), memory, blobs)
    assert new != old
    assert bytes(blobs.map(old)) == packed
    assert sorted(blobs.ids()) == sorted({old, new})
    before, after = (model_frame(LONG).unpack(blobs.map(blob))["vector"] for blob in (old, new))
    for role in ("local", "frozen"):
        assert np.array_equal(before[LONG.span(role)], after[LONG.span(role)])
    assert not any(after[pad].any() for pad in LONG.pads())


# What the server carries on


def test_nothing_to_carry_on_is_no_blob(tmp_path):
    assert Memory({}, {}).store(BlobStore(tmp_path)) == ""
    assert Memory({}, {"rounds": {}}).store(BlobStore(tmp_path)) == ""


def test_slots_and_states_come_back_in_their_shapes_to_the_bit(tmp_path):
    random, blobs = np.random.default_rng(1), BlobStore(tmp_path)
    odd = np.array([np.nan, -0.0, np.inf, 5e-324])
    slots = {"m": random.normal(size=200_001), "v": odd}
    states = {
        "rounds": {"rounds": np.array([7]), "table": random.normal(size=(2, 3, 4))},
        "other": {
            "narrow": np.float32([1, 2, 3]),
            "one": np.array(5.5),
            "none": np.zeros((0, 4)),
            "turned": random.normal(size=(3, 5)).T,
        },
    }
    id = Memory(slots, states).store(blobs)
    loaded = Memory.load(blobs, id)
    assert loaded.slots.keys() == slots.keys()
    for name, slot in slots.items():
        assert loaded.slots[name].tobytes() == slot.tobytes()
    assert loaded.states.keys() == states.keys()
    for step, arrays in states.items():
        assert loaded.states[step].keys() == arrays.keys()
        for name, array in arrays.items():
            found = loaded.states[step][name]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == array.tobytes()
    assert loaded.store(blobs) == id


def test_what_is_loaded_may_be_changed_and_the_blob_stays(tmp_path):
    blobs = BlobStore(tmp_path)
    id = Memory({"m": np.arange(3.0)}, {"s": {"a": np.arange(2)}}).store(blobs)
    loaded = Memory.load(blobs, id)
    loaded.slots["m"][0] = 9
    loaded.states["s"]["a"][0] = 9
    again = Memory.load(blobs, id)
    assert again.slots["m"][0] == 0
    assert again.states["s"]["a"][0] == 0


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("seen", np.array([True, False])),
        ("few", np.array([1, 2], np.int32)),
        ("key", np.array([2**63], np.uint64)),
        ("a|b", np.zeros(2)),
        ('say "a"', np.zeros(2)),
    ],
)
def test_whatever_a_step_keeps_comes_back(name, array, tmp_path):
    blobs = BlobStore(tmp_path)
    loaded = Memory.load(blobs, Memory({}, {"s": {name: array}}).store(blobs))
    assert loaded.states["s"][name].tobytes() == array.tobytes()


# Memory of the process


MEASURE = """
import hashlib, sys
from pathlib import Path
import numpy as np
from hanse.coordinator.blobs import BlobStore
from hanse.coordinator.spool import Spool
from hanse.coordinator.total import Memory, absorb, fold
from hanse.core.accelerate import warm
from hanse.core.frames import model_frame, share_frame
from hanse.core.layout import Layout
from hanse.core.listing import CHUNK, Listing
from hanse.strategies import fedavg
from tests.coordinator import test_total as own

folder = Path(sys.argv[1])
layout = Layout.build("float32", [("w", (10_000_000,), "trainable")])
read = own.reading(fedavg(), layout)
bound, share, model = read.spec.bound, share_frame(read.spec.bound), model_frame(layout)
blobs, room = BlobStore(folder / "blobs"), Spool(folder / "spool").room("r-1", 2)

def peak():
    told = Path("/proc/self/status").read_text()  # of this process alone, unlike ru_maxrss
    return int(told.partition("VmHWM:")[2].split()[0])

def chunks(frame):
    head = frame.header + np.full(CHUNK // 4, 1e-5, np.float32).tobytes()
    left = frame.size
    while left:
        size = min(CHUNK, left)
        part = head[:size] if left == frame.size else head[-size:]
        left -= size
        yield part

listing = Listing(share.size, tuple(hashlib.sha256(c).digest() for c in chunks(share)))
upload = room.upload("ulm", listing)
writer = upload.writer()
for chunk in chunks(share):
    writer.write(chunk)
with blobs.writer() as writer:
    for chunk in chunks(model):
        writer.write(chunk)
    old = writer.commit().id
warm("float32")
small = own.reading(fedavg(), own.SHORT)  # imports what it takes
own.folded(small, room, {"genf": own.share_of(small, "genf", 1)})
before = peak()
summed = bound.accumulator()
for _ in range(10):
    fold(upload, share, bound, summed)
absorb(read, 1, summed, blobs.map(old), Memory({}, {}), blobs)
print((peak() - before) * 1024, model.size)
"""


def test_ten_uploads_of_forty_megabytes_take_three_and_a_half_models_of_memory(tmp_path):
    """The sum (8 bytes a number: two models), the old model as it is read (one), and 16 MB.

    Ten uploads in memory would be ten models. The peak is that of a process of its own, above what
    it had before; measured: 3.2 models.
    """
    root = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        timeout=60,
    )
    peak, model = map(int, told.stdout.split())
    assert model > 40_000_000
    assert peak < 3.5 * model + 16 * 2**20
    assert peak > 2 * model  # or something else was measured
