"""One measurement: a fresh broker, one system under test, the load source and the sink, each a process of its own."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench import sink, source, wire
from bench.board import Board
from bench.names import BOOT, PROBE_SEQ, head, pack_name, state_topic, telemetry_topic
from bench.systems import Process, System
from bench.traces import START_S, Traces, traces
from tests import servers

READY_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 20.0
IDLE_S = 2.0
MAX_MESSAGES_PER_S = 60_000
"""More than any system here can do: how much room a board gets."""
BRIEF_S = 3.0
FIXED_RATE = 2000.0
FIXED_RATE_WARM_UP = 0.2


class Result(msgspec.Struct, kw_only=True):
    """What one measurement gave. Times per message in microseconds of CPU; `missing` and `again` ought to be 0."""

    system: str
    packs: int
    payload: str
    payload_bytes: int
    messages_s: float
    cpu_us: float
    broker_us: float
    source_us: float
    sink_us: float
    rss_idle_mb: float
    rss_loaded_mb: float
    published: int
    missing: int
    again: int
    dead: int
    strange: int
    latency_ms: list[float] = []
    latency_missing: int = 0
    error: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how much."""

    seconds: float = 10.0
    warm_up_s: float = 3.0
    latency_s: float = 8.0
    window: int = 4000


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Whose messages: so many packs, `full` (about 840 bytes) or `short` (about 350)."""

    packs: int
    payload: str = "full"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Rig:
    """Broker, source and sink around one system under test."""

    def __init__(self, broker: servers.Mosquitto, load: Load, plan: Plan, folder: Path) -> None:
        self.broker, self.load, self.plan, self.folder = broker, load, plan, folder
        self.traces_path, self.traces = traces(load.packs, load.payload, brief=plan.seconds < BRIEF_S)

    @contextlib.contextmanager
    def board(self, seconds: float, rate: float) -> Iterator[Board]:
        messages = seconds * (rate or MAX_MESSAGES_PER_S)
        board = Board.make(self.load.packs, int(messages / self.load.packs) + 20)
        try:
            yield board
        finally:
            board.remove()

    @contextlib.contextmanager
    def sink(
        self, board: Board, filters: tuple[str, ...], first_round: int, **more: Any
    ) -> Iterator[Process]:
        order = sink.Order(board=str(board.path), packs=board.packs, rounds=board.rounds, port=self.broker.port,
                           filters=filters, first_round=first_round, **more)  # fmt: skip
        with self._child("sink", order) as child:
            servers.wait_until(lambda: _alive(child) and "ready" in child.log, "the sink")
            yield child

    @contextlib.contextmanager
    def source(self, board: Board, **more: Any) -> Iterator[Process]:
        order = source.Order(board=str(board.path), packs=board.packs, rounds=board.rounds, port=self.broker.port,
                             traces=str(self.traces_path), **more)  # fmt: skip
        with self._child("source", order) as child:
            yield child

    @contextlib.contextmanager
    def _child(self, name: str, order: msgspec.Struct) -> Iterator[Process]:
        arguments = [sys.executable, "-m", f"bench.{name}", msgspec.json.encode(order).decode()]
        child = Process(arguments, self.folder, name)
        try:
            yield child
        finally:
            child.stop()

    def publish_nameplates(self) -> None:
        """The retained births of all packs."""
        messages = [(state_topic(i), nameplate(i, self.traces)) for i in range(self.load.packs)]
        wire.publish_all(self.broker.port, "bench-births", messages, retain=True)

    def wait_until_ready(self, board: Board, system: Process) -> None:
        """Send probes until one comes out at the other end."""
        tail = self.traces.tails[0][0]

        def answered() -> bool:
            system.check()
            ts_ms = round((START_S - 3600) * 1000 + time.monotonic() % 1000 * 1000)
            mark = f'{PROBE_SEQ},"ts_ms":{ts_ms},"sent_ms":{0:013d}'.encode().replace(b"0000000000000", b"0")
            probe = head(0) + mark + tail
            wire.publish_all(self.broker.port, "bench-probe", [(telemetry_topic(0), probe)])
            return board.get("probes") > 0

        try:
            servers.wait_until(answered, f"{system.name} to answer", READY_TIMEOUT_S, 0.1)
        except AssertionError as error:
            raise RuntimeError(f"{error}; it said: {system.log[-2000:]}") from None


def nameplate(pack: int, made: Traces) -> bytes:
    state = made.states[pack % len(made.states)]
    return msgspec.json.encode({**state, "pack": pack_name(pack), "boot": BOOT})


def measure(system: System, load: Load, plan: Plan) -> Result:
    """Full speed for `plan.seconds`, then the latency at a fixed rate."""
    with servers.mosquitto() as broker, tempfile.TemporaryDirectory(prefix="voltflow-bench-") as folder:
        rig = Rig(broker, load, plan, Path(folder))
        if system.needs_nameplates:
            rig.publish_nameplates()
        with system.running(broker.port) as process:
            result, rounds = _full_speed(rig, system, process)
            if plan.latency_s:
                _fixed_rate(rig, system, process, result, rounds)
    return result


def _full_speed(rig: Rig, system: System, process: Process) -> tuple[Result, int]:
    plan, load = rig.plan, rig.load
    with (
        rig.board(plan.warm_up_s + plan.seconds + 2, 0) as board,
        rig.sink(board, system.out_filters(), 0, patient=True) as receiver,
    ):
        rig.wait_until_ready(board, process)
        time.sleep(IDLE_S)
        idle_mb = process.rss_mb()
        with rig.source(board, window=plan.window) as sender:
            board.set("go", 1)
            time.sleep(plan.warm_up_s)
            watched = [process, _Broker(rig.broker), sender, receiver]
            before = _Reading.take(board, watched)
            loaded_mb = _watch(process, plan.seconds)
            after = _Reading.take(board, watched)
            board.set("stop", 1)
            drained(board, sender)
        missing, again = board.verdict()
        count = max(1, after.received - before.received)
        spent = [(b - a) / count * 1e6 for a, b in zip(before.cpu_s, after.cpu_s, strict=True)]
        result = Result(
            system=system.name, packs=load.packs, payload=load.payload, payload_bytes=_payload_bytes(rig.traces),
            messages_s=count / (after.at_s - before.at_s), cpu_us=spent[0], broker_us=spent[1], source_us=spent[2],
            sink_us=spent[3], rss_idle_mb=idle_mb, rss_loaded_mb=loaded_mb, published=board.get("published"),
            missing=missing, again=again, dead=board.get("dead"), strange=board.get("strange"),
        )  # fmt: skip
        return result, board.rounds


def _fixed_rate(rig: Rig, system: System, process: Process, result: Result, first_round: int) -> None:
    plan = rig.plan
    with (
        rig.board(plan.latency_s + 1, FIXED_RATE) as board,
        rig.sink(board, system.out_filters(), first_round),
    ):
        with rig.source(board, rate=FIXED_RATE, first_round=first_round) as sender:
            board.set("go", 1)
            time.sleep(plan.latency_s)
            process.check()
            board.set("stop", 1)
            drained(board, sender)
        result.latency_ms = board.latencies_ms(FIXED_RATE_WARM_UP)
        result.latency_missing = board.verdict()[0]


def drained(board: Board, sender: Process) -> None:
    """Wait until everything that was published has come, or nothing comes any more."""
    last, since = -1, time.monotonic()
    while not (board.get("source_ended") and board.get("received") >= board.get("published")):
        if board.get("received") != last:
            last, since = board.get("received"), time.monotonic()
        if time.monotonic() - since > DRAIN_TIMEOUT_S:
            return
        if not board.get("source_ended"):
            sender.check()
        time.sleep(0.02)


def _payload_bytes(made: Traces) -> int:
    step = len(made.tails[0]) // 2
    return len(head(0)) + 48 + sum(len(trace[step]) for trace in made.tails) // len(made.tails)


def _watch(process: Process, seconds: float) -> float:
    """Sleep for the time; the highest memory seen."""
    end, highest = time.monotonic() + seconds, 0.0
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(0.25, left))
        process.check()
        highest = max(highest, process.rss_mb())
    return highest


def _alive(process: Process) -> bool:
    process.check()
    return True


def cpu_s(process: psutil.Process) -> float:
    """User and system time of one process so far, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


