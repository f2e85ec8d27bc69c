"""P14: each row of the table × each sender × own, foreign and missing run, by the row's rule."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.coordinator.service import (
    Coordinator,
    Recording,
    Site,
    serving,
    spec_of,
    submission,
    submit,
)

from hanse.coordinator.access import token_digest
from hanse.coordinator.openapi import OPENS
from hanse.coordinator.routes import RUN, SITE_RUN, Route
from hanse.coordinator.table import TABLE
from hanse.core.canonical import Json
from hanse.core.listing import Listing
from hanse.errors import HanseError
from hanse.net.client import Response
from hanse.net.problems import MEDIA_TYPE, TYPE, code_of
from hanse.net.session import SignedConnection
from hanse.net.signing import digest_of

PEOPLE = {"researcher", "viewer", "operator"}
GUARDED = [row for row in TABLE if row.handler.__name__ not in OPENS]


@dataclass(frozen=True)
class Sender:
    """Who asks: the role that counts (none: nothing that counts), and how a request is sent."""

    role: str
    name: str
    line: Recording
    site: Site | None = None

    def ask(self, row: Route, path: str) -> Response:
        content = b"{}" if row.body is not None else b""
        if self.site is None:
            return self.line.exchange(row.method, path, content)
        digest = "0" * 64 if row.streams else digest_of(content)
        headers = signed(self.site.line, row.method, path, digest)
        return self.line.exchange(row.method, path, content, headers=headers)


def signed(line: SignedConnection, method: str, path: str, digest: str) -> dict[str, str]:
    """What the site's client would send; a session that cannot be had leaves nothing to sign."""
    try:
        session, sequence = line._numbered()
    except HanseError:
        return {"Hanse-Session": "0" * 32, "Hanse-Sequence": "1", "Hanse-Digest": digest}
    named = {"Hanse-Session": session.id, "Hanse-Sequence": str(sequence)}
    return named | line._signed(method, path, session.id, sequence, digest)


@dataclass(frozen=True)
class World:
    senders: dict[str, Sender]
    runs: dict[str, tuple[str, set[str]]]
    """Run → who submitted it, and its sites."""
    models: dict[str, str]
    coordinator: Coordinator


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("matrix")) as coordinator:
        sites = {name: coordinator.enrol(name) for name in ("ada", "bob", "rex")}
        people = {name: coordinator.person(name, "researcher") for name in ("anna", "ben")}
        senders = {
            "anyone": Sender("", "", coordinator.dial()),
            "site": Sender("site", "ada", sites["ada"].connection, sites["ada"]),
            "other site": Sender("site", "bob", sites["bob"].connection, sites["bob"]),
            "revoked site": Sender("", "rex", sites["rex"].connection, sites["rex"]),
            "researcher": Sender("researcher", "anna", people["anna"]),
            "other researcher": Sender("researcher", "ben", people["ben"]),
            "viewer": Sender("viewer", "vic", coordinator.person("vic", "viewer")),
            "operator": Sender("operator", "operator", coordinator.operator),
            "expired token": Sender("", "eve", expired(coordinator)),
        }
        runs = {
            submit(people["anna"], spec_of("ada", "rex", name="one")): ("anna", {"ada", "rex"}),
            submit(people["ben"], spec_of("bob", name="two", seed=8)): ("ben", {"bob"}),
            "none-1": ("", set[str]()),
        }
        models = {run: coordinator.state(run)["model"] for run in [*runs][:2]}
        assert sites["rex"].poll()["assignments"]
        coordinator.revoke("rex")
        yield World(senders, runs, models, coordinator)


def expired(coordinator: Coordinator) -> Recording:
    assert coordinator.office is not None
    told: dict[str, Json] = {
        "name": "eve", "role": "operator", "token": token_digest("eve's"),
        "expires": time.time() - 1, "secret": "",
    }  # fmt: skip
    coordinator.office.note("logged_in", told)
    return coordinator.dial(bearer="eve's")


