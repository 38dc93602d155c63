"""Deploys on a running engine: what stays, what is replaced, what is refused, and that no message is lost by any of it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.flows import Lab, messages, raw, running, until
from voltflow.engine import deploy as deploying
from voltflow.engine import sink_queue
from voltflow.engine.context import Contexts
from voltflow.engine.engine import DeployError
from voltflow.flow.flow import Flow, FlowError
from voltflow.message import Msg
from voltflow.node import (
    ConfigNode,
    Context,
    Emit,
    Node,
    SinkUnavailable,
    Source,
    Transform,
    config,
    node,
)

Nodes = tuple[dict[str, Any], ...]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@pytest.fixture(autouse=True)
def short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploying, "DRAIN_S", 0.3)


log: list[str] = []
"""What nodes of the test did, in their order."""


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


@node("test handed over", category="config")
class Shared(ConfigNode):
    """Tells what becomes of it."""

    value: str = config("", help="anything")

    async def start(self, ctx: Context) -> None:
        log.append(f"start {self.value}")

    async def take_over(self) -> None:
        log.append(f"take over {self.value}")

    def hand_over(self, successor: Node | None) -> None:
        log.append(f"hand over {self.value}{'' if successor else ' to nobody'}")

    def take_back(self) -> None:
        log.append(f"take back {self.value}")

    async def stop(self) -> None:
        log.append(f"stop {self.value}")


@node("test counting", category="test")
class Counting(Transform):
    """Count what it has seen, and fail to start if told."""

    shared: str = config("", help="a config node", reference="test handed over")
    broken: bool = config(False, help="does not start")
    seen: int = 0

    async def start(self, ctx: Context) -> None:
        if self.broken:
            raise OSError("no such thing")

    def process(self, msgs: list[Msg]) -> list[Msg]:
        first, self.seen = self.seen, self.seen + len(msgs)
        return [msg.derive(payload=f"{msg.payload}#{first + i}") for i, msg in enumerate(msgs)]


@node("test inlet", category="test")
class Inlet(Source):
    """Receives from a channel of the test's, as a node receives from a broker."""

    channel: str = config("c", help="name of the channel")

    async def start(self, ctx: Context) -> None:
        self.waiting: list[Msg] = []
        self.aside: list[Msg] = []
        self.retired = False
        self.arrived = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    def attach(self) -> None:
        if self.retired:
            self.retired = False
            self.waiting, self.aside = self.waiting + self.aside, []
        else:
            channels.setdefault(self.channel, []).append(self)
        self.arrived.set()

    def retire(self) -> bool:
        self.retired = True
        self.arrived.set()
        return True

    def detach(self) -> None:
        channels[self.channel].remove(self)

    def receive(self, msg: Msg) -> None:
        (self.aside if self.retired else self.waiting).append(msg)
        self.arrived.set()

    async def run(self, emit: Emit) -> None:
        while not self.retired or self.waiting:
            await self.arrived.wait()
            self.arrived.clear()
            batch, self.waiting = self.waiting, []
            if batch:
                await self.hold.wait()
                await emit(batch)


channels: dict[str, list[Inlet]] = {}
"""Who receives, by channel."""


@pytest.fixture(autouse=True)
def empty_channels() -> None:
    channels.clear()


def send(*payloads: Any) -> None:
    for msg in messages(*payloads):
        for inlet in list(channels["c"]):
            inlet.receive(msg)


def flow(*nodes: dict[str, Any]) -> Flow:
    return Flow(list(nodes))


async def refused(lab: Lab, *nodes: dict[str, Any]) -> DeployError:
    with pytest.raises(DeployError) as info:
        await lab.engine.deploy(flow(*nodes))
    return info.value


# -- what stays ---------------------------------------------------------------------------------------------------


