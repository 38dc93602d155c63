"""Dashboards and alert rules speak of metrics that there are."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cloud.bridge import Bridge, BridgeSettings
from cloud.metrics import HistoryCollector, LedgerCollector
from tests.conftest import do_without
from tests.servers import REPOSITORY, Missing, program
from voltflow.metrics import EngineCollector

DASHBOARDS = sorted((REPOSITORY / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((REPOSITORY / "grafana" / "rules").glob("*.yml"))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the collectors expose, as it is written in expressions."""
    settings = BridgeSettings(database="postgresql:///none", state_dir=tmp_path_factory.mktemp("state"))
    bridge = Bridge(settings)
    assert bridge.ledger is not None
    bridge.ledger.status.active = True
    registry = CollectorRegistry()
    for collector in (
        EngineCollector(bridge.engine),
        HistoryCollector(bridge.engine),
        LedgerCollector(bridge.ledger),
    ):
        registry.register(collector)
    return {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}


def expressions(panel: dict[str, Any]) -> Iterator[str]:
    for target in panel["targets"]:
        yield target["expr"]


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bvoltflow_[a-z_]+", text))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_uses_metrics_that_there_are(path: Path, names: set[str]) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        used = set().union(*map(metrics_in, expressions(panel)))
        assert used, panel["title"]
        assert used <= names, panel["title"]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_rules_are_sound_and_use_metrics_that_there_are(path: Path, names: set[str]) -> None:
    used = metrics_in(path.read_text())
    assert used
    assert used <= names
    try:
        promtool = program("promtool", "prometheus")
    except Missing as reason:
        do_without(reason)
    done = subprocess.run(
        [promtool, "check", "rules", str(path)], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_dashboards_and_rules() -> None:
    """An empty list of cases would pass."""
    assert DASHBOARDS
    assert RULES
