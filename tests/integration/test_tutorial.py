"""The tutorial, done: every command of docs/tutorial.md, as it stands there, with what it says will come."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import do_without
from tests.servers import REPOSITORY, free_port, wait_until

PAGE = REPOSITORY / "docs" / "tutorial.md"
_BLOCK = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL
)
_LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Step(NamedTuple):
    commands: str
    expected: str | None
    """What they are to say, with `...` for what differs each time; None where the page does not say."""


def steps() -> Iterator[Step]:
    """What is done in the second terminal, in the page's order."""
    blocks = list(_BLOCK.finditer(PAGE.read_text("utf-8")))
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block["language"] == "sh" and not block["title"]:
            said = after["text"] if after is not None and after["language"] == "text" else None
            yield Step(block["text"], said)


class Ports(NamedTuple):
    broker: int
    mqtt5: int
    api: int
    agent_metrics: int
    bridge_metrics: int


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like a checkout in which `make demo` ran."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for program in ("voltflow", "cloud-bridge", "python3"):
        (tmp_path / ".venv" / "bin" / program).symlink_to(Path(sys.executable).parent / program)
    return tmp_path


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    """Other ports than the page's: tests run side by side. mosquitto's clients read theirs from a file."""
    if shutil.which("mosquitto_sub") is None:
        do_without("mosquitto-clients is not installed")
    ports = Ports(*(free_port() for _ in Ports._fields))
    (folder / "mosquitto_sub").write_text(f"-p {ports.broker}\n")
    shutil.copy(folder / "mosquitto_sub", folder / "mosquitto_pub")
    return os.environ | {
        "XDG_CONFIG_HOME": str(folder),
        "VOLTFLOW_DEMO_BROKER": "embedded",
        "VOLTFLOW_DEMO_BROKER_PORT": str(ports.broker),
        "VOLTFLOW_DEMO_BROKER_MQTT5_PORT": str(ports.mqtt5),
        "VOLTFLOW_DEMO_API_PORT": str(ports.api),
        "VOLTFLOW_DEMO_AGENT_METRICS_PORT": str(ports.agent_metrics),
        "VOLTFLOW_DEMO_BRIDGE_METRICS_PORT": str(ports.bridge_metrics),
    }


@pytest.fixture
def demo(folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The first terminal."""
    with (
        (folder / "demo.log").open("wb") as log,
        subprocess.Popen(
            [folder / ".venv/bin/voltflow", "demo"], cwd=folder, env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            wait_until(lambda: _stores(process, folder / "demo.log"), "the demo's first rows", timeout_s=150)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _stores(demo: subprocess.Popen[bytes], log: Path) -> bool:
    said = log.read_bytes()
    assert demo.poll() is None, said.decode()
    return re.search(rb"[1-9]\d* rows,", said) is not None


def run(step: Step, folder: Path, environment: dict[str, str]) -> str:
    commands = step.commands.replace(":5002/", f":{environment['VOLTFLOW_DEMO_API_PORT']}/")
    commands = re.sub(
        r"^voltflow flow (pull|push)",
        rf"\g<0> --url http://127.0.0.1:{environment['VOLTFLOW_DEMO_API_PORT']}/editor",
        commands,
        flags=re.MULTILINE,
    )
    bash = "export PATH=$PWD/.venv/bin:$PATH\nset -eo pipefail\n" + commands
    done = subprocess.run(
        ["bash", "-c", bash], cwd=folder, env=environment, capture_output=True, text=True, timeout=150, check=False
    )  # fmt: skip
    assert done.returncode == 0, f"{step.commands}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_command_of_the_tutorial_does_what_it_says(
    folder: Path, environment: dict[str, str], demo: subprocess.Popen[bytes]
) -> None:
    checker = doctest.OutputChecker()
    for step in steps():
        said = run(step, folder, environment)
        if step.expected is not None:
            assert checker.check_output(step.expected, said, _LIKE), f"{step.commands}\n{said}"
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=100) == 0, (folder / "demo.log").read_text()


def test_the_page_has_steps_and_says_what_they_give() -> None:
    found = list(steps())
    assert len(found) >= 10
    assert sum(step.expected is not None for step in found) >= 9
