"""What a broker holds for a client that is gone: fetched in its name, over one connection, and passed on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from voltflow.message import Msg
from voltflow.mqtt.link import Delivery, MqttLink

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
MAX_BATCH = 250

Emit = Callable[[list[Msg]], Awaitable[None]]


class Estate:
    """Use: `settle` once. When the client itself comes back the broker ends this connection, and that is the end of it."""

    def __init__(self, link: MqttLink, topic_filters: Iterable[str], quiet_s: float) -> None:
        self.messages = 0
        self._link = link
        self._quiet_s = quiet_s
        self._waiting: list[tuple[Msg, Delivery | None]] = []
        self._arrived = asyncio.Event()
        link.inherit(topic_filters, self._receive)

    def _receive(self, msg: Msg, delivery: Delivery | None) -> None:
        self._waiting.append((msg, delivery))
        self._arrived.set()

    async def settle(self, emit: Emit) -> bool:
        """Pass on what the broker holds; whether that was all of it."""
        await self._link.open()
        try:
            await asyncio.wait_for(self._link.connected.wait(), CONNECT_TIMEOUT_S)
            return await self._pass_on(emit)
        except TimeoutError:
            log.warning("%s: no connection: %s", self._link.name, self._link.last_error)
            return False
        finally:
            await self._link.close(timeout_s=1.0)

    async def _pass_on(self, emit: Emit) -> bool:
        while self._link.is_up:
            try:
                await asyncio.wait_for(self._arrived.wait(), self._quiet_s)
            except TimeoutError:
                return self._link.is_up
            self._arrived.clear()
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            if self._waiting:
                self._arrived.set()
            if not await self._settled(batch, emit):
                return False
        return False

    async def _settled(self, batch: list[tuple[Msg, Delivery | None]], emit: Emit) -> bool:
        msgs = [msg for msg, _ in batch if not msg.topic.startswith("br/")]
        try:
            if msgs:
                await emit(msgs)
        except Exception:
            log.exception("%s: a batch of %d failed, it stays with the broker", self._link.name, len(msgs))
            return False
        self._link.acknowledge(delivery for _, delivery in batch if delivery is not None)
        self.messages += len(msgs)
        return True
