"""The gateway's API over real HTTP: every answer about packs, the fleet and the gateway itself."""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from edge import health as health_module
from edge.bands import worry
from edge.comparison import accuracy_pct
from edge.fixes import FIXES
from edge.roster import ROSTER_S, Roster
from edge.routes import ROUTES
from edge.web import WebServer
from tests.gateway import (
    START_MS,
    Gateway,
    ask,
    request,
)
from voltflow.clock import State
from voltflow.engine.engine import NodeStats
from voltflow.telemetry import Session

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


# -- the document -----------------------------------------------------------------------------------------------


def test_openapi_has_every_route_once(fleet: Gateway) -> None:
    document = ask(fleet.state, lambda server: request(server, "/api/openapi.json")).json()
    assert set(document["paths"]) == {route.path for route in ROUTES} | {"/api/openapi.json", "/metrics"}
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(names)) == len(names)
    limit = next(p for p in document["paths"]["/api/packs"]["get"]["parameters"] if p["name"] == "limit")
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
