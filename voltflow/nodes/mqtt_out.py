"""The `mqtt out` node: publishes, and calls a batch safe when the broker has confirmed all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

from voltflow.engine.network_sink import NetworkSink
from voltflow.message import Msg, encode_payload
from voltflow.mqtt.codec import NO_SUBSCRIBER, TRY_AGAIN, check_topic, reason_text
from voltflow.mqtt.link import LinkClosed, MqttLink, PublishRefused
from voltflow.node import ConfigError, Context, Rejected, SinkUnavailable, config, node
from voltflow.nodes.mqtt_broker import MqttBroker

Item = tuple[str, bytes]
"""Topic and payload as they are published."""


@node("mqtt out", category="network", color="#d8bfd8", icon="bridge.svg")
class MqttOut(NetworkSink):
    """Publish messages to an MQTT broker: bytes and texts as they are, anything else as JSON, null as nothing at all.

    With QoS 1 or 2 a batch is safe when the broker has confirmed it, and waits while the broker is away, on disk with
    `spool`; after a reconnect an unconfirmed message is sent again, so a receiver may see it twice at QoS 1. With QoS 0
    nothing is confirmed and what is sent while the broker is away is lost.

    A broker also confirms what nobody subscribes to, and throws it away. One that was restarted may have forgotten its
    subscribers: for a minute after a reconnect such a message is published again until it finds one, where there were
    some before, unless `patient` is off. With `needsSubscriber` such a message is not
    safe: it is published again until somebody subscribes, and the flow waits. Messages that are repeated keep their
    order among each other; one of a later batch that found a subscriber meanwhile is before them. It takes a broker
    of MQTT 5, which says so.
    """

    pipelined: ClassVar[bool] = True

    topic: str = config("", help="topic; empty: the message's own", example="ev/v1/demo/SIM000001/cmd")
    qos: int = config(1, help="quality of service", choices=(0, 1, 2))
    retain: Any = config(
        "",
        help="the broker keeps the last message of the topic: true, false, or empty: as msg.retain says; with a spool no",
    )
    needsSubscriber: bool = config(
        False, help="not safe before somebody subscribes to it; for brokers that forget subscriptions"
    )
    patient: bool = config(
        True,
        help="for a minute after a reconnect what nobody subscribes to waits for a subscriber",
        advanced=True,
    )
    broker: str = config(help="the broker", reference="mqtt-broker")

    def __post_init__(self) -> None:
        if self.retain not in (True, False, "true", "false", ""):
            raise ConfigError(f'property "retain": {self.retain!r} is not true, false or empty')
        if self.topic:
            try:
                check_topic(self.topic)
            except ValueError as error:
                raise ConfigError(f'property "topic": {error}') from None
        if self.needsSubscriber and not self.qos:
            raise ConfigError(
                'property "needsSubscriber": with QoS 0 the broker answers nothing; use qos 1 or 2'
            )
        if self.spool and not self.qos:
            raise ConfigError(
                'property "spool": with QoS 0 nothing shows what did not arrive; use qos 1 or 2'
            )

    async def start(self, ctx: Context) -> None:
        self._link = link = await ctx.config_node(self.broker, MqttBroker).open_sender()
        as_message = self.retain == "" and not self.spool
        self._publisher = Publisher(
            link, self._item, qos=self.qos, retain=None if as_message else _is_true(self.retain),
            needs_subscriber=self.needsSubscriber, patient=self.patient,
        )  # fmt: skip

    async def write(self, msgs: list[Msg]) -> None:
        await self._publisher.write(msgs)

    def _item(self, msg: Msg) -> Item:
        payload = b"" if msg.payload is None else encode_payload(msg.payload)
        return check_topic(self.topic or msg.topic), payload

    def to_spool(self, msg: Msg) -> Item:
        return self._item(msg)

    def forget(self, msgs: list[Msg]) -> None:
        self._publisher.forget(msgs)

    def trouble(self) -> str:
        return link_trouble(self._link)

    def status(self) -> dict[str, Any]:
        return {"topic": self.topic or "as the message"}


def link_trouble(link: MqttLink) -> str:
    """Why a link may not confirm, for people."""
    if link.connected.is_set():
        return "the broker is connected and does not confirm"
    return (
        f"no connection to {link.options.host}:{link.options.port}: {link.last_error or 'not connected yet'}"
    )


@dataclass(eq=False)
class _Write:
    """One batch: what of it is still to be published, as it is published, and what the broker refused."""

    msgs: list[Msg]
    left: list[tuple[Msg, Item]] = field(default_factory=list)
    refused: list[tuple[Msg, str]] = field(default_factory=list)
    published: int = 0


class Publisher:
    """Publishes batches for a sink, as `item` makes topic and payload of a message (None: nothing to publish).

    `retain` None: as `msg.retain` says. What is retained needs no subscriber to come, so it is not patient.
    """

    def __init__(
        self,
        link: MqttLink,
        item: Callable[[Msg], Item | None],
        *,
        qos: int = 1,
        retain: bool | None = False,
        needs_subscriber: bool = False,
        patient: bool = True,
    ) -> None:
        self._link = link
        self._item = item
        self._retain, self._patient = retain, patient
        self._how: dict[str, Any] = {"qos": qos, "needs_subscriber": needs_subscriber}
        self._unfinished: dict[int, _Write] = {}
        """By the id of its list: the engine writes that list again after SinkUnavailable."""

    async def write(self, msgs: list[Msg]) -> int:
        """How many were published; raises Rejected for those that cannot be, after the others, and SinkUnavailable
        where the broker may take the rest later: a subscriber is needed and not there, its quota is used up. The next call with the same list publishes only what is left.

        One that cannot be encoded must not hold up the batch: the next one, already on its way, would overtake the rest.
        """
        write = self._unfinished.pop(id(msgs), None) or self._prepare(msgs)
        try:
            await self._publish(write.left)
        except PublishRefused as error:
            left = write.left
            write.refused += [
                (left[i][0], f"the broker refused it: {reason_text(code)}")
                for i, code in error.refused
                if code not in TRY_AGAIN
            ]
            later = sorted((i, code) for i, code in error.refused if code in TRY_AGAIN)
            write.published += len(left) - len(error.refused)
            write.left = [left[i] for i, _ in later]
            if later:
                self._unfinished[id(msgs)] = write
                raise SinkUnavailable(_why_later(write.left[0][1][0], later[0][1])) from None
        except LinkClosed as error:
            raise SinkUnavailable(str(error)) from None
        except asyncio.CancelledError:
            self._unfinished.pop(id(msgs), None)
            raise
        else:
            write.published += len(write.left)
        if write.refused:
            raise Rejected(write.refused)
        return write.published

    async def _publish(self, entries: list[tuple[Msg, Item]]) -> None:
        if self._retain is not None:
            await self._send(entries, retain=self._retain)
            return
        runs = [(retain, list(run)) for retain, run in groupby(entries, key=_says_retain)]
        # all of them in line before anything is awaited: another batch must not come in between
        answers = await asyncio.gather(
            *(self._send(run, retain=retain) for retain, run in runs), return_exceptions=True
        )
        refused: list[tuple[int, int]] = []
        begin = 0
        for (_, run), answer in zip(runs, answers, strict=True):
            if isinstance(answer, PublishRefused):
                refused += [(begin + i, code) for i, code in answer.refused]
            elif isinstance(answer, BaseException):
                raise answer
            begin += len(run)
        if refused:
            raise PublishRefused(refused)

    def _send(self, entries: list[tuple[Msg, Item]], *, retain: bool) -> asyncio.Future[None]:
        items = [item for _, item in entries]
        return self._link.publish_batch(
            items, **self._how, retain=retain, patient=self._patient and not retain
        )

    def forget(self, msgs: list[Msg]) -> None:
        """This list will not be written again."""
        self._unfinished.pop(id(msgs), None)

    def _prepare(self, msgs: list[Msg]) -> _Write:
        write = _Write(msgs)
        for msg in msgs:
            try:
                item = self._item(msg)
            except Exception as error:  # noqa: BLE001 - a payload of any kind may fail in any way
                write.refused.append((msg, f"{type(error).__name__}: {error}"))
            else:
                if item is not None:
                    write.left.append((msg, item))
        return write


def _says_retain(entry: tuple[Msg, Item]) -> bool:
    return _is_true((entry[0].props or {}).get("retain"))


def _is_true(value: Any) -> bool:
    return value in (True, "true")


def _why_later(topic: str, code: int) -> str:
    if code == NO_SUBSCRIBER:
        return f"nobody subscribes to {topic}"
    return f"the broker does not take {topic} now: {reason_text(code)}"
