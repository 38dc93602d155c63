"""Panels in the house's manner: a title, queries, what the reader sees and what is good and bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import (
    barchart,
    common,
    gauge,
    histogram,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

from grafana.boards.sources import MIXED, PROMETHEUS, TIMESCALE, Query, SqlQuery

Steps = Sequence[tuple[float | None, str]]
"""Colours from a value on, the first without one."""

SOH_STEPS: Steps = ((None, "red"), (70, "orange"), (85, "green"))
"""Those that users of the seed know, of its gauge; a fleet is graded by `SOH_BAND_STEPS`."""
SOH_BAND_STEPS: Steps = ((None, "red"), (75, "orange"), (85, "green"))
"""The bands of the gateway's page (edge/bands.py)."""
SOC_STEPS: Steps = ((None, "red"), (20, "orange"), (50, "green"))
TEMPERATURE_STEPS: Steps = ((None, "green"), (40, "orange"), (60, "red"))
RUL_STEPS: Steps = ((None, "red"), (100, "orange"), (500, "green"))
FAILURE_STEPS: Steps = ((None, "green"), (30, "orange"), (60, "red"))
PLAIN: Steps = ((None, "blue"),)
NONE_IS_GOOD: Steps = ((None, "green"), (1, "red"))
FEW_ARE_BEARABLE: Steps = ((None, "green"), (1, "orange"))
ONE_IS_GOOD: Steps = ((None, "red"), (1, "green"))
ACCURACY_STEPS: Steps = ((None, "red"), (80, "orange"), (90, "green"))

PERCENT, CELSIUS, SECONDS, BYTES, COUNT = "percent", "celsius", "s", "decbytes", "short"

CYCLES = "suffix: cycles"


def finish(panel: Any, title: str, queries: Sequence[Query], about: str, size: tuple[int, int]) -> Any:
    """What all panels have; `size` is width (of 24) and height."""
    sources = {id(TIMESCALE if isinstance(query, SqlQuery) else PROMETHEUS) for query in queries}
    if len(sources) > 1:
        panel = panel.datasource(MIXED)
    elif queries:
        panel = panel.datasource(TIMESCALE if isinstance(queries[0], SqlQuery) else PROMETHEUS)
    panel = panel.title(title).description(about).span(size[0]).height(size[1])
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(query.named(letter))
    return panel


def thresholds(steps: Steps) -> build.ThresholdsConfig:
    """Colours by absolute value."""
    listed = [model.Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(listed)


def lines(
    title: str, *queries: Query, about: str = "", unit: str = COUNT, size: tuple[int, int] = (12, 8), marks: Steps = (),
    low: float | None = None, high: float | None = None, dots: bool = False, joined: bool = False,
) -> timeseries.Panel:  # fmt: skip
    """Values over time. `marks` are drawn as dashed lines; a gap stays a gap, but where what is `joined` has no value."""
    legend = common.VizLegendOptions().display_mode(common_model.LegendDisplayMode.LIST).show_legend(True)
    legend = legend.placement(common_model.LegendPlacement.BOTTOM)
    hover = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    panel: timeseries.Panel = finish(timeseries.Panel(), title, queries, about, size)
    panel = panel.unit(unit).legend(legend).tooltip(hover).line_width(2)
    panel = panel.show_points(
        common_model.VisibilityMode.ALWAYS if dots else common_model.VisibilityMode.AUTO
    )
    if dots:
        panel = panel.draw_style(common_model.GraphDrawStyle.POINTS).point_size(6)
    if joined:
        panel = panel.span_nulls(True).show_points(common_model.VisibilityMode.ALWAYS)
    if marks:
        dashed = common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(thresholds(marks)).thresholds_style(dashed)
    if low is not None:
        panel = panel.axis_soft_min(low)
    if high is not None:
        panel = panel.axis_soft_max(high)
    return panel


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def number(
    title: str, *queries: Query, about: str = "", unit: str = COUNT, size: tuple[int, int] = (4, 4), steps: Steps = PLAIN,
    decimals: int | None = None, words: dict[str, str] | None = None, spark: bool = False,
    each: dict[str, Steps] | None = None,
) -> stat.Panel:  # fmt: skip
    """Figures, coloured; `words` are shown in place of values; `each`: colours by the figure's name."""
    panel: stat.Panel = finish(stat.Panel(), title, queries, about, size)
    panel = panel.unit(unit).thresholds(thresholds(steps)).reduce_options(_last())
    panel = panel.color_mode(common_model.BigValueColorMode.BACKGROUND if steps is not PLAIN else common_model.BigValueColorMode.VALUE)  # fmt: skip
    panel = panel.graph_mode(common_model.BigValueGraphMode.AREA if spark else common_model.BigValueGraphMode.NONE)  # fmt: skip
    if decimals is not None:
        panel = panel.decimals(decimals)
    if words:
        panel = panel.mappings([value_words(words)])
    for name, own in (each or {}).items():
        panel = panel.override_by_name(name, [_override("thresholds", thresholds(own).build())])
    return panel


def _override(name: str, value: object) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)


