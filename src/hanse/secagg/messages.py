"""What clients and coordinator say to each other in a secure sum (docs/protocol.md §11.3 to §11.7).

How a message travels is not what is signed: of that each field has its place in :mod:`.words`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, Final, get_args, get_origin, get_type_hints

from hanse.secagg import words
from hanse.secagg.aborts import SumAborted

LARGEST: Final = 2**26
"""Bytes of a message: the keys of a slot among 1,000 clients are a fifth of a megabyte."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A client's key for shares of this run, and that it agrees to the parameters."""

    client: int
    nonce: bytes
    key: bytes
    policy: bytes
    signature: bytes

    def told(self) -> tuple[bytes, ...]:
        """Return what is signed."""
        return (words.u16(self.client), self.nonce, self.key, self.policy)


@dataclass(frozen=True, slots=True)
class Roster:
    """Every client's hello, in order: whoever is in it takes part in the run."""

    hellos: tuple[Hello, ...]


@dataclass(frozen=True, slots=True)
class Confirm:
    """A client's signature of the session, so that all have seen the same hellos."""

    client: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Confirmed:
    """All confirmations, in order."""

    confirms: tuple[Confirm, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """A new slot: keys for one attempt at one sum."""

    slot: int


@dataclass(frozen=True, slots=True)
class Header:
    """A client's keys of a slot, as all others see them. ``key``: of the masks with others;
    ``commitment``: to the seed of its own mask; ``root``: over all shares that it deals.
    """

    session: bytes
    slot: int
    client: int
    key: bytes
    commitment: bytes
    root: bytes
    signature: bytes

    def told(self) -> tuple[bytes, ...]:
        """Return what is signed."""
        where = (self.session, words.u64(self.slot), words.u16(self.client))
        return (*where, self.key, self.commitment, self.root)


@dataclass(frozen=True, slots=True)
class Keys:
    """A client's header, the leaves under its root, and for each client its two shares, sealed."""

    header: Header
    leaves: tuple[bytes, ...]
    sealed: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Dealt:
    """What one client has dealt another: two shares, sealed, and their paths to the root."""

    sealed: bytes
    mask_key: tuple[bytes, ...]
    self_mask: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Open:
    """Who is masked with whom: the headers, sorted, and what each of them has dealt the reader."""

    slot: int
    round: int
    attempt: int
    headers: tuple[Header, ...]
    dealt: tuple[Dealt, ...]


@dataclass(frozen=True, slots=True)
class Masked:
    """A client's signature of what it has sent, by its digest, and whose shares were none."""

    context: bytes
    client: int
    content: bytes
    bad: bytes
    signature: bytes

    def told(self) -> tuple[bytes, ...]:
        """Return what is signed."""
        return (self.context, words.u16(self.client), self.content, self.bad)


@dataclass(frozen=True, slots=True)
class Survivors:
    """Whose vectors are summed, a bit for each client, and the reader's receipt under a root."""

    context: bytes
    survivors: bytes
    receipts: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """A client's signature of the survivors, of which it gives one in a slot."""

    client: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Acks:
    """Enough of them."""

    acks: tuple[Ack, ...]


@dataclass(frozen=True, slots=True)
class Shares:
    """Of each client in the slot one share, in order: of its own mask's seed, if it is summed, or
    of its mask key; empty where the holder has none that is good.
    """

    context: bytes
    client: int
    shares: tuple[bytes, ...]


Asked = Roster | Confirmed | Begin | Open | Survivors | Acks
Answer = Hello | Confirm | Keys | Masked | Ack | Shares
KINDS: Final[tuple[type[Any], ...]] = (
    Hello, Roster, Confirm, Confirmed, Begin, Keys, Open, Masked, Survivors, Ack, Acks, Shares,
)  # fmt: skip


def encoded(message: Asked | Answer) -> bytes:
    """Return a message as it travels."""
    return words.fields(bytes([KINDS.index(type(message))]), _packed(message))


def decoded(content: bytes) -> Any:
    """Return the message in ``content``; SumAborted (E_PROTO) for what is none."""
    try:
        if len(content) > LARGEST:
            raise ValueError("too long")
        kind, body = _split(content)
        if len(kind) != 1:
            raise ValueError("no kind")
        return _unpacked(KINDS[kind[0]], body)
    except (ValueError, IndexError, TypeError) as error:
        raise SumAborted("E_PROTO", "these bytes are no message") from error


def packed(value: Any) -> bytes:
    """Return any record of integers, bytes, and tuples of such, as bytes."""
    return _packed(value)


def unpacked(kind: type[Any], content: bytes) -> Any:
    """Return the record of type ``kind``; ValueError for what is none."""
    return _unpacked(kind, content)


def _packed(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return words.u64(value)
    if isinstance(value, tuple):
        parts: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
        return words.fields(*map(_packed, parts))
    return words.fields(*(_packed(getattr(value, field.name)) for field in fields(value)))


def _unpacked(kind: Any, content: bytes) -> Any:
    if kind is bytes:
        return content
    if kind is int:
        if len(content) != 8:
            raise ValueError("no number")
        return int.from_bytes(content, "big")
    if get_origin(kind) is tuple:
        return tuple(_unpacked(get_args(kind)[0], part) for part in _split(content))
    if not is_dataclass(kind):
        raise TypeError(kind)
    wanted, parts = _hints(kind), _split(content)  # pyright: ignore[reportArgumentType]
    if len(parts) != len(wanted):
        raise ValueError("fields are missing")
    return kind(*(_unpacked(one, part) for one, part in zip(wanted, parts, strict=True)))  # pyright: ignore


@lru_cache
def _hints(kind: type[Any]) -> tuple[Any, ...]:
    hints = get_type_hints(kind)
    return tuple(hints[field.name] for field in fields(kind))


def _split(content: bytes) -> list[bytes]:
    found, at = list[bytes](), 0
    while at < len(content):
        end = at + 4 + int.from_bytes(content[at : at + 4], "big")
        if at + 4 > len(content) or end > len(content):
            raise ValueError("cut short")
        found.append(content[at + 4 : end])
        at = end
    return found


def bits(clients: Iterable[int], count: int) -> bytes:
    """Return a bit for each of ``count`` clients, the first in the highest of the first byte."""
    found = bytearray(-(-count // 8))
    for client in clients:
        found[(client - 1) // 8] |= 0x80 >> (client - 1) % 8
    return bytes(found)


def clients_in(given: bytes, count: int) -> tuple[int, ...]:
    """Return the clients whose bit is set; SumAborted (E_PROTO) for bits that are none."""
    found = tuple(
        n for n in range(1, 8 * len(given) + 1) if given[(n - 1) // 8] & 0x80 >> (n - 1) % 8
    )
    if len(given) != -(-count // 8) or (found and found[-1] > count):
        raise SumAborted("E_PROTO", f"{len(given)} bytes are no bits of {count} clients")
    return found
