"""What stands below each node in the editor: its own badge, and where it has none what flows through it.

Node-RED shows only what nodes say. Here a node that says nothing shows messages per second, what waits at it and how
many it failed on, at most once a second and only while somebody looks.

    >>> traffic_badge(Traffic(120.4, 0, 0))
    {'fill': 'grey', 'shape': 'ring', 'text': '120/s'}
    >>> traffic_badge(Traffic(0.2, 7, 1))["text"]
    '0.2/s, 7 waiting, 1 error'
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from voltflow.engine.engine import Engine
from voltflow.engine.events import Badge
from voltflow.engine.sink_queue import NodeStats

Publish = Callable[[str, Mapping[str, Any]], None]

TICK_S: Final = 1.0


@dataclass(frozen=True)
class Traffic:
    """What flows through a node: messages per second, and in all how many wait and how many it failed on."""

    rate: float
    waiting: int
    failures: int


def traffic_badge(traffic: Traffic) -> Badge:
    """What it looks like: red with errors, yellow while something waits."""
    rate = f"{traffic.rate:.0f}/s" if traffic.rate >= 10 or not traffic.rate else f"{traffic.rate:.1f}/s"
    parts = [rate]
    if traffic.waiting:
        parts.append(f"{traffic.waiting:,} waiting")
    if traffic.failures:
        parts.append(f"{traffic.failures:,} error{'s' if traffic.failures > 1 else ''}")
    fill = "red" if traffic.failures else "yellow" if traffic.waiting else "grey"
    return {"fill": fill, "shape": "ring", "text": ", ".join(parts)}


class Statuses:
    """Knows what every open editor shows, and tells only what changes. Lives in the event loop."""

    def __init__(self, engine: Engine, publish: Publish) -> None:
        self._engine = engine
        self._publish = publish
        self._shown: dict[str, Badge] = {}
        self._counted: dict[str, tuple[NodeStats, int]] = {}
        self._counted_at_s = 0.0

    def begin(self) -> None:
        """Somebody looks, after nobody did."""
        self._count()
        self._shown = {node_id: badge for node_id, badge in self._wanted({}) if badge}

    def replay(self) -> Iterator[tuple[str, Badge]]:
        """All that is shown, for who has just come."""
        for node_id, badge in self._shown.items():
            yield f"status/{node_id}", badge

    def heard(self, node_id: str, badge: Badge) -> None:
        """A node has said something."""
        self._show(node_id, badge)

    def tick(self) -> None:
        """Once a second, and after a deploy: what has changed since."""
        wanted = dict(self._wanted(self._count()))
        for node_id in [node_id for node_id in self._shown if node_id not in wanted]:
            self._show(node_id, {})
        for node_id, badge in wanted.items():
            self._show(node_id, badge)

    def _show(self, node_id: str, badge: Badge) -> None:
        if self._shown.get(node_id, {}) == badge:
            return
        if badge:
            self._shown[node_id] = badge
        else:
            del self._shown[node_id]
        self._publish(f"status/{node_id}", badge)

    def _wanted(self, traffic: Mapping[str, Traffic]) -> Iterator[tuple[str, Badge]]:
        for node_id, wired in self._engine.nodes.items():
            badge = wired.node.badge
            if not badge and node_id in traffic:
                badge = traffic_badge(traffic[node_id])
            yield node_id, badge

    def _count(self) -> dict[str, Traffic]:
        """What flowed since the last call, for nodes that had anything since they run. What comes in counts, at a source
        what goes out."""
        now_s, before = time.monotonic(), self._counted
        past_s, self._counted_at_s = now_s - self._counted_at_s, now_s
        self._counted, found = {}, {}
        for node_id, stats in self._engine.stats.items():
            total = stats.messages_in or stats.messages_out
            known, seen = before.get(node_id, (None, 0))
            self._counted[node_id] = (stats, total)
            if known is stats and (total or stats.waiting or stats.failures):
                found[node_id] = Traffic((total - seen) / past_s, stats.waiting, stats.failures)
        return found
