"""docs/metrics.md lists what agent and bridge really export; what they export is as promtool wants it."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud.bridge import Bridge, BridgeSettings
from cloud.metrics import serve
from edge.metrics import PACK_GAUGES
from tests import metrics_page, servers
from tests.conftest import do_without
from tests.gateway import Gateway, ask, request


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


def test_labels_are_told() -> None:
    exported = metrics_page.names()
    assert exported["voltflow_spool_bytes"].labels == ("node",)
    assert exported["battery_fleet_temp_distribution"].labels == ("fleet", "le")
    assert {exported[name].labels for name in PACK_GAUGES} == {("fleet", "pack")}
