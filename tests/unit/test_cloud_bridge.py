"""The bridge's settings and the flow they make, without servers."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest

from cloud.bridge import BridgeSettings, NoSinkError, load_flow, problems
from cloud.cli import main
from voltflow import __version__
from voltflow.access import require_token
from voltflow.node import REGISTRY
from voltflow.settings import SettingsError, load

DATABASE = "postgresql://voltflow@db/voltflow"


@pytest.fixture(autouse=True)
def no_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def active(settings: BridgeSettings) -> set[str]:
    return {raw["id"] for raw in load_flow(settings).active()} & {"history", "kafka", "influx"}


@pytest.mark.parametrize(
    ("settings", "sinks"),
    [
        ({"database": DATABASE}, {"history"}),
        ({"database": DATABASE, "kafka_bootstrap": "k:9092"}, {"history", "kafka"}),
        (
            {"database": DATABASE, "kafka_bootstrap": "k:9092", "influx_url": "http://i"},
            {"history", "kafka", "influx"},
        ),
        ({"database": DATABASE, "influx_url": "http://i", "sinks": ["influx"]}, {"influx"}),
    ],
    ids=["history", "two", "three", "one of two"],
)
def test_load_flow_leaves_out_sinks_that_are_not_configured(
    settings: dict[str, Any], sinks: set[str]
) -> None:
    made = BridgeSettings(**settings)
    assert active(made) == sinks
    assert list(problems(made)) == []


def test_load_flow_without_any_sink_says_what_to_set() -> None:
    """A bridge without sinks would acknowledge, and so lose, every message."""
    with pytest.raises(NoSinkError, match="set one of database, kafka_bootstrap, influx_url"):
        load_flow(BridgeSettings())


def test_settings_sink_without_its_setting_is_refused() -> None:
    with pytest.raises(SettingsError) as error:
        load(BridgeSettings, "bridge", environ={"VOLTFLOW_BRIDGE_SINKS": "kafka"})
    assert str(error.value) == (
        "[bridge] sinks names kafka, but kafka_bootstrap is not set: set it, or leave kafka out"
    )


def test_main_check_and_config_end_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VOLTFLOW_BRIDGE_DATABASE", DATABASE)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "the flow is fine; sinks: timescale\n"
    assert main(["config"]) == 0
    assert DATABASE not in capsys.readouterr().out


def test_main_wrong_setting_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--mqtt-port", "0"]) == 2
    assert "mqtt_port = '0' is not allowed" in capsys.readouterr().err


def test_cloud_nodes_every_field_has_help() -> None:
    load_flow(BridgeSettings(database=DATABASE))
    nodes = [spec for spec in REGISTRY.values() if spec.cls.__module__.startswith("cloud.nodes")]
    assert {spec.type for spec in nodes} == {
        "timescale out",
        "kafka in",
        "kafka out",
        "influx out",
        "mqtt heir",
    }
    assert all(field.help for spec in nodes for field in spec.fields)


def test_main_version_and_an_unreadable_flow(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cloud-bridge {__version__}\n"
    assert main(["check", "--flow", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "token", "error"),
    [
        ("127.0.0.1", "", None),
        ("127.8.8.8", "", None),
        ("::1", "", None),
        ("192.0.2.1", "0123456789abcdef", None),
        ("127.0.0.1", "short", "metrics_token has 5 characters, at least 16 are needed"),
        ("0.0.0.0", "", "metrics_host = 'gw' is reachable from other machines and metrics_token is not set"),
        ("fe80::1%eth0", "", "metrics_host = 'gw' is reachable from other machines"),
    ],
)
def test_require_token_only_for_addresses_that_other_machines_reach(
    address: str, token: str, error: str | None
) -> None:
    with pytest.raises(SettingsError, match=re.escape(error)) if error else contextlib.nullcontext():
        require_token("metrics", "gw", address, token, "metrics_token")


def test_from_kafka_flow_reads_kafka_and_needs_a_sink() -> None:
    settings = BridgeSettings(
        flow=Path("from-kafka"), kafka_bootstrap="kafka:9092", database=DATABASE, sinks=["timescale"]
    )
    active = {raw["type"] for raw in load_flow(settings).active()}
    assert {"kafka in", "timescale out", "dead letter"} <= active
    assert not {"influx out", "mqtt in"} & active
    assert list(problems(settings)) == []
    with pytest.raises(NoSinkError, match="no sink is configured"):
        load_flow(BridgeSettings(flow=Path("from-kafka"), kafka_bootstrap="kafka:9092"))


def test_from_kafka_flow_without_brokers_is_a_problem() -> None:
    settings = BridgeSettings(flow=Path("from-kafka"), database=DATABASE)
    assert any('property "bootstrap" is empty: set the brokers' in text for text in problems(settings))
