"""Asks the queries of a dashboard's JSON as Grafana would: variables and macros put in, then Prometheus or PostgreSQL.

`Asker(prometheus_url, run_sql, values, span)` answers `panel(…)`, `variable(…)` and `annotation(…)` with frames. What is
put in follows Grafana's rules for `$name`, `${name:format}`, `$__interval`, `$__rate_interval`, `$__timeFilter` and the
like; a macro it does not know raises Unknown, so that no query is passed over.
"""

from __future__ import annotations

import json
import math
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

POINTS = 1000
"""Points of a panel without `maxDataPoints`: about its width in pixels."""
SCRAPE_S = 10.0
"""The least step over Prometheus: `timeInterval` of the data source in `grafana/provisioning`."""

_NICE_S = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600,
           7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000)  # fmt: skip

RunSql = Callable[[str], tuple[list[str], list[Sequence[Any]]]]
"""Column names and rows of a query."""


class QueryError(Exception):
    """A data source refused a query; the message has its words and the query as it was sent."""


class Unknown(Exception):
    """A variable or macro that is not known here."""


@dataclass(frozen=True)
class Span:
    """The time that is shown."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.start).total_seconds()

    def step_s(self, points: int, least_s: float = 0.0) -> float:
        """The interval that gives about so many points, as a round number of seconds."""
        wanted = max(self.seconds / points, least_s)
        return next((nice for nice in _NICE_S if nice >= wanted * 0.999), wanted)


@dataclass
class Frame:
    """A table, or one line: then `columns` are `time` and `value`."""

    name: str
    columns: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def has_data(self) -> bool:
        """Whether any number or text is in it beside the times."""
        return any(
            value is not None and not (isinstance(value, float) and math.isnan(value))
            for name, values in self.columns.items() if name.lower() != "time" for value in values
        )  # fmt: skip


@dataclass
class Asker:
    """See the module. `values` are the choices of the variables, always as lists."""

    prometheus_url: str
    run_sql: RunSql
    values: Mapping[str, Sequence[str]]
    span: Span
    scrape_s: float = SCRAPE_S

    def panel(self, panel: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], list[Frame]]]:
        """Each query of the panel with its answer."""
        for target in panel.get("targets", []):
            yield target, self.ask(target, int(panel.get("maxDataPoints") or POINTS))

    def ask(self, target: Mapping[str, Any], points: int = POINTS) -> list[Frame]:
        """The answer of one query; raises QueryError."""
        if "rawSql" in target:
            return self._sql(target, points)
        step_s = self.span.step_s(points, self.scrape_s)
        expr = self._filled(target["expr"], "regex", step_s)
        at = {"query": expr}
        if target.get("range"):
            span = {"start": self.span.start.timestamp(), "end": self.span.end.timestamp(), "step": step_s}
            answer = self._prometheus("query_range", **at, **span)["result"]
        else:
            answer = self._prometheus("query", **at, time=self.span.end.timestamp())["result"]
        if target.get("format") == "table":
            return [_table(answer)]
        return [_line(series, target.get("legendFormat", "")) for series in answer]

    def variable(self, variable: Mapping[str, Any]) -> list[str]:
        """What a variable offers."""
        query = variable["query"]
        if variable["type"] == "custom":
            return [part.strip() for part in query.split(",")]
        if "rawSql" in query:
            frame = self._sql(query, POINTS)[0]
            return [str(value) for value in next(iter(frame.columns.values()), [])]
        match = re.fullmatch(r"label_values\((.+), *(\w+)\)", query["query"])
        if match is None:
            raise Unknown(query["query"])
        at = {"match[]": self._filled(match[1], "regex", SCRAPE_S)}
        return list(self._prometheus(f"label/{match[2]}/values", **at))

    def annotation(self, annotation: Mapping[str, Any]) -> Frame:
        """The marks of an annotation."""
        return self.ask(annotation["target"])[0]

    # -- Prometheus

    def _prometheus(self, what: str, **parameters: Any) -> Any:
        address = f"{self.prometheus_url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 - http, as configured
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{error.read().decode()}\n{parameters}") from None

    # -- PostgreSQL

    def _sql(self, target: Mapping[str, Any], points: int) -> list[Frame]:
        step_s = self.span.step_s(points)
        text = self._filled(self._macros(target["rawSql"], step_s), "sqlstring", step_s)
        names, rows = self.run_sql(text)
        columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        if target.get("format") != "time_series" or not rows:
            return [Frame(target["refId"], columns)]
        return _lines(columns)

    def _macros(self, text: str, step_s: float) -> str:
        start, end = (f"'{_iso(time)}'" for time in (self.span.start, self.span.end))
        text = text.replace("$__timeFrom()", start).replace("$__timeTo()", end)
        text = re.sub(r"\$__timeFilter\(([^)]+)\)", lambda m: f"{m[1]} BETWEEN {start} AND {end}", text)
        bucket = f"floor(extract(epoch from \\1)/{step_s:g})*{step_s:g}"
        text = re.sub(r"\$__timeGroup\(([^,)]+), *\$__interval\) AS time", f'{bucket} AS "time"', text)
        return text.replace("$__interval_ms", str(round(step_s * 1000)))

    # -- both

    def _filled(self, text: str, style: str, step_s: float) -> str:
        """With variables; `style` is how a bare one is put in where it has several values."""
        rate_s = max(step_s + self.scrape_s, 4 * self.scrape_s)
        known = {
            "__interval": f"{step_s:g}s",
            "__rate_interval": f"{rate_s:g}s",
            "__range": f"{self.span.seconds:.0f}s",
        }

        def put(match: re.Match[str]) -> str:
            name = match["braced"] or match["bare"]
            if name in known:
                return known[name]
            if name not in self.values:
                raise Unknown(f"${name} in {text}")
            return _formatted(
                self.values[name], match["style"] or (style if len(self.values[name]) > 1 else "raw")
            )

        return re.sub(r"\$\{(?P<braced>\w+)(?::(?P<style>\w+))?\}|\$(?P<bare>\w+)", put, text)


def _formatted(values: Sequence[str], style: str) -> str:
    if style == "sqlstring":
        return ",".join("'" + value.replace("'", "''") + "'" for value in values)
    if style == "regex":
        escaped = [re.sub(r"([\\^$.*+?()\[\]{}|/])", r"\\\\\1", value) for value in values]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
    if style == "raw":
        return ",".join(values)
    raise Unknown(f"format {style}")


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(series: Mapping[str, Any], legend: str) -> Frame:
    labels = series["metric"]
    name = re.sub(r"\{\{ *(\w+) *\}\}", lambda m: labels.get(m[1], ""), legend)
    if not legend or legend == "__auto":
        name = json.dumps(labels, sort_keys=True)
    points = series["values"] if "values" in series else [series["value"]]
    times = [datetime.fromtimestamp(time, UTC) for time, _ in points]
    return Frame(name, {"time": times, "value": [float(value) for _, value in points]})


def _table(series: Sequence[Mapping[str, Any]]) -> Frame:
    names = sorted({name for item in series for name in item["metric"]})
    columns: dict[str, list[Any]] = {name: [item["metric"].get(name) for item in series] for name in names}
    columns["Value"] = [float(item["value"][1]) for item in series]
    return Frame("table", columns)


def _lines(columns: dict[str, list[Any]]) -> list[Frame]:
    times = [_time(value) for value in columns["time"]]
    numbers = {name: values for name, values in columns.items() if name not in {"time", "metric"}}
    return [
        Frame(name, {"time": times, "value": [None if value is None else float(value) for value in values]})
        for name, values in numbers.items()
    ]


def _time(value: Any) -> datetime:
    """Grafana takes a time as such or as seconds since 1970."""
    if isinstance(value, datetime):
        return value
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(value))
