"""`voltflow demo` as a user runs it: the real programs, a real database, the embedded broker and a running mosquitto."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import Use
from voltflow.demo.cli import NEEDED
from voltflow.demo.settings import DemoSettings

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and any(importlib.util.find_spec(module) is None for module in NEEDED),
    reason="needs the extra demo: pip install -e '.[demo]'",
)


class DebianMosquitto(servers.Mosquitto):
    """mosquitto as Debian configures it: local, anonymous, at most 20 messages in flight and 1,000 queued."""

    def configuration(self) -> str:
        user = servers._user_name()
        listener = f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
        return f"{listener}persistence true\npersistence_location {self.folder}/\nuser {user}\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's: each new session of root's closes its folder to others, and as root PostgreSQL is another user."""
    with tempfile.TemporaryDirectory(prefix="voltflow-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


class Ports:
    """Free ports for a demo, as options."""

    def __init__(self, **fixed: int) -> None:
        self.of = {name: fixed.get(name) or servers.free_port() for name in DemoSettings.port_settings()}

    def options(self) -> list[str]:
        return [text for name, port in self.of.items() for text in (f"--{name.replace('_', '-')}", str(port))]


def start(folder: Path, ports: Ports, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "voltflow.cli",
        "demo",
        "--state-dir",
        str(folder / "state"),
        *ports.options(),
    ]
    command += ["--summary", str(folder / "demo.json"), *options]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VOLTFLOW_")}
    return subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(demo: subprocess.Popen[str], folder: Path) -> tuple[str, dict[str, Any]]:
    """The output and the summary of a demo that must end well."""
    said, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, said
    assert "errors in the logs: 0" in said
    summary = json.loads((folder / "demo.json").read_text())
    assert summary["published"] == summary["rows"] > 0
    assert (summary["missing"], summary["duplicates"], summary["dead_letters"]) == (0, 0, 0)
    return said, summary


def await_rows(demo: subprocess.Popen[str]) -> None:
    """Wait for the line that reports rows."""
    await_line(demo, r" [1-9]\d* rows, ")


def await_line(demo: subprocess.Popen[str], pattern: str) -> None:
    """Wait for a line of the demo's output."""
    assert demo.stdout is not None
    while not re.search(pattern, line := demo.stdout.readline()):
        assert line, "the demo ended"


def processes_of(folder: Path) -> list[str]:
    """The command lines that name the folder: parts of a demo that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def test_demo_on_embedded_parts_makes_every_message_a_row_and_every_model_answer(folder: Path) -> None:
    with start(folder, Ports(), "--seconds", "25", "--packs", "10", "--hz", "20", "--speedup", "600") as demo:
        said, summary = finish(demo, folder)
    assert "broker: embedded iotcore" in said
    assert all(summary["predictions"][model] > 0 for model in ("soh", "temperature", "rul", "failure")), (
        summary
    )
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert summary["rss_mb"]["agent"] > 0
    assert 0 < summary["startup_s"] < 60
    assert processes_of(folder) == []


def test_demo_with_a_running_mosquitto_leaves_nothing_behind_in_it(
    folder: Path, own: Use[servers.Mosquitto]
) -> None:
    broker = own(DebianMosquitto())
    with start(folder, Ports(broker_port=broker.port), "--seconds", "6", "--packs", "5") as demo:
        said, summary = finish(demo, folder)
    assert f"broker: the one that runs on 127.0.0.1:{broker.port}" in said
    assert summary["predictions"]["temperature"] > 0
    assert retained(broker.port) == b""


def test_demo_whose_agent_is_killed_and_comes_back_has_every_message(folder: Path) -> None:
    options = (
        "--packs",
        "5",
        "--hz",
        "10",
        "--speedup",
        "1",
        "--agent-outage-after-s",
        "2",
        "--agent-outage-s",
        "6",
    )
    with start(folder, Ports(), *options) as demo:
        await_line(demo, r"agent killed \d+ s ago, starts again in \d+ s")
        await_line(demo, r"agent killed, started again")
        demo.send_signal(signal.SIGINT)
        finish(demo, folder)
    log = (folder / "state" / "logs" / "agent.log").read_text()
    assert log.count("page and API on") == 2


def test_demo_that_ends_while_its_agent_is_away_starts_it_for_the_proof(folder: Path) -> None:
    options = (
        "--packs",
        "5",
        "--hz",
        "10",
        "--speedup",
        "1",
        "--agent-outage-after-s",
        "1",
        "--agent-outage-s",
        "3600",
    )
    with start(folder, Ports(), *options) as demo:
        await_line(demo, r"agent killed \d+ s ago, starts again in \d+ s")
        demo.send_signal(signal.SIGINT)
        finish(demo, folder)


def test_demo_says_at_its_start_that_its_messages_are_too_far_apart(folder: Path) -> None:
    with start(folder, Ports(), "--packs", "2", "--hz", "2", "--speedup", "300", "--seconds", "3") as demo:
        said, _ = finish(demo, folder)
    assert "WARNING: with hz = 2 and speedup = 300 a pack's messages are 150 s of device time apart" in said
    assert "remaining life (RUL) never answers. Set speedup to 240 at most, or hz to 2.5 at least" in said


def test_demo_cut_off_from_the_cloud_keeps_everything_and_sends_it_later(folder: Path) -> None:
    options = ("--packs", "5", "--hz", "10", "--speedup", "1", "--outage-after-s", "2", "--outage-s", "12")
    with start(folder, Ports(), *options) as demo:
        await_line(demo, r"uplink cut .* [1-9]\d+ messages in the gateway's spool")
        await_line(demo, r"uplink mended .*, 0 messages in the gateway's spool")
        demo.send_signal(signal.SIGINT)
        finish(demo, folder)


def retained(port: int) -> bytes:
    """What a new subscriber of everything gets at once."""
    command = [
        servers.program("mosquitto_sub", "mosquitto-clients"),
        "-p",
        str(port),
        "-t",
        "#",
        "-v",
        "-W",
        "1",
    ]
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, timeout=20).stdout


def test_demo_killed_hard_takes_its_parts_along_and_starts_again(folder: Path) -> None:
    ports = Ports()
    state = folder / "state"
    with start(folder, ports, "--packs", "5") as demo:
        servers.wait_until((state / "logs" / "packs.log").exists, "the packs", timeout_s=60)
        assert processes_of(folder)
        demo.send_signal(signal.SIGKILL)
    servers.wait_until(lambda: processes_of(folder) == [], "the parts to end", timeout_s=30)
    with start(folder, ports, "--packs", "5") as demo:
        await_rows(demo)
        demo.send_signal(signal.SIGINT)
        _, summary = finish(demo, folder)
    assert summary["published"] < 1000  # this run alone


def test_a_part_that_dies_ends_the_demo_with_its_last_lines(folder: Path) -> None:
    with start(folder, Ports(), "--packs", "5") as demo:
        await_rows(demo)
        bridge = _pid_of("cloud.cli", folder)
        os.kill(bridge, signal.SIGKILL)
        said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "bridge ended by itself with exit code -9; its last lines, from " in said
    assert processes_of(folder) == []


def _pid_of(module: str, folder: Path) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().decode(errors="replace").split("\0")
        if module in words and any(str(folder) in word for word in words):
            return int(path.parent.name)
    raise AssertionError(f"{module} does not run")
