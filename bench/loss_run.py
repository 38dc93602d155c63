"""One trial of `bench.loss`: two brokers, devices, a system, a careful cloud; a fault on schedule; then the account.

The schedule is in parts of the load, so that a shorter load has shorter faults. Each fault says what proves that it
happened, and a trial whose fault had no effect is no result.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench import loss_sink, loss_source, wire
from bench.loss_account import GRACE_S, Account, Fault, Recovery
from bench.loss_log import LIVE, PROBE_PACK, REPLAYED, count
from bench.loss_systems import System
from bench.measure import nameplate, say
from bench.names import head, state_topic, telemetry_topic
from bench.systems import Process
from bench.traces import Traces, traces
from tests import servers

READY_TIMEOUT_S = 60.0
SETTLE_S = 0.5
"""A fault is felt after so long: what the sockets held has come by then."""
FILTERS = ("ev/v1/#", "gw/v1/+/state")
"""What the cloud wants: everything."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much. `quiet_s`: nothing came for so long, so nothing will."""

    messages: int = 20_000
    rate: float = 1000.0
    packs: int = 100
    quiet_s: float = 10.0
    longest_s: float = 300.0

    @property
    def duration_s(self) -> float:
        return self.messages / self.rate


class Trial(msgspec.Struct, kw_only=True):
    """What one trial gave. `disordered`: messages behind a later one of their pack; `_live`, `_replayed`: among those that
    came live, and among those marked as replayed."""

    scenario: str
    system: str
    qos: int
    published: int = 0
    lost: int = 0
    explained: int = 0
    doubled: int = 0
    replayed: int = 0
    disordered: int = 0
    disordered_live: int = 0
    disordered_replayed: int = 0
    faults: list[Fault] = []
    recoveries: list[Recovery | None] = []
    spool: dict[str, int] = {}
    cloud_sessions_lost: int = 0
    error: str = ""


class Rig:
    """Brokers, devices and cloud around a system. Use: `with rig(...) as it: it.begin(); ...; it.finish()`."""

    def __init__(self, folder: Path, packs: int, *, brief: bool, qos: int, inflight: int) -> None:
        self.folder, self.packs, self.qos = folder, packs, qos
        self.sent, self.came = folder / "sent", folder / "came"
        self.traces_path, self.traces = traces(packs, "full", brief=brief)
        options = {"max_inflight_messages": str(inflight)} if inflight else {}
        self.local, self.uplink = servers.mosquitto(**options), servers.mosquitto(**options)
        self.system: System | None = None
        self._children = contextlib.ExitStack()

    def child(self, name: str, order: msgspec.Struct) -> Process:
        arguments = [sys.executable, "-m", f"bench.loss_{name}", msgspec.json.encode(order).decode()]
        child = Process(arguments, self.folder, name)
        self._children.callback(child.stop)
        return child

    def start(self, system: type[System], **more: Any) -> None:
        """Everything up to the first message that comes through."""
        self._children.enter_context(self.local)
        self._children.enter_context(self.uplink)
        order = loss_sink.Order(port=self.uplink.port, log=str(self.came), filters=FILTERS, qos=self.qos)
        self.sink = self.child("sink", order)
        self.wait_until(lambda: "subscribed" in self.sink.log, "the cloud's subscription")
        self._keep_session()
        _publish_nameplates(self.local.port, self.packs, self.traces)
        self.system = system(self.qos, self.local, self.uplink, **more)
        self._children.callback(shutil.rmtree, self.system.folder, ignore_errors=True)
        self._children.callback(self.system.stop)
        self.system.launch()
        self._wait_for_probe()

    def _keep_session(self) -> None:
        """The uplink's broker has the cloud's session on disk, so that killing it shows the system's losses, not its own."""
        path = self.uplink.folder / "mosquitto.db"
        os.kill(self.uplink.pid, signal.SIGUSR1)
        self.wait_until(path.exists, "the broker to write its sessions")

    def _wait_for_probe(self) -> None:
        tail, seqs = self.traces.tails[0][0], iter(range(10**6))

        def answered() -> bool:
            now_ms = time.time_ns() // 1_000_000
            mark = f'{next(seqs)},"ts_ms":{now_ms},"sent_ms":{now_ms}'.encode()
            wire.publish_all(
                self.local.port,
                "bench-probe",
                [(telemetry_topic(PROBE_PACK), head(PROBE_PACK) + mark + tail)],
            )
            return count(self.came) > 0

        assert self.system is not None
        try:
            self.wait_until(answered, f"{self.system.name} to pass a message on", READY_TIMEOUT_S, 0.2)
        except AssertionError as error:
            raise RuntimeError(f"{error}; it said: {self.system.log[-2000:]}") from None

    def wait_until(
        self, condition: Callable[[], Any], what: str, timeout_s: float = 20.0, interval_s: float = 0.02
    ) -> None:
        """As of the tests' servers, and all processes are still there meanwhile."""

        def checked() -> Any:
            self.check()
            return condition()

        servers.wait_until(checked, what, timeout_s, interval_s)

    def check(self) -> None:
        self.sink.check()
        if self.system is not None:
            self.system.check()

    def begin(self, rate: float, messages: int = 0) -> None:
        """The load; returns when it has begun."""
        order = loss_source.Order(port=self.local.port, traces=str(self.traces_path), log=str(self.sent), packs=self.packs,
                                  rate=rate, messages=messages, qos=self.qos)  # fmt: skip
        self.source = self.child("source", order)

        def begun() -> bool:
            self.source.check()
            return self.source.log.endswith("\n")

        self.wait_until(begun, "the load")
        self.began_s = float(self.source.log.split()[1])

    def finish(self, quiet_s: float, longest_s: float) -> Account:
        """Wait for the end of the load and until nothing comes any more."""
        deadline_s = time.monotonic() + longest_s
        came, since_s = -1, time.monotonic()
        while time.monotonic() < deadline_s:
            self.check()
            if count(self.came) != came or self.source.popen.poll() is None:
                came, since_s = count(self.came), time.monotonic()
            elif time.monotonic() - since_s > quiet_s:
                break
            time.sleep(0.05)
        if "ended" not in self.source.log:
            raise RuntimeError(f"the load did not end: {self.source.log[-1000:]}")
        return Account(self.packs, self.sent, self.came)

    def close(self) -> None:
        self._children.close()


