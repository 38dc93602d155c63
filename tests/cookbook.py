"""A house for the example flows of Node-RED's cookbook: a program that runs them, its broker, and a web server that they ask."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests import servers
from tests.gateway import Answer
from tests.node_red import Operator

PICTURE = bytes(range(256))


class _Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = urllib.parse.urlsplit(self.path)
        body = {
            "/": b"hello from the web", "/json": b'{"title": "a title"}', "/bytes": PICTURE,
            "/search": json.dumps(urllib.parse.parse_qs(path.query)).encode(),
        }.get(path.path or "/", path.path.encode())  # fmt: skip
        self._answer(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        keys = {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-")}
        self._answer(json.dumps({"body": body, **keys}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the screen."""


@contextlib.contextmanager
def web_server() -> Iterator[str]:
    """The address of a web server that answers with what it was asked."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    thread = threading.Thread(target=server.serve_forever, name="web server of a test")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class House:
    """A program that runs flows, with its broker, and somebody at its editor."""

    operator: Operator
    broker: servers.Mosquitto
    endpoints: str

    def ask(self, path: str, data: bytes | None = None, **headers: str) -> Answer:
        """What an `http in` node's answer is; a redirect is one."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{self.endpoints}{path}", data, named)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            return _answer(opener.open(request, timeout=30))
        except urllib.error.HTTPError as error:
            return _answer(error)

    def page(self, path: str, data: bytes | None = None, **headers: str) -> str:
        """The text of an answer that went well."""
        answer = self.ask(path, data, **headers)
        assert answer.status == 200, answer
        return answer.body.decode()

    def kept(self, topic: str) -> bytes:
        """The retained message of a topic."""
        program = servers.program("mosquitto_sub", "mosquitto-clients")
        command = [program, "-p", str(self.broker.port), "-t", topic, "-C", "1", "-W", "30"]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.rstrip(b"\n")


def _answer(answer: Any) -> Answer:
    with answer:
        return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None
