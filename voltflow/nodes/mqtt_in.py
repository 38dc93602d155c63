"""The `mqtt in` node: messages of a topic filter, acknowledged when the flow has made them safe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from voltflow.message import Msg, share_props
from voltflow.mqtt.codec import check_filter
from voltflow.mqtt.link import Delivery, MqttLink
from voltflow.node import ConfigError, Context, Emit, Ports, SinkUnavailable, Source, Worker, config, node
from voltflow.nodelib.mqtt_badge import LinkBadge
from voltflow.nodelib.mqtt_payload import decoder_of
from voltflow.nodelib.mqtt_subscriptions import DATATYPES, Subscription, Subscriptions
from voltflow.nodes.mqtt_broker import MqttBroker

log = logging.getLogger(__name__)

QOS0_LIMIT = 10_000
"""Messages of QoS 0 that may wait; nothing slows their sender, so more are dropped and counted."""

IN_FLOW_LIMIT = 10_000
"""Messages that may be in the flow; MQTT's Receive Maximum bounds those of one connection at QoS 1 and 2, but not those
of QoS 0 and not what a connection that is lost again and again brings anew."""

MAX_BATCH = 250
"""Messages of one batch: above some hundreds a batch no longer fits the processor's caches while nodes go over it again
and again, and it holds the event loop for longer."""


class _Typed(Msg, gc=False):
    """A message of a subscription that says itself what its payloads become."""

    datatype: str = ""


@node("mqtt in", category="network", color="#d8bfd8", icon="bridge.svg")
class MqttIn(Source, Worker):
    """Subscribe to an MQTT topic filter.

    A message is acknowledged only when every sink of the flow has made it safe, so a crash loses nothing that was
    sent with QoS 1 or 2; the broker sends it again. At QoS 0 a crash loses what was under way. A shared subscription
    (`$share/group/filter`) splits the messages over several bridges.

    `msg.qos` and `msg.retain` say how it came; what a publisher of MQTT 5 says beside it is in `msg.responseTopic`,
    `correlationData`, `contentType`, `userProperties`, `messageExpiryInterval` and `payloadFormatIndicator`, from where
    `mqtt out` takes it.

    With dynamic subscription it has an input, and messages to it say by `msg.action` what to do: `subscribe` and
    `unsubscribe` with `msg.topic` (a topic filter, an object with `topic`, `qos`, `datatype`, or a list of them; to
    unsubscribe from all, `true`), `getSubscriptions`, which gives them out, `disconnect` and `connect`, which are for all that use
    the broker. Such a message is done with when the broker has confirmed it. The subscriptions are kept on disk, over
    restarts and deploys, until they are ended.
    """

    badge_with_traffic: ClassVar[bool] = True
    parallel: ClassVar[int] = (
        100  # they take their turns in `work`; those that wait for the broker hold up no others
    )

    topic: str = config(help="topic filter; with dynamic subscription empty", example="ev/v1/+/+/telemetry")
    qos: int = config(1, help="highest quality of service", choices=(0, 1, 2))
    datatype: str = config(
        "auto-detect",
        help="what the payload becomes: bytes, text, parsed JSON, base64 text; auto is text, or bytes where it is "
        "none; auto-detect tries JSON before; both believe msg.contentType and msg.payloadFormatIndicator",
        choices=DATATYPES,
    )
    broker: str = config(help="the broker", reference="mqtt-broker")
    inputs: int = config(
        0, help="1: dynamic subscription, messages say what to subscribe to", choices=(0, 1), advanced=True
    )

    # state
    dropped_qos0: int = 0
    failed_batches: int = 0

    def __post_init__(self) -> None:
        try:
            if not self.inputs:
                check_filter(self.topic)
        except ValueError as error:
            raise ConfigError(f'property "topic": {error}') from None

    @classmethod
    def inputs_of(cls, properties: Mapping[str, Any]) -> int:
        return int(str(properties.get("inputs")) == "1")

    async def start(self, ctx: Context) -> None:
        self._broker = ctx.config_node(self.broker, MqttBroker)
        assert self._broker.receiver is not None
        self._link = self._broker.receiver
        self._waiting: list[tuple[Msg, Delivery | None]] = []
        self._arrived = asyncio.Event()
        self._in_flow = 0
        self._connection = 0
        self._retired = False
        self._aside: list[Delivery] = []
        """What came while it was retired: asked for again where it is attached again, else another node's, or nobody's."""
        path = ctx.state_dir / f"subscriptions-{quote(self.id, safe='')}.json"
        self._dynamic = Subscriptions(self._broker, self._link, path, self._receive_of, self.label)
        self._badge = LinkBadge(self, self._link)

    async def stop(self) -> None:
        self._badge.end()

    def attach(self) -> None:
        if not self._retired:
            if self.inputs:
                self._dynamic.attach()
            else:
                self._link.subscribe(self.topic, self.qos, self._receive)
            return
        self._retired = False
        aside, self._aside = self._aside, []
        self._link.send_again(
            aside, f"given up, so that the broker sends again what {self.label} has not taken"
        )

    def retire(self) -> bool:
        self._retired = True
        self._arrived.set()
        return True

    def detach(self) -> None:
        left = [delivery for _, delivery in self._waiting if delivery is not None]
        if self.inputs:
            self._dynamic.detach()
        else:
            self._link.release(self.topic, self._receive)
        if not self._link.held:  # else it is left to the session's next connection
            self._link.acknowledge([*self._aside, *left])

    async def run(self, emit: Emit) -> None:
        link = await self._broker.open_receiver()
        under_way: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            if self._retired:
                self._arrived.set()

        try:
            while self._waiting or under_way or not self._retired:
                await self._arrived.wait()
                self._arrived.clear()
                waiting = link.current(self._waiting)
                batch, self._waiting = waiting[:MAX_BATCH], waiting[MAX_BATCH:]
                if not batch:
                    continue
                if self._waiting:
                    self._arrived.set()
                self._in_flow += len(batch)
                task = asyncio.create_task(self._settle(emit, batch, link), name=f"batch of {self.label}")
                under_way.add(task)
                task.add_done_callback(ended)
                while self._in_flow >= IN_FLOW_LIMIT and under_way:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        finally:
            try:
                if under_way:
                    await asyncio.wait(under_way)
            finally:
                for task in under_way:  # cancelled once more: the time is up
                    task.cancel()

    def _receive(self, msg: Msg, delivery: Delivery | None) -> None:
        if delivery is None:
            if self._retired:
                return
            if len(self._waiting) >= QOS0_LIMIT:
                self.dropped_qos0 += 1
                return
        elif delivery[0] != self._connection:  # a new one, over which what waits here comes again
            self._connection = delivery[0]
            self._waiting = [item for item in self._waiting if item[1] is None]
            self._aside.clear()
        if self._retired and delivery is not None:
            self._aside.append(delivery)
            return
        self._waiting.append((msg, delivery))
        self._arrived.set()

    async def _settle(self, emit: Emit, batch: list[tuple[Msg, Delivery | None]], link: MqttLink) -> None:
        deliveries = [delivery for _, delivery in batch if delivery is not None]
        try:
            await emit([msg for msg, _ in batch])
        except Exception:
            self.failed_batches += 1
            log.exception("%s: a batch of %d failed, %d of it are asked for again", self.label, len(batch),
                          len(deliveries))  # fmt: skip
            link.send_again(
                deliveries, f"given up, so that the broker sends again what failed in {self.label}"
            )
        else:
            link.acknowledge(deliveries)
        finally:
            self._in_flow -= len(batch)

    def process(self, msgs: list[Msg]) -> list[Msg] | Ports:
        if self.datatype == "buffer" and not self.inputs:
            return msgs
        if not self.inputs and msgs and share_props(msgs):
            decode = decoder_of(self.datatype, msgs[0].props)
            return [msg.derive(payload=decode(msg.payload)) for msg in msgs]
        return [msg.derive(payload=decoder_of(self._datatype(msg), msg.props)(msg.payload)) for msg in msgs]

    def _datatype(self, msg: Msg) -> str:
        return (isinstance(msg, _Typed) and msg.datatype) or self.datatype

    async def work(self, msgs: list[Msg]) -> list[Msg]:
        if self._retired:  # the node that takes its place has its subscriptions already
            raise SinkUnavailable("a deploy replaces it")
        return await self._dynamic.work(msgs)

    def _receive_of(self, subscription: Subscription, msg: Msg, delivery: Delivery | None) -> None:
        if subscription.datatype:
            msg = _Typed(
                msg.topic, msg.payload, None, msg.received_ms, msg.props, datatype=subscription.datatype
            )
        self._receive(msg, delivery)

    def status(self) -> dict[str, Any]:
        return {"topic": ", ".join(self._dynamic.topics) if self.inputs else self.topic, "dropped_qos0": self.dropped_qos0, "in_flow": self._in_flow,
                "failed_batches": self.failed_batches}  # fmt: skip
