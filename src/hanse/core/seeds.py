"""Randomness by name: (seed, round, client, epoch, purpose), never by position or scheduling.

A *key* is 64 bits of SHA-256 over the names. Shuffles come from the counter hash SplitMix64
(Steele, Lea, Flood, OOPSLA 2014) of a key, cheap enough for one call per client and epoch; streams
that draw distributions are NumPy generators seeded by the key.

This is simulation-grade randomness: a seed that every party knows hides nothing. Deployed noise and
secrets come from the operating system instead.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@lru_cache(maxsize=65_536, typed=True)
def key(seed: int, *names: str | int) -> int:
    """Return the 64-bit key of ``seed`` and ``names``; a name's type and order count."""
    parts = [(type(name).__name__[0], str(name)) for name in (seed, *names)]
    text = "".join(f"{kind}{len(name)}:{name}" for kind, name in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def splitmix(key: int, n: int) -> NDArray[np.uint64]:
    """Return the first ``n`` outputs of SplitMix64 seeded with ``key``."""
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(n)``: the stable order of ``n`` hashed counters."""
    return np.argsort(splitmix(key, n), kind="stable").astype(np.int64, copy=False)


def uniform(key: int, n: int) -> NDArray[np.float64]:
    """Return ``n`` numbers in [0, 1) with 53 random bits each."""
    return (splitmix(key, n) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the NumPy generator (PCG64) that ``seed`` and ``names`` name."""
    return np.random.default_rng(key(seed, *names))
