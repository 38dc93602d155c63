"""One drawer for each type of panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from grafana.answers import Frame
from grafana.draw import look
from grafana.draw.look import Box, color_of, shown

Panel = Mapping[str, Any]
ROW_PX = 21


def _defaults(panel: Panel) -> Mapping[str, Any]:
    found: Mapping[str, Any] = panel.get("fieldConfig", {}).get("defaults", {})
    return found


def _steps(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = config.get("thresholds", {}).get("steps", [])
    return found


def _words(config: Mapping[str, Any]) -> dict[str, str]:
    return {
        value: result["text"]
        for mapping in config.get("mappings", [])
        for value, result in mapping["options"].items()
    }


def lines(figure: Any, box: Box, panel: Panel, frames: list[Frame]) -> None:
    """Time series."""
    mdates = _dates()
    config = _defaults(panel)
    custom, unit = config.get("custom", {}), config.get("unit", "short")
    known = [frame for frame in frames if frame.has_data]
    letters, columns, legend_rows = _legend([frame.name for frame in known], box.w - 60)
    legend_px = 8 + 13 * legend_rows
    axes = figure.add_axes(box.part(78 if unit.startswith("suffix") else 62, 32, 16, 30 + legend_px))
    whole = max(f.columns["time"][-1] for f in known) - min(f.columns["time"][0] for f in known)
    for place, frame in enumerate(known):
        times, values = frame.columns["time"], [math.nan if v is None else v for v in frame.columns["value"]]
        if times[-1] - times[0] < whole / 50:  # of another source, whose time is a moment beside this one's
            times, values = times[-1:], values[-1:]
        dots, points = (
            custom.get("drawStyle") == "points",
            custom.get("showPoints") == "always" or len(values) == 1,
        )
        if custom.get("spanNulls"):
            pairs = [
                (time, value) for time, value in zip(times, values, strict=True) if not math.isnan(value)
            ]
            times, values = [time for time, _ in pairs], [value for _, value in pairs]
        label = frame.name[:letters] if place < columns * legend_rows else "_"
        axes.plot(times, values, color=look.SERIES[place % len(look.SERIES)], linewidth=1.3, label=label,
                  marker="o" if dots or points else None, markersize=4, linestyle="" if dots else "-")  # fmt: skip
    _limits(axes, config)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.yaxis.set_major_locator(_locator(5))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=2, maxticks=max(6, int(box.w / 90))))
    axes.xaxis.set_major_formatter(
        mdates.ConciseDateFormatter(axes.xaxis.get_major_locator(), show_offset=False)
    )
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -22 / max(box.h - 62 - legend_px, 1)), frameon=False, fontsize=7,
                ncols=columns, borderaxespad=0, handlelength=1.2, columnspacing=1.2, labelspacing=0.25)  # fmt: skip


def _legend(names: Sequence[str], room: float) -> tuple[int, int, int]:
    """How many letters of each name, how many columns and rows; what is in no row is not named."""
    letters = min(max(map(len, names)), 44)
    columns = max(1, min(len(names), int(room / (letters * 5.2 + 32))))
    return letters, columns, min(3, math.ceil(len(names) / columns))


def _limits(axes: Any, config: Mapping[str, Any]) -> None:
    """The marks, and the least that the axis shows."""
    custom = config.get("custom", {})
    low, high = axes.get_ylim()
    low, high = min(low, custom.get("axisSoftMin", low)), max(high, custom.get("axisSoftMax", high))
    for step in _steps(config)[1:] if custom.get("thresholdsStyle") else []:
        low, high = min(low, step["value"]), max(high, step["value"] * 1.02)
        axes.axhline(step["value"], color=look.COLORS[step["color"]], linestyle="--", linewidth=1)
    axes.set_ylim(low, high)


def _dates() -> Any:
    """The library's dates, which have no types of their own."""
    import matplotlib.dates

    return matplotlib.dates


