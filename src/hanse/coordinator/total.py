"""From the uploads of a round to the next model, piece by piece: never a model per site in memory.

What is held is one running sum (int64, and later the same memory as float64) and the server
optimiser's slots; the old model is read from its file, the new one written to another.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.config.specification import Specification
from hanse.coordinator.blobs import BlobStore, Damaged
from hanse.coordinator.uploads import Upload
from hanse.core import seeds
from hanse.core.accelerate import kernels_for
from hanse.core.frames import DTYPES, Frame, model_frame
from hanse.core.listing import CHUNK
from hanse.core.pipeline import BoundPipeline
from hanse.core.reduce import Accumulator
from hanse.core.seeds import Draw
from hanse.core.step import Total
from hanse.strategies import StrategyProgram

States = dict[str, dict[str, NDArray[Any]]]


def fold(upload: Upload, frame: Frame, bound: BoundPipeline, into: Accumulator) -> None:
    """Add a complete upload, which has been inspected, to the running sum.

    Damaged if it is not whole any more: after a start, what is not as it was written has not
    arrived.
    """
    if not upload.is_complete:
        raise Damaged(f"chunk {upload.next} of a counted update is damaged")
    add, grids = kernels_for(into.vector.size).accumulate, bound.grids
    for number, chunk in enumerate(upload.chunks()):
        for name, first, view in frame.pieces(number * CHUNK, chunk):
            if name == "scalars":
                into.scalars[first : first + view.size] += view
                continue
            target = into.vector if name == "model" else into.extras[name]
            add(target[first : first + view.size], view, 1.0, grids[name].exponent)
    into.reports += 1


class Memory:
    """What the server carries from round to round: optimiser slots, and the states of steps."""

    def __init__(self, slots: Mapping[str, NDArray[np.float64]], states: States) -> None:
        """Take over the arrays: they are moved in place."""
        self.slots, self.states = dict(slots), states

    def store(self, blobs: BlobStore) -> str:
        """Write the memory as a blob; return its id, or nothing where there is none."""
        named = {json.dumps(["slot", name]): array for name, array in self.slots.items()}
        for step, arrays in self.states.items():
            for name, array in arrays.items():
                named[json.dumps(["state", step, name, array.shape])] = array.reshape(-1)
        if not named:
            return ""
        frame = Frame(tuple((name, str(a.dtype), a.size) for name, a in named.items()))
        with blobs.writer() as writer:
            writer.write(frame.header)
            for array in named.values():
                writer.write(np.ascontiguousarray(array).data.cast("B"))
            return writer.commit().id

    @staticmethod
    def load(blobs: BlobStore, id: str) -> "Memory":
        """Return the memory that :meth:`store` wrote."""
        view, slots, states = blobs.map(id), dict[str, NDArray[np.float64]](), States()
        frame = _own_frame(view)
        for name, array in frame.unpack(view).items():
            match json.loads(name):
                case ["slot", slot]:
                    slots[slot] = array.copy()
                case ["state", step, key, shape]:
                    states.setdefault(step, {})[key] = array.reshape(shape).copy()
                case _:
                    raise ValueError(f"{name} is no part of a memory")
        return Memory(slots, states)


def _own_frame(view: memoryview) -> Frame:
    """Return the definition of a frame that this coordinator wrote."""
    told: dict[str, Any] = json.loads(bytes(view[8 : 8 + int.from_bytes(view[:8], "little")]))
    names = {short: dtype for dtype, short in DTYPES.items()}
    return Frame(tuple((n, names[t["dtype"]], t["shape"][0]) for n, t in told.items()))


def absorb(
    read: Specification,
    round: int,
    summed: Accumulator,
    old: memoryview,
    memory: Memory,
    blobs: BlobStore,
    draw: Draw = seeds.stream,
) -> tuple[str, Total]:
    """Decode the sum, move the model in ``old`` (a frame), and store it; return its id.

    ``summed`` and ``memory`` are spent and moved in place; ``draw``: where noise comes from.
    """
    spec = read.spec
    frame = model_frame(spec.layout)
    total, states = spec.bound.decode(
        summed, lambda purpose: draw(spec.seed, round, purpose), memory.states
    )
    memory.states = {name: dict(arrays) for name, arrays in states.items()}
    program = StrategyProgram(read.strategy, spec.layout, spec.local, spec.pipeline, spec.rounds)
    with blobs.writer() as writer:
        writer.write(frame.header)
        for piece in program.moved(frame.views(old)["vector"], total, memory.slots):
            writer.write(piece.data.cast("B"))
        return writer.commit().id, total
