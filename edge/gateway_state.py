"""What the gateway says of itself on `gw/v1/{gateway}/state`: retained, when something changes, once a minute, and every 10 s
while messages wait on disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

import msgspec

from edge.health import Health, health, spool
from voltflow import __version__, topics
from voltflow.nodes.mqtt_broker import MqttBroker
from voltflow.telemetry import GatewayState

if TYPE_CHECKING:
    from edge.state import AppState

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
TELL_EVERY_S = 60.0
TELL_BACKLOG_EVERY_S = 10.0
"""While messages wait on disk, so that whoever looks sees them become fewer."""
CONFIRM_WITHIN_S = 5.0


def presence(gateway: str, *, online: bool) -> str:
    """What the broker connections say by themselves."""
    return msgspec.json.encode(GatewayState("gw.state/1", gateway, online, __version__)).decode()


class Teller:
    """Publishes the state at every broker the flow publishes to, so that it can be read on either side of a cut."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._topic = topics.gateway_state(state.gateway)
        self._told: tuple[object, ...] = ()
        self._told_s = -TELL_EVERY_S

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
            except Exception:
                log.exception("the gateway's state cannot be published")

    async def _look(self) -> None:
        now, said = time.monotonic(), health(self._state)
        links = [
            wired.node.sender
            for wired in self._state.engine.nodes.values()
            if isinstance(wired.node, MqttBroker)
            and wired.node.sender is not None
            and wired.node.sender.is_up
        ]
        facts = (said.status, *sorted(reason.code for reason in said.reasons), *map(id, links))
        every_s = TELL_BACKLOG_EVERY_S if "spool_backlog" in facts else TELL_EVERY_S
        if facts == self._told and now - self._told_s < every_s:
            return
        payload = msgspec.json.encode(self._message(said))
        for link in links:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_WITHIN_S):
                    await link.publish(self._topic, payload, retain=True)
        self._told, self._told_s = facts, now

    def _message(self, said: Health) -> GatewayState:
        held = spool(self._state.engine)
        return GatewayState(
            "gw.state/1", self._state.gateway, online=True, version=__version__, status=said.status,
            reasons=[reason.message for reason in said.reasons], flow_revision=said.flow_revision, packs=said.packs,
            active_alerts=said.active_alerts, spool_messages=held.backlog_messages, spool_bytes=held.backlog_bytes,
        )  # fmt: skip
