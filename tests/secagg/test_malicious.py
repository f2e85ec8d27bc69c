"""What a malicious coordinator or client may try, each with the code that it ends in."""

import hashlib
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.secagg.federation import SUBJECT, Federation, bytes_of, right

from hanse.errors import ConfigError
from hanse.secagg import client as ends
from hanse.secagg import commitments, shamir, slot, words
from hanse.secagg.aborts import SumAborted
from hanse.secagg.coordinator import Gathering, Meeting
from hanse.secagg.masks import masked
from hanse.secagg.messages import (
    Ack,
    Acks,
    Begin,
    Confirmed,
    Dealt,
    Roster,
    decoded,
    encoded,
)
from hanse.secagg.parameters import Parameters
from hanse.secagg.session import Agreement

FIVE = Parameters.chosen(5, 1)
ALL = range(1, 6)


@pytest.fixture
def five():
    federation = Federation(FIVE)
    federation.join()
    return federation


def ends_in(code, said):
    assert isinstance(said, SumAborted), said
    assert said.abort == code, said


def settled(federation, round=1):
    return federation.acked(federation.received(federation.opened(ALL, round), ALL), ALL)


def second_header(open, header):
    return replace(open, headers=(open.headers[0], header, *open.headers[2:]))


# --- a malicious coordinator


def test_a_key_in_the_place_of_a_clients(five):
    masking = five.keyed(ALL).opened(1, 0, SUBJECT)
    for key in (slot.public_of(bytes(31) + b"\1"), bytes(32)):
        open = masking.open(1)
        false = replace(open.headers[1], key=key)
        ends_in("E_SIG", five.members[1].hear(second_header(open, false)))
        masking = five.keyed(ALL).opened(1, 0, SUBJECT)


def test_a_key_of_low_order_that_a_client_signed(five):
    """Two ends: the client who says such a key, and the one who is told it."""
    masking = five.keyed(ALL).opened(1, 0, SUBJECT)
    open = masking.open(1)
    bare = replace(open.headers[1], key=bytes(32))
    signature = five.members[2].identity.sign(words.statement("hdr", *bare.told()))
    signed = replace(bare, signature=signature)
    ends_in("E_BAD_KEY", five.members[1].hear(second_header(open, signed)))


def test_two_rosters():
    federation = Federation(FIVE)
    hellos = [member.hello() for member in federation.members.values()]
    other = federation.members[5].hello()  # a second hello, just as well signed
    one = right(federation.members[1].hear(Roster((*hellos[:4], other))))
    two = right(federation.members[2].hear(Roster((*hellos[:4], hellos[4]))))
    rest = [right(federation.members[n].hear(Roster((*hellos[:4], other)))) for n in (3, 4, 5)]
    ends_in("E_ROSTER", federation.members[1].hear(Confirmed((one, two, *rest))))


@pytest.mark.parametrize(
    ("bend", "code"),
    [
        (lambda hellos: hellos[:4], "E_ROSTER"),
        (lambda hellos: (hellos[1], hellos[0], *hellos[2:]), "E_ROSTER"),
        (lambda hellos: (*hellos[:4], replace(hellos[4], policy=bytes(32))), "E_POLICY"),
        (lambda hellos: (*hellos[:4], replace(hellos[4], key=hellos[3].key)), "E_SIG"),
        (lambda hellos: (*hellos[:4], replace(hellos[0], client=5)), "E_SIG"),
        (lambda hellos: (replace(hellos[0], nonce=bytes(32)), *hellos[1:]), "E_SIG"),
    ],
)
def test_a_roster_that_is_not_everybodys(bend, code):
    federation = Federation(FIVE)
    hellos = tuple(member.hello() for member in federation.members.values())
    ends_in(code, federation.members[1].hear(Roster(bend(hellos))))
    right(federation.members[1].hear(Roster(hellos)))  # the true one still does


def test_members_of_the_coordinators_own_making():
    """A client knows the others' identities from its own roster; Sybils have no place in it."""
    federation = Federation(FIVE)
    theirs = Ed25519PrivateKey.from_private_bytes(bytes_of("sybil")(32))
    hellos = [member.hello() for member in federation.members.values()]
    public = theirs.public_key().public_bytes_raw()
    false = Agreement(FIVE, federation.segments, (*federation.agreement.members[:4], public))
    hellos[4] = ends.greeted(false, 5, theirs.sign, bytes_of("x"))[1]
    ends_in("E_POLICY", federation.members[1].hear(Roster(tuple(hellos))))
    hellos[4] = ends.greeted(federation.agreement, 5, theirs.sign, bytes_of("x"))[1]
    ends_in("E_SIG", federation.members[1].hear(Roster(tuple(hellos))))


