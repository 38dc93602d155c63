"""From a result file to tables: on the terminal, and into a page between two marks, never by hand."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from bench.bridge import BridgeResult
from bench.measure import Plan, Result
from bench.systems import NODE, SYSTEMS
from tests import servers

BEGIN, END = "<!-- figures: python -m bench --render FILE -->", "<!-- end of figures -->"
COLUMNS = ("system", "packs", "bytes", "messages/s", "CPU µs/message", "of Node-RED", "of it with buffers", "of bare gmqtt",
           "RSS MB idle → loaded", "ms p50 / p99 / max at 2,000/s", "lost, doubled, failed")  # fmt: skip


class Report(msgspec.Struct, kw_only=True):
    """Everything that was measured in one run; `rounds` of it in rotated order."""

    machine: dict[str, str]
    plan: Plan
    rounds: int
    rig: list[Result] = []
    results: list[Result] = []
    bridge: list[BridgeResult] = []


def machine() -> dict[str, str]:
    """What it was measured on."""
    return {
        "date": _first_line(["date", "-u", "+%Y-%m-%d %H:%M UTC"]),
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "load_before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "mosquitto": _version([servers.program("mosquitto", "mosquitto"), "-h"]),
        "node": _version([str(NODE), "--version"]) if NODE.exists() else "not installed",
        "gmqtt": _package("gmqtt"),
        "onnxruntime": _package("onnxruntime"),
        "numpy": _package("numpy"),
    }


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    return (done.stdout + done.stderr).partition("\n")[0].strip()


def _version(command: list[str]) -> str:
    found = re.search(r"\d+\.\d+\.\d+", _first_line(command))
    return found[0] if found else "unknown"


def _package(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


# -- tables ---------------------------------------------------------------------------------------------------------


def _middle(results: Iterable[Any], value: Callable[[Any], float]) -> float:
    return statistics.median([value(result) for result in results])


def _span(results: list[Any], value: Callable[[Any], float], digits: int = 0) -> str:
    """The median, and the least and the most where there was more than one round."""
    values = [value(result) for result in results]
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def _groups(results: Iterable[Result]) -> dict[tuple[str, int, str], list[Result]]:
    groups: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.system, result.packs, result.payload), []).append(result)
    order = list(SYSTEMS)
    return dict(sorted(groups.items(), key=lambda item: (item[0][2], order.index(item[0][0]), item[0][1])))


def markdown(report: Report) -> str:
    """All tables as Markdown, which reads well on a terminal too."""
    parts = [_machine_text(report)]
    if report.results:
        parts.append(_table(COLUMNS, _system_rows(report)))
    if report.rig:
        parts.append("What load source, broker and sink can do without a system under test:")
        parts.append(
            _table(("rig", "bytes", "messages/s", "broker µs", "source µs", "sink µs"), _rig_rows(report))
        )
    if report.bridge:
        parts.append("The bridge (mqtt in → timescale out) beside bare insert loops on the same PostgreSQL:")
        parts.append(
            _table(("program", "rows/s", "of the best bare loop", "CPU µs/row"), _bridge_rows(report))
        )
    return "\n\n".join(parts) + "\n"


def _machine_text(report: Report) -> str:
    m = report.machine
    return (
        f"{m['date']}: {m['cpu']}, {m['cores']} cores (load average before: {m['load_before']}), {m['system']}. "
        f"Python {m['python']}, mosquitto {m['mosquitto']}, Node.js {m['node']}, gmqtt {m['gmqtt']}, "
        f"ONNX Runtime {m['onnxruntime']}, numpy {m['numpy']}. {report.rounds} round(s) in rotated order, "
        f"{report.plan.seconds:g} s each after {report.plan.warm_up_s:g} s of warming up; median (least–most)."
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    table = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _system_rows(report: Report) -> Iterable[list[str]]:
    groups = _groups(report.results)
    for (name, packs, payload), results in groups.items():
        sound = [result for result in results if not result.error]
        if not sound:
            yield [SYSTEMS[name].title, f"{packs:,}", payload, results[0].error[:60], *[""] * 7]
            continue
        yield [
            SYSTEMS[name].title, f"{packs:,}", str(sound[0].payload_bytes), _span(sound, lambda r: r.messages_s),
            _span(sound, lambda r: r.cpu_us, 1), _ratio(groups, sound, "node-red"), _ratio(groups, sound, "node-red-buffers"),
            _ratio(groups, sound, "bare"),
            f"{_middle(sound, lambda r: r.rss_idle_mb):.0f} → {_middle(sound, lambda r: r.rss_loaded_mb):.0f}",
            _latency(sound), _faults(sound),
        ]  # fmt: skip


def _ratio(groups: dict[tuple[str, int, str], list[Result]], results: list[Result], other: str) -> str:
    """CPU a message over the other's with the same payload."""
    beside = [
        result
        for (name, _, payload), found in groups.items()
        if name == other and payload == results[0].payload
        for result in found
        if not result.error
    ]
    if not beside:
        return "–"
    return f"{_middle(results, lambda r: r.cpu_us) / _middle(beside, lambda r: r.cpu_us):.2f}"


def _latency(results: list[Result]) -> str:
    timed = [result for result in results if result.latency_ms]
    if not timed:
        return "–"
    return " / ".join(f"{_middle(timed, lambda r, i=i: r.latency_ms[i]):.1f}" for i in range(3))  # type: ignore[misc]


def _faults(results: list[Result]) -> str:
    lost = sum(result.missing + result.latency_missing for result in results)
    return f"{lost}, {sum(r.again for r in results)}, {sum(r.dead + r.strange for r in results)}"


def _rig_rows(report: Report) -> Iterable[list[str]]:
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in report.rig:
        groups.setdefault((result.system, result.payload_bytes), []).append(result)
    for (name, size), found in groups.items():
        yield [name, str(size), _span(found, lambda r: r.messages_s), _span(found, lambda r: r.broker_us, 1),
               _span(found, lambda r: r.source_us, 1), _span(found, lambda r: r.sink_us, 1)]  # fmt: skip


def _bridge_rows(report: Report) -> Iterable[list[str]]:
    found = report.bridge
    best = max(_middle(found, lambda r: r.unnest_rows_s), _middle(found, lambda r: r.copy_rows_s))
    unnest, copy = found[0].unnest_batch, found[0].copy_batch
    for name, rate, cpu in (
        (f"cloud-bridge, {found[0].row_bytes}-byte messages", lambda r: r.bridge_rows_s,
         lambda r: r.bridge_cpu_us + r.bridge_database_us),
        (f"bare loop, INSERT … SELECT FROM unnest, {unnest} rows", lambda r: r.unnest_rows_s, lambda r: r.unnest_cpu_us),
        (f"bare loop, COPY, {copy} rows", lambda r: r.copy_rows_s, lambda r: r.copy_cpu_us),
    ):  # fmt: skip
        yield [name, _span(found, rate), f"{_middle(found, rate) / best:.0%}", _span(found, cpu, 0)]


def render(report: Report, page: Path) -> None:
    """Put the tables into the page, between its two marks."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no place for figures: it needs the lines {BEGIN} and {END}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{markdown(report)}\n{END}{after}")
