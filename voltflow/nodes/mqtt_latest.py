"""The `mqtt latest` node: the newest message of each topic, retained, whatever becomes of the older ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from voltflow.backoff import Backoff
from voltflow.message import Msg, encode_payload
from voltflow.mqtt.codec import check_topic
from voltflow.node import Context, Node, Rejected, Sink, SinkUnavailable, config, node
from voltflow.nodelib.mqtt_badge import LinkBadge
from voltflow.nodelib.mqtt_publisher import Publisher
from voltflow.nodelib.mqtt_publishing import How
from voltflow.nodes.mqtt_broker import MqttBroker

log = logging.getLogger(__name__)

RETAINED = How(retain=True)


@node("mqtt latest", category="network", color="#d8bfd8", icon="bridge.svg")
class MqttLatest(Sink):
    """Publish the newest message of each topic, retained.

    For states that somebody else retains too and gives again after a restart, such as those of devices: a message is
    acknowledged at once, and while the broker is away only the newest of each topic waits, in memory. A deploy that changes the
    node keeps what waits; one that removes it drops it, counted as `removed_by_deploy`. The same payload again is not published,
    so that a flow whose two brokers are one does not go round.
    """

    badge_with_traffic: ClassVar[bool] = True

    broker: str = config(help="the broker", reference="mqtt-broker")

    # state
    published: int = 0
    replaced: int = 0
    refused: int = 0

    async def start(self, ctx: Context) -> None:
        link = await ctx.config_node(self.broker, MqttBroker).open_sender()
        self._publisher = Publisher(link, self._item, how_of=lambda _: RETAINED, patient=False)
        self._waiting: dict[str, Msg] = {}
        self._sending: dict[str, Msg] = {}
        self._last: dict[str, int] = {}
        """Hash of the payload published last, by topic."""
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._publish(), name=self.label)
        self._badge = LinkBadge(self, link)

    async def write(self, msgs: list[Msg]) -> None:
        for msg in msgs:
            check_topic(msg.topic)
            if self._last.get(msg.topic) != hash(encode_payload(msg.payload)):
                self.replaced += msg.topic in self._waiting
                self._waiting[msg.topic] = msg
                self._arrived.set()

    async def _publish(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            self._sending, self._waiting = self._waiting, {}
            await self._send(list(self._sending.values()))
            self._sending = {}

    async def _send(self, msgs: list[Msg]) -> None:
        """Until the broker has what it takes of them."""
        backoff = Backoff()
        while True:
            try:
                self.published += await self._publisher.write(msgs)
            except Rejected as error:
                self.refused += len(error.refused)
                log.warning("%s: refused: %s", self.label, error)
            except SinkUnavailable as error:
                log.info("%s: %d states wait: %s", self.label, len(msgs), error)
                await asyncio.sleep(backoff.next_s())
                continue
            except Exception:  # without this task no state would get out any more, unseen
                log.exception("%s: %d states cannot be published", self.label, len(msgs))
                return
            self._last.update((msg.topic, hash(encode_payload(msg.payload))) for msg in msgs)
            return

    @staticmethod
    def _item(msg: Msg) -> tuple[str, bytes]:
        return msg.topic, encode_payload(msg.payload)

    async def stop(self) -> None:
        self._badge.end()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def leave_to(self, successor: Node | None) -> int:
        left = {**self._sending, **self._waiting}
        if not isinstance(successor, MqttLatest):
            return len(left)
        successor.inherit(left)
        return 0

    def inherit(self, left: Mapping[str, Msg]) -> None:
        """Publish what the node before this one has not: where nothing newer has come here."""
        for topic, msg in left.items():
            if not (topic in self._waiting or topic in self._sending or topic in self._last):
                self._waiting[topic] = msg
                self._arrived.set()

    def status(self) -> dict[str, Any]:
        return {"waiting": len(self._sending.keys() | self._waiting.keys()), "published": self.published,
                "replaced": self.replaced, "refused": self.refused}  # fmt: skip
