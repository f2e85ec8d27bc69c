"""Every route of the coordinator, and who may take it."""

from hanse.coordinator import for_monitors, for_people, for_sites, schemas
from hanse.coordinator.access import Role
from hanse.coordinator.openapi import document
from hanse.coordinator.routes import MIB, RUN, SITE_RUN, Asked, Route
from hanse.core.canonical import Json

ANYONE: tuple[Role, ...] = ("anyone",)
SITE: tuple[Role, ...] = ("site",)
PEOPLE: tuple[Role, ...] = ("researcher", "viewer", "operator")
AUTHORS: tuple[Role, ...] = ("researcher", "operator")
OPERATOR: tuple[Role, ...] = ("operator",)
WATCHERS: tuple[Role, ...] = ("viewer", "operator")


async def openapi(asked: Asked) -> Json:
    """Give the description of this interface, in OpenAPI 3.1."""
    return document(TABLE)


ANSWER = "/v1/runs/{run}/{round}/{kind}"

TABLE: tuple[Route, ...] = (
    Route("GET", "/v1/about", ANYONE, for_sites.about),
    Route("GET", "/v1/ca", ANYONE, for_sites.authority),
    Route("GET", "/v1/openapi.json", ANYONE, openapi),
    Route("POST", "/v1/join", ANYONE, for_sites.join, schemas.Join),
    Route("POST", "/v1/login", ANYONE, for_people.login, schemas.Login),
    # monitors
    Route("GET", "/healthz", ANYONE, for_monitors.alive),
    Route("GET", "/readyz", ANYONE, for_monitors.readiness),
    Route("GET", "/metrics", WATCHERS, for_monitors.metrics),
    # sites
    Route("POST", "/v1/challenge", SITE, for_sites.challenge),
    Route("POST", "/v1/session", SITE, for_sites.session, schemas.OpenSession),
    Route("POST", "/v1/renew", SITE, for_sites.renew, schemas.Renew, needs_certificate=False),
    Route("GET", "/v1/roster", SITE, for_sites.roster),
    Route("GET", "/v1/entries/{seq}", SITE, for_sites.entry),
    Route("GET", "/v1/ledger", SITE, for_sites.ledger_head),
    Route("POST", "/v1/ledger", SITE, for_sites.note_ledger_head, schemas.LedgerHead),
    Route("POST", "/v1/poll", SITE, for_sites.poll, schemas.Poll),
    Route("GET", "/v1/runs/{run}/spec", SITE, for_sites.specification, owner=SITE_RUN),
    Route("POST", ANSWER, SITE, for_sites.answer, schemas.Answer, SITE_RUN),
    Route(
        "PUT", f"{ANSWER}/chunks/{{first}}", SITE, for_sites.answer_chunks, None, SITE_RUN,
        streams=True,
    ),
    Route("GET", "/v1/blobs/{blob}/chunks/{first}", (*SITE, *PEOPLE), for_sites.blob),
    # people
    Route("GET", "/v1/runs", PEOPLE, for_people.runs),
    Route("POST", "/v1/runs", AUTHORS, for_people.submit, schemas.Submission, most=128 * MIB),
    Route(
        "PUT", "/v1/runs/{run}/model/chunks/{first}", AUTHORS, for_people.submit_chunks,
        streams=True,
    ),
    Route("GET", "/v1/runs/{run}", PEOPLE, for_people.run, owner=RUN),
    Route("GET", "/v1/runs/{run}/history", PEOPLE, for_people.history, owner=RUN),
    Route("GET", "/v1/runs/{run}/events", PEOPLE, for_people.logs, owner=RUN),
    Route("POST", "/v1/runs/{run}/stop", AUTHORS, for_people.stop, owner=RUN),
    Route("GET", "/v1/sites", PEOPLE, for_people.sites),
    Route("POST", "/v1/invitations", OPERATOR, for_people.invite, schemas.Invite),
    Route("POST", "/v1/members/{name}/revoke", OPERATOR, for_people.revoke),
)  # fmt: skip
