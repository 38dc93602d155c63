"""The `deadband` node: what has changed enough, and what passes all the same."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.holders import msg, outcome
from voltflow.node import ConfigError
from voltflow.nodes.deadband import Deadband


def passed(steps: list[Any], **properties: Any) -> list[Any]:
    """Payloads that pass; a step is a payload, or seconds in a tuple."""
    items = [step[0] if isinstance(step, tuple) else msg(step) for step in steps]
    found, _, errors = outcome("deadband", items, **properties)
    assert errors == []
    return found


def test_value_passes_when_it_differs_from_the_last_one_that_passed() -> None:
    """Not from the last one that came: a slow drift would never pass."""
    assert passed([10, 10.4, 10.8, 11.2, 11.0, 10.3, 10.1], band="1") == [10, 11.2, 10.1]
    assert passed([10, 11, 9, 9], band=1) == [10]
    assert passed([1, 1, 2, 2.0, 1]) == [1, 2, 1]


def test_band_in_percent_is_of_the_value_that_passed() -> None:
    assert passed([100, 109, 111, 122, 123], band=10, mode="percent") == [100, 111, 123]
    assert passed([0, 0, 0.001], band=10, mode="percent") == [0, 0.001]


def test_value_that_appears_or_is_gone_passes() -> None:
    assert passed([None, None, 1, 1, None, float("nan"), None, 1], band=5) == [None, 1, None, 1]


def test_one_passes_after_the_longest_time() -> None:
    steps = [1, (9.0,), 1.1, (1.0,), 1.2, (9.0,), 1.3, 9, (9.0,), 9.1]
    assert passed(steps, band=5, longest=10) == [1, 1.2, 9]


def test_keys_are_told_apart() -> None:
    steps = [{"pack": pack, "v": v} for pack, v in (("P1", 1), ("P2", 1), ("P1", 1), ("P2", 3), (5, 1))]
    found = passed(steps, key="payload.pack", properties=["payload.v"])
    assert [(item["pack"], item["v"]) for item in found] == [("P1", 1), ("P2", 1), ("P2", 3), (5, 1)]


def test_several_properties_pass_together() -> None:
    steps = [{"a": 1, "b": 1}, {"a": 1, "b": 1.5}, {"a": 3, "b": 1.5}, {"a": 3, "b": 2.4}, {"a": 3, "b": 2.6}]
    assert passed(steps, band=1, properties=["payload.a", "payload.b"]) == [steps[0], steps[2], steps[4]]


class Reading(msgspec.Struct):
    """Stands for a payload of the gateway's own."""

    soc_pct: float


def test_payload_of_the_gateways_own_stays_what_it_is() -> None:
    readings = [Reading(70.0), Reading(70.1), Reading(75.0)]
    assert passed(readings, band=1, properties=["payload.soc_pct"]) == [readings[0], readings[2]]


def test_message_with_something_else_than_a_number_fails_alone() -> None:
    steps = [[msg(1), msg("x"), msg(3)]]
    assert outcome("deadband", steps) == ([1, 3], [], ["ValueError: payload is 'x', expected is a number"])
    error = "TypeError: payload.pack is undefined, expected is a text or a number to tell messages apart"
    assert outcome("deadband", [msg(1)], key="payload.pack")[2] == [error]


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"properties": []}, 'property "properties": name at least one'),
        ({"properties": ["a", "b..c"]}, "property \"properties\": 'b..c' is not a property: "),
        ({"key": "a["}, "property \"key\": 'a[' is not a property: "),
        ({"band": "-1"}, 'property "band": -1.0 is out of range, allowed is 0 … '),
        ({"mode": "x"}, "property \"mode\": 'x' is not one of 'absolute', 'percent'"),
    ],
)  # fmt: skip
def test_property_that_cannot_work_is_named(properties: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}"):
        Deadband.spec.build("d", properties, {})


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5) | st.none() | st.just("x"))), st.booleans()
)
def test_batch_gives_what_single_messages_give(coming: list[tuple[str, Any]], percent: bool) -> None:
    msgs = [msg({"k": key, "v": value}) for key, value in coming]
    properties = dict(
        key="payload.k", properties=["payload.v"], band=1, mode="percent" if percent else "absolute"
    )
    assert outcome("deadband", [msgs], **properties) == outcome("deadband", msgs, **properties)
