"""What the coordinator answers to sites (docs/protocol.md §3 to §6)."""

import json
from datetime import UTC, datetime
from time import time

from starlette.responses import Response

from hanse.coordinator.live import Key, LiveRun
from hanse.coordinator.receiving import Receiving
from hanse.coordinator.routes import Asked, in_thread
from hanse.coordinator.uploads import Writer
from hanse.core.canonical import Json, digest, encode
from hanse.core.listing import Listing
from hanse.errors import ProtocolError
from hanse.net.bodies import IncomingBlob, blob_response, piece_size
from hanse.net.invitations import secret_digest
from hanse.net.keys import is_public
from hanse.net.problems import Missing, NotTrusted
from hanse.net.signing import digest_of

MOST_UNREAD = 2**18
"""What a peer is given at once, at most: what it has not read yet lies encrypted in memory."""


async def about(asked: Asked) -> Json:
    """Say who this is: name, protocol, identity key."""
    settings = asked.office.settings
    return {
        "name": settings.name,
        "protocol": 1,
        "key": asked.office.key.public,
        "succession": [*asked.office.succession],
        "simulated": settings.simulated,
        "time": time(),
    }


async def authority(asked: Asked) -> Response:
    """Give the authority's certificate, which a token vouches for."""
    return Response(asked.office.authority.certificate_pem, media_type="application/x-pem-file")


async def join(asked: Asked) -> Json:
    """Enrol a site by the secret of its invitation; the same request again gets the same answer."""
    body, office = asked.body, asked.office
    secret = secret_digest(bytes.fromhex(body.secret))
    known = office.registry.sites.get(body.name)
    if known is None or (known.key, known.secret) != (body.key, secret) or known.revoked:
        office.registry.check_free(body.name, "site")
        invitation = office.registry.invited(secret, time())
        if (invitation.name, invitation.role) != (body.name, "site"):
            raise NotTrusted(f"the invitation is for {invitation.name}, not for {body.name}")
        known = None
    if not is_public(body.key):
        raise ProtocolError(f"{body.name}: no identity key")
    certificate = office.authority.issue_site(body.request, body.name, datetime.now(UTC))
    told: dict[str, Json] = {"name": body.name, "key": body.key, "secret": secret, "now": time()}
    if known is None:
        office.note("joined", told)
    return {
        "certificate": certificate,
        "key": office.key.public,
        "coordinator": office.settings.name,
    }


async def challenge(asked: Asked) -> Json:
    """Give 32 random bytes to sign."""
    return {"challenge": asked.office.desk.challenge()}


async def session(asked: Asked) -> Json:
    """Open a session for the site that signed."""
    body, office = asked.body, asked.office
    mark = digest_of(asked.content)
    id, who = office.desk.open(asked.request, office.registry, body.site, body.challenge, mark)
    office.saw(who.name)
    return {"session": id}


async def renew(asked: Asked) -> Json:
    """Give the site another certificate."""
    issued = asked.office.authority.issue_site(
        asked.body.request, asked.who.name, datetime.now(UTC)
    )
    return {"certificate": issued}


async def roster(asked: Asked) -> Json:
    """Give the roster of sites."""
    return {"roster": asked.office.registry.roster}


async def entry(asked: Asked) -> Json:
    """Give the hash of an event: who has a receipt of it sees that it still stands."""
    found = await in_thread(asked.office.journal.hash_of, number_of(asked.path["seq"]))
    if found is None:
        raise Missing("the journal has no such event")
    return {"hash": found}


async def ledger_head(asked: Asked) -> Json:
    """Give the last entry of the site's privacy ledger that it has shown."""
    return await in_thread(asked.office.witness.head, asked.who.name)


async def note_ledger_head(asked: Asked) -> Json:
    """Take the last entry of the site's privacy ledger, behind the one that is known."""
    after, head = asked.body.after.model_dump(), asked.body.head.model_dump()
    await in_thread(asked.office.witness.note, asked.who.name, after, head)
    return head


async def poll(asked: Asked) -> Json:
    """Give what there is to do, when it is not what the site has."""
    office, body, site = asked.office, asked.body, asked.who.name
    office.saw(site, body.doing)

    def has_news() -> bool:
        return digest(office.runs.assignments(site)) != body.have

    await office.bell.until(site, has_news, body.wait)
    found = office.runs.assignments(site)
    return {"assignments": found, "version": digest(found)}


async def specification(asked: Asked) -> Json:
    """Give a run's spec and layout, and the roster as it was when the run was submitted."""
    record = asked.office.runs.of(asked.path["run"])
    return json.loads(bytes(record.live.blobs.map(record.document)))


async def answer(asked: Asked) -> Json:
    """Take an answer that is JSON."""
    live = asked.office.runs.of(asked.path["run"]).live
    try:
        encode(asked.body.body)
    except (ValueError, TypeError) as error:
        raise ProtocolError("a body without canonical JSON") from error
    return await in_thread(live.answer, _key(asked), asked.body.body)


async def answer_chunks(asked: Asked) -> Json:
    """Take an answer that is a blob: its listing, and its chunks from one on."""
    live, key = asked.office.runs.of(asked.path["run"]).live, _key(asked)
    first, piece = number_of(asked.path["first"]), piece_size(len(live.course.members))
    incoming = IncomingBlob(asked.request, live.size_of(key[2]), first, piece)
    listing = await incoming.listing(asked.request.headers.get("hanse-digest", ""))
    found, writer = await in_thread(_begin, live, key, listing, first)
    if not isinstance(found, Receiving):
        return found
    while writer is not None and (came := await incoming.piece()):
        await in_thread(found.take, writer, came)
    return await in_thread(live.progress, key, found)


def _begin(
    live: LiveRun, key: Key, listing: Listing, first: int
) -> tuple[Receiving | dict[str, Json], Writer | None]:
    """Return where an answer goes and what takes it from chunk ``first`` on, or what is told."""
    found = live.receive(key, listing)
    return found, found.writer(first) if isinstance(found, Receiving) else None


async def blob(asked: Asked) -> Response:
    """Give a blob of a run that the sender takes part in, or may see."""
    id = asked.path["blob"]
    lives = _runs_of(asked, id)
    if not lives:
        raise Missing("no such blob")
    readers, blobs = sum(len(live.course.members) for live in lives), lives[0].blobs
    try:
        listing, first = blobs.listing(id), number_of(asked.path["first"])
        piece = min(piece_size(2 * readers), MOST_UNREAD)
        return blob_response(listing, first, blobs.unverified(id, first, piece))
    except FileNotFoundError:
        raise Missing("no such blob") from None


def _runs_of(asked: Asked, id: str) -> list[LiveRun]:
    """Return the runs, each with a site at least, for which the sender may read a blob now."""
    if asked.who.role == "site":
        under_way = [r for r in [*asked.office.runs.records.values()] if not r.over]
        records = [r for r in under_way if asked.who.name in r.live.course.members]
    else:
        found = asked.office.runs.with_blob(id)
        records = [r for r in found if asked.who.role != "researcher" or r.by == asked.who.name]
    return [record.live for record in records if id in record.live.readable]


def _key(asked: Asked) -> Key:
    return asked.who.name, number_of(asked.path["round"]), asked.path["kind"]


def number_of(text: str) -> int:
    """Return a number of a path; ProtocolError for anything else."""
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise ProtocolError("a path without a number where one belongs")
    return int(text)
