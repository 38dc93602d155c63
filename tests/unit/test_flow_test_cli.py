"""`voltflow flow test`: cases beside a flow, what is told of those that fail, and for a build server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from voltflow.cli import main
from voltflow.lab import cases as flow_cases
from voltflow.lab.cases_cli import junit
from voltflow.lab.match import MatchError, differences

FLOW = [
    {"id": "b", "type": "mqtt-broker"},
    {"id": "in", "type": "mqtt in", "name": "readings", "topic": "t/#", "broker": "b", "datatype": "json", "wires": [["hot"]]},
    {"id": "hot", "type": "switch", "property": "payload.c", "rules": [{"t": "gte", "v": "45", "vt": "num"}, {"t": "else"}],
     "outputs": 2, "wires": [["out"], []]},
    {"id": "out", "type": "mqtt out", "name": "alerts", "broker": "b", "wires": []},
    {"id": "late", "type": "delay", "pauseType": "delay", "timeout": "24", "timeoutUnits": "hours", "wires": [["out"]]},
    {"id": "log", "type": "file", "filename": "log.csv", "wires": [["read"]]},
    {"id": "read", "type": "file in", "filename": "a/names.txt", "format": "utf8", "wires": [["out"]]},
    {"id": "press", "type": "inject", "payload": "1", "payloadType": "num", "wires": [["out"]]},
]  # fmt: skip


def cases(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"cases": [{"name": f"case {number}", **item} for number, item in enumerate(items, 1)], **more}


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """`told(cases(…), options…)`: exit code and the lines that were told, without times."""

    def run(tests: dict[str, Any], *options: str) -> tuple[int, list[str]]:
        (tmp_path / "flows.json").write_text(json.dumps(FLOW))
        (tmp_path / "flows.test.json").write_text(json.dumps(tests))
        capsys.readouterr()
        code = main(["flow", "test", str(tmp_path / "flows.json"), *options])
        out = capsys.readouterr()
        return code, [
            line.split(" (")[0] for line in (out.out + out.err).replace(f"{tmp_path}/", "").splitlines()
        ]

    return run


HOT = {"in": [{"to": "readings", "msg": {"topic": "t/1", "payload": {"c": 47.5, "pack": "P1"}}}]}


def test_case_that_holds(told: Any) -> None:
    out = {
        "alerts": [{"topic": "t/1", "payload": {"c": 47.5}}],
        "hot#1": {"count": 1},
        "hot#2": "none",
        "in->hot": {"count": 1},
    }
    assert told(cases({**HOT, "out": out})) == (0, ["flows.test.json", "  ok    case 1", "1 of 1 passed"])


def test_day_of_delay_is_waited_for_at_once(told: Any) -> None:
    entry = {"to": "late", "at_s": 60, "msg": {"payload": 1}}
    assert told(cases({"in": [entry], "out": {"alerts": [{"at_s": 86460, "payload": 1}]}}))[0] == 0


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ({"alerts": [{"payload": {"c": 48}}]}, ["alerts: message 1 at 0 s: payload.c: expected 48, is 47.5"]),
        ({"alerts": "none"}, ["alerts: expected no message, came:",
                              '    at 0 s: {"topic": "t/1", "payload": {"c": 47.5, "pack": "P1"}}']),
        ({"hot#2": [{"payload": 1}]}, ["hot#2: expected 1 message, came none"]),
        ({"alerts": [{"at_s": 5, "payload": {"x": 1}}]},
         ["alerts: message 1 at 0 s: at_s: expected 5, is 0.0", "alerts: message 1 at 0 s: payload.x: expected 1, is not there"]),
        ({"alerts": {"count": 2, "each": {"topic": "u"}, "first": {"topic": "v"}, "last": {"topic": "t/1"}}},
         ["alerts: expected 2 messages, came 1:", '    at 0 s: {"topic": "t/1", "payload": {"c": 47.5, "pack": "P1"}}',
          'alerts: message 1 at 0 s: topic: expected "u", is "t/1"', 'alerts: first: topic: expected "v", is "t/1"']),
        ({"hot#2": {"first": {"payload": 1}}}, ['hot#2: first: expected {"payload": 1}, came none']),
        ({"alerts": {"contains": [{"topic": "t/1"}, {"topic": "t/1"}]}},
         ['alerts: none is like {"topic": "t/1"} after the 1 before it:',
          '    at 0 s: {"topic": "t/1", "payload": {"c": 47.5, "pack": "P1"}}']),
        ({"alrts": "none"}, ["node 'alrts' is not in the flow, or disabled; there is alerts"]),
        ({"alerts": [{"payload": {"c": {"$about": 3}}}]},
         ["payload.c: '$about' is nothing that can be expected; there are $near with $within, $any, $absent, $match, $above, $below"]),
    ],
)  # fmt: skip
def test_what_is_not_as_expected_is_told(told: Any, out: dict[str, Any], expected: list[str]) -> None:
    code, lines = told(cases({**HOT, "out": out}))
    assert (code, lines[1], [line.removeprefix("        ") for line in lines[2:-1]]) == (
        1,
        "  FAIL  case 1",
        expected,
    )


def test_dead_letter_that_no_case_names_fails_it(told: Any) -> None:
    bad = {"in": [{"to": "in", "msg": {"topic": "t", "payload": "{"}}]}
    code, lines = told(cases(bad, {**bad, "dead": "any"}, {**bad, "dead": [{"node": "in", "error": "truncated", "topic": "t"}]},
                             {**bad, "dead": [{"error": "other"}]}))  # fmt: skip
    assert (code, lines[1:]) == (1, [
        "  FAIL  case 1", "        expected no dead letter, came 1:",
        "            in: DecodeError: Input data was truncated",
        "  ok    case 2", "  ok    case 3", "  FAIL  case 4",
        '        dead letter 1: error: expected "other", is "DecodeError: Input data was truncated"', "2 of 4 passed",
    ])  # fmt: skip


def test_messages_are_made_of_others_and_repeated(told: Any) -> None:
    entry = {
        "to": "in",
        "like": "reading",
        "msg": {"payload": {"c": 40}},
        "repeat": 10,
        "every_s": 60,
        "add": {"payload.c": 1},
    }
    tests = cases(
        {"in": [entry], "out": {"alerts": {"count": 5, "first": {"at_s": 300, "payload": {"c": 45, "pack": "P1"}},
                                           "last": {"at_s": 540, "payload": {"c": 49}}}}},
        messages={"reading": {"topic": "t/1", "payload": {"c": 20, "pack": "P1"}}},
    )  # fmt: skip
    assert told(tests)[0] == 0


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"to": "in", "like": "readin"}, '"like": \'readin\' is not in "messages"; there are: reading'),
        ({"to": "in", "like": "reading", "repeat": 2, "add": {"payload.pack": 1}},
         '"add": \'payload.pack\' is "P1" in the message, no number'),
        ({"to": "in"}, "'in' is a mqtt in, which has no button: give it a message"),
        ({"to": "in", "like": "reading", "at_s": 20}, 'a message comes at 20 s, after "until_s": 10'),
    ],
)  # fmt: skip
def test_case_that_is_written_wrongly_fails_with_the_reason(
    told: Any, entry: dict[str, Any], error: str
) -> None:
    tests = cases({"in": [entry], "until_s": 10}, messages={"reading": {"payload": {"pack": "P1"}}})
    assert told(tests)[1][2] == f"        {error}"


def test_button_tolerance_and_badge(told: Any) -> None:
    tests = cases(
        {
            "in": [{"to": "press", "at_s": 3}],
            "out": {"alerts": [{"at_s": 3, "payload": 1}]},
            "badge": {"hot": "none"},
        },
        {**HOT, "out": {"alerts": [{"payload": {"c": 47.4}}]}, "tolerance": 0.2},
        {**HOT, "out": {"alerts": [{"payload": {"c": 47.4}}]}},
        {**HOT, "badge": {"hot": {"text": "x"}}},
    )
    assert [line for line in told(tests)[1] if "case" in line or "badge" in line] == [
        "  ok    case 1", "  ok    case 2", "  FAIL  case 3", "  FAIL  case 4",
        '        hot: badge: text: expected "x", is not there',
    ]  # fmt: skip


def test_files_that_nodes_read_and_write(told: Any) -> None:
    given = {"in": [{"to": "log", "msg": {"payload": "1;2"}}], "files": {"a/names.txt": "north"}}
    read = {"out": {"alerts": [{"payload": "north"}]}}
    tests = cases(
        {**given, **read, "written": {"log.csv": "1;2\n", "other.csv": "none", "a/names.txt": {"$match": "north"}}},
        {**given, "written": {"log.csv": "1;2", "other.csv": ""}},
        {**given, "written": {"log.csv": "none", "../log.csv": ""}},
        {**given, "files": {"../names.txt": ""}},
    )  # fmt: skip
    code, lines = told(tests)
    assert (code, lines[1]) == (1, "  ok    case 1")
    assert lines[2:-1] == [
        "  FAIL  case 2",
        '        log.csv: it: expected "1;2", is "1;2\\n"',
        "        other.csv: there is no such file",
        "  FAIL  case 3",
        lines[6],
        "  FAIL  case 4",
        lines[8],
    ]
    assert lines[6].startswith("        '../log.csv' is not below ")
    assert lines[8].startswith("        '../names.txt' is not below ")


def test_only_cases_of_a_name(told: Any) -> None:
    assert told(cases(HOT, HOT), "-k", "CASE 2")[1] == ["flows.test.json", "  ok    case 2", "1 of 1 passed"]
    assert told(cases(HOT), "-k", "x") == (2, ["flows.test.json", "voltflow: no case has 'x' in its name"])


def test_junit(told: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.xml"
    told(cases(HOT, {**HOT, "out": {"alerts": "none"}}), "--junit", str(file))
    suite = ET.fromstring(file.read_bytes())[0]
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "1")
    failure = suite[1].find("failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("alerts: expected no message, came:")


def test_junit_of_what_xml_cannot_say() -> None:
    data = junit([flow_cases.Result(Path("f"), "n", ["a\x00b"])])
    assert ET.fromstring(data)[0][0][0].text == "a�b"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"cases": [{"nam": "x"}]}', "Object contains unknown field `nam` - at `$.cases[0]`"),
        ('{"cases": [{"name": "x", "in": [{"to": "a", "at_s": -1}]}]}', "Expected `float` >= 0.0 - at `$.cases[0].in[0].at_s`"),
        ("{", "Input data was truncated"),
        ('{"cases": [{"name": "x"}, {"name": "x"}]}', "two cases are called 'x'"),
        ('{"cases": [], "flow": "other.json"}', 'there is no DIR/other.json; name the flow file in "flow"'),
        ('{"cases": []}', None),
    ],
)  # fmt: skip
def test_file_that_cannot_be_used(
    text: str, error: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flows.test.json"
    file.write_text(text)
    (tmp_path / "flows.json").write_text("[]")
    assert main(["flow", "test", str(tmp_path)]) == 2
    expected = f"{file}: {error}" if error else "there are no cases"
    assert capsys.readouterr().err.replace(f"{tmp_path}/other", "DIR/other") == f"voltflow: {expected}\n"


def test_flow_without_cases_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flow", "test", str(tmp_path / "flows.json")]) == 2
    assert "flows.test.json; voltflow flow test --help shows what to write in it" in capsys.readouterr().err
    assert main(["flow", "test", str(tmp_path)]) == 2
    assert "there is no *.test.json in this folder" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["flow", "test", "--help"])
    text = capsys.readouterr().out
    named = {field.encode_name for field in flow_cases.msgspec.structs.fields(flow_cases.Case)} - {
        "name",
        "env",
        "tolerance",
    }
    assert [name for name in sorted(named) if f'"{name}"' not in text] == []
    assert "Exit code: 0 all passed, 1 a case did not, 2 a file cannot be used." in text


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(flow_cases.json_schema())


# -- what is like what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "actual", "found"),
    [
        (1, 1.0, []), (1, True, ["it: expected 1, is true"]), ("1", 1, ['it: expected "1", is 1']), (None, None, []),
        ({}, {"a": 1}, []), ({"a": {}}, {"a": 1}, ["a: expected {}, is 1"]), ({"a": None}, {}, ["a: expected null, is not there"]),
        ([1, 2], [1, 3], ["[1]: expected 2, is 3"]), ([1], [1, 2], ["it: expected 1 elements, there are 2: [1, 2]"]),
        ({"a": {"$any": True}}, {"a": 0}, []), ({"a": {"$any": True}}, {}, ["a: expected something, is not there"]),
        ({"a": {"$absent": True}}, {}, []), ({"a": {"$absent": True}}, {"a": 0}, ["a: expected nothing, is 0"]),
        ({"$above": 3, "$below": 4}, 3.5, []), ({"$above": 3, "$below": 4}, 4, ["it: expected below 4, is 4"]),
        ({"$above": 3}, "4", ['it: expected above 3, is "4"']), ({"$match": "^P"}, "xP", ['it: expected text like "^P", is "xP"']),
        ({"$near": 3, "$within": 0.5}, 3.6, ["it: expected 3 ± 0.5, is 3.6"]), ({"$near": 3, "$within": 0.5}, 3.5, []),
        (0.1 + 0.2, 0.3, []), (float("nan"), 1, ["it: expected NaN, is 1"]),
    ],
)  # fmt: skip
def test_differences(expected: Any, actual: Any, found: list[str]) -> None:
    assert differences(expected, actual) == found


@pytest.mark.parametrize("wrong", [{"$match": "("}, {"$match": 3}, {"$above": "x"}, {"$near": 3}])
def test_expectation_that_is_none(wrong: Any) -> None:
    with pytest.raises(MatchError):
        differences(wrong, "text" if "$match" in wrong else 3)
