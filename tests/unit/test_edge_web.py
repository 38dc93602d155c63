"""The gateway's web server over real HTTP: its errors, the page's files, who may ask, its ports."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from edge.web import MetricsServer, PortTakenError, WebServer
from tests.gateway import (
    TOKEN,
    Gateway,
    ask,
    error_of,
    request,
    running,
    serving,
    three_packs,
)
from voltflow.settings import SettingsError


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """One that asks for a token."""
    with running(three_packs(tmp_path_factory.mktemp("gateway")).state, TOKEN) as server:
        yield server


# -- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "code", "part"),
    [
        ("/api/battery/status?pack=P3", 404, "unknown_pack", "/api/packs lists them"),
        ("/api/battery/status?pack=P2", 404, "ambiguous_pack", "fleets depot, north have a pack P2"),
        ("/api/packs/a b/status", 400, "bad_parameter", "pack must be"),
        ("/api/packs/a/b/c/status", 400, "bad_parameter", "pack must be"),
        ("/api/battery/status?pack=%00", 400, "bad_parameter", "pack"),
        ("/api/packs?limit=0", 400, "bad_parameter", ">= 1 - at `$.limit`"),
        ("/api/packs?limit=many", 400, "bad_parameter", "at `$.limit`"),
        ("/api/packs?limit=" + "9" * 400, 400, "bad_parameter", "limit"),
        ("/api/packs?sort=colour", 400, "bad_parameter", "Invalid enum value 'colour' - at `$.sort`"),
        ("/api/packs?lmit=5", 400, "bad_parameter", "parameters here: limit, offset, sort, fleet"),
        ("/api/packs?limit=1&limit=2", 400, "bad_parameter", "given twice"),
        ("/api/health?x=1", 400, "bad_parameter", "parameters here: none"),
        ("/api/stream?pack=P3", 404, "unknown_pack", "P3"),
        ("/api/stream?x=1", 400, "bad_parameter", "parameters here: pack, packs"),
        ("/api/stream?packs=P1", 400, "bad_parameter", "packs"),
        ("/api/stream?pack=P1&packs=depot/P1", 400, "bad_parameter", "either pack or packs"),
        ("/api/packs?after=a/b", 404, "unknown_pack", "after: a/b is not among the packs asked for"),
        ("/api/nothing", 404, "not_found", "/api/openapi.json lists what is"),
        ("/../../etc/passwd", 404, "not_found", ""),
        ("/api/packs/", 404, "not_found", ""),
    ],
)
def test_errors_are_json_and_say_what_is_wrong(
    server: WebServer, path: str, status: int, code: str, part: str
) -> None:
    error = error_of(request(server, path.replace(" ", "%20")), status)
    assert error["code"] == code
    assert part in error["message"]


def test_no_pack_yet_is_not_found(gateway: Gateway) -> None:
    error = error_of(ask(gateway.state, lambda server: request(server, "/api/battery/status")), 404)
    assert error["code"] == "no_packs"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/api/health", "/api/packs/P1/status", "/api/stream", "/", "/metrics"])
def test_only_reading_is_possible(server: WebServer, method: str, path: str) -> None:
    answer = request(server, path, method)
    assert error_of(answer, 405)["message"] == f"{method} is not possible here; use GET"
    assert "GET" in answer.headers["allow"]


def test_a_failing_handler_is_500_and_logged(fleet: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    del fleet.store.packs  # type: ignore[attr-defined]  # what cannot happen
    with caplog.at_level(logging.ERROR):
        error = error_of(ask(fleet.state, lambda server: request(server, "/api/health")), 500)
    assert error == {"code": "internal", "message": "the gateway failed on this request; see its log"}
    assert "/api/health failed" in caplog.text


@pytest.mark.parametrize("path", ["/", "/api/health", "/api/stream", "/metrics"])
def test_head_has_headers_and_no_body(server: WebServer, path: str) -> None:
    answer = request(server, path, "HEAD")
    assert (answer.status, answer.body) == (200, b"")


# -- the page ---------------------------------------------------------------------------------------------------


def test_page_unchanged_is_not_sent_again(gateway: Gateway) -> None:
    def questions(server: WebServer) -> Any:
        tag = request(server, "/").headers["etag"]
        return request(server, "/", **{"If-None-Match": tag})

    answer = ask(gateway.state, questions)
    assert (answer.status, answer.body) == (304, b"")


# -- who may ask ------------------------------------------------------------------------------------------------


def test_security_headers_are_on_every_answer(fleet: Gateway) -> None:
    def questions(server: WebServer) -> list[Any]:
        return [
            request(server, path)
            for path in ("/", "/api/health", "/api/nothing", "/api/stream?x=1", "/metrics")
        ]

    for answer in ask(fleet.state, questions):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/api/health", "/api/stream", "/metrics", "/api/openapi.json", "/api/nothing"]
)
def test_token_is_asked_for(locked: WebServer, path: str) -> None:
    def questions(server: WebServer) -> list[Any]:
        wrong = (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer é"},
        )
        return [request(server, path, **headers) for headers in wrong] + [
            request(server, f"{path}?token={TOKEN}")
        ]

    for answer in questions(locked):
        assert error_of(answer, 401)["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_token_opens_and_the_page_itself_is_open(locked: WebServer) -> None:
    def questions(server: WebServer) -> list[int]:
        authorized = request(server, "/api/health", Authorization=f"Bearer {TOKEN}", Host="gateway.example")
        return [
            authorized.status,
            *(request(server, path).status for path in ("/", "/app.js", "/style/base.css")),
        ]

    assert questions(locked) == [200] * 4


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:5002", 200), ("[::1]:5002", 200), ("evil.example", 421), ("[", 421), ("", 421)],
)
def test_without_a_token_a_foreign_host_name_is_refused(server: WebServer, host: str, status: int) -> None:
    """A web page whose name was rebound to 127.0.0.1 must not read the gateway."""
    assert request(server, "/api/health", Host=host).status == status


@pytest.mark.parametrize(("kind", "section"), [(WebServer, "api"), (MetricsServer, "metrics")])
def test_beyond_loopback_a_token_is_required(gateway: Gateway, kind: Any, section: str) -> None:
    with pytest.raises(SettingsError) as caught:
        asyncio.run(kind(gateway.state, "0.0.0.0", 0).start())
    assert str(caught.value) == (
        f"{section}_host = '0.0.0.0' is reachable from other machines and api_token is not set: set api_token "
        f"(or api_token_file), or {section}_host to 127.0.0.1"
    )


def test_a_short_token_is_refused(gateway: Gateway) -> None:
    with pytest.raises(SettingsError, match=r"^api_token has 5 characters, at least 16 are needed"):
        asyncio.run(WebServer(gateway.state, "127.0.0.1", 0, "short").start())


@pytest.mark.parametrize(("kind", "section"), [(WebServer, "api"), (MetricsServer, "metrics")])
def test_a_taken_port_is_an_error_that_names_the_setting(gateway: Gateway, kind: Any, section: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = kind(gateway.state, "127.0.0.1", port)
        with pytest.raises(PortTakenError) as caught:
            asyncio.run(server.start())
        asyncio.run(server.stop())  # the agent stops what it could not start
    assert f"{section}_host = '127.0.0.1', {section}_port = {port} cannot be served on" in str(caught.value)
    assert f"set another {section}_port" in str(caught.value)


def test_a_stopped_server_frees_its_port(gateway: Gateway) -> None:
    async def run() -> None:
        async with serving(WebServer(gateway.state, "127.0.0.1", 0)) as first:
            port = first.port
        async with serving(WebServer(gateway.state, "127.0.0.1", port)) as second:
            assert (await asyncio.to_thread(request, second, "/api/health")).status == 200

    asyncio.run(run())