@contextlib.contextmanager
def rig(packs: int, *, brief: bool, qos: int = 1, inflight: int = 0) -> Iterator[Rig]:
    """A rig that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="voltflow-bench-") as folder:
        made = Rig(Path(folder), packs, brief=brief, qos=qos, inflight=inflight)
        try:
            yield made
        finally:
            made.close()


def _publish_nameplates(port: int, packs: int, made: Traces) -> None:
    births = [(state_topic(pack), nameplate(pack, made)) for pack in (*range(packs), PROBE_PACK)]
    wire.publish_all(port, "bench-births", births, retain=True)


class Schedule:
    """Does the faults of a scenario; `at` waits for a part of the load."""

    def __init__(self, rig: Rig, plan: Plan) -> None:
        self.rig, self.plan = rig, plan
        self.faults: list[Fault] = []

    def at(self, part: float) -> float:
        due_s = self.rig.began_s + part * self.plan.duration_s
        while (left_s := due_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.5))
            self.rig.check()
        return time.monotonic()

    def wait_for_more(self, what: str) -> None:
        """Until a message comes, or on a slow machine all of the load was sent before: then there may be no more."""
        came, load = count(self.rig.came), self.plan.messages
        self.rig.wait_until(
            lambda: count(self.rig.came) > came or count(self.rig.sent) >= load, what, READY_TIMEOUT_S
        )

    def note(self, what: str, begin_s: float, end_s: float, proof: str) -> None:
        self.faults.append(Fault(what, begin_s, end_s, proof))
        say(f"    {what}, {end_s - begin_s:.1f} s: {proof}")


def uplink_away(do: Schedule) -> None:
    """The uplink's broker is stopped and started again later."""
    begin_s, uplink = do.at(0.25), do.rig.uplink
    uplink.stop()
    proof = f"exit code {uplink.exit_code}, {_refused(uplink.port)}"
    end_s = do.at(0.5)
    uplink.start()
    do.note("uplink stopped", begin_s, end_s, proof)


