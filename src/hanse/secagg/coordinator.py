"""The coordinator's end of a secure sum: what it may ask next, and what the answers come to
(docs/protocol.md §11.3 to §11.8). Values in, values out; who calls decides how long it waits.

It has no way to ask for both kinds of share: of a client in the sum it takes shares of the seed of
its own mask, of another those of its mask key, and each is checked against what was dealt.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from hanse.secagg import commitments, shamir, words
from hanse.secagg import slot as slots
from hanse.secagg.aborts import SumAborted
from hanse.secagg.client import receipt_leaf, survivors_told
from hanse.secagg.masks import Mask
from hanse.secagg.messages import (
    Ack,
    Acks,
    Confirm,
    Confirmed,
    Dealt,
    Header,
    Hello,
    Keys,
    Masked,
    Open,
    Roster,
    Shares,
    Survivors,
)  # fmt: skip
from hanse.secagg.session import Agreement


@dataclass(frozen=True, slots=True)
class Meeting:
    """The hellos and confirmations that have come."""

    agreement: Agreement
    hellos: Mapping[int, Hello] = field(default_factory=dict[int, Hello])
    confirms: Mapping[int, Confirm] = field(default_factory=dict[int, Confirm])

    def hello(self, hello: Hello) -> Self:
        """Return the meeting with a hello in it."""
        self.agreement.check_number(hello.client)
        return replace(self, hellos={**self.hellos, hello.client: hello})

    def roster(self) -> Roster:
        """Return all hellos; SumAborted if they are not everybody's."""
        found = tuple(self.hellos[client] for client in sorted(self.hellos))
        self.agreement.session(found)
        return Roster(found)

    def confirm(self, confirm: Confirm) -> Self:
        """Return the meeting with a confirmation in it."""
        self.agreement.check_number(confirm.client)
        return replace(self, confirms={**self.confirms, confirm.client: confirm})

    def confirmed(self) -> Confirmed:
        """Return all confirmations; SumAborted if they are not everybody's, or of two sessions."""
        found = tuple(self.confirms[client] for client in sorted(self.confirms))
        self.agreement.check_confirmed(self.session, found)
        return Confirmed(found)

    @property
    def session(self) -> bytes:
        """The session's id."""
        return self.agreement.session(self.roster().hellos)


@dataclass(frozen=True, slots=True)
class Gathering:
    """The keys of a slot that have come."""

    agreement: Agreement
    session: bytes
    slot: int
    keys: Mapping[int, Keys] = field(default_factory=dict[int, Keys])

    def add(self, keys: Keys) -> Self:
        """Return it with a client's keys; SumAborted for keys that are none."""
        header, count = keys.header, self.agreement.count
        self.agreement.check_number(header.client)
        if header.session != self.session or header.slot != self.slot:
            raise SumAborted("E_REPLAY", f"client {header.client} has sent older keys")
        if not self.agreement.is_signed(header.client, header.signature, "hdr", *header.told()):
            raise SumAborted("E_SIG", f"the keys of client {header.client} are not its own")
        is_whole = len(keys.leaves) == 2 * count and len(keys.sealed) == count
        if not is_whole or commitments.root(keys.leaves) != header.root:
            raise SumAborted("E_PROTO", "the leaves are not under the root", [header.client])
        return replace(self, keys={**self.keys, header.client: keys})

    def opened(
        self, round: int, attempt: int, subject: bytes, without: Iterable[int] = ()
    ) -> "Masking":
        """Return the slot with those whose keys are there; SumAborted if they are too few.

        ``without``: clients who are left out, for dealing false shares.
        """
        keys = {client: self.keys[client] for client in sorted({*self.keys} - {*without})}
        headers = tuple(one.header for one in keys.values())
        self.agreement.check_headers(self.session, self.slot, headers)
        context = slots.context(
            self.session, self.agreement.policy, subject, slot=self.slot, round=round,
            attempt=attempt, headers=headers,
        )  # fmt: skip
        return Masking(self.agreement, keys, round, attempt, context)


@dataclass(frozen=True, slots=True)
class Masking:
    """A slot is open: masked vectors come."""

    agreement: Agreement
    keys: Mapping[int, Keys]
    round: int
    attempt: int
    context: bytes
    received: Mapping[int, Masked] = field(default_factory=dict[int, Masked])

    @property
    def headers(self) -> tuple[Header, ...]:
        """The headers of all in the slot, in order."""
        return tuple(one.header for one in self.keys.values())

    def open(self, client: int) -> Open:
        """Return what one client is told."""
        slot = self.headers[0].slot
        dealt = tuple(_dealt(keys, client) for keys in self.keys.values())
        return Open(slot, self.round, self.attempt, self.headers, dealt)

    def add(self, masked: Masked, content: bytes) -> Self:
        """Return it with a receipt; ``content``: the digest of what the client has sent."""
        client = masked.client
        if client not in self.keys or not words.is_same(masked.context, self.context):
            raise SumAborted("E_CTX", f"client {client} has sent something of another slot")
        if not self.agreement.is_signed(client, masked.signature, "receipt", *masked.told()):
            raise SumAborted("E_SIG", f"the receipt of client {client} is not its own")
        if not words.is_same(masked.content, content):
            raise SumAborted("E_INPUT", "the receipt is for other bytes", [client])
        self.agreement.clients_in(masked.bad)
        return replace(self, received={**self.received, client: masked})

    def closed(self) -> "Settling":
        """Return the slot with a sum over those who have sent; SumAborted if they are too few, or
        if of some client too few hold shares that are good, which ``blamed`` has.
        """
        survivors = tuple(sorted(self.received))
        if len(survivors) < self.agreement.fewest:
            raise SumAborted("E_SMALL", f"{len(survivors)} survivors, not {self.agreement.fewest}")
        told = {one: {*self.agreement.clients_in(self.received[one].bad)} for one in survivors}
        bad = [
            dealer for dealer in self.keys
            if sum(dealer not in told[one] for one in survivors)
            < self.agreement.parameters.threshold
        ]  # fmt: skip
        if bad:
            raise SumAborted("E_DEC", "too few clients hold shares of some others", bad)
        return Settling(self, survivors)