def _locator(count: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, min_n_ticks=2)


def _latest(frames: list[Frame]) -> list[tuple[str, float]]:
    """The last value of each line or, of a table, of each column."""
    found = []
    for frame in frames:
        columns = {frame.name: frame.columns["value"]} if "value" in frame.columns else frame.columns
        for name, values in columns.items():
            known = [float(value) for value in values if value is not None]
            if known:
                found.append((name, known[-1]))
    return found


def number(figure: Any, box: Box, panel: Panel, frames: list[Frame]) -> None:
    """Figures side by side or one above the other."""
    from matplotlib.patches import Rectangle

    config, found = _defaults(panel), _latest(frames)
    own = {
        item["matcher"]["options"]: item["properties"][0]["value"]["steps"]
        for item in panel["fieldConfig"]["overrides"]
    }
    tall = box.h > box.w * 0.8 or (len(found) > 2 and box.w < 260)
    background = panel["options"].get("colorMode") == "background"
    left, top, width, height = 8.0, 30.0, box.w - 16, box.h - 38
    cell_w, cell_h = (width, height / len(found)) if tall else (width / len(found), height)
    for place, (name, value) in enumerate(found):
        x, y = (left, top + place * cell_h) if tall else (left + place * cell_w, top)
        color = color_of(value, own.get(name, _steps(config)))
        if background:
            l, b, w, h = box.part(x + 1, y + 1, box.w - x - cell_w + 1, box.h - y - cell_h + 1)  # noqa: E741
            figure.add_artist(Rectangle((l, b), w, h, facecolor=color, edgecolor="none"))
        text = shown(value, config.get("unit", "short"), config.get("decimals"), _words(config))
        ink = "white" if background else color
        small = 7.5 if len(found) > 1 else 0
        size = max(9.0, min(22.0, cell_h * 0.34, 0.95 * cell_w / max(len(text), 3)))
        figure.text(*box.point(x + cell_w / 2, y + cell_h / 2 + (8 if small else 0)), text, fontsize=size, weight="bold", color=ink,
                    ha="center", va="center")  # fmt: skip
        if small:
            label = name if len(name) * 5 < cell_w else name[: int(cell_w / 5.2)] + "…"
            figure.text(
                *box.point(x + cell_w / 2, y + min(14, cell_h * 0.2)),
                label,
                fontsize=small,
                color=ink,
                ha="center",
                va="center",
            )


def dial(figure: Any, box: Box, panel: Panel, frames: list[Frame]) -> None:
    """A gauge: three quarters of a ring with its bands outside."""
    from matplotlib.patches import Wedge

    config, value = _defaults(panel), _latest(frames)[0][1]
    low, high = float(config.get("min", 0)), float(config.get("max", 100))
    axes = figure.add_axes(box.part(10, 30, 10, 10))
    axes.set(xlim=(-1.25, 1.25), ylim=(-0.75, 1.2), aspect="equal")
    axes.axis("off")

    def angle(of: float) -> float:
        return 210 - 240 * (min(max(of, low), high) - low) / (high - low)

    steps = _steps(config)
    ends = [*(step["value"] for step in steps[1:]), high]
    starts = [low, *ends[:-1]]
    for step, start, end in zip(steps, starts, ends, strict=True):
        axes.add_patch(
            Wedge((0, 0), 1.12, angle(end), angle(start), width=0.06, color=look.COLORS[step["color"]])
        )
    axes.add_patch(Wedge((0, 0), 1.02, -30, 210, width=0.28, color="#e9eaeb"))
    color = color_of(value, steps)
    axes.add_patch(Wedge((0, 0), 1.02, angle(value), 210, width=0.28, color=color))
    axes.text(0, -0.05, shown(value, config.get("unit", "short"), config.get("decimals")), fontsize=17, weight="bold", color=color,
              ha="center", va="center")  # fmt: skip