def system_killed(do: Schedule) -> None:
    """The system is killed three times and started again at once; each kill hits one that works."""
    system = do.rig.system
    assert system is not None
    for part in (0.25, 0.5, 0.75):
        begin_s = do.at(part)
        proof = f"exit code {system.kill()}, {count(do.rig.came)} had come of {count(do.rig.sent)} sent"
        system.launch()
        do.note("system killed", begin_s, time.monotonic(), proof)
        time.sleep(GRACE_S)
        do.wait_for_more(f"{system.name} to work again")


def uplink_paused(do: Schedule) -> None:
    """The uplink's broker stands still, connections open, as long as the whole load takes elsewhere."""
    begin_s, uplink = do.at(0.25), do.rig.uplink
    uplink.pause()
    try:
        servers.wait_until(lambda: _state(uplink.pid) == "T", "the broker to stand still")
        do.at(1.25)
        proof = f"process state {_state(uplink.pid)}"
    finally:
        end_s = time.monotonic()
        uplink.resume()
    do.note("uplink paused", begin_s, end_s, proof)


def uplink_killed(do: Schedule) -> None:
    """The uplink's broker is killed and started again at once."""
    begin_s, uplink = do.at(0.25), do.rig.uplink
    connections = do.rig.sink.log.count("connected")
    uplink.kill()
    proof = f"exit code {uplink.exit_code}, {_refused(uplink.port)}"
    end_s = time.monotonic()
    uplink.start()
    do.rig.wait_until(lambda: do.rig.sink.log.count("connected") > connections, "the cloud to come back")
    do.note("uplink killed", begin_s, end_s, proof)


def _refused(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            raise RuntimeError(f"the broker still answers on port {port}")
    except ConnectionRefusedError:
        return "connections refused"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. `length`: how many times the load it needs; `silent`: nothing can come through while it lasts; `inflight`:
    `max_inflight_messages` of both brokers, 0: as configured."""

    name: str
    title: str
    play: Callable[[Schedule], None]
    length: float = 1.0
    silent: bool = False
    inflight: int = 0
    qualities: tuple[int, ...] = (1, 2)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="A", title="uplink away for {quarter:g} s", play=uplink_away, silent=True),
        Scenario(name="B", title="system killed three times", play=system_killed),
        Scenario(name="C", title="uplink paused for {whole:g} s", play=uplink_paused, length=1.5, silent=True),
        Scenario(name="D", title="uplink killed, restarted at once", play=uplink_killed),
        # At QoS 2 mosquitto 2.0.11 with a small window forgets queued messages itself when a session is resumed.
        Scenario(name="E", title="system killed three times, 20 messages in flight at most", play=system_killed,
                 inflight=20, qualities=(1,)),
    )
}  # fmt: skip


def title(scenario: str, plan: Plan) -> str:
    """The scenario for people, with its times."""
    return SCENARIOS[scenario].title.format(quarter=plan.duration_s / 4, whole=plan.duration_s)


def run_trial(scenario: Scenario, system: type[System], qos: int, plan: Plan) -> Trial:
    """One system in one scenario. Raises RuntimeError or AssertionError when it cannot be measured."""
    with rig(plan.packs, brief=plan.messages < 5000, qos=qos, inflight=scenario.inflight) as it:
        it.start(system)
        it.begin(plan.rate, round(plan.messages * scenario.length))
        do = Schedule(it, plan)
        scenario.play(do)
        account = it.finish(plan.quiet_s, plan.longest_s)
        for fault in do.faults if scenario.silent else ():
            if came := account.during(fault.begin_s + SETTLE_S, fault.end_s):
                raise RuntimeError(f"{fault.what}, and yet {came} messages came: the fault had no effect")
        assert it.system is not None
        return Trial(
            scenario=scenario.name, system=system.name, qos=qos, published=account.published, lost=account.lost,
            explained=account.explained, doubled=account.doubled, replayed=account.replayed,
            disordered=account.disordered(), disordered_live=account.disordered(LIVE),
            disordered_replayed=account.disordered(REPLAYED),
            faults=do.faults, recoveries=[account.recovery(fault.end_s) for fault in do.faults],
            spool=it.system.spool(), cloud_sessions_lost=it.sink.log.count("session 0") - 1,
        )  # fmt: skip
