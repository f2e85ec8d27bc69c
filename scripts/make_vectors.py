#!/usr/bin/env python3
"""Write tests/vectors/{canonical,seeds,sums}.json: what any implementation must reproduce.

Standard library only, and on purpose a second implementation: it shares no code with src/hanse and
computes with exact fractions, so agreement means something. Published vectors are typed in.

64-bit integers are decimal strings; a double is 16 hex digits of its IEEE 754 bits, a single 8.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

TARGET = Path(__file__).parents[1] / "tests" / "vectors"
MASK = 2**64 - 1
FORMATS = {"float32": ("<f", "<I", 8), "float64": ("<d", "<Q", 16)}


def to_hex(value: float, dtype: str = "float64") -> str:
    real, whole, digits = FORMATS[dtype]
    return f"{struct.unpack(whole, struct.pack(real, value))[0]:0{digits}x}"


def from_hex(text: str) -> float:
    real, whole, _ = FORMATS["float32" if len(text) == 8 else "float64"]
    return struct.unpack(real, struct.pack(whole, int(text, 16)))[0]


# --- canonical JSON ---------------------------------------------------------------------------

# RFC 8785, appendix B.
NUMBERS = """
0000000000000000 0
8000000000000000 0
0000000000000001 5e-324
8000000000000001 -5e-324
7fefffffffffffff 1.7976931348623157e+308
ffefffffffffffff -1.7976931348623157e+308
4340000000000000 9007199254740992
c340000000000000 -9007199254740992
4430000000000000 295147905179352830000
44b52d02c7e14af5 9.999999999999997e+22
44b52d02c7e14af6 1e+23
44b52d02c7e14af7 1.0000000000000001e+23
444b1ae4d6e2ef4e 999999999999999700000
444b1ae4d6e2ef4f 999999999999999900000
444b1ae4d6e2ef50 1e+21
3eb0c6f7a0b5ed8c 9.999999999999997e-7
3eb0c6f7a0b5ed8d 0.000001
41b3de4355555553 333333333.3333332
41b3de4355555554 333333333.33333325
41b3de4355555555 333333333.3333333
41b3de4355555556 333333333.3333334
41b3de4355555557 333333333.33333343
becbf647612f3696 -0.0000033333333333333333
43143ff3c1cb0959 1424953923781206.2
"""
NOT_NUMBERS = ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"]

# RFC 8785, §3.2.2 and §3.2.3, then ours: (value, canonical form).
VALUES = [
    (
        {
            "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 1e-27],
            "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
            "literals": [None, True, False],
        },
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
    ),
    (
        {
            "\u20ac": "Euro Sign",
            "\r": "Carriage Return",
            "\ufb33": "Hebrew Letter Dalet With Dagesh",
            "1": "One",
            "\U0001f600": "Emoji: Grinning Face",
            "\u0080": "Control",
            "\u00f6": "Latin Small Letter O With Diaeresis",
        },
        '{"\\r":"Carriage Return","1":"One","\u0080":"Control",'
        '"\u00f6":"Latin Small Letter O With Diaeresis","\u20ac":"Euro Sign",'
        '"\U0001f600":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}',
    ),
    ("\b\f\n\r\t\x00\x1f\x7f\u2028\u2029", '"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\u2028\u2029"'),
    ({"b": [], "a": {}}, '{"a":{},"b":[]}'),
    ([1.0, 1, -0.0, 2**53, -(2**53), 1e20], "[1,1,0,9007199254740992,-9007199254740992,"
     "100000000000000000000]"),
    ({"10": 0, "2": 0, "": 0}, '{"":0,"10":0,"2":0}'),
]  # fmt: skip


def canonical() -> dict:
    return {
        "numbers": [dict(zip(("ieee754", "json"), row.split(), strict=True))
                    for row in NUMBERS.split("\n") if row],
        "values": [
            {"value": value, "canonical": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for value, text in VALUES
        ],
        "refused_numbers": NOT_NUMBERS,
        "refused_integers": [str(2**53 + 1), str(-(2**53) - 1), str(10**30)],
        "refused_values": ["\ud800", {"\udfff": 1}, ["a\ud83d"]],
    }  # fmt: skip


# --- seeds ------------------------------------------------------------------------------------

NAMES = [
    (0, []),
    (7, ["shuffle"]),
    (7, ["shuffle", 0]),
    (7, ["shuffle", "0"]),
    (7, [3, "cleveland", 1, "shuffle"]),
    (7, ["ab", "c"]),
    (7, ["a", "bc"]),
    (7, ["abc"]),
    (7, ["", "abc"]),
    (7, ["abc", ""]),
    (7, ["c", "ab"]),
    (-1, ["Zürich", 2**40]),
    (2**64, []),
]
# Streams 1 is the published one: Vigna's splitmix64.c, seed 1234567, as Rosetta Code prints it.
KEYS = [1234567, 0, 1, MASK, 0x9E3779B97F4A7C15]
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def key(seed: int, names: list) -> int:
    kinds = {str: "s", int: "i", bool: "b"}
    text = "".join(f"{kinds[type(name)]}{len(str(name))}:{name}" for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def splitmix(state: int) -> Iterator[int]:
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def first(state: int, n: int) -> list[int]:
    return [z for z, _ in zip(splitmix(state), range(n), strict=False)]


def seeds() -> dict:
    assert first(1234567, 5) == PUBLISHED
    return {
        "keys": [{"seed": str(s), "names": n, "key": str(key(s, n))} for s, n in NAMES],
        "splitmix": [{"key": str(k), "outputs": [str(z) for z in first(k, 5)]} for k in KEYS],
        "permutations": [
            {"key": str(k), "order": sorted(range(n), key=first(k, n).__getitem__)}
            for k, n in ((1234567, 10), (key(7, ["shuffle"]), 33), (0, 1), (5, 0))
        ],
        "uniform": [
            {"key": str(k), "numbers": [to_hex((z >> 11) * 2.0**-53) for z in first(k, 4)]}
            for k in KEYS
        ],
        # Each list is of names that are easily taken for one another.
        "distinct": [
            [[7, ["1"]], [7, [1]]],
            [[7, ["ab", "c"]], [7, ["a", "bc"]], [7, ["abc"]], [7, ["", "abc"]], [7, ["abc", ""]]],
            [[7, [1, 2]], [7, [2, 1]], [7, [12]], [71, [2]]],
            [[7, []], [0, [7]], [7, [""]], [7, ["7"]]],
        ],
    }


# --- exact sums -------------------------------------------------------------------------------

GRIDS = [
    *((2.0**k, n) for k in (-64, -1, 0, 1, 16, 22, 64) for n in (1, 4096, 4097, 2**20)),
    (1.0, 2), (1.0, 3), (math.nextafter(1.0, 2), 1), (math.nextafter(1.0, 0), 1),
    (3.0, 5), (0.1, 10), (300.0, 1), (300.0, 2**30), (1e-6, 7), (1e6, 12345),
]  # fmt: skip
NO_GRIDS = [(0.0, 1), (-1.0, 1), (math.nan, 1), (1.0, 0), (1.0, -3)]


def ceil_log2(value: Fraction) -> int:
    power = value.numerator.bit_length() - value.denominator.bit_length() - 1
    while Fraction(2) ** power < value:
        power += 1
    return power


def exponent(limit: float, cohort: int) -> int:
    exact = Fraction(limit)
    return min(50 - ceil_log2(exact), 62 - ceil_log2(exact * cohort))


def single(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def below(value: float) -> float:
    """Return the largest single that is not above a factor of 0 or more."""
    nearest = single(value)
    if nearest <= value:
        return nearest
    (bits,) = struct.unpack("<I", struct.pack("<f", nearest))
    return struct.unpack("<f", struct.pack("<I", bits - 1))[0]


def on_wire(value: float, scale: float, dtype: str) -> float:
    if dtype == "float64":
        return value * scale
    return single(value * below(scale))  # the product of two singles is exact in a double


def on_grid(value: float, power: int) -> int:
    return round(Fraction(value) * Fraction(2) ** power)  # ties to even


def drawn(state: int, n: int, dtype: str, low: int, high: int) -> list[float]:
    """Doubles or singles with random mantissas, and exponents between ``low`` and ``high``."""
    values = []
    for z in first(state, n):
        size = math.ldexp(1 + (z >> 12) * 2.0**-52, low + (z >> 1) % (high - low))
        values.append(-size if z & 1 else size)
    return [single(v) for v in values] if dtype == "float32" else values


def case(name: str, dtype: str, power: int, shares: list[tuple[list[float], float]]) -> dict:
    wires = [[on_wire(v, scale, dtype) for v in vector] for vector, scale in shares]
    totals = [sum(on_grid(v, power) for v in column) for column in zip(*wires, strict=True)]
    return {
        "case": name,
        "dtype": dtype,
        "exponent": power,
        "shares": [
            {"vector": [to_hex(v, dtype) for v in vector], "scale": to_hex(scale)}
            for vector, scale in shares
        ],
        "total": [str(total) for total in totals],
        "reals": [to_hex(math.ldexp(float(total), -power)) for total in totals],
    }


def norm(vector: list[float]) -> float:
    lanes = [0.0] * 256
    for i, value in enumerate(vector):
        lanes[i % 256] += value * value
    return math.sqrt(math.fsum(lanes))


def sums() -> dict:
    tiny = {"float32": 2.0**-149, "float64": 2.0**-1074}
    cases, norms = [], []
    for state, dtype in enumerate(("float32", "float64")):
        ties = [k + 0.5 for k in range(-4, 4)]
        odd = [0.0, -0.0, tiny[dtype], -tiny[dtype], 2.0**-126, 1.0, -1.0]
        cases += [
            case("halves go to even", dtype, 0, [(ties, 1.0)]),
            case("zeros and denormals", dtype, 50, [(odd, 1.0), (odd, -1.0), (odd, 0.0)]),
            case("the wire rounds first", dtype, 40, [([1 / 3, 0.1, 1e-3], 1 / 3)] * 3)
            if dtype == "float64"
            else case("the wire rounds first", dtype, 40,
                      [([single(1 / 3), single(0.1), single(1e-3)], 1 / 3)] * 3),
            case("many sizes", dtype, 48,
                 [(drawn(10 * state + i, 9, dtype, -40, -1), scale)
                  for i, scale in enumerate((1.0, 0.5, 1 / 3, 1e-3, 0.0))]),
            case("largest share, largest cohort", dtype, exponent(1.0, 4096),
                 [([1.0, -1.0], 1.0)] * 8),
            case("a coarse grid", dtype, -14, [(drawn(77 + state, 6, dtype, 10, 40), 1.0)] * 2),
        ]  # fmt: skip
        for size in (0, 1, 27, 256, 257, 600):
            vector = drawn(100 * state + size, size, dtype, -30, 10)
            norms.append({"dtype": dtype, "vector": [to_hex(v, dtype) for v in vector],
                          "norm": to_hex(norm(vector))})  # fmt: skip
    above = {"float32": single(4.0 + 2.0**-21), "float64": math.nextafter(4.0, 5.0)}
    refused = {
        "NaN": [0.0, math.nan], "infinity": [math.inf, 0.0], "minus infinity": [0.0, -math.inf]
    }  # fmt: skip
    return {
        "grids": [{"limit": to_hex(limit), "cohort": n, "exponent": exponent(limit, n)}
                  for limit, n in GRIDS],
        "no_grids": [{"limit": to_hex(limit), "cohort": n} for limit, n in NO_GRIDS],
        "sums": cases,
        "norms": norms,
        "limit": to_hex(4.0),
        "accepted": [{"case": "at the limit", "dtype": dtype,
                      "vector": [to_hex(v, dtype) for v in (4.0, -4.0, 4.0)]} for dtype in above],
        "refused": [
            {"case": name, "dtype": dtype, "vector": [to_hex(v, dtype) for v in vector]}
            for dtype, beyond in above.items()
            for name, vector in {**refused, "beyond the limit": [0.0, -beyond]}.items()
        ],
    }  # fmt: skip


def vectors() -> dict[str, str]:
    """File name → text of every file."""
    made = {"canonical": canonical(), "seeds": seeds(), "sums": sums()}
    return {f"{name}.json": json.dumps(value, indent=1) + "\n" for name, value in made.items()}


if __name__ == "__main__":
    for name, text in vectors().items():
        (TARGET / name).write_text(text)
        print(TARGET / name)
