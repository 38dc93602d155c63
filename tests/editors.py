"""A gateway with the flow editor for tests: real engine, flow file, logins and web server, in an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from websockets.sync.client import ClientConnection, connect

from edge.api import AppState
from edge.editor.app import Editor
from edge.editor.auth import Auth
from edge.editor.flow_store import FlowStore
from edge.twin import TwinStore
from edge.web import WebServer
from tests.gateway import Answer
from tests.servers import Missing
from voltflow.admin import editor_files, npm_files, page_files
from voltflow.admin.users import hash_password, make_user, write_users
from voltflow.engine.context import Contexts
from voltflow.engine.engine import Engine
from voltflow.flow.flow import Flow
from voltflow.node import load_nodes

T = TypeVar("T")

PASSWORD = "a password of a test"
TAB = {"id": "tab", "type": "tab", "label": "Flow 1", "disabled": False, "info": ""}


def inject_to_debug(payload: str = "hello", debug_name: str = "show") -> list[dict[str, Any]]:
    """Press `press`, and `show` shows it."""
    return [
        TAB,
        {"id": "press", "type": "inject", "z": "tab", "name": "press", "props": [{"p": "payload"}, {"p": "topic", "vt": "str"}],
         "repeat": "", "crontab": "", "once": False, "onceDelay": 0.1, "topic": "t", "payload": payload,
         "payloadType": "str", "x": 140, "y": 100, "wires": [["show"]]},
        {"id": "show", "type": "debug", "z": "tab", "name": debug_name, "active": True, "tosidebar": True, "console": False,
         "tostatus": False, "complete": "payload", "targetType": "msg", "statusVal": "", "statusType": "auto", "x": 360,
         "y": 100, "wires": []},
    ]  # fmt: skip


def chromium() -> str:
    """Where the browser is; Missing where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise Missing("chromium is not here: sudo apt-get install chromium")
    return found


def need_files() -> None:
    """The editor's files and what the page draws with, fetched at the first need; Missing where that is not possible here."""
    try:
        editor_files.install(say=lambda _: None)
        page_files.install(say=lambda _: None)
    except npm_files.NpmFilesError as error:
        raise Missing(str(error)) from None


@dataclass
class Gateway:
    """What runs: ask it over HTTP, or look at its parts. `in_loop` runs something in the engine's event loop."""

    server: WebServer
    editor: Editor
    engine: Engine
    store: FlowStore
    auth: Auth
    contexts: Contexts
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"{self.server.url}/editor/"

    def in_loop(self, call: Callable[[], T]) -> T:
        async def calling() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(calling(), self.loop).result(10)

    def ask(self, method: str, path: str, body: Any = None, *, token: str = "", **headers: str) -> Answer:
        """A request below /editor; a body that is no text is sent as JSON."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        if token:
            sent["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=30)
        try:
            connection.request(method, f"/editor{path}", body, sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Any:
        answer = self.ask("GET", path, **headers)
        assert answer.status == 200, answer
        return answer.json()

    def deploy(
        self, nodes: Sequence[dict[str, Any]], rev: str | None = None, kind: str = "full", **more: Any
    ) -> Answer:
        """As the editor does it."""
        body = {"flows": list(nodes)} if rev is None else {"flows": list(nodes), "rev": rev}
        return self.ask(
            "POST", "/flows", body, Node_RED_API_Version="v2", Node_RED_Deployment_Type=kind, **more
        )

    def deploy_as_the_page(self, nodes: Sequence[dict[str, Any]]) -> Answer:
        """What the editor's page gets, and shows as it is."""
        return self.deploy(nodes, X_Requested_With="XMLHttpRequest")

    def login(self, name: str, password: str = PASSWORD) -> str:
        return self.auth.login(name, password, "127.0.0.1").token


class Socket:
    """The websocket of an open editor, of a gateway or a Node-RED, while the block runs; `url` is that of the editor."""

    connection: ClientConnection

    def __init__(self, url: str, **options: Any) -> None:
        address = f"{url.replace('http', 'ws', 1).rstrip('/')}/comms"
        self._connecting = connect(address, proxy=None, **options)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.connection = self._stack.enter_context(self._connecting)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def send(self, **packet: Any) -> None:
        self.connection.send(json.dumps(packet))

    def packet(self) -> Any:
        return json.loads(self.connection.recv(timeout=20))

    def until(self, topic: str, **data: Any) -> Any:
        """The data of the next message of a topic, with these values in it."""
        while True:
            for message in self.packet():
                if message["topic"] == topic and data.items() <= message["data"].items():
                    return message["data"]


@contextlib.contextmanager
def editing(
    folder: Path, nodes: Sequence[dict[str, Any]] = (), users: dict[str, str] | None = None, token: str = ""
) -> Iterator[Gateway]:
    """A running gateway with that flow; `users` are permissions by name, all with PASSWORD."""
    load_nodes("voltflow.nodes", "edge.nodes")
    if users:
        write_users(
            folder / "users.json",
            [make_user(name, hash_password(PASSWORD), permissions) for name, permissions in users.items()],
        )
    up: list[Gateway] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with _gateway(folder, nodes, token) as gateway:
            up.append(gateway)
            ready.set()
            await stop.wait()

    def serve() -> None:
        try:
            asyncio.run(run())
        finally:
            ready.set()

    thread = threading.Thread(target=serve, name="gateway of a test")
    thread.start()
    try:
        assert ready.wait(20), "the gateway did not start"
        assert up, "the gateway did not start: see above"
        yield up[0]
    finally:
        if up:
            up[0].loop.call_soon_threadsafe(stop.set)
        thread.join()


@contextlib.asynccontextmanager
async def _gateway(folder: Path, nodes: Sequence[dict[str, Any]], token: str) -> AsyncIterator[Gateway]:
    flow_file, twins, contexts = folder / "flows.json", TwinStore(), Contexts()
    flow_file.write_text(json.dumps(list(nodes)))
    services = {TwinStore: twins, Contexts: contexts}
    engine = Engine(
        Flow.load(flow_file), env={}, services=services, gateway="gw1", state_dir=folder, grace_s=1.0
    )
    store = FlowStore(flow_file, engine)
    auth = Auth(folder / "users.json", folder / "tokens.json", api_token=bool(token))
    editor = Editor(engine, store, auth, contexts, folder)
    server = WebServer(AppState(twins, engine, "gw1", time.time()), "127.0.0.1", 0, token, editor)
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(stop))
    await server.start()
    try:
        yield Gateway(server, editor, engine, store, auth, contexts, asyncio.get_running_loop())
    finally:
        await server.stop()
        stop.set()
        await running


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 10.0) -> T:
    """The first true value of the condition."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not seen in {timeout_s:g} s: {what}"
        time.sleep(0.01)
    return value
