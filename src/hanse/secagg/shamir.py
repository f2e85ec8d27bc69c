"""Shamir's secret sharing of 32 bytes (CACM 22(11), 1979) over the prime 2^256 + 297.

A share says which point it is of; fewer than the threshold say nothing of the secret. Python's
integers take a time that depends on their values: whoever can time a client's process closely is
not kept out (docs/threat-model.md).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

PRIME: Final = 2**256 + 297
"""The smallest one above 2^256."""
SECRET: Final = 32
SHARE: Final = 33
DRAWN: Final = 48
"""Bytes of a coefficient before it is reduced: within 2^-126 of uniform."""

Random = Callable[[int], bytes]
"""So many bytes of the operating system's."""


def shared(
    secret: bytes, threshold: int, points: Iterable[int], random: Random
) -> dict[int, bytes]:
    """Return a share of 33 bytes for each of ``points``, any ``threshold`` of which give 32 bytes.

    ValueError for a secret of another length, or points that are none.
    """
    if len(secret) != SECRET or threshold < 1:
        raise ValueError(f"a secret of {len(secret)} bytes, threshold {threshold}")
    coefficients = [_drawn(random) for _ in range(threshold - 1)]
    return evaluated(secret, coefficients, points)


def evaluated(
    secret: bytes, coefficients: Sequence[int], points: Iterable[int]
) -> dict[int, bytes]:
    """Return the polynomial's values, the secret being its constant."""
    whole = [*reversed(coefficients), int.from_bytes(secret, "big")]
    found = dict[int, bytes]()
    for point in points:
        if not 0 < point < 2**16:
            raise ValueError(f"{point} is no point of a share")
        value = 0
        for coefficient in whole:
            value = (value * point + coefficient) % PRIME
        found[point] = value.to_bytes(SHARE, "big")
    return found


def _drawn(random: Random) -> int:
    return int.from_bytes(random(DRAWN), "big") % PRIME


def weights(points: Sequence[int]) -> dict[int, int]:
    """Return Lagrange's weights at 0 of ``points``: one for each, whatever the secret."""
    found = dict[int, int]()
    for point in points:
        above, below = 1, 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        found[point] = above * pow(below, -1, PRIME) % PRIME
    return found


def recovered(shares: Mapping[int, bytes], by: Mapping[int, int]) -> bytes:
    """Return the secret of which ``shares`` (of just the points of ``by``) are.

    ValueError if they are of no 32 bytes: some of them are false, or too few.
    """
    value = sum(int.from_bytes(shares[point], "big") * weight for point, weight in by.items())
    return (value % PRIME).to_bytes(SHARE, "big")[1:] if value % PRIME < 2**256 else _none()


def _none() -> bytes:
    raise ValueError("these shares are of no secret")