def _dealt(keys: Keys, holder: int) -> Dealt:
    at = 2 * (holder - 1)
    paths = (commitments.path(keys.leaves, at), commitments.path(keys.leaves, at + 1))
    return Dealt(keys.sealed[holder - 1], *paths)


@dataclass(frozen=True, slots=True)
class Settling:
    """Who is summed does not change any more: signatures of it come, then shares."""

    masking: Masking
    survivors: tuple[int, ...]
    acks: Mapping[int, Ack] = field(default_factory=dict[int, Ack])
    shares: Mapping[int, Mapping[int, bytes]] = field(
        default_factory=dict[int, Mapping[int, bytes]]
    )

    @property
    def agreement(self) -> Agreement:
        """What all know."""
        return self.masking.agreement

    def asked(self, client: int) -> Survivors:
        """Return what a survivor is told."""
        leaves = [receipt_leaf(self.masking.received[one]) for one in self.survivors]
        return Survivors(
            self.masking.context,
            self.agreement.bits(self.survivors),
            commitments.root(leaves),
            commitments.path(leaves, self.survivors.index(client)),
        )

    def ack(self, ack: Ack) -> Self:
        """Return it with a survivor's signature."""
        if ack.client not in self.survivors:
            raise SumAborted("E_QUORUM", f"client {ack.client} is no survivor")
        told = survivors_told(self.asked(ack.client))
        if not self.agreement.is_signed(ack.client, ack.signature, "survivors", *told):
            raise SumAborted("E_QUORUM", f"client {ack.client} signed something else")
        return replace(self, acks={**self.acks, ack.client: ack})

    @property
    def is_settled(self) -> bool:
        """Whether enough have signed."""
        return len(self.acks) >= self.agreement.parameters.quorum

    def acknowledged(self) -> Acks:
        """Return enough signatures; SumAborted (E_QUORUM) if there are too few."""
        if not self.is_settled:
            raise SumAborted("E_QUORUM", f"{len(self.acks)} clients have signed")
        return Acks(tuple(self.acks[client] for client in sorted(self.acks)))

    def share(self, given: Shares) -> Self:
        """Return it with one client's shares; SumAborted (E_SHARE) blames who gives a false one."""
        keys = self.masking.keys
        if given.client not in self.survivors or given.context != self.masking.context:
            raise SumAborted("E_CTX", f"client {given.client} gives shares of another slot")
        if len(given.shares) != len(keys):
            raise SumAborted("E_SHARE", "shares are missing", [given.client])
        bad = {*self.agreement.clients_in(self.masking.received[given.client].bad)}
        found = dict[int, bytes]()
        for dealer, share in zip(keys, given.shares, strict=True):
            if not share and dealer in bad:
                continue
            kind = commitments.KINDS[dealer in self.survivors]
            header, number = keys[dealer].header, int(dealer in self.survivors)
            leaf = commitments.leaf(header.session, header.slot, kind, dealer, given.client, share)
            if not words.is_same(leaf, keys[dealer].leaves[2 * (given.client - 1) + number]):
                raise SumAborted("E_SHARE", "a share is not the one that was dealt", [given.client])
            found[dealer] = share
        return replace(self, shares={**self.shares, given.client: found})

    @property
    def is_enough(self) -> bool:
        """Whether there are shares enough of every client's secret."""
        t = self.agreement.parameters.threshold
        return all(len(self._holders(dealer)) >= t for dealer in self.masking.keys)

    def _holders(self, dealer: int) -> tuple[int, ...]:
        return tuple(client for client in sorted(self.shares) if dealer in self.shares[client])

    def masks(self) -> list[Mask]:
        """Return the masks that take the masks off the sum.

        SumAborted (E_SHARE) if shares are too few, or of a secret that is not what was promised:
        then ``blamed`` has who dealt it.
        """
        if not self.is_enough:
            raise SumAborted("E_SHARE", f"{len(self.shares)} clients have given shares")
        weights = dict[tuple[int, ...], dict[int, int]]()
        found = list[Mask]()
        for dealer in self.masking.keys:
            holders = self._holders(dealer)[: self.agreement.parameters.threshold]
            by = weights.setdefault(holders, shamir.weights(holders))
            shares = {holder: self.shares[holder][dealer] for holder in holders}
            secret = _recovered(dealer, shares, by)
            found += self._of(self.masking.keys[dealer].header, secret)
        return found

    def _of(self, header: Header, secret: bytes) -> list[Mask]:
        client, session, context = header.client, header.session, self.masking.context
        if client in self.survivors:
            promised = slots.commitment(session, header.slot, client, secret)
            _check(client, promised, header.commitment)
            return [Mask(slots.self_seed(secret, session, context, client)).reversed()]
        _check(client, slots.public_of(secret), header.key)
        return [
            slots.pair_mask(secret, client, other, session, context)
            for other in self.masking.headers
            if other.client in self.survivors
        ]


def _recovered(dealer: int, shares: Mapping[int, bytes], by: Mapping[int, int]) -> bytes:
    try:
        return shamir.recovered(shares, by)
    except ValueError as error:
        raise SumAborted("E_SHARE", "a client has dealt shares of no secret", [dealer]) from error


def _check(dealer: int, found: bytes, promised: bytes) -> None:
    if not words.is_same(found, promised):
        raise SumAborted("E_SHARE", "a client has dealt shares of another secret", [dealer])
