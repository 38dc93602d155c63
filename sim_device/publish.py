"""Publishing as devices do: birth and last will per pack, QoS 1, bounded, every confirmation counted."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import msgspec

from voltflow import topics
from voltflow.mqtt import LinkClosed, MqttLink, MqttOptions, Publication, PublishRefused
from voltflow.telemetry import State

Connections = Literal["per-pack", "shared"]

CONNECT_TIMEOUT_S = 20.0
AT_ONCE = 50
"""How many connections are made or ended at the same time: a broker's listen queue is about 100 long."""
SPARE_FILES = 100


class BrokerUnreachableError(OSError):
    """No connection to the broker; the message names settings and the last error."""


class PackCount(msgspec.Struct):
    """What became of one pack's messages."""

    boot: int
    published: int = 0
    confirmed: int = 0
    refused: int = 0


class Summary(msgspec.Struct):
    """What `--json` prints: messages handed to the broker and confirmed by it; `packs` by name."""

    published: int
    confirmed: int
    packs: dict[str, PackCount]

    @property
    def complete(self) -> bool:
        """Whether the broker confirmed everything."""
        return self.published == self.confirmed

    def text(self) -> str:
        """For people: a line for each pack (up to 20) and the total."""
        lines = [
            f"{name}: published {c.published}, confirmed {c.confirmed}" for name, c in self.packs.items()
        ]
        if len(lines) > 20:
            lines = [*lines[:19], f"… and {len(lines) - 19} more packs"]
        return "\n".join([*lines, f"total: published {self.published}, confirmed {self.confirmed}"])


@dataclass
class _Device:
    """One pack at the broker; `free` is set while it may publish."""

    state: State
    topic: str
    state_topic: str
    truth_topic: str
    link: MqttLink
    count: PackCount
    free: asyncio.Event

    @property
    def waiting(self) -> int:
        return self.count.published - self.count.confirmed - self.count.refused


class Outbox:
    """Publishes for several packs. Use: `open`, then `room` before each `publish`, then `close`.

    At most `window` messages of a pack are unconfirmed: `room` waits, nothing is dropped.
    """

    def __init__(
        self,
        broker: MqttOptions,
        fleet: str,
        states: Sequence[State],
        *,
        connections: Connections = "per-pack",
        window: int = 200,
    ) -> None:
        self.window = window
        self._waiting = 0
        self._settled_all = asyncio.Event()
        self._shared = connections == "shared"
        common = MqttLink(replace(broker, client_id=f"sim-{fleet}"), name="sim") if self._shared else None
        self._devices = [_device(broker, fleet, state, common) for state in states]
        self._links = [common] if common else [device.link for device in self._devices]

    async def open(self) -> None:
        """Connect every pack and announce it; raises BrokerUnreachableError."""
        raise_file_limit(len(self._links) + SPARE_FILES)
        gate = asyncio.Semaphore(AT_ONCE)
        try:
            await asyncio.gather(*(_connect(link, gate, CONNECT_TIMEOUT_S) for link in self._links))
        except BrokerUnreachableError:
            await asyncio.gather(*(link.close(0.0) for link in self._links))
            raise
        if self._shared:
            births = [(d.state_topic, msgspec.json.encode(d.state)) for d in self._devices]
            await self._links[0].publish_batch(births, retain=True)

    async def room(self, pack: int) -> None:
        """Wait until a pack may publish again."""
        device = self._devices[pack]
        if not device.free.is_set():
            await device.free.wait()

    def publish(self, pack: int, payload: bytes) -> None:
        """Publish one telemetry message (QoS 1) of a pack."""
        device = self._devices[pack]
        device.count.published += 1
        self._waiting += 1
        self._settled_all.clear()
        if device.waiting >= self.window:
            device.free.clear()
        done = device.link.publish(device.topic, payload)
        done.add_done_callback(partial(self._settled, device))

    def publish_truth(self, pack: int, payload: bytes) -> None:
        """Publish a pack's hidden state (QoS 0)."""
        device = self._devices[pack]
        device.link.publish(device.truth_topic, payload, qos=0)

    def count(self, pack: int) -> PackCount:
        """The counters of one pack."""
        return self._devices[pack].count

    def summary(self) -> Summary:
        """What was published and confirmed so far."""
        counts = {device.state.pack: device.count for device in self._devices}
        published = sum(count.published for count in counts.values())
        return Summary(published, sum(count.confirmed for count in counts.values()), counts)

    async def close(self, drain_s: float = 10.0) -> None:
        """Wait up to `drain_s` for the confirmations, say that the packs are offline, disconnect."""
        if self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled_all.wait(), drain_s)
        farewells = [(d.state_topic, msgspec.json.encode(_offline(d))) for d in self._devices]
        if self._shared:
            self._links[0].publish_batch(farewells, retain=True)
        else:
            for link, (topic, payload) in zip(self._links, farewells, strict=True):
                link.options = replace(link.options, farewell=Publication(topic, payload))
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(_disconnect(link, gate) for link in self._links))

    def _settled(self, device: _Device, done: asyncio.Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, PublishRefused):
            device.count.refused += 1
        elif error is None:
            device.count.confirmed += 1
        elif not isinstance(error, LinkClosed):
            raise error
        if device.waiting < self.window:
            device.free.set()
        self._waiting -= 1
        if not self._waiting:
            self._settled_all.set()


def _device(broker: MqttOptions, fleet: str, state: State, common: MqttLink | None) -> _Device:
    state_topic = topics.STATE.of(fleet, state.pack)
    if common is None:
        will = msgspec.structs.replace(
            state, online=False
        )  # retained: the nameplate stays known while offline
        options = replace(
            broker,
            client_id=f"sim-{fleet}-{state.pack}",
            birth=Publication(state_topic, msgspec.json.encode(state)),
            will=Publication(state_topic, msgspec.json.encode(will)),
        )
        common = MqttLink(options, name=f"sim {state.pack}")
    free = asyncio.Event()
    free.set()
    return _Device(
        state, topics.TELEMETRY.of(fleet, state.pack), state_topic, topics.truth(fleet, state.pack), common,
        PackCount(state.boot or 0), free,
    )  # fmt: skip


def _offline(device: _Device) -> State:
    """The farewell: how many messages this boot had, so that a ledger can tell what never came."""
    return msgspec.structs.replace(device.state, online=False, published=device.count.published)


async def _connect(link: MqttLink, gate: asyncio.Semaphore, timeout_s: float) -> None:
    async with gate:
        await link.open()
        try:
            await asyncio.wait_for(link.connected.wait(), timeout_s)
        except TimeoutError:
            address = f"{link.options.host}:{link.options.port}"
            reason = link.last_error or "no answer"
            raise BrokerUnreachableError(
                f"no broker at {address} (settings host, port): {reason}; start one, or name yours with --host and --port"
            ) from None


async def _disconnect(link: MqttLink, gate: asyncio.Semaphore) -> None:
    async with gate:
        await link.close()


def raise_file_limit(wanted: int) -> None:
    """Let this process have `wanted` open files, as far as the system's hard limit goes; raises OSError beyond it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise OSError(
                f"{wanted} connections need as many open files and this system allows {hard}:"
                " raise it (ulimit -Hn) or set connections = shared"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
