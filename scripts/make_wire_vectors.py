#!/usr/bin/env python3
"""Write tests/vectors/{signatures,tokens,words,frames,listings}.json: the wire of docs/protocol.md.

Standard library only, and on purpose a second implementation: it imports nothing from src, and has
its own Ed25519 (RFC 8032 §6: slow, in no constant time, for vectors only), so agreement means
something. Published vectors are typed in and checked.

Bytes are hex. Blobs too long to print are given by their size: byte i of one is i mod 251.
"""

import base64
import hashlib
import json
import struct
from pathlib import Path

TARGET = Path(__file__).parents[1] / "tests" / "vectors"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- Ed25519 ----------------------------------------------------------------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
Point = tuple[int, int]  # affine: slow, and short
ZERO: Point = (0, 1)


def add(one: Point, two: Point) -> Point:
    (x1, y1), (x2, y2) = one, two
    both = D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + both, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - both, -1, P) % P,
    )


def multiply(point: Point, times: int) -> Point:
    total = ZERO
    while times:
        if times & 1:
            total = add(total, point)
        point, times = add(point, point), times >> 1
    return total


def from_y(y: int, sign: int) -> Point | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * ROOT % P
    if x * x % P != square:
        return None
    return (P - x if x % 2 != sign else x, y)


