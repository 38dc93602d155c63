"""Takes the packets out of what was read: in the place of gmqtt's own loop, which costs three times as much a packet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gmqtt.mqtt.package import Package

TooLong = -1
"""What the loop answers when a length has more than four bytes (MQTT 5, 1.5.5): gmqtt then closes the connection."""


def packet_reader(connection: Any, on_packet: Callable[[int, bytes], bool]) -> Callable[[bytes], int]:
    """A `_read_packet` for gmqtt's protocol: bytes in, how many of them were whole packets out.

    `on_packet` gets a packet's first byte and what stands behind its length, and says whether it was its own; what
    was not goes to gmqtt. A connection that is no longer the client's is not listened to.
    """
    handler = connection._handler

    def read(data: bytes) -> int:
        position, end = 0, len(data)
        current = handler.current_connection is connection
        if current and end >= 2:
            connection._last_data_in = time.monotonic()
        while end - position >= 2:
            first, length, start = data[position], data[position + 1], position + 2
            if length & 0x80:
                length, start = _long_length(data, start, end, length & 0x7F)
                if length < 0:
                    return TooLong if start < 0 else position
            stop = start + length
            if stop > end:
                break
            packet = data[start:stop]
            position = stop
            if current and not on_packet(first, packet):
                connection.put_package(Package(first, packet))
                current = handler.current_connection is connection
        return position

    return read


def _long_length(data: bytes, start: int, end: int, length: int) -> tuple[int, int]:
    """The rest of a Variable Byte Integer and where it ends; a negative length: not all here, with -1: too long."""
    for shift in (7, 14, 21):
        if start >= end:
            return -1, start
        digit = data[start]
        start += 1
        length |= (digit & 0x7F) << shift
        if not digit & 0x80:
            return length, start
    return -1, -1
