"""A program that a test kills: queues in files, each through a node that holds messages, into a file.

`python -m tests.holding_program FOLDER`, which says when its queues run. The source of a node forgets what was acknowledged, and nothing else: it appends
the numbers to `NODE.acknowledged`. Its sink appends the numbers it gets to `NODE.out`, and what the node gave up is in `NODE.dead`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voltflow.engine.engine import Engine
from voltflow.flow.flow import Flow
from voltflow.message import Msg
from voltflow.node import REGISTRY, DeadLetterSink, Emit, Sink, Source, config, load_nodes, node

COUNT = 2000
"""Messages of each queue: whole sequences of SEQUENCE, APART."""
SEQUENCE = 4
BEGIN_MS = 1_700_000_040_000
"""Of a minute."""
APART = 250
"""Messages between two of a sequence: more than a second."""
EVERY_S = 0.005
FEWER = 700
GIVE_UP_S = 20.0
"""What does not get complete in that time: above all a part that comes again when its sequence has left."""
WINDOW = 300
"""Unacknowledged messages of a source at most."""


def numbered(number: int) -> Msg:
    return Msg(str(number), number)


def in_sequence(number: int) -> Msg:
    """Parts of a sequence stand apart, so that many sequences are incomplete at any time."""
    block, rest = divmod(number, SEQUENCE * APART)
    index, place = divmod(rest, APART)
    parts = {"id": f"{block}.{place}", "index": index, "count": SEQUENCE}
    return Msg(str(number), number, props={"parts": parts})


def line(number: int) -> Msg:
    """A line of CSV."""
    msg = in_sequence(number)
    return msg.derive(payload=f"{number}\n")


def measured(number: int) -> Msg:
    """Two messages of a key, some time apart, which are of one window."""
    block, rest = divmod(number, 2 * APART)
    index, place = divmod(rest, APART)
    return Msg(str(number), {"key": f"{block}.{place}", "n": number, "ts_ms": BEGIN_MS + 1000 * index})


def window(**properties: Any) -> tuple[dict[str, Any], Callable[[int], Msg], int]:
    """One with the two numbers of a key."""
    rules = [{"function": name, "property": "payload.n", "name": name} for name in ("min", "max")]
    return dict(type="window", key="payload.key", rules=rules, **properties), measured, FEWER


Make = Callable[[int], Msg]
NODES: dict[str, tuple[dict[str, Any], Make, int]] = {
    "delay": (dict(type="delay", timeout=1.5), numbered, COUNT),
    "limit": (dict(type="delay", pauseType="rate", rate=60), numbered, FEWER),
    "trigger": (
        dict(type="trigger", bytopic="topic", op1type="nul", op2type="payl", duration=1.5, units="s"), numbered, COUNT,
    ),
    "batch": (dict(type="batch", mode="interval", interval=2), numbered, COUNT),
    "join": (dict(type="join", giveUpAfter=GIVE_UP_S), in_sequence, COUNT),
    "sort": (dict(type="sort", targetType="seq", giveUpAfter=GIVE_UP_S), in_sequence, COUNT),
    "switch": (
        dict(type="switch", repair=True, rules=[{"t": "nnull"}], giveUpAfter=GIVE_UP_S), in_sequence, COUNT,
    ),
    "csv": (dict(type="csv", multi="mult", temp="n", giveUpAfter=GIVE_UP_S), line, COUNT),
    "tumbling": window(size=4, idle=1),
    "sliding": window(mode="sliding", size=4, every=2, idle=1),
    "session": window(mode="session", gap=2, idle=1),
    "receive": window(time="receive", size=2),
}  # fmt: skip
"""By name: the node's properties, its messages by number, and how many there are."""


def read_numbers(file: Path) -> set[int]:
    return {int(line) for line in file.read_text().split()} if file.exists() else set()


def append_numbers(file: Path, numbers: list[int]) -> None:
    """In one write, so that a killed program leaves no half of a number."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, "".join(f"{number}\n" for number in numbers).encode())
    finally:
        os.close(handle)


@node("test file queue", category="test")
class FileQueue(Source):
    """Emits the numbers that were not acknowledged."""

    folder: str = config(help="where its file is")

    async def run(self, emit: Emit) -> None:
        print(f"{self.id} is up", flush=True)
        file = Path(self.folder) / f"{self.id[:-2]}.acknowledged"
        _, make, count = NODES[self.id[:-2]]
        window = asyncio.Semaphore(WINDOW)

        async def send(number: int) -> None:
            async with window:
                await emit([make(number)])
                append_numbers(file, [number])

        async with asyncio.TaskGroup() as tasks:
            for number in sorted(set(range(count)) - read_numbers(file)):
                tasks.create_task(send(number))
                await asyncio.sleep(EVERY_S)
        await asyncio.Event().wait()


@node("test file sink", category="test")
class FileSink(Sink):
    """Appends the numbers it gets."""

    folder: str = config(help="where its file is")

    async def write(self, msgs: list[Msg]) -> None:
        append_numbers(
            Path(self.folder) / f"{self.id[:-2]}.out",
            [number for msg in msgs for number in numbers_of(msg.payload)],
        )


def numbers_of(payload: Any) -> list[int]:
    """What came out: a number, several, the first and last of a window, or a message that was too late for one."""
    if isinstance(payload, list):
        return [number for item in payload for number in numbers_of(item)]
    if isinstance(payload, dict):
        return [payload[name] for name in ("n", "min", "max") if name in payload]
    return [payload]


@node("test file dead letters", category="test")
class FileDead(DeadLetterSink):
    """Appends the numbers of messages that a node gave up."""

    folder: str = config(help="where its files are")

    async def write(self, msgs: list[Msg]) -> None:
        for msg in msgs:
            append_numbers(Path(self.folder) / f"{msg.payload.node}.dead", [int(msg.topic)])


async def main(folder: Path) -> None:
    load_nodes("voltflow.nodes")
    nodes: list[dict[str, Any]] = [{"id": "dead", "type": "test file dead letters", "folder": str(folder)}]
    for name, (properties, _, _) in NODES.items():
        nodes += [
            {"id": f"{name}.s", "type": "test file queue", "folder": str(folder), "wires": [[name]]},
            {
                "id": name,
                "wires": [[f"{name}.k"]] * REGISTRY[properties["type"]].cls.outputs_of(properties),
                **properties,
            },
            {"id": f"{name}.k", "type": "test file sink", "folder": str(folder)},
        ]
    await Engine(Flow(nodes), env={}, state_dir=folder).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