@pytest.mark.parametrize("lower", ["threshold", "quorum", "minimum"])
def test_lower_numbers_than_were_agreed_on(lower):
    federation = Federation(FIVE)
    with pytest.raises(ConfigError, match="promises nothing"):
        replace(FIVE, **{lower: getattr(FIVE, lower) - 1})
    more = replace(FIVE, quorum=5)
    other = Agreement(more, federation.segments, federation.agreement.members)
    hellos = [
        ends.greeted(other, n, federation.members[n].identity.sign, bytes_of(f"{n}"))[1]
        for n in ALL
    ]
    hellos[0] = federation.members[1].hello()
    ends_in("E_POLICY", federation.members[1].hear(Roster(tuple(hellos))))


def test_two_models_give_noise_and_no_sum(five):
    """Each client's masks follow from what it knows that it trained: they do not cancel."""
    five.members[3].subject = hashlib.sha256(b"another model").digest()
    masking = five.opened(ALL)
    for number in ALL:
        receipt = five.members[number].mask()
        if number == 3:
            with pytest.raises(SumAborted, match="E_CTX"):
                masking.add(receipt, five.members[number].digest)
            context = receipt.context
        else:
            masking = masking.add(receipt, five.members[number].digest)
    assert context != masking.context
    total = sum(five.members[n].content[0].astype(np.int64) for n in ALL)
    found = five.segments[0].centred(total.astype("<u4"))
    assert (np.abs(found) > 10**5).any()  # sums of five numbers below 1,000 were there


def test_two_sets_of_survivors_to_two_clients(five):
    settling = five.received(five.opened(ALL), ALL)
    fewer = replace(settling, survivors=(1, 2, 3, 4))
    acks = [right(five.members[n].hear(settling.asked(n))) for n in (1, 2, 5)]
    acks += [right(five.members[n].hear(fewer.asked(n))) for n in (3, 4)]
    ends_in("E_QUORUM", five.members[1].hear(Acks(tuple(acks[:2] + acks[3:]))))
    for number in (2, 5):
        ends_in("E_QUORUM", five.members[number].hear(Acks(tuple(acks[:3]))))


def test_a_set_that_grows_or_changes_once_it_is_signed(five):
    settling = five.received(five.opened(ALL), (1, 2, 3, 4))
    right(five.members[1].hear(settling.asked(1)))
    masking = settling.masking.add(five.members[5].mask(), five.members[5].digest)
    ends_in("E_SET_CHANGED", five.members[1].hear(masking.closed().asked(1)))


def test_survivors_who_were_not_in_the_slot(five):
    settling = five.received(five.opened((1, 2, 3, 4)), (1, 2, 3, 4))
    asked = replace(settling.asked(1), survivors=five.agreement.bits(tuple(ALL)))
    ends_in("E_SET_CHANGED", five.members[1].hear(asked))


def test_a_client_who_is_said_to_be_gone(five):
    settling = five.received(five.opened(ALL), (1, 2, 3, 4))
    five.members[5].mask()
    asked = replace(settling.asked(1), path=())
    ends_in("E_EXCLUDED", five.members[5].hear(asked))
    with pytest.raises(SumAborted, match="E_REPLAY"):
        right(five.members[5].hear(settling.asked(1)))


def test_too_few_survivors(five):
    settling = five.received(five.opened(ALL), ALL)
    few = replace(settling, survivors=(1, 2, 3))
    ends_in("E_SMALL", five.members[1].hear(few.asked(1)))


def test_bytes_in_the_place_of_what_a_client_sent(five):
    settling = five.received(five.opened(ALL), ALL)
    other = replace(settling.masking.received[1], content=bytes(32))
    masking = replace(settling.masking, received={**settling.masking.received, 1: other})
    ends_in("E_CTX", five.members[1].hear(replace(settling, masking=masking).asked(1)))


