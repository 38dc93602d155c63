"""Boards of a running house as pictures: see `--help`."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from grafana.answers import Asker, Span
from grafana.boards import FOLDER
from grafana.draw import draw


def main() -> None:
    """Write one PNG for each board."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m grafana.draw",
        description="Draws the boards' answers as PNG files.",
    )
    parser.add_argument(
        "--prometheus", default="http://127.0.0.1:9090", help="its address; default %(default)s"
    )
    parser.add_argument("--database", required=True, help="of the bridge: postgresql://…")
    parser.add_argument(
        "--hours", type=float, default=1.0, help="time that is shown, until now; default %(default)g"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable; default: all or the first",
    )
    parser.add_argument("--to", type=Path, default=Path(), help="folder; default: this one")
    given = parser.parse_args()
    end = datetime.now(UTC)
    span = Span(end - timedelta(hours=given.hours), end)
    chosen = {name: [value] for name, _, value in (item.partition("=") for item in given.set)}
    for path in sorted(FOLDER.glob("*.json")):
        board = json.loads(path.read_text("utf-8"))
        values: dict[str, Sequence[str]] = dict(chosen)
        asker = Asker(given.prometheus, _run(given.database), values, span)
        for variable in board["templating"]["list"]:
            if variable["type"] != "datasource" and variable["name"] not in values:
                offered = asker.variable(variable)
                values[variable["name"]] = offered if variable.get("multi") else offered[:1]
        draw(board, asker.ask, given.to / f"grafana-{path.stem}.png")


def _run(dsn: str) -> Any:
    def run(text: str) -> tuple[list[str], list[Sequence[Any]]]:
        import psycopg2

        with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
            cursor.execute(text)
            return [column.name for column in cursor.description or []], list(cursor.fetchall())

    return run


if __name__ == "__main__":
    main()
