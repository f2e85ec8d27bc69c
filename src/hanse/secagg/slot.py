"""The keys of one slot: made, dealt to all others, and opened by them (docs/protocol.md §11.5).

A slot is one attempt at one sum. Its keys are used once and forgotten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from hanse.secagg import commitments, shamir, words
from hanse.secagg.aborts import SumAborted
from hanse.secagg.masks import Mask
from hanse.secagg.messages import Dealt, Header

NONCE: Final = bytes(12)
"""Each key of sealed shares seals once."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a client holds of ``dealer``'s secrets: a share of its mask key, and of its own mask's
    seed; both empty where what it was dealt is false.
    """

    dealer: int
    mask_key: bytes = field(repr=False)
    self_mask: bytes = field(repr=False)


def agreed(secret: bytes, public: bytes) -> bytes:
    """Return the 32 bytes of X25519 (RFC 7748); SumAborted (E_BAD_KEY) for a key of low order."""
    try:
        theirs = X25519PublicKey.from_public_bytes(public)
        return X25519PrivateKey.from_private_bytes(secret).exchange(theirs)
    except ValueError as error:
        raise SumAborted("E_BAD_KEY", "a public key gives no secret") from error


def public_of(secret: bytes) -> bytes:
    """Return the public key of an X25519 secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def commitment(session: bytes, slot: int, client: int, seed: bytes) -> bytes:
    """Return what a client says beforehand of its own mask's seed."""
    return words.digest("com-b", session, words.u64(slot), words.u16(client), seed)


def seal(chain: bytes, header: Header, holder: int, mask_key: bytes, self_mask: bytes) -> bytes:
    """Return two shares that only ``holder`` can read, 82 bytes. ``chain``: what the two know."""
    return ChaCha20Poly1305(_sealing(chain, header, holder)).encrypt(
        NONCE, mask_key + self_mask, _beside(header, holder)
    )


def opened(chain: bytes, header: Header, holder: int, dealt: Dealt, count: int) -> Held:
    """Return the shares that ``holder`` was dealt; empty ones if they are not those under the root.

    ``count``: how many clients each deals to.
    """
    none = Held(header.client, b"", b"")
    try:
        key = _sealing(chain, header, holder)
        plain = ChaCha20Poly1305(key).decrypt(NONCE, dealt.sealed, _beside(header, holder))
    except InvalidTag:
        return none
    if len(plain) != 2 * shamir.SHARE:
        return none
    held = Held(header.client, plain[: shamir.SHARE], plain[shamir.SHARE :])
    both = ((held.mask_key, dealt.mask_key), (held.self_mask, dealt.self_mask))
    for number, (share, path) in enumerate(both):
        kind = commitments.KINDS[number]
        leaf = commitments.leaf(header.session, header.slot, kind, header.client, holder, share)
        at = 2 * (holder - 1) + number
        if not commitments.leads(leaf, at, 2 * count, path, header.root):
            return none
    return held


def _sealing(chain: bytes, header: Header, holder: int) -> bytes:
    where = (words.u64(header.slot), words.u16(header.client), words.u16(holder), header.key)
    return words.derived(chain, header.session, "share-enc", *where)


def _beside(header: Header, holder: int) -> bytes:
    where = (words.u64(header.slot), words.u16(header.client), words.u16(holder))
    return words.fields(
        words.DOMAIN, b"share-aad", header.session, *where, header.key, header.commitment
    )


def leaves(
    session: bytes, slot: int, dealer: int, mask_key: Mapping[int, bytes],
    self_mask: Mapping[int, bytes],
) -> tuple[bytes, ...]:  # fmt: skip
    """Return the leaves of all shares of both kinds, by holder."""
    return tuple(
        commitments.leaf(session, slot, kind, dealer, holder, shares[holder])
        for holder in sorted(mask_key)
        for kind, shares in zip(commitments.KINDS, (mask_key, self_mask), strict=True)
    )


def context(
    session: bytes, policy: bytes, subject: bytes, *, slot: int, round: int, attempt: int,
    headers: Sequence[Header],
) -> bytes:  # fmt: skip
    """Return the digest of all that those in a slot must agree on; every mask follows from it.

    ``subject``: digest of what the vectors are about: run, model, segments (§11.6). A coordinator
    that shows two clients different things gets masks that do not cancel.
    """
    listed = words.digest("hdr-list", *(part for h in headers for part in (*h.told(), h.signature)))
    when = (words.u64(slot), words.u64(round), words.u32(attempt))
    return words.digest("ctx", session, *when, subject, policy, listed)


def self_seed(seed: bytes, session: bytes, context: bytes, client: int) -> bytes:
    """Return the seed of a client's own mask."""
    return words.derived(seed, session, "self-mask", context, words.u16(client))


def pair_seed(secret: bytes, public: bytes, session: bytes, context: bytes, *pair: int) -> bytes:
    """Return the seed of the mask of two clients, the same from either's keys."""
    low, high = sorted(pair)
    return words.derived(
        agreed(secret, public), session, "pair-mask", context, words.u16(low), words.u16(high)
    )


def pair_mask(secret: bytes, client: int, other: Header, session: bytes, context: bytes) -> Mask:
    """Return what ``client`` adds for ``other``: with whom it comes before, the stream; else the
    stream taken away, so that both cancel.
    """
    seed = pair_seed(secret, other.key, session, context, client, other.client)
    return Mask(seed, 1 if client < other.client else -1)
