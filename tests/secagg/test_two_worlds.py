"""Two worlds whose honest clients have other vectors of the same sum: a coordinator with a corrupt
client sees nothing that tells them apart. It shows uniform masks, not security; with a mask that
stays the same it fails, which is tested too.
"""

from dataclasses import replace

import numpy as np
import pytest
from tests.secagg.federation import Federation

from hanse.secagg.masks import Mask, masked
from hanse.secagg.parameters import Parameters
from hanse.secagg.ring import Segment

THREE = Parameters.chosen(3, 1)
SEGMENT = Segment("model", 64)
SLOTS = 160


def views(world: int, *, constant: bool = False) -> np.ndarray:
    """What the coordinator and client 3 have of clients 1 and 2 in each slot: what they sent, less
    all masks that those two know (own seeds come out by shares, pairs with 3 by its key).
    """
    federation = Federation(THREE, (SEGMENT,), seed=f"world {world}")
    federation.join()
    draw, found = np.random.default_rng(7), []
    for round in range(1, SLOTS + 1):
        total, part = draw.integers(-9, 10, (2, 64))
        honest = (part, total - part) if world else (total, 0 * total)
        for number, vector in zip((1, 2, 3), (*honest, 0 * total), strict=True):
            federation.members[number].vectors = (vector,)
        masking = federation.opened((1, 2, 3), round)
        known = {}
        for number, beside in ((1, 2), (2, 1)):
            state = federation.members[number].state
            masks = list(state.masks)  # its own, then those with the others, in order
            if constant:
                masks[1] = Mask(b"\7" * 32, masks[1].sign)
                federation.members[number].state = replace(state, masks=tuple(masks))
            known[number] = [mask.reversed() for mask in (masks[0], masks[2])]
            assert beside in masking.keys
        settling = federation.acked(federation.received(masking, (1, 2, 3)), (1, 2, 3))
        federation.shared(settling, (1, 2, 3))
        seen = [masked(federation.members[n].content[0], known[n], SEGMENT, 0, 0) for n in (1, 2)]
        np.testing.assert_array_equal(SEGMENT.centred(seen[0] + seen[1]), total)
        found.append(np.concatenate(seen).view(np.uint8))
    return np.unpackbits(np.array(found), axis=1).astype(np.float64)


def advantage(one: np.ndarray, two: np.ndarray) -> float:
    """How much better than a coin a linear rule tells views, trained on half of them."""
    half = SLOTS // 2
    direction = one[:half].mean(0) - two[:half].mean(0)
    middle = (one[:half].mean(0) + two[:half].mean(0)) @ direction / 2
    right = (one[half:] @ direction > middle).sum() + (two[half:] @ direction <= middle).sum()
    return float(right) / (2 * half) - 0.5


@pytest.fixture(scope="module")
def worlds():
    return views(0), views(1)


def test_a_linear_rule_is_no_better_than_a_coin(worlds):
    """160 guesses: 5 standard deviations are 0.2."""
    assert abs(advantage(*worlds)) < 5 * 0.5 / np.sqrt(SLOTS)


def test_every_bit_is_as_often_set_as_not(worlds):
    """4,096 bits in each world, 160 views: the largest of 8,192 is within 5.5 deviations but for
    3·10^-4; fixed seeds.
    """
    for view in worlds:
        assert np.abs(view.mean(0) - 0.5).max() < 5.5 * 0.5 / np.sqrt(SLOTS)


def test_a_mask_that_stays_the_same_is_found():
    """The test of the tests above."""
    one, two = views(0, constant=True), views(1, constant=True)
    assert advantage(one, two) > 0.3
    assert np.abs(one.mean(0) - 0.5).max() > 0.45
