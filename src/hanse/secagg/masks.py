"""Masks: streams of AES-256 in counter mode, added chunk by chunk (docs/protocol.md §11.6).

Memory is a block of scratch for each thread, whatever the length and however many masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from hanse.secagg import words
from hanse.secagg.ring import Segment, Words

BLOCK: Final = 2**17
"""Bytes of keystream at once: with the numbers they go into, they stay in a cache."""
_ZEROS: Final = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Mask:
    """A seed of 32 bytes, and whether its stream is added or taken away."""

    seed: bytes = field(repr=False)
    sign: Literal[1, -1] = 1

    def reversed(self) -> "Mask":
        """Return what takes this mask off again."""
        return Mask(self.seed, 1 if self.sign < 0 else -1)


def stream(seed: bytes, segment: int, chunk: int) -> CipherContext:
    """Return what writes the keystream of one chunk of one segment of a seed's mask."""
    key = words.derived(seed, None, "seg", words.u16(segment))
    return _stream(key, chunk)


def _stream(key: bytes, chunk: int) -> CipherContext:
    start = words.u64(chunk) + bytes(8)
    return Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor()


class Masking:
    """Adds masks to the chunks of one segment, in any order of chunks."""

    def __init__(self, masks: Sequence[Mask], segment: int) -> None:
        """Derive the segment's key of each mask; ``segment``: its number in the session."""
        number = words.u16(segment)
        self._keys = [(m.sign, words.derived(m.seed, None, "seg", number)) for m in masks]

    def __repr__(self) -> str:
        """Tell no key."""
        return f"Masking({len(self._keys)} masks)"

    def add(self, part: Words, chunk: int) -> None:
        """Add all masks to the numbers of a chunk, in place, modulo their ring."""
        streams = [(sign, _stream(key, chunk)) for sign, key in self._keys]
        scratch = bytearray(BLOCK)
        at_once = BLOCK // part.itemsize
        for start in range(0, part.size, at_once):
            block = part[start : start + at_once]
            zeros, out = memoryview(_ZEROS)[: block.nbytes], memoryview(scratch)[: block.nbytes]
            drawn = np.frombuffer(out, part.dtype)
            for sign, made in streams:
                made.update_into(zeros, out)
                (np.add if sign > 0 else np.subtract)(block, drawn, out=block)


def masked(part: Words, masks: Sequence[Mask], segment: Segment, number: int, chunk: int) -> Words:
    """Return the numbers of a chunk of ``segment``, the ``number``-th, with all masks."""
    whole = part.astype(segment.dtype)
    Masking(masks, number).add(whole, chunk)
    return whole
