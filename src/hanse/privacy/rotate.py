"""Spread an update evenly over its coordinates: a randomised Walsh–Hadamard transform.

Ailon, Chazelle (SIAM J. Comput. 39(1), 2009); for updates that are rounded, Suresh, Yu, Kumar,
McMahan (arXiv:1611.00429, §3). It hides nothing: everybody knows the rotation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hanse.core import seeds
from hanse.core.accelerate import kernels, kernels_for
from hanse.core.canonical import Json
from hanse.core.facts import Facts
from hanse.core.step import Kind, Memory, Place, Step, Total, Update
from hanse.errors import PipelineError

SMALL: Final = 2**12
"""A rest of fewer coordinates is filled up with zeros to one block."""
LARGEST: Final = 2**30
SLACK: Final = 2.0**-22
"""By how much of itself a norm grows at most in rounding to the wire's dtype, 2^-24 in float32, and
in the additions before, less than 2^-45 for 30 of them in float64.
"""
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Rotate(Step):
    """At the client, rotate the vector in blocks of at most ``largest`` coordinates, so that no
    coordinate stands out; the coordinator rotates the total back.

    A block x of B coordinates, B a power of 2, becomes H·D·x: D flips the sign of each coordinate,
    H is the Walsh–Hadamard matrix over √B. Both are orthogonal, so L2 norms stay as they are, but
    for rounding, of which the claim has 2^-22; a coordinate can be as large as the norm of its
    block, at worst. Blocks are the powers of 2 in d, the large ones first, and a rest below 4,096
    is filled up to one: the vector on the wire may be longer than the model's by less than that.

    The signs are those of the round that this step counts and announces, the same for all clients,
    for both ends and for all runs. They are no secret, and no claim rests on them: they are
    independent of the data, which is what evens coordinates out, and new in each round, so that
    no direction is unlucky for long.
    """

    largest: int = 2**20

    name: ClassVar[str] = "rotate"
    kind: ClassVar[Kind] = "linear"
    has_state: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a size that is none of a block."""
        exponent = math.log2(self.largest) if self.largest > 0 else 0.5
        if exponent != int(exponent) or self.largest > LARGEST:
            raise PipelineError(
                f"{self}: no block is so large",
                hint="give a power of 2, such as 1048576, or leave it out",
            )
        object.__setattr__(self, "largest", int(self.largest))

    def check(self, facts: Facts) -> Facts:
        """Return ``facts`` with the length on the wire; refuse integers, which would be none."""
        if facts.domain == "integers":
            raise PipelineError(
                f"{self} would make fractions of integers", hint="put rotate before scaled_round"
            )
        l2, linf = facts.l2 * (1 + SLACK), math.inf
        if facts.coordinates:
            block = max(blocks(facts.coordinates, self.largest))
            linf = facts.linf * math.sqrt(block) * (1 + SLACK)
        padded = facts.coordinates and sum(blocks(facts.coordinates, self.largest))
        return replace(facts, l2=l2, linf=min(l2, linf), coordinates=padded)

    def announce(self, state: Memory) -> Json:
        """Return how many rounds there were: it names the signs."""
        return _count(state)

    def encode(self, update: Update, place: Place) -> Update:
        """Return the rotated update, no factor pending: multiplied before, nothing overflows."""
        vector = update.vector.astype(np.float64)
        vector *= update.scale
        turned = rotate(vector, self.largest, self._told(place.announced))
        with np.errstate(over="ignore"):
            return replace(update, vector=turned.astype(update.vector.dtype), scale=1.0)

    def decode(self, total: Total, place: Place) -> tuple[Total, Memory]:
        """Rotate the total back, leave out what was filled up, and count the round."""
        number = _count(place.kept)
        size = place.facts.coordinates or 0
        vector = back(total.vector, size, self.largest, number)
        return replace(total, vector=vector), {"rounds": np.array([number + 1])}

    def _told(self, announced: object) -> int:
        if not isinstance(announced, int | float) or not 0 <= announced < 2**53:
            raise PipelineError(
                f"{self}: the coordinator announced {announced!r}, which is no number of a round",
                hint="both ends need the same version of Hanse",
            )
        return int(announced)


def _count(state: Memory) -> int:
    return int(state["rounds"][0]) if "rounds" in state else 0


def blocks(size: int, largest: int) -> list[int]:
    """Return the sizes of the blocks that ``size`` coordinates are rotated in, filled up."""
    found = list[int]()
    while size > 0:
        block = min(largest, 1 << (size.bit_length() - 1))
        if block < size < SMALL:
            block = min(largest, 2 * block)
        found.append(block)
        size -= block
    return found


def rotate(vector: Reals, largest: int, round: int) -> Reals:
    """Return the blocks of ``vector``, signs flipped and transformed, one after another."""
    sizes = blocks(vector.size, largest)
    turned = np.zeros(sum(sizes))
    turned[: vector.size] = vector
    turned *= _signs(turned.size, round)
    for block in _slices(sizes):
        kernels().hadamard(turned[block])
    return turned


def back(turned: Reals, size: int, largest: int, round: int) -> Reals:
    """Return the ``size`` coordinates of which :func:`rotate` made ``turned``; not in place."""
    vector, hadamard = turned.copy(), kernels_for(turned.size).hadamard
    for block in _slices(blocks(size, largest)):
        hadamard(vector[block])
    vector *= _signs(turned.size, round)
    return vector[:size].copy()


def _slices(sizes: list[int]) -> Iterator[slice]:
    start = 0
    for size in sizes:
        yield slice(start, start + size)
        start += size


def _signs(size: int, round: int) -> NDArray[np.int8]:
    """Return 1 or −1 for each coordinate, by the bits of SplitMix64."""
    words = seeds.splitmix(seeds.key(round, "rotate"), -(-size // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=size, bitorder="little")
    return (1 - 2 * bits.view(np.int8)).astype(np.int8)
