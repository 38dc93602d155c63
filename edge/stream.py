"""`/api/stream`: server-sent events with the packs that changed, answered in the event loop without a thread a client.

One task for all clients looks at most once a second what changed; each client has a short queue, and one that reads
too slowly loses the oldest events, which is counted. Event `packs` has the data of `edge.stream.Changes`; a comment
comes every 15 s when nothing else does. A client that names the packs on its screen gets rows of those only: what it costs
does not grow with the fleet.
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
from edge.bands import acknowledged_count, is_silent, worry
from edge.queries import ApiError, StreamQuery, find_pack, parse_query
from edge.roster import FleetCounts
from edge.state import AppState
from edge.twin import PackTwin
from voltflow.clock import receive_clock

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PERIOD_S = 1.0
HEARTBEAT_S = 15.0
MAX_ROWS = 100
"""Of an event to who named no packs."""
MAX_CLIENTS = 64
QUEUE_EVENTS = 8


class Changes(msgspec.Struct):
    """What changed since the last event. `changed` counts all of it (of the packs named, where some are), `packs` has the
    most worrying of them: `answers.PackRow`s. `total` and `alerts` are those of `fleet`."""

    time_ms: int
    total: int
    changed: int
    alerts: int
    fleet: FleetCounts
    packs: list[msgspec.Raw]


@dataclass(eq=False)
class _Client:
    names: tuple[str, ...] | None = None
    """Of the packs it wants to hear of; None: of all."""
    marks: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """By name: how the pack was when it was told last."""
    told: FleetCounts | None = None
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
        client = _Client(_names(self._state, query))
        if len(self.clients) >= MAX_CLIENTS:
            raise ApiError(503, "too_many_streams", f"{MAX_CLIENTS} streams are open; close one")
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        first = not self.clients
        self.clients.add(client)
        try:
            if first:  # changes count from before the snapshot: one in between must not be missed
                await asyncio.to_thread(self._changed)
            client.put(await asyncio.to_thread(self._snapshot, client))
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
        for client, event in await asyncio.to_thread(self._events, clients):
            client.put(event)
            self.events += 1

    def _events(self, clients: list[_Client]) -> list[tuple[_Client, bytes]]:
        """What each of them is to be told now; who has nothing new is left out."""
        rows, counts, found = _Rows(), self._state.roster.counts(), []
        of_all: bytes | None = None
        changed = self._changed() if any(client.names is None for client in clients) else []
        for client in clients:
            named = None if client.names is None else self._changed_of(client)
            if not (changed if named is None else named) and client.told == counts:
                continue
            if named is not None:
                event = _event(rows, named, len(named), counts)
            else:
                event = of_all = of_all or _event(rows, _worst(changed), len(changed), counts)
            client.told = counts
            found.append((client, event))
        return found

    def _changed(self) -> list[PackTwin]:
        """The packs that are not as they were at the last look."""
        packs, seen = list(self._state.store.packs), self._seen
        seen += [-1] * (len(packs) - len(seen))
        changed = []
        for index, twin in enumerate(packs):
            mark = _mark(twin)
            if mark != seen[index]:
                seen[index] = mark
                changed.append(twin)
        return changed

    def _changed_of(self, client: _Client) -> list[PackTwin]:
        """Of the packs that a client named; also those that have fallen silent, of which no message tells."""
        changed, now_s = [], receive_clock.now_s()
        for name in client.names or ():
            if (twin := self._state.store.find(name)) is not None:
                mark = (_mark(twin), is_silent(twin, now_s))
                if client.marks.get(name) != mark:
                    client.marks[name] = mark
                    changed.append(twin)
        return changed

    def _snapshot(self, client: _Client) -> bytes:
        client.told = counts = self._state.roster.counts()
        if client.names is not None:
            named = self._changed_of(client)
            return _event(_Rows(), named, len(named), counts)
        ranked = self._state.roster.ranked()
        return _event(_Rows(), ranked[:MAX_ROWS], len(ranked), counts)


class _Rows:
    """Rows as JSON, made once however many clients they go to."""

    def __init__(self) -> None:
        self.now_s = receive_clock.now_s()
        self._made: dict[int, msgspec.Raw] = {}

    def of(self, twin: PackTwin) -> msgspec.Raw:
        if twin.slot not in self._made:
            self._made[twin.slot] = msgspec.Raw(msgspec.json.encode(answers.row(twin, self.now_s)))
        return self._made[twin.slot]


def _event(rows: _Rows, twins: list[PackTwin], changed: int, counts: FleetCounts) -> bytes:
    packs = [rows.of(twin) for twin in twins]
    data = Changes(round(rows.now_s * 1000), counts.packs, changed, counts.alerts, counts, packs)
    return b"event: packs\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _names(state: AppState, query: StreamQuery) -> tuple[str, ...] | None:
    """The packs that a query asks for; None: all. Names of `packs` need not be there yet; raises ApiError for `pack`."""
    if query.packs is None:
        return None if query.pack is None else (find_pack(state, query.pack).name,)
    if query.pack is not None:
        raise ApiError(400, "bad_parameter", "either pack or packs")
    return tuple(dict.fromkeys(filter(None, query.packs.split(","))))


def _mark(twin: PackTwin) -> int:
    """A number that is another one when something about the pack has changed."""
    online = bool(twin.state is not None and twin.state.online)
    return 512 * twin.messages + 2 * min(255, acknowledged_count(twin)) + online


def _worst(twins: list[PackTwin]) -> list[PackTwin]:
    if len(twins) <= MAX_ROWS:
        return twins
    now_s = receive_clock.now_s()
    return heapq.nlargest(MAX_ROWS, twins, key=lambda twin: worry(twin, now_s))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
