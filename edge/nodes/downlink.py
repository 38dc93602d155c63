"""The `downlink` node: what the cloud has a gateway publish to its devices."""

from __future__ import annotations

from typing import Any

import msgspec

from voltflow import topics
from voltflow.engine.store_forward import SpoolRegistry
from voltflow.message import Msg
from voltflow.node import Context, Transform, node
from voltflow.telemetry import Downlink as DownlinkMessage

KINDS = frozenset({topics.CMD.kind, topics.TELEMETRY.kind})
_decode = msgspec.json.Decoder(DownlinkMessage).decode


@node("downlink", category="battery", color="#a7c7e7", icon="font-awesome/fa-level-down")
class Downlink(Transform):
    """Take the message out of each `gw.down/1`, for an `mqtt out` at the devices' broker.

    Only `cmd` and `telemetry` of a pack pass (requests for lost messages, repaired dead letters); anything else fails and
    becomes a dead letter. While a spool of this gateway has a backlog, `cmd` messages are dropped and counted: what the
    cloud misses is then most likely there, and what it still misses later it asks for again. A message that the broker
    had retained is dropped and counted: it would come again with each connection.
    """

    # state
    passed: int = 0
    held_back: int = 0
    retained: int = 0

    async def start(self, ctx: Context) -> None:
        found = ctx.services.get(SpoolRegistry)
        self._spools = found if isinstance(found, SpoolRegistry) else None

    def process(self, msgs: list[Msg]) -> list[Msg]:
        found = [_inner(msg) for msg in msgs if not (msg.props and msg.props.get("retain"))]
        self.retained += len(msgs) - len(found)
        if self._has_backlog():
            passed = [msg for kind, msg in found if kind != topics.CMD.kind]
            self.held_back += len(found) - len(passed)
        else:
            passed = [msg for _, msg in found]
        self.passed += len(passed)
        return passed

    def _has_backlog(self) -> bool:
        return self._spools is not None and self._spools.backlog_messages > 0

    def status(self) -> dict[str, Any]:
        return {"passed": self.passed, "held_back": self.held_back, "retained": self.retained}


def _inner(msg: Msg) -> tuple[str, Msg]:
    """The kind of the message inside, and the message; raises ValueError for what no device is to get."""
    down = _decode(msg.payload)
    topic = topics.parse(down.topic)
    if topic is None or topic.kind not in KINDS:
        raise ValueError(f"topic {down.topic!r} is not the cmd or telemetry of a pack")
    return topic.kind, msg.derive(topic=down.topic, payload=down.payload)
