"""Any order of publishing, outages, crashes and restarts: what was acknowledged is at the far side, on disk, or named as lost.

The engine and the spool are the real ones. The broker is a model: it keeps what was not acknowledged and gives it to the
next run in order. The far side keeps what it takes, also what it took without answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.flows import Feed, Lab, raw, until
from voltflow.engine import store_forward
from voltflow.engine.engine import Engine
from voltflow.engine.network_sink import REPLAYED
from voltflow.engine.store_forward import SpoolingQueue
from voltflow.flow.flow import Flow
from voltflow.message import Key, Msg, now_ms
from voltflow.node import SinkUnavailable
from voltflow.telemetry import Loss

PACKS = ("a", "b")
PADDING = "x" * 1500
PERIOD_MS = 500


class Broker:
    """What devices published and the flow has not acknowledged, in order."""

    def __init__(self) -> None:
        self.pending: list[Msg] = []
        self.published = dict.fromkeys(PACKS, 0)
        self.given = 0
        """How many of the pending ones this run has got."""

    def publish(self, pack: str, count: int) -> None:
        for _ in range(count):
            seq = self.published[pack]
            self.published[pack] += 1
            payload = {"schema": "twin.prediction/1", "fleet": "f", "pack": pack, "boot": 1, "seq": seq,
                       "ts_ms": seq * PERIOD_MS, "padding": PADDING}  # fmt: skip
            self.pending.append(
                Msg(f"ev/v1/f/{pack}/twin", msgspec.json.encode(payload), Key(pack, 1, seq), now_ms())
            )


class Far:
    """The far side over all runs: live and replayed messages by pack, loss records, and its mood."""

    def __init__(self) -> None:
        self.mode = "up"
        self.got: dict[str, set[int]] = {pack: set() for pack in PACKS}
        self.lost: dict[str, list[range]] = {pack: [] for pack in PACKS}
        self.run_order: dict[tuple[str, bool], list[int]] = {}
        """What came for the first time in this run; a crash may bring again what an earlier one took, at any later place."""
        self.got_before: dict[str, set[int]] = {pack: set() for pack in PACKS}
        self.changed = asyncio.Event()
        self.connection = asyncio.Lock()
        """Calls reach the far side in their order; without it one that comes as the mood changes overtakes those that wait."""

    def begin_run(self) -> None:
        self.run_order.clear()
        self.got_before = {pack: set(seqs) for pack, seqs in self.got.items()}

    def become(self, mode: str) -> None:
        self.mode = mode
        self.changed.set()
        self.changed = asyncio.Event()

    async def __call__(self, msgs: list[Msg]) -> None:
        async with self.connection:
            while self.mode in {"away", "silent"}:
                if self.mode == "away":
                    raise SinkUnavailable("connection refused")
                await self.changed.wait()
            answers = self.mode == "up"
            self._take(msgs, ordered=answers)
        if not answers:
            await asyncio.Event().wait()

    def _take(self, msgs: list[Msg], *, ordered: bool) -> None:
        for msg in msgs:
            body = msgspec.json.decode(msg.payload)
            replayed = bool(msg.props and REPLAYED in msg.props)
            assert bool(body.get("replay")) == replayed
            if body["schema"] == "loss/1":
                loss = msgspec.convert(body, Loss)
                self.lost[loss.pack].append(range(loss.seq_from, loss.seq_to + 1))
                continue
            self.got[body["pack"]].add(body["seq"])
            if ordered and body["seq"] not in self.got_before[body["pack"]]:
                self.run_order.setdefault((body["pack"], replayed), []).append(body["seq"])


class World(RuleBasedStateMachine):
    """The whole of it. Rules run the event loop for as long as they say and no longer."""

    @initialize(kind=st.sampled_from(["network sink", "pipelined network sink"]))
    def begin(self, kind: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(store_forward, "PROBE_S", 0.05)
        self.root = Path(tempfile.mkdtemp(prefix="voltflow-model-"))
        self.folder = self.root / "0"
        self.folder.mkdir()
        self.kind, self.broker, self.far = kind, Broker(), Far()
        self.tasks: set[asyncio.Task[None]] = set()
        self.run(self._start())

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(what)

    async def _start(self) -> None:
        sink = raw("k", self.kind, spool=True, spoolMaxMb=0.2, spoolProtectedMb=50, drainShare=1)
        engine = Engine(Flow([raw("s", "source", ["k"]), sink]), env={}, state_dir=self.folder, grace_s=0.5)
        node: Any = engine.nodes["k"].node
        node.write_, node.spoolAfter = self.far, 0.02
        engine.spools.queues[0].circuit.backoff.limit_s = 0.005
        self.far.begin_run()
        self._watch_for_shortage(engine.spools.queues[0])
        self.lab = Lab(engine)
        source: Feed = self.lab["s"]
        await until(lambda: hasattr(source, "fail") or self.lab.run.done(), "the start")
        self.broker.given = 0
        self._deliver()

    def _watch_for_shortage(self, queue: SpoolingQueue) -> None:
        """While a batch does not fit on the disk a smaller one behind it may: then their order is not promised."""
        note, self.was_short = queue._note_append, False

        def noted(error: str) -> None:
            self.was_short = self.was_short or bool(error)
            note(error)

        queue._note_append = noted  # type: ignore[method-assign]

    @property
    def queue(self) -> SpoolingQueue:
        return self.lab.engine.spools.queues[0]

    def _deliver(self) -> None:
        """Hand what is pending to the flow as one batch, acknowledged when that returns."""
        batch = self.broker.pending[self.broker.given :]
        if not batch:
            return
        self.broker.given = len(self.broker.pending)

        async def settle() -> None:
            await self.lab["s"].emit(batch)
            ids = set(map(id, batch))
            before = len(self.broker.pending)
            self.broker.pending = [msg for msg in self.broker.pending if id(msg) not in ids]
            self.broker.given -= before - len(self.broker.pending)

        task = self.loop.create_task(settle())
        self.lab["s"].under_way.add(task)

    @rule(pack=st.sampled_from(PACKS), count=st.integers(1, 60))
    def publish(self, pack: str, count: int) -> None:
        self.broker.publish(pack, count)
        self.run(asyncio.sleep(0))
        self._deliver()

    @rule(mode=st.sampled_from(["up", "away", "silent", "deaf"]))
    def outage(self, mode: str) -> None:
        self.far.become(mode)

    @rule(turns=st.integers(1, 40))
    def time_passes(self, turns: int) -> None:
        self.run(asyncio.sleep(turns * 0.001))

    @rule()
    def crash(self) -> None:
        """The program is gone in the middle of whatever it does; what it had written to files is there."""

        async def die() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for _ in range(3):  # the engine's own ending is interrupted as well
                for task in tasks:
                    task.cancel()
                await asyncio.sleep(0)
            await asyncio.wait(tasks)

        copy = self.root / str(int(self.folder.name) + 1)
        while True:
            try:
                shutil.copytree(self.folder, copy)  # before anything can be closed in order
                break
            except shutil.Error:  # the spool's thread has just replaced a file
                shutil.rmtree(copy)
        thread = self.queue.spool._jobs
        self.run(die())
        thread.put(None)  # threads of the dead would add up
        shutil.rmtree(self.folder, ignore_errors=True)  # a thread may not have heard yet that it is dead
        self.folder = copy
        self.run(self._start())

    @rule()
    def restart(self) -> None:
        self.run(self.lab.end())
        self.run(self._start())

    @precondition(lambda self: hasattr(self, "lab"))
    @invariant()
    def nothing_ends_by_itself(self) -> None:
        assert not self.lab.run.done(), self.lab.run

    def teardown(self) -> None:
        if not hasattr(self, "lab"):
            return
        try:
            self.far.become("up")
            self.run(self._settled())
            self._everything_is_accounted_for()
        finally:
            with contextlib.suppress(BaseException):
                self.run(self.lab.end())
            self.loop.close()
            self.patch.undo()
            shutil.rmtree(self.root, ignore_errors=True)

    async def _settled(self) -> None:
        self._deliver()
        await until(lambda: not self.broker.pending, "everything acknowledged", 20)
        await until(lambda: not self.queue.spool.backlog.messages, "an empty spool", 20)

    def _everything_is_accounted_for(self) -> None:
        for pack, count in self.broker.published.items():
            named = {seq for lost in self.far.lost[pack] for seq in lost}
            missing = set(range(count)) - self.far.got[pack]
            assert missing <= named, f"pack {pack}: {sorted(missing - named)[:10]} are lost without a word"
            assert named <= set(range(count)), f"pack {pack}: loss records name what never was"
        for (pack, replayed), seqs in [] if self.was_short else self.far.run_order.items():
            first = list(dict.fromkeys(seqs))
            assert first == sorted(first), f"pack {pack}, replayed {replayed}: out of order {first[:50]}"


TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example runs for real: shrinking takes minutes
)  # fmt: skip
