"""The devices of `bench.loss` and `bench.soak`: telemetry at a fixed rate, at QoS 1 or 2, each message written down first.

The broker they publish to is never troubled, so a connection that ends makes the whole run invalid. SIGTERM ends the
load in good order: what is under way is waited for.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from bench import wire
from bench.loss_log import Log
from bench.names import head, telemetry_topic
from bench.traces import load

PUBACK, PUBREC, PUBCOMP = 0x40, 0x50, 0x70
WINDOW = 1000
"""Messages under way unconfirmed; far fewer than packet identifiers."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner asks for. `rate` in messages/s; `messages` 0: until SIGTERM."""

    port: int
    traces: str
    log: str
    packs: int
    rate: float
    messages: int = 0
    qos: int = 1


class Source:
    """One connection that speaks for all packs, one after the other."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.log = Log(Path(order.log))
        self.tails = load(Path(order.traces)).tails
        self.packs = [(telemetry_topic(pack), head(pack)) for pack in range(order.packs)]
        self.connection = wire.connect(order.port, "bench-devices")
        self.connection.setblocking(False)
        self.published = self.confirmed = 0
        self.stopped = False
        self._rest = b""

    def run(self) -> None:
        """Say when it begins, publish, and say at the end how much was published and confirmed."""
        self.started_s = time.monotonic()
        print(f"started {self.started_s}", flush=True)
        while not self.stopped and (not self.order.messages or self.published < self.order.messages):
            self._wait_until(self.started_s + self.published / self.order.rate)
            self._publish()
            if self.published % 64 == 0:
                self.log.flush()
        self.log.flush()
        while self.confirmed < self.published:
            self._take(1.0)
        print(f"ended {self.published}", flush=True)

    def _wait_until(self, due_s: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0 and not self.stopped:
            self._take(left_s)
        self._take(0.0)
        while self.published - self.confirmed >= WINDOW:
            self._take(1.0)

    def _publish(self) -> None:
        """A pack's values change with the time, however often it reports them."""
        now_s, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        seq, pack = divmod(self.published, self.order.packs)
        topic, begin = self.packs[pack]
        trace = self.tails[pack % len(self.tails)]
        tail = trace[(int(now_s - self.started_s) + pack * 7) % len(trace)]
        payload = begin + f'{seq},"ts_ms":{now_ms},"sent_ms":{now_ms}'.encode() + tail
        mid = self.published % 65535 + 1
        self.log.add(pack, seq, now_s)
        self._write(wire.packet(0x30 | self.order.qos << 1, wire.text(topic) + mid.to_bytes(2) + payload))
        self.published += 1

    # -- network ----------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.connection.send(view) :]
            except BlockingIOError:
                select.select([], [self.connection], [], 1.0)

    def _take(self, wait_s: float) -> None:
        """Wait for confirmations at most so long; all of them have four bytes."""
        if not select.select([self.connection], [], [], wait_s)[0]:
            return
        data = self.connection.recv(wire.RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the devices' broker closed the connection")
        data = self._rest + data
        whole = len(data) // 4 * 4
        self._rest = data[whole:]
        for i in range(0, whole, 4):
            if data[i] == PUBREC:
                self._write(b"\x62\x02" + data[i + 2 : i + 4])
            elif data[i] in (PUBACK, PUBCOMP):
                self.confirmed += 1
            else:
                raise ConnectionError(f"the devices' broker sent {data[i : i + 4]!r}")

    def stop(self) -> None:
        self.stopped = True


def main() -> None:
    source = Source(msgspec.json.decode(sys.argv[1], type=Order))
    signal.signal(signal.SIGTERM, lambda *_: source.stop())
    source.run()
    source.connection.shutdown(socket.SHUT_RDWR)
    source.connection.close()


if __name__ == "__main__":
    main()
