"""README and docs name commands, options, settings and metrics that there are."""

import argparse
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cloud.bridge import BridgeSettings
from edge.settings import AgentSettings
from sim_device.options import Settings as SimSettings
from tests import metrics_page
from tests.servers import REPOSITORY
from voltflow.demo.settings import DemoSettings

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PROGRAMS = {
    "voltflow": "voltflow.cli",
    "edge-agent": "edge.cli",
    "cloud-bridge": "cloud.cli",
    "cloud-train": "cloud.training.cli",
    "sim-device": "sim_device.cli",
}
SETTINGS = {"AGENT": AgentSettings, "BRIDGE": BridgeSettings, "DEMO": DemoSettings, "SIM": SimSettings}
SOURCES = (
    "voltflow",
    "edge",
    "cloud",
    "sim_device",
    "bench",
    "packaging",
    "mosquitto",
    "models",
    "datasets",
    "tests",
)
FOREIGN = {
    "autovacuum_vacuum_cost_limit", "maintenance_work_mem", "acl_file", "max_queued_messages", "synchronous_commit", "credentials_file", "static_configs", "scrape_configs",
}  # fmt: skip
"""Settings of other programs."""


@cache
def words() -> set[str]:
    """Every word with an underscore in the sources, and every metric in the form in which Prometheus gets it."""
    found: set[str] = set()
    for folder in SOURCES:
        for path in (REPOSITORY / folder).rglob("*"):
            if (
                path.suffix in {".py", ".json", ".sql", ".js", ".service", ".conf", ".toml"}
                and "npm" not in path.parts
            ):
                found.update(re.findall(r"\w+_\w+", path.read_text("utf-8", "replace")))
    return found | metrics_page.series_names()


def code(page: Path) -> Iterator[str]:
    """The lines of a page's blocks of code, fenced or indented."""
    fenced = False
    for line in page.read_text("utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()


def commands(page: Path) -> Iterator[list[str]]:
    """The programs' command lines, without what is behind them."""
    for line in code(page):
        line = re.sub(r"^(\.venv/bin/|sudo |export |[A-Z_]+=\S+ )+", "", line)
        line = re.sub(r'^make demo ARGS="(.*?)"', r"voltflow demo \1", line)
        if line.split(" ")[0] in PROGRAMS and not re.match(r"\S+ \S*=", line):
            line = re.split(r" {2,}| #| \|\|? | && | > |…", line)[0]
            yield shlex.split(line)


def complaint(program: str, arguments: list[str]) -> str:
    """What the program has against a command line."""
    parser: argparse.ArgumentParser = importlib.import_module(PROGRAMS[program])._parser()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser.parse_args(arguments)
    except SystemExit:
        return said.getvalue()
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_are_understood(page: Path) -> None:
    for program, *arguments in commands(page):
        assert complaint(program, arguments) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_and_metrics_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for section, name in re.findall(r"VOLTFLOW_(AGENT|BRIDGE|DEMO|SIM)_([A-Z0-9_]+)\b", text):
        assert name.lower() in SETTINGS[section].__struct_fields__, f"{page.name}: VOLTFLOW_{section}_{name}"
    quoted = set(re.findall(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?:`|\{| = )", text))
    assert quoted - words() - FOREIGN == set(), page.name


def test_looking_for_commands_finds_them() -> None:
    found = [" ".join(command[:2]) for page in PAGES for command in commands(page)]
    assert {
        "voltflow ledger",
        "voltflow demo",
        "edge-agent run",
        "cloud-bridge dead",
        "sim-device run",
    } <= set(found)
