"""What all ends of a secure sum know of a run: members, their numbers, and the session they agreed
on (docs/protocol.md §11.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hanse.secagg import messages, words
from hanse.secagg.aborts import SumAborted
from hanse.secagg.messages import Confirm, Header, Hello
from hanse.secagg.parameters import Parameters
from hanse.secagg.ring import Segment


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a client knows before anybody says a word. ``members``: identity keys (Ed25519, 32
    bytes) of all clients, from the roster that it pinned, in the order of their names; a client's
    number is its place, from 1 on.
    """

    parameters: Parameters
    segments: tuple[Segment, ...]
    members: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Refuse members that are not as many as agreed, or twice the same."""
        if len(self.members) != self.parameters.clients or len({*self.members}) < self.count:
            raise SumAborted("E_ROSTER", "the clients are not those that were agreed on")

    @property
    def count(self) -> int:
        """How many clients there are."""
        return len(self.members)

    @property
    def policy(self) -> bytes:
        """The digest of parameters and members."""
        agreed = self.parameters.digest(self.segments)
        return words.digest("members", agreed, *self.members)

    def check_number(self, client: int) -> None:
        """Raise SumAborted (E_ROSTER) for a number that is nobody's."""
        if not 1 <= client <= self.count:
            raise SumAborted("E_ROSTER", f"client {client} of {self.count} is nobody")

    def is_signed(self, client: int, signature: bytes, label: words.Label, *parts: bytes) -> bool:
        """Return whether it is that client's signature."""
        return words.is_signed(self.members[client - 1], signature, label, *parts)

    def session(self, hellos: Sequence[Hello]) -> bytes:
        """Return the session's id, 32 bytes; SumAborted for hellos that are not everybody's."""
        if [hello.client for hello in hellos] != [*range(1, self.count + 1)]:
            raise SumAborted("E_ROSTER", "not every client has said its hello, once, in order")
        for hello in hellos:
            if not words.is_same(hello.policy, self.policy):
                raise SumAborted(
                    "E_POLICY", f"client {hello.client} agreed to other parameters", [hello.client]
                )
            if not self.is_signed(hello.client, hello.signature, "roster", *hello.told()):
                raise SumAborted("E_SIG", f"the hello of client {hello.client} is not its own")
        if len({hello.key for hello in hellos}) < len(hellos):
            raise SumAborted("E_ROSTER", "two clients have said the same key")
        return words.digest(
            "session", self.policy, *(part for h in hellos for part in (*h.told(), h.signature))
        )

    def check_confirmed(self, session: bytes, confirms: Sequence[Confirm]) -> None:
        """Raise SumAborted unless everybody has signed ``session``."""
        if [confirm.client for confirm in confirms] != [*range(1, self.count + 1)]:
            raise SumAborted("E_ROSTER", "not every client has confirmed the session")
        for confirm in confirms:
            if not self.is_signed(confirm.client, confirm.signature, "confirm", session):
                raise SumAborted("E_ROSTER", f"client {confirm.client} confirmed another session")

    def check_headers(self, session: bytes, slot: int, headers: Sequence[Header]) -> None:
        """Raise SumAborted for headers that are not sorted, signed, and of this slot; E_SMALL if
        there are too few.
        """
        numbers = [header.client for header in headers]
        if numbers != sorted({*numbers}):
            raise SumAborted("E_ROSTER", "the clients in the slot are not in order, once each")
        for header in headers:
            self.check_number(header.client)
            if header.session != session or header.slot != slot:
                raise SumAborted("E_REPLAY", f"the keys of client {header.client} are older ones")
            if not self.is_signed(header.client, header.signature, "hdr", *header.told()):
                raise SumAborted("E_SIG", f"the keys of client {header.client} are not its own")
        if len(numbers) < self.fewest:
            raise SumAborted("E_SMALL", f"{len(numbers)} clients in a slot, not {self.fewest}")

    @property
    def fewest(self) -> int:
        """How many clients must be in a slot, and in a sum."""
        return max(self.parameters.minimum, self.parameters.threshold)

    def clients_in(self, given: bytes) -> tuple[int, ...]:
        """Return the clients whose bit is set."""
        return messages.clients_in(given, self.count)

    def bits(self, clients: Sequence[int]) -> bytes:
        """Return a bit for each client."""
        return messages.bits(clients, self.count)


def chain_of(secret: bytes, session: bytes, one: int, two: int) -> bytes:
    """Return what two clients seal shares of the first slot under; ``secret``: of X25519."""
    low, high = sorted((one, two))
    return words.derived(secret, session, "chain", words.u16(low), words.u16(high))


def next_of(chain: bytes) -> bytes:
    """Return what comes after it; nothing leads back."""
    return words.derived(chain, None, "next")
