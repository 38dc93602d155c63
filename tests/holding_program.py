"""A program that a test kills: queues in files, each through a node that holds messages, into a file.

`python -m tests.holding_program FOLDER`, which says when its queues run. The source of a node forgets what was acknowledged, and nothing else: it appends
the numbers to `NODE.acknowledged`. Its sink appends the numbers it gets to `NODE.out`.
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
from voltflow.node import Emit, Sink, Source, config, load_nodes, node

COUNT = 2000
"""Messages of each queue: whole sequences of SEQUENCE, APART."""
SEQUENCE = 4
APART = 250
"""Messages between two of a sequence: more than a second."""
EVERY_S = 0.005
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


Make = Callable[[int], Msg]
NODES: dict[str, tuple[dict[str, Any], Make, int]] = {
    "delay": (dict(type="delay", timeout=1.5), numbered, COUNT),
    "limit": (dict(type="delay", pauseType="rate", rate=60), numbered, 700),
    "trigger": (
        dict(type="trigger", bytopic="topic", op1type="nul", op2type="payl", duration=1.5, units="s"), numbered, COUNT,
    ),
    "batch": (dict(type="batch", mode="interval", interval=2), numbered, COUNT),
    "join": (dict(type="join"), in_sequence, COUNT),
    "sort": (dict(type="sort", targetType="seq"), in_sequence, COUNT),
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
        numbers: list[int] = []
        for msg in msgs:
            numbers += msg.payload if isinstance(msg.payload, list) else [msg.payload]
        append_numbers(Path(self.folder) / f"{self.id[:-2]}.out", numbers)


async def main(folder: Path) -> None:
    load_nodes("voltflow.nodes")
    nodes: list[dict[str, Any]] = []
    for name, (properties, _, _) in NODES.items():
        nodes += [
            {"id": f"{name}.s", "type": "test file queue", "folder": str(folder), "wires": [[name]]},
            {"id": name, "wires": [[f"{name}.k"]], **properties},
            {"id": f"{name}.k", "type": "test file sink", "folder": str(folder)},
        ]
    await Engine(Flow(nodes), env={}, state_dir=folder).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
