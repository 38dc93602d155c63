"""The `rbe` node: report by exception, "filter" in the palette."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import Bench, batch_is_one_by_one, msg, refused
from voltflow.nodes import rbe


def passed(values: list[Any], **properties: Any) -> list[Any]:
    return Bench("rbe", **properties).payloads(*map(msg, values))


@pytest.mark.parametrize(
    ("func", "values", "expected"),
    [
        ("rbe", [1, 1, 2, 2, 1], [1, 2, 1]),
        ("rbe", ["a", "a", "A"], ["a", "A"]),
        ("rbe", [1, "1", True, 1.0], [1, "1", True, 1.0]),
        ("rbe", [0, False, None, ""], [0, False, None, ""]),
        ("rbe", [{"a": [1]}, {"a": [1]}, {"a": [2]}], [{"a": [1]}, {"a": [2]}]),
        ("rbe", [{"a": 1}, {"a": True}, {"a": 1, "b": 1}], [{"a": 1}, {"a": True}, {"a": 1, "b": 1}]),
        ("rbe", [[1, 2], [1, 2], [2, 1]], [[1, 2], [2, 1]]),
        ("rbe", [b"x", b"x", b"y"], [b"x", b"y"]),
        ("rbei", [1, 1, 2, 1], [2, 1]),
        ("rbei", [{"a": 1}, {"a": 1}, {"a": 2}], [{"a": 2}]),
    ],
)
def test_only_changes_pass(func: str, values: list[Any], expected: list[Any]) -> None:
    assert passed(values, func=func) == expected


@pytest.mark.parametrize(
    ("properties", "values", "expected"),
    [
        (dict(func="deadband", gap="10"), [0, 2, 4, 6, 8, 10, 15, 20, 26], [0, 15, 26]),
        (dict(func="deadbandEq", gap="10"), [0, 2, 8, 10, 15, 20], [0, 10, 20]),
        (dict(func="deadband", gap="10%"), [100, 109, 110, 111, 121, 123], [100, 111, 123]),
        (dict(func="deadbandEq", gap="10%"), [100, 109, 110], [100, 110]),
        (dict(func="deadband", gap="2", inout="in"), [0, 1, 2, 3, 6], [0, 6]),
        (dict(func="deadband", gap=""), [1, 1, 2], [1, 2]),
        (dict(func="deadband", gap="1"), ["5 V", "6.5 V", "7"], ["5 V", "6.5 V"]),
        (dict(func="narrowband", gap="10"), [100, 111, 110, 99, 121, 120], [100, 110, 120]),
        (dict(func="narrowbandEq", gap="10"), [100, 110, 109, 119], [100, 109]),
        (dict(func="narrowband", gap="10%"), [100, 110, 122, 121], [100, 110, 121]),
        (dict(func="narrowband", gap="10", start="50"), [100, 60, 70], [60, 70]),
        (dict(func="narrowband", gap="10", inout="in"), [0, 5, 20, 25], [0, 5, 25]),
    ],
    ids=str,
)
def test_bands(properties: dict[str, Any], values: list[Any], expected: list[Any]) -> None:
    assert passed(values, **properties) == expected


def test_each_topic_has_its_own_value() -> None:
    msgs = [msg(1, "a"), msg(1, "b"), msg(1, "a"), msg(2, "b"), msg(1)]
    assert Bench("rbe")(*msgs) == [msgs[0], msgs[1], msgs[3], msgs[4]]
    assert Bench("rbe", septopics=False)(*msgs) == [msgs[0], msgs[3], msgs[4]]


def test_topics_may_be_another_property() -> None:
    msgs = [msg(1, "a", pack="P1"), msg(1, "b", pack="P1"), msg(1, "b", pack="P2")]
    assert Bench("rbe", topi="pack")(*msgs) == [msgs[0], msgs[2]]


def test_other_property_is_compared_and_a_message_without_it_ends_here() -> None:
    bench = Bench("rbe", property="payload.soc")
    assert bench.payloads(msg({"soc": 1, "t": 1}), msg({"soc": 1, "t": 2}), msg({"t": 3})) == [
        {"soc": 1, "t": 1}
    ]


def test_reset_forgets_a_topic_or_all() -> None:
    bench = Bench("rbe")
    again = [msg(1, "a"), msg(1, "b")]
    assert bench(*again) == again
    assert bench(msg(None, "a", reset=True)) == []
    assert bench(*again) == [again[0]]
    assert bench(msg(None, reset=True)) == []
    assert bench(*again) == again
    with_value = msg(1, "a", reset=True)
    assert bench(with_value) == [with_value]


def test_what_is_no_number_fails_a_band_and_changes_nothing() -> None:
    with pytest.raises(TypeError, match=r"^msg\.payload is 'abc', expected a number$"):
        Bench("rbe", func="deadband", gap="1")(msg("abc"))
    found = batch_is_one_by_one(
        "rbe", [msg(1), msg(2), msg("abc"), msg(2), msg(5)], func="deadband", gap="0.5"
    )
    assert [made["payload"] for made in found["ports"][0]] == [1, 2, 5]


def test_wrong_properties_are_named() -> None:
    assert refused("rbe", gap="5 V") == (
        "property \"gap\": '5 V' is neither a number nor a percentage such as 5%"
    )
    assert refused("rbe", gap=".").startswith('property "gap"')
    assert refused("rbe", start="x") == "property \"start\": 'x' is not a number"
    assert refused("rbe", topi="a..b").startswith('property "topi": ')
    assert "property \"func\": 'rb' is not one of" in refused("rbe", func="rb")


def test_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rbe, "MOST_TOPICS", 2)
    found = batch_is_one_by_one("rbe", [msg(1, topic) for topic in "abcca"])
    assert [made["topic"] for made in found["ports"][0]] == ["a", "b", "c", "a"]


messages = st.builds(
    lambda payload, topic, reset: msg(payload, topic, **({"reset": True} if reset else {})),
    st.sampled_from([1, 2, 2.5, 10, "3", "x", None, {"a": 1}]),
    st.sampled_from(["", "a", "b"]),
    st.integers(0, 9).map(lambda number: number == 0),
)


@given(
    st.lists(messages, max_size=12),
    st.sampled_from(rbe.FUNCTIONS),
    st.sampled_from(["", "1", "50%"]),
    st.sampled_from(["in", "out"]),
    st.booleans(),
)
def test_batch_is_one_by_one(msgs: list[Any], func: str, gap: str, inout: str, septopics: bool) -> None:
    batch_is_one_by_one("rbe", msgs, func=func, gap=gap, inout=inout, septopics=septopics)
