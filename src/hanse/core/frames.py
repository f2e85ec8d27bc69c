"""Tensors as bytes: the safetensors format in one permitted form (docs/protocol.md §2).

A receiver knows the header of a frame from the spec, so it compares it instead of parsing it: no
length, dtype or shape of a peer's is ever believed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.core.layout import Layout
from hanse.core.pipeline import BoundPipeline
from hanse.errors import ProtocolError

DTYPES = {
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "uint64": "U64",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Only the first three travel; the coordinator keeps a step's state in any of them."""
ALIGNMENT = 64
Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Frame:
    """The definition of a frame: (name, NumPy dtype, length) of each tensor, in order."""

    tensors: tuple[tuple[str, str, int], ...]

    @cached_property
    def header(self) -> bytes:
        """The bytes before the first tensor; their number is a multiple of 64."""
        return _header(self.tensors)

    @cached_property
    def size(self) -> int:
        """Number of bytes, header included."""
        return len(self.header) + sum(n * np.dtype(d).itemsize for _, d, n in self.tensors)

    def pieces(self, at: int, chunk: Bytes) -> Iterator[tuple[str, int, NDArray[Any]]]:
        """Yield (tensor, first coordinate, view) of what ``chunk``, from byte ``at`` on, holds.

        No number may stand across an edge of the chunk: with chunks of 2^20 bytes none does.
        """
        start, end = len(self.header), at + len(chunk)
        for name, dtype, length in self.tensors:
            little = np.dtype(dtype).newbyteorder("<")
            stop = start + length * little.itemsize
            low, high = max(start, at), min(stop, end)
            if low < high:
                count = (high - low) // little.itemsize
                view = np.frombuffer(chunk, little, count, low - at)
                yield name, (low - start) // little.itemsize, view
            start = stop

    def parts(self, arrays: Mapping[str, NDArray[Any]]) -> list[memoryview]:
        """Return the frame's bytes in parts: the header, then a view of each array.

        ValueError for an array of another dtype or length.
        """
        parts = [memoryview(self.header)]
        for name, dtype, length in self.tensors:
            array = arrays[name]
            if array.dtype != dtype or array.shape != (length,):
                raise ValueError(f"{name} is {array.dtype}{array.shape}, not {dtype}({length},)")
            little = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
            parts.append(little.data.cast("B"))
        return parts

    def pack(self, arrays: Mapping[str, NDArray[Any]]) -> bytearray:
        """Return the frame's bytes; ValueError for an array of another dtype or length."""
        packed = bytearray()
        for part in self.parts(arrays):
            packed += part
        return packed

    def unpack(self, content: Bytes) -> dict[str, NDArray[Any]]:
        """Return name → view into ``content``; ProtocolError unless it is this frame exactly."""
        if len(content) != self.size:
            raise ProtocolError(f"a frame of {len(content)} bytes, not {self.size}")
        if bytes(content[: len(self.header)]) != self.header:
            raise ProtocolError("a frame with another header than the run's spec gives")
        return self.views(content)

    def views(self, content: Bytes) -> dict[str, NDArray[Any]]:
        """Return name → view into ``content``, whose header is not looked at."""
        found, at = dict[str, NDArray[Any]](), len(self.header)
        for name, dtype, length in self.tensors:
            little = np.dtype(dtype).newbyteorder("<")
            found[name] = np.frombuffer(content, little, length, at)
            at += length * little.itemsize
        return found


@lru_cache(maxsize=256)
def _header(tensors: tuple[tuple[str, str, int], ...]) -> bytes:
    members, at = list[str](), 0
    for name, dtype, length in tensors:
        end = at + length * np.dtype(dtype).itemsize
        members.append(
            f'{json.dumps(name)}:{{"dtype":"{DTYPES[dtype]}","shape":[{length}],'
            f'"data_offsets":[{at},{end}]}}'
        )
        at = end
    text = ("{" + ",".join(members) + "}").encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def model_frame(layout: Layout) -> Frame:
    """Return the frame of a whole model."""
    return Frame((("vector", layout.dtype, layout.size),))


def share_frame(bound: BoundPipeline) -> Frame:
    """Return the frame of one client's share; tensors of no length are left out."""
    tensors = [
        ("model", bound.layout.dtype, bound.coordinates),
        ("scalars", "int64", bound.scalars_size),
        *((name, "float64", size) for name, size in sorted(bound.extras.items())),
    ]
    return Frame(tuple(tensor for tensor in tensors if tensor[2]))
