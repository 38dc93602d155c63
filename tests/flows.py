"""A running engine for tests: sources that emit when told, transforms and sinks that do what the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from voltflow.engine.engine import Engine
from voltflow.engine.network_sink import NetworkSink
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.node import DeadLetterSink, Emit, Ports, Sink, Source, Transform, config, node

Process = Callable[[list[Msg]], Any]
Write = Callable[[list[Msg]], Awaitable[None]]


@node("test source", category="test")
class Feed(Source):
    """Emits what the test gives it."""

    async def run(self, emit: Emit) -> None:
        self.emit = emit
        self.under_way: set[asyncio.Task[None]] = set()
        self.fail: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self.fail
        finally:
            if self.under_way:
                await asyncio.wait(self.under_way)

    def feed(self, msgs: list[Msg]) -> asyncio.Task[None]:
        task = asyncio.create_task(self.emit(msgs))
        self.under_way.add(task)
        return task


@node("test transform", category="test", outputs=3)
class Do(Transform):
    """Does what the test says."""

    process_: Process | None = None

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        return self.process_(msgs) if self.process_ else msgs


class _Keeps(Sink):
    """Keeps what it was given, once `write_` has made it safe."""

    write_: Write | None = None

    def safe(self) -> list[Msg]:
        return [msg for msgs in self.__dict__.setdefault("writes", []) for msg in msgs]

    async def write(self, msgs: list[Msg]) -> None:
        if self.write_:
            await self.write_(msgs)
        self.__dict__.setdefault("writes", []).append(msgs)

    def payloads(self) -> list[Any]:
        return [msg.payload for msg in self.safe()]


@node("test sink", category="test")
class Keep(_Keeps):
    """Keeps what it gets."""

    limit: int = config(0, help="nothing", low=0, high=9)


@node("test pipelined sink", category="test")
class KeepPipelined(_Keeps):
    """Keeps what it gets; calls may overlap."""

    pipelined: ClassVar[bool] = True


@node("test network sink", category="test")
class KeepFar(_Keeps, NetworkSink):
    """Keeps what it gets; what it does not take in time waits in a spool."""


@node("test pipelined network sink", category="test")
class KeepFarPipelined(_Keeps, NetworkSink):
    """Keeps what it gets; calls may overlap; what it does not take in time waits in a spool."""

    pipelined: ClassVar[bool] = True


@node("test dead letters", category="test")
class KeepDead(_Keeps, DeadLetterSink):
    """Keeps what other nodes failed on."""


def raw(node_id: str, kind: str, *ports: Sequence[str], **properties: Any) -> dict[str, Any]:
    """A node of a flow file: `raw("s", "source", ["a", "b"])` is wired from its first output to a and b."""
    return {"id": node_id, "type": f"test {kind}", "wires": [list(port) for port in ports], **properties}


def messages(*payloads: Any, topic: str = "t") -> list[Msg]:
    return [Msg(topic, payload) for payload in payloads]


class Lab:
    """A running engine: `lab.feed("s", msgs)` emits, `lab["k"]` is a node."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.stop = asyncio.Event()
        self.run = asyncio.create_task(engine.run(self.stop))

    def __getitem__(self, node_id: str) -> Any:
        return self.engine.nodes[node_id].node

    def feed(self, source: str, *payloads: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self[source].feed(messages(*payloads))
        return task

    async def end(self) -> bool:
        self.stop.set()
        return await self.run


@contextlib.asynccontextmanager
async def running(*nodes: dict[str, Any], **options: Any) -> AsyncIterator[Lab]:
    """The engine of a flow; on leaving it is stopped."""
    defaults = {"env": {}, "grace_s": 5.0, "state_dir": Path("unused")}
    lab = Lab(Engine(Flow(list(nodes)), **{**defaults, **options}))
    sources = [wired.node for wired in lab.engine.nodes.values() if isinstance(wired.node, Feed)]
    await until(lambda: all(hasattr(source, "fail") for source in sources) or lab.run.done(), "the start")
    try:
        yield lab
    finally:
        lab.stop.set()
        with contextlib.suppress(BaseException):
            await lab.run


async def until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """The first true value of the condition, looked at each turn of the event loop for what does not tell."""
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):  # noqa: ASYNC110 - any state, not only what has an event
            await asyncio.sleep(0.001)
    assert value, what
    return value
