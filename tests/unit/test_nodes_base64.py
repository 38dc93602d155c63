"""The `base64` node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms import Bench, batch_is_one_by_one, msg, refused
from voltflow.message import Msg


@pytest.mark.parametrize(
    ("action", "payload", "expected"),
    [
        ("", b"\x00\x01\xff", "AAH/"),
        ("", "AAH/", b"\x00\x01\xff"),
        ("", "aGVs\nbG8=", b"hello"),
        ("", "hello!", "aGVsbG8h"),
        ("", "", b""),
        ("", "a===", "YT09PQ=="),
        ("str", "héllo", "aMOpbGxv"),
        ("str", b"hi", "aGk="),
        ("str", {"a": 1}, "eyJhIjoxfQ=="),
        ("str", 5, "NQ=="),
        ("str", "aGk=", "YUdrPQ=="),
        ("b64", "aMOpbGxv", "héllo"),
        ("b64", " aGk= ", "hi"),
        ("b64", "/w==", "�"),
    ],
)
def test_conversion(action: str, payload: Any, expected: Any) -> None:
    assert Bench("base64", action=action).payloads(msg(payload)) == [expected]


def test_another_property_is_converted() -> None:
    before = msg({"image": b"hi"})
    assert Bench("base64", property="payload.image").payloads(before) == [{"image": "aGk="}]
    assert before.payload == {"image": b"hi"}


@pytest.mark.parametrize(
    ("action", "payload", "problem"),
    [
        ("", 5, "msg.payload is int, expected a text"),
        ("", None, "the message has no msg.payload"),
        ("b64", "no!", "msg.payload is not Base64: 'no!'"),
        ("b64", "abc", "msg.payload is not Base64: 'abc'"),
        ("b64", b"aGk=", "msg.payload is bytes, expected a text"),
    ],
)
def test_what_cannot_be_converted_fails(action: str, payload: Any, problem: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        Bench("base64", action=action)(msg(payload))
    assert str(caught.value) == problem


def test_wrong_properties_are_named() -> None:
    assert refused("base64", property="a..b").startswith('property "property": ')
    assert "property \"action\": 'b' is not one of" in refused("base64", action="b")


@given(st.binary())
def test_there_and_back_is_the_same(data: bytes) -> None:
    bench = Bench("base64")
    assert bench.payloads(msg(bench.payloads(msg(data))[0])) == [data]


VALUES = st.sampled_from([b"x", "aGk=", "no!", 5, None, {"a": 1}])


@given(st.lists(st.builds(msg, VALUES), max_size=8), st.sampled_from(["", "str", "b64"]))
def test_batch_is_one_by_one(msgs: list[Msg], action: str) -> None:
    batch_is_one_by_one("base64", msgs, action=action)
