"""Killed at any moment while nodes hold messages, a program that is started again loses none of them."""

from __future__ import annotations

import contextlib
import random
import secrets
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.holding_program import NODES, read_numbers
from voltflow.engine.held_store import FILE
from voltflow.node import REGISTRY, Holder, load_nodes

KILLS = 6
DEADLINE_S = 120.0


def held_by_node(folder: Path) -> Counter[str]:
    """What is on disk, by node."""
    if not (folder / FILE).exists():
        return Counter()
    with contextlib.closing(sqlite3.connect(folder / FILE)) as database:
        return Counter(dict(database.execute("SELECT node, count(*) FROM held GROUP BY node")))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program; killed on leaving, and so that it can do nothing about it."""
    with (folder / "log").open("ab") as log:
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.holding_program", str(folder)], stdout=subprocess.PIPE, stderr=log,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert program.stdout is not None
        try:
            assert b"is up" in program.stdout.readline(), (folder / "log").read_text()
            yield program
        finally:
            program.kill()
            program.wait()
            program.stdout.close()


def missing(folder: Path) -> dict[str, list[int]]:
    """Numbers that have neither come out nor become dead letters, by node."""
    found = {
        name: set(range(count)) - read_numbers(folder / f"{name}.out") - read_numbers(folder / f"{name}.dead")
        for name, (_, _, count) in NODES.items()
    }
    return {name: sorted(numbers) for name, numbers in found.items() if numbers}


def wait_for(condition: Callable[[], bool], program: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition() and time.monotonic() < deadline:
        assert program.poll() is None, "it ended by itself"
        time.sleep(0.1)


def test_every_message_comes_out_of_a_program_that_is_killed_while_nodes_hold_it(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # shown where it fails
    chance = random.Random(seed)
    held: Counter[str] = Counter()
    acknowledged: Counter[str] = Counter()
    for _ in range(KILLS):
        with running(tmp_path):
            time.sleep(chance.uniform(0.1, 3.5))  # any moment
        held.update(held_by_node(tmp_path))
        for name in NODES:
            in_hand = read_numbers(tmp_path / f"{name}.acknowledged") - read_numbers(tmp_path / f"{name}.out")
            acknowledged[name] += len(in_hand)
    assert set(held) == set(NODES), "each node had messages on disk when it was killed"
    assert {name for name in NODES if acknowledged[name]} == set(NODES), "nobody but the disk had them"
    with running(tmp_path) as program:
        wait_for(lambda: not missing(tmp_path), program)
        assert missing(tmp_path) == {}, (tmp_path / "log").read_text()[-2000:]
        wait_for(lambda: not held_by_node(tmp_path), program)
    assert not held_by_node(tmp_path), "and nothing stays behind"


def test_all_nodes_that_hold_messages_are_killed_above() -> None:
    """But for split, which holds no more than the last piece of a stream, until something follows."""
    load_nodes("voltflow.nodes", "edge.nodes", "cloud.nodes")
    holders = {
        spec.type
        for spec in REGISTRY.values()
        if spec.category != "test"
        and any(issubclass(c, Holder) for c in (spec.cls, *spec.cls.__subclasses__()))
    }
    assert holders - {"split"} == {properties["type"] for properties, _, _ in NODES.values()}
