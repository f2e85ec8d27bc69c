"""Randomness by name: (seed, round, client, epoch, purpose), never by position or scheduling.

A *key* is 64 bits of SHA-256 over the names. Shuffles come from the counter hash SplitMix64
(Steele, Lea, Flood, OOPSLA 2014) of a key, cheap enough for one call per client and epoch; streams
that draw distributions are NumPy generators seeded by the key.

This is simulation-grade randomness: a seed that every party knows hides nothing. Deployed noise and
secrets come from the operating system instead (:mod:`hanse.privacy.secret`).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hanse.core.numbered import Numbered


class Chance(Protocol):
    """What draws random numbers: NumPy's generator in a simulation, the operating system's bits
    where a claim of privacy rests on them.
    """

    def standard_normal(self, size: int) -> NDArray[np.float64]:
        """Return ``size`` draws of a Gaussian of mean 0 and variance 1."""
        ...

    def random(self, size: int) -> NDArray[np.float64]:
        """Return ``size`` uniform multiples of 2^-53 in [0, 1)."""
        ...

    def bytes(self, length: int, /) -> bytes:
        """Return ``length`` uniform bytes."""
        ...


Draw = Callable[..., Chance]
"""From seed and names, as :func:`stream` takes them, to what draws for this purpose."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_LAST = np.uint64(2**64 - 1)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@lru_cache(maxsize=65_536, typed=True)
def key(seed: int, *names: str | int) -> int:
    """Return the 64-bit key of ``seed`` and ``names``; a name's type and order count."""
    return int.from_bytes(hashlib.sha256(_told(seed, *names).encode()).digest()[:8], "little")


def _told(*names: str | int) -> str:
    parts = [(type(name).__name__[0], str(name)) for name in names]
    return "".join(f"{kind}{len(name)}:{name}" for kind, name in parts)


def keys(seed: int, round: int, clients: Sequence[str], *names: str | int) -> NDArray[np.uint64]:
    """Return ``key(seed, round, client, *names)`` of each client."""
    before, after = _told(seed, round), _told(*names)
    hashed = [
        hashlib.sha256(f"{before}s{len(client)}:{client}{after}".encode()).digest()[:8]
        for client in clients
    ]
    return np.frombuffer(b"".join(hashed), dtype="<u8").astype(np.uint64)


def splitmix(key: int, n: int) -> NDArray[np.uint64]:
    """Return the first ``n`` outputs of SplitMix64 seeded with ``key``."""
    return _mixed(_counters_to(n) + np.uint64(key))


def _counters_to(n: int) -> NDArray[np.uint64]:
    return _FIRST[:n] if n <= _FIRST.size else _counters(n)


def _counters(n: int) -> NDArray[np.uint64]:
    return np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN


_FIRST = _counters(2**14)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's output function of each number: a bijection of 64 bits."""
    z = (z ^ (z >> _S30)) * _MIX1  # arrays wrap, and say nothing
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@lru_cache(maxsize=8)
def _identities(names: tuple[str, ...]) -> NDArray[np.uint64]:
    """Return 64 bits of SHA-256 of each name."""
    digests = b"".join(hashlib.sha256(name.encode()).digest()[:8] for name in names)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def tickets(names: Sequence[str], seed: int, *drawing: str | int) -> NDArray[np.uint64]:
    """Return 64 bits for each of ``names`` in one drawing: they depend on no other name.

    Two rounds of SplitMix64's output function, keyed by the drawing, over 64 bits of the name's
    SHA-256 (or as :func:`ticket_pieces` says).
    """
    return np.concatenate([drawn for _, drawn in ticket_pieces(names, seed, *drawing)])


def ticket_pieces(
    names: Sequence[str], seed: int, *drawing: str | int
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Yield (place of the first, tickets) of all ``names``, piece by piece.

    Names that are listed are one piece. Numbered ones have their number's hash in the place of
    their name's, so that a million take no memory and a hundredth of a second.
    """
    first, second = (np.uint64(key(seed, *drawing, which)) for which in ("first", "second"))
    if isinstance(names, Numbered):
        pieces = ((place, _mixed(numbers * _GOLDEN)) for place, numbers in names.pieces())
    else:
        pieces = ((0, known) for known in (_identities(tuple(names)),))
    for place, identities in pieces:
        yield place, _mixed(_mixed(identities ^ first) + second)


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(n)``: the stable order of ``n`` hashed counters."""
    return np.argsort(splitmix(key, n), kind="stable").astype(np.int64, copy=False)


def permutations(keys: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return many permutations at once: [..., largest] for keys [...] and sizes that fit them.

    Of each, the first ``size`` numbers are those of :func:`permutation`; the rest means nothing.
    """
    largest = int(sizes.max())
    hashed = _mixed(_counters_to(largest) + keys[..., None])
    hashed[np.arange(largest) >= np.broadcast_to(sizes, keys.shape)[..., None]] = _LAST
    return np.argsort(hashed, axis=-1, kind="stable")


def uniform(key: int, n: int) -> NDArray[np.float64]:
    """Return ``n`` numbers in [0, 1) with 53 random bits each."""
    return (splitmix(key, n) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the NumPy generator (PCG64) that ``seed`` and ``names`` name."""
    return np.random.default_rng(key(seed, *names))
