"""The API against its own OpenAPI document: schemathesis makes the requests, valid and invalid ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from edge.openapi import document
from edge.web import WebServer
from tests.gateway import START_MS, Gateway, request, running
from voltflow.telemetry import Session


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A gateway with everything a pack can have."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    gateway.birth("depot/P1")
    gateway.drive("depot/P1", 20)
    for model, value in (("soh", 92.0), ("rul", 812.0), ("failure", None)):
        gateway.predict("depot/P1", model, value, reason=None if value else "efc is missing")
    twin = gateway.store.find("depot/P1")
    assert twin is not None
    gateway.store.on_session(twin, Session(START_MS, START_MS + 1, 20.0, 90.0, 100.0, 135.0, 25.0, 50.0))
    gateway.feed("north/P2", cell_temp_max_c=-40.0, dtc=["P0A80"])
    gateway.alert("north/P2")
    gateway.feed_cells("depot/P1", voltages_mv=[3650, 65535], temps_c=[25.0], balancing=[True, False])
    with running(gateway.state) as web:
        yield web
    gateway.state.log_levels.reset()  # of this process


# The stream does not end: tests/unit/test_edge_stream.py reads it. That the server's document is this one is tested below.
schema = schemathesis.openapi.from_dict(document()).exclude(path="/api/stream")


@schema.parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
def test_api_does_what_its_document_says(case: schemathesis.Case, server: WebServer) -> None:
    """No 5xx, documented status and content type, answers that fit their schema, bad parameters refused."""
    case.call_and_validate(base_url=server.url)


@pytest.mark.parametrize("pack", ["P1", "depot/P1", "north/P2", "P2"])
@pytest.mark.parametrize("view", ["status", "detailed", "comparison", "history", "cells", "sessions"])
def test_answers_about_packs_fit_their_schema(server: WebServer, pack: str, view: str) -> None:
    """Names made at random are hardly ever packs: ask for those that are there."""
    operation = schema[f"/api/packs/{{pack}}/{view}"]["GET"]
    response = operation.Case(path_parameters={"pack": pack}).call_and_validate(base_url=server.url)
    assert response.status_code == 200


@pytest.mark.parametrize("state", ["active", "recent", "all"])
def test_answers_about_alerts_fit_their_schema(server: WebServer, state: str) -> None:
    operation = schema["/api/alerts"]["GET"]
    response = operation.Case(query={"state": state}).call_and_validate(base_url=server.url)
    assert response.json()["alerts"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_answers_to_who_has_seen_to_an_alert_fit_their_schema(server: WebServer, method: str) -> None:
    (alert,) = request(server, "/api/alerts").json()["alerts"]
    operation = schema["/api/alerts/{id}/acknowledge"][method]
    body = {"body": {"note": "seen"}, "media_type": "application/json"} if method == "POST" else {}
    case = operation.Case(path_parameters={"id": alert["id"]}, **body)
    assert case.call_and_validate(base_url=server.url).status_code == 200


def test_server_answers_with_this_document(server: WebServer) -> None:
    assert request(server, "/api/openapi.json").json() == document()


def test_docs_page_names_every_path() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    assert [path for path in document()["paths"] if f"`{path}`" not in page] == []