class _Broker:
    """The broker as one of the processes that are watched."""

    def __init__(self, broker: servers.Mosquitto) -> None:
        self._process = psutil.Process(broker.pid)

    def cpu_s(self) -> float:
        return cpu_s(self._process)


class _Reading(msgspec.Struct):
    at_s: float
    received: int
    cpu_s: list[float]

    @classmethod
    def take(cls, board: Board, watched: list[Any]) -> _Reading:
        return cls(time.monotonic(), board.get("received"), [process.cpu_s() for process in watched])


def rig_limit(load: Load, plan: Plan, *, with_sink: bool) -> Result:
    """What the source can do without a system under test: into the broker alone, or through it to the sink."""
    with servers.mosquitto() as broker, tempfile.TemporaryDirectory(prefix="voltflow-bench-") as folder:
        rig = Rig(broker, load, plan, Path(folder))
        with rig.board(plan.warm_up_s + plan.seconds + 2, 0) as board, contextlib.ExitStack() as stack:
            counted = "received" if with_sink else "confirmed"
            watched: list[Any] = [_Broker(broker)]
            if with_sink:
                watched.append(
                    stack.enter_context(rig.sink(board, ("ev/v1/+/+/telemetry",), 0, patient=True))
                )
            sender = stack.enter_context(rig.source(board, window=plan.window, sink=with_sink))
            watched.insert(1, sender)
            board.set("go", 1)
            time.sleep(plan.warm_up_s / 2)
            first, at = board.get(counted), time.monotonic()
            before = [process.cpu_s() for process in watched]
            time.sleep(plan.seconds / 2)
            count, took_s = max(1, board.get(counted) - first), time.monotonic() - at
            spent = [(p.cpu_s() - b) / count * 1e6 for p, b in zip(watched, before, strict=True)]
            board.set("stop", 1)
            if with_sink:
                drained(board, sender)
            missing, again = board.verdict() if with_sink else (0, 0)
        return Result(
            system="source → broker → sink" if with_sink else "source → broker", packs=load.packs,
            payload=load.payload, payload_bytes=_payload_bytes(rig.traces), messages_s=count / took_s, cpu_us=0.0,
            broker_us=spent[0], source_us=spent[1], sink_us=spent[2] if with_sink else 0.0, rss_idle_mb=0.0,
            rss_loaded_mb=0.0, published=board.get("published"), missing=missing, again=again, dead=0, strange=0,
        )  # fmt: skip
