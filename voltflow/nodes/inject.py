"""The `inject` node: begins messages by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import zoneinfo
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

from voltflow.flow.properties import PathError, parse, put
from voltflow.flow.typed import TYPES, Value, check, compile_value
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Emit, Source, config, node

log = logging.getLogger(__name__)

UNDER_WAY_LIMIT = 100
"""Messages of one node on their way at most: a flow that stands must not gather the ticks of hours."""
USER_PROPS = "__user_inject_props__"
"""What a press of the button sets instead of the node's own properties; the name is Node-RED's."""

Props = list[dict[str, Any]]


@node("inject", category="common", color="#a6bbcf", icon="inject.svg")
class Inject(Source):
    """Begin a message: at the press of its button, at the start, every so often or at times of day.

    Its properties are set one after the other, so a later one may use an earlier one. With `repeat` the times of `crontab`
    are not looked at. Times of day are those of the gateway's time zone; a time that is missed (a stop, a flow that stands) is
    not made up for. A crash loses what is under way; while 100 messages are under way, more are dropped and counted.
    """

    props: Props = config([{"p": "payload"}, {"p": "topic", "vt": "str"}],
        help="what to set: p the property, v the value, vt its type; payload and topic have fields of their own")  # fmt: skip
    repeat: float = config(0.0, help="every so often; 0: not", unit="s", low=0, high=2_147_483)
    crontab: str = config(
        "", help="at times: minute, hour, day, month, day of the week", example="*/10 8-17 * * 1-5"
    )
    once: bool = config(False, help="also at the start of the flow")
    onceDelay: float = config(0.1, help="so long after the start", unit="s", low=0, high=2_147_483)
    topic: str = config("", help="the topic of its messages")
    payload: Any = config("", help="the payload of its messages", types=TYPES, type_property="payloadType")
    payloadType: str = config("date", help="what the payload is", choices=TYPES)

    # state
    injected: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        for item in self._typed(self.props):
            _check(*item)
        if self.crontab and not self.repeat:
            _next_time(self.crontab, 0.0, UTC)

    async def start(self, ctx: Context) -> None:
        self._ctx, self._timer = ctx, ctx.timer
        self._steps = self._compile(self.props)
        self._zone = local_zone() if self.crontab else UTC
        self._woken = asyncio.Event()
        self._pressed: list[Props | None] = []

    def press(self, props: Props | None = None) -> None:
        """Begin a message now; `props` is set instead of the node's own. What is wrong with those fails that message."""
        self._pressed.append(props)
        self._woken.set()

    async def run(self, emit: Emit) -> None:
        under_way: set[asyncio.Task[None]] = set()
        began_s = self._timer.now_s()
        due_s = began_s + self.onceDelay if self.once else self._following(began_s)
        try:
            while True:
                self._woken.clear()
                msgs = [self._message(props) for props in self._pressed]
                self._pressed.clear()
                if due_s is not None and due_s <= self._timer.now_s():
                    msgs.append(self._message(None))
                    due_s = self._following(due_s)
                if msgs:
                    self._send(emit, msgs, under_way)
                await self._timer.until(due_s, self._woken)
        finally:
            try:
                if under_way:
                    await asyncio.wait(under_way)
            finally:
                for task in under_way:  # cancelled once more: the time is up
                    task.cancel()

    def _following(self, after_s: float) -> float | None:
        """The next time by itself; those that have passed meanwhile are left out."""
        now_s = self._timer.now_s()
        if self.repeat:
            return after_s + self.repeat if after_s + self.repeat > now_s else now_s + self.repeat
        return _next_time(self.crontab, max(after_s, now_s), self._zone) if self.crontab else None

    def _send(self, emit: Emit, msgs: list[Msg], under_way: set[asyncio.Task[None]]) -> None:
        room = UNDER_WAY_LIMIT - len(under_way)
        self.dropped += max(0, len(msgs) - room)
        for msg in msgs[: max(0, room)]:
            self.injected += 1
            task = asyncio.create_task(self._emit(emit, msg), name=f"message of {self.label}")
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    async def _emit(self, emit: Emit, msg: Msg) -> None:
        try:
            await emit([msg])
        except Exception:  # it is not asked for again, as a broker's message is
            log.exception("%s: a message failed", self.label)

    def _message(self, props: Props | None) -> Msg:
        received_ms = int(self._timer.now_s() * 1000)
        return Msg("", None, None, received_ms, None if props is None else {USER_PROPS: props})

    def process(self, msgs: list[Msg]) -> list[Msg]:
        return [self._filled(msg) for msg in msgs]

    def _filled(self, msg: Msg) -> Msg:
        steps = self._steps
        if msg.props:
            steps = self._compile(msg.props[USER_PROPS])
            msg = msg.derive(props=None)
        for path, value in steps:
            msg = put(msg, path, value(msg))
        return msg

    def _compile(self, props: Props) -> list[tuple[str, Value]]:
        steps = []
        for path, value, kind in self._typed(props):
            _check(path, value, kind)
            steps.append((path, compile_value(value, kind, self._ctx, self)))
        return steps

    def _typed(self, props: Props) -> list[tuple[str, Any, str]]:
        """Path, value and type of each, with the fields of payload and topic; one without a path is passed over."""
        found = []
        for item in props:
            path, value, kind = item.get("p"), item.get("v"), item.get("vt")
            if path == "payload" and "v" not in item:
                value, kind = self.payload, self.payloadType
            elif path == "topic" and "v" not in item and kind in (None, "str"):
                value = self.topic
            if path:
                found.append((str(path), "" if value is None else value, str(kind or "str")))
        return found

    def status(self) -> dict[str, Any]:
        return {"injected": self.injected, "dropped": self.dropped}


def _check(path: str, value: Any, kind: str) -> None:
    try:
        parse(path)
        if kind != "jsonata" or value != "":
            check(value, kind)
    except (ConfigError, PathError) as error:
        raise ConfigError(
            f'property "{"payload" if path == "payload" else "props"}": {path}: {error}'
        ) from None


def _next_time(crontab: str, after_s: float, zone: tzinfo) -> float | None:
    """The next time after a moment; None where there is none in 50 years."""
    from cronsim import CronSim, CronSimError  # not every flow has one

    try:
        found = next(CronSim(crontab, datetime.fromtimestamp(after_s, zone)), None)
    except CronSimError as error:
        raise ConfigError(
            f'property "crontab": {crontab!r}: {str(error).lower()}; expected are minute, hour, day, month and day of the '
            "week, after a second where there are six"
        ) from None
    return None if found is None else found.timestamp()


def local_zone() -> tzinfo:
    """The time zone of this machine, with its summer time."""
    name = os.environ.get("TZ", "").lstrip(":")
    try:
        if name:
            return zoneinfo.ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return zoneinfo.ZoneInfo.from_file(file, "local")
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
        fixed = datetime.now().astimezone().tzinfo or UTC
        log.warning("the time zone %s is not known (%s): times of day go by %s", name or "", error, fixed)
        return fixed
