"""The `range` node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import Bench, batch_is_one_by_one, msg, refused

TO_100: dict[str, Any] = dict(minin="0", maxin="10", minout="0", maxout="100")


@pytest.mark.parametrize(
    ("action", "value", "expected"),
    [
        ("scale", 5, [50]),
        ("scale", -1, [-10]),
        ("scale", "2.5", [25]),
        ("scale", 12, [120]),
        ("scale", True, [10]),
        ("scale", "0x0a", [100]),
        ("scale", "", [0]),
        ("scale", [3], [30]),
        ("clamp", 12, [100]),
        ("clamp", -3, [0]),
        ("clamp", 3, [30]),
        ("roll", 12, [20]),
        ("roll", -1, [90]),
        ("roll", 10, [0]),
        ("roll", -20, [0]),
        ("drop", 10, [100]),
        ("drop", 0, [0]),
        ("drop", 10.1, []),
        ("drop", -0.1, []),
    ],
)
def test_number_is_scaled(action: str, value: Any, expected: list[Any]) -> None:
    assert Bench("range", **TO_100, action=action).payloads(msg(value)) == expected


def test_range_that_falls_is_turned_round() -> None:
    falling = Bench("range", minin=10, maxin=0, minout=0, maxout=100, action="clamp")
    assert falling.payloads(msg(10), msg(0), msg(7), msg(-5)) == [0, 100, 30, 100]


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (2.5, 3), (3.4, 3), (-2.5, -2), (-0.4, 0)])
def test_rounding_takes_halves_up(value: float, expected: int) -> None:
    same = Bench("range", minin=-10, maxin=10, minout=-10, maxout=10, round=True)
    assert same.payloads(msg(value)) == [expected]


def test_rounding_keeps_the_result_within_the_output_range() -> None:
    bench = Bench("range", minin=0, maxin=10, minout=0.4, maxout=5.6, round=True)
    assert bench.payloads(msg(0), msg(10)) == [1, 5]


def test_other_property_is_scaled_and_the_rest_stays() -> None:
    before = msg({"soc": 5, "id": "P1"})
    [made] = Bench("range", **TO_100, property="payload.soc")(before)
    assert made.payload == {"soc": 50, "id": "P1"}
    assert before.payload == {"soc": 5, "id": "P1"}


def test_message_without_the_property_passes() -> None:
    without = [msg(None), msg({"a": 1})]
    assert Bench("range", **TO_100)(without[0]) == [without[0]]
    assert Bench("range", **TO_100, property="payload.soc")(without[1]) == [without[1]]


def test_what_is_no_number_fails() -> None:
    with pytest.raises(TypeError, match=r"^msg\.payload is '12 V', expected a number$"):
        Bench("range", **TO_100)(msg("12 V"))


def test_wrong_properties_are_named() -> None:
    assert refused("range", **{**TO_100, "maxin": 0}) == (
        'property "maxin": 0 is also where the range begins; give it a width'
    )
    assert refused("range", minin=0).startswith('property "maxin" is missing')
    assert "property \"action\": 'squeeze' is not one of" in refused("range", **TO_100, action="squeeze")
    assert refused("range", **TO_100, property="payload..a").startswith('property "property": ')
    assert refused("range", **{**TO_100, "maxout": "nan"}).startswith(
        'property "maxout": nan is out of range'
    )


values: st.SearchStrategy[Any] = st.one_of(
    st.floats(-1e6, 1e6), st.integers(-100, 100), st.sampled_from(["7", "x", None, [], True])
)


@given(
    st.lists(values.map(msg), max_size=8),
    st.sampled_from(["scale", "clamp", "roll", "drop"]),
    st.booleans(),
)
def test_batch_is_one_by_one(msgs: list[Any], action: str, rounds: bool) -> None:
    batch_is_one_by_one("range", msgs, **TO_100, action=action, round=rounds)


@given(st.floats(-1e9, 1e9))
def test_roll_and_clamp_stay_within_the_output_range(value: float) -> None:
    for action in ("roll", "clamp"):
        [made] = Bench("range", **TO_100, action=action).payloads(msg(value))
        assert 0 <= made <= 100
