"""The `sequence` node: what came twice, what is missing and asked for again, and whether one device sends or two."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import msgspec

from edge.gaps import EVENTS, LATER_MESSAGES, Gaps
from edge.identity import CONDITIONS, Code, Identity
from edge.reading import telemetry_of
from edge.twin import PackTwin, TwinStore
from voltflow import topics
from voltflow.engine.timer import WallTimer
from voltflow.message import Msg
from voltflow.node import Context, Transform, config, node
from voltflow.sequence import DUPLICATE, NEW, Seen
from voltflow.telemetry import Alert, ReplayCommand, State, Telemetry

_decode_state = msgspec.json.Decoder(State).decode
KINDS = frozenset({topics.TELEMETRY.kind, topics.STATE.kind})


@dataclass
class _Watched:
    """A pack of which something is missing or odd. `due_s` (monotonic): when to look what is to be asked for; `later`: its
    messages since the last look."""

    identity: Identity
    due_s: float = inf
    later: int = 0


@node("sequence", category="battery", color="#a7c7e7", icon="font-awesome/fa-sort-numeric-asc", outputs=3)
class SequenceNode(Transform):
    """Recognise messages that come twice, ask the devices again for those that are missing, notice doubled identities.

    Output 1: all telemetry; what was seen before, by (pack, boot, seq), has the property `duplicate`, and a `twin` node
    does not apply it twice. Output 2: requests (`cmd` replay) for an `mqtt out` at the devices' broker: missing messages
    are asked for after a grace, some at a time, with growing pauses, and given up after `attempts`. Output 3: alerts,
    `identity_conflict` when two devices send as one pack by turns and `seq_back` when a device numbers anew within a boot.
    State messages say how many messages a device has published, so that a lost end is noticed too. A message that was
    acknowledged, but is missing from the snapshot after a crash, is not asked for.
    """

    ask_after: float = config(2.0, help="wait for what may only be late", unit="s", low=0.1, high=600)
    max_ask: int = config(1000, help="missing messages of a pack asked for at once", low=1, high=100_000)
    attempts: int = config(8, help="requests for the same messages before they are given up", low=1, high=50)

    fleet_ask: int = config(
        2000, help="missing messages of all packs asked for in a second", low=1, high=1_000_000, advanced=True
    )

    # state
    clock: Callable[[], float] = time.monotonic

    async def start(self, ctx: Context) -> None:
        if not isinstance(ctx.timer, WallTimer):  # in a test of a flow
            self.clock = ctx.timer.now_s
        self._store = ctx.service(TwinStore)
        self._events = self._store.sequence_events
        self._gaps = Gaps(self.ask_after, self.max_ask, self.attempts, self.fleet_ask, self._events)
        self._twins: dict[str, PackTwin] = {}  # by topic
        self._watched: dict[int, _Watched] = {}  # by slot
        for twin in self._store.packs:
            self._resume(twin)

    def _resume(self, twin: PackTwin) -> None:
        """Go on with what a snapshot says is missing or odd; its times are of a clock that no longer runs."""
        holes, raised = (
            list(twin.sequence.open_holes()),
            tuple(code for code in CONDITIONS if code in twin.alerts),
        )
        for hole in holes:
            hole.due_s = 0.0
        if raised:
            self._watched[twin.slot] = _Watched(Identity(raised))
        if holes:
            self._expect_more(twin, self.clock())

    def process(self, msgs: list[Msg]) -> tuple[list[Msg], list[Msg], list[Msg]]:
        known, watched = self._twins, self._watched
        twins = [known.get(msg.topic) or self._find(msg.topic) for msg in msgs]
        items: list[Telemetry | State] = [msg.payload for msg in msgs]
        if set(map(type, items)) != {Telemetry}:
            items = [
                _decode_state(msg.payload) if isinstance(msg.payload, bytes) else telemetry_of([msg])[0]
                for msg in msgs
            ]
        now_s = self.clock()  # from here on nothing fails
        passed: list[Msg] = []
        requests: list[Msg] = []
        alerts: list[Msg] = []
        for msg, twin, item in zip(msgs, twins, items, strict=True):
            if isinstance(item, Telemetry):
                seen = twin.sequence.see(item.boot, item.seq, item.ts_ms, item.replay)
                if seen is NEW and (not watched or twin.slot not in watched):
                    passed.append(msg)
                    continue
                passed.append(_marked(msg) if seen.what == "duplicate" else msg)
                self._count(seen)
                self._check_identity(msg, twin, item, seen, alerts)
                if seen.gap or seen.what == "filled":
                    self._expect_more(twin, now_s)
                self._ask(msg, twin, now_s, requests)
            else:
                if self._lost_end(twin, item):
                    self._expect_more(twin, now_s)
                if item.online:
                    self._ask(msg, twin, now_s, requests)
        return passed, requests, alerts

    def _find(self, topic: str) -> PackTwin:
        parsed = topics.parse(topic)
        if parsed is None or parsed.kind not in KINDS:
            raise ValueError(f"topic {topic!r} carries neither telemetry nor state")
        twin = self._twins[topic] = self._store.pack(parsed.fleet, parsed.pack)
        return twin

    @staticmethod
    def _lost_end(twin: PackTwin, state: State) -> tuple[int, int] | None:
        if state.boot is None or state.published is None:
            return None
        return twin.sequence.expect(state.boot, state.published)

    def _count(self, seen: Seen) -> None:
        events = self._events
        events["filled"] += seen.asked
        events["duplicate"] += seen.what == "duplicate"
        events["seq_back"] += seen.what == "back"
        events["new_boot"] += seen.new_boot

    # -- what is missing --------------------------------------------------------------------------------------------

    def _expect_more(self, twin: PackTwin, now_s: float) -> None:
        """Something is missing since now, or a part of it has come."""
        watched = self._watch(twin)
        watched.due_s = min(watched.due_s, now_s + self.ask_after)
        self._gaps.begin(twin.sequence, now_s)

    def _ask(self, msg: Msg, twin: PackTwin, now_s: float, requests: list[Msg]) -> None:
        """Add what is to be asked for now. Each message of a pack is an occasion: a device that is away is not asked."""
        watched = self._watched.get(twin.slot)
        if watched is None or watched.due_s == inf:
            return
        watched.later += 1
        if now_s >= watched.due_s or watched.later >= LATER_MESSAGES:
            topic = topics.CMD.of(twin.fleet, twin.pack)
            requests += [msg.derive(topic=topic, payload=command) for command in self._look(twin, now_s)]
            watched.later = 0
            watched.due_s = self._gaps.next_s(twin.sequence, now_s) or inf
            self._release(twin, watched)

    def _look(self, twin: PackTwin, now_s: float) -> list[ReplayCommand]:
        sequence = twin.sequence
        for of, key in self._store.unreadable:
            if of is twin:
                sequence.excuse(key.boot, key.seq)
        self._events["given_up"] += sequence.forgotten
        sequence.forgotten = 0
        return self._gaps.due(sequence, now_s)

    def _watch(self, twin: PackTwin) -> _Watched:
        return self._watched.setdefault(twin.slot, _Watched(Identity()))

    def _release(self, twin: PackTwin, watched: _Watched) -> None:
        if watched.due_s == inf and not watched.identity.calm:
            self._watched.pop(twin.slot, None)

    # -- who sends --------------------------------------------------------------------------------------------------

    def _check_identity(
        self, msg: Msg, twin: PackTwin, item: Telemetry, seen: Seen, alerts: list[Msg]
    ) -> None:
        if item.replay or seen.what == "duplicate":
            return
        is_odd = seen.older_boot or seen.what == "back"
        watched = self._watch(twin) if is_odd else self._watched.get(twin.slot)
        if watched is None or not (is_odd or watched.identity.calm):
            return
        for code, state in watched.identity.changes(seen, twin.sequence, item.boot, item.ts_ms):
            if (state == "raised") != (code in twin.alerts):
                alerts.append(self._alert(msg, twin, item, code, state))
        self._release(twin, watched)

    def _alert(
        self, msg: Msg, twin: PackTwin, item: Telemetry, code: Code, state: Literal["raised", "cleared"]
    ) -> Msg:
        since_ms = item.ts_ms if state == "raised" else twin.alerts[code].since_ms
        alert = Alert(
            schema_="alert/1", fleet=twin.fleet, pack=twin.pack, boot=item.boot, seq=item.seq, code=code,
            severity=CONDITIONS[code].severity, state=state, since_ms=since_ms, ts_ms=item.ts_ms,
            text=CONDITIONS[code].text,
        )  # fmt: skip
        self._events["identity_conflict"] += code == "identity_conflict" and state == "raised"
        self._store.on_alert(twin, alert)
        return msg.derive(topic=topics.ALERT.of(twin.fleet, twin.pack), payload=alert)

    def status(self) -> dict[str, Any]:
        return {
            **{event: self._events[event] for event in EVENTS},
            "holes_open": sum(1 for twin in self._store.packs for _ in twin.sequence.open_holes()),
        }


def _marked(msg: Msg) -> Msg:
    props = {**(msg.props or {}), DUPLICATE: True}
    return Msg(msg.topic, msg.payload, msg.key, msg.received_ms, props, msg.origin or msg)