def test_what_was_said_in_an_older_slot(five):
    first = five.received(five.opened(ALL), ALL)
    five.acked(first, ALL)
    second = five.received(five.opened(ALL, 2), ALL)
    ends_in("E_CTX", five.members[1].hear(first.asked(1)))
    for number in (2, 3, 4, 5):
        right(five.members[number].hear(second.asked(number)))
    older = first
    for number in ALL:
        signature = five.members[number].identity.sign(
            words.statement("survivors", *ends.survivors_told(older.asked(number)))
        )
        older = older.ack(Ack(number, signature))
    ends_in("E_QUORUM", five.members[2].hear(older.acknowledged()))
    ends_in("E_REPLAY", five.members[3].hear(Begin(0)))


def test_keys_of_an_older_slot(five):
    first = five.keyed(ALL)
    second = five.keyed(ALL)
    with pytest.raises(SumAborted, match="E_REPLAY"):
        second.add(first.keys[2])
    open = second.opened(1, 0, SUBJECT).open(1)
    older = (*open.headers[:1], first.keys[2].header, *open.headers[2:])
    ends_in("E_REPLAY", five.members[1].hear(replace(open, headers=older)))


def test_the_clients_own_keys_changed(five):
    open = five.keyed(ALL).opened(1, 0, SUBJECT).open(1)
    without = replace(open, headers=open.headers[1:], dealt=open.dealt[1:])
    ends_in("E_ROSTER", five.members[1].hear(without))


@pytest.mark.parametrize(("round", "attempt"), [(0, 0), (1, 0), (1, 1)])
def test_a_round_that_was(five, round, attempt):
    settling = settled(five, 1)
    five.shared(settling, ALL)
    masking = five.keyed(ALL).opened(round, attempt, SUBJECT)
    ends_in("E_REPLAY", five.members[1].hear(masking.open(1)))


def test_signatures_twice_of_nobody_or_too_few(five):
    settling = settled(five)
    acks = settling.acknowledged().acks
    ends_in("E_QUORUM", five.members[1].hear(Acks((*acks, acks[0]))))
    ends_in("E_QUORUM", five.members[2].hear(Acks(acks[:3])))
    ends_in("E_QUORUM", five.members[3].hear(Acks((*acks[:4], Ack(77, acks[4].signature)))))
    ends_in("E_QUORUM", five.members[4].hear(Acks((*acks[:4], Ack(5, acks[0].signature)))))


def test_messages_out_of_turn(five):
    settling = settled(five)
    one = five.members[1]
    for message in (Roster(()), Confirmed(())):
        ends_in("E_PROTO", one.hear(message))
    five.keyed(ALL)
    ends_in("E_PROTO", one.hear(settling.acknowledged()))


def test_bytes_that_are_no_message():
    for content in (b"", b"\0\0\0\1", bytes(9), b"\0\0\0\1\x63\0\0\0\0", encoded(Begin(3))[:-1]):
        with pytest.raises(SumAborted, match="E_PROTO"):
            decoded(content)


# --- malicious clients


def false_dealer(federation, dealer, shares=(), victims=(), mask_key=None):
    """Have ``dealer`` deal ``victims`` shares that are not under its root; or shares of another
    key.
    """
    keys = federation.keyed(ALL)
    dealt = keys.keys[dealer]
    sealed = tuple(
        bytes(82) if holder in victims else content
        for holder, content in enumerate(dealt.sealed, 1)
    )
    return replace(keys, keys={**keys.keys, dealer: replace(dealt, sealed=sealed)})


def opened(federation, gathering, round=1, without=()):
    masking = gathering.opened(round, 0, SUBJECT, without)
    return masking, {n: federation.members[n].hear(masking.open(n)) for n in masking.keys}


def test_one_false_share_is_told_and_the_sum_is_exact(five):
    masking, said = opened(five, false_dealer(five, 2, victims=[4]))
    assert {*said.values()} == {None}
    settling = five.acked(five.received(masking, ALL), ALL)
    assert five.agreement.clients_in(settling.masking.received[4].bad) == (2,)
    settling = five.shared(settling, ALL)
    for found, exact in zip(five.unmasked(settling), five.exact(ALL), strict=True):
        np.testing.assert_array_equal(found, exact)