def expected(row: Route, sender: Sender, by: str, members: set[str]) -> set[str]:
    """Which problems answer, by the rule of the row; the empty text: it is let through."""
    if "anyone" in row.roles:
        return {""}
    takes_site = sender.site is not None and "site" in row.roles
    role = sender.role if takes_site or sender.role in PEOPLE else ""
    if role == "" or (role in PEOPLE and not PEOPLE & set(row.roles)):
        return {"identity", "session"}
    if role not in row.roles:
        return {"forbidden"}
    if row.owner == SITE_RUN and sender.name not in members:
        return {"missing"}
    if row.owner == RUN and (not by or (role == "researcher" and by != sender.name)):
        return {"missing"}
    return {""}


def filled(row: Route, run: str) -> str:
    parts = {"run": run, "round": "1", "kind": "train", "first": "0", "name": "nobody", "seq": "0"}
    return row.path.format(blob="0" * 64, **parts)


def verdict(response: Response) -> str:
    """The code of a refusal at the door; the empty text if the handler, or its body, answered."""
    code = code_of(response.body) if response.status >= 400 else ""
    return code if code in ("identity", "session", "forbidden", "missing") else ""


@pytest.mark.parametrize("row", GUARDED, ids=lambda row: f"{row.method} {row.path}")
def test_a_row_lets_in_whom_it_names_and_nobody_else(world: World, row: Route):
    wrong = list[str]()
    for who, sender in world.senders.items():
        for run, (by, members) in world.runs.items():
            response = sender.ask(row, filled(row, run))
            rule, found = expected(row, sender, by, members), verdict(response)
            # behind the door, a handler may say that something else is not there
            passed = rule == {""} and found == "missing" and (row.streams or not row.owner)
            if not (found in rule or passed) or response.status >= 500:
                wrong.append(f"{who}, {run}: {response.status} {found!r}, not {rule}")
    assert not wrong


def test_the_model_of_a_run_is_for_its_sites_and_for_who_may_see_the_run(world: World):
    row = next(row for row in TABLE if "{blob}" in row.path)
    for who, sender in world.senders.items():
        for run, model in world.models.items():
            by, members = world.runs[run]
            response = sender.ask(row, f"/v1/blobs/{model}/chunks/0")
            may = sender.role in ("viewer", "operator") or sender.name in (by, *members)
            counts = sender.role != ""
            expected = 200 if may and counts else 404 if counts else 401
            assert response.status == expected, f"{who} asks for the model of {run}"


def test_no_other_blob_is_given_to_anybody(world: World):
    office = world.coordinator.office
    assert office is not None
    row = next(row for row in TABLE if "{blob}" in row.path)
    lives = [record.live for record in office.runs.records.values()]
    others = {id for live in lives for id in live.blobs.ids()} - set(world.models.values())
    assert others  # the documents of the runs
    for blob in others:
        for who, sender in world.senders.items():
            response = sender.ask(row, f"/v1/blobs/{blob}/chunks/0")
            assert response.status in (401, 404), who


def test_lists_show_a_researcher_their_own_runs_only(world: World):
    for who in ("researcher", "other researcher", "viewer", "operator"):
        sender = world.senders[who]
        told = sender.line.request("GET", "/v1/runs").json()
        shown = {row["run"] for row in told["runs"]}  # type: ignore[index,union-attr,call-overload]
        own = {run for run, (by, _) in world.runs.items() if by == sender.name}
        assert shown == (own if sender.role == "researcher" else set(world.models)), who


def test_a_site_is_asked_for_its_own_runs_only(world: World):
    for who in ("site", "other site"):
        site = world.senders[who].site
        assert site is not None
        own = {run for run, (_, members) in world.runs.items() if site.name in members}
        assert {asked["run"] for asked in site.assignments()} <= own


def test_a_signature_counts_over_its_own_certificate_only(world: World):
    ada, bob = world.senders["site"].site, world.senders["other site"].site
    assert ada is not None
    assert bob is not None
    row = next(row for row in TABLE if row.path == "/v1/roster")
    renewal = next(row for row in TABLE if row.path == "/v1/renew")
    for line in (bob.connection, world.coordinator.dial()):
        crossed = Sender("site", "ada", line, Site(ada.name, ada.key, line, ada.line))
        assert code_of(crossed.ask(row, row.path).body) == "identity"
        assert crossed.ask(renewal, renewal.path).status == 400  # its body is none: it was let in


