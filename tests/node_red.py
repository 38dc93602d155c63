"""Genuine Node-RED for tests, and what is done at an open editor, be it Node-RED's or a gateway's: both speak the same."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import subprocess
import time
import urllib.request
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.systems import NODE, NODE_RED, node_red_command, node_red_missing
from tests.editors import Socket
from tests.servers import REPOSITORY, Missing, Mosquitto, Server, wait_until
from voltflow.admin.client import AdminClient
from voltflow.flow.expand import RawNode

FLOWS = REPOSITORY / "tests" / "data" / "node_red"
"""Flow files that both run."""


def flow_of(name: str) -> list[RawNode]:
    """A flow of FLOWS."""
    nodes: list[RawNode] = json.loads((FLOWS / f"{name}.json").read_text())
    return nodes


def subscribed(broker: Mosquitto, nodes: Sequence[RawNode], since: int = 0) -> None:
    """Wait until a flow's subscriptions stand; of the broker's log, with `log_type` subscribe, only what is behind `since`
    counts."""
    filters = [node["topic"] for node in nodes if node["type"] == "mqtt in"]
    wait_until(
        lambda: all(f" {topic}\n" in broker.log[since:] for topic in filters),
        f"subscriptions to {filters}",
        60,
    )


class NodeRed(Server):
    """Node-RED without a flow; its editor is at /editor, its `http in` nodes below /endpoint, as a gateway has them.

    `files_dir` is where a file with a relative name is, `environment` what `${NAME}` of a flow finds.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, files_dir: Path | None = None) -> None:
        super().__init__()
        self.environment = environment or {}
        self._files_dir = files_dir or self.folder

    def command(self) -> Sequence[str]:
        if reason := node_red_missing():
            raise Missing(f"Node-RED is {reason}")
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        command = node_red_command(
            self.folder, "[]", uiPort=self.port, httpAdminRoot="/editor", httpNodeRoot="/endpoint",
            fileWorkingDirectory=str(self._files_dir),
        )  # fmt: skip
        return ["env", "NODE_ENV=production", *variables, *command]

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/editor/settings", timeout=5) as answer:
            return bool(answer.status == 200)


class Operator:
    """Somebody at the editor that a server has at /editor: deploys, presses buttons, reads the debug sidebar."""

    def __init__(self, server: Server) -> None:
        self.url = f"http://127.0.0.1:{server.port}/editor"
        self._client = AdminClient(self.url)
        self._socket = Socket(self.url)
        self._ids: frozenset[str] = frozenset()
        self._unread: deque[tuple[str, Any]] = deque()
        self._running = ""

    def __enter__(self) -> Self:
        self._socket.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.__exit__(kind, error, trace)

    def deploy(self, nodes: list[RawNode]) -> None:
        """Run this flow instead of what runs; of the sidebar only its messages are read from now on."""
        self._ids = frozenset(str(node["id"]) for node in nodes)
        self._unread.clear()
        revision = self._client.deploy(nodes, None, "full")
        while self._running != revision:  # Node-RED answers before the flow runs
            self._hear()

    def exported(self) -> list[RawNode]:
        """The flow that runs."""
        return self._client.flows()[0]

    def press(self, *ids: str) -> None:
        """The buttons of these `inject` nodes, one after the other."""
        for id in ids:
            request = urllib.request.Request(f"{self.url}/inject/{id}", b"", method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 200

    def shown(self, count: int = 1) -> list[tuple[str, Any]]:
        """The next messages of the sidebar: what shows it, and the value."""
        while len(self._unread) < count:
            self._hear()
        return [self._unread.popleft() for _ in range(count)]

    def values(self, count: int = 1) -> list[Any]:
        """The values of the next messages of the sidebar."""
        return [value for _, value in self.shown(count)]

    def _hear(self) -> None:
        for message in self._socket.packet():
            topic, data = message["topic"], message["data"]
            if topic == "notification/runtime-deploy":
                self._running = data["revision"]
            elif topic == "debug" and data.get("id") in self._ids:
                self._unread.append((data["name"] or data["id"], value_of(data)))


def value_of(data: Mapping[str, Any]) -> Any:
    """The value that a debug message shows."""
    kind = str(data["format"]).partition("[")[0]
    if kind == "string" or data.get("msg") == "(undefined)":
        return data["msg"]
    return bytes.fromhex(data["msg"]) if kind == "buffer" else json.loads(data["msg"])


_STEERING = re.compile(r"\x1b\[\d*[A-Za-z]")
"""What moves a terminal's cursor."""


@dataclass(frozen=True)
class Said:
    """What a command printed, and how it ended."""

    text: str
    code: int

    def json(self) -> Any:
        return json.loads(self.text)


def node_red_admin(user_dir: Path, *arguments: str, answers: Sequence[tuple[str, str]] = ()) -> Said:
    """`node-red-admin` at a terminal of its own, where each answer is typed when its question stands there.

    It keeps target and login in `user_dir`.
    """
    program = NODE_RED.parent.parent / "node-red-admin" / "node-red-admin.js"
    command = [str(NODE), str(program), "--userDir", str(user_dir), *arguments]
    screen, terminal = pty.openpty()
    try:
        with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
            os.close(terminal)
            try:
                text = _talk(screen, list(answers))
            except BaseException:
                process.kill()
                raise
        return Said(_STEERING.sub("", text).replace("\r", "").strip(), process.returncode)
    finally:
        os.close(screen)


def _talk(screen: int, answers: list[tuple[str, str]]) -> str:
    """All that comes to a screen until its program ends."""
    said, seen = "", 0
    deadline = time.monotonic() + 60
    while True:
        assert select.select([screen], [], [], max(0.0, deadline - time.monotonic()))[0], (
            f"no end in 60 s: {said}"
        )
        try:
            said += os.read(screen, 4096).decode()
        except OSError as error:
            if error.errno == errno.EIO:  # how a terminal ends on Linux
                return said
            raise
        if answers and answers[0][0] in said[seen:]:
            seen = len(said)
            os.write(screen, f"{answers.pop(0)[1]}\n".encode())
