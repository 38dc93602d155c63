"""The `switch` node: what its rules hold for, and sequences."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.flows import Lab, raw, running, until
from tests.transforms import Bench, batch_is_one_by_one, build, msg, refused
from voltflow.flow.flow import Flow
from voltflow.flow.properties import UNDEFINED
from voltflow.message import Msg
from voltflow.node import Holder
from voltflow.nodelib.switch_rules import is_type


def rule(
    kind: str, v: Any = UNDEFINED, vt: str = "", v2: Any = UNDEFINED, v2t: str = "", **more: Any
) -> dict[str, Any]:
    values = {"t": kind, "v": v, "vt": vt or UNDEFINED, "v2": v2, "v2t": v2t or UNDEFINED, **more}
    return {name: value for name, value in values.items() if value is not UNDEFINED}


def holds(one: dict[str, Any], payload: Any, **props: Any) -> bool:
    """Whether a message passes a switch that has this rule only."""
    [found] = Bench("switch", rules=[one]).ports(msg(payload, **props))
    return bool(found)


# -- one rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "v", "vt", "payload", "expected"),
    [
        ("eq", "Hello", "str", "Hello", True),
        ("eq", "hello", "str", "Hello", False),
        ("eq", "5", "num", 5, True),
        ("eq", "5", "num", "5", True),
        ("eq", "5", "str", 5.0, True),
        ("eq", "5", "str", "5.0", False),
        ("eq", "5", "num", "5.0", True),
        ("eq", "1", "num", True, True),
        ("eq", "true", "str", True, False),
        ("eq", "0", "num", "", True),
        ("eq", "", "str", None, False),
        ("eq", "0", "num", None, False),
        ("eq", "1,2", "str", [1, 2], True),
        ("eq", "[object Object]", "str", {"a": 1}, True),
        ("eq", "hi", "str", b"hi", True),
        ("neq", "5", "num", "5", False),
        ("neq", "5", "num", None, True),
        ("lt", "3", "num", 2, True),
        ("lt", "3", "num", 3, False),
        ("lt", "3", "num", "x", False),
        ("lt", "9", "str", "10", True),
        ("lt", "9", "num", "10", False),
        ("lt", "3", "num", None, True),
        ("lte", "3", "num", 3, True),
        ("lte", "3", "num", "x", False),
        ("gt", "3", "num", 4, True),
        ("gt", "b", "str", "a", False),
        ("gt", "3", "num", "x", False),
        ("gte", "3", "num", "3", True),
        ("cont", "ell", "str", "Hello", True),
        ("cont", "5", "num", 151, True),
        ("cont", "x", "str", {"x": 1}, False),
        ("cont", "2", "str", [1, 2], True),
        ("cont", "null", "str", None, True),
        ("hask", "a", "str", {"a": None}, True),
        ("hask", "b", "str", {"a": 1}, False),
        ("hask", "1", "num", ["x", "y"], True),
        ("hask", "2", "num", ["x", "y"], False),
        ("hask", "a", "str", None, False),
        ("hask", "a", "str", 5, False),
    ],
)
def test_comparison(kind: str, v: Any, vt: str, payload: Any, expected: bool) -> None:
    assert holds(rule(kind, v, vt), payload) is expected


@pytest.mark.parametrize(
    ("low", "high", "payload", "expected"),
    [
        ("3", "5", 4, True),
        ("3", "5", 3, True),
        ("5", "3", 4, True),
        ("3", "5", 6, False),
        ("3", "5", "x", False),
    ],
)
def test_between_takes_its_limits_in_either_order(low: str, high: str, payload: Any, expected: bool) -> None:
    assert holds(rule("btwn", low, "num", high, "num"), payload) is expected


@pytest.mark.parametrize(
    ("pattern", "ignores_case", "payload", "expected"),
    [
        ("[abc]+", False, "xxb", True),
        ("^b$", False, "b\n", False),
        ("ONEITEM", True, "oneitem", True),
        ("ONEITEM", False, "oneitem", False),
        (r"^\d+$", False, 42, True),
        (r"(?<unit>V|A)$", False, "12 V", True),
        (r"\d", False, "٣", False),
        ("^$", False, [], True),
    ],
)
def test_regular_expression_is_javascripts(
    pattern: str, ignores_case: bool, payload: Any, expected: bool
) -> None:
    assert holds(rule("regex", pattern, "str", case=ignores_case), payload) is expected


@pytest.mark.parametrize(
    ("kind", "holding"),
    [
        ("true", [True]),
        ("false", [False]),
        ("null", [None]),
        ("nnull", [True, False, 0, "", [], {}, "true", b""]),
        ("empty", ["", [], {}, b""]),
        ("nempty", ["true"]),
    ],
)
def test_rules_without_a_value(kind: str, holding: list[Any]) -> None:
    values = [True, False, None, 0, "", [], {}, "true", b""]
    assert [value for value in values if holds(rule(kind), value)] == holding


TYPES = {
    "string": ["", "5", "x"],
    "number": [0, 1.5],
    "boolean": [True],
    "array": [[]],
    "buffer": [b"x"],
    "object": [{}],
    "json": ["5", 0, 1.5, True, None],
    "null": [None],
    "undefined": [UNDEFINED],
}


@pytest.mark.parametrize("kind", TYPES)
def test_is_of_type(kind: str) -> None:
    values = ["", "5", "x", 0, 1.5, True, [], b"x", {}, None, UNDEFINED]
    assert [value for value in values if is_type(value, kind)] == TYPES[kind]
    assert holds(rule("istype", kind, kind), TYPES[kind][0])


def test_values_may_come_from_message_context_variable_and_expression() -> None:
    bench = Bench(
        "switch",
        flow={"limits": {"P1": 3}},
        env={"MAX": "7"},
        rules=[
            rule("gt", "low", "msg"),
            rule("gt", "limits[msg.topic]", "flow"),
            rule("gt", "MAX", "env"),
            rule("gt", "low * 4", "jsonata"),
            rule("gt", "none", "global"),
        ],
    )
    assert [len(port) for port in bench.ports(msg(8, "P1", low=2))] == [1, 1, 1, 0, 0]


def test_value_without_a_type_is_a_number_where_it_can_be() -> None:
    assert holds({"t": "lt", "v": "9"}, "10") is False
    assert holds({"t": "lt", "v": "b"}, "a") is True


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("payload.a", "msg", 1),
        ("other", "msg", 2),
        ("count", "flow", 3),
        ("payload.a + 3", "jsonata", 4),
        ("NAME", "env", "5"),
    ],
)
def test_property_is_of_any_type(name: str, kind: str, expected: Any) -> None:
    rules = [rule("eq", str(expected), "str")]
    bench = Bench(
        "switch", flow={"count": 3}, env={"NAME": "5"}, property=name, propertyType=kind, rules=rules
    )
    assert len(bench(msg({"a": 1}, other=2))) == 1
    assert len(bench(msg({"a": 0}, other=0))) == (kind in ("flow", "env"))


# -- several rules ------------------------------------------------------------------------------------------------

STEPS = [rule("lt", "5", "num"), rule("lt", "10", "num"), rule("else")]


@pytest.mark.parametrize(
    ("checkall", "payload", "outputs"),
    [
        ("true", 3, [0, 1]), ("true", 7, [1]), ("true", 12, [2]),
        ("false", 3, [0]), ("false", 7, [1]), ("false", 12, [2]),
    ],
)  # fmt: skip
def test_all_rules_or_only_the_first_that_holds(checkall: str, payload: int, outputs: list[int]) -> None:
    ports = Bench("switch", rules=STEPS, checkall=checkall).ports(msg(payload))
    assert [i for i, port in enumerate(ports) if port] == outputs


def test_otherwise_looks_at_the_rules_since_the_last_otherwise() -> None:
    rules = [rule("eq", "1", "num"), rule("else"), rule("eq", "2", "num"), rule("else")]
    bench = Bench("switch", rules=rules)
    assert [[len(port) for port in bench.ports(msg(value))] for value in (1, 2, 3)] == [
        [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 0],
    ]  # fmt: skip


def test_message_itself_goes_to_all_outputs_in_order() -> None:
    msgs = [msg(value) for value in (1, 7, 2, 12)]
    assert Bench("switch", rules=STEPS).ports(*msgs) == ([msgs[0], msgs[2]], [*msgs[:3]], [msgs[3]])


def test_previous_value_is_that_of_the_message_before() -> None:
    bench = Bench("switch", rules=[rule("gt", "", "prev"), rule("btwn", "0", "num", "", "prev")])
    assert [[len(port) for port in bench.ports(msg(value))] for value in (3, 2, 5, 5)] == [
        [1, 0], [0, 1], [1, 0], [0, 1],
    ]  # fmt: skip


def test_expression_rule_knows_place_and_length_of_the_sequence() -> None:
    bench = Bench("switch", rules=[rule("jsonata_exp", "$I + 1 = $N", "jsonata")])
    assert bench(msg(1, parts={"id": "a", "index": 0, "count": 2})) == []
    assert len(bench(msg(1, parts={"id": "a", "index": 1, "count": 2}))) == 1
    assert bench(msg(1)) == []
    assert not holds(rule("jsonata_exp", "payload", "jsonata"), "true")


def test_number_of_outputs_is_that_of_the_rules() -> None:
    flow = [
        raw("s", "source", ["w"]),
        {"id": "w", "type": "switch", "rules": STEPS, "wires": [["a"], [], ["a"]]},
    ]
    flow += [raw("a", "sink"), raw("d", "dead letters")]
    assert Flow(flow).check({}) == []
    flow[1]["wires"].append(["a"])
    [problem] = Flow(flow).check({})
    assert problem.text == "a wire leaves output 4, but it has 3"


def test_wrong_rules_are_named() -> None:
    assert refused("switch", rules=[rule("eq", "1"), {"t": "like"}]).startswith(
        'property "rules": rule 2 (like): there is no such rule; there are btwn, cont, else, '
    )
    assert refused("switch", rules=[rule("eq", "x", "num")]) == (
        "property \"rules\": rule 1 (eq): v: 'x' is not a number"
    )
    assert "rule 1 (regex): '(' is not a regular expression" in refused(
        "switch", rules=[rule("regex", "(", "str")]
    )
    assert "rule 1 (eq): 'a +' is not a JSONata expression" in refused(
        "switch", rules=[rule("eq", "a +", "jsonata")]
    )
    assert "rule 1 (eq): vt is 'jsonat'" in refused("switch", rules=[rule("eq", "a", "jsonat")])
    assert refused("switch", property="a..b").startswith('property "property": ')
    assert "property \"checkall\": 'maybe' is not one of" in refused("switch", checkall="maybe")


VALUES = st.sampled_from([0, 1, 5, "5", "abc", "", None, True, [], [5], {}, {"a": 1}, b"abc", 2.5])
RULES = st.sampled_from(
    [
        rule("eq", "5", "num"), rule("gt", "", "prev"), rule("regex", "^a", "str"), rule("else"), rule("empty"),
        rule("lt", "other", "msg"), rule("jsonata_exp", "$number(payload) > 2", "jsonata"), rule("head", "2", "num"),
        rule("cont", "b", "str"), rule("istype", "json", "json"),
    ]
)  # fmt: skip


@st.composite
def some_messages(draw: st.DrawFn) -> list[Msg]:
    count = draw(st.integers(0, 6))
    parts = [{"id": "a", "index": index, "count": count} for index in range(count)]
    return [
        msg(draw(VALUES), **({"other": draw(VALUES)} if draw(st.booleans()) else {}),
            **({"parts": part} if draw(st.booleans()) else {}))
        for part in parts
    ]  # fmt: skip


@given(some_messages(), st.lists(RULES, min_size=1, max_size=4), st.sampled_from(["true", "false"]))
def test_batch_is_one_by_one(msgs: list[Msg], rules: list[dict[str, Any]], checkall: str) -> None:
    batch_is_one_by_one("switch", msgs, rules=rules, checkall=checkall)


# -- sequences ----------------------------------------------------------------------------------------------------


def sequence(*payloads: Any, id: str = "q", count: bool = True) -> list[Msg]:
    total = {"count": len(payloads)} if count else {}
    return [msg(value, parts={"id": id, "index": i, **total}) for i, value in enumerate(payloads)]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (rule("head", "2", "num"), "ab"),
        (rule("index", "1", "num", "2", "num"), "bc"),
        (rule("head", "0", "num"), ""),
    ],
)
def test_head_and_index_choose_by_place(one: dict[str, Any], expected: str) -> None:
    assert "".join(Bench("switch", rules=[one]).payloads(*sequence(*"abcd"))) == expected


def test_rule_of_a_sequence_fails_for_what_is_none() -> None:
    with pytest.raises(
        LookupError, match=r"^rule 1 \(head\) needs msg\.parts\.index, but the message is not part"
    ):
        Bench("switch", rules=[rule("head", "1", "num")])(msg(1))


def test_only_what_needs_a_whole_sequence_holds_messages() -> None:
    assert not isinstance(build("switch", rules=STEPS), Holder)
    assert isinstance(build("switch", rules=STEPS, repair=True), Holder)
    assert isinstance(build("switch", rules=[rule("tail", "1", "num")]), Holder)


def flow_with(**properties: Any) -> tuple[dict[str, Any], ...]:
    switch = {"id": "w", "type": "switch", "wires": [["a"], ["b"]], **properties}
    return raw("s", "source", ["w"]), switch, raw("a", "sink"), raw("b", "sink")


def left(lab: Lab, sink: str) -> list[tuple[Any, Any]]:
    return [(made.payload, dict((made.props or {}).get("parts", {}))) for made in lab[sink].safe()]


def test_tail_waits_for_the_end_of_the_sequence(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = flow_with(rules=[rule("tail", "2", "num"), rule("else")])
        async with running(*nodes, state_dir=tmp_path) as lab:
            msgs = [*sequence(*"abc", count=False), msg("d", parts={"id": "q", "index": 3, "count": 4})]
            tasks = [lab["s"].feed([each]) for each in msgs]
            await asyncio.gather(*tasks)
            await until(lambda: len(left(lab, "a")) == 2 and len(left(lab, "b")) == 2, "the whole sequence")
            assert [payload for payload, _ in left(lab, "a")] == ["c", "d"]
            assert [parts["count"] for _, parts in left(lab, "b")] == [4, 4]

    asyncio.run(scenario())


def test_repair_makes_a_sequence_of_each_output(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = flow_with(rules=[rule("lt", "3", "num"), rule("else")], repair=True)
        async with running(*nodes, state_dir=tmp_path) as lab:
            first, second = sequence(1, 5, 2, id="x"), sequence(7, 0, id="y")
            mixed = [first[0], second[0], first[1], msg(9), second[1], first[2]]
            await asyncio.gather(*(lab["s"].feed([each]) for each in mixed))
            await until(lambda: len(left(lab, "a")) == 3 and len(left(lab, "b")) == 3, "both sequences")
            assert left(lab, "a") == [
                (0, {"id": "y.0", "index": 0, "count": 1}),
                (1, {"id": "x.0", "index": 0, "count": 2}),
                (2, {"id": "x.0", "index": 1, "count": 2}),
            ]
            assert left(lab, "b") == [
                (9, {}),
                (7, {"id": "y.1", "index": 0, "count": 1}),
                (5, {"id": "x.1", "index": 0, "count": 1}),
            ]

    asyncio.run(scenario())


def test_sequence_that_is_held_outlives_a_restart(tmp_path: Path) -> None:
    nodes = flow_with(rules=[rule("lt", "3", "num"), rule("else")], repair=True)
    msgs = sequence(1, 5, 2)

    async def begin() -> None:
        async with running(*nodes, state_dir=tmp_path) as lab:
            await lab["s"].feed(msgs[:2])  # acknowledged: on disk
            assert left(lab, "a") == []

    async def end() -> None:
        async with running(*nodes, state_dir=tmp_path) as lab:
            lab["s"].feed(msgs[2:])
            await until(lambda: left(lab, "a") and left(lab, "b"), "the sequence")
            assert [payload for payload, _ in left(lab, "a")] == [1, 2]
            assert [payload for payload, _ in left(lab, "b")] == [5]

    asyncio.run(begin())
    asyncio.run(end())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.booleans())
def test_sequence_in_a_batch_is_one_by_one(values: list[int], repair: bool) -> None:
    rules = [rule("gt", "", "prev"), rule("tail", "2", "num")]
    found: list[Any] = []

    async def scenario(batches: list[list[Msg]]) -> None:
        async with running(*flow_with(rules=rules, repair=repair)) as lab:
            for batch in batches:
                lab["s"].feed(batch)
            await until(lambda: len(left(lab, "b")) == min(2, len(values)), "the sequence")
            found.append((left(lab, "a"), left(lab, "b")))

    msgs = sequence(*values)
    asyncio.run(scenario([msgs]))
    asyncio.run(scenario([[each] for each in msgs]))
    assert found[0] == found[1]
