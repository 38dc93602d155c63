"""The gateway's API over real HTTP: every answer, every error, the event stream, who may ask."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from edge import health as health_module
from edge import stream
from edge.bands import worry
from edge.comparison import accuracy_pct
from edge.fixes import FIXES
from edge.roster import ROSTER_S, Roster
from edge.routes import ROUTES
from edge.web import MetricsServer, PortTakenError, WebServer
from tests import servers
from tests.gateway import START_MS, TOKEN, Events, Gateway, ask, request, running, serving
from voltflow.clock import State
from voltflow.engine.engine import NodeStats
from voltflow.settings import SettingsError
from voltflow.telemetry import Session


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


@pytest.fixture
def fleet(gateway: Gateway) -> Gateway:
    return _fleet(gateway)


def _fleet(gateway: Gateway) -> Gateway:
    """Three packs; two fleets have a pack P2; depot/P1 has driven for half an hour."""
    gateway.birth("depot/P1")
    gateway.drive("depot/P1", 30)
    gateway.feed("depot/P2", cell_temp_max_c=61.5)
    gateway.feed("north/P2")
    return gateway


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """One server for the tests that change nothing."""
    with running(_fleet(Gateway(tmp_path_factory.mktemp("gateway"))).state) as server:
        yield server


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """One that asks for a token."""
    with running(_fleet(Gateway(tmp_path_factory.mktemp("gateway"))).state, TOKEN) as server:
        yield server


def _error(answer: Any, status: int) -> dict[str, str]:
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, str] = answer.json()["error"]
    return error


# -- one pack ---------------------------------------------------------------------------------------------------


def test_status_without_a_name_is_of_the_first_pack_whoever_sent_last(fleet: Gateway) -> None:
    fleet.store.find("north/P2").received_ms += 1000  # type: ignore[union-attr]
    status = ask(fleet.state, lambda server: request(server, "/api/battery/status")).json()
    assert (status["battery_id"], status["fleet"], status["online"]) == ("P1", "depot", True)
    assert status["timestamp"] == "2023-11-14T22:43:10Z"
    assert status["ts_ms"] == START_MS + 1790 * 1000
    assert status["power_kw"] == pytest.approx(status["voltage_v"] * status["current_a"] / 1000, abs=0.001)
    assert status["predictions"] == {"temperature": pytest.approx(26, abs=7)}
    assert status["soh_measured_pct"] is None  # no charge session has measured it


@pytest.mark.parametrize("view", ["status", "detailed", "comparison", "history", "cells", "sessions"])
def test_a_pack_by_query_and_by_path_is_the_same(server: WebServer, view: str) -> None:
    def questions(server: WebServer) -> list[Any]:
        paths = (f"/api/battery/{view}?pack=P1", f"/api/battery/{view}?pack=depot/P1", f"/api/packs/P1/{view}",
                 f"/api/packs/depot/P1/{view}", f"/api/packs/depot%2FP1/{view}")  # fmt: skip
        return [request(server, path).json() for path in paths]

    first, *others = questions(server)
    for answer in (first, *others):
        answer.pop("age_s", None)
    assert others == [first] * 4
    assert (first["battery_id"], first["fleet"]) == ("P1", "depot")


def test_pack_that_has_only_sent_its_nameplate_has_nulls(gateway: Gateway) -> None:
    gateway.birth("depot/P9")
    status = ask(gateway.state, lambda server: request(server, "/api/packs/P9/status")).json()
    assert status["timestamp"] is None
    assert status["soc_pct"] is None


def test_detailed_names_what_was_invalid(gateway: Gateway) -> None:
    gateway.feed("depot/P1", cell_temp_max_c=-40.0, cell_temp_min_c=None)
    detailed = ask(gateway.state, lambda server: request(server, "/api/packs/P1/detailed")).json()
    assert detailed["telemetry"]["cell_temp_max_c"] is None
    assert detailed["telemetry"]["quality"]["invalid"] == ["cell_temp_max_c"]
    assert detailed["messages"] == 1


def test_comparison_joins_a_temperature_with_what_was_measured_then(fleet: Gateway) -> None:
    answer = ask(fleet.state, lambda server: request(server, "/api/battery/comparison?pack=P1")).json()
    compared = answer["comparisons"]["temperature"]
    assert compared["unit"] == "°C"
    assert compared["difference"] == pytest.approx(0.4, abs=0.06)  # what the test's model is wrong by
    assert compared["accuracy"] == accuracy_pct("temperature", compared["actual"], compared["predicted"])
    assert compared["actual_ms"] == START_MS + 1790 * 1000


def test_comparison_says_why_an_actual_value_is_not_known(fleet: Gateway) -> None:
    fleet.predict("depot/P1", "rul", 700.0)
    fleet.predict("depot/P1", "failure", None, reason="efc is missing")
    found = ask(fleet.state, lambda server: request(server, "/api/battery/comparison?pack=P1")).json()[
        "comparisons"
    ]
    assert found["rul"] == {
        "unit": "EFC", "predicted": 700.0, "actual": None, "difference": None, "accuracy": None, "actual_ms": None,
        "reason": "known only when the pack has reached 80 % of its capacity",
    }  # fmt: skip
    assert found["failure"]["reason"].startswith("no prediction: efc is missing; actual: ")
    assert (
        found["soh"]["reason"]
        == "no prediction yet; actual: no charge session over 50 % has measured the capacity since the gateway started"
    )


NO_WIDE_SESSION = "no charge session over 50 % has measured the capacity since the gateway started"


@pytest.mark.parametrize(
    ("start_pct", "capacity_ah", "actual", "reason"),
    [
        (20.0, 135.0, 90.0, None),
        (50.0, 135.0, None, NO_WIDE_SESSION),
        (20.0, None, None, NO_WIDE_SESSION),
    ],
    ids=["long", "too short", "no estimate"],
)
def test_comparison_takes_health_from_a_wide_charge_session(
    fleet: Gateway, start_pct: float, capacity_ah: float | None, actual: float | None, reason: str | None
) -> None:
    twin = fleet.store.find("depot/P1")
    assert twin is not None
    fleet.store.on_session(twin, _session(start_pct, capacity_ah))
    fleet.predict("depot/P1", "soh", 92.0)
    answer = ask(fleet.state, lambda server: request(server, "/api/battery/comparison?pack=P1")).json()
    soh = answer["comparisons"]["soh"]
    assert (soh["actual"], soh["reason"]) == (actual, reason)
    assert soh["difference"] == (None if actual is None else 2.0)


def test_a_short_charge_does_not_hide_the_capacity_that_a_wide_one_measured(fleet: Gateway) -> None:
    twin = fleet.store.find("depot/P1")
    assert twin is not None
    fleet.store.on_session(twin, _session(20.0, 135.0))
    fleet.store.on_session(twin, _session(80.0, None))
    answer = ask(fleet.state, lambda server: request(server, "/api/battery/comparison?pack=P1")).json()
    assert answer["comparisons"]["soh"]["actual"] == 90.0


def _session(start_pct: float, capacity_ah: float | None) -> Session:
    return Session(START_MS, START_MS + 1, start_pct, 90.0, 100.0, capacity_ah, 25.0, 50.0)


def test_history_is_oldest_first_and_as_long_as_asked(fleet: Gateway) -> None:
    history = ask(fleet.state, lambda server: request(server, "/api/packs/P1/history?limit=5")).json()
    times = [point["ts_ms"] for point in history["points"]]
    assert times == [START_MS + 1000 * s for s in (1750, 1760, 1770, 1780, 1790)]
    assert history["period_ms"] == 10_000


# -- the fleet --------------------------------------------------------------------------------------------------


def test_packs_come_in_order_of_worry(fleet: Gateway) -> None:
    fleet.alert("north/P2", severity="critical")
    packs = ask(fleet.state, lambda server: request(server, "/api/packs")).json()
    assert [row["name"] for row in packs["packs"]] == ["north/P2", "depot/P2", "depot/P1"]
    assert packs["packs"][0]["worries"] == ["critical: the hottest cell is too hot: stop and keep away"]
    assert packs["packs"][1]["worries"] == ["hottest cell 61.5 °C"]
    assert packs["total"] == 3


def test_packs_are_paged_sorted_and_filtered(fleet: Gateway) -> None:
    def questions(server: WebServer) -> list[Any]:
        paths = ("/api/packs?limit=1&offset=1&sort=name", "/api/packs?sort=temperature&limit=1", "/api/packs?fleet=north",
                 "/api/packs?sort=soh", "/api/packs?offset=1000000")  # fmt: skip
        return [request(server, path).json() for path in paths]

    page, hottest, north, unknown, beyond = ask(fleet.state, questions)
    assert [row["name"] for row in page["packs"]] == ["depot/P2"]
    assert [row["name"] for row in hottest["packs"]] == ["depot/P2"]
    assert (north["total"], north["packs"][0]["fleet"]) == (1, "north")
    assert len(unknown["packs"]) == 3  # an unknown value comes last, it does not hide a pack
    assert (beyond["total"], beyond["packs"]) == (3, [])


def test_packs_are_searched_and_pages_follow_a_pack(fleet: Gateway) -> None:
    def questions(server: WebServer) -> list[Any]:
        paths = (
            "/api/packs?q=T/p2",
            "/api/packs?sort=name&after=depot/P1&limit=1",
            "/api/packs?sort=name&after=depot/P2",
        )
        return [request(server, path).json() for path in paths]

    found, page, last = ask(fleet.state, questions)
    assert (found["total"], [row["name"] for row in found["packs"]]) == (1, ["depot/P2"])
    assert (page["offset"], [row["name"] for row in page["packs"]]) == (1, ["depot/P2"])
    assert [row["name"] for row in last["packs"]] == ["north/P2"]
    assert found["fleet"]["packs"] == 3, "the fleet's counts are not those of the search"


def test_counts_of_the_fleet(fleet: Gateway) -> None:
    fleet.alert("depot/P1")
    fleet.birth("north/P2", online=False)
    fleet.store.find("north/P2").received_ms = 1000  # type: ignore[union-attr]
    answer = ask(fleet.state, lambda server: request(server, "/api/packs")).json()
    assert [row["grade"] for row in answer["packs"]] == ["poor", "poor", "fair"]
    assert answer["fleet"] == {  # depot/P2 has a hot cell, north/P2 is silent
        "packs": 3, "poor": 2, "fair": 1, "good": 0, "unknown": 0, "silent": 1, "offline": 1, "alerts": 1, "acknowledged": 0,
    }  # fmt: skip


def test_order_is_not_made_anew_for_each_question(gateway: Gateway) -> None:
    now_s = 0.0
    roster = Roster(gateway.store, lambda: now_s)
    gateway.feed_all(["depot/P1", "depot/P2"])
    assert [twin.pack for twin in roster.ranked()] == ["P1", "P2"]
    gateway.alert("depot/P2")
    assert ([twin.pack for twin in roster.ranked()], roster.counts().alerts) == (["P1", "P2"], 0)
    now_s = ROSTER_S + 0.1
    assert ([twin.pack for twin in roster.ranked()], roster.counts().alerts) == (["P2", "P1"], 1)


def test_large_answers_are_compressed_for_who_can_read_them(gateway: Gateway) -> None:
    gateway.feed_all([f"depot/P{number}" for number in range(100)])

    def questions(server: WebServer) -> list[Any]:
        headers: list[dict[str, str]] = [{}, {"Accept-Encoding": "br, gzip"}]
        return [request(server, "/api/packs?sort=name", **each) for each in headers]

    plain, packed = ask(gateway.state, questions)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 5
    names = [row["name"] for row in json.loads(gzip.decompress(packed.body))["packs"]]
    assert names == [row["name"] for row in plain.json()["packs"]]


def test_silence_is_by_the_gateways_clock(fleet: Gateway) -> None:
    twin = fleet.store.find("depot/P1")
    assert twin is not None
    now_s = time.time()
    assert worry(twin, now_s + twin.silent_after_s - 10) == worry(twin, now_s)
    assert worry(twin, now_s + twin.silent_after_s + 10) == worry(twin, now_s) + 100


def test_alerts_active_and_recent(fleet: Gateway) -> None:
    fleet.alert("depot/P1")
    fleet.alert("depot/P2")
    fleet.store.find("depot/P1").alerts.clear()  # type: ignore[union-attr]

    def questions(server: WebServer) -> list[Any]:
        paths = ("/api/alerts", "/api/alerts?state=recent", "/api/alerts?state=recent&pack=P1")
        return [request(server, path).json() for path in paths]

    active, recent, of_pack = ask(fleet.state, questions)
    assert [alert["pack"] for alert in active["alerts"]] == ["P2"]
    assert (active["active"], len(recent["alerts"])) == (1, 2)
    assert [alert["pack"] for alert in of_pack["alerts"]] == ["P1"]


# -- the gateway ------------------------------------------------------------------------------------------------


def test_health_says_what_is_wrong(fleet: Gateway) -> None:
    stats: NodeStats = fleet.engine.stats["out"]
    stats.waiting = 7
    fleet.engine.circuit("out").failed("the broker is away")
    fleet.state.models = fleet.state.models[:3]
    answer = ask(fleet.state, lambda server: request(server, "/api/health"))
    health = answer.json()
    assert (answer.status, health["status"]) == (200, "degraded")  # a restart would bring none of these back
    assert [{**reason, "fix": FIXES[reason["code"]] == reason["fix"]} for reason in health["reasons"]] == [
        {"code": "broker_not_connected", "message": "local at 127.0.0.1:1: not connected yet", "fix": True},
        {
            "code": "sink_waiting",
            "message": "mqtt out:out: away for 0 s; 7 messages in memory: the broker is away",
            "fix": True,
        },
        {"code": "model_missing", "message": "model failure: the flow has no onnx node for it", "fix": True},
    ]
    assert (health["packs"], health["gateway"]) == (3, "gw1")


def test_health_without_telemetry_since_a_minute(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, started=time.time() - 61)
    health = ask(gateway.state, lambda server: request(server, "/api/health")).json()
    messages = {reason["code"]: reason["message"] for reason in health["reasons"]}
    assert messages["no_telemetry"] == "no telemetry since the gateway started 61 s ago"


@pytest.mark.parametrize(
    ("age_s", "silent_after_s", "told"), [(901, 1200, False), (1201, 1200, True), (66, 60, True)]
)
def test_a_parked_pack_is_silent_by_the_gateways_setting(
    tmp_path: Path, age_s: int, silent_after_s: float, told: bool
) -> None:
    """Row, worry, metrics and health say the same of it."""
    gateway = Gateway(tmp_path, started=time.time() - 5000)
    gateway.store.silent_after_s = silent_after_s
    gateway.feed("depot/P1", received_ms=round((time.time() - age_s) * 1000))
    row = ask(gateway.state, lambda server: request(server, "/api/packs")).json()["packs"][0]
    codes = {reason.code for reason in health_module.health(gateway.state).reasons}
    silent = gateway.state.surveyor.look().columns["is_silent"].tolist()
    assert (row["silent"], any("silent" in text for text in row["worries"])) == (told, told)
    assert ("no_telemetry" in codes, silent) == (told, [float(told)])


def test_every_reason_that_can_be_given_has_a_fix_and_is_documented() -> None:
    """Codes as they stand in the code: a new one without a fix would fail at the worst moment."""
    edge = Path(health_module.__file__).parent
    given = re.compile(r'(?:Reason|Notice|self\._notice)\(\s*"(\w+)"')
    files = [edge / "health.py", *(edge / "editor").glob("*.py")]
    codes = {code for file in files for code in given.findall(file.read_text())}
    codes |= {f"clock_{state}" for state in get_args(State) if state != "ok"}
    assert codes == set(FIXES)
    page = (edge.parent / "docs" / "api.md").read_text()
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []


def test_spool_is_honest_that_there_is_none(fleet: Gateway) -> None:
    spool = ask(fleet.state, lambda server: request(server, "/api/spool")).json()
    assert spool["spool"] is False
    assert spool["sinks"] == [
        {
            "id": "out",
            "type": "mqtt out",
            "name": "",
            "waiting_messages": 0,
            "retries": 0,
            "circuit": "closed",
            "circuit_opened": 0,
            "away_s": None,
            "error": "",
            "spool": None,
        }
    ]


def test_flow_has_every_node(fleet: Gateway) -> None:
    flow = ask(fleet.state, lambda server: request(server, "/api/flow")).json()
    assert [node["id"] for node in flow["nodes"]] == list(fleet.engine.nodes)
    assert flow["revision"] == fleet.engine.flow.revision


def test_models_and_how_the_temperature_model_does(fleet: Gateway) -> None:
    answer = ask(fleet.state, lambda server: request(server, "/api/models")).json()
    models = {model["name"]: model for model in answer["models"]}
    assert models["temperature"]["predictions"] == 180
    assert models["soh"]["loaded"] is True
    assert answer["temperature_errors"]["mean_c"] == pytest.approx(0.4, abs=0.06)
    assert answer["temperature_errors"]["compared"] == 120


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
    error = _error(request(server, path.replace(" ", "%20")), status)
    assert error["code"] == code
    assert part in error["message"]


def test_no_pack_yet_is_not_found(gateway: Gateway) -> None:
    error = _error(ask(gateway.state, lambda server: request(server, "/api/battery/status")), 404)
    assert error["code"] == "no_packs"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/api/health", "/api/packs/P1/status", "/api/stream", "/", "/metrics"])
def test_only_reading_is_possible(server: WebServer, method: str, path: str) -> None:
    answer = request(server, path, method)
    assert _error(answer, 405)["message"] == f"{method} is not possible here; use GET"
    assert "GET" in answer.headers["allow"]


def test_a_failing_handler_is_500_and_logged(fleet: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    del fleet.store.packs  # type: ignore[attr-defined]  # what cannot happen
    with caplog.at_level(logging.ERROR):
        error = _error(ask(fleet.state, lambda server: request(server, "/api/health")), 500)
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
        assert _error(answer, 401)["code"] == "unauthorized"
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


# -- the stream -------------------------------------------------------------------------------------------------


def test_stream_starts_with_all_packs_and_goes_on_with_those_that_changed(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server) as events:
            assert events.response.getheader("content-type") == "text/event-stream; charset=utf-8"
            first = events.next()
            assert (first["total"], first["changed"], len(first["packs"])) == (3, 3, 3)
            fleet.feed("depot/P1", START_MS + 1_800_000, soc_pct=33.0)
            second = events.next()
            assert [row["name"] for row in second["packs"]] == ["depot/P1"]
            assert second["packs"][0]["soc_pct"] == 33.0
            fleet.birth("depot/P1", online=False)
            assert events.next()["packs"][0]["online"] is False

    ask(fleet.state, questions)


def test_stream_of_one_pack_has_nothing_of_others(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?pack=P1") as one, Events(server) as everything:
            assert [row["name"] for row in one.next()["packs"]] == ["depot/P1"]
            everything.next()
            fleet.feed("north/P2", START_MS + 1_800_000)
            assert everything.next()["packs"][0]["name"] == "north/P2"
            fleet.feed("depot/P1", START_MS + 1_800_000, soc_pct=34.0)
            assert one.next()["packs"][0]["soc_pct"] == 34.0

    ask(fleet.state, questions)


def test_stream_of_the_packs_on_screen(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?packs=depot/P1,new/P9,depot/P1") as shown:
            first = shown.next()
            assert [row["name"] for row in first["packs"]] == ["depot/P1"]
            assert (first["total"], first["fleet"]["packs"]) == (3, 3)
            fleet.feed("north/P2", START_MS + 1_800_000)  # not on screen
            fleet.feed("new/P9", START_MS + 1_800_000)
            assert [row["name"] for row in shown.next()["packs"]] == ["new/P9"]

    ask(fleet.state, questions)


def test_stream_tells_of_a_pack_on_screen_that_falls_silent(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?packs=depot/P1") as shown:
            assert shown.next()["packs"][0]["silent"] is False
            fleet.store.find("depot/P1").received_ms = 1000  # type: ignore[union-attr]
            rows: list[Any] = []
            while not rows:
                rows = shown.next()["packs"]
            assert rows[0]["silent"] is True

    ask(fleet.state, questions)


def test_stream_of_counts_only(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server, "/api/stream?packs=") as counts:
            assert counts.next()["packs"] == []
            fleet.alert("depot/P1")
            event = counts.next()
            assert (event["packs"], event["fleet"]["alerts"], event["alerts"]) == ([], 1, 1)

    ask(fleet.state, questions)


def test_stream_event_has_the_most_worrying_when_many_changed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_ROWS", 5)
    names = [f"depot/P{i}" for i in range(20)]
    for name in names:
        gateway.feed(name)
    gateway.alert("depot/P13")

    def questions(server: WebServer) -> None:
        with Events(server) as events:
            assert events.next()["packs"][0]["name"] == "depot/P13"
            for name in names:
                gateway.feed(name)
            changed, rows = 0, []
            while changed < 20:
                event = events.next()
                changed += event["changed"]
                rows += event["packs"]
                assert len(event["packs"]) <= 5
            assert "depot/P13" in {row["name"] for row in rows}

    ask(gateway.state, questions)


def test_stream_says_that_it_is_still_there(fleet: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)

    def questions(server: WebServer) -> None:
        with Events(server) as events:
            assert next(line for line in events.lines() if line.startswith(":")) == ": still here"

    ask(fleet.state, questions)


def test_stream_that_is_left_is_forgotten(fleet: Gateway) -> None:
    def questions(server: WebServer) -> None:
        with Events(server) as stays:
            with Events(server) as leaves:
                leaves.next()
            stays.next()
            servers.wait_until(lambda: len(server.streams.clients) == 1, "the client that left is forgotten")

    ask(fleet.state, questions)


def test_stream_ends_cleanly_when_the_server_stops(fleet: Gateway) -> None:
    with running(fleet.state) as server:
        events = Events(server)
        events.next()
    with events:
        assert list(events.lines())[-1:] in ([], [""])  # no error, an ended answer


def test_stream_counts_what_a_slow_client_loses() -> None:
    client = stream._Client(None)
    for number in range(stream.QUEUE_EVENTS + 3):
        client.put(b"%d" % number)
    assert client.dropped == 3
    assert client.queue.get_nowait() == b"3"  # the newest are kept


def test_streams_are_bounded(fleet: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_CLIENTS", 1)

    def questions(server: WebServer) -> Any:
        with Events(server) as events:
            events.next()
            return request(server, "/api/stream")

    assert _error(ask(fleet.state, questions), 503)["code"] == "too_many_streams"


# -- the document -----------------------------------------------------------------------------------------------


def test_openapi_has_every_route_once(fleet: Gateway) -> None:
    document = ask(fleet.state, lambda server: request(server, "/api/openapi.json")).json()
    assert set(document["paths"]) == {route.path for route in ROUTES} | {"/api/openapi.json", "/metrics"}
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(names)) == len(names)
    limit = next(p for p in document["paths"]["/api/packs"]["get"]["parameters"] if p["name"] == "limit")
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
