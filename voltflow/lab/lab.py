"""Runs a flow without network, in a time of its own: for tests, and to see what a change of a flow would do.

Sources and sinks that reach outside are replaced by stand-ins: messages are given where they would come from, and what
would be sent is remembered. Everything else is the real thing: transforms, workers, nodes that hold messages, links,
subflows. Time stands still until somebody waits for it and nothing else is left to do, then it jumps, so a day takes
milliseconds and each run gives the same.

>>> nodes = [{"id": "in", "type": "link in", "wires": [["out"]]}, {"id": "out", "type": "debug", "wires": []}]
>>> with FlowLab(Flow(nodes)) as lab:
...     lab.send("in", {"soc_pct": 80}, topic="pack")
...     [(seen.topic, seen.payload) for seen in lab.reached("out")]
[('pack', {'soc_pct': 80})]
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
import shutil
import tempfile
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

import msgspec

from voltflow.engine.events import Badge
from voltflow.engine.timer import VirtualTimer
from voltflow.flow.flow import Flow
from voltflow.flow.properties import plain
from voltflow.lab.engine import Answers, IdleSelector, LabEngine, LabFlow, Passed, SourceStandIn
from voltflow.lab.host import surroundings
from voltflow.lab.places import LabError, Place, Places
from voltflow.message import Msg, encode_payload
from voltflow.node import Failure, load_installed_nodes
from voltflow.nodelib.files import Files

__all__ = ["DeadLetter", "FlowLab", "LabError", "Seen"]

T = TypeVar("T")

START_S: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
PATIENCE_S: Final = 10.0
"""Of the wall clock, for what a node does with files, threads or processes, and for a flow that goes round."""
REST_S: Final = 1.0
"""A flow that has nothing to wait for is given this long, so that what an inject node sends at the start is seen."""
MOST_STEPS: Final = 1_000_000


class Seen:
    """A message as it passed a place: `at_s` after the start, and what an outsider would see of it."""

    def __init__(self, at_s: float, msg: Msg) -> None:
        self.at_s, self.msg = at_s, msg

    @property
    def topic(self) -> str:
        return self.msg.topic

    @cached_property
    def payload(self) -> Any:
        """As plain values. Bytes that are JSON of an object or a list are that, other text is text; of a failure it is what failed
        where, without the id that each has."""
        payload = self.msg.payload
        if isinstance(payload, Failure):
            return {"node": payload.node, "error": payload.error}
        if isinstance(payload, bytes):
            return _decoded(payload)
        with contextlib.suppress(TypeError, ValueError, RecursionError, msgspec.MsgspecError):
            return payload if isinstance(payload, str) else msgspec.json.decode(encode_payload(payload))
        return plain(payload)

    @property
    def props(self) -> Mapping[str, Any]:
        return self.msg.props or {}

    def as_object(self) -> dict[str, Any]:
        return {"topic": self.topic, "payload": self.payload, **self.props}

    def __repr__(self) -> str:
        return f"Seen({self.at_s:g} s, {self.as_object()!r})"


class DeadLetter(NamedTuple):
    """A message that a node failed on: the node's id, why, and the message as it first came."""

    at_s: float
    node: str
    error: str
    original: Seen


def _decoded(data: bytes) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"$base64": base64.b64encode(data).decode()}
    if text[:1] in ("{", "["):
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(data)
    return text


