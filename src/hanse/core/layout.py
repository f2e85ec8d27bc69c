"""Where each tensor of a model stands in its one flat vector.

A model is one contiguous vector in its own dtype and a :class:`Layout`. Entries are sorted by role
(trainable, buffer, local, frozen), so that each role is one slice, and every tensor starts on 64
bytes: a tensor that does not changes the bits that BLAS computes from it. The gaps are zeros, and
stay zeros: noise and rotation are undone there by :meth:`Layout.zero_pads`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["trainable", "buffer", "local", "frozen"]
Vector = NDArray[np.floating]
ROLES: tuple[Role, ...] = ("trainable", "buffer", "local", "frozen")
ALIGNMENT = 64
DTYPES = ("float32", "float64")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its name, shape, role, and first element in the flat vector."""

    name: str
    shape: tuple[int, ...]
    role: Role
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def end(self) -> int:
        """One past the last element, padding left out."""
        return self.offset + self.size


@dataclass(frozen=True)
class Layout:
    """Names, shapes and roles of the tensors in one flat vector of ``dtype``."""

    dtype: str
    entries: tuple[Entry, ...]

    @staticmethod
    def build(dtype: str, tensors: Iterable[tuple[str, tuple[int, ...], Role]]) -> "Layout":
        """Lay tensors out by role, then in the order given, each on 64 bytes.

        Raises ValueError for a dtype that is not float32 or float64, and for a name used twice.
        """
        if dtype not in DTYPES:
            raise ValueError(f"a layout is float32 or float64, not {dtype}")
        step = ALIGNMENT // np.dtype(dtype).itemsize
        offset, entries, seen = 0, list[Entry](), set[str]()
        for name, shape, role in sorted(tensors, key=lambda item: ROLES.index(item[2])):
            if name in seen:
                raise ValueError(f"two tensors are called {name!r}")
            seen.add(name)
            entry = Entry(name, tuple(shape), role, offset)
            entries.append(entry)
            offset += -(-entry.size // step) * step
        return Layout(dtype, tuple(entries))

    @cached_property
    def size(self) -> int:
        """Length of the flat vector, padding included."""
        return self.span("trainable", "buffer", "local", "frozen").stop

    @cached_property
    def parameters(self) -> int:
        """Number of true trainable numbers, padding left out."""
        return sum(entry.size for entry in self.entries if entry.role == "trainable")

    def span(self, *roles: Role) -> slice:
        """Return the slice that holds ``roles`` (neighbours in ROLES), with their padding."""
        step = ALIGNMENT // np.dtype(self.dtype).itemsize
        start, stop, found = 0, 0, False
        for entry in self.entries:
            if entry.role in roles:
                start, found = (start, True) if found else (entry.offset, True)
                stop = entry.offset + -(-entry.size // step) * step
        return slice(start, stop)

    def zeros(self) -> Vector:
        """Return a flat vector of zeros."""
        return np.zeros(self.size, dtype=self.dtype)

    def views(self, vector: Vector) -> dict[str, Vector]:
        """Return name → view of ``vector`` in the tensor's shape; no copy."""
        return {e.name: vector[e.offset : e.end].reshape(e.shape) for e in self.entries}

    def pack(self, tensors: Mapping[str, NDArray[np.generic]]) -> Vector:
        """Return the flat vector of ``tensors``; the inverse of :meth:`views`."""
        vector = self.zeros()
        for name, view in self.views(vector).items():
            view[...] = tensors[name]
        return vector

    def pads(self, span: slice | None = None) -> Iterator[slice]:
        """Yield the gaps between tensors inside ``span``, relative to its start."""
        first, last = (0, self.size) if span is None else (span.start, span.stop)
        inside = [entry for entry in self.entries if first <= entry.offset < last]
        if not inside:
            return
        for entry, after in zip(inside, [*(e.offset for e in inside[1:]), last], strict=True):
            if entry.end < after:
                yield slice(entry.end - first, after - first)

    def zero_pads(self, vector: Vector, span: slice | None = None) -> Vector:
        """Set the gaps of ``vector`` (which covers ``span``) to zero, in place; return it."""
        for pad in self.pads(span):
            vector[pad] = 0
        return vector

    def digest(self, vector: Vector) -> str:
        """SHA-256 over dtype, names, shapes and the little-endian bytes of each tensor.

        Padding does not count, so two models with equal tensors have equal digests.
        """
        if vector.shape != (self.size,) or str(vector.dtype) != self.dtype:
            raise ValueError(f"{vector.dtype} vector {vector.shape} does not fit this layout")
        hasher = hashlib.sha256()
        little = vector.astype(np.dtype(self.dtype).newbyteorder("<"), copy=False)
        for entry in sorted(self.entries, key=lambda entry: entry.name):
            name = entry.name.encode()
            hasher.update(f"{len(name)}:".encode() + name)
            hasher.update(f"{self.dtype}{entry.shape}".encode())
            hasher.update(little[entry.offset : entry.end].tobytes())
        return hasher.hexdigest()
