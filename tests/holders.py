"""A node that holds messages between a source and sinks, in a time of its own.

The flow: source `s`, the node `n`, a sink for each output (`k1`, `k2`), dead letters `d`.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from tests.flows import Lab, raw, running
from voltflow.engine.context import Contexts
from voltflow.engine.engine import Engine
from voltflow.engine.timer import VirtualTimer
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.node import REGISTRY, Failure, load_nodes

load_nodes("voltflow.nodes")

START_S = 1_700_000_000.0
Outputs = tuple[list[Any], list[Any], list[Any]]
"""Payloads by sink, and the errors of dead letters."""


def flow_of(kind: str, **properties: Any) -> list[dict[str, Any]]:
    """The nodes of the flow."""
    outputs = REGISTRY[kind].cls.outputs_of(properties)
    sinks = [f"k{port + 1}" for port in range(outputs)]
    return [
        raw("s", "source", ["n"]),
        {"id": "n", "type": kind, "wires": [[sink] for sink in sinks], **properties},
        *(raw(sink, "sink") for sink in sinks),
        raw("d", "dead letters"),
    ]


class Held:
    """A running flow; `time` is what its nodes go by."""

    def __init__(self, lab: Lab, time: VirtualTimer) -> None:
        self.lab, self.time = lab, time

    @property
    def engine(self) -> Engine:
        return self.lab.engine

    def feed(self, *msgs: Msg) -> asyncio.Task[None]:
        """Emit a batch; done when it is acknowledged."""
        task: asyncio.Task[None] = self.lab["s"].feed(list(msgs))
        return task

    async def give(self, *msgs: Msg) -> asyncio.Task[None]:
        """Emit each message as a batch of its own, and let all that follows happen; the last one's acknowledgement."""
        for msg in msgs:
            task = self.feed(msg)
            await turns()
        return task

    async def pass_s(self, seconds: float) -> None:
        """Let time pass, and all that is due in it happen."""
        await turns()
        for _ in self.time.advance(self.time.now_s() + seconds):
            await turns()
        await turns()

    def sent(self, port: int = 1) -> list[Any]:
        """The messages at a sink (any type: their properties are looked into)."""
        msgs: list[Any] = self.lab[f"k{port}"].safe()
        return msgs

    def payloads(self, port: int = 1) -> list[Any]:
        return [msg.payload for msg in self.sent(port)]

    def failures(self) -> list[Failure]:
        found: list[Failure] = self.lab["d"].payloads()
        return found

    async def deploy(self, *nodes: dict[str, Any]) -> None:
        await self.engine.deploy(Flow(list(nodes)))
        await turns()


async def turns() -> None:
    """Let everything happen that needs neither time nor a disk."""
    for _ in range(60):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def holding(
    kind: str,
    *,
    state_dir: Path | None = None,
    at_s: float = START_S,
    contexts: Contexts | None = None,
    **properties: Any,
) -> AsyncIterator[Held]:
    """The flow with a node of that type and these properties; on leaving it is stopped."""
    time = VirtualTimer(at_s)
    with tempfile.TemporaryDirectory() as folder:
        services = {Contexts: contexts} if contexts is not None else {}
        options = dict(timer=time, state_dir=state_dir or Path(folder), grace_s=1.0, services=services)
        async with running(*flow_of(kind, **properties), **options) as lab:
            await turns()
            yield Held(lab, time)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def msg(payload: Any = None, topic: str = "", **props: Any) -> Msg:
    return Msg(topic, payload, props=props or None)


Step = Msg | float
"""A message that comes, or seconds that pass."""


def outcome(kind: str, steps: Sequence[Step | list[Msg]], **properties: Any) -> Outputs:
    """What comes out of a node after the steps; a list is a batch."""
    found: list[Outputs] = []

    async def scenario() -> None:
        async with holding(kind, **properties) as held:
            for step in steps:
                if isinstance(step, float | int):
                    await held.pass_s(step)
                else:
                    held.feed(*(step if isinstance(step, list) else [step]))
                    await turns()
            second = held.payloads(2) if "k2" in held.engine.nodes else []
            found.append((held.payloads(), second, [failure.error for failure in held.failures()]))

    run(scenario)
    return found[0]
