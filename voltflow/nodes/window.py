"""The `window` node: one message of many, by time."""

from __future__ import annotations

import math
from typing import Any

from voltflow.engine.holding import Entry
from voltflow.flow.properties import get, plain
from voltflow.message import Msg
from voltflow.node import ConfigError, Context, Holder, Ports, config, node
from voltflow.nodelib.aggregate import Rule, aggregated, check_path, is_missing, is_number
from voltflow.nodelib.event_time import AHEAD_HELP, AHEAD_S, aside, is_ahead, key_of, time_of
from voltflow.nodelib.windows import Track, Window

MOST_COPIES = 100
"""Sliding windows that a message may be in: each of them holds it."""
MOST_KEYS = 20_000
"""Groups whose newest time is known; beyond that those without an open window are forgotten, oldest first."""

BY_EVENT = ("time", ("event",))


@node("window", category="sequence", color="#e2d96e", icon="batch.svg", outputs=2)
class WindowNode(Holder):
    """Gather messages by time, and give out one message for each window, with aggregates of its properties.

    Output 1 has `key`, `start_ms`, `end_ms`, `count` and the aggregates; output 2 the messages that are in no window, with the reason
    in `msg.late`: `late` for all their windows, or from the `future`. Windows begin at multiples of their length since 1970, UTC; a
    session ends when nothing came for `gap`.

    By event time a window is closed when its key's newest message is `lateness` beyond its end, or when nothing comes: `idle`
    after the clock says so. A message from further in the future than `ahead` closes none, for what comes after it would be late.
    By receive time the clock closes it, and nothing is late.

    Of each message only time, key and looked-at values are held, on disk when that takes longer than a moment (a sliding window
    each for itself): a crash loses nothing; a window that was just given out may come again, and a late message after a
    restart may open one once more that silence had closed.
    """

    mode: str = config("tumbling", help="tumbling: one after the other; sliding: a new one every so often; session: until nothing "
                       "comes", choices=("tumbling", "sliding", "session"))  # fmt: skip
    size: float = config(60.0, help="how long a window is", unit="s", low=0.001, high=2_678_400,
                         shown_if=("mode", ("tumbling", "sliding")))  # fmt: skip
    every: float = config(10.0, help="sliding: how often one begins", unit="s", low=0.001, high=2_678_400,
                          shown_if=("mode", ("sliding",)))  # fmt: skip
    gap: float = config(60.0, help="session: the silence that ends it", unit="s", low=0.001, high=2_678_400,
                        shown_if=("mode", ("session",)))  # fmt: skip
    time: str = config(
        "event", help="event: by the time in the message; receive: by the clock", choices=("event", "receive")
    )
    timestamp: str = config(
        "payload.ts_ms", help="property with the event time, milliseconds since 1970", shown_if=BY_EVENT
    )
    lateness: float = config(
        0.0,
        help="how long a window waits for late messages",
        unit="s",
        low=0,
        high=2_678_400,
        shown_if=BY_EVENT,
    )
    idle: float = config(
        60.0,
        help="how long it waits for a key that fell silent",
        unit="s",
        low=0,
        high=2_678_400,
        shown_if=BY_EVENT,
    )
    ahead: float = config(AHEAD_S, help=AHEAD_HELP, unit="s", low=0, high=31_622_400, shown_if=BY_EVENT)
    key: str = config("", help="property that tells the messages apart; empty: all together", example="payload.pack")  # fmt: skip
    rules: list[dict[str, Any]] = config(
        [{"function": "count"}],
        help="aggregates: function (count, sum, mean, min, max, first, last, stddev, percentile with percent), property, name",
    )

    # state
    late: int = 0
    future: int = 0

    def __post_init__(self) -> None:
        for name in ("timestamp", "key"):
            if value := getattr(self, name):
                check_path(name, value)
        if self.mode == "sliding" and self.every > self.size:
            raise ConfigError(f'property "every": {self.every:g} s is longer than size, {self.size:g} s')
        if self.mode == "sliding" and self.size / self.every > MOST_COPIES:
            raise ConfigError(f'property "every": a message would be in {math.ceil(self.size / self.every)} windows, allowed are '
                              f"{MOST_COPIES}")  # fmt: skip
        self._rules = Rule.list_of(self.rules, reserved=("key", "start_ms", "end_ms"))
        numeric = {rule.path for rule in self._rules if rule.numeric}
        self._paths = {rule.path: rule.path in numeric for rule in self._rules if rule.path}

    async def start(self, ctx: Context) -> None:
        self._timer = ctx.timer
        self._tracks: dict[str, Track] = {}
        self._due_s = math.inf
        self._size_ms, self._gap_ms = round(self.size * 1000), round(self.gap * 1000)
        self._every_ms = round(self.every * 1000) if self.mode == "sliding" else self._size_ms
        self._wait_ms = self.lateness * 1000 if self.time == "event" else 0.0

    # -- messages -------------------------------------------------------------------------------------------------

    def process(self, msgs: list[Msg]) -> Ports:
        ports: tuple[list[Msg], list[Msg]] = ([], [])
        for msg in msgs:
            for port, found in zip(ports, self._take(msg), strict=True):
                port += found
        return ports

    def _take(self, msg: Msg) -> tuple[list[Msg], list[Msg]]:
        seen = msg.derive(payload=plain(msg.payload))
        at_ms, key, values = self._time_of(seen), key_of(seen, self.key), self._values_of(seen)
        if self.time == "event" and is_ahead(at_ms, msg, self.ahead):
            self.future += 1
            return [], [aside(msg, "future")]
        track = self._track(key)
        windows = self._session(track, at_ms) if self.mode == "session" else self._fixed(track, at_ms)
        if not windows:
            self.late += 1
            return [], [aside(msg, "late")]
        for window in windows:
            bounds = (None, None) if window.session else (window.start_ms, window.end_ms)
            record = dict(zip("kset", (key, *bounds, at_ms), strict=True), v=values)
            self.held.keep(Msg(msg.topic, record, None, msg.received_ms), window.groups[0])
        self._came(track, at_ms)
        return self._close(track, track.newest_ms - self._wait_ms), []

    def _time_of(self, msg: Msg) -> int:
        if self.time == "receive":
            return int(self._timer.now_s() * 1000)
        return time_of(msg, self.timestamp)

    def _values_of(self, msg: Msg) -> dict[str, Any]:
        found = {}
        for path, numeric in self._paths.items():
            value = get(msg, path)
            if is_missing(value):
                continue
            if numeric and not is_number(value):
                raise ValueError(f"{path} is {value!r:.100}, expected is a number")
            found[path] = value
        return found

    def _track(self, key: Any) -> Track:
        name = str(key)
        found = self._tracks.get(name)
        if found is None:
            if len(self._tracks) >= MOST_KEYS:
                idle = next((name for name, track in self._tracks.items() if not track.windows), None)
                self._tracks.pop(idle or "", None)
            found = self._tracks[name] = Track(key)
        return found

    def _came(self, track: Track, at_ms: int) -> None:
        if at_ms > track.newest_ms:
            track.newest_ms, track.at_s = at_ms, self._timer.now_s()
        self._due_s = min(self._due_s, self._due_of(track))

    # -- which windows --------------------------------------------------------------------------------------------

    def _fixed(self, track: Track, at_ms: int) -> list[Window]:
        """Those that a time is in and that are not closed, the oldest first."""
        closed_ms = max(track.closed_ms, track.newest_ms - self._wait_ms)
        last_ms = at_ms - at_ms % self._every_ms
        starts = range(last_ms, at_ms - self._size_ms, -self._every_ms)
        spans = [
            (start, start + self._size_ms) for start in reversed(starts) if start + self._size_ms > closed_ms
        ]
        return [track.fixed(*span, self.held.new_group) for span in spans]

    def _session(self, track: Track, at_ms: int) -> list[Window]:
        closed_ms = max(track.closed_ms, track.newest_ms - self._wait_ms)
        if at_ms + self._gap_ms <= closed_ms and not track.near(at_ms, self._gap_ms):
            return []
        return [track.session(at_ms, self._gap_ms, self.held.new_group)]

    # -- their end ------------------------------------------------------------------------------------------------

    def _close(self, track: Track, until_ms: float) -> list[Msg]:
        over = [window for window in track.windows if window.end_ms <= until_ms]
        over.sort(key=lambda window: (window.end_ms, window.start_ms))
        for window in over:
            track.windows.remove(window)
            track.closed_ms = max(track.closed_ms, window.end_ms)
        return [self._result(track, window) for window in over]

    def _result(self, track: Track, window: Window) -> Msg:
        records = [msg for group in window.groups for msg in self.held.release(group)]
        records.sort(key=lambda msg: msg.payload["t"])
        end_ms = records[-1].payload["t"] if window.session else window.end_ms
        found: dict[str, Any] = {"key": track.key} if self.key else {}
        found |= {"start_ms": window.start_ms, "end_ms": end_ms, "count": len(records)}
        for rule in self._rules:
            rows = (msg.payload["v"] for msg in records)
            values = [row[rule.path] for row in rows if rule.path in row] if rule.path else records
            found[rule.name] = aggregated(rule.function, values, rule.percent)
        return Msg(records[-1].topic, found, None, int(self._timer.now_s() * 1000))

    def _due_of(self, track: Track) -> float:
        """When the clock closes the first window of a key."""
        if not track.windows:
            return math.inf
        end_ms = min(window.end_ms for window in track.windows)
        if self.time == "receive":
            return end_ms / 1000
        left_ms = end_ms + self._wait_ms + self.idle * 1000 - track.newest_ms
        return track.at_s + left_ms / 1000

    def due_s(self) -> float | None:
        return None if math.isinf(self._due_s) else self._due_s

    def tick(self) -> list[Msg]:
        now_s, found = self._timer.now_s(), []
        for track in self._tracks.values():
            while self._due_of(track) <= now_s:
                found += self._close(track, min(window.end_ms for window in track.windows))
        self._due_s = min(map(self._due_of, self._tracks.values()), default=math.inf)
        return found

    # -- what is held ---------------------------------------------------------------------------------------------

    def restore(self, entry: Entry) -> list[Msg]:
        record = entry.msg.payload
        key, start_ms, end_ms, at_ms = (record[name] for name in "kset")
        track = self._track(key)
        if end_ms is None:
            window = track.session(at_ms, self._gap_ms, lambda: entry.group)
        else:
            window = track.fixed(start_ms, end_ms, lambda: entry.group)
        if entry.group not in window.groups:
            window.groups.append(entry.group)
        self.held.keep(entry.msg, entry.group)
        self._came(track, at_ms)
        return []

    def drop_held(self) -> list[Msg]:
        for track in self._tracks.values():
            track.windows.clear()
        return super().drop_held()

    def status(self) -> dict[str, Any]:
        return {"open": sum(len(track.windows) for track in self._tracks.values()), "keys": len(self._tracks), "late": self.late,
                "future": self.future}  # fmt: skip
