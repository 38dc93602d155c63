"""Dashboards speak of metrics that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import metrics_page
from tests.servers import REPOSITORY

DASHBOARDS = sorted((REPOSITORY / "grafana" / "dashboards").glob("*.json"))


def expressions(panel: dict[str, Any]) -> Iterator[str]:
    for target in panel["targets"]:
        yield target["expr"]


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bvoltflow_[a-z_]+", text))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_uses_metrics_that_there_are(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        used = set().union(*map(metrics_in, expressions(panel)))
        assert used, panel["title"]
        assert used <= metrics_page.series_names(), panel["title"]


def test_there_are_dashboards() -> None:
    """An empty list of cases would pass."""
    assert DASHBOARDS
