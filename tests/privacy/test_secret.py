"""The operating system's randomness through AES-CTR: the cipher's bytes, a Gaussian's law."""

import numpy as np
import pytest
from scipy import stats

from hanse.privacy import secret
from hanse.privacy.gaussian import rounded
from hanse.privacy.secret import Secret, fresh

ZERO = bytes(32)
N = 2**18


def test_the_stream_is_aes_256_in_counter_mode():
    """The first block under the zero key is H of test case 13 of McGrew, Viega, "GCM" (2005); its
    second block, of counter 1, is that test case's mask of the plaintext, shifted by none.
    """
    stream = Secret(ZERO)
    assert stream.bytes(16).hex() == "dc95c078a2408989ad48a21492842087"
    assert stream.bytes(16).hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert Secret(ZERO).bytes(32)[8:24] == Secret(ZERO).bytes(24)[8:]


def test_the_numbers_are_those_of_the_bytes():
    words = np.frombuffer(Secret(ZERO).bytes(800), dtype="<u8")
    found = Secret(ZERO).random(100)
    assert ((words >> np.uint64(11)) == found * 2.0**53).all()
    drawn = Secret(ZERO).standard_normal(7)
    assert (Secret(ZERO).standard_normal(8)[:7] == drawn).all()
    lengths, angles = found[:4], 2 * np.pi * found[4:8]
    wanted = np.sqrt(-2 * np.log(lengths)) * np.cos(angles)
    assert np.allclose(drawn[:4], wanted, rtol=1e-15)


@pytest.mark.parametrize("key", range(4))
def test_the_draws_are_a_gaussians(key):
    drawn = Secret(key.to_bytes(32, "little")).standard_normal(N)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert abs(drawn.var() - 1) < 5 * np.sqrt(2 / N)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 5 / np.sqrt(N)
    assert abs(np.corrcoef(drawn[: N // 2], drawn[N // 2 :])[0, 1]) < 5 / np.sqrt(N / 2)
    for far in (3.0, 4.0):
        expected = 2 * N * stats.norm.sf(far)
        assert abs((abs(drawn) > far).sum() - expected) < 5 * np.sqrt(expected)


def test_what_is_added_to_a_share_has_the_law_that_the_claim_is_made_of():
    """Whole numbers of a rounded Gaussian of 3 steps, against its exact probabilities."""
    drawn = rounded(N, 3.0, Secret(b"\x07" * 32)).astype(int)
    values = np.arange(-12, 13)
    # ⌊G + V⌋ = k has probability E[max(0, 1 − |G − k|)], a triangle two steps wide
    at = np.linspace(-1, 1, 2001)
    weights = (1 - abs(at)) * (at[1] - at[0])
    law = np.array([(stats.norm.pdf((k + at) / 3) / 3 * weights).sum() for k in values])
    counts = np.array([(drawn == k).sum() for k in values])
    rest = N - counts.sum()
    expected = np.append(N * law, N * (1 - law.sum()))
    found = np.append(counts, rest)
    assert ((found - expected) ** 2 / expected).sum() < stats.chi2.isf(1e-4, len(values))


def test_each_stream_has_a_key_of_its_own_whatever_it_is_called(monkeypatch):
    first = fresh(1, 2, "north", "noise").bytes(32)
    assert fresh(1, 2, "north", "noise").bytes(32) != first
    asked = []
    monkeypatch.setattr(secret.os, "urandom", lambda n: asked.append(n) or bytes(n))
    assert fresh("noise").bytes(16) == Secret(ZERO).bytes(16)
    assert asked == [32]


def test_no_generator_of_numpys_or_torchs_is_asked(monkeypatch):
    monkeypatch.setattr(np.random, "default_rng", None)
    fresh().standard_normal(10)


def test_a_key_is_not_used_for_more_than_is_safe(monkeypatch):
    with pytest.raises(ValueError, match="a key has 32 bytes"):
        Secret(bytes(16))
    monkeypatch.setattr(secret, "MOST_BYTES", 100)
    stream = Secret(ZERO)
    stream.bytes(100)
    with pytest.raises(ValueError, match="one key gives at most"):
        stream.random(1)
