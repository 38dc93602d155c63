"""The dashboards' JSON: written from the code, sound by the library's model of Grafana's schema, about metrics that there are."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.runtime import Runtime
from grafana_foundation_sdk.models.dashboard import Dashboard

from edge.bands import BANDS
from edge.nodes.alert import Alert
from grafana import boards
from grafana.answers import SCRAPE_S
from grafana.boards.panels import COUNT
from grafana.boards.sources import SQL_TYPE
from tests import metrics_page
from tests.servers import REPOSITORY

DASHBOARDS = sorted(boards.FOLDER.glob("*.json"))
PROVISIONING = REPOSITORY / "grafana" / "provisioning"
SEED = ("SoH actual and predicted", "SoH", "SoC", "Temperature actual and predicted", "RUL actual and predicted",
        "Voltage, current, power", "Failure probability", "Prediction accuracy", "Total predictions", "Retraining events",
        "System health")  # fmt: skip
every_board = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def targets(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        yield from panel.get("targets", [])


def test_files_are_what_the_code_says() -> None:
    assert boards.stale(boards.all_boards()) == [], "run: python -m grafana.boards"
    assert {path.stem for path in DASHBOARDS} == {"battery", "fleet", "gateway", "ledger", "model-quality"}


def test_check_names_a_file_that_is_not_up_to_date(tmp_path: Path) -> None:
    code = (
        "import pathlib; from grafana import boards; from grafana.boards import __main__ as m; "
        "boards.FOLDER = m.FOLDER = pathlib.Path(sys.argv.pop()); sys.exit(m.main())"
    )
    command = [sys.executable, "-c", f"import sys; {code}"]
    done = subprocess.run(
        [*command, "--check", str(tmp_path)], check=False, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert str(tmp_path / "fleet.json") in done.stderr
    assert not list(tmp_path.iterdir())


@every_board
def test_json_fits_the_schema(path: Path) -> None:
    """Read into the library's classes, made from Grafana's schema, and written again, nothing is lost or changed."""
    register_default_plugins()
    Runtime().dataquery_variants.pop(
        "datasource", None
    )  # it would read the queries of a panel with two sources as its own
    hook = Runtime().dataquery_variants["prometheus"].from_json_hook
    board = load(path)
    for panel in board["panels"]:
        config = Runtime().panelcfg_config(panel["type"])
        assert panel["type"] == "row" or config is not None, f"no panel {panel['type']} in this Grafana"
    again = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    _annotations_of(again, board)
    assert again == board
    for target in targets(board):
        if "expr" in target:
            assert json.loads(json.dumps(hook(target), cls=JSONEncoder)) == target


def _annotations_of(again: dict[str, Any], board: dict[str, Any]) -> None:
    """The library's class for an annotation's query knows Grafana's own store only; the query is that of panels."""
    for mine, read in zip(
        board["annotations"].get("list", []), again["annotations"].get("list", []), strict=True
    ):
        assert mine["target"]["datasource"]["type"] == SQL_TYPE
        read["target"] = mine["target"]


