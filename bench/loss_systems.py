"""The systems of `bench.loss`: each takes telemetry from the devices' broker and passes it on to the uplink's broker."""

from __future__ import annotations

import re
import signal
import sys
import tempfile
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bench import systems
from bench.systems import BENCH, Process
from tests import servers

SPOOL_EVENTS = ("appended", "delivered", "fsyncs", "bytes_written")
_EVENT = re.compile(r'^voltflow_spool_events_total\{event="(\w+)",node="[^"]*"\} (\S+)$', re.MULTILINE)


class System:
    """One system, as its users would set it up; it keeps its folder over a kill."""

    name = ""
    title = ""
    qualities: tuple[int, ...] = (1, 2)
    """At which QoS it is measured."""

    def __init__(self, qos: int, local: servers.Mosquitto, uplink: servers.Mosquitto) -> None:
        self.qos, self.local, self.uplink = qos, local, uplink
        self.folder = Path(tempfile.mkdtemp(prefix=f"voltflow-bench-{self.name}-"))
        self.starts = 0
        self.process: Process | None = None

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be measured here; empty when it can."""
        return ""

    def command(self) -> list[str]:
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        return {}

    def launch(self) -> None:
        """Start it and do not wait."""
        self.starts += 1
        self.process = Process(self.command(), self.folder, f"{self.name}-{self.starts}", self.env())

    def check(self) -> None:
        """Raise when it has ended by itself."""
        assert self.process is not None, f"{self.name} was never started"
        self.process.check()

    def kill(self) -> int:
        """End it as a power cut would; its exit code."""
        assert self.process is not None, f"{self.name} was never started"
        self.process.popen.kill()
        code = self.process.popen.wait(servers.STOP_TIMEOUT_S)
        if code != -signal.SIGKILL:
            raise RuntimeError(f"{self.name} had ended with {code} before it was killed")
        return code

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    @property
    def log(self) -> str:
        return self.process.log if self.process else ""

    def spool(self) -> dict[str, Any]:
        """What it has written to its spool; empty: it has none."""
        return {}


class NodeRed(System):
    """Genuine Node-RED: mqtt in → mqtt out, persistent sessions, fixed client ids, all else as the editor sets it."""

    name = "node-red"
    title = "Node-RED, mqtt in → mqtt out"

    @classmethod
    def missing(cls) -> str:
        return systems.node_red_missing()

    def command(self) -> list[str]:
        return systems.node_red_command(self.folder, (BENCH / "flows" / "node-red-forward.json").read_text())

    def env(self) -> dict[str, str]:
        ports = {"BENCH_LOCAL_PORT": str(self.local.port), "BENCH_UPLINK_PORT": str(self.uplink.port)}
        return {**ports, "BENCH_QOS": str(self.qos), "NODE_ENV": "production"}


class Voltflow(System):
    """`edge-agent run` as it is installed, with an uplink."""

    name = "voltflow"
    title = "Voltflow, default flow"
    qualities: tuple[int, ...] = (1,)
    options: tuple[str, ...] = ()

    def __init__(self, qos: int, local: servers.Mosquitto, uplink: servers.Mosquitto) -> None:
        super().__init__(qos, local, uplink)
        self.api_port, self.metrics_port = servers.free_port(), servers.free_port()
        self._before: Counter[str] = Counter()
        """What was in the metrics of processes that were killed."""

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "edge.cli", "run", "--gateway", "bench", "--state-dir", str(self.folder / "state"),
            "--broker-port", str(self.local.port),
            "--uplink-host", "127.0.0.1", "--uplink-port", str(self.uplink.port),
            "--api-port", str(self.api_port), "--metrics-port", str(self.metrics_port), *self.options,
        ]  # fmt: skip

    def kill(self) -> int:
        with suppress(OSError):  # one that is still starting has counted nothing
            self._before.update(self._events())
        return super().kill()

    def _events(self) -> dict[str, int]:
        """Sums over the flow's spools since the process started."""
        found: Counter[str] = Counter()
        for event, value in _EVENT.findall(_get(self.metrics_port, "/metrics").decode()):
            found[event] += int(float(value))
        return found

    def backlog(self) -> dict[str, Any]:
        """`/api/spool`."""
        return dict(msgspec.json.decode(_get(self.api_port, "/api/spool")))

    def spool(self) -> dict[str, Any]:
        events, backlog = self._before + Counter(self._events()), self.backlog()
        found = {name: events[name] for name in SPOOL_EVENTS}
        return {**found, "left_messages": backlog["backlog_messages"], "left_bytes": backlog["backlog_bytes"]}


class VoltflowForward(Voltflow):
    """`edge-agent run` with nothing but mqtt in → mqtt out, and the spool on."""

    name = "voltflow-forward"
    title = "Voltflow, mqtt in → mqtt out"
    qualities = (1, 2)

    def command(self) -> list[str]:
        flow = (BENCH / "flows" / "forward.json").read_text().replace("${BENCH_QOS}", str(self.qos))
        path = self.folder / "flow.json"
        path.write_text(flow)
        return [*super().command(), "--flow", str(path)]


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


SYSTEMS: dict[str, type[System]] = {system.name: system for system in (NodeRed, VoltflowForward, Voltflow)}