def rows(figure: Any, box: Box, panel: Panel, frames: list[Frame]) -> None:
    """A table: as many rows and columns as there is room for."""
    frame = frames[0]
    names = _order(panel, frame)
    titles = {name: _renamed(panel).get(name, name) for name in names}
    values = {name: frame.columns[name] for name in names}
    overrides = {item["matcher"]["options"]: {p["id"]: p["value"] for p in item["properties"]}
                 for item in panel["fieldConfig"]["overrides"]}  # fmt: skip
    most = int((box.h - 62) / ROW_PX)
    texts = {
        name: [_cell(value, overrides.get(titles[name], {})) for value in column[:most]]
        for name, column in values.items()
    }
    wanted = {name: max([len(titles[name]), *map(len, column)]) + 2 for name, column in texts.items()}
    room, x = (box.w - 24) / 5.7, 12.0
    share = min(1.6, room / sum(min(w, 44) for w in wanted.values()))
    for name in names:
        letters = min(wanted[name], 44) * share
        width = letters * 5.7
        figure.text(
            *box.point(x, 46),
            titles[name][: int(letters)],
            fontsize=7.5,
            weight="bold",
            color=look.COLORS["blue"],
        )
        for i, text in enumerate(texts[name]):
            _put(
                figure,
                box,
                x,
                52 + i * ROW_PX,
                width,
                text,
                letters,
                values[name][i],
                overrides.get(titles[name], {}),
            )
        x += width


def _order(panel: Panel, frame: Frame) -> list[str]:
    options = _organized(panel)
    hidden, index = options.get("excludeByName", {}), options.get("indexByName", {})
    return sorted(
        (name for name in frame.columns if not hidden.get(name)),
        key=lambda name: index.get(name, 99) if index else 0,
    )


def _organized(panel: Panel) -> Mapping[str, Any]:
    found = [item["options"] for item in panel.get("transformations", []) if item["id"] == "organize"]
    return found[0] if found else {}


def _renamed(panel: Panel) -> Mapping[str, str]:
    found: Mapping[str, str] = _organized(panel).get("renameByName", {})
    return found


def _cell(value: Any, override: Mapping[str, Any]) -> str:
    if isinstance(value, datetime):
        return f"{value:%m-%d %H:%M:%S}"
    if isinstance(value, int | float) and "unit" not in override:
        return f"{value:.15g}" if float(value).is_integer() else f"{value:.4g}"
    return shown(value, override.get("unit", "short"), override.get("decimals"), None)


def _put(
    figure: Any,
    box: Box,
    x: float,
    y: float,
    width: float,
    text: str,
    letters: float,
    value: Any,
    override: Mapping[str, Any],
) -> None:
    from matplotlib.patches import Rectangle

    ink = look.COLORS["blue"] if "links" in override else look.TEXT
    if "thresholds" in override and isinstance(value, int | float):
        color = color_of(float(value), override["thresholds"]["steps"])
        left, bottom, w, h = box.part(x - 2, y, box.w - x - width + 5, box.h - y - ROW_PX + 1)
        figure.add_artist(Rectangle((left, bottom), w, h, facecolor=color, edgecolor="none"))
        ink = "white"
    fits = text if len(text) <= letters else text[: max(1, int(letters) - 1)] + "…"
    figure.text(*box.point(x + 2, y + ROW_PX / 2), fits, fontsize=7.5, color=ink, va="center")