def test_unchanged_nodes_keep_their_instance_and_state_and_changed_ones_begin_anew() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["a"]), raw("a", "counting", ["b"]), raw("b", "transform", ["k"]),
                           raw("k", "sink")) as lab:  # fmt: skip
            await lab.feed("s", "x", "y")
            same = {id: lab[id] for id in ("s", "a", "b")}
            await lab.engine.deploy(
                flow(raw("s", "source", ["a"]), raw("a", "counting", ["b"]), raw("b", "transform", ["k"]),
                     raw("k", "sink", limit=1))
            )  # fmt: skip
            assert {id: lab[id] for id in ("s", "a", "b")} == same
            await lab.feed("s", "z")
            assert lab["k"].payloads() == ["z#2"]
            assert lab.engine.deploys == 1

    run(scenario)


@pytest.mark.parametrize(
    "drawing", [{"x": 7, "y": 9}, {"name": "another"}, {"info": "words"}, {"g": ""}, {"w": 3}], ids=str
)
def test_names_and_positions_change_nothing_but_what_people_see(drawing: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["a"], name="one"), raw("a", "counting")) as lab:
            before = lab["s"], lab["a"]
            await lab.engine.deploy(
                flow(raw("s", "source", ["a"], **drawing), raw("a", "counting", **drawing))
            )
            assert (lab["s"], lab["a"]) == before
            assert lab["s"].name == drawing.get("name", "")

    run(scenario)


def test_wires_alone_change_no_node() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["a"]), raw("a", "sink"), raw("b", "sink")) as lab:
            await lab.feed("s", 1)
            before = lab["s"], lab["a"], lab["b"]
            await lab.engine.deploy(flow(raw("s", "source", ["b"]), raw("a", "sink"), raw("b", "sink")))
            await lab.feed("s", 2)
            assert (lab["s"], lab["a"], lab["b"]) == before
            assert (lab["a"].payloads(), lab["b"].payloads()) == ([1], [2])

    run(scenario)


def test_changed_config_node_changes_who_uses_it_and_takes_over_when_the_old_one_has_stopped() -> None:
    async def scenario() -> None:
        def nodes(value: str) -> Nodes:
            return (
                {"id": "c", "type": "test handed over", "value": value},
                raw("s", "source", ["a", "b"]), raw("a", "counting", shared="c"), raw("b", "counting"),
            )  # fmt: skip

        async with running(*nodes("old")) as lab:
            source, user, other = lab["s"], lab["a"], lab["b"]
            await lab.engine.deploy(flow(*nodes("new")))
            assert (lab["s"], lab["b"]) == (source, other)
            assert lab["a"] is not user
            assert log == [
                "start old",
                "take over old",
                "start new",
                "hand over old",
                "stop old",
                "take over new",
            ]
            await lab.engine.deploy(flow(*nodes("new")[1:2], raw("a", "counting"), raw("b", "counting")))
            assert log[-2:] == ["hand over new to nobody", "stop new"]

    run(scenario)


def test_all_nodes_are_replaced_where_that_is_asked_for() -> None:
    async def scenario() -> None:
        nodes = (raw("s", "inlet", ["a"]), raw("a", "counting", ["k"]), raw("k", "sink"))
        async with running(*nodes) as lab:
            await until(lambda: lab.engine.is_running, "the start")
            before = {id: lab[id] for id in ("s", "a", "k")}
            await lab.engine.deploy(flow(*nodes), restart_all=True)
            assert all(lab[id] is not before[id] for id in before)
            send("x")
            await until(lambda: lab["k"].payloads() == ["x#0"], "a message through the new nodes")

    run(scenario)


def test_stats_of_a_replaced_node_go_on_and_those_of_a_removed_one_are_gone() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["a", "k"]), raw("a", "counting"), raw("k", "sink")) as lab:
            await lab.feed("s", 1, 2)
            await lab.engine.deploy(flow(raw("s", "source", ["k"]), raw("k", "sink", limit=1)))
            await lab.feed("s", 3)
            assert lab.engine.stats["k"].messages_in == 3
            assert set(lab.engine.stats) == {"s", "k"}

    run(scenario)