def value_words(words: dict[str, str], colors: dict[str, str] | None = None) -> model.ValueMapping:
    """Words, and colours, in place of values."""
    options = {
        value: model.ValueMappingResult(text=word, color=(colors or {}).get(value))
        for value, word in words.items()
    }
    return model.ValueMap(options=options)


def dial(
    title: str, query: Query, *, about: str = "", unit: str = PERCENT, size: tuple[int, int] = (6, 8), steps: Steps,
    low: float = 0, high: float = 100,
) -> gauge.Panel:  # fmt: skip
    """A gauge."""
    panel: gauge.Panel = finish(gauge.Panel(), title, [query], about, size)
    panel = panel.unit(unit).min(low).max(high).thresholds(thresholds(steps)).reduce_options(_last())
    return panel.show_threshold_markers(True).decimals(1)


@dataclass(frozen=True)
class Column:
    """How a table shows a column: unit, colours by value, a link (`${__data.fields.pack}` is the row's pack)."""

    unit: str = ""
    steps: Steps = ()
    decimals: int | None = None
    link: tuple[str, str] | None = None
    width: int | None = None
    words: dict[str, str] | None = None

    def properties(self) -> list[model.DynamicConfigValue]:
        """As an override of the field."""
        found: dict[str, object] = {}
        if self.unit:
            found["unit"] = self.unit
        if self.decimals is not None:
            found["decimals"] = self.decimals
        if self.width is not None:
            found["custom.width"] = self.width
        if self.words:
            found["mappings"] = [value_words(self.words)]
        if self.steps:
            found["thresholds"] = thresholds(self.steps).build()
            found["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
        if self.link:
            title, url = self.link
            found["links"] = [{"title": title, "url": url, "targetBlank": False}]
        return [_override(name, value) for name, value in found.items()]


ALERT_UNIT = Column(words={"c": "°C", "pct": "%", "mv": "mV", "ohm_per_v": "Ω/V", "level": "of 3 (level)"})
"""Units as `alert/1` has them, in signs."""


def rows(
    title: str, *queries: Query, about: str = "", size: tuple[int, int] = (24, 10), columns: dict[str, Column] | None = None,
    renamed: dict[str, str] | None = None,
) -> table.Panel:  # fmt: skip
    """A table; several queries of Prometheus are joined by their labels. `renamed`: "" hides a column."""
    panel: table.Panel = finish(table.Panel(), title, queries, about, size)
    panel = panel.filterable(True).cell_height(common_model.TableCellHeight.SM)
    if len(queries) > 1:
        panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    if renamed:
        hidden = {name: True for name, shown in renamed.items() if not shown}
        options: dict[str, object] = {"excludeByName": hidden, "indexByName": {name: i for i, name in enumerate(renamed)},
                                      "renameByName": {name: shown for name, shown in renamed.items() if shown}}  # fmt: skip
        panel = panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=options))
    for name, column in (columns or {}).items():
        panel = panel.override_by_name(name, column.properties())
    return panel


def bars(
    title: str, query: Query, *, about: str = "", x: str, unit: str = COUNT, size: tuple[int, int] = (12, 8),
    colors: dict[str, str] | None = None, counts: str = "",
) -> barchart.Panel:  # fmt: skip
    """Bars of a table's numbers over its column `x`; `colors` by column. `counts`: a column of numbers of things among them, which
    has the axis on the right for itself."""
    panel: barchart.Panel = finish(barchart.Panel(), title, [query], about, size)
    panel = panel.x_field(x).unit(unit).fill_opacity(80).show_value(common_model.VisibilityMode.AUTO)
    panel = panel.legend(common.VizLegendOptions().show_legend(True).display_mode(common_model.LegendDisplayMode.LIST)
                         .placement(common_model.LegendPlacement.BOTTOM))  # fmt: skip
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel = panel.override_by_name(name, [_override("color", fixed)])
    if counts:
        apart = {
            "unit": COUNT,
            "decimals": 0,
            "min": 0,
            "custom.axisPlacement": "right",
            "custom.axisLabel": counts,
        }
        panel = panel.override_by_name(counts, [_override(name, value) for name, value in apart.items()])
    return panel


def spread(
    title: str, query: Query, *, about: str = "", unit: str = COUNT, size: tuple[int, int] = (12, 8), bucket: int,
) -> histogram.Panel:  # fmt: skip
    """How many rows have about which value."""
    panel: histogram.Panel = finish(histogram.Panel(), title, [query], about, size)
    return panel.unit(unit).bucket_size(bucket).fill_opacity(80)


def timeline(
    title: str, *queries: Query, about: str = "", size: tuple[int, int] = (12, 8), words: dict[str, str], colors: dict[str, str],
) -> statetimeline.Panel:  # fmt: skip
    """States over time, in words and colours."""
    panel: statetimeline.Panel = finish(statetimeline.Panel(), title, queries, about, size)
    return panel.mappings([value_words(words, colors)]).merge_values(True).line_width(0).fill_opacity(70)
