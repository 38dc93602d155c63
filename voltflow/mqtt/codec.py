"""What the MQTT client reads and writes by itself: packet types, reason codes, PUBLISH packets, topic filters."""

from __future__ import annotations

import itertools
from functools import lru_cache

PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT = (
    0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xB0, 0xE0,
)  # fmt: skip
"""Packet types (MQTT 5, 2.1.2), in the upper half of the first byte."""

DUP = 0x08
RETAIN = 0x01
UNSUPPORTED_VERSION = 0x84
PACKET_TOO_LARGE = 0x95
NO_SUBSCRIBER = 0x10
"""In PUBACK and PUBREC: the message was taken, and nobody was there to get it (MQTT 5, 3.4.2.1)."""
DISCONNECT_WITH_WILL = 0x04
TRY_AGAIN = {NO_SUBSCRIBER, 0x91, 0x97}
"""Reason codes of a PUBACK or PUBREC that say nothing about the message: later the broker may take it."""
CLOSED_ON_IT = 0x100
"""No code of MQTT's: the broker closed the connection each time it got the message, as one of 3.1.1 refuses it."""
TAKEN_OVER = 0x8E
OTHER_CAUSES = {0x89, 0x8B, 0x8D, TAKEN_OVER, 0x97, 0x98, 0x9C, 0x9D, 0x9F, 0xA0}
"""Reason codes of a DISCONNECT that no message caused: busy, shut down, taken over, moved and their like."""
REASONS = {
    NO_SUBSCRIBER: "nobody subscribes to it",
    0x87: "not authorized",
    0x8B: "the broker shuts down",
    0x8D: "keep-alive timeout",
    TAKEN_OVER: "another client came with the same client id",
    0x91: "packet identifier in use",
    0x93: "Receive Maximum exceeded",
    PACKET_TOO_LARGE: "packet too large",
    0x97: "quota exceeded",
    CLOSED_ON_IT: "it closed the connection each time it got the message",
}
"""Reason codes (MQTT 5, 2.4) that an operator can do something about."""


def reason_text(code: int) -> str:
    """A reason code for people.

    >>> reason_text(0x95), reason_text(0x83)
    ('0x95 (packet too large)', '0x83')
    >>> reason_text(CLOSED_ON_IT)
    'none (it closed the connection each time it got the message)'
    """
    if code > 0xFF:
        return f"none ({REASONS[code]})"
    return f"{code:#x} ({REASONS[code]})" if code in REASONS else f"{code:#x}"


NO_PROPERTIES = b"\x00"
"""The properties of a PUBLISH of MQTT 5 that has none."""


def publish_packet(flags: int, topic: str, mid: int, payload: bytes, properties: bytes) -> bytes:
    """A PUBLISH packet (MQTT 5, 3.3); `flags` is the first byte, `mid` is 0 at QoS 0, `properties` with their length
    (empty at 3.1.1)."""
    encoded = _length_and_topic(topic)
    identifier = mid.to_bytes(2) if mid else b""
    length = varint(len(encoded) + len(identifier) + len(properties) + len(payload))
    return b"%c%b%b%b%b%b" % (flags, length, encoded, identifier, properties, payload)


@lru_cache(maxsize=65536)
def _length_and_topic(topic: str) -> bytes:
    encoded = topic.encode()
    return len(encoded).to_bytes(2) + encoded


def varint(value: int) -> bytes:
    """A Variable Byte Integer (MQTT 5, 1.5.5).

    >>> varint(127), varint(128), varint(16384)
    (b'\\x7f', b'\\x80\\x01', b'\\x80\\x80\\x01')
    """
    if value < 128:
        return bytes((value,))
    if value < 16384:
        return bytes((value & 0x7F | 0x80, value >> 7))
    encoded = bytearray()
    while True:
        value, digit = value >> 7, value & 0x7F
        encoded.append(digit | 0x80 if value else digit)
        if not value:
            return bytes(encoded)


@lru_cache(maxsize=1024)
def _levels(topic_filter: str) -> tuple[str, ...]:
    parts = topic_filter.split("/")
    return tuple(parts[2:] if parts[0] == "$share" else parts)


def check_filter(topic_filter: str) -> str:
    """The topic filter, when it is one (MQTT 5, 4.7.1 and 4.8.2); raises ValueError.

    >>> check_filter("$share/bridges/ev/v1/+/#")
    '$share/bridges/ev/v1/+/#'
    >>> check_filter("a/#/c")
    Traceback (most recent call last):
    ValueError: not a topic filter: 'a/#/c': # stands alone in the last level only
    """
    parts, wrong = topic_filter.split("/"), ""
    if parts[0] == "$share":
        if len(parts) < 3 or not parts[1] or "+" in parts[1] or "#" in parts[1]:
            wrong = "a shared subscription is $share/NAME/FILTER, without wildcards in the name"
        parts = parts[2:]
    if not any(parts) and len(parts) <= 1:
        wrong = wrong or "it is empty"
    elif any("#" in part for part in parts[:-1]) or ("#" in parts[-1] and parts[-1] != "#"):
        wrong = wrong or "# stands alone in the last level only"
    elif any("+" in part and part != "+" for part in parts):
        wrong = wrong or "+ stands alone in its level"
    elif "\0" in topic_filter or len(topic_filter.encode(errors="surrogatepass")) > 65535:
        wrong = wrong or "at most 65535 bytes, no NUL"
    if wrong:
        raise ValueError(f"not a topic filter: {topic_filter[:100]!r}: {wrong}")
    return topic_filter


@lru_cache(maxsize=65536)
def check_topic(topic: str) -> str:
    """The topic, when it can be published to; raises ValueError (MQTT 5, 4.7.3).

    >>> check_topic("ev/v1/demo/SIM000001/cmd")
    'ev/v1/demo/SIM000001/cmd'
    """
    if not topic or "#" in topic or "+" in topic or "\0" in topic or len(topic.encode()) > 65535:
        raise ValueError(f"not a topic to publish to: {topic[:100]!r}")
    return topic


def overlap(one: str, other: str) -> bool:
    """Whether a topic can belong to both filters.

    >>> overlap("a/+/c", "a/b/#"), overlap("a/#", "a"), overlap("a/+", "a/+/c"), overlap("$share/g/a", "a")
    (True, True, False, True)
    """
    for mine, its in itertools.zip_longest(_levels(one), _levels(other)):
        if "#" in (mine, its):
            return True
        if mine is None or its is None or ("+" not in (mine, its) and mine != its):
            return False
    return True


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic belongs to a filter (MQTT 5, 4.7), the share name of a shared subscription aside.

    >>> matches("ev/v1/+/+/telemetry", "ev/v1/f/p/telemetry"), matches("$share/g/ev/#", "ev/v1")
    (True, True)
    >>> matches("#", "$SYS/uptime"), matches("a/+", "a/b/c")
    (False, False)
    """
    pattern, levels = _levels(topic_filter), topic.split("/")
    if topic.startswith("$") and pattern[0] in ("+", "#"):
        return False
    for index, part in enumerate(pattern):
        if part == "#":
            return True
        if index >= len(levels) or part not in ("+", levels[index]):
            return False
    return len(pattern) == len(levels)
