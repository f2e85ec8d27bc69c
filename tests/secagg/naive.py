"""A second implementation of docs/protocol.md §11.5 to §11.8, in plain integers: slow, and shares
no code with ``hanse.secagg``. It writes ``tests/vectors/secagg.json``:

    python -m tests.secagg.naive
"""

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

TARGET = Path(__file__).parents[1] / "vectors" / "secagg.json"
PRIME = 2**256 + 297
CHUNK = 2**20


def number(value, size):
    return bytes(value >> 8 * (size - 1 - place) & 255 for place in range(size))


def fields(*parts):
    return b"".join(number(len(part), 4) + part for part in parts)


def digest(label, *parts):
    return hashlib.sha256(fields(b"fl-sa/1", label, *parts)).digest()


def derived(secret, salt, label, *parts):
    """HKDF by RFC 5869 §2.2 and §2.3: one block of output."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(extracted, fields(b"fl-sa/1", label, *parts) + b"\1", "sha256")


def shares(secret, coefficients, points):
    powers = [int.from_bytes(secret, "big"), *coefficients]
    return {x: number(sum(a * x**k for k, a in enumerate(powers)) % PRIME, 33) for x in points}


def recovered(some):
    total = 0
    for x, share in some.items():
        term = int.from_bytes(share, "big")
        for y in some:
            if y != x:
                term = term * y * pow(y - x, PRIME - 2, PRIME) % PRIME
        total += term
    return number(total % PRIME, 32)


def root(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else bytes(32)
    row = []
    for at in range(0, len(leaves), 2):
        pair = leaves[at : at + 2]
        row.append(digest(b"node", *pair) if len(pair) == 2 else pair[0])
    return root(row)


def numbers(seed, segment, count, bits):
    """The first numbers of a mask."""
    key, found = derived(seed, None, b"seg", number(segment, 2)), []
    for chunk in range(-(-count // CHUNK)):
        here = min(CHUNK, count - chunk * CHUNK)
        start = number(chunk, 8) + bytes(8)
        made = Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor()
        stream = made.update(bytes(here * bits // 8))
        size = bits // 8
        found += [
            int.from_bytes(stream[at : at + size], "little") for at in range(0, len(stream), size)
        ]
    return found


def pair_seed(secret, public, session, context, i, j):
    agreed = X25519PrivateKey.from_private_bytes(secret).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    i, j = min(i, j), max(i, j)
    return derived(agreed, session, b"pair-mask", context, number(i, 2), number(j, 2))


def self_seed(seed, session, context, i):
    return derived(seed, session, b"self-mask", context, number(i, 2))


def public(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def masked(i, secrets, seeds, session, context, vector, segment, bits):
    """What client ``i`` sends; ``secrets``, ``seeds``: of all in the slot."""
    total = [
        x + m
        for x, m in zip(
            vector,
            numbers(self_seed(seeds[i], session, context, i), segment, len(vector), bits),
            strict=True,
        )
    ]
    for j in secrets:
        if j != i:
            seed = pair_seed(secrets[i], public(secrets[j]), session, context, i, j)
            sign = 1 if i < j else -1
            for at, value in enumerate(numbers(seed, segment, len(vector), bits)):
                total[at] += sign * value
    return [value % 2**bits for value in total]


def unmasked(sent, secrets, seeds, session, context, segment, bits):
    """The sum of what survivors sent, with the secrets of all in the slot: seeds of survivors,
    mask keys of others."""
    length = len(next(iter(sent.values())))
    total = [sum(vector[at] for vector in sent.values()) for at in range(length)]
    for i in sent:
        for at, value in enumerate(
            numbers(self_seed(seeds[i], session, context, i), segment, length, bits)
        ):
            total[at] -= value
    for gone in {*secrets} - {*sent}:
        for i in sent:
            seed = pair_seed(secrets[gone], public(secrets[i]), session, context, gone, i)
            sign = 1 if i < gone else -1
            for at, value in enumerate(numbers(seed, segment, length, bits)):
                total[at] -= sign * value
    half = 2 ** (bits - 1)
    return [(value + half) % 2**bits - half for value in total]


def packed(values, wire):
    """The low bits of numbers one behind the other, the first one lowest."""
    whole = sum((value % 2**wire) << wire * place for place, value in enumerate(values))
    return whole.to_bytes(-(-len(values) * wire // 8), "little")


def known(*parts):
    return digest(b"KAT", *(part.encode() if isinstance(part, str) else part for part in parts))


def sealed(chain, session, slot, dealer, holder, key, commitment, both):
    where = (number(slot, 8), number(dealer, 2), number(holder, 2), key)
    sealing = derived(chain, session, b"share-enc", *where)
    beside = fields(b"fl-sa/1", b"share-aad", session, *where, commitment)
    return ChaCha20Poly1305(sealing).encrypt(bytes(12), both, beside)


def vectors():
    session, context = known("sid"), known("ctx")
    secrets = {i: known("msk", str(i)) for i in range(1, 6)}
    seeds = {i: known("b", str(i)) for i in range(1, 6)}
    coefficients = [int.from_bytes(known("cb", "1", str(k)), "big") for k in (1, 2, 3)]
    dealt = shares(seeds[1], coefficients, range(1, 6))
    inputs = {i: [c * (i - 3) + i for c in range(7)] for i in secrets}
    sent = {i: masked(i, secrets, seeds, session, context, inputs[i], 0, 32) for i in secrets}
    commitment = digest(b"com-b", session, number(0, 8), number(1, 2), seeds[1])
    leaves = [
        digest(b"share-leaf", session, number(0, 8), number(kind, 1), number(1, 2),
               number(holder, 2), dealt[holder])
        for holder in range(1, 6) for kind in (0, 1)
    ]  # fmt: skip
    chain = known("chain")
    own = self_seed(seeds[1], session, context, 1)
    pair = pair_seed(secrets[1], public(secrets[2]), session, context, 1, 2)
    across = numbers(own, 0, CHUNK + 1, 16)
    values = [-(2**19), -1, 0, 1, 2**19 - 1]
    return {
        "session": session.hex(),
        "context": context.hex(),
        "mask_keys": {str(i): secrets[i].hex() for i in secrets},
        "public_keys": {str(i): public(secrets[i]).hex() for i in secrets},
        "seeds": {str(i): seeds[i].hex() for i in seeds},
        "pair_seed_1_2": pair.hex(),
        "self_seed_1": own.hex(),
        "stream_1_2_of_32": [f"{value:08x}" for value in numbers(pair, 0, 4, 32)],
        "stream_1_of_16_across_chunks": [f"{value:04x}" for value in across[-2:]],
        "stream_1_2_of_64_segment_1": [f"{value:016x}" for value in numbers(pair, 1, 2, 64)],
        "coefficients": [f"{value:064x}" for value in coefficients],
        "shares": {str(x): share.hex() for x, share in dealt.items()},
        "commitment_1": commitment.hex(),
        "leaves_1": [leaf.hex() for leaf in leaves],
        "root_1": root(leaves).hex(),
        "chain": chain.hex(),
        "next_chain": derived(chain, None, b"next").hex(),
        "sealed_1_to_2": sealed(chain, session, 0, 1, 2, public(secrets[1]), commitment,
                                dealt[2] + dealt[2]).hex(),
        "inputs": {str(i): inputs[i] for i in inputs},
        "sent": {str(i): [f"{value:08x}" for value in sent[i]] for i in sent},
        "sum_of_1_2_4_5": unmasked({i: sent[i] for i in (1, 2, 4, 5)}, secrets, seeds, session,
                                   context, 0, 32),
        "packed": {str(wire): packed(values, wire).hex() for wire in (20, 24, 32)},
        "packed_values": values,
    }  # fmt: skip


if __name__ == "__main__":
    TARGET.write_text(json.dumps(vectors(), indent=1) + "\n")
