"""The way into a network sink that has a spool: what the far side does not take in time waits on disk.

While the far side confirms in time nothing is written. When it is away, or has not confirmed a batch for longer than
`spoolAfter`, the batch goes to the spool and is settled by that, and so does everything that follows until the far side
is back. Then new batches go to it directly again, and beside them the backlog, oldest first, marked as replayed, in
pieces small enough not to hold up what is new.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from voltflow.engine.network_sink import REPLAYED, NetworkSink
from voltflow.engine.sink_queue import NodeStats, Refuse, SinkQueue, Write
from voltflow.engine.why import Why
from voltflow.message import Key, Msg
from voltflow.node import SinkUnavailable
from voltflow.spool.spool import Chunk, Record, Spool, SpoolFull
from voltflow.topics import parse

log = logging.getLogger(__name__)

PROBE_S = 30.0
"""How long a piece of the backlog may wait for a far side that was away; whoever waits sees its return at once."""

SMALLEST_PIECE, LARGEST_PIECE = 25, 500
LONGEST_PAUSE_S = 1.0
FELT, SLOWEST = 1.5, 3.0
"""New batches that take so many times as long as usual feel the backlog; the drain then slows down this much at most."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class SpoolingQueue(SinkQueue):
    """A sink queue with a spool. Use: `open` before the first batch, `close` after the last."""

    sink: NetworkSink

    def __init__(self, sink: NetworkSink, stats: NodeStats, refuse: Refuse, spool: Spool) -> None:
        super().__init__(sink, stats, refuse)
        self.spool = spool
        self._append_error = self._read_error = ""
        self._pace = _Pace(sink.drainShare)
        self._has_backlog = asyncio.Event()
        self._delivered_before = 0
        self._turn = asyncio.Lock()
        self._resting = self._delivering = False
        self._limits: list[asyncio.Timeout] = []
        """Of the new batches under way, in their order."""
        self._undecided: dict[int, asyncio.Event] = {}
        """By the id of a write's list, in their order: set when it is known that it goes to disk, or that it does not."""

    @property
    def disk_error(self) -> str:
        """Why the spool takes nothing or gives nothing, while that is so."""
        return self._append_error or self._read_error

    async def open(self) -> None:
        """Find what an earlier run left, and begin to deliver it."""
        await self.spool.open()
        if self.spool.backlog.messages:
            self._has_backlog.set()
            log.info("%s: %d messages wait in the spool", self.sink.label, self.spool.backlog.messages)
        task = asyncio.create_task(self._deliver_backlog(), name=f"spool of {self.sink.label}")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def rest(self, timeout_s: float) -> None:
        """Begin no further piece of the backlog, and wait for the one under way where the far side takes it: it would come
        again from whoever reads the spool next."""
        self._resting = True
        deadline_s = time.monotonic() + timeout_s
        while self._delivering and self.circuit.closed and time.monotonic() < deadline_s:  # noqa: ASYNC110 - seldom
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        """Close the files; what is in them is delivered by the next run."""
        await self.spool.close()

    # -- what is new ------------------------------------------------------------------------------------------------

    async def _write(self, write: Write) -> None:
        self._undecided[id(write.msgs)] = asyncio.Event()
        try:
            await super()._write(write)
        finally:
            self._decide(write.msgs)

    async def _attempt(self, msgs: list[Msg]) -> Exception | None:
        if not self.circuit.closed:
            return SinkUnavailable(self.circuit.reason)
        started = time.monotonic()
        error = await self._write_within(msgs, self.sink.spoolAfter, new=True)
        if error is None:
            self._pace.new_took(time.monotonic() - started, calm=not self._has_backlog.is_set())
        return error

    async def _try_again(self, msgs: list[Msg]) -> Exception | None:
        """For a batch that the spool does not take either: it alone finds out whether the far side is back."""
        error = await self._write_within(msgs, self.sink.spoolAfter)
        if not isinstance(error, SinkUnavailable):
            self._note_append("")  # whatever the disk is like: nothing waits for it any more
        return error

    async def _write_within(self, msgs: list[Msg], limit_s: float, *, new: bool = False) -> Exception | None:
        """One write of the sink; giving it up withdraws what the sink has not sent yet. With a new batch that the far side
        does not take, all that follow it are given up: one of them would arrive before it is written again."""
        limit = asyncio.timeout(limit_s)
        if new:
            self._limits.append(limit)
        try:
            error = await self._write_until(msgs, limit, limit_s)
            if new and isinstance(error, SinkUnavailable):
                self._give_up_behind(limit)
        finally:
            if new:
                self._limits.remove(limit)
        return error

    async def _write_until(self, msgs: list[Msg], limit: asyncio.Timeout, limit_s: float) -> Exception | None:
        try:
            async with limit:
                if self.sink.pipelined:
                    return await super()._attempt(msgs)
                async with self._turn:
                    return await super()._attempt(msgs)
        except TimeoutError:
            if not limit.expired():
                raise
            why = self.sink.trouble() or "the far side is too slow or gone"
            return SinkUnavailable(self.circuit.reason or f"not confirmed within {limit_s:g} s: {why}")

    def _give_up_behind(self, limit: asyncio.Timeout) -> None:
        now_s = asyncio.get_running_loop().time()
        for later in self._limits[self._limits.index(limit) + 1 :]:
            if not later.expired():
                later.reschedule(now_s)

    async def _kept(self, msgs: list[Msg], error: Exception) -> bool:
        if not isinstance(error, SinkUnavailable):
            return False
        if self.circuit.closed:
            self.circuit.failed(str(error))
        unfit: list[tuple[Msg, str]] = []
        records = list(self._records(msgs, unfit))
        await self._older_decided(msgs)
        self._decide(msgs)  # the call below puts it in line before anything else runs
        try:
            await self.spool.append(records)
        except SpoolFull as full:
            self._note_append(str(full))
            return False
        except Exception as odd:
            log.exception("%s: the spool fails", self.sink.label)
            self._note_append(f"the spool fails: {odd!r}")
            return False
        self._note_append("")
        self.sink.forget(msgs)
        self._note_backlog()
        if unfit:
            await self._refuse(unfit)
        return True

    async def _older_decided(self, msgs: list[Msg]) -> None:
        """Batches that went out before the circuit opened wait for their own deadlines: on disk they come first."""
        while id(msgs) in self._undecided and (oldest := next(iter(self._undecided))) != id(msgs):
            await self._undecided[oldest].wait()

    def _decide(self, msgs: list[Msg]) -> None:
        if decided := self._undecided.pop(id(msgs), None):
            decided.set()

    def _note_append(self, error: str) -> None:
        """Said when it becomes something else."""
        if error and error != self._append_error:
            log.error("%s: %s; nothing more is acknowledged until the far side or the spool takes it",
                      self.sink.label, error)  # fmt: skip
        elif self._append_error and not error:
            log.info("%s: nothing waits for room in the spool any more", self.sink.label)
        self._append_error = error

    def _records(self, msgs: list[Msg], unfit: list[tuple[Msg, str]]) -> Iterable[Record]:
        for msg in msgs:
            try:
                item = self.sink.to_spool(msg)
            except Exception as error:  # noqa: BLE001 - a payload of any kind may fail in any way
                unfit.append((msg, Why.of(error)))
                continue
            if item is not None:
                yield _record(msg, *item)

    # -- what waited ------------------------------------------------------------------------------------------------

    def _note_backlog(self) -> None:
        """Said when it begins and when all of it was delivered."""
        if bool(self.spool.backlog.messages) == self._has_backlog.is_set():
            return
        if self.spool.backlog.messages:
            self._delivered_before = self.spool.counters.delivered
            log.info("%s: what it does not take waits on disk, in the spool", self.sink.label)
            self._has_backlog.set()
        else:
            count = self.spool.counters.delivered - self._delivered_before
            log.info(
                "%s: the backlog is sent, %d messages; nothing waits on disk any more", self.sink.label, count
            )
            self._has_backlog.clear()

    async def _deliver_backlog(self) -> None:
        while not self._resting:
            await self._has_backlog.wait()
            try:
                chunk = await self.spool.read(self._pace.size)
                self._read_error = ""
                if chunk is None:
                    self._note_backlog()
                    await asyncio.sleep(0 if not self._has_backlog.is_set() else 1.0)
                    continue
                await self._deliver(chunk)
            except Exception as error:  # without this task the backlog would wait for ever, unseen
                log.exception("%s: the spool cannot be read", self.sink.label)
                self._read_error = f"the spool cannot be read: {error!r}"
                await asyncio.sleep(self.circuit.backoff.next_s())

    async def _deliver(self, chunk: Chunk) -> None:
        """A piece of the backlog, tried until the far side has it; then a pause that leaves the most to what is new."""
        if self._resting:
            return
        self._delivering = True
        try:
            took_s = await self._deliver_messages(chunk)
        finally:
            self._delivering = False
        self._note_backlog()
        if self._has_backlog.is_set() and not self._resting:
            await asyncio.sleep(self._pace.pause_s(len(chunk.records), took_s))

    async def _deliver_messages(self, chunk: Chunk) -> float:
        """Until the far side has them; how long the last attempt took."""
        msgs = [_message(record) for record in chunk.records]
        started = time.monotonic()
        while isinstance(error := await self._write_within(msgs, PROBE_S), SinkUnavailable):
            self.stats.retries += 1
            await asyncio.sleep(self.circuit.failed(str(error)))
            self.circuit.trying()
            started = time.monotonic()
        self.circuit.succeeded()
        if error is not None:
            await self._resolve(msgs, error)
        await self.spool.delivered(chunk)
        return time.monotonic() - started


