"""Secure sums: exact for whoever survives, or an abort that reveals nothing (P1, P2)."""

from itertools import combinations

import numpy as np
import pytest
from tests.secagg.federation import Federation, right

from hanse.secagg.aborts import SumAborted
from hanse.secagg.parameters import Parameters

FIVE = Parameters.chosen(5, 1)
CURIOUS = Parameters.chosen(5, 1, mode="curious")


def subsets(clients, least):
    clients = [*clients]
    return [s for k in range(least, len(clients) + 1) for s in combinations(clients, k)]


@pytest.mark.parametrize("parameters", [FIVE, CURIOUS], ids=["malicious", "curious"])
def test_the_sum_is_exact_for_every_pattern_of_drop_outs(parameters):
    """Who is in the slot, who sends, who signs and gives shares: all that are enough."""
    done, federation = 0, Federation(parameters)
    federation.join()
    least, t = max(parameters.minimum, parameters.threshold), parameters.threshold
    for within in subsets(range(1, 6), least):
        for senders in subsets(within, least):
            for holders in subsets(senders, t):
                if parameters.quorum and len(holders) < parameters.quorum:
                    continue
                done += 1
                settling = federation.received(federation.opened(within, round=done), senders)
                settling = federation.shared(federation.acked(settling, holders), holders)
                for found, exact in zip(
                    federation.unmasked(settling), federation.exact(senders), strict=True
                ):
                    np.testing.assert_array_equal(found, exact)
    assert done >= 11


@pytest.mark.parametrize("parameters", [FIVE, CURIOUS], ids=["malicious", "curious"])
def test_too_few_in_a_slot_or_in_a_sum_abort_it(parameters):
    federation = Federation(parameters)
    federation.join()
    least = max(parameters.minimum, parameters.threshold)
    with pytest.raises(SumAborted, match="E_SMALL"):
        federation.opened(range(1, least))
    masking = federation.opened(range(1, 6))
    with pytest.raises(SumAborted, match="E_SMALL"):
        federation.received(masking, range(1, least))


def test_too_few_signatures_or_shares_give_nothing():
    federation = Federation(FIVE)
    federation.join()
    settling = federation.received(federation.opened(range(1, 6)), range(1, 6))
    settling = federation.acked(settling, (1, 2, 3))
    with pytest.raises(SumAborted, match="E_QUORUM"):
        federation.shared(settling, (1,))
    settling = federation.acked(settling, (4,))
    settling = federation.shared(settling, (1, 2, 3))
    assert not settling.is_enough
    with pytest.raises(SumAborted, match="E_SHARE"):
        settling.masks()
    settling = federation.shared(settling, (4,))
    assert settling.is_enough


def test_an_attempt_that_revealed_nothing_is_followed_by_another_and_one_that_did_is_not():
    federation = Federation(FIVE)
    federation.join()
    federation.acked(federation.received(federation.opened(range(1, 6)), range(1, 6)), (1, 2))
    settling = federation.received(federation.opened((1, 2, 3, 5), 1, 1), (1, 2, 3, 5))
    settling = federation.shared(federation.acked(settling, (1, 2, 3, 5)), (1, 2, 3, 5))
    np.testing.assert_array_equal(
        federation.unmasked(settling)[0], federation.exact((1, 2, 3, 5))[0]
    )
    with pytest.raises(SumAborted, match="E_REPLAY"):
        federation.opened((1, 2, 3, 4), 1, 2)


def test_clients_who_missed_slots_come_back():
    federation = Federation(FIVE)
    federation.join()
    for round in range(1, 4):
        settling = federation.received(federation.opened((1, 2, 3, 4), round), (1, 2, 3, 4))
        federation.shared(federation.acked(settling, (1, 2, 3, 4)), (1, 2, 3, 4))
    settling = federation.received(federation.opened(range(1, 6), 9), range(1, 6))
    settling = federation.shared(federation.acked(settling, (2, 3, 4, 5)), (2, 3, 4, 5))
    np.testing.assert_array_equal(
        federation.unmasked(settling)[0], federation.exact(range(1, 6))[0]
    )


def test_what_a_client_was_told_is_nothing_that_it_can_be_told_again():
    """Every message, again in every later state: no share is given twice."""
    federation = Federation(FIVE)
    federation.join()
    one, given = federation.members[1], 0
    masking = federation.opened(range(1, 6))
    settling = federation.acked(federation.received(masking, range(1, 6)), range(1, 6))
    said = [masking.open(1), settling.asked(1), settling.acknowledged()]
    assert right(one.hear(settling.acknowledged())).shares
    for message in said:
        answer = one.hear(message)
        given += not isinstance(answer, SumAborted)
        assert answer.abort == "E_REPLAY"
    assert given == 0
