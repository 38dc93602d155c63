"""The subscriptions of an `mqtt in` node that messages ask for.

>>> [(item.topic, item.qos) for item in wanted(Msg('["ev/+",{"topic":"gw/#","qos":"1"}]', None), [])]
[('ev/+', 2), ('gw/#', 1)]
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from voltflow import kept_file
from voltflow.message import Msg
from voltflow.mqtt.codec import check_filter
from voltflow.mqtt.link import Delivery, MqttLink, Receiver, SubscriptionRefused
from voltflow.node import SinkUnavailable

log = logging.getLogger(__name__)

ACTIONS: Final = ("subscribe", "unsubscribe", "getSubscriptions", "connect", "disconnect")
DATATYPES: Final = ("auto-detect", "auto", "buffer", "utf8", "json", "base64")


@dataclass(frozen=True)
class Subscription:
    """One that a message asked for; `facts` is what it said of it, as `getSubscriptions` tells it."""

    topic: str
    qos: int
    datatype: str
    """Empty: the node's."""
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, said: Any) -> Subscription:
        """From a topic filter, or an object with `topic`, `qos` (2 unless given) and `datatype`; raises ValueError."""
        facts = {"topic": said} if isinstance(said, str) else said
        if not isinstance(facts, Mapping) or not isinstance(facts.get("topic"), str):
            text = f"a subscription is a topic filter or an object with one in `topic`, not {said!r}"
            raise ValueError(text)  # noqa: TRY004 - what a message says has no type
        check_filter(facts["topic"])
        datatype = facts.get("datatype") or ""
        if datatype and datatype not in DATATYPES:
            raise ValueError(f"datatype {datatype!r} is not one of {', '.join(DATATYPES)}")
        qos = _qos(facts.get("qos", 2))
        return cls(facts["topic"], qos, datatype, {**facts, "qos": qos})


def _qos(said: Any) -> int:
    text = str(said).strip()
    if text not in ("0", "1", "2"):
        raise ValueError(f"qos {said!r} is not one of 0, 1, 2")
    return int(text)


def action_of(msg: Msg) -> str:
    """What it asks for; raises ValueError."""
    action = (msg.props or {}).get("action")
    if action not in ACTIONS:
        raise ValueError(f"msg.action is {action!r}, it has to be one of {', '.join(ACTIONS)}")
    return str(action)


def wanted(msg: Msg, known: Iterable[Subscription]) -> list[Subscription]:
    """The subscriptions that its `topic` names: one or a list; true: all that are known. Raises ValueError."""
    topic = _value_of(msg.topic)
    if topic is True:
        return list(known)
    return [Subscription.of(item) for item in (topic if isinstance(topic, list) else [topic])]


def _value_of(topic: str) -> Any:
    """A topic is always a text, so what is a list or an object in Node-RED is JSON here."""
    if topic == "true" or topic[:1] in ("[", "{"):
        try:
            return json.loads(topic)
        except ValueError:
            pass
    return topic


class Broker(Protocol):
    """What a message can have done to the connection."""

    async def connect(self) -> None: ...

    async def disconnect(self, reason: str) -> None: ...


Receive = Callable[[Subscription, Msg, Delivery | None], None]


class Subscriptions:
    """Those of one node, kept in a file over restarts and deploys. Use: `attach`, `work`, `detach`."""

    def __init__(self, broker: Broker, link: MqttLink, path: Path, receive: Receive, label: str) -> None:
        self._broker, self._link, self._path = broker, link, path
        self._receive, self._label = receive, label
        self._changing = asyncio.Lock()
        self._current: dict[str, tuple[Subscription, Receiver]] = {}
        """By topic filter."""

    @property
    def topics(self) -> list[str]:
        return list(self._current)

    def attach(self) -> None:
        """Subscribe to what the file says now: a node before this one may have changed it until now."""
        for subscription in self._read():
            self._subscribe(subscription)

    def detach(self) -> None:
        for topic, (_, receiver) in self._current.items():
            self._link.release(topic, receiver)

    async def work(self, msgs: Sequence[Msg]) -> list[Msg]:
        """Do what they say, in their order, and return what they asked for once the broker has answered; calls that wait
        for it hold up no others. Raises ValueError and SubscriptionRefused, SinkUnavailable where nothing can be kept."""
        given: list[Msg] = []
        answers: list[Awaitable[None]] = []
        new: dict[str, None] = {}
        async with self._changing:
            known = {topic: subscription for topic, (subscription, _) in self._current.items()}
            for msg in msgs:
                action = action_of(msg)
                if action == "getSubscriptions":
                    facts = [dict(subscription.facts) for subscription in known.values()]
                    given.append(msg.derive(topic="subscriptions", payload=facts))
                elif action in ("subscribe", "unsubscribe"):
                    for subscription in wanted(msg, known.values()):
                        known.pop(subscription.topic, None)
                        if action == "subscribe":
                            known[subscription.topic] = subscription
                            new[subscription.topic] = None
                else:
                    answers.append(self._connection(action, msg))
            answers += [self._link.released(topic) for topic in await self._change(known)]
            answers += [self._confirmed(topic) for topic in new if topic in known]
        for outcome in await asyncio.gather(*answers, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return given

    async def _connection(self, action: str, msg: Msg) -> None:
        if action == "disconnect":
            await self._broker.disconnect(f"disconnected by a message to {self._label}")
        elif (msg.props or {}).get("broker"):
            raise ValueError("msg.broker is not taken: where to connect is said by the broker's node")
        else:
            await self._broker.connect()

    async def _change(self, known: Mapping[str, Subscription]) -> list[str]:
        """Have these and no others; which were ended."""
        before = {topic: subscription for topic, (subscription, _) in self._current.items()}
        if known == before:
            return []
        try:
            await asyncio.to_thread(self._write, known.values())
        except OSError as error:
            raise SinkUnavailable(f"its subscriptions cannot be kept in {self._path}: {error}") from None
        for topic, subscription in known.items():
            if before.get(topic) != subscription:
                self._subscribe(subscription)
        gone = [topic for topic in before if topic not in known]
        for topic in gone:
            self._link.release(topic, self._current.pop(topic)[1])
        return gone

    def _subscribe(self, subscription: Subscription) -> None:
        """In the place of the one of that filter, without a gap."""
        receiver = functools.partial(self._receive, subscription)
        before = self._current.get(subscription.topic)
        self._link.subscribe(subscription.topic, subscription.qos, receiver)
        self._current[subscription.topic] = (subscription, receiver)
        if before is not None:
            self._link.release(subscription.topic, before[1])

    async def _confirmed(self, topic: str) -> None:
        try:
            await self._link.subscribed(topic)
        except SubscriptionRefused:
            async with self._changing:
                left = {
                    name: subscription for name, (subscription, _) in self._current.items() if name != topic
                }
                await self._change(left)
            raise

    def _read(self) -> list[Subscription]:
        try:
            return [Subscription.of(facts) for facts in json.loads(self._path.read_bytes())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            log.warning(
                "cannot read %s, %s does not have the subscriptions in it: %s", self._path, self._label, error
            )
            return []

    def _write(self, subscriptions: Iterable[Subscription]) -> None:
        facts = [dict(item.facts) for item in subscriptions]
        if facts:
            kept_file.write(self._path, json.dumps(facts, ensure_ascii=False).encode())
        else:
            self._path.unlink(missing_ok=True)
