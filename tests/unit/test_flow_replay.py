"""What a change of a flow does to recorded traffic: outputs, alerts and dead letters that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from voltflow.cli import main
from voltflow.flow.flow import Flow
from voltflow.lab.record import Recorded, Writer
from voltflow.lab.replay import filters_of, in_words, replay, run

START_MS = 1_767_225_600_000
ROOT = Path(__file__).parents[2]


def flow(limit: float, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": "b", "type": "mqtt-broker"},
        {"id": "in", "type": "mqtt in", "topic": "t/+", "broker": "b", "datatype": "json", "wires": [["hot"]]},
        {"id": "hot", "type": "switch", "property": "payload.c", "rules": [{"t": "gte", "v": str(limit), "vt": "num"}],
         "wires": [["out"]]},
        {"id": "out", "type": "mqtt out", "name": "hot ones", "broker": "b", "wires": [], **more},
        {"id": "dead", "type": "dead letter", "broker": "b", "wires": []},
    ]  # fmt: skip


def traffic(*temps: float | str, topic: str = "t/1", every_ms: int = 1000) -> list[Recorded]:
    return [
        Recorded(START_MS + number * every_ms, topic, temp.encode() if isinstance(temp, str) else json.dumps({"c": temp}).encode())
        for number, temp in enumerate(temps)
    ]  # fmt: skip


def difference(old: list[dict[str, Any]], new: list[dict[str, Any]], recorded: list[Recorded]) -> list[str]:
    return replay(Flow(old), Flow(new), recorded, {})


def test_flows_that_do_the_same_differ_in_nothing() -> None:
    assert difference(flow(45), flow(45.0), traffic(40, 50)) == []
    same = run(Flow(flow(45)), traffic(40, 50), {})
    assert in_words(same, same) == ["the outputs are the same: 1 messages, 0 dead letters"]


def test_only_topics_of_the_flow_arrive_at_their_times() -> None:
    found = run(Flow(flow(0)), [*traffic(1, 2), *traffic(3, topic="other")], {})
    assert [(output.at_s, output.payload) for output in found.outputs["mqtt out 'hot ones'"]] == [
        (0, {"c": 1}),
        (1, {"c": 2}),
    ]


def test_messages_that_are_gone_or_new_are_shown() -> None:
    assert difference(flow(45), flow(50), traffic(40, 47, 55)) == [
        "mqtt out 'hot ones': 1 only before",
        '  only before  at 1 s t/1: {"c": 47}',
    ]
    assert difference(flow(50), flow(45), traffic(40, 47, 48, 55))[:1] == [
        "mqtt out 'hot ones': 2 only after"
    ]


def test_many_differences_are_counted() -> None:
    lines = difference(flow(50), flow(45), traffic(*([47] * 25)))
    assert (len(lines), lines[-1]) == (12, "  … and 15 more")


def test_message_that_changes_shows_what() -> None:
    change = {"id": "set", "type": "change", "rules": [{"t": "set", "p": "payload.c", "pt": "msg", "to": "1", "tot": "num"}],
              "wires": [["out"]]}  # fmt: skip
    new = [change if item["id"] == "hot" else item for item in flow(0)]
    new[1] = {**new[1], "wires": [["set"]]}
    assert difference(flow(0), new, traffic(47)) == [
        "mqtt out 'hot ones': 1 changed", "  changed      at 0 s t/1: payload.c: 47 → 1",
    ]  # fmt: skip


def test_dead_letters_are_compared_by_what_failed_and_where() -> None:
    text = [{**item, "datatype": "utf8"} if item["id"] == "in" else item for item in flow(0)]
    lines = difference(flow(0), text, traffic("{"))
    assert lines == [
        "dead letters: 1 only before",
        '  only before  at 0 s t/1: "{" (in: DecodeError: Input data was truncated)',
        "dead letter 'dead': 1 only before",
        lines[-1],
    ]


def test_what_nodes_say_of_their_files_is_no_difference() -> None:
    """Both flows run in folders of their own, whose names are in the errors."""
    reading = [
        {"id": "b", "type": "mqtt-broker"},
        {"id": "in", "type": "mqtt in", "topic": "t/+", "broker": "b", "wires": [["read", "write"]]},
        {"id": "read", "type": "file in", "filename": "log.csv", "wires": [["out"]]},
        {"id": "write", "type": "file", "filename": "../log.csv", "wires": [["out"]]},
        {"id": "out", "type": "mqtt out", "broker": "b", "wires": []},
        {"id": "dead", "type": "dead letter", "broker": "b", "wires": []},
    ]
    assert len(run(Flow(reading), traffic(1), {}).dead) == 2
    assert difference(reading, reading, traffic(1)) == []


def test_sink_that_is_new_or_gone_is_shown() -> None:
    new = [{**item, "name": "renamed"} if item["id"] == "out" else item for item in flow(0)]
    assert [line for line in difference(flow(0), new, traffic(1)) if not line.startswith(" ")] == [
        "mqtt out 'hot ones': 1 only before",
        "mqtt out 'renamed': 1 only after",
    ]


def test_alerts_of_the_gateway_have_a_heading_of_their_own() -> None:
    cases = json.loads((ROOT / "edge/flows.test.json").read_text())
    reading = cases["messages"]["reading"]["payload"]
    recorded = [
        Recorded(START_MS + i * 10_000, "ev/v1/depot/P1/telemetry",
                 json.dumps({**reading, "seq": i, "ts_ms": START_MS + i * 10_000, "cell_temp_max_c": 40.0 + i}).encode())
        for i in range(8)
    ]  # fmt: skip
    old = Flow.load(ROOT / "edge/flows.json")
    new = Flow([{**raw, "temp_warning_c": 42} if raw["id"] == "alert" else raw for raw in old.nodes])
    lines = replay(old, new, recorded, {})
    assert lines[0] == "alerts: 1 only before, 1 only after"
    assert [line.split("{")[0] for line in lines[1:3]] == [
        "  only after   at 20 s ev/v1/depot/P1/alert: ", "  only before  at 50 s ev/v1/depot/P1/alert: ",
    ]  # fmt: skip
    assert len(lines) == 3, "the twins are the same"


def test_filters_are_those_of_the_flow_with_its_variables() -> None:
    old = Flow.load(ROOT / "edge/flows.json")
    assert filters_of(old, {}) == [
        "ev/v1/+/+/telemetry", "ev/v1/+/+/state", "ev/v1/+/+/cells", "gw/v1/lab/down",
    ]  # fmt: skip


def test_flow_diff_shows_words_and_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, file = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "traffic.jsonl.gz"
    old.write_text(json.dumps(flow(45)))
    new.write_text(json.dumps(flow(50)))
    with Writer(file, ["t/+"]) as writer:
        for item in traffic(40, 47, 55, every_ms=30_000):
            writer.add(item)
    assert main(["flow", "diff", str(old), str(new), "--replay", str(file)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("changed: switch")
    assert out[-3:] == [
        "replayed 3 messages of 1.0 min:", "mqtt out 'hot ones': 1 only before", '  only before  at 30 s t/1: {"c": 47}',
    ]  # fmt: skip
    assert main(["flow", "diff", str(old), str(old), "--replay", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "both flows give the same"


def test_flow_diff_says_what_it_cannot_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(flow(45)))
    assert (
        main(["flow", "diff", str(old), str(old), "--replay", "last 1h", "--recordings", str(tmp_path)]) == 2
    )
    assert "has no recording: voltflow flow record --follow" in capsys.readouterr().err
