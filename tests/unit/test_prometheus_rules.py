"""Recording and alert rules: they fire when they should, speak of metrics that there are, and say what to do."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloud.bridge import BridgeSettings
from edge.settings import AgentSettings
from tests import metrics_page
from tests.conftest import do_without
from tests.servers import REPOSITORY, Missing, program
from voltflow.demo.settings import DemoSettings

FOLDER = REPOSITORY / "grafana" / "prometheus"
CASES = sorted(FOLDER.glob("*.test.yml"))
OF_PROMETHEUS = {"up", "ALERTS"}
TARGET_LABELS = {"job", "instance"}
METRIC = re.compile(
    r"(?<![:\w])((?:battery|voltflow|prediction|predictions|model|process)_\w+)\b(\{[^}]*\})?"
)


def _promtool(*arguments: str, folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    try:
        command = [program("promtool", "prometheus"), *arguments]
    except Missing as reason:
        do_without(reason)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, cwd=folder)


@cache
def _rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / file).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _alerts() -> list[dict[str, Any]]:
    return _rules("alerts.yml")


def _asked(path: Path) -> Iterator[tuple[str, bool, dict[str, Any], dict[str, Any]]]:
    """Expression, whether it has an answer, its question and its test, of a file of tests."""
    for test in yaml.safe_load(path.read_text("utf-8"))["tests"]:
        for question in test["promql_expr_test"]:
            yield question["expr"], bool(question.get("exp_samples")), question, test


def _metrics_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Metrics and the labels they are chosen by."""
    for name, chosen in METRIC.findall(re.sub(r"\b(by|on|group_left) *\([^)]*\)", "", expression)):
        yield name, set(re.findall(r"(\w+) *[=!]", chosen))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_rules_do_as_their_tests_say(path: Path) -> None:
    done = _promtool("test", "rules", path.name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_sound() -> None:
    done = _promtool("check", "rules", "recording.yml", "alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len({alert["alert"] for alert in _alerts()}) == len(_alerts())


def test_each_alert_is_tested_when_it_fires_and_when_it_is_quiet() -> None:
    asked = [(expr, answered) for path in CASES for expr, answered, _, _ in _asked(path)]
    for alert in _alerts():
        found = {answered for expr, answered in asked if f'alertname="{alert["alert"]}"' in expr}
        assert found == {True, False}, alert["alert"]


def test_each_recorded_series_is_tested() -> None:
    asked = {expr for path in CASES for expr, answered, _, _ in _asked(path) if answered}
    for rule in _rules("recording.yml"):
        assert any(rule["record"] in expr for expr in asked), rule["record"]


def test_rules_speak_of_metrics_and_labels_that_there_are() -> None:
    known = {name: set(metric.labels) for metric in metrics_page.names().values() for name in metric.series}
    recorded = {rule["record"] for rule in _rules("recording.yml")}
    for rule in (*_rules("recording.yml"), *_alerts()):
        used = list(_metrics_in(rule["expr"]))
        levels = set(re.findall(r"\b\w+:\w+:\w+", rule["expr"]))
        assert levels <= recorded, rule["expr"]
        assert used or levels or "up{" in rule["expr"], rule["expr"]
        for name, labels in used:
            assert name in known, rule["expr"]
            assert labels <= known[name] | TARGET_LABELS, rule["expr"]


def test_tests_feed_metrics_and_labels_that_there_are() -> None:
    """A rule proven with series that nobody exports is not proven."""
    known = {name: set(metric.labels) for metric in metrics_page.names().values() for name in metric.series}
    for path in CASES:
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            for series in test["input_series"]:
                name, labels = re.fullmatch(r"(\w+)\{(.*)\}", series["series"]).groups()  # type: ignore[union-attr]
                own = set(re.findall(r'(\w+)="', labels)) - TARGET_LABELS
                assert name in OF_PROMETHEUS or own == known[name], f"{path.name}: {series['series']}"


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    sections = re.findall(
        r"^### (\w+)\n\n(.+)", (REPOSITORY / "docs" / "alerts.md").read_text(), re.MULTILINE
    )
    assert [title for title, _ in sections] == [alert["alert"] for alert in _alerts()]
    assert all(len(text) > 40 for _, text in sections)
    for alert in _alerts():
        name, annotations = alert["alert"], alert["annotations"]
        assert alert["labels"]["severity"] in {"critical", "warning"}, name
        assert set(annotations) == {"summary", "description", "runbook"}, name
        assert len(annotations["description"]) > 40, name
        assert annotations["runbook"] == f"docs/alerts.md#{name.lower()}"


def test_what_an_alert_says_is_filled_in(tmp_path: Path) -> None:
    """A template that fails, or a label that the expression does not keep, is seen only when the alert fires."""
    summaries = _summaries(tmp_path)
    assert set(summaries) == {alert["alert"] for alert in _alerts()}
    for alert, said in summaries.items():
        for summary in said:
            assert not re.search(r"error expanding|no value|\{\{|  |^[:/ ]|(?<!\w)/|\(\)| :", summary), (
                alert,
                summary,
            )
    assert "gateway gw1:9091 does not answer" in summaries["VoltflowGatewaySilent"]
    assert "depot/V01: cells differ by 200mV" in summaries["BatteryCellSpread"]


def _summaries(folder: Path) -> dict[str, set[str]]:
    """What each alert says in the tests in which it fires: promtool tells it to whoever expects nothing."""
    tests = []
    for path in CASES:
        for expr, answered, question, test in _asked(path):
            if answered and (name := re.search(r'alertname="(\w+)"', expr)):
                asked = {"eval_time": question["eval_time"], "alertname": name[1], "exp_alerts": []}
                tests.append({"interval": test["interval"], "input_series": test["input_series"],
                              "alert_rule_test": [asked]})  # fmt: skip
    files = [str(FOLDER / name) for name in ("recording.yml", "alerts.yml")]
    text = yaml.safe_dump({"rule_files": files, "evaluation_interval": "1m", "tests": tests})
    (folder / "summaries.yml").write_text(text)
    done = _promtool("test", "rules", "summaries.yml", folder=folder)
    found: dict[str, set[str]] = {}
    got = r'alertname="(\w+)".*?Annotations:\{.*?summary="((?:[^"\\]|\\.)*)"'
    for name, summary in re.findall(got, done.stdout + done.stderr, re.DOTALL):
        found.setdefault(name, set()).add(summary)
    return found


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.demo.yml"])
def test_configuration_is_sound(name: str) -> None:
    done = _promtool("check", "config", "--syntax-only", name)
    assert done.returncode == 0, done.stdout + done.stderr
    written = yaml.safe_load((FOLDER / name).read_text())
    assert written["rule_files"] == ["recording.yml", "alerts.yml"]
    assert {job["job_name"] for job in written["scrape_configs"]} == {"agent", "bridge", "prometheus"}
    jobs = {rule_job for rule in _alerts() for rule_job in re.findall(r'job="(\w+)"', rule["expr"])}
    assert jobs == {"agent", "bridge"}


def test_targets_are_where_the_programs_answer() -> None:
    demo, cloud = _targets("prometheus.demo.yml"), _targets("prometheus.yml")
    ports = DemoSettings()
    assert demo["agent"] == [f"127.0.0.1:{ports.agent_metrics_port}"]
    assert demo["bridge"] == [f"127.0.0.1:{ports.bridge_metrics_port}"]
    assert cloud["agent"] == [f"agent:{AgentSettings().metrics_port}"]
    assert cloud["bridge"] == [f"bridge:{BridgeSettings(database='x').metrics_port}"]


def _targets(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for job in yaml.safe_load((FOLDER / name).read_text())["scrape_configs"]:
        files = [
            file
            for each in job.get("file_sd_configs", [])
            for glob in each["files"]
            for file in FOLDER.glob(glob)
        ]
        groups = [
            *job.get("static_configs", []),
            *(group for file in files for group in yaml.safe_load(file.read_text())),
        ]
        found[job["job_name"]] = [target for group in groups for target in group["targets"]]
    return found
