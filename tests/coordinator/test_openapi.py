"""The served document is complete, and says what the coordinator does."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from tests.coordinator.service import Coordinator, serving, spec_of, submit

from hanse.coordinator.openapi import ANSWERS, OPENS, PARAMETERS, document
from hanse.coordinator.table import TABLE
from hanse.net.problems import PROBLEMS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from schemathesis.checks import not_a_server_error

TOLD: dict[str, Any] = document(TABLE)  # type: ignore[assignment]
OPERATIONS = [
    (path, method, told) for path, ways in TOLD["paths"].items() for method, told in ways.items()
]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with serving(tmp_path_factory.mktemp("openapi")) as found:
        found.enrol("ada")
        submit(found.operator, spec_of("ada", name="one"))
        yield found


def test_every_row_of_the_table_is_in_the_document_and_nothing_else():
    rows = {(row.path, row.method.lower()) for row in TABLE}
    assert {(path, method) for path, method, _ in OPERATIONS} == rows
    assert len({told["operationId"] for *_, told in OPERATIONS}) == len(rows)
    assert set(ANSWERS) == {row.handler.__name__ for row in TABLE}


def test_each_operation_names_every_status_of_the_protocol_and_who_may_take_it():
    statuses = {str(problem.status) for problem in PROBLEMS.values()} | {"200", "429"}
    by_path = {(row.path, row.method.lower()): row for row in TABLE}
    for path, method, told in OPERATIONS:
        assert set(told["responses"]) == statuses, path
        assert told["x-roles"] == list(by_path[path, method].roles)
        assert bool(told["security"]) == ("anyone" not in told["x-roles"]), path
        assert told["summary"], path
    assert set(OPENS) <= set(ANSWERS)


def test_the_body_of_a_request_is_closed_at_every_level():
    def look(schema: Any, where: str) -> None:
        if isinstance(schema, dict):
            if "properties" in schema:
                assert schema.get("additionalProperties") is False, where
            for name, inner in schema.items():
                look(inner, f"{where}/{name}")
        elif isinstance(schema, list):
            for inner in schema:
                look(inner, where)

    look(TOLD["components"], "components")
    look(TOLD["paths"], "paths")


def test_every_reference_leads_somewhere():
    text = json.dumps(TOLD)
    for part in text.split('"$ref": "#/')[1:]:
        found: Any = TOLD
        for name in part.split('"')[0].split("/"):
            found = found[name]
    names = {p["name"] for *_, told in OPERATIONS for p in told["parameters"] if p["in"] == "path"}
    assert names == set(PARAMETERS)


def test_the_document_is_served_to_anyone(coordinator: Coordinator):
    response = coordinator.dial().exchange("GET", "/v1/openapi.json")
    assert response.status == 200
    assert response.json() == json.loads(json.dumps(TOLD))


SCHEMA = schemathesis.openapi.from_dict(json.loads(json.dumps(TOLD)))  # it changes what it gets


def strategy_of(path: str, method: str) -> st.SearchStrategy[Any]:
    return SCHEMA[path][method.upper()].as_strategy()


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, method, told in OPERATIONS if "site" not in told["x-roles"]],
)
def test_what_people_and_anyone_send_is_answered_as_the_document_says(
    coordinator: Coordinator, path: str, method: str
):
    token = coordinator.operator._headers["Authorization"]
    certificate = str(coordinator.folder / "coordinator" / "authority.pem")

    @settings(
        max_examples=25, deadline=None, phases=[Phase.generate], derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy_of(path, method))
    def ask(case: Any) -> None:
        case.headers = {"Authorization": token}
        if case.query.get("after") if case.query else False:
            case.query = {}  # a long poll is not what this test waits for
        response = case.call(base_url=coordinator.url, verify=certificate)
        case.validate_response(
            response,
            checks=[
                not_a_server_error,
                schemathesis.specs.openapi.checks.response_schema_conformance,
                schemathesis.specs.openapi.checks.status_code_conformance,
                schemathesis.specs.openapi.checks.content_type_conformance,
            ],
        )

    ask()


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, method, told in OPERATIONS if "site" in told["x-roles"]],
)
def test_what_sites_send_without_a_session_is_refused_as_the_document_says(
    coordinator: Coordinator, path: str, method: str
):
    certificate = str(coordinator.folder / "coordinator" / "authority.pem")

    @settings(
        max_examples=10, deadline=None, phases=[Phase.generate], derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy_of(path, method))
    def ask(case: Any) -> None:
        response = case.call(base_url=coordinator.url, verify=certificate)
        assert response.status_code in (200, 400, 401, 413)
        assert response.status_code != 200 or path == "/v1/challenge"
        case.validate_response(response, checks=[not_a_server_error])

    ask()
