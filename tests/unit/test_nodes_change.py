"""The `change` node: set, change, delete and move, in messages and contexts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import START_S, Bench, batch_is_one_by_one, msg, refused
from voltflow.flow.properties import UNDEFINED, as_object
from voltflow.message import Msg


def set_(p: str, to: Any, tot: str = "str", pt: str = "msg", **more: Any) -> dict[str, Any]:
    return {"t": "set", "p": p, "pt": pt, "to": to, "tot": tot, **more}


def change(
    p: str, from_: str, to: str, fromt: str = "str", tot: str = "str", pt: str = "msg"
) -> dict[str, Any]:
    return {"t": "change", "p": p, "pt": pt, "from": from_, "fromt": fromt, "to": to, "tot": tot}


def move(p: str, to: str, pt: str = "msg", tot: str = "msg") -> dict[str, Any]:
    return {"t": "move", "p": p, "pt": pt, "to": to, "tot": tot}


def delete(p: str, pt: str = "msg") -> dict[str, Any]:
    return {"t": "delete", "p": p, "pt": pt}


def changed(before: Msg, *rules: dict[str, Any], **options: Any) -> dict[str, Any]:
    """All of a message behind the rules."""
    [made] = Bench("change", rules=list(rules), **options)(before)
    found = as_object(made)
    del found["_msgid"]
    return found


# -- set ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "tot", "expected"),
    [
        ("hello", "str", "hello"),
        ("12.5", "num", 12.5),
        ("10", "num", 10),
        ("true", "bool", True),
        ("false", "bool", False),
        ('{"a":[1]}', "json", {"a": [1]}),
        ("[104,105]", "bin", b"hi"),
        ('"hi"', "bin", b"hi"),
        ("", "date", int(START_S * 1000)),
        ("iso", "date", "2023-11-14T22:13:20.000Z"),
        ("other.x[1]", "msg", "b"),
        ("other['x'][msg.at]", "msg", "a"),
        ("kept.y", "flow", [7]),
        ("none", "global", None),
        ("SITE", "env", "depot"),
        ("${SITE}/1", "env", "depot/1"),
        ("$sum([1,2]) + at", "jsonata", 3),
    ],
)
def test_set_to_each_type(to: str, tot: str, expected: Any) -> None:
    before = msg("old", other={"x": ["a", "b"]}, at=0)
    options = dict(flow={"kept": {"y": [7]}}, env={"SITE": "depot"})
    assert changed(before, set_("payload", to, tot), **options)["payload"] == expected


def test_set_makes_what_is_missing_on_the_way() -> None:
    assert changed(msg(None), set_("payload.a.b[1].c", "x"))["payload"] == {"a": {"b": [None, {"c": "x"}]}}
    assert changed(msg({}), set_("a.b", "5", "num"))["a"] == {"b": 5}


def test_original_message_and_values_that_were_set_stay_as_they_are() -> None:
    shared = {"list": [1]}
    before = msg({"a": shared})
    assert changed(before, set_("b", "payload.a", "msg", dc=True), set_("b.list[0]", "2", "num")) == {
        "topic": "", "payload": {"a": {"list": [1]}}, "b": {"list": [2]},
    }  # fmt: skip
    assert before.payload == {"a": {"list": [1]}}


def test_set_to_what_is_not_there_deletes() -> None:
    before = msg({"a": 1}, kept=1)
    assert changed(before, set_("kept", "none", "msg")) == {"topic": "", "payload": {"a": 1}}
    assert changed(before, set_("payload.a", "payload.none", "msg"))["payload"] == {}
    assert changed(before, set_("kept", "none", "flow")) == {"topic": "", "payload": {"a": 1}}
    assert changed(before, set_("payload.a", "none", "jsonata"))["payload"] == {}
    assert changed(before, set_("payload.a", "null", "jsonata"))["payload"] == {"a": None}


def test_set_to_what_cannot_be_there_does_nothing() -> None:
    assert changed(msg({"a": 1}), set_("payload.a", "none.deeper", "msg"))["payload"] == {"a": 1}


def test_topic_is_always_a_text() -> None:
    assert changed(msg(1), set_("topic", "payload", "msg"))["topic"] == "1"
    assert changed(msg(2.0), set_("topic", "payload", "msg"))["topic"] == "2"
    assert changed(msg({"a": True}), set_("topic", "payload", "msg"))["topic"] == '{"a":true}'
    assert changed(msg(1, "t"), delete("topic"))["topic"] == ""


def test_what_cannot_be_set_stays_and_the_badge_says_so() -> None:
    bench = Bench("change", rules=[set_("payload.a", "x"), set_("more", "y")])
    [made] = bench(msg(5))
    assert (made.payload, made.props) == (5, {"more": "y"})
    assert bench.node.badge == {
        "fill": "yellow", "shape": "ring", "text": "'payload.a' cannot be set: a int has no property 'a'",
    }  # fmt: skip


def test_dynamic_name_that_is_not_there_sets_nothing() -> None:
    assert changed(msg({"a": 1}), set_("payload[msg.key]", "x"))["payload"] == {"a": 1}
    assert changed(msg({"a": 1}, key="b"), set_("payload[msg.key]", "x"))["payload"] == {"a": 1, "b": "x"}
    assert changed(msg({"a": 1}), set_("payload[0]", "x"))["payload"] == {"a": 1, "0": "x"}


# -- change -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "rule", "expected"),
    [
        ("Hello World!", change("payload", "Hello", "Goodbye"), "Goodbye World!"),
        ("a.b.c", change("payload", ".", "/"), "a/b/c"),
        ("a+b", change("payload", "a+b", "5", tot="num"), 5),
        ("xa+b", change("payload", "a+b", "5", tot="num"), "x5"),
        ("12 34", change("payload", r"(\d)(\d)", "$2$1", "re"), "21 43"),
        ("12", change("payload", r"(?<a>\d)", "[$<a>$$]", "re"), "[1$][2$]"),
        ("ab", change("payload", "b$", "$&$&", "re"), "abb"),
        ("abc", change("payload", "B", "x", "re"), "abc"),
        ("Change 10", change("payload", "10", "x", "num"), "Change x"),
        ("10", change("payload", "10", "true", "num", "bool"), True),
        (10, change("payload", "10", "x", "num"), "x"),
        (10, change("payload", "10", "x"), 10),
        (11, change("payload", "10", "x", "num"), 11),
        (True, change("payload", "true", "yes", "bool"), "yes"),
        (False, change("payload", "true", "yes", "bool"), False),
        ("it is true", change("payload", "true", "so", "bool"), "it is so"),
        ("abc", change("payload", "needle", "x", "msg"), "axc"),
        ("abc", change("payload", "needles.n", "x", "flow"), "xbc"),
        ("abc", change("payload", "b", "payload", tot="msg"), "aabcc"),
        ("a b", change("payload", "LETTER", "x", "env"), "x b"),
        ({"a": "b"}, change("payload", "b", "x"), {"a": "b"}),
        (None, change("payload", "b", "x"), None),
    ],
)
def test_change(payload: Any, rule: dict[str, Any], expected: Any) -> None:
    before = msg(payload, needle="b")
    found = changed(before, rule, flow={"needles": {"n": "a"}}, env={"LETTER": "a"})["payload"]
    assert (found, type(found)) == (expected, type(expected))


def test_change_looks_for_the_type_of_a_message_property() -> None:
    rule = change("payload", "needle", "x", "msg")
    assert changed(msg(7, needle=7), rule)["payload"] == "x"
    assert changed(msg("7", needle=7), rule)["payload"] == "7"
    assert changed(msg(True, needle=True), rule)["payload"] == "x"


def test_change_with_nothing_to_look_for_says_so_and_goes_on() -> None:
    bench = Bench("change", rules=[change("payload", "needle", "x", "msg")])
    assert bench.payloads(msg("abc")) == ["abc"]
    assert bench.node.badge["text"] == "what to look for is not there"


# -- delete and move ----------------------------------------------------------------------------------------------


def test_delete() -> None:
    before = msg({"a": 1, "list": [1, 2, 3]}, "t", more=1)
    assert changed(before, delete("payload.a"), delete("payload.list[1]"), delete("more")) == {
        "topic": "t", "payload": {"list": [1, 3]},
    }  # fmt: skip
    assert changed(before, delete("payload"))["payload"] is None
    assert changed(before, delete("none.at.all"))["payload"] == before.payload


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (move("payload", "other"), {"payload": None, "other": {"a": {"b": 1}}}),
        (move("payload.a", "payload"), {"payload": {"b": 1}}),
        (move("payload.a.b", "payload.a"), {"payload": {"a": 1}}),
        (move("payload", "payload.inner"), {"payload": {"inner": {"a": {"b": 1}}}}),
        (move("payload.a.b", "topic"), {"payload": {"a": {}}, "topic": "1"}),
        (move("payload", "payload"), {"payload": {"a": {"b": 1}}}),
        (move("payload.none", "payload.a"), {"payload": {}}),
        (move("none.at.all", "payload.a"), {"payload": {"a": {"b": 1}}}),
        (move("payload", "topic.x"), {"payload": {"a": {"b": 1}}}),
    ],
)
def test_move(rule: dict[str, Any], expected: dict[str, Any]) -> None:
    assert changed(msg({"a": {"b": 1}}), rule) == {"topic": "", **expected}


# -- contexts -----------------------------------------------------------------------------------------------------


def test_rules_work_on_contexts_too() -> None:
    bench = Bench(
        "change",
        flow={"state": {"P1": "on", "P2": "on"}, "old": 1},
        rules=[
            set_("seen[msg.topic].last", "payload", "msg", "flow"),
            change("state[msg.topic]", "on", "off", pt="flow"),
            delete("state.P2", "flow"),
            set_("total", "$flowContext('seen.P1.last') + 1", "jsonata", "global"),
            move("old", "payload", "flow", "msg"),
            set_("#:(file)::stored", "x", "str", "flow"),
        ],
    )
    assert bench.payloads(msg(41, "P1")) == [1]
    assert bench.flow.get("seen") == {"P1": {"last": 41}}
    assert bench.flow.get("state") == {"P1": "off"}
    assert bench.flow.get("old") is None
    assert bench.flow.get("stored") == "x"
    assert bench.everywhere.get("total") == 42


def test_move_that_cannot_be_done_leaves_the_context_as_it_was() -> None:
    bench = Bench("change", flow={"kept": 1}, rules=[move("kept", "payload.a", "flow")])
    assert bench.payloads(msg("text")) == ["text"]
    assert bench.flow.get("kept") == 1


COUNT = [
    set_("count", "$flowContext('count') + 1", "jsonata", "flow"),
    set_("payload", "$number(payload)", "jsonata"),
]


def test_message_that_fails_changes_no_context_and_does_not_let_others_count_twice() -> None:
    """The engine halves a batch with a bad message: what its first half had set was set already."""
    msgs = [msg(value) for value in ("1", "2", "x", "4", "x", "6")]
    found = batch_is_one_by_one("change", msgs, rules=COUNT, flow={"count": 0})
    assert [made["payload"] for made in found["ports"][0]] == [1, 2, 4, 6]
    assert found["flow"] == {"count": 4}
    assert len(found["errors"]) == 2


def test_value_that_a_context_cannot_keep_fails_the_message() -> None:
    found = batch_is_one_by_one("change", [msg(b"x"), msg(1)], rules=[set_("a", "payload", "msg", "flow")])
    assert [made["payload"] for made in found["ports"][0]] == [1]
    assert "ContextError: flow tab context: 'a' cannot be kept as JSON" in found["errors"][0][1]


# -- flows of old, wrong rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "payload"),
    [
        (dict(action="replace", property="payload", to="new"), "new"),
        (dict(action="replace", property="payload", to="msg.other"), "else"),
        (dict(action="change", property="payload", to="x", **{"from": "a.", "reg": True}), "xc"),
        (dict(action="change", property="payload", to="x", **{"from": "a.", "reg": False}), "abc"),
        (dict(action="delete", property="payload"), None),
        (dict(action="move", property="other", to="payload"), "else"),
    ],
)
def test_flow_of_old_has_one_rule_as_properties(old: dict[str, Any], payload: Any) -> None:
    assert Bench("change", **old).payloads(msg("abc", other="else")) == [payload]


def test_rule_without_types_is_of_message_and_text() -> None:
    rules = [{"t": "set", "p": "payload", "to": "5"}, {"t": "set", "p": "a", "to": "msg.payload"}]
    assert changed(msg(1), *rules) == {"topic": "", "payload": "5", "a": "5"}


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"t": "swap", "p": "a"}, "(swap): there is no such rule; there are set, change, delete, move"),
        (set_("a..b", "x"), "(set): p: 'a..b' is not a property: a name is missing at position 3"),
        (set_("a", "x", "num"), "(set): to: 'x' is not a number"),
        (set_("a", "{", "json"), "(set): to: '{' is not JSON: "),
        (set_("a", "a +", "jsonata"), "(set): to: 'a +' is not a JSONata expression: "),
        (set_("a", "x", "text"), "(set): tot is 'text', allowed are msg, flow, global, str, "),
        (set_("a", "x", pt="env"), "(set): pt is 'env', allowed are msg, flow, global"),
        (move("a", "b", tot="str"), "(move): tot is 'str', allowed are msg, flow, global"),
        (change("a", "(", "b", "re"), "(change): '(' is not a regular expression: "),
        (change("a", "x", "b", "jsonata"), "(change): fromt is 'jsonata', allowed are str, num, bool, re, "),
    ],
)
def test_wrong_rule_is_named(rule: dict[str, Any], problem: str) -> None:
    assert refused("change", rules=[delete("x"), rule]).startswith(f'property "rules": rule 2 {problem}')


RULES = st.sampled_from(
    [
        set_("payload", "other", "msg"), set_("payload.a", "1", "num"), set_("other", "$string(payload)", "jsonata"),
        set_("n", "payload", "msg", "flow"), set_("payload", "n", "flow"), move("payload", "other.x"),
        move("n", "payload", "flow"), change("payload", "a", "x"), change("n", "a", "other", tot="msg", pt="flow"),
        delete("payload.a"), set_("payload", "$number(payload)", "jsonata"), delete("n", "flow"),
    ]
)  # fmt: skip
VALUES = st.sampled_from([1, "a", "1", None, {"a": "a"}, [1], True])
MESSAGES = st.builds(
    lambda payload, other: msg(payload, **({} if other is UNDEFINED else {"other": other})),
    VALUES,
    VALUES | st.just(UNDEFINED),
)


@given(st.lists(MESSAGES, max_size=5), st.lists(RULES, min_size=1, max_size=4))
def test_batch_is_one_by_one(msgs: list[Msg], rules: list[dict[str, Any]]) -> None:
    batch_is_one_by_one("change", msgs, rules=rules, flow={"n": "banana"})
