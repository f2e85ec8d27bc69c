"""The table of routes: who may ask what, with which body. What is not in it is refused.

The table is all there is: the router, the checks before a handler, the OpenAPI document and the
tests of access are made from it. A route without a rule cannot be written down.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import time
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router

from hanse.coordinator.access import Role, Who, certificate_name, person
from hanse.coordinator.history import JournalBroken
from hanse.coordinator.journal import fail_stop
from hanse.coordinator.office import Office
from hanse.core.canonical import Json, encode
from hanse.errors import HanseError, ProtocolError
from hanse.log import Event, Line, caused, log
from hanse.net.bodies import BlobResponse, read_body
from hanse.net.problems import MEDIA_TYPE, Busy, Forbidden, Missing, NotTrusted, answer, json_of
from hanse.net.signing import digest_of, response_text

MIB = 2**20
BROKEN = (errno.EIO, errno.EROFS)
"""What a disk says that is not to be believed any more, unlike one that is full."""
BEFORE_SESSIONS = ("/v1/challenge", "/v1/session")
SITE_RUN, RUN = "site's run", "run"
"""Whose the ``{run}`` of a path must be: the site takes part in it, or the person may see it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has passed the table: who asks, the path's parts, the body and its bytes."""

    who: Who
    path: Mapping[str, str]
    body: Any
    content: bytes
    request: Request
    office: Office


Handler = Callable[[Asked], Awaitable["Json | Response"]]


@dataclass(frozen=True, slots=True)
class Route:
    """One row. ``owner``: whose the run in the path must be; ``streams``: the body is chunks."""

    method: str
    path: str
    roles: tuple[Role, ...]
    handler: Handler
    body: type[BaseModel] | None = None
    owner: str = ""
    most: int = MIB
    streams: bool = False
    needs_certificate: bool = True

    @property
    def summary(self) -> str:
        """What the route is for: the first line of its handler's documentation."""
        return (self.handler.__doc__ or "").strip().split("\n")[0]


def router(table: tuple[Route, ...], office: Office) -> Any:
    """Return the ASGI app of ``table``; anything else is answered by a problem."""
    by_path: dict[str, dict[str, Route]] = {}
    for row in table:
        by_path.setdefault(row.path, {})[row.method] = row
    places = [StarletteRoute(p, _endpoint(rows, office)) for p, rows in by_path.items()]
    for place in places:
        place.methods = None  # any: a method that a path does not have is answered like a path
    return Router(routes=places, default=_nothing, redirect_slashes=False)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    await _problem(Missing("no such route"), "", None)(scope, receive, send)


def _endpoint(
    rows: Mapping[str, Route], office: Office
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        row = rows.get(request.method)
        if row is None:
            return _problem(Missing("no such method here"), "", None)
        signature = request.headers.get("hanse-signature", "") if "site" in row.roles else ""
        signer = office if "site" in row.roles else None
        try:
            made = await _made(row, request, office)
        except HanseError as error:
            return _problem(error, signature, signer)
        except ClientDisconnect:
            return _problem(ProtocolError("the request was cut"), signature, signer)
        except JournalBroken:
            return _problem(Busy("the journal cannot be written"), signature, signer)
        except OSError as error:
            if error.errno in BROKEN:
                fail_stop(error)
            return _problem(_seen(row, error, "the disk fails, or is full"), signature, signer)
        except Exception as error:  # a mistake of ours is no reason to tell a peer more
            return _problem(_seen(row, error, "something unforeseen"), signature, signer)
        if isinstance(made, BlobResponse):
            return made
        if not isinstance(made, Response):
            made = Response(encode(made), media_type="application/json")
        return _signed(made, signature, signer)

    return endpoint


def _seen(row: Route, error: Exception, what: str) -> Busy:
    """Note an error where the operator looks; return what the peer is told."""
    log(caused(Line(Event.REQUEST_FAILED, method=row.method, route=row.path), error))
    return Busy(what)


async def _made(row: Route, request: Request, office: Office) -> "Json | Response":
    path = {name: str(value) for name, value in request.path_params.items()}
    _check_before_body(row, path, request, office)
    content = b"" if row.streams else await read_body(request, row.most)
    who = _who(row, request, office, content)
    _check_owner(row, who, path, office)
    return await row.handler(Asked(who, path, _body(row, content), content, request, office))


def _check_before_body(
    row: Route, path: Mapping[str, str], request: Request, office: Office
) -> None:
    """Refuse who may not take the route before a byte of a body is read.

    A site is known by its session until its signature, which is over the body, has been checked.
    """
    if "anyone" in row.roles or row.path in BEFORE_SESSIONS:
        return
    if _is_site(row, request):
        who = Who("site", office.desk.site_of(request))
    else:
        who = person(request, office.registry, time()) or Who()
    if who.role == "anyone":
        raise NotTrusted("a token is needed")
    if who.role not in row.roles:
        raise Forbidden(f"{who.name} is a {who.role}")
    _check_owner(row, who, path, office)
    if row.streams and not office.runs.reserve.is_held:
        raise Busy("the disk is full")


def _is_site(row: Route, request: Request) -> bool:
    """Whether a request is a site's: the route is theirs alone, or it names a session."""
    return row.roles == ("site",) or ("site" in row.roles and "hanse-session" in request.headers)


def _who(row: Route, request: Request, office: Office, content: bytes) -> Who:
    if _is_site(row, request):
        if row.path in BEFORE_SESSIONS:
            return Who("site")
        digest = request.headers.get("hanse-digest", "") if row.streams else digest_of(content)
        who = office.desk.site(request, office.registry, digest)
        if certificate_name(request) != who.name and row.needs_certificate:
            raise NotTrusted(f"{who.name}: not its certificate")
        office.saw(who.name)
        return who
    if row.roles == ("anyone",):
        return Who()
    return person(request, office.registry, time()) or Who()


def _check_owner(row: Route, who: Who, path: Mapping[str, str], office: Office) -> None:
    if not row.owner:
        return
    record = office.runs.of(path["run"])
    if row.owner == SITE_RUN and who.name not in record.live.course.members:
        raise Missing(f"{who.name} takes no part in {path['run']}")
    if row.owner == RUN and who.role == "researcher" and record.by != who.name:
        raise Missing(f"{path['run']} is not {who.name}'s")


def _body(row: Route, content: bytes) -> Any:
    if row.body is None:
        if content and not row.streams:
            raise ProtocolError("a body where none belongs")
        return None
    try:
        return row.body.model_validate(json_of(content))
    except ValidationError as error:
        raise ProtocolError(
            f"a body that is no {row.body.__name__}: {error.error_count()} faults"
        ) from None


def _problem(error: HanseError, signature: str, office: Office | None) -> Response:
    status, body = answer(error)
    return _signed(Response(body, status, media_type=MEDIA_TYPE), signature, office)


def _signed(response: Response, signature: str, office: Office | None) -> Response:
    """Sign a response to a site, tied to the request by its signature."""
    if office is not None and len(signature) <= 128 and signature.isascii():
        try:
            text = response_text(signature, response.status_code, digest_of(bytes(response.body)))
        except ProtocolError:
            return response
        response.headers["Hanse-Signature"] = office.key.sign(text)
    response.headers["Cache-Control"] = "no-store"
    return response


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do what waits for disk or takes long in a thread."""
    return await asyncio.to_thread(work, *arguments)
