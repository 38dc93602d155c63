"""Every query of every panel, variable and annotation has data in a real Prometheus and real databases."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from edge.bands import ALERT_POINTS, BAND_POINTS, BANDS, SILENT_POINTS, UNKNOWN_POINTS
from grafana.answers import POINTS, Asker, Frame, QueryError
from grafana.boards import FOLDER
from grafana.draw import draw
from tests import servers
from tests.conftest import require
from tests.dashboards import FLEET, WORN, House, housed, run_sql

NAMES = sorted(path.name for path in FOLDER.glob("*.json"))
DATABASES = ("postgres", "timescale")
PICTURES = os.environ.get("VOLTFLOW_DRAW_TO", "")
"""A folder for the pictures of docs/; they are drawn of a bigger fleet that lives longer."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, postgres: servers.Postgres) -> Iterator[House]:
    """After all has happened; only Prometheus and the databases run on."""
    with ExitStack() as stack:
        timescale = require(stack, servers.Timescale())
        history = stack.enter_context(servers.database(postgres))
        made = require(stack, housed(tmp_path_factory.mktemp("house"), history, timescale.dsn))
        if PICTURES:
            made.live(lambda: _draw(made), seconds=90, packs=40)
        else:
            made.live(lambda: None, seconds=8)
        made.stop()
        yield made


def asker(house: House, database: str, instance: str = "") -> Asker:
    """As the reader of a board asks: its own variables, the role of Grafana, live times for what Prometheus has."""
    dsn = house.history if database == "postgres" else house.timescale
    values = {"fleet": [FLEET], "pack": [WORN], "sample": ["50"], "instance": [instance or house.instance]}
    return Asker(house.watcher.url, run_sql(dsn, "voltflow_reader"), values, house.past_span, 1.0)


def board(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text("utf-8"))
    return content


def ask(house: House, asking: Asker, target: Mapping[str, Any], points: int) -> list[Frame]:
    """Prometheus has what happened since the start, the history the ten days before it."""
    asking.span = house.past_span if "rawSql" in target else house.live_span
    return asking.ask(target, points)


def queries(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for panel in board(name)["panels"]:
        for target in panel.get("targets", []):
            yield panel, target


@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("name", NAMES)
def test_every_query_of_every_panel_has_data(house: House, name: str, database: str) -> None:
    troubles, asked = [], 0
    asking = asker(house, database)
    for panel, target in queries(name):
        if "rawSql" not in target and database != DATABASES[0]:
            continue
        asked += 1
        where = (name, panel["title"], target["refId"])
        try:
            frames = ask(house, asking, target, int(panel.get("maxDataPoints") or POINTS))
            if not frames and "$instance" in target.get("expr", ""):
                frames = ask(house, asker(house, database, house.other_instance), target, POINTS)
        except (QueryError, psycopg2.Error) as error:
            troubles.append(f"{where}: {error}")
            continue
        if not any(frame.has_data for frame in frames):
            troubles.append(f"{where}: no data: {target}")
    assert asked or database != DATABASES[0]
    assert not troubles, "\n".join(troubles)


@pytest.mark.parametrize("name", NAMES)
def test_variables_offer_what_the_boards_are_asked_for(house: House, name: str) -> None:
    asking = asker(house, "postgres")
    for variable in board(name)["templating"]["list"]:
        if variable["type"] != "datasource":
            assert set(asking.values[variable["name"]]) <= set(asking.variable(variable)), variable["name"]


@pytest.mark.parametrize("database", DATABASES)
def test_annotations_mark_times_with_a_text(house: House, database: str) -> None:
    found = 0
    for name in NAMES:
        for annotation in board(name).get("annotations", {}).get("list", []):
            frame = asker(house, database).annotation(annotation)
            assert {"time", "text", "tags"} == set(frame.columns), annotation["name"]
            assert frame.columns["text"], annotation["name"]
            assert all(frame.columns["text"])
            found += 1
    assert found >= 2


def test_retrained_model_shows_as_an_annotation_at_the_time_it_came(house: House) -> None:
    (annotation,) = board("model-quality.json")["annotations"]["list"]
    texts: Sequence[str] = asker(house, "timescale").annotation(annotation).columns["text"]
    assert sum(text.startswith("temperature ") for text in texts) == 2, texts
    assert sum(text.startswith("failure ") for text in texts) == 1, texts


@pytest.mark.parametrize("database", DATABASES)
def test_worry_is_that_of_the_gateway(house: House, database: str) -> None:
    """The view's points are those of edge/bands.py, written once more in SQL."""
    dsn = house.history if database == "postgres" else house.timescale
    names, rows = run_sql(dsn, "voltflow_reader")("SELECT * FROM pack_now")
    worries = set()
    for row in (dict(zip(names, values, strict=True)) for values in rows):
        points = sum(ALERT_POINTS[kind] * row[f"alerts_{kind}"] for kind in ALERT_POINTS)
        columns = {"temperature": "cell_temp_max_c", "soh": "soh_predicted_pct", "rul": "rul_predicted_efc",
                   "failure": "failure_predicted_pct"}  # fmt: skip
        points += sum(BAND_POINTS[BANDS[kind].of(row[column]) or "good"] for kind, column in columns.items())
        points += int(row["failure_predicted_pct"] or 0) + (SILENT_POINTS if row["silent"] else 0)
        points += (
            0 if any(row[column] is not None for column in ("soc_pct", *columns.values())) else UNKNOWN_POINTS
        )
        assert row["worry"] == points, row
        worries.add(points)
    assert len(worries) > 1


def test_reader_may_not_write_and_not_read_the_bytes_of_dead_letters(house: House) -> None:
    ask_as_reader = run_sql(house.history, "voltflow_reader")
    for forbidden in ("SELECT payload FROM dead_letter", "DELETE FROM alert", "CREATE TABLE mine (a int)"):
        with pytest.raises(psycopg2.Error):
            ask_as_reader(forbidden)


@pytest.mark.parametrize("name", NAMES)
def test_boards_can_be_drawn(house: House, name: str, tmp_path: Path) -> None:
    """Every type of panel has its drawer, and nothing of an answer stops it."""
    _draw(house, name, tmp_path)
    assert 20_000 < (tmp_path / f"grafana-{Path(name).stem}.png").stat().st_size < 200_000


def _draw(house: House, only: str = "", folder: Path = Path(PICTURES)) -> None:
    asking = asker(house, "postgres")
    for name in [only] if only else NAMES:
        draw(
            board(name),
            lambda target, points: ask(house, asking, target, points),
            folder / f"grafana-{Path(name).stem}.png",
        )
