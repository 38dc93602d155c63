"""What stands below each node in the editor: its own badge, and where it has none, or one that leaves room, what flows through it.

Node-RED shows only what nodes say. Here a node that says nothing shows messages per second, what waits at it and how
many it failed on in the last minute, at most once a second and only while somebody looks. A node inside of a subflow, which is drawn once and
runs in every instance, shows the sum of them, and what it says where all say the same; an instance shows what comes into it
and what waits and failed inside.

    >>> traffic_badge(Traffic(120.4, 0, 0))
    {'fill': 'grey', 'shape': 'ring', 'text': '120/s'}
    >>> traffic_badge(Traffic(0.2, 7, 1))["text"]
    '0.2/s, 7 waiting, 1 error'
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from voltflow.engine.engine import Engine
from voltflow.engine.events import Badge
from voltflow.engine.sink_queue import NodeStats
from voltflow.engine.wiring import Wiring
from voltflow.flow.expand import STATUS

Publish = Callable[[str, Mapping[str, Any]], None]

TICK_S: Final = 1.0


@dataclass(frozen=True)
class Traffic:
    """What flows through a node: messages per second, how many wait, and how many it failed on in the last minute."""

    rate: float
    waiting: int
    failures: int

    @staticmethod
    def sum_of(parts: Iterable[Traffic]) -> Traffic | None:
        """Of several nodes; None where there is nothing."""
        found = list(parts)
        if not found:
            return None
        return Traffic(
            sum(t.rate for t in found), sum(t.waiting for t in found), sum(t.failures for t in found)
        )


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


def both(said: Badge, traffic: Traffic) -> Badge:
    """What a node says, in its color, and what flows through it.

    >>> both({"fill": "green", "shape": "dot", "text": "connected"}, Traffic(120.4, 0, 0))["text"]
    'connected, 120/s'
    """
    return {**said, "text": ", ".join(filter(None, (said.get("text"), traffic_badge(traffic)["text"])))}


class Drawing:
    """Which running nodes stand behind what is drawn, by its id in the file."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.nodes: dict[str, list[str]] = {}
        self.instances: dict[str, list[str]] = {}
        self._inside: dict[str, set[str]] = {id: set() for id in wiring.instances}
        for id, wired in wiring.nodes.items():
            self.nodes.setdefault(wired.part.source_id, []).append(id)
            for instance in wiring.around(wired.part):
                self._inside[instance.id].add(id)
        for id, part in wiring.instances.items():
            self.instances.setdefault(part.source_id, []).append(id)

    def said(self, id: str) -> Badge:
        """What the nodes behind a drawn one say of themselves, where they agree."""
        first, *others = (self.wiring.nodes[running].node.badge for running in self.nodes[id])
        return first if all(badge == first for badge in others) else {}

    def leaves_room(self, id: str) -> bool:
        """Whether what flows through a drawn node is shown beside what it says."""
        return self.wiring.nodes[self.nodes[id][0]].node.badge_with_traffic

    def inside(self, id: str, traffic: Mapping[str, Traffic]) -> Traffic | None:
        """What flows through a drawn subflow instance; None where nothing does."""
        return Traffic.sum_of(
            found
            for instance in self.instances[id]
            if (found := self._through(instance, traffic)) is not None
        )

    def _through(self, instance: str, traffic: Mapping[str, Traffic]) -> Traffic | None:
        inside = self._inside[instance]
        found = Traffic.sum_of(traffic[id] for id in inside if id in traffic)
        if found is None:
            return None
        # all that comes in goes to each of them, and to some also what comes from others inside
        entries = [
            traffic[id].rate if id in traffic else 0.0
            for id in self.wiring.instances[instance].entries
            if id in inside
        ]
        return Traffic(min(entries, default=0.0), found.waiting, found.failures)


class Statuses:
    """Knows what every open editor shows, and tells only what changes. Lives in the event loop."""

    def __init__(self, engine: Engine, publish: Publish) -> None:
        self._engine = engine
        self._publish = publish
        self._shown: dict[str, Badge] = {}
        self._counted: dict[str, tuple[NodeStats, int]] = {}
        self._counted_at_s = 0.0
        self._known_drawing: Drawing | None = None

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
        nodes = self._engine.nodes
        wired = nodes.get(node_id) or nodes.get(f"{node_id}:{STATUS}")
        if wired is None or wired.part.source_id == node_id:  # also one that a deploy is starting
            self._show(node_id, badge)
        else:
            self._show(wired.part.source_id, self._drawing.said(wired.part.source_id))

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
        drawing = self._drawing
        for id, running in drawing.nodes.items():
            flows = Traffic.sum_of(traffic[node_id] for node_id in running if node_id in traffic)
            said = drawing.said(id)
            if said and flows and drawing.leaves_room(id):
                yield id, both(said, flows)
            else:
                yield id, said or (traffic_badge(flows) if flows else {})
        for id in drawing.instances:
            flows = drawing.inside(id, traffic)
            said = drawing.said(id) if id in drawing.nodes else {}
            yield id, said or (traffic_badge(flows) if flows else {})

    @property
    def _drawing(self) -> Drawing:
        """Of the flow that runs now."""
        if self._known_drawing is None or self._known_drawing.wiring is not self._engine.wiring:
            self._known_drawing = Drawing(self._engine.wiring)
        return self._known_drawing

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
            failures = stats.recent_failures
            if known is stats and (total or stats.waiting or failures):
                found[node_id] = Traffic((total - seen) / past_s, stats.waiting, failures)
        return found
