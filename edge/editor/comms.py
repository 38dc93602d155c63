"""`/comms`: the websocket over which an open editor hears of debug messages, badges and notices.

A client subscribes, and that only replays what is retained; it gets all of the rest anyway, as from Node-RED. What it
does not take in time is dropped, oldest first and counted: a slow browser must not grow the gateway's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

import msgspec

from edge.editor.auth import Auth
from edge.editor.http import EditorError, check_origin
from edge.editor.statuses import TICK_S, Statuses
from voltflow.engine.engine import Engine
from voltflow.engine.events import Badge

log = logging.getLogger(__name__)

GATHER_S: Final = 0.05
FRAME_MESSAGES: Final = 50
QUEUE_LIMIT: Final = 1000
"""Messages that wait for one client. Of a topic `status/…` only the newest waits."""
HEARTBEAT_S: Final = 15.0
CLIENTS: Final = 50
_AUTH_S: Final = 20.0
"""How long a client may take to say who it is."""
_NEEDS: Final = "status.read"
_CLOSE_S: Final = 0.5
_GOING_AWAY: Final = 1001
_POLICY_VIOLATION: Final = 1008
_TRY_LATER: Final = 1013

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Client:
    """One open editor: what waits for it, and the task that sends it."""

    def __init__(self, send: Send) -> None:
        self.token = ""
        self.dropped = 0
        self._send = send
        self._queue: deque[bytes] = deque()
        self._statuses: dict[str, bytes] = {}
        self._woken = asyncio.Event()
        self._untold = 0
        self._closed = False
        self._sending: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """From now on what waits is sent."""
        self._sending = asyncio.create_task(self._run(), name="editor's messages")

    def end(self) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def put(self, topic: str, item: bytes) -> None:
        """Send it with the next frame."""
        if topic.startswith("status/"):
            self._statuses[topic] = item
        else:
            if len(self._queue) >= QUEUE_LIMIT:
                self._queue.popleft()
                self.dropped += 1
                self._untold += 1
            self._queue.append(item)
        self._woken.set()

    async def send(self, text: str) -> None:
        await self._send({"type": "websocket.send", "text": text})

    async def close(self, code: int = 1000) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(Exception):  # the other side may be gone
                await self._send({"type": "websocket.close", "code": code})

    async def refuse(self) -> None:
        """The editor asks for a login then."""
        with contextlib.suppress(Exception):
            await self.send('{"auth":"fail"}')
        await self.close()

    async def _run(self) -> None:
        """Send what waits, gathered, until the client is gone."""
        try:
            while True:
                await self._woken.wait()
                await asyncio.sleep(GATHER_S)
                await self.send(b"".join((b"[", b",".join(self._take()), b"]")).decode())
                if not self._queue and not self._statuses:
                    self._woken.clear()
        except Exception as error:  # noqa: BLE001 - whatever a connection that is lost raises
            log.debug("editor: a connection is lost: %r", error)
            await self.close()

    def _take(self) -> list[bytes]:
        items: list[bytes] = []
        while self._statuses and len(items) < FRAME_MESSAGES // 2:
            items.append(self._statuses.pop(next(iter(self._statuses))))
        while self._queue and len(items) < FRAME_MESSAGES:
            items.append(self._queue.popleft())
        if self._untold and not self._queue:
            text = f"{self._untold} messages are not shown: the browser did not take them in time"
            items.append(
                encode("debug", {"level": 30, "msg": text, "format": "string", "timestamp": _now_ms()})
            )
            self._untold = 0
        return items


class Comms:
    """All open editors. `publish` reaches them; what is retained reaches also those who come later. In the event loop."""

    def __init__(self, engine: Engine, auth: Auth, notices: Callable[[], Mapping[str, Any]]) -> None:
        self._engine, self._auth, self._notices = engine, auth, notices
        self._clients: set[Client] = set()
        self._retained: dict[str, bytes] = {}
        self._statuses = Statuses(engine, self.publish)
        self._watching: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[Any]] = set()
        self.dropped = 0
        """Messages that clients did not take in time, of those that are gone."""

    @property
    def clients(self) -> int:
        return len(self._clients)

    # -- what they hear -----------------------------------------------------------------------------------------------

    def publish(self, topic: str, data: Any, *, retain: bool = False) -> None:
        """Tell every open editor."""
        item = encode(topic, data)
        if retain:
            self._retained[topic] = item
        for client in self._clients:
            client.put(topic, item)

    def refresh(self) -> None:
        """A deploy has replaced nodes."""
        if self._clients:
            self._statuses.tick()

    def _heard(self, topic: str, data: Mapping[str, Any]) -> None:
        if topic.startswith("status/"):
            badge: Badge = {name: data[name] for name in ("fill", "shape", "text") if name in data}  # type: ignore[assignment]
            self._statuses.heard(topic.removeprefix("status/"), badge)
        else:
            self.publish(topic, data)

    async def _watch(self) -> None:
        """While somebody looks."""
        self._statuses.begin()
        beat_s = time.monotonic() + HEARTBEAT_S
        with self._engine.events.listening(self._heard):
            while True:
                await asyncio.sleep(TICK_S)
                self._statuses.tick()
                if time.monotonic() >= beat_s:
                    beat_s += HEARTBEAT_S
                    await self._beat()

    async def _beat(self) -> None:
        self.publish("hb", _now_ms())
        for client in list(self._clients):
            if not self._may_listen(client.token):
                await client.refuse()

    # -- a connection -------------------------------------------------------------------------------------------------

    async def serve(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """An ASGI application for the websocket."""
        await receive()  # that it wants to connect
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._auth.closed or not _is_own_page(headers):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        await send({"type": "websocket.accept"})
        client, task = Client(send), asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            if len(self._clients) >= CLIENTS:
                await client.close(_TRY_LATER)
            else:
                await self._converse(client, receive)
        finally:
            self._serving.discard(task)

    async def _converse(self, client: Client, receive: Receive) -> None:
        try:
            async with asyncio.timeout(_AUTH_S if self._auth.required else None) as patience:
                if not self._auth.required:
                    self._join(client)
                while (packet := await _packet(receive)) is not None:
                    if not await self._take(client, packet):
                        break
                    patience.reschedule(None)
        except TimeoutError:
            await client.refuse()
        finally:
            self._leave(client)
            await client.close()

    async def _take(self, client: Client, packet: Any) -> bool:
        """Do what a packet says; False ends the connection."""
        if not isinstance(packet, dict):
            return client in self._clients
        if "auth" in packet:
            client.token = str(packet["auth"])
            if not self._may_listen(client.token):
                await client.refuse()
                return False
            await client.send('{"auth":"ok"}')
            self._join(client)
        elif client not in self._clients:
            await client.refuse()
            return False
        elif "subscribe" in packet:
            self._replay(client, str(packet["subscribe"]))
        return True

    def _may_listen(self, token: str) -> bool:
        return self._auth.allows(self._auth.user_of(token) if token else None, _NEEDS)

    def _join(self, client: Client) -> None:
        if client in self._clients:
            return
        if not self._clients:
            self._watching = asyncio.create_task(self._watch(), name="editor")
            self._statuses.begin()
        self._clients.add(client)
        client.begin()

    def _leave(self, client: Client) -> None:
        if client not in self._clients:
            return
        self._clients.discard(client)
        self.dropped += client.dropped
        client.end()
        if not self._clients and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _replay(self, client: Client, pattern: str) -> None:
        """What is retained of the topics that a client subscribes to."""
        prefix = pattern.removesuffix("#")
        wanted: Iterable[tuple[str, bytes]] = [
            *self._retained.items(),
            *((topic, encode(topic, data)) for topic, data in self._notices().items()),
            *((topic, encode(topic, badge)) for topic, badge in self._statuses.replay()),
        ]
        for topic, item in wanted:
            if topic == pattern or (prefix != pattern and topic.startswith(prefix)):
                client.put(topic, item)

    async def close(self) -> None:
        """End all connections."""
        for client in list(self._clients):
            await client.close(_GOING_AWAY)
        if self._serving:
            _, left = await asyncio.wait(set(self._serving), timeout=_CLOSE_S)
            for task in left:
                task.cancel()
        if self._watching is not None:
            self._watching.cancel()


def encode(topic: str, data: Any) -> bytes:
    """One message of a frame; never fails."""
    try:
        return msgspec.json.encode({"topic": topic, "data": data}, enc_hook=str)
    except (ValueError, TypeError, RecursionError):  # half of a surrogate pair, a number too long
        return json.dumps({"topic": topic, "data": data}, default=str).encode()


def _is_own_page(headers: Mapping[str, str]) -> bool:
    try:
        check_origin(headers.get("origin"), headers.get("host", ""))
    except EditorError:
        return False
    return True


async def _packet(receive: Receive) -> Any:
    """What a client says next; None when it is gone."""
    message = await receive()
    if message["type"] == "websocket.disconnect":
        return None
    try:
        return msgspec.json.decode(message.get("text") or message.get("bytes") or b"")
    except msgspec.DecodeError:
        return False


def _now_ms() -> int:
    return int(time.time() * 1000)