@every_board
def test_panels_have_places_of_their_own(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    panels = load(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


@every_board
def test_queries_use_metrics_that_there_are(path: Path) -> None:
    text = " ".join(target["expr"] for target in targets(load(path)) if "expr" in target)
    used = set(re.findall(r"\b(?:voltflow|battery|process|prediction|predictions|model)_[a-z_]+", text))
    assert used or path.stem == "fleet", "of the packs the fleet's board asks the history"
    assert used <= metrics_page.series_names() | {"voltflow_latency_seconds_bucket"}


@every_board
def test_links_lead_to_boards_and_their_variables(path: Path) -> None:
    variables = {
        board["uid"]: {variable["name"] for variable in board["templating"]["list"]}
        for board in map(load, DASHBOARDS)
    }
    links = re.findall(r'"url": "(/d/[^"]+)"', path.read_text("utf-8"))
    assert links or path.stem != "fleet"
    for link in links:
        address = urllib.parse.urlsplit(link.replace("${", "").replace("}", ""))
        names = {
            name.removeprefix("var-")
            for name in urllib.parse.parse_qs(address.query)
            if name.startswith("var-")
        }
        assert names, link
        assert names <= variables[address.path.removeprefix("/d/")], link


@every_board
def test_sources_are_variables(path: Path) -> None:
    board = load(path)
    types = {
        item["query"]: item["name"] for item in board["templating"]["list"] if item["type"] == "datasource"
    }
    for target in targets(board):
        assert target["datasource"]["uid"] == "${" + types[target["datasource"]["type"]] + "}"


def test_battery_has_the_eleven_panels_of_the_seed() -> None:
    board = load(boards.FOLDER / "battery.json")
    assert tuple(panel["title"] for panel in board["panels"][:11]) == SEED
    assert board["refresh"] == "5s"
    steps = {panel["title"]: [(step["value"], step["color"]) for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]
             for panel in board["panels"] if panel["title"] in ("SoH", "SoC", "Failure probability", SEED[3])}  # fmt: skip
    assert steps["SoH"] == [(None, "red"), (70, "orange"), (85, "green")]
    assert steps["SoC"] == [(None, "red"), (20, "orange"), (50, "green")]
    assert steps["Failure probability"] == [(None, "green"), (30, "orange"), (60, "red")]
    assert [value for value, _ in steps[SEED[3]]] == [None, 40, 60]


def test_fleet_colours_health_by_the_bands_that_it_counts_by() -> None:
    """A pack that is counted as worn is red in each table, too."""
    band = BANDS["soh"]
    board = load(boards.FOLDER / "fleet.json")
    colours = [
        [(step["value"], step["color"]) for step in item["value"]["steps"]]
        for panel in board["panels"]
        for override in panel.get("fieldConfig", {}).get("overrides", [])
        if override["matcher"]["options"] == "SoH"
        for item in override["properties"]
        if item["id"] == "thresholds"
    ]
    assert colours
    assert all(steps == [(None, "red"), (band.poor, "orange"), (band.fair, "green")] for steps in colours), (
        colours
    )
    queries = " ".join(target.get("rawSql", "") for target in targets(board))
    limits = {float(number) for number in re.findall(r"\bsoh(?:_predicted_pct)? >?<?=? ?(\d+)", queries)}
    assert limits == {band.poor, band.fair}


def overrides(board: dict[str, Any], title: str) -> dict[str, dict[str, Any]]:
    """What a panel says of single columns: by column, the value of each property."""
    (panel,) = (panel for panel in board["panels"] if panel.get("title") == title)
    return {
        one["matcher"]["options"]: {item["id"]: item["value"] for item in one["properties"]}
        for one in panel["fieldConfig"]["overrides"]
    }


@pytest.mark.parametrize(("name", "title"), [("fleet", "Alerts that stand"), ("battery", "Alerts")])
def test_units_of_alerts_are_shown_as_signs(name: str, title: str) -> None:
    source = inspect.getsource(Alert._make_rules)
    units = set(re.findall(r'"(\w+)", (?:True|False),', source))
    assert "ohm_per_v" in units
    (words,) = overrides(load(boards.FOLDER / f"{name}.json"), title)["unit"]["mappings"]
    assert set(words["options"]) == units


def test_cases_are_no_percentage() -> None:
    cases = overrides(load(boards.FOLDER / "model-quality.json"), "Failure: predicted and observed")["cases"]
    assert cases["unit"] == COUNT
    assert cases["custom.axisPlacement"] == "right"


def test_the_boards_are_asked_in_the_steps_of_the_data_source() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "voltflow.yml").read_text("utf-8"))[
        "datasources"
    ]
    (interval,) = (source["jsonData"]["timeInterval"] for source in sources if source["type"] == "prometheus")
    scraped = yaml.safe_load((REPOSITORY / "grafana" / "prometheus" / "prometheus.yml").read_text("utf-8"))
    assert interval == f"{SCRAPE_S:g}s" == scraped["global"]["scrape_interval"]


def test_provisioning_names_both_sources_and_no_password() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "voltflow.yml").read_text("utf-8"))[
        "datasources"
    ]
    assert {source["type"] for source in sources} == {"prometheus", SQL_TYPE}
    (password,) = (source["secureJsonData"]["password"] for source in sources if "secureJsonData" in source)
    assert re.fullmatch(r"\$__file\{/run/secrets/\w+\}", password)
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "voltflow.yml").read_text("utf-8"))[
        "providers"
    ]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