def test_false_shares_to_too_many_end_the_attempt_and_the_next_is_without_the_dealer(five):
    masking, said = opened(five, false_dealer(five, 2, victims=[3, 4]))
    assert {*said.values()} == {None}
    with pytest.raises(SumAborted, match="E_DEC") as caught:
        five.received(masking, ALL)
    assert caught.value.blamed == (2,)
    masking, said = opened(five, five.keyed(ALL), 2, without=[2])
    settling = five.acked(five.received(masking, (1, 3, 4, 5)), (1, 3, 4, 5))
    settling = five.shared(settling, (1, 3, 4, 5))
    np.testing.assert_array_equal(five.unmasked(settling)[0], five.exact((1, 3, 4, 5))[0])


def test_false_shares_of_too_many_dealers(five):
    keys = false_dealer(five, 2, victims=[1])
    three = replace(keys.keys[3], sealed=(bytes(82), *keys.keys[3].sealed[1:]))
    _, said = opened(five, replace(keys, keys={**keys.keys, 3: three}))
    ends_in("E_DEC", said[1])
    assert said[1].blamed == (2, 3)


def test_shares_that_are_sealed_rightly_and_are_not_under_the_root(five):
    """The path of another leaf; a path with a step more; a share of another client."""
    masking = five.keyed(ALL).opened(1, 0, SUBJECT)
    open, other = masking.open(1), masking.open(2)
    dealt = open.dealt[2]
    for false in (
        Dealt(dealt.sealed, dealt.self_mask, dealt.mask_key),
        replace(dealt, mask_key=(*dealt.mask_key, bytes(32))),
        replace(dealt, mask_key=dealt.mask_key[:-1]),
        other.dealt[2],
    ):
        held = slot.opened(
            five.members[1].state.chains[2], masking.keys[3].header, 1, false, five.agreement.count
        )
        assert (held.mask_key, held.self_mask) == (b"", b"")
    held = slot.opened(
        five.members[1].state.chains[2], masking.keys[3].header, 1, dealt, five.agreement.count
    )
    assert len(held.mask_key) == len(held.self_mask) == shamir.SHARE


@pytest.mark.parametrize("what", ["altered", "left out", "of the other kind"])
def test_a_false_share_on_the_way_back_blames_who_gives_it(five, what):
    settling = settled(five)
    held = five.members[1].state.sent.held[0]
    given = right(five.members[1].hear(settling.acknowledged()))
    first = given.shares[0]
    false = {
        "altered": bytes([*first[:-1], first[-1] ^ 1]),
        "left out": b"",
        "of the other kind": held.mask_key,
    }[what]
    assert held.self_mask == first
    with pytest.raises(SumAborted, match="E_SHARE") as caught:
        settling.share(replace(given, shares=(false, *given.shares[1:])))
    assert caught.value.blamed == (1,)
    settling = five.shared(settling, (2, 3, 4, 5))  # four are enough
    np.testing.assert_array_equal(five.unmasked(settling)[0], five.exact(ALL)[0])


def dealing(federation, dealer, secret_of):
    """Have a dealer deal, and commit to, shares of something that its header does not promise."""
    keys, member = federation.keyed(ALL), federation.members[dealer]
    header, everyone = keys.keys[dealer].header, [*ALL]
    parts = {
        kind: shamir.shared(secret_of(kind, member), FIVE.threshold, everyone, bytes_of(kind))
        for kind in commitments.KINDS
    }
    both = [parts[kind] for kind in commitments.KINDS]
    leaves = slot.leaves(header.session, header.slot, dealer, *both)
    bare = replace(header, root=commitments.root(leaves))
    header = replace(bare, signature=member.identity.sign(words.statement("hdr", *bare.told())))
    sealed = tuple(
        slot.seal(member.state.chains[n - 1] or bytes(32), header, n, *(part[n] for part in both))
        for n in everyone
    )
    own = slot.Held(dealer, *(part[dealer] for part in both))
    member.state = replace(member.state, header=header, own=own)
    false = replace(keys.keys[dealer], header=header, leaves=leaves, sealed=sealed)
    return replace(keys, keys={**keys.keys, dealer: false})


def test_a_seed_that_is_not_the_one_that_was_committed_to(five):
    def other(kind, member):
        return bytes(32) if kind == "self mask" else member.state.mask_key

    masking, said = opened(five, dealing(five, 2, other))
    assert {*said.values()} == {None}
    settling = five.shared(five.acked(five.received(masking, ALL), ALL), ALL)
    with pytest.raises(SumAborted, match=r"E_SHARE.*another secret") as caught:
        settling.masks()
    assert caught.value.blamed == (2,)


