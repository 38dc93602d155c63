"""Publishing as devices do: birth and last will per pack, QoS 1, bounded, every confirmation counted.

A device also says every now and then how much it has published, keeps that for a while and publishes it again on request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import msgspec

from sim_device.commands import Commands
from sim_device.options import CommonSettings, broker
from sim_device.ring import Ring
from voltflow import topics
from voltflow.message import Msg
from voltflow.mqtt.link import Delivery, LinkClosed, MqttLink, MqttOptions, Publication, PublishRefused
from voltflow.telemetry import State

log = logging.getLogger(__name__)

Connections = Literal["per-pack", "shared"]

CONNECT_TIMEOUT_S = 20.0
AT_ONCE = 50
"""How many connections are made or ended at the same time: a broker's listen queue is about 100 long."""
SPARE_FILES = 100
STATE_TICK_S = 1.0
"""How often it is looked whose state is due."""


class BrokerUnreachableError(OSError):
    """No connection to the broker; the message names settings and the last error."""


class PackCount(msgspec.Struct):
    """What became of one pack's messages."""

    boot: int
    published: int = 0
    confirmed: int = 0
    refused: int = 0


class Summary(msgspec.Struct):
    """What `--json` prints: messages handed to the broker and confirmed by it; `packs` by name.

    `replayed` (published again on request and confirmed) is not part of `published`; `not_kept` were asked for and are
    not there, `commands` came, the bad ones too.
    """

    published: int
    confirmed: int
    packs: dict[str, PackCount]
    replayed: int = 0
    not_kept: int = 0
    commands: int = 0
    bad_commands: int = 0

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
        total = f"total: published {self.published}, confirmed {self.confirmed}"
        if self.commands:
            total += f"; {self.commands} commands: {self.replayed} published again, {self.not_kept} not kept"
        return "\n".join([*lines, total])


@dataclass
class _Device:
    """One pack at the broker; `free` is set while it may publish."""

    state: State
    topic: str
    state_topic: str
    truth_topic: str
    cells_topic: str
    cmd_topic: str
    link: MqttLink
    count: PackCount
    free: asyncio.Event
    state_due_s: float = 0.0
    state_said: asyncio.Future[None] | None = None
    reconnects: int = 0

    @property
    def waiting(self) -> int:
        return self.count.published - self.count.confirmed - self.count.refused


