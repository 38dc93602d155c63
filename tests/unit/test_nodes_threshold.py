"""The `threshold` node: inside, outside, and back again."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.nodes.threshold import Threshold
from tests.readings import reading
from voltflow.engine.turn import isolate
from voltflow.message import Msg
from voltflow.node import ConfigError


def threshold(**properties: Any) -> Threshold:
    node = Threshold.spec.build("t", properties, {})
    assert isinstance(node, Threshold)
    return node


def feed(node: Threshold, *msgs: Msg) -> tuple[list[int], list[int]]:
    """The numbers of the messages that left by each output."""
    inside, outside = node.process(list(msgs))
    return [msg.payload.twin.seq for msg in inside], [msg.payload.twin.seq for msg in outside]


def temperatures(*values: float | None) -> list[Msg]:
    return [reading(seq, cell_temp_max_c=value) for seq, value in enumerate(values)]


def test_readings_inside_and_outside_of_a_range() -> None:
    node = threshold(low="10", high="50")
    assert feed(node, *temperatures(9.9, 10, 30, 50, 50.1)) == ([1, 2, 3], [0, 4])
    assert node.status() == {"outside": 1}


def test_one_limit_is_enough() -> None:
    assert feed(threshold(high=50), *temperatures(-1000, 51)) == ([0], [1])
    assert feed(
        threshold(field="soc_pct", low=10, high=""), reading(0, soc_pct=9.0), reading(1, soc_pct=99.0)
    ) == ([1], [0])
    assert feed(threshold(), *temperatures(-1000, 1000)) == ([0, 1], [])


def test_pack_outside_comes_back_when_it_is_inside_by_the_hysteresis() -> None:
    node = threshold(low=10, high=50, hysteresis=2)
    assert feed(node, *temperatures(49, 51, 49, 48, 49, 9, 11, 12)) == ([0, 3, 4, 7], [1, 2, 5, 6])


def test_unknown_values_and_late_messages_change_nothing() -> None:
    node = threshold(high=50)
    late = reading(9, cell_temp_max_c=20.0, late=True)
    assert feed(node, *temperatures(None, 51, None), late) == ([0], [1, 2, 9])


def test_packs_are_told_apart() -> None:
    node = threshold(high=50, hysteresis=5)
    msgs = [
        reading(seq, pack=pack, cell_temp_max_c=temp)
        for seq, (pack, temp) in enumerate([("P1", 51), ("P2", 47), ("P1", 47)])
    ]
    assert feed(node, *msgs) == ([1], [0, 2])


def test_only_changes_pass_where_that_is_wanted() -> None:
    node = threshold(high=50, changes=True)
    assert feed(node, *temperatures(20, 51, 52, None, 49, 48)) == ([4], [1])


def test_estimates_and_predictions_are_fields_too() -> None:
    node = threshold(field="predictions.temperature.value", high=50)
    msgs = [reading(0, predictions={"temperature": 51.0}), reading(1, predictions={"temperature": 49.0})]
    assert feed(node, *msgs) == ([1], [0])
    assert feed(node, reading(2)) == ([2], [])
    node = threshold(field="estimate.soc_pct", low=10)
    assert feed(node, reading(0)) == ([0], [])


def test_what_is_no_reading_or_no_number_fails_alone() -> None:
    node = threshold(field="contactor", high=1)
    errors: list[str] = []
    msgs = [reading(0, contactor="open"), Msg("t", {"contactor": 1}), reading(1)]
    ports = isolate(node.process, msgs, 2, lambda _, error: errors.append(str(error)))
    assert [msg.payload.twin.seq for msg in ports[0]] == [1]
    assert errors == [
        "contactor is 'open', expected is a number",
        "expected a twin's reading: wire a twin node before this one",
    ]


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"field": "cell_temp_max"}, "property \"field\": a reading has no 'cell_temp_max'; did you mean 'cell_temp_max_c'?"),
        ({"field": "estimate.soc"}, "property \"field\": a reading has no 'estimate.soc'; did you mean 'estimate.soc_pct'?"),
        ({"field": "estimates.soc"}, "property \"field\": a reading has no 'estimates.soc'; did you mean 'estimate'?"),
        ({"low": 60, "high": 55}, 'property "hysteresis": 0 leaves nothing between low = 60 and high = 55 to come back to'),
        ({"low": 50, "high": 55, "hysteresis": 3}, 'property "hysteresis": 3 leaves nothing between low = 50 and high = 55 to come back to'),
        ({"unit": "foot"}, "property \"unit\": 'foot' is not one of '', 'K', '°C', "),
        ({"high": "nan"}, 'property "high": nan is out of range, allowed is '),
    ],
)  # fmt: skip
def test_property_that_cannot_work_is_named(properties: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}"):
        threshold(**properties)


VALUES = st.lists(st.tuples(st.sampled_from(["P1", "P2"]), st.none() | st.floats(0, 60), st.booleans()))


@given(VALUES, st.floats(0, 9), st.booleans())
def test_batch_gives_what_single_messages_give(
    values: list[tuple[str, float | None, bool]], hysteresis: float, changes: bool
) -> None:
    msgs = [
        reading(seq, pack=pack, cell_temp_max_c=temp, late=late)
        for seq, (pack, temp, late) in enumerate(values)
    ]
    whole, single = (threshold(low=20, high=40, hysteresis=hysteresis, changes=changes) for _ in range(2))
    parts = [feed(single, msg) for msg in msgs]
    assert feed(whole, *msgs) == (
        [seq for part in parts for seq in part[0]],
        [seq for part in parts for seq in part[1]],
    )
