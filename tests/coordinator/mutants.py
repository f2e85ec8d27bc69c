"""Recorded requests, changed in every way that a hostile or broken peer might think of."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Message:
    """A request as it goes out: ``length`` is what its head claims of the body."""

    method: bytes
    path: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    length: int | None = None
    how: str = ""

    @property
    def raw(self) -> bytes:
        length = len(self.body) if self.length is None else self.length
        fields = (*self.headers, (b"Host", b"127.0.0.1"), (b"Content-Length", b"%d" % length))
        head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        return self.method + b" " + self.path + b" HTTP/1.1\r\n" + head + b"\r\n" + self.body


Chance = random.Random
ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**53, 2**53 + 1, -(2**63), 2**64, 10**400, -0.0, 1.5,
    1e308, float("nan"), float("inf"), "", "x" * 5000, "\x00", "\ud800", "é\u202e", "../..",
    "0" * 64, [], {},
    [[]], {"": {}}, {"__proto__": 1}, [1] * 5000, {str(n): n for n in range(500)},
)  # fmt: skip
SEGMENTS = (
    b"", b"..", b"%00", b"%2e%2e", b"%2F", b"%C2%B2", b"-1", b"9" * 30, b"x" * 300, b"%ff", b"\xff",
    b"{run}", b"train", b"0", b"1", b"?", b"#", b" ", b"chunks", b"*",
)  # fmt: skip
METHODS = (
    b"GET",
    b"POST",
    b"PUT",
    b"HEAD",
    b"OPTIONS",
    b"DELETE",
    b"PATCH",
    b"CONNECT",
    b"get",
    b"",
)


def structure(chance: Chance, value: Any) -> Any:
    """Change one place of a JSON value."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name, fresh = chance.choice([*value]), dict(value)
        match chance.randrange(5):
            case 0:
                del fresh[name]
            case 1:
                fresh[chance.choice(["", "extra", name + "s", "\ud800", "x" * 300])] = fresh[name]
            case _:
                fresh[name] = structure(chance, fresh[name])
        return fresh
    if isinstance(value, list) and value and chance.random() < 0.7:
        fresh = list(value)
        fresh[chance.randrange(len(fresh))] = structure(chance, chance.choice(value))
        return fresh
    return chance.choice(ODD)


def in_json(chance: Chance, one: Message) -> Message:
    try:
        value = json.loads(one.body)
    except ValueError:
        return in_bytes(chance, one)
    return replace(one, body=json.dumps(structure(chance, value)).encode())


def nested(chance: Chance, one: Message) -> Message:
    depth = chance.choice([10, 100, 400, 900, 5000, 100_000])
    deep = b"[" * depth + b"]" * chance.choice([depth, 0])
    if not one.body.startswith(b"{") or chance.random() < 0.3:
        return replace(one, body=deep)
    return replace(one, body=one.body.replace(b":", b":" + deep + b",", 1))


def twice(chance: Chance, one: Message) -> Message:
    inside = one.body[1:-1]
    return replace(one, body=b"{" + inside + b"," + inside + b"}")


def in_bytes(chance: Chance, one: Message) -> Message:
    return replace(one, body=cut(chance, one.body))


def cut(chance: Chance, content: bytes) -> bytes:
    """Flip, drop, double or insert some bytes."""
    at = chance.randrange(len(content) + 1)
    to = min(len(content), at + chance.choice([1, 2, 8, 64]))
    match chance.randrange(5):
        case 0:
            flipped = bytes(b ^ 1 << chance.randrange(8) for b in content[at:to])
            return content[:at] + flipped + content[to:]
        case 1:
            return content[:at] + content[to:]
        case 2:
            return content[:to] + content[at:to] * chance.choice([1, 3, 50]) + content[to:]
        case 3:
            return content[:at] + chance.randbytes(chance.choice([1, 4, 200])) + content[at:]
        case _:
            return content[:at]


def in_path(chance: Chance, one: Message) -> Message:
    parts = one.path.split(b"/")
    at = chance.randrange(1, len(parts))
    match chance.randrange(4):
        case 0:
            parts[at:at] = [chance.choice(SEGMENTS)]
        case 1:
            del parts[at]
        case 2:
            parts[at] = cut(chance, parts[at]).translate(None, b" \r\n")
        case _:
            parts[at] = chance.choice(SEGMENTS)
    query = chance.choice([b"", b"", b"?", b"?after=", b"?x=" + b"y" * 100])
    return replace(one, path=b"/".join(parts) + query)


def in_method(chance: Chance, one: Message) -> Message:
    return replace(one, method=chance.choice(METHODS))


def in_headers(chance: Chance, one: Message) -> Message:
    headers = [*one.headers, (b"X-Filler", b"a")]
    at = chance.randrange(len(headers))
    name, value = headers[at]
    match chance.randrange(5):
        case 0:
            headers[at] = name, cut(chance, value)
        case 1:
            del headers[at]
        case 2:
            headers.append((name, chance.choice([b"", b"0", b"\xff\xfe", b"9" * 40, value])))
        case 3:
            headers.append(
                (b"X-%d" % chance.randrange(99), b"v" * chance.choice([10, 9000, 20_000]))
            )
        case _:
            headers += [(b"Transfer-Encoding", chance.choice([b"chunked", b"gzip", b"\x0b"]))]
    return replace(one, headers=tuple(headers))


def in_length(chance: Chance, one: Message) -> Message:
    wrong = chance.choice(
        [0, 1, len(one.body) + 5, 2**31, 2**63, 10**30, max(len(one.body) - 1, 0)]
    )
    return replace(one, length=wrong)


def huge(chance: Chance, one: Message) -> Message:
    return replace(
        one, body=chance.choice([b" ", b"[", b"1", b'"']) * chance.choice([2**16, 2**20])
    )


Change = Callable[[Chance, Message], Message]
SIGNABLE: tuple[Change, ...] = (
    in_json,
    in_json,
    in_json,
    in_json,
    in_bytes,
    in_path,
    nested,
    twice,
)
"""Changes that a site may make before it signs; the others are made behind its back."""
ROUGH: tuple[Change, ...] = (in_method, in_headers, in_headers, in_length, in_path, in_bytes)
RARE: tuple[Change, ...] = (huge,)


def mutate(chance: Chance, one: Message, sign: Callable[[Message], Message]) -> Message:
    """Return a changed request, signed before or after the change."""
    group = chance.choices([SIGNABLE, ROUGH, RARE], [60, 39, 1])[0]
    change = chance.choice(group)
    if group is SIGNABLE:
        return replace(sign(change(chance, one)), how=change.__name__)
    return replace(change(chance, sign(one)), how=change.__name__)
