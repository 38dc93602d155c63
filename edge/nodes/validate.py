"""The `validate` node: raw bytes become typed telemetry, impossible values become null."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from edge.twin import TwinStore
from voltflow import topics
from voltflow.battery.chemistry import valid_ranges
from voltflow.message import Key, Msg
from voltflow.node import Context, Transform, config, node
from voltflow.nodes.dead_letter import readable_key
from voltflow.telemetry import Quality, State, Telemetry, decode_telemetry

READABLE_BYTES = 65536
"""Telemetry has about 1 kB: in what is much larger nobody looks for a key."""
_FIELDS = tuple(valid_ranges())
_values_of = attrgetter(*_FIELDS)
_decode_state = msgspec.json.Decoder(State).decode
_ORDERED = tuple(
    (_FIELDS.index(low), _FIELDS.index(high))
    for low, high in (("cell_voltage_min_v", "cell_voltage_max_v"), ("cell_temp_min_c", "cell_temp_max_c"))
)


@node("validate", category="battery", color="#b5d6a7", icon="font-awesome/fa-check-circle", outputs=2)
class Validate(Transform):
    """Decode `bms.telemetry/1` and check every value against what is physically possible for the pack's chemistry.

    A value that cannot be (cell voltage 0.000 V or 65.535 V, −40 °C, a minimum above its maximum) becomes null and is
    named in `quality.invalid`; the rest of the message goes on. A message that is not telemetry (no JSON, wrong types,
    an unknown schema, a topic that does not fit the pack) fails and becomes a dead letter. `bms.state/1` messages give
    the pack its nameplate. Output 1: telemetry; output 2: the state messages as they came.
    """

    check_ranges: bool = config(True, help="off: values pass as they come")

    async def start(self, ctx: Context) -> None:
        self._store = ctx.service(TwinStore)
        self._kinds: dict[tuple[str | None, int | None], int] = {}  # by chemistry and cells in series
        self._low = np.empty((0, len(_FIELDS)))
        self._high = np.empty((0, len(_FIELDS)))

    def process(self, msgs: list[Msg]) -> tuple[list[Msg], list[Msg]]:
        try:
            decoded = [self._decode(msg) for msg in msgs]
        except Exception:
            if len(msgs) == 1:  # it stands alone: this is the one that becomes a dead letter
                self._note_unreadable(msgs[0])
            raise
        telemetry = [
            (msg, item) for msg, item in zip(msgs, decoded, strict=True) if isinstance(item, Telemetry)
        ]
        if self.check_ranges and telemetry:
            self._check([item for _, item in telemetry], [msg.topic for msg, _ in telemetry])
        states = []
        for msg, item in zip(msgs, decoded, strict=True):
            if isinstance(item, State):
                self._store.on_state(_parse(msg.topic).fleet, item)
                states.append(msg)
        readings = [
            msg.derive(payload=item, key=Key(item.pack, item.boot, item.seq)) for msg, item in telemetry
        ]
        return readings, states

    def _note_unreadable(self, msg: Msg) -> None:
        """Its number is not missing: whoever asks for it again gets the same bytes."""
        if not isinstance(msg.payload, bytes) or len(msg.payload) > READABLE_BYTES:
            return
        topic, key = topics.parse(msg.topic), readable_key(msg.topic, msg.payload)
        twin = self._store.by_name.get((topic.fleet, topic.pack)) if topic else None
        if twin is not None and key is not None:
            self._store.unreadable.append((twin, key))

    @staticmethod
    def _decode(msg: Msg) -> Telemetry | State:
        topic = _parse(msg.topic)
        item: Telemetry | State
        if topic.kind == "telemetry":
            item = decode_telemetry(msg.payload)
        elif topic.kind == "state":
            item = _decode_state(msg.payload)
        else:
            raise ValueError(f"topic {msg.topic!r} carries neither telemetry nor state")
        if item.pack != topic.pack:
            raise ValueError(f"pack {item.pack!r} of the payload is not the topic's {topic.pack!r}")
        return item

    def _check(self, items: list[Telemetry], of_topics: list[str]) -> None:
        """Null what is out of range. The items are this node's own, decoded a moment ago."""
        values = np.array([_values_of(item) for item in items], dtype=np.float64)
        kinds = [self._kind_of(topic) for topic in of_topics]
        which = kinds[0] if kinds.count(kinds[0]) == len(kinds) else kinds
        bad = (values < self._low[which]) | (values > self._high[which])
        for smaller, larger in _ORDERED:
            crossed = values[:, smaller] > values[:, larger]
            bad[:, smaller] |= crossed & ~bad[:, larger]
            bad[:, larger] |= crossed & ~bad[:, smaller]
        for row, column in np.argwhere(bad).tolist() if bad.any() else ():
            _invalidate(items[row], _FIELDS[column])
            name = _FIELDS[column]
            self._store.invalid_fields[name] = self._store.invalid_fields.get(name, 0) + 1

    def _kind_of(self, topic: str) -> int:
        """The row of the limits that hold for the topic's pack."""
        parsed = _parse(topic)
        twin = self._store.by_name.get((parsed.fleet, parsed.pack))
        state = twin.state if twin else None
        nameplate = (state.chemistry, state.cells_series) if state else (None, None)
        kind = self._kinds.get(nameplate)
        if kind is None:
            kind = self._kinds[nameplate] = len(self._kinds)
            ranges = valid_ranges(*nameplate)
            self._low = np.vstack([self._low, [ranges[name][0] for name in _FIELDS]])
            self._high = np.vstack([self._high, [ranges[name][1] for name in _FIELDS]])
        return kind

    def status(self) -> dict[str, Any]:
        return {"invalid_fields": dict(self._store.invalid_fields)}


def _parse(topic: str) -> topics.PackTopic:
    parsed = topics.parse(topic)
    if parsed is None:
        raise ValueError(f"topic {topic!r} is not ev/v1/{{fleet}}/{{pack}}/telemetry or state")
    return parsed


def _invalidate(item: Telemetry, name: str) -> None:
    setattr(item, name, None)
    if name not in item.quality.invalid:
        item.quality = Quality([*item.quality.invalid, name], item.quality.stale_s)
