"""The product's own programs as servers of the tests: the agent and the bridge, started as their users start them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests import servers

SHARED_DATA = Path(os.environ.get("VOLTFLOW_SHARED_DATA", servers.REPOSITORY.parent / "shared" / "data"))
"""Recorded data that is not part of the repository."""


class Program(servers.Server):
    """One of our console programs, run from its module with this interpreter."""

    module = ""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        super().__init__()
        self.arguments = arguments
        self.environment = environment or {}

    def command(self) -> Sequence[str]:
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return ["env", *variables, sys.executable, "-m", self.module, "run", *self.arguments]

    @property
    def rss_mb(self) -> float:
        """Resident memory now, in MB of 10^6 bytes."""
        return float(psutil.Process(self.pid).memory_info().rss) / 1e6


class Agent(Program):
    """An edge agent; ready when it is connected to its broker."""

    module = "edge.cli"

    def __init__(self, broker: servers.Mosquitto, state_dir: Path, *arguments: str) -> None:
        self.metrics_port = servers.free_port()
        super().__init__(
            "--broker-port", str(broker.port), "--metrics-port", str(self.metrics_port),
            "--state-dir", str(state_dir), "--gateway", "test", *arguments,
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        return [*super().command(), "--api-port", str(self.port)]

    def get(self, path: str) -> Any:
        """The JSON answer of the API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def metrics(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def is_ready(self) -> bool:
        nodes = self.get("/api/flow")["nodes"]
        brokers = [node for node in nodes if node["type"] == "mqtt-broker"]
        return all(node["status"].get("connected") for node in brokers)


class Bridge(Program):
    """A cloud bridge that writes to a database; ready when its metrics say that it is connected."""

    module = "cloud.cli"

    def __init__(self, broker: servers.Mosquitto, dsn: str, state_dir: Path, *arguments: str) -> None:
        super().__init__(
            "--mqtt-port", str(broker.port), "--state-dir", str(state_dir), *arguments,
            environment={"VOLTFLOW_BRIDGE_DATABASE": dsn},
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        return [*super().command(), "--metrics-port", str(self.port)]

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def is_ready(self) -> bool:
        return any(line.startswith("voltflow_mqtt_connected") and line.endswith(" 1.0")
                   for line in self.metrics().splitlines())  # fmt: skip


@contextlib.contextmanager
def device(broker: servers.Mosquitto, action: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`sim-device ACTION` under way; it prints its summary as JSON. It is killed if it still runs at the end."""
    command = [
        sys.executable,
        "-m",
        "sim_device.cli",
        action,
        "--json",
        "--port",
        str(broker.port),
        *arguments,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str], timeout_s: float = 400.0) -> dict[str, Any]:
    """Wait for a device's end; its summary, in which everything published was confirmed."""
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, output
    summary: dict[str, Any] = json.loads(output)
    assert summary["published"] == summary["confirmed"]
    return summary
