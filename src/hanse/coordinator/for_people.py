"""What the coordinator answers to researchers, viewers and operators."""

import secrets
from collections.abc import Mapping
from time import time
from typing import Any

from hanse.config.specification import layout_json
from hanse.coordinator.access import token_digest
from hanse.coordinator.for_sites import number_of
from hanse.coordinator.routes import Asked, in_thread
from hanse.coordinator.why import members, status, why
from hanse.core.canonical import Json
from hanse.errors import ConfigError, PipelineError
from hanse.log import Event, Line, log
from hanse.net.bodies import LEAST, IncomingBlob
from hanse.net.invitations import new_token, secret_digest
from hanse.net.problems import Conflict, Missing, NotTrusted
from hanse.net.words import site_words

INVITATION_S = 3600.0
LOGIN_S = 30 * 86400.0


async def login(asked: Asked) -> Json:
    """Exchange the secret of an invitation for a bearer token; one of before ends."""
    body, office = asked.body, asked.office
    secret = secret_digest(bytes.fromhex(body.secret))
    invitation = office.registry.invited(secret, time())
    if invitation.role == "site":
        raise NotTrusted(f"the invitation is for the site {invitation.name}")
    office.registry.check_free(invitation.name, invitation.role)
    token, expires = secrets.token_urlsafe(32), time() + LOGIN_S
    told: dict[str, Json] = {
        "name": invitation.name,
        "role": invitation.role,
        "token": token_digest(token),
        "expires": expires,
        "secret": secret,
    }
    office.note("logged_in", told)
    return {
        "token": token, "expires": expires, "role": invitation.role, "name": invitation.name,
    }  # fmt: skip


async def submit(asked: Asked) -> Json:
    """Take a run; its initial model comes next."""
    body, office = asked.body, asked.office
    if not office.runs.reserve.is_held:
        said = "the coordinator's disk is full"
        return {"state": "refused", "said": said, "hint": "submit it when its operator made room"}
    try:
        id = await in_thread(
            office.runs.draft,
            asked.who.name,
            body.spec,
            body.layout,
            body.model,
            office.registry.roster,
        )
    except (ConfigError, PipelineError) as error:
        return {"state": "refused", "said": str(error), "hint": error.hint}
    return {"state": "missing", "run": id}


async def submit_chunks(asked: Asked) -> Json:
    """Take a submission's initial model: its listing, and its chunks from one on."""
    runs, id = asked.office.runs, asked.path["run"]
    draft, first = runs.drafted(id, asked.who.name), number_of(asked.path["first"])
    incoming = IncomingBlob(asked.request, draft.frame.size, first, LEAST)
    listing = await incoming.listing(draft.model)
    if draft.next == first:
        draft.begin()
        while piece := await incoming.piece():
            await in_thread(draft.take, listing, piece)
    if await in_thread(runs.submitted, id, draft):
        log(Line(Event.SUBMITTED, run=id, name=asked.who.name))
        return {"state": "taken", "receipt": {"run": id}}
    return {"state": "missing", "from": draft.next}


async def runs(asked: Asked) -> Json:
    """List the runs that the sender may see."""
    office, who = asked.office, asked.who

    def seen() -> list[Json]:
        """Also of runs that are over, whose events may have to be read first."""
        return [
            status(id, record.by, record.live, office.away_s)
            for id, record in [*office.runs.records.items()]
            if who.role != "researcher" or record.by == who.name
        ]

    restored = office.registry.restored
    told: Json = None if restored is None else {"seq": restored.seq, "at": restored.at}
    return {"runs": await in_thread(seen), "restored": told}


async def run(asked: Asked) -> Json:
    """Say how a run stands, and why; wait for news if asked to."""
    office, id = asked.office, asked.path["run"]
    record = office.runs.of(id)
    after = asked.request.query_params.get("after", "")
    if after:
        await office.bell.until("", lambda: str(record.live.news_number) != after, 25)
    return {
        **status(id, record.by, record.live, office.away_s),
        "why": why(record.live, office.away_s, disk_is_full=office.registry.disk_is_full),
        "members": members(record.live, office.away_s),
        "news": str(record.live.news_number),
    }


async def history(asked: Asked) -> Json:
    """Give a run's history, its spec, and the layout of its model."""
    live = asked.office.runs.of(asked.path["run"]).live
    spec = live.read.spec
    return {
        "history": [live.history[number] for number in sorted(live.history)],
        "spec": spec.canonical,
        "layout": layout_json(spec.layout),
        "best": live.best and [*live.best],
        "simulated": asked.office.settings.simulated,
    }


async def logs(asked: Asked) -> Json:
    """Give a run's events, as the journal has them; counts of a site only if they are released."""
    live = asked.office.runs.of(asked.path["run"]).live
    entries = await in_thread(asked.office.journal.read, live.stream)
    shows = live.read.spec.evaluation.release == "per-site"
    return {
        "events": [
            {
                "seq": entry.seq,
                "kind": entry.kind,
                "body": entry.body if shows else _without_counts(entry.body),
                "at": entry.at_wall / 1000,
                "hash": entry.hash,
            }
            for entry in entries
        ]
    }


def _without_counts(body: Json) -> Json:
    """Return an event's body without the counts of one site, which the run does not release."""
    if isinstance(body, Mapping) and "counts" in body:
        return {**body, "counts": None}
    return body


async def stop(asked: Asked) -> Json:
    """End a run."""
    live = asked.office.runs.of(asked.path["run"]).live
    await in_thread(live.stop, asked.who.name)
    log(Line(Event.STOP_ASKED, run=live.id, name=asked.who.name))
    return {"outcome": live.course.outcome}


async def invite(asked: Asked) -> Json:
    """Make an invitation, good once and for an hour."""
    body, office = asked.body, asked.office
    office.registry.check_free(body.name, body.role)
    token, secret = new_token(office.authority.fingerprint)
    expires = time() + INVITATION_S
    told: dict[str, Json] = {
        "name": body.name, "role": body.role, "secret": secret, "expires": expires,
    }  # fmt: skip
    office.note("invited", told)
    return {"token": token, "expires": expires}


async def sites(asked: Asked) -> Json:
    """List the sites: six words, and when each was seen."""
    office = asked.office
    rows: list[Any] = [
        {
            "name": name,
            "key": member.key,
            "words": site_words(name, member.key, office.key.public),
            "revoked": member.revoked,
            "away_s": office.away_s(name),
            "doing": office.seen[name].doing if name in office.seen else "",
        }
        for name, member in sorted(office.registry.sites.items())
    ]
    return {"sites": rows, "roster": office.registry.roster_digest}


async def revoke(asked: Asked) -> Json:
    """Revoke a site, a person or an invitation, from the next request on."""
    office, name = asked.office, asked.path["name"]
    invited = {invitation.name for invitation in office.registry.invitations.values()}
    if name not in {*office.registry.sites, *office.registry.users, *invited}:
        raise Missing(f"nobody is called {name[:80]}")
    if name == asked.who.name:
        raise Conflict("nobody revokes themselves")
    office.note("revoked", {"name": name, "by": asked.who.name, "now": time()})
    office.desk.forget(name)
    office.bell.ring(name)
    return {"revoked": name}