class Outbox:
    """Publishes for several packs of one boot. Use: `open`, then `room` before each `publish`, `linger`, `close`.

    At most `window` messages of a pack are unconfirmed: `room` waits, nothing is dropped. From `open` to `close` it
    says every `state_s` how much was published and answers commands.
    """

    def __init__(
        self, settings: CommonSettings, states: Sequence[State], *, connections: Connections = "per-pack"
    ) -> None:
        self.window = settings.window
        self._settings = settings
        self._waiting = 0
        self._settled_all = asyncio.Event()
        self._shared = connections == "shared"
        to, fleet = broker(settings), settings.fleet
        common = MqttLink(replace(to, client_id=f"sim-{fleet}"), name="sim") if self._shared else None
        self._devices = [_device(to, fleet, state, common) for state in states]
        self._links = [common] if common else [device.link for device in self._devices]
        self._ring = Ring(len(states), settings.ring_messages, settings.ring_max_mb)
        self._commands = Commands(self._ring, states[0].boot or 0, self._count_of, self._publish_again)
        self._tasks: list[asyncio.Task[None]] = []
        self._subscribe_commands(fleet)

    def _subscribe_commands(self, fleet: str) -> None:
        packs = {device.cmd_topic: i for i, device in enumerate(self._devices)}

        def on_command(msg: Msg, delivery: Delivery | None) -> None:
            if (
                pack := packs.get(msg.topic)
            ) is not None:  # a shared connection hears of other simulators' packs too
                self._commands.take(pack, msg.payload)
                if delivery:
                    self._devices[pack].link.acknowledge([delivery])
            elif delivery:
                self._links[0].acknowledge([delivery])

        if self._shared:
            self._links[0].subscribe(topics.CMD.of(fleet, "+"), 1, on_command)
        else:
            for device in self._devices:
                device.link.subscribe(device.cmd_topic, 1, on_command)

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
        self._tasks = [
            asyncio.create_task(self._say_states(), name="sim states"),
            asyncio.create_task(self._commands.run(), name="sim commands"),
        ]

    @property
    def asked_hz(self) -> float | None:
        """The rate a command asked for last."""
        return self._commands.asked_hz

    async def room(self, pack: int) -> None:
        """Wait until a pack may publish again."""
        device = self._devices[pack]
        if not device.free.is_set():
            await device.free.wait()

    def publish(self, pack: int, payload: bytes) -> None:
        """Publish one telemetry message (QoS 1) of a pack."""
        device = self._devices[pack]
        self._ring.keep(pack, device.count.published, payload)
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

    def publish_cells(self, pack: int, payload: bytes) -> None:
        """Publish a pack's cells (QoS 0: the next ones replace them, so a broker need not keep them for anybody)."""
        device = self._devices[pack]
        device.link.publish(device.cells_topic, payload, qos=0)

    def count(self, pack: int) -> PackCount:
        """The counters of one pack."""
        return self._devices[pack].count

    def summary(self) -> Summary:
        """What was published and confirmed so far."""
        counts = {device.state.pack: device.count for device in self._devices}
        published = sum(count.published for count in counts.values())
        confirmed, asked = sum(count.confirmed for count in counts.values()), self._commands.counts
        return Summary(
            published, confirmed, counts, asked.replayed, asked.not_kept, asked.commands, asked.bad
        )

    async def linger(self, stop: asyncio.Event) -> None:
        """Say the final counts, then answer commands for `linger_s` or until `stop`."""
        if not self._settings.linger_s:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.linger_s):
                staying = asyncio.create_task(self._say_everything_published(), name="sim final states")
                try:
                    await stop.wait()
                finally:
                    staying.cancel()

    async def _say_everything_published(self) -> None:
        if self._waiting:
            await self._settled_all.wait()
        await asyncio.gather(*(self._say_state(d) for d in self._devices), return_exceptions=True)
        log.info("published everything, lingering")

    async def close(self, drain_s: float = 10.0) -> None:
        """Wait up to `drain_s` for the confirmations, say that the packs are offline, disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled_all.wait(), drain_s)
        farewells = [(d.state_topic, _state(d, online=False)) for d in self._devices]
        if self._shared:
            self._links[0].publish_batch(farewells, retain=True)
        else:
            for link, (topic, payload) in zip(self._links, farewells, strict=True):
                link.options = replace(link.options, farewell=Publication(topic, payload))
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(_disconnect(link, gate) for link in self._links))
        self._ring.close()

    async def _say_states(self) -> None:
        """Each pack's state every `state_s`, spread over that time, and soon after a reconnect."""
        period_s, now_s = self._settings.state_s, time.monotonic()
        for i, device in enumerate(self._devices):
            device.state_due_s = now_s + period_s * (i + 1) / len(self._devices)
        while True:
            await asyncio.sleep(min(STATE_TICK_S, period_s))
            now_s = time.monotonic()
            for device in self._devices:
                if now_s < device.state_due_s and device.reconnects == device.link.reconnects:
                    continue
                if device.link.is_up and (device.state_said is None or device.state_said.done()):
                    device.state_due_s, device.reconnects = now_s + period_s, device.link.reconnects
                    self._say_state(device)

    def _say_state(self, device: _Device) -> asyncio.Future[None]:
        """It leaves after all telemetry it counts, so a broker that has it has got them too."""
        device.state_said = device.link.publish(device.state_topic, _state(device, online=True), retain=True)
        device.state_said.add_done_callback(lambda done: done.cancelled() or done.exception())
        return device.state_said

    def _count_of(self, pack: int) -> int:
        return self._devices[pack].count.published

    def _publish_again(self, pack: int, payload: bytes) -> asyncio.Future[None] | None:
        device = self._devices[pack]
        return device.link.publish(device.topic, payload) if device.link.is_up else None

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
        state, topics.TELEMETRY.of(fleet, state.pack), state_topic, topics.truth(fleet, state.pack),
        topics.CELLS.of(fleet, state.pack), topics.CMD.of(fleet, state.pack), common, PackCount(state.boot or 0), free,
    )  # fmt: skip


def _state(device: _Device, *, online: bool) -> bytes:
    """The state with how many messages this boot had so far, so that a ledger can tell what never came."""
    return msgspec.json.encode(
        msgspec.structs.replace(device.state, online=online, published=device.count.published)
    )


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