def test_failures_of_a_replaced_node_go_on_and_are_not_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(msgs: list[Msg]) -> list[Msg]:
        raise ValueError("no")

    async def scenario() -> None:
        nodes = (raw("s", "source", ["a"]), raw("a", "transform"))
        async with running(*nodes) as lab:
            for failures in (2, 4):
                lab["a"].process_ = failing
                await lab.feed("s", 1, 2)
                stats = lab.engine.stats["a"]
                assert (stats.failures, stats.recent_failures) == (failures, 2)
                await lab.engine.deploy(flow(nodes[0], raw("a", "transform", mark=failures)))
                assert (stats.failures, stats.recent_failures) == (failures, 0)
            monkeypatch.setattr(sink_queue, "RECENT_S", 0.0)
            lab["a"].process_ = failing
            await lab.feed("s", 1, 2)
            assert (stats.failures, stats.recent_failures) == (6, 0)

    run(scenario)


@node("test keeps context", category="test")
class KeepsContext(Transform):
    """Keeps its context and itself, as a node may, until the garbage collector comes."""

    async def start(self, ctx: Context) -> None:
        self.ctx, self.own = ctx, self

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return msgs


def test_replaced_nodes_are_freed_at_once_whatever_others_keep() -> None:
    """Some, such as models, are large: until the garbage collector comes dozens of deploys may have been."""

    async def scenario() -> None:
        nodes = (
            raw("s", "source", ["a"]), raw("a", "keeps context", ["b"]), raw("b", "counting", ["k"]), raw("k", "sink"),
        )  # fmt: skip
        async with running(*nodes) as lab:
            await lab.feed("s", 1)
            old = {id: weakref.ref(lab[id]) for id in ("a", "b")}
            gc.disable()
            try:
                await lab.engine.deploy(flow(*nodes), restart_all=True)
                assert [id for id, ref in old.items() if ref() is not None] == ["a"]
            finally:
                gc.enable()

    run(scenario)


def test_context_of_a_replaced_node_stays() -> None:
    async def scenario() -> None:
        contexts = Contexts()
        async with running(raw("a", "counting"), services={Contexts: contexts}) as lab:
            await until(lambda: lab.engine.is_running, "the start")
            contexts.scope("node", "a").set("seen", 3)
            await lab.engine.deploy(flow(raw("a", "counting", shared="")))
            assert contexts.scope("node", "a").get("seen") == 3

    run(scenario)


# -- what is refused ----------------------------------------------------------------------------------------------


def test_node_that_does_not_start_leaves_the_old_flow_running_and_its_state_whole() -> None:
    async def scenario() -> None:
        async with running({"id": "c", "type": "test handed over", "value": "old"}, raw("s", "source", ["a"]),
                           raw("a", "counting", ["k"]), raw("k", "sink")) as lab:  # fmt: skip
            await lab.feed("s", "x")
            before, instances, revision = (
                lab.engine.wiring,
                [lab[id] for id in "sak"],
                lab.engine.flow.revision,
            )
            error = await refused(
                lab, {"id": "c", "type": "test handed over", "value": "new"}, raw("s", "source", ["a"], name="renamed"),
                raw("a", "counting", ["b"]), raw("b", "counting", ["k"], broken=True), raw("k", "sink", limit=1),
            )  # fmt: skip
            assert str(error) == "test counting:b does not start: no such thing"
            assert error.node_id == "b"
            await lab.feed("s", "y")
            assert lab["k"].payloads() == ["x#0", "y#1"]
            assert lab.engine.wiring is before
            assert [lab[id] for id in "sak"] == instances
            assert lab["s"].name == ""
            assert (lab.engine.flow.revision, lab.engine.deploys) == (revision, 0)
            assert set(lab.engine.stats) == {"c", "s", "a", "k"}
            assert log == ["start old", "take over old", "start new", "stop new"]

    run(scenario)


def test_node_that_takes_for_ever_to_start_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def for_ever(self: Node, ctx: Context) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with running(raw("s", "source")) as lab:
            monkeypatch.setattr(deploying, "START_S", 0.05)
            monkeypatch.setattr(Counting, "start", for_ever)
            error = await refused(lab, raw("s", "source", ["a"]), raw("a", "counting"))
            assert str(error) == "test counting:a does not start: it takes more than 0.05 s"

    run(scenario)