def packed(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def whole(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % ORDER


BASE = from_y(4 * pow(5, -1, P) % P, 0)
assert BASE is not None


def expanded(secret: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(secret).digest()
    return int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254, digest[32:]


def public(secret: bytes) -> bytes:
    return packed(multiply(BASE, expanded(secret)[0]))


def sign(secret: bytes, text: bytes) -> bytes:
    scalar, prefix = expanded(secret)
    nonce = whole(prefix, text)
    point = packed(multiply(BASE, nonce))
    return point + ((nonce + whole(point, public(secret), text) * scalar) % ORDER).to_bytes(
        32, "little"
    )


def of_order_eight() -> int:
    """The smaller y of the points of order 8: where ORDER times a point of the curve is one."""
    for y in range(2, 100):
        point = from_y(y, 0)
        if point and multiply(point, 4 * ORDER) != ZERO:
            found = multiply(point, ORDER)[1]
            return min(found, P - found)
    raise AssertionError


# --- signatures -------------------------------------------------------------------------------

# RFC 8032, §7.1: tests 1, 2, 3 and SHA(abc): secret, public, message, signature.
PUBLISHED = """
9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60
d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a
-
e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b
4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb
3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c
72
92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00
c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7
fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025
af82
6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a
833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42
ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf
ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f
dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704
"""
RFC = [line.replace("-", "") for line in PUBLISHED.split()]

SITE = bytes(range(32))
COORDINATOR = bytes(range(32, 64))
COORDINATOR_KEY = public(COORDINATOR).hex()
SESSION = "00112233445566778899aabbccddeeff"

# method, path, session, sequence, body
REQUESTS = [
    ("POST", "/v1/session", "ab" * 32, 0, b"{}"),
    ("POST", "/v1/poll", SESSION, 1, b""),
    ("GET", "/v1/runs/heart-1/spec", SESSION, 2, b""),
    ("PUT", f"/v1/blobs/{'0f' * 32}/chunks/0", SESSION, 1025, b"a blob's id stands here"),
    ("GET", "/v1/runs?after=heart%201&limit=2", SESSION, 2**53, b""),
]


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def requests() -> list[dict]:
    rows = []
    for method, path, session, sequence, body in REQUESTS:
        parts = [COORDINATOR_KEY, method, path, session, str(sequence), sha256(body)]
        text = "\n".join(["hanse/1 request", *parts]).encode()
        rows.append(
            {"coordinator": COORDINATOR_KEY, "method": method, "path": path, "session": session,
             "sequence": sequence, "body": body.hex(), "digest": sha256(body),
             "text": text.hex(), "secret": SITE.hex(), "public": public(SITE).hex(),
             "signature": b64(sign(SITE, text))}
        )  # fmt: skip
    return rows


def responses(signed: list[dict]) -> list[dict]:
    rows = []
    answers = [("", 200, b'{"challenge":"ab"}'), (signed[0]["signature"], 200, b"{}"),
               (signed[1]["signature"], 401, b'{"status":401}'),
               (signed[2]["signature"], 204, b"")]  # fmt: skip
    for request, status, body in answers:
        text = "\n".join(["hanse/1 response", request, str(status), sha256(body)]).encode()
        rows.append(
            {"request": request, "status": status, "body": body.hex(), "digest": sha256(body),
             "text": text.hex(), "secret": COORDINATOR.hex(), "public": COORDINATOR_KEY,
             "signature": b64(sign(COORDINATOR, text))}
        )  # fmt: skip
    return rows


def forged(signed: dict) -> list[dict]:
    """Signatures that must not pass: what an attacker or a careless library makes."""
    key, text, good = signed["public"], signed["text"], base64.b64decode(signed["signature"])
    point, number = good[:32], int.from_bytes(good[32:], "little")
    beyond = b64(point + (number + ORDER).to_bytes(32, "little"))
    canonical = signed["signature"]
    loose = canonical[:-3] + chr(ord(canonical[-3]) + 1) + "=="
    assert base64.b64decode(loose) == good
    other = bytes([*bytes.fromhex(text)[:-1], 0x30])
    cases = [
        ("a bit of R flipped", key, text, b64(bytes([good[0] ^ 1]) + good[1:])),
        ("a bit of S flipped", key, text, b64(good[:32] + bytes([good[32] ^ 1]) + good[33:])),
        ("S with the order added", key, text, beyond),
        ("another text", key, other.hex(), canonical),
        ("another key", COORDINATOR_KEY, text, canonical),
        ("base64 with a bit that counts for nothing", key, text, loose),
        ("base64 without padding", key, text, canonical.rstrip("=")),
        ("base64 with a line break", key, text, canonical + "\n"),
        ("base64 with a blank in front", key, text, " " + canonical),
        ("63 bytes", key, text, b64(good[:63])),
        ("65 bytes", key, text, b64(good + b"\0")),
        ("nothing", key, text, ""),
        ("not ASCII", key, text, "\u00e9" * 88),
        ("a key in upper case", key.upper(), text, canonical),
        ("a key of 31 bytes", key[:62], text, canonical),
        ("a key with a line break", key + "\n", text, canonical),
        ("a key that is no hex", "g" * 64, text, canonical),
        ("a key that is no point", packed((0, 2)).hex(), text, canonical),
    ]
    eighth = of_order_eight()
    for y in (0, 1, P - 1, eighth, P - eighth, P, P + 1):
        for sign_bit in (0, 1):
            weak = (y | sign_bit << 255).to_bytes(32, "little").hex()
            cases.append((f"a key of small order: {weak[:8]}, {sign_bit}", weak, text,
                          b64(packed(ZERO) + bytes(32))))  # fmt: skip
    return [dict(zip(("case", "public", "text", "signature"), case, strict=True)) for case in cases]


# Windows: what arrives in order, and whether it is taken.
WINDOWS = [
    [(0, True), (0, False), (1, True), (1, False)],
    [(5, True), (3, True), (4, True), (5, False), (3, False), (6, True)],
    [(1023, True), (0, True), (1024, True), (0, False), (1, True)],
    [(1024, True), (0, False), (1, True), (1, False)],
    [(2, True), (1026, True), (2, False), (3, True), (2050, True), (1026, False), (1027, True)],
    [(2**53, True), (2**53, False), (2**53 - 1023, True), (2**53 - 1024, False), (7, False)],
    [(-1, False), (2**53 + 1, False), (1, True)],
]


def signatures() -> dict:
    rows = [dict(zip(("secret", "public", "message", "signature"), RFC[at : at + 4], strict=True))
            for at in range(0, len(RFC), 4)]  # fmt: skip
    for row in rows:
        secret, message = bytes.fromhex(row["secret"]), bytes.fromhex(row["message"])
        assert public(secret).hex() == row["public"], row
        assert sign(secret, message).hex() == row["signature"], row
    signed = requests()
    return {
        "rfc8032": rows,
        "requests": signed,
        "responses": responses(signed),
        "refused": forged(signed[1]),
        "unsignable": ["/v1/poll\n", "/v1\n/poll", "/v1/\rpoll", "/v1/\u00e9", "/v1/\x7f", "\0"],
        "windows": [[{"sequence": n, "taken": taken} for n, taken in row] for row in WINDOWS],
    }


# --- tokens -----------------------------------------------------------------------------------

SECRETS = [bytes(32), bytes(range(32)), b"\xff" * 32]
FINGERPRINTS = [sha256(b""), sha256(b"a certificate in DER"), "ff" * 32]


def token(secret: bytes, fingerprint: str) -> str:
    content = secret + bytes.fromhex(fingerprint)
    return "ht1_" + base64.urlsafe_b64encode(content).decode().rstrip("=")


def tokens() -> dict:
    made = [
        {"secret": s.hex(), "ca_fingerprint": f, "token": token(s, f), "secret_sha256": sha256(s)}
        for s, f in zip(SECRETS, FINGERPRINTS, strict=True)
    ]
    good = made[1]["token"]
    refused = [
        ("empty", "", "does not begin"),
        ("no prefix", good[4:], "does not begin"),
        ("another version", "ht2_" + good[4:], "does not begin"),
        ("upper-case prefix", "HT1_" + good[4:], "does not begin"),
        ("prefix only", "ht1_", "4 characters, not 90"),
        ("last character lost", good[:-1], "89 characters, not 90"),
        ("one character more", good + "A", "91 characters, not 90"),
        ("twice", good + good, "180 characters, not 90"),
        ("padded", good + "==", "not base64url"),
        ("base64's alphabet", good[:20] + "+/" + good[22:], "not base64url"),
        ("a blank inside", good[:40] + " " + good[41:], "not base64url"),
        ("a line break inside", good[:40] + "\n" + good[40:], "not base64url"),
        ("not ASCII", good[:-1] + "\u0430", "not base64url"),
        ("bits that count for nothing", good[:-1] + chr(ord(good[-1]) + 1), "last character"),
    ]
    return {
        "tokens": made,
        "refused": [dict(zip(("case", "token", "says"), case, strict=True)) for case in refused],
    }


# --- words ------------------------------------------------------------------------------------

# arXiv:0901.4016, §3: addresses and their proquints.
ADDRESSES = """
127.0.0.1 lusab-babad
63.84.220.193 gutih-tugad
63.118.7.35 gutuk-bisog
140.98.193.141 mudof-sakat
64.255.6.200 haguz-biram
128.30.52.45 mabiv-gibot
147.67.119.2 natag-lisaf
212.58.253.68 tibup-zujah
216.35.68.215 tobog-higil
216.68.232.21 todah-vobij
198.81.129.136 sinid-makam
12.110.110.204 budov-kuras
"""


def word(number: int) -> str:
    spelled = ""
    for alphabet in ("bdfghjklmnprstvz", "aiou") * 2 + ("bdfghjklmnprstvz",):
        number, letter = divmod(number, len(alphabet))  # from the right
        spelled = alphabet[letter] + spelled
    return spelled


def six(digest: str) -> str:
    return " ".join(word(n) for n in struct.unpack(">6H", bytes.fromhex(digest)[:12]))


def words() -> dict:
    published = [dict(zip(("address", "proquints"), row.split(), strict=True))
                 for row in ADDRESSES.split("\n") if row]  # fmt: skip
    for row in published:
        high, low = struct.unpack(">2H", bytes(map(int, row["address"].split("."))))
        assert f"{word(high)}-{word(low)}" == row["proquints"], row
    keys = public(SITE).hex(), COORDINATOR_KEY
    sites = [("cleveland", *keys), ("hungary", *keys), ("cleveland", *reversed(keys)), ("0", *keys)]
    digests = ["00" * 32, "ff" * 32, sha256(b""), "0123456789abcdef" * 4, "0" * 23 + "1" + "f" * 40]
    return {
        "published": published,
        "digests": [{"digest": d, "words": six(d)} for d in digests],
        "sites": [
            {"name": name, "site": site, "coordinator": coordinator,
             "words": six(sha256(f"hanse/1 site\n{name}\n{site}\n{coordinator}".encode()))}
            for name, site, coordinator in sites
        ],
        "refused": ["", "00" * 31, "00" * 33, "AB" * 32, "0x" + "00" * 31, "g" * 64,
                    "0" * 63 + " "],
    }  # fmt: skip


# --- frames -----------------------------------------------------------------------------------

WIRE = {"float32": ("F32", "f"), "float64": ("F64", "d"), "int64": ("I64", "q")}
FRAMES = [
    ("a model", [("vector", "float32", [1.5, -0.0, 3.0000000054977558e-39])]),
    ("a model in float64", [("vector", "float64", [0.1])]),
    ("a model of nothing", [("vector", "float32", [])]),
    ("counts", [("scalars", "int64", [0, -1, 2**63 - 1, -(2**63)])]),
    ("a share", [("model", "float32", [0.25] * 3), ("scalars", "int64", [7, 1]),
                 ("buffers", "float64", [2.0, -2.0])]),
    ("a share without a model", [("scalars", "int64", [1])]),
    ("a header of 64 bytes and more", [("model", "float64", []), ("s" * 40, "int64", [5])]),
]  # fmt: skip


def header(tensors: list[tuple[str, str, list]]) -> bytes:
    members, at = {}, 0
    for name, dtype, values in tensors:
        kind, letter = WIRE[dtype]
        end = at + len(values) * struct.calcsize(f"<{letter}")
        members[name] = {"dtype": kind, "shape": [len(values)], "data_offsets": [at, end]}
        at = end
    text = json.dumps(members, separators=(",", ":")).encode()
    while (8 + len(text)) % 64:
        text += b" "
    return struct.pack("<Q", len(text)) + text


def frame(tensors: list[tuple[str, str, list]]) -> bytes:
    data = (struct.pack(f"<{len(v)}{WIRE[dtype][1]}", *v) for _, dtype, v in tensors)
    return header(tensors) + b"".join(data)


def frames() -> dict:
    tensors = FRAMES[4][1]
    good, start = frame(tensors), len(header(tensors))
    text = good[8:start]
    cases = [
        ("nothing", b""),
        ("cut by a byte", good[:-1]),
        ("longer by a byte", good + b"\0"),
        ("header only", good[:start]),
        ("another length of the header", struct.pack("<Q", start - 9) + good[8:]),
        ("a length of 2^64 - 1", b"\xff" * 8 + good[8:]),
        ("a length in big-endian", struct.pack(">Q", start - 8) + good[8:]),
        ("another dtype", good.replace(b"F32", b"I32")),
        ("another shape", good.replace(b'"shape":[3]', b'"shape":[4]')),
        ("other offsets", good.replace(b"[0,12]", b"[1,12]")),
        ("another name", good.replace(b"model", b"modem")),
        ("another order", frame([tensors[1], tensors[0], tensors[2]])),
        ("a tab for a blank", good[:8] + text[:-1] + b"\t" + good[start:]),
        ("a blank inside", good[:8] + text[:-1].replace(b":", b": ", 1) + good[start:]),
    ]
    assert len({case for _, case in cases} - {good}) == len(cases)
    return {
        "frames": [
            {"case": case, "header": header(rows).hex(), "frame": frame(rows).hex(),
             "tensors": [{"name": n, "dtype": d, "length": len(v),
                          "data": struct.pack(f"<{len(v)}{WIRE[d][1]}", *v).hex()}
                         for n, d, v in rows]}
            for case, rows in FRAMES
        ],
        "refused": {
            "tensors": [{"name": n, "dtype": d, "length": len(v)} for n, d, v in tensors],
            "contents": [{"case": case, "content": content.hex()} for case, content in cases],
        },
    }  # fmt: skip


# --- listings ---------------------------------------------------------------------------------

CHUNK = 2**20
SIZES = [0, 1, 250, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 77]


def blob(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def listing(size: int, chunks: list[str]) -> bytes:
    return struct.pack("<Q", size) + bytes.fromhex("".join(chunks))


def listings() -> dict:
    made = []
    for size in SIZES:
        content = blob(size)
        chunks = [sha256(content[at : at + CHUNK]) for at in range(0, size, CHUNK)]
        packed_listing = listing(size, chunks)
        made.append({"size": size, "chunks": chunks, "listing": packed_listing.hex(),
                     "id": sha256(b"hanse/1 blob\n" + packed_listing)})  # fmt: skip
    digest = sha256(b"")
    refused = [
        ("nothing", b""),
        ("a size cut short", bytes(7)),
        ("a digest cut short", listing(1, [digest])[:-1]),
        ("a byte too many", listing(1, [digest]) + b"\0"),
        ("a chunk of nothing", listing(0, [digest])),
        ("no chunk of a byte", listing(1, [])),
        ("an empty last chunk", listing(CHUNK, [digest] * 2)),
        ("a chunk too few", listing(CHUNK + 1, [digest])),
        ("a size in big-endian", struct.pack(">Q", 1) + bytes.fromhex(digest)),
        ("a size of 2^64 - 1", b"\xff" * 8 + bytes.fromhex(digest)),
    ]
    return {
        "blobs": made,
        "refused": [{"case": case, "listing": content.hex()} for case, content in refused],
    }


def vectors() -> dict[str, str]:
    """File name → text of every file."""
    made = {"signatures": signatures(), "tokens": tokens(), "words": words(),
            "frames": frames(), "listings": listings()}  # fmt: skip
    return {f"{name}.json": json.dumps(value, indent=1) + "\n" for name, value in made.items()}


if __name__ == "__main__":
    for name, text in vectors().items():
        (TARGET / name).write_text(text)
        print(TARGET / name)
