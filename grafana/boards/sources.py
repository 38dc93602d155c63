"""The two data sources, queries for them, and the variables and annotations that boards share."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, Self

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as build_prometheus
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

SQL_TYPE = "grafana-postgresql-datasource"
PROMETHEUS = model.DataSourceRef(type_val="prometheus", uid="${prometheus}")
TIMESCALE = model.DataSourceRef(type_val=SQL_TYPE, uid="${timescale}")
MIXED = model.DataSourceRef(type_val="datasource", uid="-- Mixed --")


@dataclass
class SqlQuery(Dataquery, Builder["SqlQuery"]):
    """A query of the PostgreSQL data source, for which the library has no class of its own.

    `format` is `table`, or `time_series`: a column `time`, numbers, and at most one text column `metric` that names them.
    """

    sql: str
    format: str = "table"
    ref_id: str = "A"
    datasource: model.DataSourceRef = TIMESCALE

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "datasource": self.datasource,
            "editorMode": "code",
            "format": self.format,
            "rawQuery": True,
            "rawSql": self.sql,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SqlQuery:
        """What `to_json` gave."""
        datasource = model.DataSourceRef.from_json(data["datasource"])
        return cls(data["rawSql"], data["format"], data["refId"], datasource)

    def build(self) -> SqlQuery:
        return self

    def named(self, ref_id: str) -> Self:
        """The query under a letter of its panel."""
        self.ref_id = ref_id
        return self


class PromQuery(build_prometheus.Dataquery):
    """A query of Prometheus."""

    def named(self, ref_id: str) -> Self:
        """The query under a letter of its panel."""
        return self.ref_id(ref_id)


Query = SqlQuery | PromQuery


def prom(expr: str, legend: str = "") -> PromQuery:
    """Over the time that is shown."""
    return _prom(expr).range().legend_format(legend)


def prom_now(expr: str, legend: str = "") -> PromQuery:
    """At the end of the time that is shown."""
    return _prom(expr).instant().legend_format(legend)


def prom_table(expr: str) -> PromQuery:
    """At the end of the time that is shown, a row for each series."""
    return _prom(expr).instant().format(PromQueryFormat.TABLE)


def _prom(expr: str) -> PromQuery:
    return PromQuery().expr(_trimmed(expr)).datasource(PROMETHEUS).editor_mode(QueryEditorMode.CODE)


def sql(text: str) -> SqlQuery:
    """A table."""
    return SqlQuery(_trimmed(text))


def sql_series(text: str) -> SqlQuery:
    """Lines: a column `time`, numbers, and a text column `metric` where lines are to be told by it."""
    return SqlQuery(_trimmed(text), "time_series")


def _trimmed(text: str) -> str:
    return textwrap.dedent(text).strip()


def source_variables() -> list[build.DatasourceVariable]:
    """Which Prometheus and which database; hidden nowhere, because a house may have two."""
    return [
        build.DatasourceVariable("prometheus").label("Prometheus").type("prometheus"),
        build.DatasourceVariable("timescale").label("TimescaleDB").type(SQL_TYPE),
    ]


def sql_variable(name: str, label: str, text: str, *, several: bool = False) -> build.QueryVariable:
    """A choice of what a query of the database finds; `several`: more than one, or all."""
    query: dict[str, object] = SqlQuery(_trimmed(text), ref_id=f"variable-{name}").to_json()
    query["query"] = query["rawSql"]
    return _variable(name, label, several=several).datasource(TIMESCALE).query(query)


def prom_variable(name: str, label: str, values: str, *, several: bool = False) -> build.QueryVariable:
    """A choice of a label's values: `label_values(metric, label)`."""
    query: dict[str, object] = {"qryType": 1, "query": values, "refId": f"variable-{name}"}
    return _variable(name, label, several=several).datasource(PROMETHEUS).query(query)


def _variable(name: str, label: str, *, several: bool) -> build.QueryVariable:
    variable = build.QueryVariable(name).label(label).refresh(model.VariableRefresh.ON_DASHBOARD_LOAD)
    variable = variable.sort(model.VariableSort.ALPHABETICAL_ASC)
    if several:
        everything = model.VariableOption(text=["All"], value=["$__all"], selected=True)
        variable = variable.multi(True).include_all(True).current(everything)
    return variable


FLEET = "SELECT DISTINCT fleet FROM pack ORDER BY fleet"


class SqlAnnotation(build.AnnotationQuery):
    """Marks at times that a query of the database finds: columns `time`, `text`, `tags`."""

    def __init__(self, name: str, text: str, color: str) -> None:
        super().__init__()
        self.name(name).datasource(TIMESCALE).enable(True).icon_color(color)
        query: Any = SqlQuery(_trimmed(text), ref_id="Anno")
        self._internal.target = query
