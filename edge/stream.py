"""`/api/stream`: server-sent events with the packs that changed, answered in the event loop without a thread a client.

One task for all clients looks at most twice a second what changed; each client has a short queue, and one that reads
too slowly loses the oldest events, which is counted. Event `packs` has the data of `edge.stream.Changes`; a comment
comes every 15 s when nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge import answers
from edge.answers import PackRow
from edge.bands import worry
from edge.routes import ApiError, StreamQuery, find_pack, parse_query
from edge.state import AppState
from edge.twin import PackTwin
from voltflow.clock import receive_clock

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PERIOD_S = 0.5
HEARTBEAT_S = 15.0
MAX_ROWS = 200
MAX_CLIENTS = 64
QUEUE_EVENTS = 8


class Changes(msgspec.Struct):
    """What changed since the last event. `changed` counts all of it, `packs` has the most worrying of them."""

    time_ms: int
    total: int
    changed: int
    alerts: int
    packs: list[PackRow]


@dataclass(eq=False)
class _Client:
    twin: PackTwin | None
    queue: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(QUEUE_EVENTS))
    dropped: int = 0

    def put(self, event: bytes) -> None:
        if self.queue.full():
            self.queue.get_nowait()
            self.dropped += 1
        self.queue.put_nowait(event)


class Streams:
    """All open streams. An ASGI application; `close` ends them."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._seen: list[int] = []  # by slot: a mark that differs when the pack changed
        self._task: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._dropped_before = 0
        self.clients: set[_Client] = set()
        self.events = 0

    @property
    def dropped(self) -> int:
        """Events that slow clients lost."""
        return self._dropped_before + sum(client.dropped for client in list(self.clients))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one client until it leaves; raises ApiError before anything was sent."""
        query = parse_query(scope["query_string"].decode("latin-1"), StreamQuery)
        client = _Client(None if query.pack is None else find_pack(self._state, query.pack))
        if len(self.clients) >= MAX_CLIENTS:
            raise ApiError(503, "too_many_streams", f"{MAX_CLIENTS} streams are open; close one")
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        first = not self.clients
        self.clients.add(client)
        try:
            if first:  # changes count from before the snapshot: one in between must not be missed
                await asyncio.to_thread(self._changed)
            client.put(await asyncio.to_thread(self._snapshot, client.twin))
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch(), name="stream changes")
            await self._serve(client, receive, send)
        finally:
            self.clients.discard(client)
            self._dropped_before += client.dropped

    async def close(self) -> None:
        """End every stream."""
        self._closed.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _serve(self, client: _Client, receive: Receive, send: Send) -> None:
        tasks = {
            asyncio.create_task(self._send(client, send), name="stream send"),
            asyncio.create_task(_gone(receive), name="stream gone"),
            asyncio.create_task(self._closed.wait(), name="stream closed"),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._closed.is_set():
            await send({"type": "http.response.body", "body": b""})

    async def _send(self, client: _Client, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"retry: 2000\n\n", "more_body": True})
        while True:
            try:
                event = await asyncio.wait_for(client.queue.get(), HEARTBEAT_S)
            except TimeoutError:
                event = b": still here\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _watch(self) -> None:
        """Look for changes while there are clients, in a thread, with at most 5 % of a core."""
        while self.clients:
            started = time.monotonic()
            await self._push()
            await asyncio.sleep(max(PERIOD_S, 20 * (time.monotonic() - started)))

    async def _push(self) -> None:
        clients = list(self.clients)
        wanted = {client.twin.slot for client in clients if client.twin is not None}
        everything, single = await asyncio.to_thread(
            self._events, wanted, any(client.twin is None for client in clients)
        )
        for client in clients:
            event = everything if client.twin is None else single.get(client.twin.slot)
            if event is not None:
                client.put(event)
                self.events += 1

    def _events(self, wanted: set[int], everything: bool) -> tuple[bytes | None, dict[int, bytes]]:
        changed = self._changed()
        single = {twin.slot: self._event([twin], 1) for twin in changed if twin.slot in wanted}
        return (self._event(_worst(changed), len(changed)) if changed and everything else None), single

    def _changed(self) -> list[PackTwin]:
        """The packs that are not as they were at the last look."""
        packs, seen = list(self._state.store.packs), self._seen
        seen += [-1] * (len(packs) - len(seen))
        changed = []
        for index, twin in enumerate(packs):
            mark = 2 * twin.messages + bool(twin.state is not None and twin.state.online)
            if mark != seen[index]:
                seen[index] = mark
                changed.append(twin)
        return changed

    def _snapshot(self, twin: PackTwin | None) -> bytes:
        if twin is not None:
            return self._event([twin], 1)
        ranked = self._state.roster.ranked()
        return self._event(ranked[:MAX_ROWS], len(ranked))

    def _event(self, twins: list[PackTwin], changed: int) -> bytes:
        packs, now_s = list(self._state.store.packs), receive_clock.now_s()
        data = Changes(
            time_ms=round(now_s * 1000),
            total=len(packs),
            changed=changed,
            alerts=sum(len(twin.alerts) for twin in packs),
            packs=[answers.row(twin, now_s) for twin in twins],
        )
        return b"event: packs\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _worst(twins: list[PackTwin]) -> list[PackTwin]:
    if len(twins) <= MAX_ROWS:
        return twins
    now_s = receive_clock.now_s()
    return heapq.nlargest(MAX_ROWS, twins, key=lambda twin: worry(twin, now_s))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