def test_a_mask_key_that_is_not_the_one_in_the_header(five):
    def other(kind, member):
        return member.state.seed if kind == "self mask" else bytes(31) + b"\7"

    masking, _ = opened(five, dealing(five, 2, other))
    settling = five.acked(five.received(masking, (1, 3, 4, 5)), (1, 3, 4, 5))
    settling = five.shared(settling, (1, 3, 4, 5))
    with pytest.raises(SumAborted, match=r"E_SHARE.*another secret") as caught:
        settling.masks()
    assert caught.value.blamed == (2,)


def test_a_receipt_for_other_bytes_or_of_somebody_else(five):
    masking = five.opened(ALL)
    receipt = five.members[1].mask()
    with pytest.raises(SumAborted, match="E_INPUT"):
        masking.add(receipt, bytes(32))
    with pytest.raises(SumAborted, match="E_SIG"):
        masking.add(replace(receipt, client=2), five.members[1].digest)
    with pytest.raises(SumAborted, match="E_CTX"):
        masking.add(replace(receipt, client=9), five.members[1].digest)


def test_keys_whose_leaves_are_not_under_their_root(five):
    gathering = five.keyed(ALL)
    one = gathering.keys[1]
    for false in (
        replace(one, leaves=(bytes(32), *one.leaves[1:])),
        replace(one, leaves=one.leaves[:-1]),
        replace(one, sealed=one.sealed[:-1]),
    ):
        with pytest.raises(SumAborted, match="E_PROTO"):
            Gathering(five.agreement, five.session, 0).add(false)
    for client in (0, 6, 2**40):
        with pytest.raises(SumAborted, match="E_ROSTER"):
            Gathering(five.agreement, five.session, 0).add(
                replace(one, header=replace(one.header, client=client))
            )
        with pytest.raises(SumAborted, match="E_ROSTER"):
            Meeting(five.agreement).hello(replace(five.members[1].hello(), client=client))


def test_mutated_messages_in_every_state_are_an_abort_or_an_answer(five):
    """And nothing else: whatever bytes come, no error that is not the protocol's."""
    chance, met = random.Random(7), Counter()
    one = five.members[1]
    masking = five.keyed(ALL).opened(1, 0, SUBJECT)
    states = [(one.state, masking.open(1))]
    for number in ALL:
        right(five.members[number].hear(masking.open(number)))
    settling = five.received(masking, ALL)
    states.append((one.state, settling.asked(1)))
    settling = five.acked(settling, ALL)
    states.append((one.state, settling.acknowledged()))
    for state, message in states:
        for _ in range(700):
            content = bytearray(encoded(message))
            for _ in range(chance.randint(1, 3)):
                content[chance.randrange(len(content))] = chance.randrange(256)
            try:
                bent = decoded(bytes(content))
            except SumAborted as aborted:
                met[aborted.abort] += 1
                continue
            one.state = state
            said = one.hear(bent)
            met[said.abort if isinstance(said, SumAborted) else "answered"] += 1
    assert {"E_PROTO", "E_SIG", "E_QUORUM", "E_CTX"} <= {*met}


# --- what never gets out


def test_no_secret_is_in_any_repr(five):
    secrets, masking = [], five.opened(ALL)
    for member in five.members.values():
        secrets += [mask.seed for mask in member.state.masks]
        secrets += [s for held in member.state.held for s in (held.mask_key, held.self_mask)]
        secrets += [chain for chain in member.state.ready.chains if chain]
    states = [member.state for member in five.members.values()]
    five.received(masking, ALL)
    states += [member.state for member in five.members.values()]
    said = repr(states)
    assert secrets
    assert not [s for s in secrets if repr(s)[2:-1] in said or s.hex() in said]


def test_a_client_whose_masks_are_known_to_nobody_sends_what_looks_like_noise(five):
    five.opened(ALL)
    member = five.members[1]
    long = np.zeros(2**16, "<u4")
    found = masked(long, member.state.masks, five.segments[0], 0, 0).view(np.uint8)
    counts = np.bincount(found, minlength=256)
    expected = found.size / 256
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert 255 - 5 * 22.6 < chi < 255 + 5 * 22.6
