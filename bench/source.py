"""The load source: a process that publishes telemetry of many packs at QoS 1, as fast as allowed or at a fixed rate.

Messages are put together from bytes made beforehand; only sequence number, times and packet identifier are new. What
is under way is bounded twice: by what the broker has not confirmed and by what the sink has not got, so that the broker
never holds more than `window` messages and drops none. The loop waits for the system under test, never the other way.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

import msgspec

from bench import wire
from bench.board import Board
from bench.names import FIRST_SEQ, head, telemetry_topic
from bench.traces import START_S, STEP_S, load

MIDS = [mid.to_bytes(2) for mid in range(1, 65536)]
CHUNK = 100
"""Messages that leave in one write at full speed."""
STAGGER = 10
"""Rounds over which the packs join, so that what is due every 10 s of device time is not due for all at once."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner asks for. `rate` in messages/s, 0: as fast as the window allows. `sink`: one is counting."""

    board: str
    packs: int
    rounds: int
    port: int
    traces: str
    window: int = 4000
    rate: float = 0.0
    first_round: int = 0
    sink: bool = True


class Source:
    """One connection and where it is in the load."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.board = Board(Path(order.board), order.packs, order.rounds)
        made = load(Path(order.traces))
        self.tails = made.tails
        topics = [wire.text(telemetry_topic(pack)) for pack in range(order.packs)]
        heads = [head(pack) for pack in range(order.packs)]
        self.packs = [(topics[i], heads[i], self.tails[i % len(self.tails)]) for i in range(order.packs)]
        self.fixed = len(topics[0]) + 2 + len(heads[0]) + len(self._mark(0, 0))
        longest = max(len(tail) for trace in self.tails for tail in trace)
        self.begins = [b"\x32" + wire.varint(self.fixed + length) for length in range(longest + 1)]
        self.connection = wire.connect(order.port, "bench-source")
        self.published = self.confirmed = self.confirmation_bytes = 0

    def _mark(self, step: int, now_ms: int) -> bytes:
        """Sequence number and times of a round."""
        ts_ms = round((START_S + step * STEP_S) * 1000)
        return f'{FIRST_SEQ + step},"ts_ms":{ts_ms},"sent_ms":{now_ms:013d}'.encode()

    def run(self) -> None:
        board = self.board
        while not board.get("go"):
            time.sleep(0.005)
        self.connection.setblocking(False)
        try:
            if self.order.rate:
                self._at_rate()
            else:
                self._at_full_speed()
            while self.confirmed < self.published:
                time.sleep(0.005)
                self._take_confirmations()
        finally:
            board.set("source_ended", 1)

    # -- pace ---------------------------------------------------------------------------------------------------

    def _at_full_speed(self) -> None:
        order, board = self.order, self.board
        for round_ in range(order.rounds):
            for start in range(0, order.packs, CHUNK):
                if board.get("stop"):
                    return
                self._wait_for_room()
                self._send(round_, start, min(start + CHUNK, order.packs))

    def _wait_for_room(self) -> None:
        """Sleep, rather than wake up at every confirmation: a source that spins takes the CPU of who is measured."""
        window, board = self.order.window, self.board
        self._take_confirmations()
        while (
            self.published - self.confirmed > window
            or (self.order.sink and self.published - board.get("received") > window)
        ) and not board.get("stop"):
            time.sleep(0.001)
            self._take_confirmations()

    def _at_rate(self) -> None:
        """One write a message, each at its own time, as from devices that know nothing of each other."""
        order, board = self.order, self.board
        started, count = time.monotonic(), 0
        for round_ in range(order.rounds):
            for pack in range(order.packs):
                if board.get("stop"):
                    return
                due = started + count / order.rate
                while (left := due - time.monotonic()) > 0:
                    time.sleep(left)
                self._take_confirmations()
                self._send(round_, pack, pack + 1)
                count += 1

    # -- network ------------------------------------------------------------------------------------------------

    def _send(self, round_: int, start: int, end: int) -> None:
        step = self.order.first_round + round_
        mark = self._mark(step, time.time_ns() // 1_000_000)
        begins, mids, mid = self.begins, MIDS, self.published
        joining = step < STAGGER
        parts: list[bytes] = []
        for pack in range(start, end):
            if joining and pack % STAGGER > step:
                continue
            topic, begin, trace = self.packs[pack]
            tail = trace[(step + pack * 7) % len(trace)]
            parts += (begins[len(tail)], topic, mids[mid % 65535], begin, mark, tail)
            mid += 1
        place = round_ * self.order.packs
        now = time.monotonic()
        if joining:
            for pack in range(start, end):
                if pack % STAGGER <= step:
                    self.board.sent_at_s[place + pack] = now
        else:
            self.board.sent_at_s[place + start : place + end] = now
        self._write(b"".join(parts))
        self.published = mid
        self.board.set("published", mid)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.connection.send(view) :]
            except BlockingIOError:
                select.select([self.connection], [self.connection], [])
                self._take_confirmations()

    def _take_confirmations(self) -> None:
        """PUBACK of MQTT 3.1.1 has four bytes and nothing in them that a counter needs."""
        try:
            data = self.connection.recv(wire.RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("the broker closed the source's connection")
        self.confirmation_bytes += len(data)
        self.confirmed = self.confirmation_bytes // 4
        self.board.set("confirmed", self.confirmed)


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    source = Source(order)
    try:
        source.run()
    finally:
        source.connection.shutdown(socket.SHUT_RDWR)
        source.connection.close()


if __name__ == "__main__":
    main()
