"""The `resample` node: where the points are, and what their values are."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.holders import msg, outcome
from voltflow.message import Msg
from voltflow.node import ConfigError
from voltflow.nodes.resample import Resample


def at(second: float, value: Any, key: str = "P1") -> Msg:
    return msg({"ts_ms": round(second * 1000), "value": value, "pack": key, "more": 1}, "t")


def points(coming: list[tuple[float, Any]], **properties: Any) -> list[tuple[float, Any]]:
    """Seconds and values of the points."""
    found, _, errors = outcome("resample", [at(*item) for item in coming], **properties)
    assert errors == []
    return [(item["ts_ms"] / 1000, item["value"]) for item in found]


def test_linear_lies_between_the_messages_beside_a_point() -> None:
    coming = [(4, 0.0), (14, 10.0), (16, 4.0), (36, 24.0)]
    assert points(coming) == [(10, 6.0), (20, 8.0), (30, 18.0)]


def test_last_is_what_was_known_at_a_point() -> None:
    coming = [(4, "a"), (14, "b"), (16, "c"), (36, "d"), (40, "e")]
    assert points(coming, method="last") == [(10, "a"), (20, "c"), (30, "c"), (40, "e")]


def test_mean_is_of_the_values_since_the_point_before() -> None:
    coming = [(4, 1.0), (9, 3.0), (14, 5.0), (20, 7.0), (41, 9.0), (42, 1.0), (55, 0.0)]
    assert points(coming, method="mean") == [(10, 2.0), (20, 6.0), (50, 5.0)]


@pytest.mark.parametrize("method", ["linear", "last"])
def test_message_at_a_point_is_its_value_also_the_first(method: str) -> None:
    assert points([(10, 1.0), (20, 2.0), (30, 3.0)], method=method) == [(10, 1.0), (20, 2.0), (30, 3.0)]


@pytest.mark.parametrize("method", ["linear", "last"])
def test_silence_is_not_bridged_for_longer_than_allowed(method: str) -> None:
    coming = [(5, 5.0), (36, 36.0), (70, 70.0), (71, 71.0)]
    assert points(coming, method=method, longest=30) == [(70, 70.0)]
    assert [second for second, _ in points(coming, method=method, longest=31)] == [10, 20, 30, 70]


def test_value_that_is_missing_makes_points_without_one() -> None:
    coming = [(5, 1.0), (15, None), (25, 3.0), (35, 4.0)]
    assert points(coming) == [(10, None), (20, None), (30, 3.5)]
    assert points(coming, method="last") == [(10, 1.0), (20, None), (30, 3.0)]
    assert points(coming, method="mean") == [(10, 1.0), (30, 3.0)]


def test_points_have_time_key_and_values_and_nothing_else() -> None:
    coming = [msg({"ts_ms": ms, "pack": "P1", "a": {"v": ms}, "more": 1}, "t", unit="V") for ms in (0, 2000)]
    found, _, _ = outcome("resample", coming, step=1, key="payload.pack", properties=["payload.a.v"])
    assert found == [{"ts_ms": ms, "pack": "P1", "a": {"v": ms}} for ms in (0, 1000, 2000)]


def test_keys_are_told_apart() -> None:
    coming = [at(5, 1.0), at(5, 5.0, "P2"), at(15, 2.0), at(15, 6.0, "P2")]
    found, _, _ = outcome("resample", coming, key="payload.pack")
    assert [(item["pack"], item["value"]) for item in found] == [("P1", 1.5), ("P2", 5.5)]


def test_message_that_is_not_newer_leaves_by_the_second_output() -> None:
    found, late, _ = outcome("resample", [at(5, 1.0), at(5, 2.0), at(4, 3.0), at(15, 2.0)])
    assert ([item["value"] for item in found], [item["value"] for item in late]) == ([1.5], [2.0, 3.0])


class Reading(msgspec.Struct):
    """Stands for a payload of the gateway's own."""

    ts_ms: int
    soc_pct: float


def test_payloads_of_the_gateways_own_are_looked_into() -> None:
    coming = [msg(Reading(5000, 70.0)), msg(Reading(15000, 71.0))]
    found, _, _ = outcome("resample", coming, properties=["payload.soc_pct"])
    assert found == [{"ts_ms": 10_000, "soc_pct": 70.5}]


def test_message_without_time_or_number_fails_alone() -> None:
    found, _, errors = outcome("resample", [[at(5, 1.0), msg({"value": 1}), at(6, "x"), at(15, 2.0)]])
    assert [item["value"] for item in found] == [1.5]
    assert errors == [
        "ValueError: payload.ts_ms is undefined, expected are milliseconds since 1970",
        "ValueError: payload.value is 'x', expected is a number",
    ]


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"properties": []}, 'property "properties": name at least one'),
        ({"properties": ["a..b"]}, "property \"properties\": 'a..b' is not a property: "),
        ({"properties": ["payload"]}, 'property "properties": one of payload.ts_ms, payload takes the place of another'),
        ({"properties": ["payload.ts_ms.a"]}, "property \"properties\": 'payload.ts_ms.a' cannot be set: "),
        ({"step": 0.001, "longest": 60}, 'property "longest": 60000 steps at once, allowed are 10000'),
    ],
)  # fmt: skip
def test_property_that_cannot_work_is_named(properties: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}"):
        Resample.spec.build("r", properties, {})


def test_points_elsewhere_than_in_the_payload() -> None:
    node = Resample.spec.build("r", {"properties": ["payload"], "timestamp": "ts", "key": "topic"}, {})
    assert isinstance(node, Resample)


COMING = st.lists(
    st.tuples(st.integers(0, 200), st.floats(-100, 100), st.sampled_from(["P1", "P2"])), max_size=30
)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 200), st.floats(-100, 100)), max_size=30))
def test_linear_agrees_with_numpy(coming: list[tuple[int, float]]) -> None:
    ordered = sorted(dict(coming).items())
    found = points(ordered, longest=1000)
    if not ordered:
        return
    seconds = [second for second in range(0, 201, 10) if ordered[0][0] <= second <= ordered[-1][0]]
    assert [second for second, _ in found] == seconds
    expected = np.interp(seconds, *zip(*ordered, strict=True)) if seconds else []
    assert np.allclose([value for _, value in found], expected)


@settings(max_examples=30)
@given(COMING, st.sampled_from(["last", "mean", "linear"]))
def test_batch_gives_what_single_messages_give(coming: list[tuple[int, float, str]], method: str) -> None:
    msgs = [at(*item) for item in coming]
    properties = dict(key="payload.pack", method=method)
    assert outcome("resample", [msgs], **properties) == outcome("resample", msgs, **properties)
