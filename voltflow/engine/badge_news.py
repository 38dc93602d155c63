"""Tells `status` nodes of the badges of others, in batches of their own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voltflow.engine.events import Badge
from voltflow.message import Msg
from voltflow.node import Node

if TYPE_CHECKING:
    from voltflow.engine.engine import Engine

LIMIT = 1000
"""Status messages under way at most; more are dropped and counted."""


class BadgeNews:
    """What waits to be told, and how much is under way. Use: `heard` at each badge, `tell` once a flow stands."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[tuple[Node, Badge]] = []
        self._under_way = 0
        self.begun = False
        """Whether a flow stands that can be told."""

    @property
    def quiet(self) -> bool:
        """Whether nothing waits or is under way."""
        return not self._waiting and not self._under_way

    def heard(self, node: Node) -> None:
        """A node shows another badge."""
        engine = self._engine
        engine.events.tell(f"status/{node.badge_id}", dict(node.badge))
        if not engine.home_of(node).listeners("status", node.badge_id):
            return
        if self._under_way + len(self._waiting) >= LIMIT:
            engine.dropped["status"] = engine.dropped.get("status", 0) + 1
            return
        self._waiting.append((node, node.badge))
        if self.begun:  # not at once: a badge that a status node brings about must not become a recursion
            asyncio.get_running_loop().call_soon(self.tell)

    def tell(self) -> None:
        """Tell what waits."""
        self.begun = True
        waiting, self._waiting = self._waiting, []
        for node, badge in waiting:
            if self._engine.homes.get(node) is self._engine.wiring:
                self._tell(node, badge)
            elif (
                node in self._engine.homes
            ):  # a deploy is starting it: those who listen may not have started yet
                self._waiting.append((node, badge))

    def _tell(self, node: Node, badge: Badge) -> None:
        wiring = self._engine.wiring
        source = {"id": node.id, "type": node.type, "name": node.name}
        if instance := wiring.instances.get(node.badge_id):
            source = {"id": instance.id, "type": instance.type, "name": instance.raw.get("name", "")}
        for listener in wiring.listeners("status", node.badge_id):
            now_ms = int(self._engine.timer.now_s() * 1000)
            msg = Msg("", None, None, now_ms, {"status": {**badge, "source": source}})
            self._under_way += 1
            transaction = self._engine.begin(node, [msg])
            transaction.then(self._told)
            self._engine.call(listener, [msg], transaction)
            transaction.settle()

    def _told(self, _: BaseException | None) -> None:
        self._under_way -= 1
