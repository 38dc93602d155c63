"""What the client writes and matches by itself, against paho-mqtt and gmqtt as independent readers."""

from __future__ import annotations

from typing import Any

import paho.mqtt.client as paho
import pytest
from gmqtt.mqtt.utils import unpack_variable_byte_integer
from hypothesis import given
from hypothesis import strategies as st

from voltflow.mqtt.codec import DUP, PUBLISH, check_filter, matches, publish_packet, reason_text, varint
from voltflow.mqtt.properties import encode_properties

LEVEL = st.sampled_from(["a", "b", "", "ä", "$x"])
TOPICS = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)
FILTERS = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(LEVEL | st.just("+"), max_size=4), st.sampled_from([[], ["#"]]),
).filter(bool)  # fmt: skip
TEXT = st.text(st.sampled_from("aä😀 /"), max_size=50)
PROPS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({}, optional={
    "responseTopic": TOPICS, "correlationData": st.binary(max_size=200), "contentType": TEXT,
    "messageExpiryInterval": st.integers(0, 2**32 - 1), "payloadFormatIndicator": st.booleans(),
    "userProperties": st.dictionaries(TEXT, TEXT, min_size=1, max_size=20),
})  # fmt: skip


@given(FILTERS, TOPICS)
def test_filter_matches_what_paho_says(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic) == paho.topic_matches_sub(topic_filter, topic)


@given(FILTERS, TOPICS)
def test_name_of_a_shared_subscription_does_not_matter(topic_filter: str, topic: str) -> None:
    assert matches(f"$share/group/{topic_filter}", topic) == matches(topic_filter, topic)


@given(FILTERS)
def test_filter_is_taken_with_and_without_the_name_of_a_share(topic_filter: str) -> None:
    assert check_filter(topic_filter) == topic_filter
    assert check_filter(f"$share/group/{topic_filter}").endswith(topic_filter)


@pytest.mark.parametrize(
    "topic_filter",
    ["", "a/#/c", "a#", "#/a", "a+/b", "+a", "$share", "$share/g", "$share/g/", "$share//a", "$share/+/a", "a\0", "a" * 65536],
)  # fmt: skip
def test_filter_that_is_none_is_refused(topic_filter: str) -> None:
    with pytest.raises(ValueError, match=r"^not a topic filter: "):
        check_filter(topic_filter)


@given(st.integers(0, 268_435_455))
def test_variable_byte_integer_is_read_back_by_gmqtt(value: int) -> None:
    encoded = varint(value)
    assert unpack_variable_byte_integer(encoded + b"rest") == (value, b"rest")
    assert len(encoded) == 1 + (value > 127) + (value > 16_383) + (value > 2_097_151)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=200),
    st.binary(max_size=20_000), st.sampled_from([0, 1, 2]), st.booleans(), st.booleans(), st.integers(1, 65535),
    st.booleans(), PROPS,
)  # fmt: skip
def test_publish_packet_is_read_back_by_paho(
    topic: str, payload: bytes, qos: int, retain: bool, dup: bool, mid: int, v5: bool, props: dict[str, Any]
) -> None:
    flags = PUBLISH | qos << 1 | retain | (DUP if dup and qos else 0)
    packet = publish_packet(flags, topic, mid if qos else 0, payload, encode_properties(props) if v5 else b"")
    got = read_with_paho(packet, v5)
    assert (got.topic, got.payload, got.qos, got.retain, got.dup, got.mid) == (
        topic, payload, qos, retain, bool(dup and qos), mid if qos else 0,
    )  # fmt: skip
    assert not v5 or properties_by_paho(got) == props


def properties_by_paho(got: paho.MQTTMessage) -> dict[str, Any]:
    """Under the names of messages."""
    found = {} if got.properties is None else dict(vars(got.properties))
    pairs = found.pop("UserProperty", [])
    assert len(dict(pairs)) == len(pairs)
    users = {"userProperties": dict(pairs)} if pairs else {}
    return {name[0].lower() + name[1:]: value for name, value in found.items() if name[0].isupper()} | users


@pytest.mark.parametrize(
    ("props", "error"),
    [
        ({"messageExpiryInterval": 2**32}, "messageExpiryInterval: 4294967296 is not from 0 to 4294967295 s"),
        ({"contentType": "a\nb"}, r"contentType: a broker may take no text with '\\n'"),
        ({"contentType": "\ud800"}, "contentType: a broker may take no text"),
        ({"contentType": "\U0001ffff"}, "contentType: a broker may take no text"),
        ({"responseTopic": "a/+"}, "not a topic to publish to: 'a/\\+'"),
        ({"correlationData": b"x" * 65536}, "correlationData: 65536 bytes, at most 65535 can be sent"),
        ({"userProperties": {"n": "ä" * 40000}}, "userProperties: 80000 bytes"),
    ],
)
def test_properties_that_a_broker_would_close_the_connection_on_are_refused(
    props: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        encode_properties(props)


def read_with_paho(packet: bytes, v5: bool) -> paho.MQTTMessage:
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5 if v5 else paho.MQTTv311, manual_ack=True
    )
    seen: list[paho.MQTTMessage] = []
    client.on_message = lambda _client, _userdata, message: seen.append(message)
    length, rest = unpack_variable_byte_integer(packet[1:])
    assert length == len(rest), "the Remaining Length is that of the rest"
    client._in_packet["command"] = packet[0]
    client._in_packet["packet"] = bytearray(rest)
    client._in_packet["remaining_length"] = length
    client._handle_publish()
    return seen[0] if seen else next(iter(client._in_messages.values()))


@pytest.mark.parametrize(("code", "text"), [(0x87, "0x87 (not authorized)"), (0x80, "0x80")])
def test_reason_code_is_named_where_an_operator_can_do_something(code: int, text: str) -> None:
    assert reason_text(code) == text
