"""docs/metrics.md lists what agent and bridge really export; what they export is as promtool wants it."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cloud.bridge import Bridge, BridgeSettings
from cloud.metrics import make_registry, serve
from cloud.nodes.timescale_out import TimescaleOut
from edge.agent import load_flow
from edge.metrics import PACK_GAUGES
from edge.settings import AgentSettings
from tests import metrics_page, servers
from tests.conftest import do_without
from tests.gateway import Gateway, ask, request
from voltflow import __version__
from voltflow.engine.engine import Engine
from voltflow.message import now_ms
from voltflow.metrics import EngineCollector


def _bridge_scrape(folder: Path) -> str:
    bridge, port = (
        Bridge(BridgeSettings(database="postgresql:///none", state_dir=folder)),
        servers.free_port(),
    )
    assert bridge.ledger is not None
    bridge.ledger.status.active = True
    with (
        serve(bridge.engine, "127.0.0.1", port, ledger=bridge.ledger),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer,
    ):
        return str(answer.read().decode())


def _agent_scrape(folder: Path) -> str:
    gateway = Gateway(folder)
    gateway.birth("depot/P1")
    gateway.drive("depot/P1", 15)
    return ask(gateway.state, lambda server: request(server, "/metrics")).body.decode()


@pytest.fixture(params=["agent", "bridge"])
def scrape(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What the program answers over HTTP."""
    return {"agent": _agent_scrape, "bridge": _bridge_scrape}[request.param](tmp_path)


def test_the_page_is_up_to_date() -> None:
    assert metrics_page.written() == metrics_page.page(), "run: python -m tests.metrics_page"


def test_the_page_has_every_name_that_is_scraped(scrape: str) -> None:
    known = metrics_page.series_names()
    scraped = {sample.name for family in text_string_to_metric_families(scrape) for sample in family.samples}
    assert len(scraped) > 20
    assert scraped <= known


def test_promtool_finds_nothing_to_object_to(scrape: str) -> None:
    try:
        assert servers.promtool_check_metrics(scrape) == ""
    except servers.Missing as reason:
        do_without(reason)


def test_lag_is_the_age_of_the_newest_reading_in_the_history(tmp_path: Path) -> None:
    bridge = Bridge(BridgeSettings(database="postgresql:///none", state_dir=tmp_path))
    history = bridge.engine.nodes["history"].node
    assert isinstance(history, TimescaleOut)
    assert "voltflow_lag_seconds{" not in generate_latest(make_registry(bridge.engine)).decode()
    history.tally.newest_ms = now_ms() - 90_000
    text = generate_latest(make_registry(bridge.engine)).decode()
    lag = re.search(r'^voltflow_lag_seconds\{node="history"\} (\S+)$', text, re.MULTILINE)
    assert lag is not None
    assert 90 <= float(lag[1]) < 90 + 600


def test_spools_dead_letters_and_the_disk_are_told(tmp_path: Path) -> None:
    settings = AgentSettings(state_dir=tmp_path, spool_max_mb=50.0, spool_protected_mb=10.0)
    flow, env = load_flow(settings)
    engine = Engine(flow, env=env, services={}, gateway="gw1", state_dir=tmp_path)
    engine.stats["dead"].messages_in = 3
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    text = generate_latest(registry).decode()
    assert 'voltflow_dead_letters_total{node="dead"} 3.0' in text
    assert 'voltflow_spool_limit_bytes{node="out"} 6e+07' in text
    assert (
        f'voltflow_info{{flow_revision="{flow.revision}",gateway="gw1",version="{__version__}"}} 1.0' in text
    )
    disk = re.findall(r"^voltflow_disk(?:_free)?_bytes (\S+)$", text, re.MULTILINE)
    assert 0 < float(disk[1]) < float(disk[0])


def test_labels_are_told() -> None:
    exported = metrics_page.names()
    assert exported["voltflow_spool_bytes"].labels == ("node",)
    assert exported["battery_fleet_temp_distribution"].labels == ("fleet", "le")
    assert {exported[name].labels for name in PACK_GAUGES} == {("fleet", "pack")}
