"""The gateway's metrics: the seed's names, absent where unknown, bounded, and as promtool wants them."""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from edge.gaps import EVENTS
from edge.metrics import PACK_GAUGES, TwinCollector, make_registry
from edge.web import MetricsServer
from tests import servers
from tests.conftest import do_without
from tests.gateway import START_MS, TOKEN, Gateway, ask, request, serving
from voltflow.telemetry import Session

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    gateway = Gateway(tmp_path)
    gateway.birth("depot/P1")
    gateway.drive("depot/P1", 15)
    gateway.feed("depot/P2", pack_current_a=None)
    return gateway


def _series(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _scrape(gateway: Gateway) -> str:
    return ask(gateway.state, lambda server: request(server, "/metrics")).body.decode()


def _key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_seeds_series_have_the_twins_values(gateway: Gateway) -> None:
    gateway.predict("depot/P1", "rul", 812.0)
    twin = gateway.store.find("depot/P1")
    assert twin is not None
    gateway.store.on_session(twin, Session(START_MS, START_MS + 1, 20.0, 90.0, 100.0, 135.0, 25.0, 50.0))
    found = _series(_scrape(gateway))
    of_pack = {"fleet": "depot", "pack": "P1"}
    assert found[_key("battery_rul_predicted", **of_pack)] == 812.0
    assert found[_key("battery_soh_actual", **of_pack)] == 90.0
    telemetry = twin.telemetry
    assert telemetry is not None
    assert telemetry.pack_voltage_v is not None
    assert telemetry.pack_current_a is not None
    watt = telemetry.pack_voltage_v * telemetry.pack_current_a
    assert found[_key("battery_power", **of_pack)] == pytest.approx(watt, abs=1)
    assert found[_key("predictions_total", model="temperature")] == 90
    assert found[_key("prediction_accuracy", metric="temperature")] == pytest.approx(98.5, abs=1)
    assert found[_key("model_training_total")] == 0


def test_unknown_values_have_no_series(gateway: Gateway) -> None:
    found = _series(_scrape(gateway))
    of_pack = {"fleet": "depot", "pack": "P2"}
    assert _key("battery_voltage", **of_pack) in found
    assert _key("battery_current", **of_pack) not in found  # null in the message
    assert _key("battery_power", **of_pack) not in found
    assert not [key for key in found if key[0] in {"battery_rul_actual", "battery_failure_actual"}]
    assert not any(map(math.isnan, found.values()))


def test_every_name_of_the_seed_is_there(gateway: Gateway) -> None:
    text = _scrape(gateway)
    for name in (*PACK_GAUGES, "prediction_accuracy", "predictions_total", "model_training_total"):
        assert f"# TYPE {name} " in text


def test_beyond_the_limit_the_most_worrying_packs_have_series(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    for number in range(12):
        gateway.feed(f"depot/P{number}", cell_temp_max_c=20.0 + number)
    gateway.alert("depot/P11")
    registry = CollectorRegistry()
    registry.register(TwinCollector(gateway.state, max_packs=3))
    samples = [sample for family in registry.collect() for sample in family.samples]
    packs = [sample.labels["pack"] for sample in samples if sample.name == "battery_soc_actual"]
    assert packs == ["P11", "P0", "P1"]
    fleet = {sample.name: sample.value for sample in samples if sample.labels == {"fleet": "depot"}}
    assert (fleet["battery_fleet_packs"], fleet["battery_fleet_temp_max"]) == (12, 31.0)
    assert {sample.name: sample.value for sample in samples}["voltflow_packs_without_series"] == 9


def test_promtool_finds_nothing_to_object_to(gateway: Gateway) -> None:
    gateway.feed("depot/P1", START_MS + 10**7, cell_temp_max_c=-40.0)
    gateway.engine.dropped["no_dead_letter_node"] = 2
    try:
        assert servers.promtool_check_metrics(_scrape(gateway)) == ""
    except servers.Missing as reason:
        do_without(reason)


def test_engine_and_flow_are_told(gateway: Gateway) -> None:
    gateway.feed("depot/P1", START_MS + 10**7, cell_temp_max_c=-40.0)
    gateway.feed("depot/P1", START_MS)
    gateway.engine.dropped["no_dead_letter_node"] = 2
    gateway.engine.stats["out"].waiting = 5
    gateway.engine.circuit("out").failed("away")
    found = _series(_scrape(gateway))
    assert found[_key("voltflow_invalid_values_total", field="cell_temp_max_c")] == 1
    assert found[_key("voltflow_late_messages_total")] == 1
    assert found[_key("voltflow_dropped_total", reason="no_dead_letter_node")] == 2
    assert found[_key("voltflow_sink_waiting_messages", node="out", type="mqtt out")] == 5
    assert found[_key("voltflow_sink_up", node="out", type="mqtt out")] == 0
    assert found[_key("voltflow_mqtt_connected", node="local")] == 0
    assert found[_key("voltflow_messages_total", node="twin", type="twin", direction="in")] == 0
    assert found[_key("process_resident_memory_bytes")] > 1e6


def test_what_is_missing_and_what_came_twice_is_told(gateway: Gateway) -> None:
    gateway.store.sequence_events.update(asked=5, filled=2, given_up=1)
    sequence = gateway.store.packs[0].sequence
    sequence.see(1, 0)
    sequence.see(1, 9)
    found = _series(_scrape(gateway))
    values = {event: found[_key("voltflow_sequence_total", event=event)] for event in EVENTS}
    assert values == {**dict.fromkeys(EVENTS, 0), "asked": 5, "filled": 2, "given_up": 1}
    assert found[_key("voltflow_sequence_holes_open")] == 1


def test_metrics_have_a_port_of_their_own(gateway: Gateway) -> None:
    async def run(token: str | None, **headers: str) -> list[int]:
        async with serving(MetricsServer(gateway.state, "127.0.0.1", 0, token)) as server:
            calls = [("/metrics", "GET"), ("/metrics", "HEAD"), ("/", "GET"), ("/metrics", "POST")]
            answers = [
                await asyncio.to_thread(request, server, path, method, **headers) for path, method in calls
            ]
            assert not answers[1].body
            return [answer.status for answer in answers]

    assert asyncio.run(run(None)) == [200, 200, 404, 405]
    assert asyncio.run(run(TOKEN)) == [401] * 4
    assert asyncio.run(run(TOKEN, Authorization=f"Bearer {TOKEN}")) == [200, 200, 404, 405]


def test_scrapes_beside_a_writing_flow_never_fail(gateway: Gateway) -> None:
    """A scrape reads in a thread what the loop writes: new packs, fields, alerts in between must not break it."""
    registry, ended, failures = make_registry(gateway.state), threading.Event(), []

    def scrape() -> None:
        while not ended.is_set():
            try:
                list(registry.collect())
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test is about
                failures.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    for number in range(400):
        gateway.feed(f"depot/N{number}", cell_temp_max_c=-40.0 if number % 2 else 20.0)
        gateway.predict(f"depot/N{number}", f"model{number % 7}", 1.0)
        gateway.alert(f"depot/N{number}", code=f"code{number}")
    ended.set()
    thread.join()
    assert failures == []
