"""The `mqtt heir` node: what a broker holds for a bridge that is gone goes into the flow of one that is there."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from cloud.mqtt_estate import Estate
from cloud.presence import Presence
from voltflow import topics
from voltflow.message import Msg
from voltflow.mqtt.link import Delivery
from voltflow.node import Context, Emit, Source, config, node
from voltflow.nodes.mqtt_broker import MqttBroker

log = logging.getLogger(__name__)


@node("mqtt heir", category="network", color="#d8bfd8", icon="bridge.svg")
class MqttHeir(Source):
    """Take over what the broker holds for a bridge that was killed, where several share the messages.

    A broker gives a shared subscriber that is away its part nevertheless (mosquitto 2.0), and holds it, with what was
    under way, until that client comes back. This node hears which bridges are there (their retained state and last
    will). When one has been gone for `after_s`, one of the others connects in its name, ends its subscriptions, and
    passes on what the broker held for it; a message is acknowledged when every sink has it. The bridge that comes back
    takes its session back. What was under way when a bridge was killed may come twice.
    """

    broker: str = config(help="the broker that the bridges share", reference="mqtt-broker")
    after_s: float = config(
        10.0, help="how long a bridge is gone before it is taken over", unit="s", low=0.1, high=86400
    )
    quiet_s: float = config(
        3.0, help="nothing came for so long: it is all that the broker held", unit="s", low=0.1, high=600,
        advanced=True,
    )  # fmt: skip

    # state
    taken_over: int = 0
    messages: int = 0
    heir_of: str = ""

    async def start(self, ctx: Context) -> None:
        self._broker = ctx.config_node(self.broker, MqttBroker)
        self._presence = Presence(ctx.gateway, self.after_s)

    def attach(self) -> None:
        assert self._broker.receiver is not None
        self._broker.receiver.subscribe(topics.BRIDGES_FILTER, 1, self._heard)

    def detach(self) -> None:
        assert self._broker.receiver is not None
        self._broker.receiver.release(topics.BRIDGES_FILTER, self._heard)

    def _heard(self, msg: Msg, delivery: Delivery | None) -> None:
        self._presence.heard(msg.topic, msg.payload)
        if delivery is not None and self._broker.receiver is not None:
            self._broker.receiver.acknowledge([delivery])

    async def run(self, emit: Emit) -> None:
        await self._broker.open_receiver()
        while True:
            absent = await self._presence.next_absent()
            await self._take_over(absent, emit)

    async def _take_over(self, bridge: str, emit: Emit) -> None:
        log.warning("%s: bridge %s is gone, takes over what the broker holds for it", self.label, bridge)
        await self._say(bridge, self._presence.claim())
        self.heir_of = bridge
        assert self._broker.receiver is not None
        estate = Estate(self._broker.link_of(bridge), self._broker.receiver.subscriptions, self.quiet_s)
        try:
            complete = await estate.settle(self._counted(emit))
        finally:
            self.heir_of = ""
        if complete and self._presence.is_mine(bridge):
            self.taken_over += 1
            log.info("%s: took over %d messages of bridge %s", self.label, estate.messages, bridge)
            self._presence.forget(bridge)
            await self._say(bridge, b"")  # nobody needs to look after it any more
        else:
            log.info("%s: bridge %s is back, or another one takes over; %d messages until then",
                     self.label, bridge, estate.messages)  # fmt: skip
            self._presence.postpone(bridge)

    def _counted(self, emit: Emit) -> Callable[[list[Msg]], Awaitable[None]]:
        async def counted(msgs: list[Msg]) -> None:
            await emit(msgs)
            self.messages += len(msgs)

        return counted

    async def _say(self, bridge: str, state: bytes) -> None:
        sender = await self._broker.open_sender()
        await sender.publish(topics.bridge_state(bridge), state, retain=True)

    def status(self) -> dict[str, Any]:
        return {
            "bridges": self._presence.describe(),
            "heir_of": self.heir_of,
            "taken_over": self.taken_over,
            "messages": self.messages,
        }
