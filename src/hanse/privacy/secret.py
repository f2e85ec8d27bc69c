"""Randomness that a claim of privacy can rest on: the operating system's, through AES-CTR.

A key of 256 bits from the operating system, used once and never kept, makes a stream by AES-256 in
counter mode (NIST SP 800-38A §6.5, a DRBG's output by SP 800-90A §10.2.1 without its reseeding,
since one key gives less than 2^32 blocks). Whoever can tell it from uniform bits has broken AES:
that is all by which an ε of noise from it is off.
"""

import math
import os
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY: Final = 32
SMALL: Final = 2.0**-20
MOST_BYTES: Final = 2**36
"""What one key gives at most: 2^32 blocks, far below where a counter's blocks show (2^64)."""


class Secret:
    """A stream of random numbers from one key. See :class:`hanse.core.seeds.Chance`."""

    def __init__(self, key: bytes) -> None:
        """Begin the stream of ``key``, 32 bytes that are used for nothing else."""
        if len(key) != KEY:
            raise ValueError(f"a key has {KEY} bytes, not {len(key)}")
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._given = 0

    def bytes(self, length: int, /) -> bytes:
        """Return the next ``length`` bytes."""
        return bytes(self._next(length))

    def random(self, size: int) -> NDArray[np.float64]:
        """Return ``size`` uniform multiples of 2^-53 in [0, 1)."""
        words = np.frombuffer(self._next(8 * size), dtype="<u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Return ``size`` draws of a Gaussian: √(−2·ln U)·cos 2πV, and the same with sin (Box,
        Muller, Ann. Math. Statist. 29(2), 1958), of uniform U in (0, 1] and V in [0, 1).

        Where U is below 2^-20, 53 more bits are drawn behind those that it has: so none is beyond
        √(2·106·ln 2) = 12.1, where a Gaussian has 10^-33 of its mass.
        """
        half = -(-size // 2)
        length = self.random(half)
        few = np.flatnonzero(length < SMALL)
        length[few] += (1.0 - self.random(few.size)) * 2.0**-53
        np.log(length, out=length)
        length *= -2.0
        np.sqrt(length, out=length)
        angle = self.random(half)
        angle *= 2 * math.pi
        drawn = np.empty(2 * half)
        np.cos(angle, out=drawn[:half])
        np.sin(angle, out=drawn[half:])
        drawn[:half] *= length
        drawn[half:] *= length
        return drawn[:size]

    def _next(self, length: int) -> bytearray:
        self._given += length
        if self._given > MOST_BYTES:
            raise ValueError(f"one key gives at most {MOST_BYTES} bytes")
        out = bytearray(length)
        self._stream.update_into(out, out)
        return out


def fresh(*_names: str | int) -> Secret:
    """Return a new stream with a key of the operating system's, whatever it is for.

    It takes the names that :func:`hanse.core.seeds.stream` takes, and none of them is in it: the
    same share computed twice has two noises. What left once must be kept, never computed again.
    """
    return Secret(os.urandom(KEY))
