"""A client's end of a secure sum: a machine without I/O (docs/protocol.md §11.3 to §11.7).

    state, answer = answered(agreement, me, state, message, sign, random)

What it returns as state has to be on disk before the answer leaves. It gives, of each client in a
slot, one share of one kind, once, and only of the one set of survivors that it signed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hanse.secagg import commitments, shamir, words
from hanse.secagg import slot as slots
from hanse.secagg.aborts import SumAborted
from hanse.secagg.masks import Mask
from hanse.secagg.messages import (
    Ack,
    Acks,
    Answer,
    Asked,
    Begin,
    Confirm,
    Confirmed,
    Header,
    Hello,
    Keys,
    Masked,
    Open,
    Roster,
    Shares,
    Survivors,
)  # fmt: skip
from hanse.secagg.session import Agreement, chain_of, next_of
from hanse.secagg.shamir import Random
from hanse.secagg.slot import Held

Sign = Callable[[bytes], bytes]
"""From what is signed to the signature of the client's identity key."""
FARTHEST: Final = 10_000
"""Slots that a client may have missed."""
MOST_ATTEMPTS: Final = 1000
"""At one round."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """A hello has been said; ``secret`` is the X25519 key of it."""

    secret: bytes = field(repr=False)
    hello: Hello


@dataclass(frozen=True, slots=True)
class Joined:
    """All hellos are known, and the session confirmed. ``chains``: what is shared with each other
    client, nothing in the own place.
    """

    session: bytes
    chains: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """Between slots. ``slot``: the next one; ``round`` and ``attempt``: the last that was opened;
    ``revealed``: the last round of which a share was given.
    """

    session: bytes
    chains: tuple[bytes, ...] = field(repr=False)
    slot: int = 0
    round: int = 0
    attempt: int = 0
    revealed: int = 0


@dataclass(frozen=True, slots=True)
class Keyed:
    """The keys of a slot are made and dealt. ``chains``: those of this slot; ``own``: the shares
    that the client deals itself.
    """

    ready: Ready
    chains: tuple[bytes, ...] = field(repr=False)
    header: Header
    mask_key: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    own: Held = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """Who is in the slot is known; the vector is to be masked. ``bad``: dealers of false shares."""

    ready: Ready
    context: bytes
    within: tuple[int, ...]
    held: tuple[Held, ...] = field(repr=False)
    masks: tuple[Mask, ...] = field(repr=False)

    @property
    def bad(self) -> tuple[int, ...]:
        """Those whose shares are none."""
        return tuple(held.dealer for held in self.held if not held.self_mask)


@dataclass(frozen=True, slots=True)
class Sent:
    """The masked vector is settled, and may leave."""

    ready: Ready
    context: bytes
    within: tuple[int, ...]
    held: tuple[Held, ...] = field(repr=False)
    masked: Masked


@dataclass(frozen=True, slots=True)
class Acked:
    """A set of survivors is signed: no other one ever is."""

    sent: Sent
    survivors: Survivors


State = Greeting | Joined | Ready | Keyed | Opened | Sent | Acked
Result = tuple[State, Answer]


def greeted(agreement: Agreement, me: int, sign: Sign, random: Random) -> Result:
    """Return the first state and the hello."""
    secret, nonce = random(words.SIZE), random(words.SIZE)
    bare = Hello(me, nonce, slots.public_of(secret), agreement.policy, b"")
    hello = replace(bare, signature=sign(words.statement("roster", *bare.told())))
    return Greeting(secret, hello), hello


def answered(
    agreement: Agreement, me: int, state: State, asked: Asked, sign: Sign, random: Random,
    subject: Callable[[int], bytes] = lambda round: b"",
) -> tuple[State, Answer | SumAborted | None]:  # fmt: skip
    """Return the state after ``asked``, and what to say; nothing where the vector comes first.

    ``subject``: from a round to the digest of what this client knows its vector to be about. What
    breaks the protocol ends the slot, or, before there is one, the session: SumAborted is what to
    say then.
    """
    try:
        match state, asked:
            case Greeting(), Roster():
                return _joined(agreement, me, state, asked, sign)
            case Joined(), Confirmed():
                agreement.check_confirmed(state.session, asked.confirms)
                return Ready(state.session, state.chains), None
            case Ready() | Keyed() | Opened() | Sent() | Acked(), Begin():
                return _keyed(agreement, me, between(state), asked, sign, random)
            case Keyed(), Open():
                return _opened(agreement, me, state, asked, subject)
            case Sent(), Survivors():
                return _settled(agreement, me, state, asked, sign)
            case Acked(), Survivors():
                raise SumAborted("E_SET_CHANGED", "a set of survivors is signed already")
            case Acked(), Acks():
                return _shared(agreement, me, state, asked)
            case Ready(), Open() | Survivors() | Acks():
                raise SumAborted("E_REPLAY", f"no slot is open for a {_name(asked)}")
            case _:
                raise SumAborted("E_PROTO", f"a {_name(asked)} after a {_name(state)}")
    except SumAborted as aborted:
        return (state if isinstance(state, Greeting | Joined) else between(state)), aborted


def _name(value: Any) -> str:
    return type(value).__name__.lower()


def between(state: State) -> Ready:
    """Return the state in which nothing of a slot is known any more."""
    match state:
        case Ready():
            return state
        case Keyed() | Opened() | Sent():
            return state.ready
        case Acked():
            return state.sent.ready
        case _:
            raise SumAborted("E_PROTO", f"there is no session after a {_name(state)}")


def _joined(agreement: Agreement, me: int, state: Greeting, asked: Roster, sign: Sign) -> Result:
    session = agreement.session(asked.hellos)
    if asked.hellos[me - 1] != state.hello:
        raise SumAborted("E_ROSTER", "the hello of this client is not the one that it said")
    chains = tuple(
        b"" if hello.client == me
        else chain_of(slots.agreed(state.secret, hello.key), session, me, hello.client)
        for hello in asked.hellos
    )  # fmt: skip
    return Joined(session, chains), Confirm(me, sign(words.statement("confirm", session)))


def _keyed(
    agreement: Agreement, me: int, ready: Ready, asked: Begin, sign: Sign, random: Random
) -> Result:
    if not ready.slot <= asked.slot < ready.slot + FARTHEST:
        raise SumAborted("E_REPLAY", f"slot {asked.slot} does not come after {ready.slot - 1}")
    chains = ready.chains
    for _ in range(asked.slot - ready.slot):
        chains = _further(chains)
    after = replace(ready, chains=_further(chains), slot=asked.slot + 1)
    mask_key, seed = random(words.SIZE), random(words.SIZE)
    everyone, t = range(1, agreement.count + 1), agreement.parameters.threshold
    keys = shamir.shared(mask_key, t, everyone, random)
    seeds = shamir.shared(seed, t, everyone, random)
    leaves = slots.leaves(ready.session, asked.slot, me, keys, seeds)
    header = Header(
        ready.session, asked.slot, me, slots.public_of(mask_key),
        slots.commitment(ready.session, asked.slot, me, seed), commitments.root(leaves), b"",
    )  # fmt: skip
    header = replace(header, signature=sign(words.statement("hdr", *header.told())))
    sealed = tuple(
        b"" if other == me else slots.seal(chain, header, other, keys[other], seeds[other])
        for other, chain in zip(everyone, chains, strict=True)
    )
    own = Held(me, keys[me], seeds[me])
    return Keyed(after, chains, header, mask_key, seed, own), Keys(header, leaves, sealed)


def _further(chains: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(chain and next_of(chain) for chain in chains)


def _opened(
    agreement: Agreement, me: int, state: Keyed, asked: Open, subject: Callable[[int], bytes]
) -> tuple[State, None]:
    ready, header = state.ready, state.header
    if asked.slot != header.slot:
        raise SumAborted("E_REPLAY", f"slot {asked.slot}, and the keys are of {header.slot}")
    is_new = (asked.round, asked.attempt) > (ready.round, ready.attempt)
    if not is_new or asked.round <= ready.revealed or asked.attempt > MOST_ATTEMPTS:
        raise SumAborted("E_REPLAY", f"round {asked.round}, attempt {asked.attempt} is not new")
    agreement.check_headers(ready.session, header.slot, asked.headers)
    if header not in asked.headers or len(asked.dealt) != len(asked.headers):
        raise SumAborted("E_ROSTER", "this client's keys are not as it gave them")
    held = tuple(
        state.own if other.client == me
        else slots.opened(state.chains[other.client - 1], other, me, dealt, agreement.count)
        for other, dealt in zip(asked.headers, asked.dealt, strict=True)
    )  # fmt: skip
    within = tuple(other.client for other in asked.headers)
    bad = [one.dealer for one in held if not one.self_mask]
    if len(bad) > len(within) - agreement.parameters.threshold:
        raise SumAborted("E_DEC", f"{len(bad)} clients have dealt false shares", bad)
    context = slots.context(
        ready.session, agreement.policy, subject(asked.round), slot=asked.slot,
        round=asked.round, attempt=asked.attempt, headers=asked.headers,
    )  # fmt: skip
    own = Mask(slots.self_seed(state.seed, ready.session, context, me))
    others = [other for other in asked.headers if other.client != me]
    masks = [slots.pair_mask(state.mask_key, me, o, ready.session, context) for o in others]
    after = replace(ready, round=asked.round, attempt=asked.attempt)
    return Opened(after, context, within, held, (own, *masks)), None


def sent(agreement: Agreement, me: int, state: Opened, content: bytes, sign: Sign) -> Result:
    """Return the state after the vector was masked, and the receipt for it. ``content``: the digest
    of all that leaves, which is the same from now on: the masks are forgotten.
    """
    bare = Masked(state.context, me, content, agreement.bits(state.bad), b"")
    masked = replace(bare, signature=sign(words.statement("receipt", *bare.told())))
    return Sent(state.ready, state.context, state.within, state.held, masked), masked


def _settled(
    agreement: Agreement, me: int, state: Sent, asked: Survivors, sign: Sign
) -> tuple[State, Answer]:
    survivors = agreement.clients_in(asked.survivors)
    if not words.is_same(asked.context, state.context):
        raise SumAborted("E_CTX", "the survivors are of another slot")
    if me not in survivors:
        raise SumAborted("E_EXCLUDED", "this client is not among the survivors")
    if not {*survivors} <= {*state.within}:
        raise SumAborted("E_SET_CHANGED", "some survivors were not in the slot")
    if len(survivors) < agreement.fewest:
        raise SumAborted("E_SMALL", f"{len(survivors)} survivors, not {agreement.fewest}")
    mine, at = receipt_leaf(state.masked), survivors.index(me)
    if not commitments.leads(mine, at, len(survivors), asked.path, asked.receipts):
        raise SumAborted("E_CTX", "what this client sent is not what is summed")
    if agreement.parameters.mode == "curious":
        return _given(me, state, asked, survivors)
    signature = sign(words.statement("survivors", *survivors_told(asked)))
    return Acked(state, asked), Ack(me, signature)


def receipt_leaf(masked: Masked) -> bytes:
    """Return what stands for a receipt under the root of all."""
    return words.digest("receipt", *masked.told(), masked.signature)


def survivors_told(survivors: Survivors) -> tuple[bytes, ...]:
    """Return what a client signs of survivors."""
    return (survivors.context, survivors.survivors, survivors.receipts)


def _shared(agreement: Agreement, me: int, state: Acked, asked: Acks) -> tuple[State, Answer]:
    survivors = agreement.clients_in(state.survivors.survivors)
    told, signers = survivors_told(state.survivors), [ack.client for ack in asked.acks]
    if len({*signers}) != len(signers) or not {*signers} <= {*survivors}:
        raise SumAborted("E_QUORUM", "a signature is there twice, or not a survivor's")
    for ack in asked.acks:
        if not agreement.is_signed(ack.client, ack.signature, "survivors", *told):
            raise SumAborted("E_QUORUM", f"client {ack.client} signed other survivors")
    if len(signers) < agreement.parameters.quorum:
        raise SumAborted(
            "E_QUORUM", f"{len(signers)} signatures, not {agreement.parameters.quorum}"
        )
    return _given(me, state.sent, state.survivors, survivors)


def _given(me: int, state: Sent, asked: Survivors, survivors: tuple[int, ...]) -> Result:
    """Return one share of each client in the slot; which kind, only the survivors say."""
    shares = tuple(
        held.self_mask if held.dealer in survivors else held.mask_key for held in state.held
    )
    after = replace(state.ready, revealed=state.ready.round)
    return after, Shares(asked.context, me, shares)