class FlowLab:
    """Use as a context manager. `watch`: only these places are remembered, as texts; None: all. `folder`: made for what
    nodes write, and removed at the end; None: a temporary one.

    A place is a node by id or name, `NODE#2` its second output, `A->B` the wire between two.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        env: Mapping[str, str] | None = None,
        answers: Answers | None = None,
        start_s: float = START_S,
        watch: Sequence[str] | None = None,
        folder: Path | None = None,
    ) -> None:
        load_installed_nodes()
        self.timer = VirtualTimer(start_s)
        self.start_s = start_s
        self.badges: dict[str, Badge] = {}
        """What stands below the nodes, by id."""
        self._flow = flow
        self._places = Places(flow.expanded.parts)
        self._answers = {self.place(name).node: answers for name, answers in (answers or {}).items()}
        self._env = env or {}
        self._watch = None if watch is None else frozenset(self.place(text).node for text in watch)
        self._folder = folder
        self._cleanup = contextlib.ExitStack()

    # -- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._enter()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def _enter(self) -> None:
        folder = self._cleanup.enter_context(_made(self._folder))
        state = random.getstate()
        self._cleanup.callback(random.setstate, state)
        random.seed(0)  # a random delay is the same each time
        around = surroundings(self.timer, folder)
        self._services = around.services
        self._selector = IdleSelector()
        self._runner = self._cleanup.enter_context(
            asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self._selector))
        )
        self._runner.get_loop()
        self.engine = LabEngine(
            LabFlow(self._flow, self._answers), self._watch, env={**around.env, **self._env}, services=around.services, gateway="lab",
            state_dir=folder, timer=self.timer,
        )  # fmt: skip
        self._under_way: set[asyncio.Task[None]] = set()
        self._cleanup.enter_context(self.engine.events.listening(self._on_event))
        self._run(self._begin())

    def __exit__(self, *_: object) -> None:
        engine_log = logging.getLogger("voltflow.engine.engine")
        was, engine_log.disabled = (
            engine_log.disabled,
            True,
        )  # what is not safe at the end of a lab is nobody's loss
        try:
            self._run(self._end())
        finally:
            engine_log.disabled = was
            self._cleanup.close()

    async def _begin(self) -> None:
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.engine.run(self._stop), name="lab")
        await self._idle()

    async def _end(self) -> None:
        for task in self._under_way:
            task.cancel()
        for transaction in list(self.engine.transactions):
            transaction.done.cancel()
        await asyncio.sleep(0)
        self._stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def _on_event(self, topic: str, data: Mapping[str, Any]) -> None:
        if topic.startswith("status/"):
            self.badges[topic.removeprefix("status/")] = Badge(**data)  # type: ignore[typeddict-item]

    # -- what a test does -----------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self.timer.now_s() - self.start_s

    def send(self, to: str, payload: Any = None, *, topic: str = "", **props: Any) -> None:
        """A message comes to a place, now; what follows at once is done when this returns.

        To a source it comes from outside, as bytes where the real one gets bytes; to another node as its input; to an
        output or a wire as if the node had given it out.
        """
        self.send_all([(to, self.message(to, payload, topic=topic, **props))])

    def message(self, to: str, payload: Any = None, *, topic: str = "", **props: Any) -> Msg:
        """A message as it comes to a place now."""
        node = self.engine.nodes[self.place(to).node].node
        if isinstance(payload, Mapping) and set(payload) == {"$base64"}:
            payload = base64.b64decode(payload["$base64"])
        elif isinstance(node, SourceStandIn) and node.takes_bytes and self.place(to).port is None:
            payload = b"" if payload is None else encode_payload(payload)
        return Msg(topic, payload, None, round(self.timer.now_s() * 1000), props or None)

    def send_all(self, items: Sequence[tuple[str, Msg]]) -> None:
        """Messages come, now; those for one place after each other are one batch."""
        batches: list[tuple[Place, list[Msg]]] = []
        for to, msg in items:
            place = self.place(to)
            if batches and batches[-1][0] == place:
                batches[-1][1].append(msg)
            else:
                batches.append((place, [msg]))
        self._run(self._send(batches))

    async def _send(self, batches: list[tuple[Place, list[Msg]]]) -> None:
        for place, msgs in batches:
            if place.target:
                coming = self.engine.enter(place.target, msgs)
            elif place.port is not None:
                coming = self.engine.leave(place.node, place.port, msgs)
            else:
                coming = self.engine.enter(place.node, msgs)
            task = asyncio.create_task(coming)
            self._under_way.add(task)
            task.add_done_callback(self._on_done)
            await self._idle()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # what failed is among the dead letters, or the engine's log tells of it

    def press(self, node: str) -> None:
        """The button of an inject node."""
        found: Any = self.engine.nodes[self.place(node).node].node
        if not hasattr(found, "press"):
            raise LabError(f"{node!r} is a {found.type}, which has no button: give it a message")

        async def press() -> None:
            found.press()
            await self._idle()

        self._run(press())

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._run(self._advance(self.timer.now_s() + seconds))

    def rest(self, longest_s: float | None = None) -> None:
        """Let time pass until no node waits for it any more; sources, which may go on for ever, do not count."""
        end_s = None if longest_s is None else self.timer.now_s() + longest_s
        self._run(self._rest(end_s))

    # -- what it looks at -----------------------------------------------------------------------------------------

    def reached(self, where: str) -> list[Seen]:
        """What reached a node, left an output or went over a wire, in order."""
        place = self.place(where)
        if place.port is None:
            return self._seen(self.engine.into[place.node])
        return self._seen(self.engine.out[place.node, place.port])

    @property
    def dead(self) -> list[DeadLetter]:
        """What became a dead letter, whether or not the flow has a node for them."""
        found = []
        for at_s, msg in self.engine.dead:
            failure = msg.payload
            assert isinstance(failure, Failure)
            seen = Seen(at_s - self.start_s, msg.origin or msg)
            found.append(DeadLetter(seen.at_s, failure.node, failure.error, seen))
        return found

    @property
    def files(self) -> Files:
        """What `file` and `file in` nodes write and read."""
        found = self._services.get(Files)
        if not isinstance(found, Files):
            raise LabError("no program that is installed here keeps files")
        return found

    def badge(self, node: str) -> Badge:
        """What stands below a node."""
        return self.badges.get(self.place(node).node, {})

    def _seen(self, passed: Sequence[Passed]) -> list[Seen]:
        return [Seen(at_s - self.start_s, msg) for at_s, msg in passed]

    def place(self, text: str) -> Place:
        """The place of a text; raises LabError."""
        return self._places.of(text)

    # -- time -----------------------------------------------------------------------------------------------------

    async def _advance(self, to_s: float) -> None:
        for _ in self._steps(to_s):
            await self._idle()

    def _steps(self, to_s: float) -> Iterator[float]:
        for count, now_s in enumerate(self.timer.advance(to_s)):
            if count > MOST_STEPS:
                raise LabError(f"more than {MOST_STEPS:,} times for which nodes wait: let less time pass")
            yield now_s

    async def _rest(self, end_s: float | None) -> None:
        await self._advance(self.timer.now_s() + REST_S)
        for _ in range(MOST_STEPS):
            due_s = self.timer.next_due_of(lambda task: not self.engine.is_source(task))
            if due_s is None or (end_s is not None and due_s > end_s):
                return
            await self._advance(due_s)
        raise LabError("the flow does not come to rest: say until when it is to run")

    async def _idle(self) -> None:
        """Until the event loop has nothing left to do, and no node waits for anything but the flow's time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    self._selector.idle = loop.create_future()
                    await self._selector.idle
                    if self._task.done():
                        self._task.result()
                        raise LabError("the flow has ended by itself")
                    if self.engine.has_begun and not self.engine.busy():
                        return
                    await asyncio.sleep(0.001)
        except TimeoutError:
            names = ", ".join(self.engine.busy()) or "it goes round for ever, or a node waits in its start"
            raise LabError(f"the flow does not come to rest in {PATIENCE_S:g} s: {names}") from None
        finally:
            self._selector.idle = None


@contextlib.contextmanager
def _made(folder: Path | None) -> Iterator[Path]:
    """A folder while the block runs."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="voltflow-lab-") as name:
            yield Path(name)
        return
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