def bars(figure: Any, box: Box, panel: Panel, frames: list[Frame]) -> None:
    """Bars side by side over the table's column `xField`."""
    columns = frames[0].columns
    x_name = panel["options"]["xField"]
    labels, numbers = columns[x_name], {name: values for name, values in columns.items() if name != x_name}
    said: dict[str, dict[str, Any]] = {}
    for item in panel["fieldConfig"]["overrides"]:
        said.setdefault(item["matcher"]["options"], {}).update(
            {one["id"]: one["value"] for one in item["properties"]}
        )
    apart = {name for name, values in said.items() if values.get("custom.axisPlacement") == "right"}
    axes = figure.add_axes(box.part(62, 34, 46 if apart else 16, 54))
    right = axes.twinx() if apart else axes
    width = 0.8 / len(numbers)
    for place, ((name, values), color) in enumerate(zip(numbers.items(), look.SERIES, strict=False)):
        at = [i + (place - (len(numbers) - 1) / 2) * width for i in range(len(labels))]
        fixed = said.get(name, {}).get("color", {}).get("fixedColor", "")
        (right if name in apart else axes).bar(
            at,
            [float(value or 0) for value in values],
            width,
            label=name,
            color=look.COLORS.get(fixed, color),
        )
    each = math.ceil(len(labels) / 12)
    axes.set_xticks(range(0, len(labels), each), labels[::each], fontsize=7)
    axes.xaxis.grid(visible=False)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, _defaults(panel).get("unit", "short")))
    if apart:
        right.grid(visible=False)
        right.set_ylabel(", ".join(sorted(apart)), fontsize=7)
    handles = [
        handle for one in dict.fromkeys((axes, right)) for handle in one.get_legend_handles_labels()[0]
    ]
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(-0.02, -24 / max(box.h - 88, 1)),
        frameon=False,
        fontsize=7,
        ncols=4,
        borderaxespad=0,
    )


def spread(figure: Any, box: Box, panel: Panel, frames: list[Frame]) -> None:
    """A histogram."""
    config, bucket = _defaults(panel), panel["options"]["bucketSize"]
    values = [value for column in frames[0].columns.values() for value in column if value is not None]
    first, last = math.floor(min(values) / bucket), math.floor(max(values) / bucket) + 1
    axes = figure.add_axes(box.part(62, 34, 16, 36))
    axes.hist(values, [bucket * i for i in range(first, last + 1)], color=look.SERIES[0], rwidth=0.92)
    axes.xaxis.set_major_formatter(lambda value, _: shown(value, config.get("unit", "short")))
    axes.yaxis.set_major_locator(_locator(5))


def timeline(figure: Any, box: Box, panel: Panel, frames: list[Frame]) -> None:
    """States as coloured bars."""
    mdates = _dates()
    colors = {value: result.get("color", "blue") for mapping in _defaults(panel).get("mappings", [])
              for value, result in mapping["options"].items()}  # fmt: skip
    words = _words(_defaults(panel))
    label_px = min(150, 12 + 5 * max(len(frame.name) for frame in frames))
    axes = figure.add_axes(box.part(label_px + 10, 34, 16, 48))
    for place, frame in enumerate(frames):
        times, values = frame.columns["time"], frame.columns["value"]
        step = (times[-1] - times[0]).total_seconds() / 86400 / max(len(times) - 1, 1)
        for time, value in zip(times, values, strict=True):
            color = look.COLORS[colors.get(f"{value:g}", "gray")]
            axes.barh(
                place,
                step,
                left=mdates.date2num(time),
                height=0.7,
                color=color,
                edgecolor=color,
                linewidth=0.4,
            )
    axes.set_yticks(range(len(frames)), [frame.name[-24:] for frame in frames], fontsize=7)
    axes.invert_yaxis()
    axes.xaxis_date()
    axes.xaxis.set_major_formatter(
        mdates.ConciseDateFormatter(axes.xaxis.get_major_locator(), show_offset=False)
    )
    shares = "   ".join(f"■ {word}" for word in words.values())
    figure.text(*box.point(12, box.h - 12), shares, fontsize=7.5, color=look.DIM)


DRAWERS: dict[str, Callable[[Any, Box, Panel, list[Frame]], None]] = {
    "timeseries": lines, "stat": number, "gauge": dial, "table": rows, "barchart": bars, "histogram": spread, "state-timeline": timeline,
}  # fmt: skip
"""By the type of the panel."""
