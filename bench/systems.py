"""The systems that are measured: how each is started, and where it publishes to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.names import FLEET, OUT_TOPIC
from tests import servers

BENCH = Path(__file__).resolve().parent
REPOSITORY = BENCH.parent
TELEMETRY = f"ev/v1/{FLEET}/+/telemetry"
NODE = BENCH / "npm" / "node_modules" / "node" / "bin" / "node"
NODE_RED = BENCH / "npm" / "node_modules" / "node-red" / "red.js"
STOP_TIMEOUT_S = 20.0


class Process:
    """A process that ends with this program, with what it and its children cost."""

    def __init__(
        self, command: list[str], folder: Path, name: str, env: dict[str, str] | None = None
    ) -> None:
        self.name, self.log_path = name, folder / f"{name}.log"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("VOLTFLOW_")}
        with self.log_path.open("wb") as log:
            self.popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                env={**clean, "PYTHONPATH": str(REPOSITORY), **(env or {})},
            )  # fmt: skip
        self.root = psutil.Process(self.popen.pid)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _family(self) -> list[psutil.Process]:
        return [self.root, *self.root.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system time so far, children included."""
        total = 0.0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def rss_mb(self) -> float:
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 1e6

    def check(self) -> None:
        """Raise when it has ended by itself."""
        if self.popen.poll() is not None:
            raise RuntimeError(
                f"{self.name} has ended with {self.popen.returncode}; it said: {self.log[-2000:]}"
            )

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


def node_red_missing() -> str:
    """Why Node-RED cannot run here; empty when it can."""
    return "" if NODE.exists() and NODE_RED.exists() else "not installed: npm --prefix bench/npm ci"


def node_red_command(folder: Path, flow: str, **settings: Any) -> list[str]:
    """What starts Node-RED in a folder with that flow, and with `settings` as in its settings.js; both are written there."""
    content = {
        "flowFile": "flows.json", "uiPort": servers.free_port(), "uiHost": "127.0.0.1",
        "telemetry": {"enabled": False, "updateNotification": False},
        "editorTheme": {"tours": False}, "logging": {"console": {"level": "info"}}, **settings,
    }  # fmt: skip
    (folder / "settings.js").write_text(f"module.exports = {json.dumps(content)}")
    (folder / "flows.json").write_text(flow)
    return [str(NODE), str(NODE_RED), "--settings", str(folder / "settings.js"), "--userDir", str(folder)]


class System:
    """One system under test."""

    name = ""
    title = ""
    needs_nameplates = False

    def out_filters(self) -> tuple[str, ...]:
        """Where its results and its failures are published."""
        return (OUT_TOPIC,)

    def command(self, port: int, folder: Path) -> list[str]:
        raise NotImplementedError

    def env(self, port: int) -> dict[str, str]:
        return {}

    def missing(self) -> str:
        """Why it cannot be measured here; empty when it can."""
        return ""

    @contextlib.contextmanager
    def running(self, port: int) -> Iterator[Process]:
        folder = Path(tempfile.mkdtemp(prefix=f"voltflow-bench-{self.name}-"))
        process = Process(self.command(port, folder), folder, self.name, self.env(port))
        try:
            yield process
        finally:
            process.stop()
            shutil.rmtree(folder, ignore_errors=True)


class Agent(System):
    """`edge-agent run` with its default flow."""

    name = "agent"
    title = "Voltflow agent, default flow (validate, twin, features, 4 models, alerts)"
    needs_nameplates = True
    program: tuple[str, ...] = ("-m", "edge.cli")

    def out_filters(self) -> tuple[str, ...]:
        return (f"ev/v1/{FLEET}/+/twin", f"ev/v1/{FLEET}/+/dead", "ev/v1/unknown/unknown/dead")

    def options(self) -> list[str]:
        return []

    def command(self, port: int, folder: Path) -> list[str]:
        ports = ["--api-port", str(servers.free_port()), "--metrics-port", str(servers.free_port())]
        common = ["--gateway", "bench", "--broker-port", str(port), "--state-dir", str(folder)]
        return [sys.executable, *self.program, "run", *common, *ports, *self.options()]


class EagerAgent(Agent):
    """The default flow, with the vectors of all four models at every message."""

    name = "agent-every"
    title = "the same, all four models at every message"
    program = ("-m", "bench.eager")


class Trivial(Agent):
    """`edge-agent run` with mqtt in → mqtt out."""

    name = "trivial"
    title = "Voltflow agent, trivial flow (mqtt in → mqtt out)"
    needs_nameplates = False

    def out_filters(self) -> tuple[str, ...]:
        return (OUT_TOPIC, f"ev/v1/{FLEET}/+/dead")

    def options(self) -> list[str]:
        return ["--flow", str(BENCH / "flows" / "trivial.json")]


class Bare(System):
    """gmqtt without anything."""

    name = "bare"
    title = "bare gmqtt receive-and-publish, acknowledged at once"

    def command(self, port: int, folder: Path) -> list[str]:
        return [sys.executable, str(BENCH / "bare_gmqtt.py"), str(port), TELEMETRY, OUT_TOPIC]


class NodeRed(System):
    """Genuine Node-RED: mqtt in → change → switch → mqtt out, `mqtt in` as it comes: it parses JSON."""

    name = "node-red"
    title = "Node-RED, mqtt in → change → switch → mqtt out"
    datatype = "auto-detect"

    def missing(self) -> str:
        return node_red_missing()

    def command(self, port: int, folder: Path) -> list[str]:
        flow = (BENCH / "flows" / "node-red.json").read_text().replace("${BENCH_DATATYPE}", self.datatype)
        return node_red_command(folder, flow)

    def env(self, port: int) -> dict[str, str]:
        return {"BENCH_PORT": str(port), "NODE_ENV": "production"}


class NodeRedBuffers(NodeRed):
    """The fastest it can be: payloads are passed on unseen."""

    name = "node-red-buffers"
    title = "the same, payloads passed on as buffers, unparsed"
    datatype = "buffer"


SYSTEMS: dict[str, System] = {
    s.name: s for s in (Agent(), EagerAgent(), Trivial(), Bare(), NodeRed(), NodeRedBuffers())
}


def wait_quiet(process: Process, seconds: float) -> None:
    """Let a freshly started system come to rest."""
    time.sleep(seconds)
    process.check()
