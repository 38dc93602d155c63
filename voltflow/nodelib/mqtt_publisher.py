"""Publishes batches for `mqtt out` and its like: a batch is safe when the broker has confirmed all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from voltflow.engine.why import Why
from voltflow.message import Msg, share_props
from voltflow.mqtt.codec import NO_SUBSCRIBER, TRY_AGAIN, reason_text
from voltflow.mqtt.link import LinkClosed, MqttLink, PublishRefused
from voltflow.node import Rejected, SinkUnavailable
from voltflow.nodelib.mqtt_publishing import How, HowOf

Item = tuple[str, bytes]
"""Topic and payload as they are published."""


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
    left: list[tuple[Msg, Item, How]] = field(default_factory=list)
    refused: list[tuple[Msg, str]] = field(default_factory=list)
    published: int = 0
    alike: bool = False
    """All are known to be published in the same way."""


class Publisher:
    """Publishes batches for a sink, as `item` makes topic and payload of a message (None: nothing to publish).

    What is retained needs no subscriber to come, so it is not patient.
    """

    def __init__(
        self,
        link: MqttLink,
        item: Callable[[Msg], Item | None],
        *,
        how_of: HowOf = lambda _: How(),
        needs_subscriber: bool = False,
        patient: bool = True,
    ) -> None:
        self._link = link
        self._item, self._how_of = item, how_of
        self._needs_subscriber, self._patient = needs_subscriber, patient
        self._unfinished: dict[int, _Write] = {}
        """By the id of its list: the engine writes that list again after SinkUnavailable."""

    async def write(self, msgs: list[Msg]) -> int:
        """How many were published; raises Rejected for those that cannot be, after the others, and SinkUnavailable
        where the broker may take the rest later: a subscriber is needed and not there, its quota is used up. The next call with the same list publishes only what is left.

        One that cannot be encoded must not hold up the batch: the next one, already on its way, would overtake the rest.
        """
        write = self._unfinished.pop(id(msgs), None) or self._prepare(msgs)
        try:
            await self._publish(write)
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

    async def _publish(self, write: _Write) -> None:
        left = write.left
        if write.alike:
            await self._send(left)
            return
        runs = [list(run) for _, run in groupby(left, key=itemgetter(2))]
        # all of them in line before anything is awaited: another batch must not come in between
        answers = await asyncio.gather(*map(self._send, runs), return_exceptions=True)
        refused: list[tuple[int, int]] = []
        begin = 0
        for run, answer in zip(runs, answers, strict=True):
            if isinstance(answer, PublishRefused):
                refused += [(begin + i, code) for i, code in answer.refused]
            elif isinstance(answer, BaseException):
                raise answer
            begin += len(run)
        if refused:
            raise PublishRefused(refused)

    def _send(self, entries: list[tuple[Msg, Item, How]]) -> asyncio.Future[None]:
        qos, retain, properties = entries[0][2] if entries else How()
        return self._link.publish_batch(
            [entry[1] for entry in entries],
            qos=qos,
            retain=retain,
            properties=properties,
            needs_subscriber=self._needs_subscriber,
            patient=self._patient and not retain,
        )

    def forget(self, msgs: list[Msg]) -> None:
        """This list will not be written again."""
        self._unfinished.pop(id(msgs), None)

    def _prepare(self, msgs: list[Msg]) -> _Write:
        how = self._common(msgs)
        write = _Write(msgs, alike=how is not None)
        item_of, how_of, left = self._item, None if write.alike else self._how_of, write.left
        for msg in msgs:
            try:
                if how_of is not None:
                    how = how_of(msg.props)
                item = item_of(msg)
            except Exception as error:  # noqa: BLE001 - a payload of any kind may fail in any way
                write.refused.append((msg, Why.of(error)))
            else:
                if item is not None and how is not None:
                    left.append((msg, item, how))
        return write

    def _common(self, msgs: list[Msg]) -> How | None:
        """How all of a batch is published, where that is plain to see."""
        if not msgs or not share_props(msgs):
            return None
        try:
            return self._how_of(msgs[0].props)
        except Exception:  # noqa: BLE001 - each is refused for itself
            return None


def _why_later(topic: str, code: int) -> str:
    if code == NO_SUBSCRIBER:
        return f"nobody subscribes to {topic}"
    return f"the broker does not take {topic} now: {reason_text(code)}"
