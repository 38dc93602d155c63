"""What battery nodes take: readings, and what becomes of them on disk, in a json node or in a python node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.nodes.alert import Alert
from edge.nodes.dtc import Dtc
from edge.nodes.features import Features
from edge.nodes.onnx import Onnx
from edge.nodes.sequence import SequenceNode
from edge.nodes.threshold import Threshold
from edge.nodes.twin import Twin
from edge.reading import Reading
from edge.twin import TwinStore
from tests.readings import reading
from voltflow.engine.held_store import decode, encode
from voltflow.flow.properties import plain
from voltflow.message import Msg, encode_payload
from voltflow.node import Context, Transform
from voltflow.sequence import DUPLICATE

Form = Callable[[Msg], Msg]
"""What has become of a message."""


def held_over_a_restart(msg: Msg) -> Msg:
    return decode(encode(msg))


def from_a_json_node(msg: Msg) -> Msg:
    return msg.derive(payload=msgspec.json.decode(encode_payload(msg.payload)))


def as_it_leaves(msg: Msg) -> Msg:
    return msg.derive(payload=msg.payload.wire()) if isinstance(msg.payload, Reading) else msg


FORMS = [held_over_a_restart, from_a_json_node, as_it_leaves]


def telemetry(msg: Msg) -> Msg:
    """The message as a validate node gave it."""
    item = msg.payload.twin.telemetry
    return Msg(msg.topic.replace("/twin", "/telemetry"), item, msg.key, msg.received_ms)


def started(node: Transform) -> Transform:
    store = TwinStore()
    store.pack("depot", "P1")
    asyncio.run(node.start(Context({}, {TwinStore: store}, "gw1", "rev", Path())))
    return node


def ports(node: Transform, *msgs: Msg) -> list[list[Any]]:
    """Topic and payload of what leaves each output, as others see it."""
    found: Any = node.process(list(msgs))
    return [
        [(msg.topic, plain(msg.payload)) for msg in port]
        for port in (found if isinstance(found, tuple) else [found])
    ]


READINGS = [
    reading(0, cell_temp_max_c=20.0, soc_pct=50.0),
    reading(1, cell_temp_max_c=61.0, dtc=["P0A80"], predictions={"temperature": 70.0}),
    reading(2, cell_temp_max_c=20.0, dtc=["P0A80"], late=True),
    reading(3, cell_temp_max_c=None, dtc=[], pack="P2"),
    reading(4, cell_temp_max_c=30.0, dtc=[], predictions={"temperature": 30.0}),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: Threshold(high=50.0), lambda: Threshold(field="predictions.temperature.value", high=50.0), Dtc, Alert,
        lambda: Threshold(field="estimate.soc_pct", high=50.0, changes=True),
    ],
    ids=["threshold", "threshold of a prediction", "dtc", "alert", "threshold of an estimate"],
)  # fmt: skip
def test_reading_that_has_become_an_object_is_one(make: Callable[[], Transform], form: Form) -> None:
    expected = ports(started(make()), *READINGS)
    assert ports(started(make()), *map(form, READINGS)) == expected
    mixed = [form(msg) if number % 2 else msg for number, msg in enumerate(READINGS)]
    assert ports(started(make()), *mixed) == expected


@pytest.mark.parametrize("form", FORMS)
def test_what_validate_gives_is_enough_where_no_twin_is_asked(form: Form) -> None:
    msgs = [telemetry(msg) for msg in READINGS if not msg.payload.twin.late]
    made = [form(msg) for msg in msgs]
    numbers = [[item["seq"] for _, item in port] for port in ports(Threshold(high=50.0), *made)]
    assert numbers == [[0, 3, 4], [1]]
    told = ports(started(Dtc()), *made)[1]
    assert [(topic, item["state"]) for topic, item in told] == [
        ("ev/v1/depot/P1/dtc", "appeared"), ("ev/v1/depot/P1/dtc", "cleared"),
    ]  # fmt: skip
    again = form(msgs[1].derive(props={DUPLICATE: True}))
    assert ports(Threshold(high=50.0), again) == [[(again.topic, plain(again.payload))], []], "it is late"


@pytest.mark.parametrize("form", FORMS)
def test_telemetry_that_has_become_an_object_makes_the_same_twin(form: Form) -> None:
    msgs = [
        telemetry(reading(seq, pack_current_a=-10.0, soc_pct=50.0, cell_voltage_avg_v=3.7))
        for seq in range(4)
    ]

    def twins(made: list[Msg]) -> list[Any]:
        passed = started(SequenceNode()).process(made)[0]
        assert isinstance(passed, list)
        return ports(started(Twin()), *passed)

    assert twins([form(msg) for msg in msgs]) == twins(msgs)


@pytest.mark.parametrize("form", FORMS)
def test_models_are_not_asked_where_what_they_need_is_lost(form: Form) -> None:
    msgs = [form(msg) for msg in READINGS]
    onnx = Onnx(model="temperature")
    onnx._store = TwinStore()
    assert started(Features()).process(msgs) == onnx.process(msgs) == msgs


@pytest.mark.parametrize("payload", [b"{}", {"schema": "other/1"}, {"a": 1}, [1], None, 3])
def test_anything_else_is_refused(payload: Any) -> None:
    bad = Msg("ev/v1/depot/P1/telemetry", payload)
    for node in (Threshold(), Dtc(), Alert(), Features(), Onnx(model="rul")):
        with pytest.raises(TypeError, match=r"^expected a twin's reading: wire a twin node before this one$"):
            node.process([READINGS[0], bad])
    with pytest.raises(
        TypeError, match=r"^expected validated telemetry: wire a validate node before this one$"
    ):
        Twin().process([telemetry(READINGS[0]), bad])


def test_wrong_field_of_an_object_and_a_topic_of_no_pack_are_named() -> None:
    wrong = plain(READINGS[0].payload)
    wrong["telemetry"]["soc_pct"] = "much"
    with pytest.raises(
        msgspec.ValidationError, match=r"Expected `float \| null`, got `str` - at `\$.telemetry.soc_pct`"
    ):
        Threshold().process([Msg("t", wrong)])
    with pytest.raises(TypeError, match="topic 't' is no pack's"):
        Dtc().process([Msg("t", telemetry(READINGS[0]).payload)])


def test_field_of_a_twin_is_not_in_telemetry() -> None:
    with pytest.raises(TypeError, match="wire a twin node before this one"):
        Threshold(field="estimate.soc_pct").process([telemetry(READINGS[0])])
