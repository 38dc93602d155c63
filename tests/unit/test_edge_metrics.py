"""The gateway's metrics: the seed's names, absent where unknown, bounded, and as promtool wants them."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.bands import BANDS
from edge.gaps import EVENTS
from edge.metrics import PACK_GAUGES, make_registry
from edge.survey import HOLD_S, MAX_ALERT_CODES, MAX_FLEETS, OTHER_FLEETS, Surveyor
from edge.web import MetricsServer
from tests import servers
from tests.conftest import do_without
from tests.gateway import START_MS, TOKEN, Gateway, LoadedModel, ask, request, serving
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


def _packs(text: str) -> list[str]:
    """The packs with series of their own, in their order."""
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return [sample.labels["pack"] for sample in samples if sample.name == "battery_soc_actual"]


@dataclass
class _WithCard(LoadedModel):
    card: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "card": self.card}


@dataclass
class NotLoaded:
    """An `onnx` node before its flow has started."""

    model: str


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
    gateway.state.surveyor = Surveyor(gateway.store, limit=3)
    text = _scrape(gateway)
    found = _series(text)
    assert _packs(text) == ["P11", "P0", "P1"]
    assert found[_key("voltflow_packs_without_series")] == 9
    assert found[_key("battery_fleet_packs", fleet="depot")] == 12
    assert found[_key("battery_fleet_temp_max", fleet="depot")] == 31.0


def test_a_pack_keeps_its_series_while_others_come_and_go(tmp_path: Path) -> None:
    """Packs whose grades go up and down would else begin and end series with each scrape."""
    gateway, now = Gateway(tmp_path), [1000.0]
    for number in range(6):
        gateway.feed(f"depot/P{number}")
    gateway.state.surveyor = Surveyor(gateway.store, limit=3, clock=lambda: now[0])
    rounds: list[set[str]] = []
    for turn in range(10):
        for number in range(3 * (turn % 2), 3 * (turn % 2) + 3):
            gateway.feed(f"depot/P{number}", cell_temp_max_c=45.0)
        for number in range(3 - 3 * (turn % 2), 6 - 3 * (turn % 2)):
            gateway.feed(f"depot/P{number}", cell_temp_max_c=25.0)
        now[0] += 5
        rounds.append({*_packs(_scrape(gateway))})
    assert rounds == [{"P0", "P1", "P2"}] * 10
    gateway.alert("depot/P5")
    now[0] += 5
    assert _packs(_scrape(gateway))[0] == "P5"
    for number in range(6):
        gateway.feed(f"depot/P{number}", cell_temp_max_c=45.0 if number == 4 else 25.0)
    now[0] += HOLD_S + 5
    _scrape(gateway)
    assert {"P4", "P5"} <= {*_packs(_scrape(gateway))}  # the others have been calm for long


def test_two_scrapers_look_at_the_packs_once(tmp_path: Path) -> None:
    gateway, now = Gateway(tmp_path), [1000.0]
    gateway.feed("depot/P1")
    gateway.state.surveyor = surveyor = Surveyor(gateway.store, limit=3, clock=lambda: now[0])
    one, other = make_registry(gateway.state), make_registry(gateway.state)
    list(one.collect())
    looked = surveyor.look()
    list(other.collect())
    assert surveyor.look() is looked
    now[0] += 2
    assert surveyor.look() is not looked


def test_fleets_have_series_of_all_their_packs(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.birth("a/P0", online=False)
    for number, soh in enumerate((96.0, 80.0, 70.0)):
        gateway.feed(f"a/P{number}", cell_voltage_min_v=3.5, cell_voltage_max_v=3.5 + number / 10,
                     insulation_kohm=35.0 * (number + 1), pack_voltage_v=350.0, pack_current_a=10.0)  # fmt: skip
        gateway.predict(f"a/P{number}", "soh", soh)
    gateway.feed("b/P0", received_ms=START_MS)
    gateway.alert("a/P1", code="cell_spread", severity="warning")
    found = _series(_scrape(gateway))
    assert found[_key("battery_fleet_cell_spread_volts_max", fleet="a")] == pytest.approx(0.2)
    assert found[_key("battery_fleet_insulation_ohms_per_volt_min", fleet="a")] == 100.0
    assert found[_key("battery_fleet_power_watts", fleet="a")] == pytest.approx(10_500)
    assert found[_key("battery_fleet_offline_packs", fleet="a")] == 1
    assert found[_key("battery_fleet_silent_packs", fleet="b")] == 1
    assert found[_key("battery_fleet_alerts", fleet="a", code="cell_spread", severity="warning")] == 1
    bands = {
        band: found[_key("battery_fleet_band_packs", fleet="a", quantity="soh", band=band)]
        for band in ("good", "fair", "poor", "unknown")
    }
    assert bands == {"good": 1, "fair": 1, "poor": 1, "unknown": 0}
    assert found[_key("battery_fleet_band_packs", fleet="b", quantity="soh", band="unknown")] == 1
    below = {
        le: found[_key("battery_fleet_soh_predicted_distribution_bucket", fleet="a", le=le)]
        for le in ("65", "70", "80", "95", "+Inf")
    }
    assert below == {"65": 0, "70": 1, "80": 2, "95": 2, "+Inf": 3}


def test_bands_of_a_fleet_are_those_of_each_pack(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    values = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0)
    for number, value in enumerate(values):
        gateway.feed(f"a/P{number}", soc_pct=value, cell_temp_max_c=value)
    found = _series(_scrape(gateway))
    for quantity in ("soc", "temperature"):
        grades = Counter(BANDS[quantity].of(value) for value in values)
        for band in ("good", "fair", "poor"):
            key = _key("battery_fleet_band_packs", fleet="a", quantity=quantity, band=band)
            assert found[key] == grades[band], (quantity, band)


def test_many_fleets_and_codes_are_counted_together(tmp_path: Path) -> None:
    """Whoever may publish can make up names of fleets; each would begin a hundred series."""
    gateway = Gateway(tmp_path)
    for number in range(MAX_FLEETS + 5):
        gateway.feed(f"F{number}/P")
    for number in range(MAX_ALERT_CODES + 5):
        gateway.alert(f"F{MAX_FLEETS + 1}/P", code=f"code{number:03}", severity="warning")
    found = _series(_scrape(gateway))
    fleets = [key for key in found if key[0] == "battery_fleet_packs"]
    assert len(fleets) == MAX_FLEETS + 1
    assert found[_key("battery_fleet_packs", fleet=OTHER_FLEETS)] == 5
    alerts = {key: value for key, value in found.items() if key[0] == "battery_fleet_alerts"}
    assert len(alerts) == MAX_ALERT_CODES + 1
    assert alerts[_key("battery_fleet_alerts", fleet=OTHER_FLEETS, code="other", severity="warning")] == 5


def test_a_pack_tells_what_the_rules_ask_for(gateway: Gateway) -> None:
    gateway.feed("depot/P1", START_MS + 10**7, cell_voltage_min_v=3.5, cell_voltage_max_v=3.72, insulation_kohm=70.0,
                 pack_voltage_v=350.0)  # fmt: skip
    gateway.predict("depot/P1", "rul", 812.0, low=700.0, high=900.0)
    gateway.alert("depot/P1")
    found, of_pack = _series(_scrape(gateway)), {"fleet": "depot", "pack": "P1"}
    assert found[_key("battery_cell_spread_volts", **of_pack)] == pytest.approx(0.22)
    assert found[_key("battery_insulation_ohms", **of_pack)] == 70_000
    assert found[_key("battery_insulation_ohms_per_volt", **of_pack)] == 200
    assert found[_key("battery_online", **of_pack)] == 1
    assert found[_key("battery_silent", **of_pack)] == 0
    assert found[_key("battery_active_alerts", **of_pack)] == 1
    assert found[_key("battery_worry", **of_pack)] >= 1000
    assert found[_key("battery_rul_predicted_low", **of_pack)] == 700
    assert found[_key("battery_rul_predicted_high", **of_pack)] == 900
    assert 0 <= found[_key("battery_message_age_seconds", **of_pack)] < 600
    assert _key("battery_online", fleet="depot", pack="P2") not in found


def test_models_and_their_errors_are_told(gateway: Gateway) -> None:
    card = {"scores": {"rmse": {"value": 0.43}, "r2": {"value": 0.8}},
            "baseline": {"baseline_persistence_rmse": {"value": 0.68}}}  # fmt: skip
    gateway.state.models = [_WithCard("temperature", card), _WithCard("temperature", card), NotLoaded("soh")]
    gateway.store.joined_errors.clear()
    gateway.store.joined_errors.extend((3.0, -1.0))  # actual minus predicted
    found = _series(_scrape(gateway))
    assert [key for key in found if key[0] == "voltflow_model_info"] == [
        _key("voltflow_model_info", model="temperature", hash="0123456789ab")
    ]
    expected = {"model": "temperature", "hash": "0123456789ab", "stat": "rmse"}
    assert found[_key("voltflow_model_error_expected", **expected, of="model")] == 0.43
    assert found[_key("voltflow_model_error_expected", **expected, of="persistence")] == 0.68
    assert len([key for key in found if key[0] == "voltflow_model_error_expected"]) == 2
    errors = {
        stat: found[_key("voltflow_model_error", model="temperature", stat=stat)]
        for stat in ("mae", "rmse", "bias")
    }
    assert errors == {"mae": 2.0, "rmse": pytest.approx(5**0.5), "bias": -1.0}
    assert found[_key("voltflow_model_compared", model="temperature")] == 2
    assert found[_key("voltflow_model_compared", model="soh")] == 0


def test_health_is_told(gateway: Gateway) -> None:
    found = _series(_scrape(gateway))
    statuses = {status: found[_key("voltflow_health_status", status=status)] for status in ("ok", "degraded")}
    assert statuses == {"ok": 0, "degraded": 1}
    assert found[_key("voltflow_health_reasons", code="broker_not_connected")] == 1
    assert 0 <= found[_key("voltflow_newest_message_age_seconds")] < 600


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
