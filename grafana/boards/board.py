"""A dashboard of the house: identity, variables, links between the boards, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from grafana.boards.sources import source_variables


def board(
    name: str, title: str, about: str, *, refresh: str, since: str, variables: Sequence[build.QueryVariable],
) -> build.Dashboard:  # fmt: skip
    """An empty board under the stable uid `voltflow-<name>`."""
    made = (
        build.Dashboard(f"Voltflow: {title}").uid(f"voltflow-{name}").description(about).tags(["voltflow"])
        .timezone("browser").refresh(refresh).time(since, "now").tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(build.DashboardLink("Voltflow").type(model.DashboardLinkType.DASHBOARDS).tags(["voltflow"])
              .as_dropdown(True).keep_time(True))
    )  # fmt: skip
    for source in source_variables():
        made = made.with_variable(source)
    for variable in variables:
        made = made.with_variable(variable)
    return made


def row(title: str) -> build.Row:
    """A heading; the panels after it stand below."""
    return build.Row(title)


def as_json(made: build.Dashboard) -> str:
    """The dashboard as it is imported: the same text for the same board."""
    content: dict[str, Any] = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    for number, panel in enumerate(content["panels"], start=1):
        panel["id"] = number
    content["version"] = 1
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
