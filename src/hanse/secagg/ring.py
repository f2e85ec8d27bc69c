"""Whole numbers modulo 2^width, as they are summed under masks and as they travel."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[Any]
"""Unsigned integers of a ring's width, little-endian."""

WIDTHS: Final = {16: (16,), 32: (20, 24, 32), 64: (64,)}
"""Bits of a ring, and of a number on the wire: the low bits of a sum need no higher ones."""
CHUNK: Final = 2**20
"""Numbers that are masked, packed and sent at once."""


@dataclass(frozen=True, slots=True)
class Segment:
    """``length`` numbers of one ring, of which the low ``wire`` bits travel."""

    name: str
    length: int
    ring: int = 32
    wire: int = 32

    def __post_init__(self) -> None:
        """Refuse widths that are not in WIDTHS."""
        if self.length < 0 or self.wire not in WIDTHS.get(self.ring, ()):
            raise ValueError(f"{self.length} numbers of {self.ring} bits, {self.wire} on the wire")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its numbers in memory."""
        return np.dtype(f"<u{self.ring // 8}")

    @property
    def chunks(self) -> int:
        """How many chunks it travels in."""
        return -(-self.length // CHUNK)

    def part(self, chunk: int) -> slice:
        """Return which numbers a chunk has."""
        return slice(chunk * CHUNK, min(self.length, (chunk + 1) * CHUNK))

    def sized(self, numbers: int) -> int:
        """Return how many bytes so many numbers of one chunk take on the wire."""
        return -(-numbers * self.wire // 8)

    def to_ring(self, integers: NDArray[np.int64]) -> Words:
        """Return signed whole numbers modulo 2^ring."""
        return integers.astype(np.uint64).astype(self.dtype)

    def centred(self, words: Words) -> NDArray[np.int64]:
        """Return the numbers in [−2^(wire−1), 2^(wire−1)) that ``words`` are modulo 2^wire."""
        shift = np.int64(64 - self.wire)
        return (words.astype(np.uint64).view(np.int64) << shift) >> shift

    def packed(self, words: Words) -> bytes:
        """Return the low ``wire`` bits of each number of a chunk, little-endian.

        Two numbers of 20 bits are five bytes, the first in the low half; one without a partner is
        three.
        """
        if self.wire == self.ring:
            return words.astype(self.dtype, copy=False).tobytes()
        if self.wire == 24:
            return words.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        wide = (words & np.uint32(0xFFFFF)).astype("<u8")
        if wide.size % 2:
            wide = np.append(wide, np.uint64(0))
        pairs = wide[::2] | wide[1::2] << np.uint64(20)
        return pairs.view(np.uint8).reshape(-1, 8)[:, :5].tobytes()[: self.sized(words.size)]

    def unpacked(self, content: "bytes | bytearray | memoryview", numbers: int) -> Words:
        """Return so many numbers of a chunk; ValueError for bytes that are not so many."""
        if len(content) != self.sized(numbers):
            raise ValueError(f"{len(content)} bytes are not {numbers} numbers of {self.wire} bits")
        if self.wire == self.ring:
            return np.frombuffer(content, self.dtype).copy()
        each, wide = (3, "<u4") if self.wire == 24 else (5, "<u8")
        groups = -(-len(content) // each)
        padded = np.zeros(groups * each, np.uint8)
        padded[: len(content)] = np.frombuffer(content, np.uint8)
        held = np.zeros((groups, np.dtype(wide).itemsize), np.uint8)
        held[:, :each] = padded.reshape(groups, each)
        whole = held.view(wide).ravel()
        if self.wire == 24:
            return whole
        pairs = np.empty(2 * groups, np.uint64)
        pairs[::2], pairs[1::2] = whole & np.uint64(0xFFFFF), whole >> np.uint64(20)
        return pairs[:numbers].astype("<u4")
