"""Digests of all shares that a client deals, in one root: who hands on another share is found out.

A tree of SHA-256 over the leaves in order; of an odd row the last one goes up as it is.
"""

from collections.abc import Sequence
from typing import Final, Literal

from hanse.secagg import words

Of = Literal["mask key", "self mask"]
"""What is shared: the secret key of the masks with others, or the seed of one's own."""
KINDS: Final[tuple[Of, Of]] = ("mask key", "self mask")


def leaf(session: bytes, slot: int, kind: Of, dealer: int, holder: int, share: bytes) -> bytes:
    """Return the digest that stands for one share."""
    where = (words.u64(slot), bytes([KINDS.index(kind)]), words.u16(dealer), words.u16(holder))
    return words.digest("share-leaf", session, *where, share)


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over ``leaves``; of none, 32 zeros."""
    row = list(leaves)
    while len(row) > 1:
        row = _above(row)
    return row[0] if row else bytes(words.SIZE)


def path(leaves: Sequence[bytes], at: int) -> tuple[bytes, ...]:
    """Return what leads from a leaf to the root; an empty digest where a row's last goes up."""
    row, found = list(leaves), list[bytes]()
    while len(row) > 1:
        beside = at ^ 1
        found.append(row[beside] if beside < len(row) else b"")
        row, at = _above(row), at // 2
    return tuple(found)


def leads(leaf: bytes, at: int, count: int, steps: Sequence[bytes], top: bytes) -> bool:
    """Return whether ``leaf``, number ``at`` of ``count``, lies under the root ``top``."""
    here = leaf
    for beside in steps:
        if count <= 1:
            return False
        is_alone = at == count - 1 and at % 2 == 0
        if is_alone == bool(beside):
            return False
        if beside:
            here = words.digest("node", *((beside, here) if at % 2 else (here, beside)))
        at, count = at // 2, -(-count // 2)
    return count == 1 and words.is_same(here, top)


def _above(row: Sequence[bytes]) -> list[bytes]:
    pairs = [words.digest("node", *row[at : at + 2]) for at in range(0, len(row) - 1, 2)]
    return [*pairs, *row[len(pairs) * 2 :]]