@dataclass
class _Pace:
    """How much of the backlog goes at once, and how long the pause behind it is.

    A pause follows each piece so that the drain uses `share` of the far side's time, or down to a third of that while
    what is new takes clearly longer than it does without a backlog (`calm_s`). Over a far network, or to a far side that
    is busy, most of that time is spent waiting, for a small piece as for a large one: pieces grow while they take about
    as long as what is new does anyway, and shrink where that would have to wait behind them.
    """

    share: float
    size: int = SMALLEST_PIECE
    calm_s: float = float("inf")
    """How long new batches take while there is no backlog, smoothed; infinite while nobody knows."""
    new_s: float = float("inf")
    """How long they take now; infinite where none came, and nobody has to wait behind a piece."""
    slowness: float = 1.0
    """How many times longer than `share` says the pauses are."""

    def new_took(self, took_s: float, *, calm: bool) -> None:
        """A new batch was confirmed, while there was no backlog (`calm`) or was one."""
        self.new_s = _smoothed(self.new_s, took_s)
        if calm:
            self.calm_s = _smoothed(self.calm_s, took_s)

    def pause_s(self, messages: int, took_s: float) -> float:
        """The pause after a piece of so many messages that took so long."""
        usual_s = min(self.new_s, self.calm_s)
        if messages >= self.size and took_s < 2.0 * usual_s:
            self.size = min(LARGEST_PIECE, self.size * 2)
        elif took_s > 4.0 * usual_s:
            self.size = max(SMALLEST_PIECE, self.size // 2)
        if self.new_s > FELT * self.calm_s:
            self.slowness = min(self.slowness * 1.25, SLOWEST)
        else:
            self.slowness = max(self.slowness * 0.95, 1.0)
        return min(took_s * (self.slowness / self.share - 1.0), LONGEST_PAUSE_S)


def _smoothed(before_s: float, took_s: float) -> float:
    return took_s if before_s == float("inf") else before_s + 0.1 * (took_s - before_s)


def _record(msg: Msg, topic: str, payload: bytes) -> Record:
    found, key = parse(topic), msg.key
    fleet, pack = (found.fleet, found.pack) if found else ("", "")
    ts_ms = getattr(getattr(msg.payload, "wire", lambda: msg.payload)(), "ts_ms", 0)
    if key is None:
        return Record(topic, payload, msg.received_ms, fleet, pack, ts_ms=ts_ms)
    return Record(topic, payload, msg.received_ms, fleet, pack, key.boot, key.seq, ts_ms)


def _message(record: Record) -> Msg:
    key = Key(record.pack, record.boot, record.seq) if record.pack and record.seq >= 0 else None
    return Msg(record.topic, _marked(record.payload), key, record.received_ms, {REPLAYED: True})


def _marked(payload: bytes) -> bytes:
    """The payload with `replay: true` where it is a JSON object with a schema; other bytes are no business of ours."""
    try:
        decoded = _decode(payload)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, nested without end
        return payload
    if not isinstance(decoded, dict) or "schema" not in decoded:
        return payload
    return _encode({**decoded, "replay": True})


class SpoolRegistry:
    """The spools of a flow, for whoever wants to know of a backlog; a service of the engine."""

    def __init__(self, lines: Iterable[object]) -> None:
        self.queues: list[SpoolingQueue] = []
        self.replace(lines)
        self.orphans: dict[str, int] = {}
        """Bytes of messages in spools that no sink of the flow has any more, by the folder's name."""

    def replace(self, lines: Iterable[object]) -> None:
        """Those with a spool are the flow's from now on."""
        self.queues = [line for line in lines if isinstance(line, SpoolingQueue)]

    @property
    def backlog_messages(self) -> int:
        """Messages that wait in any spool."""
        return sum(queue.spool.backlog.messages for queue in self.queues)

    async def look_for_orphans(self, folder: Path) -> None:
        """Find the spools of sinks that were removed from the flow, or whose option was switched off."""
        used = {folder_name(queue.sink.id) for queue in self.queues}
        found = await asyncio.to_thread(_sizes, folder)
        self.orphans = {name: size for name, size in found.items() if size and name not in used}
        for name, size_bytes in self.orphans.items():
            log.error(
                "%s holds %d bytes of messages, but no sink of the flow with this id has a spool: they are not"
                " delivered. To deliver them give a sink the id %r and the option spool, to give them up delete the folder",
                folder / name, size_bytes, unquote(name),
            )  # fmt: skip


def spools_folder(state_dir: Path) -> Path:
    """Where the spools of a flow are, each in a folder of its own."""
    return state_dir / "spool"


def folder_name(node_id: str) -> str:
    """Of a sink's spool: the id, whatever is in it.

    >>> folder_name("8b2c7e7d.74d38"), folder_name("../../etc")
    ('8b2c7e7d.74d38', '%2E.%2F..%2Fetc')
    """
    name = quote(node_id, safe="")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of messages in each spool of a folder."""
    found: dict[str, int] = {}
    for path in folder.glob("*/*/*.seg"):
        name = path.relative_to(folder).parts[0]
        with suppress(OSError):
            found[name] = found.get(name, 0) + path.stat().st_size
    return found