def test_flow_that_is_wrong_is_refused_and_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "sink")) as lab:
            with pytest.raises(FlowError, match="limit"):
                await lab.engine.deploy(flow(raw("s", "source", ["n"]), raw("n", "sink", limit=99)))
            await lab.feed("s", 1)
            assert lab["k"].payloads() == [1]
            assert set(lab.engine.stats) == {"s", "k"}

    run(scenario)


@pytest.mark.parametrize("changed", ["sink", "source"])
def test_what_is_not_safe_in_time_refuses_the_deploy_and_the_old_flow_brings_it_to_its_end(
    changed: str,
) -> None:
    """Also where only the source is replaced: what it has taken must be acknowledged by it."""

    async def scenario() -> None:
        old = (raw("s", "inlet", ["k"]), raw("k", "sink"))
        new = (
            (old[0], raw("k", "sink", limit=1))
            if changed == "sink"
            else (raw("s", "inlet", ["k"], more=1), old[1])
        )
        async with running(*old) as lab:
            back = asyncio.Event()

            async def write(msgs: list[Msg]) -> None:
                await back.wait()

            sink = lab["k"]
            sink.write_ = write
            await until(lambda: lab.engine.is_running, "the start")
            send(1)
            await until(lambda: lab.engine.transactions, "the batch")
            error = await refused(lab, *new)
            assert str(error) == (
                "what test sink:k has taken is not safe after 0.3 s: bring its far side back, or leave the node as it is"
            )
            assert error.node_id == "k"
            send(2)
            back.set()
            await until(lambda: sink.payloads() == [1, 2], "both messages")
            assert lab["k"] is sink
            await lab.engine.deploy(flow(*new))

    run(scenario)


def test_far_side_that_goes_away_while_sources_are_exchanged_refuses_the_deploy_and_loses_nothing() -> None:
    async def scenario() -> None:
        new = (
            {"id": "c", "type": "test handed over", "value": "new"},
            raw("s", "inlet", ["k"], more=1),
            raw("k", "sink"),
        )
        async with running({**new[0], "value": "old"}, raw("s", "inlet", ["k"]), raw("k", "sink")) as lab:
            await until(lambda: lab.engine.is_running, "the start")
            back, source, task = asyncio.Event(), lab["s"], lab.engine.sources.tasks["s"]
            source.hold.clear()
            send(1)
            await until(lambda: not source.waiting, "a message that is not emitted yet")

            async def write(msgs: list[Msg]) -> None:
                await back.wait()

            lab["k"].write_ = write
            deploying_ = asyncio.create_task(refused(lab, *new))
            await until(lambda: source.retired, "the exchange")
            source.hold.set()
            send(2)
            await deploying_
            send(3)
            back.set()
            await until(lambda: lab["k"].payloads() == [1, 2, 3], "all messages, in their order")
            assert lab["s"] is source
            assert channels["c"] == [source]
            assert lab.engine.sources.tasks["s"] is task
            assert log[-3:] == ["hand over old", "take back old", "stop new"]

    run(scenario)


def test_flow_that_does_not_run_cannot_be_replaced() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source")) as lab:
            assert await lab.end()
            error = await refused(lab, raw("s", "source", name="x"))
            assert str(error) == "the flow does not run: it has not started yet, or is being stopped"

    run(scenario)


def test_stop_in_the_middle_of_a_deploy_ends_both() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "sink"), grace_s=0.1) as lab:

            async def write(msgs: list[Msg]) -> None:
                await asyncio.Event().wait()

            lab["k"].write_ = write
            lab.feed("s", 1)
            await until(lambda: lab.engine.transactions, "the batch")
            deploy = asyncio.create_task(refused(lab, raw("s", "source", ["k"]), raw("k", "sink", limit=1)))
            await asyncio.sleep(0)
            assert not await lab.end()
            assert str(await deploy) in {
                "the flow is being stopped", "the flow does not run: it has not started yet, or is being stopped",
            }  # fmt: skip

    run(scenario)


