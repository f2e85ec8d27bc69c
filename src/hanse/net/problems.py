"""Errors on the wire: application/problem+json both ways (RFC 9457, docs/protocol.md §7).

A peer is told the code and one line that depends on the code only. What is behind it, the text and
the hint of the error, stays with whoever raised it.
"""

import json
import math
from dataclasses import dataclass

from hanse.core.canonical import Json, encode
from hanse.errors import ConfigError, HanseError, ProtocolError, TransportError

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:hanse:error:"


class TooLarge(ProtocolError):
    """A body is larger than the spec allows."""

    code = "size"


class Missing(ProtocolError):
    """There is no such thing, or it is not the asker's to know."""

    code = "missing"


class Conflict(ProtocolError):
    """Another answer is there already, or a token or a name is used."""

    code = "conflict"


class Forbidden(ConfigError):
    """The asker is known, but not allowed."""

    code = "forbidden"


class NotTrusted(ConfigError):
    """The asker is unknown, expired or revoked, or a signature or a fingerprint is wrong."""

    code = "identity"


class SessionLost(TransportError):
    """The coordinator does not know the session: open another one."""

    code = "session"


class Busy(TransportError):
    """There are too many requests, or there is no disk: try again later."""

    code = "busy"


@dataclass(frozen=True, slots=True)
class Problem:
    """A row of §7: the status, the error that it stands for, and what both ends say of it."""

    status: int
    error: type[HanseError]
    title: str
    hint: str = ""


PROBLEMS = {
    problem.error.code: problem
    for problem in (
        Problem(400, ProtocolError, "the request is malformed, out of range or out of order"),
        Problem(401, SessionLost, "the session is not known: open another one"),
        Problem(
            401,
            NotTrusted,
            "not known here: no identity, an expired or revoked one, or a wrong signature",
            "a token is good once, for an hour and for one name: ask the coordinator's operator "
            "for a new one; who has joined already asks whether the name was revoked",
        ),
        Problem(
            403,
            Forbidden,
            "known, but not allowed to do this",
            "ask the coordinator's operator for the role that this takes",
        ),
        Problem(
            404,
            Missing,
            "there is no such thing, or it is not yours to know",
            "look at the name: hanse status lists the runs, hanse coordinator sites the sites",
        ),
        Problem(
            409,
            Conflict,
            "another answer, token or name is there already",
            "where it is a name: choose another one; one that was revoked is not given again",
        ),
        Problem(413, TooLarge, "larger than allowed"),
        Problem(503, Busy, "too busy, or out of disk: try again later"),
    )
}
HTTP_BUSY = (429, 502, 503, 504)
"""What says "later" even without a problem in the body: gateways answer so for a coordinator."""


def answer(error: HanseError, *, status: int | None = None) -> tuple[int, bytes]:
    """Return status and body that tell a peer of ``error``.

    An error whose code is not in §7 goes by its class: a TransportError is ``busy``, all else is
    ``protocol``. ``status`` replaces the usual one (429 for ``busy``).
    """
    code = error.code
    if code not in PROBLEMS:
        code = Busy.code if isinstance(error, TransportError) else ProtocolError.code
    problem = PROBLEMS[code]
    status = status or problem.status
    told = {"status": status, "title": problem.title, "type": TYPE + code}
    return status, encode(told).encode()


def error_of(asked: str, status: int, body: bytes) -> HanseError:
    """Return the error that an answer of ``status`` (400 or more) and ``body`` stands for.

    ``asked`` is the request in words, such as ``POST /v1/poll``. Nothing of the body but a known
    code gets into the text.
    """
    problem = PROBLEMS.get(code_of(body))
    if problem is not None:
        return problem.error(f"{asked}: {status}, {problem.title}", hint=problem.hint)
    if status in HTTP_BUSY:
        return Busy(f"{asked}: {status}, and not from Hanse: something on the way is at fault")
    return ProtocolError(
        f"{asked}: {status} without a problem of Hanse's",
        hint="check that the address is the coordinator's, and what proxies stand before it",
    )


def code_of(body: bytes) -> str:
    """Return the code of a problem, or the empty text if ``body`` is none."""
    try:
        told = json_of(body)
    except ProtocolError:
        return ""
    kind = told.get("type") if isinstance(told, dict) else None
    return kind.removeprefix(TYPE) if isinstance(kind, str) and kind.startswith(TYPE) else ""


def json_of(body: bytes) -> Json:
    """Return the value that ``body`` says in JSON; ProtocolError if it is none.

    A name that stands twice in an object, NaN, infinities and numbers beyond float64 are refused.
    """
    try:
        return json.loads(
            body, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a body of {len(body)} bytes is no JSON") from error


def _once(members: list[tuple[str, Json]]) -> dict[str, Json]:
    named = dict(members)
    if len(named) != len(members):
        raise ValueError("a name stands twice")
    return named


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is beyond float64")
    return number
