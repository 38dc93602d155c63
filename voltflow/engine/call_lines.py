"""The ways into link calls and out of what they call: a message waits at the call until a link out gives it back."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable

from voltflow.engine.lines import Host
from voltflow.engine.sink_queue import NodeStats, Transaction
from voltflow.engine.turn import FailedMsg
from voltflow.message import Msg
from voltflow.node import Node

LINK_SOURCE = "_linkSource"
DEEPEST_CALL = 50


class CallLine:
    """Feeds a link call: sends messages to a link in, and waits for what a returning link out gives back."""

    def __init__(
        self, node: Node, stats: NodeStats, host: Host, target_of: Callable[[Msg], str], timeout_s: float
    ) -> None:
        self.node, self.stats = node, stats
        self._host, self._target_of, self._timeout_s = host, target_of, timeout_s
        self._open: dict[str, tuple[float, Msg, Transaction]] = {}
        """Calls by their id: until when, with what, for whom."""
        self._run = secrets.token_hex(4)
        """Before the number of a call: an answer that was held over a restart must not answer another one."""
        self._numbers = itertools.count(1)
        self._woken = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def put(self, msgs: list[Msg], transaction: Transaction) -> None:
        self.stats.messages_in += len(msgs)
        failed: list[FailedMsg] = []
        calls: dict[str, list[Msg]] = {}
        due_s = self._host.timer.now_s() + self._timeout_s
        for msg in msgs:
            stack = _calls_of(msg)
            if len(stack) >= DEEPEST_CALL:
                failed.append(FailedMsg(msg, f"link calls within each other, {DEEPEST_CALL} deep"))
                continue
            try:
                target = self._target_of(msg)
            except LookupError as error:
                failed.append(FailedMsg(msg, str(error.args[0])))
                continue
            call = f"{self._run}{next(self._numbers):08x}"
            self._open[call] = (due_s, msg, transaction)
            transaction.wait_for(self.node.id)
            called = msg.derive(
                props={**(msg.props or {}), LINK_SOURCE: [*stack, {"id": call, "node": self.node.id}]}
            )
            calls.setdefault(target, []).append(called)
        if failed:
            self.stats.fail(len(failed))
            self._host.outcomes.fail(self.node, failed, transaction)
        if self._open and self.task is None:
            self.task = asyncio.create_task(self._time_out(), name=f"link call {self.node.label}")
        for target, batch in calls.items():
            self._host.call(target, batch, transaction)

    def back(self, returned: list[tuple[str, Msg]], transaction: Transaction) -> None:
        """What came back for calls. One that nobody waits for any more (a second answer, a late one, one of a call made
        before a restart) goes on as well, as in Node-RED."""
        self.stats.messages_out += len(returned)
        self._host.emit_from(self.node, ([msg for _, msg in returned],), transaction)
        for call, _ in returned:
            found = self._open.pop(call, None)
            if found is not None:
                _, called, waiting = found
                self._host.outcomes.complete(self.node, [called], waiting)
                waiting.safe_at(self.node.id)

    async def _time_out(self) -> None:
        timer = self._host.timer
        while self._open:
            call, (due_s, msg, transaction) = next(iter(self._open.items()))
            if due_s > timer.now_s():
                await timer.until(due_s, self._woken)
                continue
            del self._open[call]
            self.stats.fail(1)
            self._host.outcomes.fail(self.node, [FailedMsg(msg, "timeout")], transaction)
            transaction.safe_at(self.node.id)
        self.task = None

    @property
    def empty(self) -> bool:
        return not self._open


class ReturnLine:
    """Feeds a link out that returns: to the call that a message came by."""

    empty = True

    def __init__(self, stats: NodeStats, calls: Callable[[str], CallLine | None]) -> None:
        self.stats, self._calls = stats, calls
        self.dropped = 0
        """Messages that came by no call."""

    def put(self, msgs: list[Msg], transaction: Transaction) -> None:
        self.stats.messages_in += len(msgs)
        returned: dict[CallLine, list[tuple[str, Msg]]] = {}
        for msg in msgs:
            stack = _calls_of(msg)
            line = self._calls(stack[-1]["node"]) if stack else None
            if line is None:
                self.dropped += 1
                continue
            props = {name: value for name, value in (msg.props or {}).items() if name != LINK_SOURCE}
            if stack[:-1]:
                props[LINK_SOURCE] = stack[:-1]
            returned.setdefault(line, []).append((stack[-1]["id"], msg.derive(props=props or None)))
        for line, batch in returned.items():
            line.back(batch, transaction)


def _calls_of(msg: Msg) -> list[dict[str, str]]:
    """The calls a message came by, the innermost last; what a flow has made of that property is none."""
    found = (msg.props or {}).get(LINK_SOURCE)
    if not isinstance(found, list) or not all(
        isinstance(item, dict) and isinstance(item.get("id"), str) and isinstance(item.get("node"), str)
        for item in found
    ):
        return []
    return list(found)