def test_deploy_goes_on_where_who_asked_for_it_goes_away() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "sink")) as lab:
            old = lab["k"]
            gone = asyncio.create_task(
                lab.engine.deploy(flow(raw("s", "source", ["k"]), raw("k", "sink", limit=1)))
            )
            await asyncio.sleep(0)
            gone.cancel()
            await until(lambda: lab.engine.deploys == 1, "the deploy")
            assert lab["k"] is not old
            await lab.feed("s", 1)
            assert lab["k"].payloads() == [1]

    run(scenario)


# -- what is replaced loses nothing -------------------------------------------------------------------------------


def test_removed_sink_drains_first() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "sink")) as lab:
            go_on, sink = asyncio.Event(), lab["k"]

            async def write(msgs: list[Msg]) -> None:
                await go_on.wait()

            sink.write_ = write
            first, second = lab.feed("s", 1), lab.feed("s", 2)
            await until(lambda: len(lab.engine.transactions) == 2, "two batches")
            deploy = asyncio.create_task(lab.engine.deploy(flow(raw("s", "source"))))
            await asyncio.sleep(0)
            third = lab.feed("s", 3)
            go_on.set()
            await deploy
            await asyncio.gather(first, second, third)
            assert sink.payloads() == [1, 2]
            assert list(lab.engine.nodes) == ["s"]

    run(scenario)


def test_replaced_source_brings_to_its_end_what_it_took_before_the_new_one_begins() -> None:
    async def scenario() -> None:
        async with running(raw("s", "inlet", ["k"]), raw("k", "sink")) as lab:
            await until(lambda: lab.engine.is_running, "the start")
            old = lab["s"]
            old.hold.clear()
            send(1, 2)
            await until(lambda: not old.waiting, "messages that are not emitted yet")
            deploy = asyncio.create_task(
                lab.engine.deploy(flow(raw("s", "inlet", ["k"], more=1), raw("k", "sink")))
            )
            await until(lambda: old.retired, "the exchange")
            send(3)
            old.hold.set()
            await deploy
            send(4)
            await until(lambda: lab["k"].payloads() == [1, 2, 3, 4], "all messages, in their order")
            assert channels["c"] == [lab["s"]]
            assert lab["s"] is not old

    run(scenario)


def test_source_that_cannot_retire_is_cancelled_and_brings_what_it_emitted_to_its_end() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "sink")) as lab:
            go_on = asyncio.Event()

            async def write(msgs: list[Msg]) -> None:
                await go_on.wait()

            lab["k"].write_ = write
            batch = lab.feed("s", 1)
            await until(lambda: lab.engine.transactions, "the batch")
            deploy = asyncio.create_task(
                lab.engine.deploy(flow(raw("s", "source", ["k"], more=1), raw("k", "sink")))
            )
            go_on.set()
            await deploy
            await batch
            await until(lambda: hasattr(lab["s"], "emit"), "the new source")
            await lab.feed("s", 2)
            assert lab["k"].payloads() == [1, 2]

    run(scenario)


def test_batches_that_came_while_a_deploy_was_under_way_keep_their_order_with_those_just_after() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "sink"), raw("o", "sink")) as lab:
            tasks: list[asyncio.Task[None]] = []
            count = 0
            for limit in (1, 2, 3, 4) * 5:
                nodes = (raw("s", "source", ["k"]), raw("k", "sink"), raw("o", "sink", limit=limit))
                deploy = asyncio.create_task(lab.engine.deploy(flow(*nodes)))
                while not deploy.done():
                    tasks.append(lab.feed("s", count))
                    count += 1
                    await asyncio.sleep(0)
                await deploy
            await asyncio.gather(*tasks)
            assert lab["k"].payloads() == list(range(count))

    run(scenario)


def test_spooling_sink_that_is_replaced_keeps_its_backlog_and_doubles_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(
            raw("s", "source", ["k"]), raw("k", "network sink", spool=True), state_dir=tmp_path
        ) as lab:

            async def write(msgs: list[Msg]) -> None:
                raise SinkUnavailable("away")

            old = lab["k"]
            old.write_ = write
            await lab.feed("s", b"1", b"2")
            assert lab.engine.spools.backlog_messages == 2
            registry = lab.engine.spools
            await lab.engine.deploy(
                flow(raw("s", "source", ["k"]), raw("k", "network sink", spool=True, drainShare=1))
            )
            await lab.feed("s", b"3")
            await until(lambda: len(lab["k"].safe()) == 3, "the backlog from the new sink")
            await until(lambda: not lab.engine.spools.backlog_messages, "an empty spool")
            assert sorted(lab["k"].payloads()) == [b"1", b"2", b"3"]
            assert old.safe() == []
            assert lab.engine.spools is registry

    run(scenario)


