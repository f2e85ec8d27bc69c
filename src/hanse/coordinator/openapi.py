"""The API as an OpenAPI 3.1 document, made from the table of routes and the schemas of bodies.

Nothing is written down twice: a route that is in the table is in the document, with who may take
it (``x-roles``), whose its run must be (``x-owner``), and the errors of docs/protocol.md §7. Only
what handlers answer is told here, in ``ANSWERS``.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from hanse.coordinator.routes import Route
from hanse.coordinator.watch import Reason
from hanse.core.canonical import Json
from hanse.net.problems import HTTP_BUSY, MEDIA_TYPE, PROBLEMS, TYPE

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
TRUTH: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}
HEX64: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
PARAMETERS: Mapping[str, Schema] = {
    "run": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$"},
    "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
    "kind": {"enum": ["prepare", "train", "evaluate", "finish"]},
    "round": WHOLE | {"maximum": 10**12 - 1},
    "seq": WHOLE | {"maximum": 10**12 - 1},
    "first": WHOLE | {"maximum": 10**12 - 1},
    "blob": HEX64,
}
QUERIES: Mapping[str, Schema] = {"run": {"after": {"type": "string", "maxLength": 20}}}
"""Handler → what may stand in its query."""


def closed(optional: Iterable[str] = (), /, **members: Schema) -> Schema:
    """Return the schema of an object with ``members`` and no others."""
    required = [name for name in members if name not in set(optional)]
    return {
        "type": "object",
        "properties": members,
        "required": required,
        "additionalProperties": False,
    }


def many(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def maybe(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


OUTCOME = {"enum": ["done", "failed", "stopped", None]}
ROSTER = many(closed(key=HEX64, name=TEXT))
BEST = maybe({"type": "array", "minItems": 4, "maxItems": 4})
MISSING = closed(state={"const": "missing"}, **{"from": WHOLE})
RECEIPT = closed(state={"const": "taken"}, receipt=ANY)
STATUS: Mapping[str, Schema] = {
    "run": TEXT, "by": TEXT, "spec_hash": HEX64, "stage": TEXT, "outcome": OUTCOME,
    "round": WHOLE, "rounds": WHOLE, "sites": many(TEXT), "model": HEX64, "best": BEST,
}  # fmt: skip
MEMBER = closed(
    ready=TRUTH, fingerprint=TEXT, reasons=many(TEXT), away_s=maybe(NUMBER), finished=TRUTH
)
HEAD = closed(seq=WHOLE, hash=HEX64)
EVENT = closed(seq=WHOLE, kind=TEXT, body=ANY, at=NUMBER, hash=HEX64)
ASSIGNMENT = closed(
    run=TEXT, kind=TEXT, round=WHOLE, blob=maybe(HEX64), body=ANY,
    counted=maybe(WHOLE),
)  # fmt: skip
SITE = closed(
    name=TEXT, key=HEX64, words=TEXT, revoked=TRUTH, away_s=maybe(NUMBER), doing=TEXT
)  # fmt: skip
ANSWERS: Mapping[str, Schema] = {
    "about": closed(name=TEXT, protocol={"const": 1}, key=HEX64, simulated=TRUTH, time=NUMBER,
                    succession=many(closed(key=HEX64, signature=TEXT))),
    "authority": {"media": "application/x-pem-file", **TEXT},
    "join": closed(certificate=TEXT, key=HEX64, coordinator=TEXT),
    "login": closed(token=TEXT, expires=NUMBER, role=TEXT),
    "challenge": closed(challenge=HEX64),
    "session": closed(session={"type": "string", "pattern": "^[0-9a-f]{32}$"}),
    "renew": closed(certificate=TEXT),
    "roster": closed(roster=ROSTER),
    "entry": closed(hash=HEX64),
    "ledger_head": HEAD,
    "note_ledger_head": HEAD,
    "poll": closed(assignments=many(ASSIGNMENT), version=HEX64),
    "specification": closed(spec=TEXT, layout=ANY, simulated=TRUTH, roster=ROSTER),
    "answer": RECEIPT,
    "answer_chunks": {"oneOf": [MISSING, RECEIPT]},
    "blob": {"media": "application/octet-stream"},
    "runs": closed(runs=many(closed(**STATUS)), restored=maybe(closed(seq=WHOLE, at=TEXT))),
    "submit": {
        "oneOf": [
            closed(state={"const": "missing"}, run=TEXT),
            closed(state={"const": "refused"}, said=TEXT, hint=TEXT),
        ]
    },
    "submit_chunks": {"oneOf": [MISSING, RECEIPT]},
    "run": closed(
        **STATUS, why=many(TEXT), news=TEXT,
        members={"type": "object", "additionalProperties": MEMBER},
    ),
    "history": closed(
        history=many(ANY), spec=TEXT, layout=ANY, best=BEST, simulated=TRUTH
    ),
    "logs": closed(events=many(EVENT)),
    "stop": closed(outcome=OUTCOME),
    "invite": closed(token=TEXT, expires=NUMBER),
    "sites": closed(sites=many(SITE), roster=HEX64),
    "revoke": closed(revoked=TEXT),
    "openapi": ANY,
    "alive": closed(status={"const": "ok"}),
    "readiness": closed(status={"const": "ready"}),
    "metrics": {"media": "text/plain", **TEXT},
}  # fmt: skip
"""Handler → the schema of what it answers; ``media`` where that is no JSON."""
OTHERWISE: Mapping[str, tuple[int, Schema]] = {
    "readiness": (
        503,
        closed(status={"const": "not ready"}, reasons=many({"enum": [str(r) for r in Reason]})),
    ),
}
"""Handler → another status that it answers with JSON of its own, and the schema of that."""

SIGNED = {
    "session": "Hanse-Session",
    "sequence": "Hanse-Sequence",
    "digest": "Hanse-Digest",
    "signature": "Hanse-Signature",
}
OPENS: Mapping[str, tuple[str, ...]] = {"challenge": (), "session": ("digest", "signature")}
"""What the two requests carry that come before there is a session (docs/protocol.md §5)."""


def document(table: Iterable[Route]) -> dict[str, Json]:
    """Return the OpenAPI 3.1 document of ``table``; KeyError for a handler without an answer."""
    rows = tuple(table)
    paths: dict[str, dict[str, Json]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hanse: the coordinator's API",
            "version": "1",
            "description": "docs/protocol.md says what the bytes mean, and how they are signed.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(rows),
            "responses": {str(status): _problem(status) for status in _statuses()},
            "securitySchemes": _security_schemes(),
        },
    }


def _schemas(rows: Iterable[Route]) -> dict[str, Json]:
    bodies = {row.body for row in rows if row.body is not None}
    named = sorted(bodies, key=lambda body: body.__name__)
    _, made = models_json_schema(
        [(body, "validation") for body in named], ref_template="#/components/schemas/{model}"
    )
    told = {code: closed(**_members(code, problem.title)) for code, problem in PROBLEMS.items()}
    return {**made.get("$defs", {}), "Problem": {"oneOf": list(told.values())}}


def _members(code: str, title: str) -> dict[str, Schema]:
    return {
        "status": {"enum": [*_statuses()]},
        "title": {"const": title},
        "type": {"const": TYPE + code},
    }


def _statuses() -> list[int]:
    """Return the statuses of errors: those of docs/protocol.md §7."""
    return sorted({problem.status for problem in PROBLEMS.values()} | {HTTP_BUSY[0]})


def _problem(status: int, beside: Schema | None = None) -> dict[str, Json]:
    titles = [problem.title for problem in PROBLEMS.values() if problem.status == status]
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "; or ".join(titles) or "too many requests: try again later",
        "content": {MEDIA_TYPE: {"schema": schema}, **(beside or {})},
    }


def _operation(row: Route) -> dict[str, Json]:
    name = row.handler.__name__
    answer = dict(ANSWERS[name])
    media = answer.pop("media", "application/json")
    responses: dict[str, Json] = {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in _statuses()
    }
    responses["200"] = {"description": row.summary, "content": {media: {"schema": answer}}}
    if name in OTHERWISE:
        status, schema = OTHERWISE[name]
        responses[str(status)] = _problem(status, {"application/json": {"schema": schema}})
    told: dict[str, Json] = {
        "operationId": name,
        "summary": row.summary,
        "x-roles": list(row.roles),
        "x-owner": row.owner,
        "security": _security(row),
        "parameters": _parameters(row),
        "responses": responses,
    }
    return told | _request_body(row)


def _request_body(row: Route) -> dict[str, Json]:
    if row.streams:
        content: Schema = {"application/octet-stream": {}}
    elif row.body is not None:
        schema = {"$ref": f"#/components/schemas/{row.body.__name__}"}
        content = {"application/json": {"schema": schema}}
    else:
        return {}
    return {"requestBody": {"required": True, "content": content}}


def _parameters(row: Route) -> list[Json]:
    in_path: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", row.path)
    ]
    in_query = QUERIES.get(row.handler.__name__, {})
    return in_path + [
        {"name": name, "in": "query", "schema": schema} for name, schema in in_query.items()
    ]


def _security(row: Route) -> list[Json]:
    """Return the ways to be admitted, each all that it takes."""
    ways: list[Json] = []
    if "site" in row.roles:
        headers = OPENS.get(row.handler.__name__, (*SIGNED,))
        with_certificate = row.needs_certificate and headers == (*SIGNED,)
        ways.append({name: [] for name in (*headers, *(["certificate"] * with_certificate))})
    if set(row.roles) - {"site", "anyone"}:
        ways.append({"bearer": []})
    return ways


def _security_schemes() -> dict[str, Json]:
    signed: dict[str, Json] = {
        name: {"type": "apiKey", "in": "header", "name": header} for name, header in SIGNED.items()
    }
    return {
        "certificate": {"type": "mutualTLS"},
        "bearer": {"type": "http", "scheme": "bearer"},
        **signed,
    }
