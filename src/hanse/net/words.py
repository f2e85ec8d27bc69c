"""Digests as words that two people can compare by telephone: proquints (arXiv:0901.4016).

Six words are 96 bits. Who may choose both keys that two ends see can look for two with the same
words in about 2^48 tries: the invitation token, which pins the authority, stands before that.
"""

import hashlib
import re

CONSONANTS = "bdfghjklmnprstvz"
VOWELS = "aiou"
WORDS = 6
HEX = re.compile(r"[0-9a-f]{64}")


def proquint(number: int) -> str:
    """Return the word of a 16-bit number: consonant, vowel, consonant, vowel, consonant."""
    return (
        CONSONANTS[number >> 12 & 15]
        + VOWELS[number >> 10 & 3]
        + CONSONANTS[number >> 6 & 15]
        + VOWELS[number >> 4 & 3]
        + CONSONANTS[number & 15]
    )


def six_words(digest_hex: str) -> str:
    """Return six words for the first 12 bytes of a SHA-256; ValueError if it is not one in hex."""
    content = bytes.fromhex(_checked(digest_hex))
    pairs = (content[at : at + 2] for at in range(0, 2 * WORDS, 2))
    return " ".join(proquint(int.from_bytes(pair, "big")) for pair in pairs)


def site_words(name: str, site_key_hex: str, coordinator_key_hex: str) -> str:
    """Return the words by which site and coordinator know that they see the same two keys."""
    keys = (_checked(site_key_hex), _checked(coordinator_key_hex))
    text = "\n".join(("hanse/1 site", name, *keys))
    return six_words(hashlib.sha256(text.encode()).hexdigest())


def _checked(text: str) -> str:
    """Return ``text`` if it is 32 bytes in lower-case hex; else ValueError."""
    if not HEX.fullmatch(text):
        raise ValueError(f"{text!r} is not 64 lower-case hex digits")
    return text