def test_piece_of_a_backlog_that_is_under_way_is_brought_to_its_end_and_not_sent_twice(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        nodes = (raw("s", "source", ["k"]), raw("k", "network sink", spool=True))
        async with running(*nodes, state_dir=tmp_path) as lab:
            away, go_on, arrived = True, asyncio.Event(), asyncio.Event()

            async def write(msgs: list[Msg]) -> None:
                if away:
                    raise SinkUnavailable("away")
                arrived.set()
                await go_on.wait()

            old = lab["k"]
            old.write_ = write
            await lab.feed("s", b"1", b"2")
            away = False
            await arrived.wait()
            lab.engine.spools.queues[0].circuit.succeeded()
            deploy = asyncio.create_task(
                lab.engine.deploy(flow(nodes[0], raw("k", "network sink", spool=True, drainShare=1)))
            )
            await until(lambda: lab["k"] is not old, "the switch")
            go_on.set()
            await deploy
            await lab.feed("s", b"3")
            assert old.payloads() == [b"1", b"2"]
            assert lab["k"].payloads() == [b"3"]
            assert not lab.engine.spools.backlog_messages

    run(scenario)


def test_spool_without_room_refuses_the_deploy(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "spool").write_text("a file")
        async with running(raw("s", "source"), raw("k", "network sink"), state_dir=tmp_path) as lab:
            error = await refused(lab, raw("s", "source"), raw("k", "network sink", spool=True))
            assert str(error).startswith("test network sink:k has no room for its spool: ")

    run(scenario)


def test_pause_of_a_deploy_is_measured() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "sink")) as lab:
            await lab.engine.deploy(flow(raw("s", "source", ["k"]), raw("k", "sink", limit=1)))
            assert 0 < lab.engine.last_pause_s <= lab.engine.longest_pause_s < 0.3

    run(scenario)


def test_sources_that_stay_go_on_while_old_nodes_stop_side_by_side_and_new_ones_begin_after_it() -> None:
    async def scenario() -> None:
        def nodes(value: str) -> Nodes:
            return (
                *({"id": id, "type": "test handed over", "value": value} for id in "cd"),
                raw("s", "source", ["k"]), raw("k", "sink"), raw("in", "inlet", ["k"], channel=value),
            )  # fmt: skip

        stopping, may_stop = asyncio.Barrier(3), asyncio.Event()

        async def stop() -> None:
            await stopping.wait()
            await may_stop.wait()

        async with running(*nodes("a")) as lab:
            for id in "cd":
                lab[id].stop = stop
            deploy = asyncio.create_task(lab.engine.deploy(flow(*nodes("b"))))
            try:
                async with asyncio.timeout(10):
                    await stopping.wait()
                    await lab.feed("s", 1)
                    (new,) = channels["b"]
                    new.receive(messages(2)[0])
                    await lab.feed("s", 3)
                assert lab["k"].payloads() == [1, 3]
            finally:
                may_stop.set()
            await deploy
            await until(lambda: lab["k"].payloads() == [1, 3, 2], "what came to the new source")

    run(scenario)


def test_flow_that_is_paused_stays_so_over_a_deploy() -> None:
    async def scenario() -> None:
        async with running(raw("s", "source", ["k"]), raw("k", "sink")) as lab:
            await lab.engine.pause()
            batch = lab.feed("s", 1)
            await lab.engine.deploy(flow(raw("s", "source", ["k"]), raw("k", "sink", limit=1)))
            await asyncio.sleep(0)
            assert not lab.engine.transactions
            await lab.engine.resume()
            await batch
            assert lab["k"].payloads() == [1]

    run(scenario)
