"""Units along the wires: what a field's name and the nodes before it say, against what a node takes it for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from voltflow.cli import main
from voltflow.flow.expand import expand
from voltflow.flow.flow import Flow
from voltflow.flow.units import SUFFIXES, UNITS, mismatches, unit_of_name
from voltflow.message import Msg
from voltflow.node import Transform, config, load_nodes, node
from voltflow.telemetry import CONTRACTS

load_nodes("voltflow.nodes")
Raw = dict[str, Any]


class _Passes(Transform):
    def process(self, msgs: list[Msg]) -> list[Msg]:
        return msgs


@node("unit celsius", category="test")
class Celsius(_Passes):
    """Compares with a limit in °C."""

    field: str = config("cell_temp_max_c", help="payload field")
    high: float = config(55.0, help="limit", unit="°C", of="field", low=-100, high=1000)


@node("unit chosen", category="test")
class Chosen(_Passes):
    """Compares with a limit in the unit that is chosen."""

    field: str = config("", help="payload field")
    unit: str = config("", help="its unit", of="field")


def n(id: str, type: str, *targets: str, **properties: Any) -> Raw:
    return {"id": id, "type": type, "wires": [list(targets)], **properties}


def move(source: str, target: str) -> Raw:
    return {"t": "move", "p": source, "pt": "msg", "to": target, "tot": "msg"}


def put(target: str, source: str) -> Raw:
    return {"t": "set", "p": target, "pt": "msg", "to": source, "tot": "msg"}


def found(*nodes: Raw) -> list[tuple[str, str]]:
    return [(item.part.id, item.text) for item in mismatches(expand(list(nodes)).parts)]


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("cell_temp_max_c", "°C"), ("payload.ambient_c", "°C"), ("pack_current_a", "A"), ("bus_current_ma", "mA"),
        ("telemetry.pack_voltage_v", "V"), ("spread_mv", "mV"), ("soc_pct", "%"), ("limit_charge_kw", "kW"), ("odometer_km", "km"),
        ("speed_kmh", "km/h"), ("insulation_kohm", "kΩ"), ("motor_temp_k", "K"), ("oil_temperature_f", "°F"), ("payload['cell_temp_k']", "K"),
        ("phase_a", None), ("variant_c", None), ("plan_f", None), ("cell_voltage_min", None), ("cell_temp_min", None), ("a", None),
        ("efc", None), ("pack", None), ("", None), ("items_s", None), ("poll_interval_s", "s"), ("_c", None),
    ],
)  # fmt: skip
def test_unit_of_a_name(name: str, unit: str | None) -> None:
    assert unit_of_name(name) == unit


def test_every_number_of_the_contracts_has_a_known_unit() -> None:
    """A new field with a new ending has to be told here, or its unit would never be checked."""
    without = {"efc", "value", "limit"}
    names = {
        field.encode_name
        for struct in CONTRACTS.values()
        for field in msgspec.structs.fields(struct)
        if "float" in str(field.type)
    }
    assert {name for name in names if unit_of_name(name) is None and name not in without} <= {
        "estimate",
        "predictions",
        "joined",
    }


def test_every_ending_stands_for_a_known_unit() -> None:
    assert set(SUFFIXES.values()) <= set(UNITS)


# -- wires --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({}, None), ({"field": "payload.ambient_c"}, None), ({"field": "name"}, None), ({"field": "${FIELD}"}, None),
        ({"field": "motor_temp_k"}, 'property "high": motor_temp_k is in K, and is taken for °C here: convert it first (value − 273.15)'),
        ({"field": "oil_temp_f"}, 'property "high": oil_temp_f is in °F, and is taken for °C here: convert it first (value × 0.555556 − 17.7778)'),
        ({"field": "pack_voltage_v"}, 'property "high": pack_voltage_v is in V, and is taken for °C here: that is a voltage, not a temperature'),
    ],
)  # fmt: skip
def test_field_against_the_unit_of_a_limit(properties: Raw, text: str | None) -> None:
    assert found(n("t", "unit celsius", **properties)) == ([("t", text)] if text else [])


@pytest.mark.parametrize(
    ("field", "unit", "advice"),
    [
        ("pack_current_a", "mA", "convert it first (value × 1000)"), ("pack_current_a", "A", None), ("cell_temp_max_c", "C", None),
        ("cell_temp_max_c", "K", "convert it first (value + 273.15)"), ("cell_temp_max_c", "", None), ("cell_temp_max_c", "bananas", None),
    ],
)  # fmt: skip
def test_unit_that_the_flow_chooses(field: str, unit: str, advice: str | None) -> None:
    texts = [text for _, text in found(n("t", "unit chosen", field=field, unit=unit))]
    assert texts == (
        [f'property "unit": {field} is in {field_unit(field)}, and is taken for {unit} here: {advice}']
        if advice
        else []
    )


def field_unit(field: str) -> str:
    return unit_of_name(field) or ""


def test_unit_goes_with_the_value_that_a_change_node_moves() -> None:
    flow = (n("c", "change", "j", name="short names", rules=[move("payload.motor_temp_k", "payload.hot")]), n("j", "junction", "t"),
            n("t", "unit celsius", field="hot"))  # fmt: skip
    assert found(*flow) == [
        ("t", "property \"high\": hot is in K (made by change 'short names'), and is taken for °C here: convert it first (value − 273.15)")
    ]  # fmt: skip


def test_unit_goes_over_several_moves_and_nodes() -> None:
    rules = [
        put("payload.a", "payload.motor_temp_k"),
        put("payload.b", "payload.a"),
        {"t": "delete", "p": "payload.a", "pt": "msg"},
    ]
    flow = (n("c", "change", "p", rules=rules), n("p", "unit celsius", "q", "r", field="b"), n("q", "unit celsius", field="a"),
            n("r", "unit celsius", field="b"))  # fmt: skip
    assert [id for id, _ in found(*flow)] == ["p", "r"]


def test_value_that_is_set_anew_or_scaled_has_no_known_unit() -> None:
    first = n("c", "change", "d", rules=[move("payload.motor_temp_k", "payload.hot")])
    number = {"t": "set", "p": "payload.hot", "pt": "msg", "to": "20", "tot": "num"}
    assert found(first, n("d", "change", "t", rules=[number]), n("t", "unit celsius", field="hot")) == []
    assert (
        found(first, n("d", "range", "t", property="payload.hot"), n("t", "unit celsius", field="hot")) == []
    )


def test_where_wires_join_only_that_is_known_on_which_all_agree() -> None:
    kelvin = n("k", "change", "t", rules=[move("payload.motor_temp_k", "payload.hot")])
    celsius = n("c", "change", "t", rules=[move("payload.ambient_c", "payload.hot")])
    assert found(kelvin, celsius, n("t", "unit celsius", field="hot")) == []


def test_circle_of_wires_ends() -> None:
    flow = (n("c", "change", "d", rules=[move("payload.motor_temp_k", "payload.hot")]), n("d", "delay", "e", "t"), n("e", "switch", "d"),
            n("t", "unit celsius", field="hot"))  # fmt: skip
    assert found(*flow) == []


KELVIN = [move("payload.motor_temp_k", "payload.hot")]
CELSIUS = [move("payload.ambient_c", "payload.hot")]


def call(id: str, link_in: str, *targets: str, **properties: Any) -> Raw:
    return n(id, "link call", *targets, links=[link_in], **properties)


def returning(id: str) -> Raw:
    return n(id, "link out", mode="return")


def test_unit_goes_into_a_called_part() -> None:
    inside = (n("in", "link in", "t"), n("t", "unit celsius", "out", field="hot"), returning("out"))
    flow = (n("c", "change", "call", rules=KELVIN), call("call", "in", "k"), n("k", "debug"))
    assert [id for id, _ in found(*flow, *inside)] == ["t"]
    # another call that brings it in °C: what the part gets is one or the other
    other = (n("o", "change", "call2", rules=CELSIUS), call("call2", "in"))
    assert found(*flow, *other, *inside) == []


def test_unit_comes_back_from_a_called_part() -> None:
    flow = (call("call", "in", "t"), n("t", "unit celsius", field="hot"), n("in", "link in", "c"),
            n("c", "change", "out", rules=KELVIN), returning("out"))  # fmt: skip
    [(id, text)] = found(*flow)
    assert (id, "hot is in K (made by change 'c')" in text) == ("t", True)
    # what goes into the part does not come out beside what comes back
    before = n("b", "change", "call", rules=CELSIUS)
    assert [id for id, _ in found(before, *flow)] == ["t"]


def test_called_part_calls_another_one() -> None:
    """What comes back from the inner call goes on in the outer part, and not behind the outer call."""
    flow = (call("call", "in", "t"), n("t", "unit celsius", field="hot"),
            n("in", "link in", "inner"), call("inner", "in2", "c"), n("c", "change", "out", rules=CELSIUS), returning("out"),
            n("in2", "link in", "c2"), n("c2", "change", "out2", rules=KELVIN), returning("out2"))  # fmt: skip
    assert found(*flow) == []
    without = [{**each, "rules": []} if each["id"] == "c" else each for each in flow]
    assert [id for id, _ in found(*without)] == ["t"]


def test_dynamic_call_may_lead_to_any_link_in() -> None:
    flow = (n("call", "link call", "t", linkType="dynamic"), n("t", "unit celsius", field="hot"),
            n("in", "link in", "c"), n("c", "change", "out", rules=KELVIN), returning("out"),
            n("in2", "link in", "c2"), n("c2", "change", "out2", rules=CELSIUS), returning("out2"))  # fmt: skip
    assert found(*flow) == []
    assert [id for id, _ in found(*flow[:5])] == ["t"]


def test_call_that_calls_itself_ends() -> None:
    flow = (n("c", "change", "call", rules=KELVIN), call("call", "in", "t"), n("t", "unit celsius", field="hot"),
            n("in", "link in", "again", "out"), call("again", "in", "out"), returning("out"))  # fmt: skip
    assert found(*flow) == []


def test_change_node_that_gives_a_value_a_name_of_another_unit() -> None:
    flow = n("c", "change", rules=[put("payload.copy_ma", "payload.soc_pct"), move("payload.cell_temp_max_c", "payload.cell_temp_k"),
                                   put("payload.same_temp_c", "payload.ambient_c")])  # fmt: skip
    assert found({**flow, "rules": flow["rules"][1:]}) == [
        ("c", 'property "rules": rule 1 puts payload.cell_temp_max_c, which is in °C, into payload.cell_temp_k, whose name says K: convert it first (value + 273.15)')
    ]  # fmt: skip


def test_flow_check_warns_once_for_a_subflow_and_names_the_line(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """[
        {"id": "i", "type": "subflow:s", "wires": []}, {"id": "j", "type": "subflow:s", "wires": []},
        {"id": "s", "type": "subflow", "in": [], "out": []},
        {"id": "t", "type": "unit celsius", "z": "s", "wires": [],
         "field": "motor_temp_k",
         "high": 50}
    ]"""
    warning = ("warning: line 6: unit celsius 't': property \"high\": motor_temp_k is in K, and is taken for °C here: "
               "convert it first (value − 273.15)")  # fmt: skip
    assert [str(problem) for problem in Flow.parse(text).check({})] == [warning]
    (tmp_path / "f.json").write_text(text)
    assert main(["flow", "check", str(tmp_path / "f.json")]) == 0
    assert warning in capsys.readouterr().out
