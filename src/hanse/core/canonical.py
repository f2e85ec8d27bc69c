"""Canonical JSON (RFC 8785): one byte string per value, so that a hash of it means something.

Numbers follow §3.2.2.3 (ECMAScript's shortest form), keys sort by UTF-16 code units (§3.2.3).
Integers beyond 2^53 have no exact double and are refused; so are NaN and infinities.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def number(value: float) -> str:
    """Return ``value`` as ECMAScript's Number::toString writes it; ValueError if not finite."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no JSON form")
    if value == 0:
        return "0"
    sign, digits, exponent = ("-" if value < 0 else ""), *_decimal(abs(value))
    if len(digits) <= exponent <= 21:
        return sign + digits.ljust(exponent, "0")
    if 0 < exponent <= 21:
        return f"{sign}{digits[:exponent]}.{digits[exponent:]}"
    if -6 < exponent <= 0:
        return f"{sign}0.{'0' * -exponent}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{exponent - 1:+d}"


def _decimal(value: float) -> tuple[str, int]:
    """Return the shortest digits d₁d₂… and n with value = 0.d₁d₂… × 10^n."""
    mantissa, _, power = float.__repr__(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = int(power or 0) + len(whole)
    exponent -= len(whole + fraction) - len(digits)
    return digits.rstrip("0"), exponent


def encode(value: Json) -> str:
    """Return ``value`` in canonical form; ValueError or TypeError for what JSON cannot say."""
    match value:
        case str():
            value.encode()  # a lone surrogate has no UTF-8, and RFC 8785 §3.2.2.2 refuses it
            return encode_basestring(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            if abs(value) > 2**53:
                raise ValueError(f"{value} is beyond 2^53: write it as a string")
            return str(value)
        case float():
            return number(value)
        case bytes() | bytearray():
            raise TypeError(f"{type(value).__name__} has no JSON form")
        case Mapping():
            if not all(isinstance(name, str) for name in value):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers may err
                raise TypeError("a name in JSON is a string")
            names = sorted(value)
            if not all(map(str.isascii, names)):
                names.sort(key=lambda name: name.encode("utf-16-be"))
            return "{" + ",".join(f"{encode(n)}:{encode(value[n])}" for n in names) + "}"
        case Sequence():
            return "[" + ",".join(map(encode, value)) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def digest(value: Json) -> str:
    """Return the SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(encode(value).encode()).hexdigest()