def test_a_challenge_is_for_anyone_and_opens_nothing_by_itself(world: World):
    anyone = world.senders["anyone"].line
    assert anyone.exchange("POST", "/v1/challenge").status == 200
    body = b'{"challenge":"%s","site":"ada"}' % (b"0" * 64)
    told = anyone.exchange("POST", "/v1/session", body)
    assert (told.status, code_of(told.body)) == (401, "session")


def test_one_site_cannot_open_a_session_for_another(world: World):
    bob = world.senders["other site"].site
    assert bob is not None
    line = SignedConnection(bob.connection, "ada", bob.key, world.coordinator.key)
    with pytest.raises(HanseError, match="not known here"):
        line.request("GET", "/v1/roster")


def test_a_route_without_a_rule_cannot_be_written_down():
    with pytest.raises(TypeError, match="roles"):
        Route("GET", "/v1/open", handler=TABLE[0].handler)  # type: ignore[call-arg]
    for row in TABLE:
        assert row.roles, row.path
        assert row.owner in ("", RUN, SITE_RUN), row.path


def test_each_row_with_a_run_says_whose_it_must_be():
    for row in TABLE:
        # a submission is not a run yet: its handler looks at who drafted it (see below)
        if "{run}" in row.path and row.handler.__name__ != "submit_chunks":
            assert row.owner == (SITE_RUN if row.roles == ("site",) else RUN), row.path


def test_a_submission_is_its_authors_alone(world: World):
    told, frame = submission(spec_of("ada", name="three"))
    line = world.senders["researcher"].line
    run = line.request("POST", "/v1/runs", told).json()["run"]  # type: ignore[index,call-overload]
    path = f"/v1/runs/{run}/model/chunks/0"
    body = Listing.of(frame).packed + frame
    for who in ("other researcher", "operator"):
        assert world.senders[who].line.exchange("PUT", path, body).status == 404, who
    assert line.exchange("PUT", path, body).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/v1"), ("GET", "/v1/runs/"), ("GET", "//v1/about"), ("HEAD", "/"),
        ("GET", "/v2/about"), ("GET", "/v1/about/"), ("GET", "/v1/../v1/sites"),
        ("BREW", "/v1/about"), ("TRACE", "/nowhere"), ("GET", "/v1/%61bout/x"), ("GET", "/metric"),
    ],
)  # fmt: skip
def test_what_is_not_in_the_table_is_a_problem(world: World, method: str, path: str):
    response = world.senders["operator"].line.exchange(method, path)
    assert response.status in (400, 404)
    if method != "HEAD":
        assert code_of(response.body) in ("missing", "protocol")
    assert response.headers["content-type"] == MEDIA_TYPE


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE"])
def test_another_method_on_a_known_path_is_a_problem(world: World, method: str):
    for row in TABLE:
        response = world.senders["operator"].line.exchange(method, filled(row, "none-1"))
        assert response.headers["content-type"] == MEDIA_TYPE, row.path
        assert method == "HEAD" or code_of(response.body), row.path


def test_no_refusal_tells_more_than_its_code(world: World):
    for sender in world.senders.values():
        for path in ("/v1/runs/one-1", "/v1/runs/none-1", "/v1/sites"):
            response = sender.line.exchange("GET", path)
            if response.status >= 400:
                assert set(response.json()) == {"status", "title", "type"}  # type: ignore[arg-type]
                assert response.json()["type"].startswith(TYPE)  # type: ignore[index,call-overload]


def test_every_response_to_a_sites_request_is_signed_or_is_a_blob(world: World):
    site = world.senders["site"].site
    assert site is not None
    for row in [row for row in TABLE if row.roles == ("site",)]:
        response = world.senders["site"].ask(row, filled(row, "one-1"))
        assert response.headers.get("hanse-signature"), row.path
