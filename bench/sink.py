"""The sink: a process that acknowledges what a system under test publishes, and counts every single message.

It finds pack and sequence number where they stand in the first message: their widths are fixed. With `record` the
first messages are kept in a file, for a load of the bridge.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from bench import wire
from bench.board import CONTROL, Board
from bench.names import FIRST_SEQ


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner asks for. `patient`: read once a millisecond, which costs less CPU and spoils latencies."""

    board: str
    packs: int
    rounds: int
    port: int
    filters: tuple[str, ...]
    first_round: int = 0
    patient: bool = False
    record: int = 0
    record_path: str = ""


_RECEIVED, _PROBES, _DEAD, _STRANGE = (CONTROL.index(n) for n in ("received", "probes", "dead", "strange"))


class Sink:
    """One connection that never stops reading."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.board = Board(Path(order.board), order.packs, order.rounds)
        self.connection = wire.connect(order.port, "bench-sink")
        wire.subscribe(self.connection, *order.filters)
        self.first_seq = FIRST_SEQ + order.first_round
        self.recorded: list[tuple[str, bytes]] = []
        self.pack_at = self.seq_at = 0
        # A memoryview is three times faster than an array where one number at a time is written.
        board = self.board
        self.seen, self.took_s, self.sent_at_s, self.control = map(
            _fast, (board.seen, board.took_s, board.sent_at_s, board.control)
        )

    def run(self) -> None:
        print("ready", flush=True)
        self.connection.settimeout(None)
        rest = b""
        while True:
            data = self.connection.recv(wire.RECEIVE_BYTES)
            if not data:
                return
            now = time.monotonic()
            rest = self._take(rest + data, now)
            if self.order.patient:
                time.sleep(0.001)

    def _take(self, data: bytes, now: float) -> bytes:
        """Acknowledge and count the whole packets; returns what is left of the last."""
        acks: list[bytes] = []
        position, end = 0, len(data)
        while end - position >= 4:
            length = data[position + 1]
            start = position + 2
            if length & 0x80:
                length = length & 0x7F | (data[start] & 0x7F) << 7
                start += 1
                if data[start - 1] & 0x80:
                    length |= (data[start] & 0x7F) << 14
                    start += 1
            if start + length > end:
                break
            topic_end = start + 2 + (data[start] << 8 | data[start + 1])
            payload = topic_end + 2
            acks.append(data[topic_end:payload])
            self._count(data, start + 2, topic_end, payload, now)
            if len(self.recorded) < self.order.record:
                self._record(data[start + 2 : topic_end].decode(), data[payload : start + length])
            position = start + length
        if acks:
            self.connection.sendall(b"\x40\x02" + b"\x40\x02".join(acks))
        return data[position:]

    def _count(self, data: bytes, topic: int, topic_end: int, payload: int, now: float) -> None:
        board, control = self.board, self.control
        if data.endswith(b"/dead", topic, topic_end):
            control[_DEAD] += 1
            return
        if not self.pack_at:
            self.pack_at = data.index(b'"pack":"', payload) - payload + 9
            self.seq_at = data.index(b'"seq":', payload) - payload + 6
        seq_at = payload + self.seq_at
        seq_text = data[seq_at : seq_at + 7]
        if not seq_text.isdigit():
            control[_PROBES if seq_text.startswith(b"0,") else _STRANGE] += 1
            self.pack_at = 0 if seq_text.startswith(b"0,") else self.pack_at
            return
        pack_at = payload + self.pack_at
        round_ = int(seq_text) - self.first_seq
        if not 0 <= round_ < board.rounds:
            control[_STRANGE] += 1
            return
        place = round_ * board.packs + int(data[pack_at : pack_at + 5])
        self.seen[place] += 1
        self.took_s[place] = now - self.sent_at_s[place]
        control[_RECEIVED] += 1

    def _record(self, topic: str, payload: bytes) -> None:
        self.recorded.append((topic, payload))
        if len(self.recorded) == self.order.record:
            Path(self.order.record_path).write_bytes(pickle.dumps(self.recorded))


def _fast(array: Any) -> Any:
    return memoryview(array)


def main() -> None:
    Sink(msgspec.json.decode(sys.argv[1], type=Order)).run()


if __name__ == "__main__":
    main()
