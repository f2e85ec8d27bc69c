"""Clients and a coordinator of a secure sum, joined by bytes: real ends, and a wire that a test
may bend.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hanse.secagg import client as ends
from hanse.secagg.aborts import SumAborted
from hanse.secagg.coordinator import Gathering, Masking, Meeting, Settling
from hanse.secagg.masks import Mask, masked
from hanse.secagg.messages import Begin, Open, decoded, encoded
from hanse.secagg.parameters import Parameters
from hanse.secagg.ring import Segment
from hanse.secagg.session import Agreement

SEGMENTS = (Segment("model", 7), Segment("scalars", 2, 64, 64))
SUBJECT = hashlib.sha256(b"what it is about").digest()


def bytes_of(seed: str) -> Callable[[int], bytes]:
    """Return a source of bytes that are no secret, for tests."""
    return random.Random(seed).randbytes


@dataclass
class Member:
    """One client: its number, its keys, its state, and what it sends."""

    number: int
    agreement: Agreement
    identity: Ed25519PrivateKey
    chance: Callable[[int], bytes]
    vectors: tuple[np.ndarray, ...]
    subject: bytes = SUBJECT
    state: Any = None
    content: tuple[np.ndarray, ...] = ()

    def hello(self):
        self.state, said = ends.greeted(
            self.agreement, self.number, self.identity.sign, self.chance
        )
        return said

    def hear(self, message):
        """Answer a message that has travelled; the state is what it would have on disk."""
        self.state, said = ends.answered(
            self.agreement, self.number, self.state, decoded(encoded(message)),
            self.identity.sign, self.chance, lambda round: self.subject,
        )  # fmt: skip
        return said if said is None or isinstance(said, SumAborted) else decoded(encoded(said))

    def mask(self):
        """Mask all vectors, keep what is sent, and return the receipt."""
        assert isinstance(self.state, ends.Opened)
        self.content = tuple(
            masked(segment.to_ring(vector), self.state.masks, segment, number, 0)
            for number, (segment, vector) in enumerate(
                zip(self.agreement.segments, self.vectors, strict=True)
            )
        )
        self.state, receipt = ends.sent(
            self.agreement, self.number, self.state, self.digest, self.identity.sign
        )
        return decoded(encoded(receipt))

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(b"".join(part.tobytes() for part in self.content)).digest()


@dataclass
class Federation:
    """``members`` by number, and the coordinator's side of the slot that is under way."""

    parameters: Parameters
    segments: tuple[Segment, ...] = SEGMENTS
    seed: str = "0"
    members: dict[int, Member] = field(default_factory=dict)

    def __post_init__(self):
        n = self.parameters.clients
        keys = [Ed25519PrivateKey.from_private_bytes(bytes_of(f"id {i}")(32)) for i in range(n)]
        public = tuple(key.public_key().public_bytes_raw() for key in keys)
        self.agreement = Agreement(self.parameters, self.segments, public)
        draw = np.random.default_rng(len(self.seed))
        for number, key in enumerate(keys, 1):
            vectors = tuple(draw.integers(-999, 1000, s.length) for s in self.segments)
            chance = bytes_of(f"{self.seed} {number}")
            self.members[number] = Member(number, self.agreement, key, chance, vectors)
        self.slot = 0

    def join(self) -> bytes:
        """Agree on a session."""
        meeting = Meeting(self.agreement)
        for member in self.members.values():
            meeting = meeting.hello(decoded(encoded(member.hello())))
        for member in self.members.values():
            meeting = meeting.confirm(right(member.hear(meeting.roster())))
        for member in self.members.values():
            assert member.hear(meeting.confirmed()) is None
        self.session = meeting.session
        return self.session

    def keyed(self, clients: Iterable[int]) -> Gathering:
        """Begin a slot, of which ``clients`` send keys."""
        gathering = Gathering(self.agreement, self.session, self.slot)
        for number in clients:
            gathering = gathering.add(right(self.members[number].hear(Begin(self.slot))))
        self.slot += 1
        return gathering

    def opened(self, clients: Iterable[int], round: int = 1, attempt: int = 0) -> Masking:
        """Open a slot among ``clients``."""
        masking = self.keyed(clients).opened(round, attempt, SUBJECT)
        for number in masking.keys:
            assert right(self.members[number].hear(masking.open(number))) is None
        return masking

    def received(self, masking: Masking, senders: Iterable[int]) -> Settling:
        """Have ``senders`` send their vectors."""
        for number in senders:
            receipt = self.members[number].mask()
            masking = masking.add(receipt, self.members[number].digest)
        return masking.closed()

    def acked(self, settling: Settling, signers: Iterable[int]) -> Settling:
        """Have ``signers`` sign who is summed."""
        if self.parameters.mode == "curious":
            return settling
        for number in signers:
            settling = settling.ack(right(self.members[number].hear(settling.asked(number))))
        return settling

    def shared(self, settling: Settling, holders: Iterable[int]) -> Settling:
        """Have ``holders`` give their shares."""
        for number in holders:
            asked = settling.acknowledged() if self.parameters.quorum else settling.asked(number)
            settling = settling.share(right(self.members[number].hear(asked)))
        return settling

    def unmasked(self, settling: Settling) -> list[np.ndarray]:
        """Return the sum of each segment."""
        return unmasked(
            self.segments,
            {number: self.members[number].content for number in settling.survivors},
            settling.masks(),
        )

    def exact(self, clients: Iterable[int]) -> list[np.ndarray]:
        """Return what the sum ought to be."""
        vectors = [self.members[number].vectors for number in clients]
        return [sum(parts) for parts in zip(*vectors, strict=True)]


def unmasked(
    segments: tuple[Segment, ...], sent: Mapping[int, tuple[np.ndarray, ...]], masks: list[Mask]
) -> list[np.ndarray]:
    """Return the sum of what was sent, without its masks."""
    found = []
    for number, segment in enumerate(segments):
        total = np.zeros(segment.length, segment.dtype)
        for content in sent.values():
            total += content[number]
        found.append(segment.centred(masked(total, masks, segment, number, 0)))
    return found


def right(said):
    """Return an answer; raise what is an abort."""
    if isinstance(said, SumAborted):
        raise said
    return said


def opening(masking: Masking, number: int) -> Open:
    """Return what a client is told when a slot opens."""
    return masking.open(number)
