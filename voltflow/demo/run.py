"""The run of the demo: starts the parts in order, watches them, drains, proves the ledger, stops the parts in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from voltflow.battery.kernel import GAP_S
from voltflow.demo import broker, figures
from voltflow.demo.agent_outage import AgentOutage
from voltflow.demo.history import History
from voltflow.demo.layout import Layout
from voltflow.demo.outcome import Latency, Memory, Outcome, Summary
from voltflow.demo.parts import Part, PartFailedError, error_lines
from voltflow.demo.relay import Relay
from voltflow.demo.settings import DemoSettings
from voltflow.demo.view import Facts, Rates, Snapshot, View, make_view
from voltflow.ledger.ledger import Expected
from voltflow.message import now_ms

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

POLL_S = 0.1
SHOW_EVERY_S = 1.0
STOP_PACKS_S = 60.0
_IMPORTED_S = time.monotonic()


class Stopped(Exception):
    """The user ended the demo before it had started."""


class Published(msgspec.Struct):
    """The simulator's summary: what its devices published, by pack."""

    published: int
    packs: dict[str, Expected]


class Demo:
    """One run. `run` returns its outcome; raises PartFailedError, Stopped, or a SettingsError."""

    def __init__(self, settings: DemoSettings, console: Console) -> None:
        self.settings = settings
        self.layout = Layout(settings, embedded=not broker.use_running(settings))
        self.layout.check_ports()
        self.console = console
        self.parts: list[Part] = []
        self._watchers: set[asyncio.Task[None]] = set()
        self._logged_before = _size(self.layout.server_log)
        self._startup_s: float | None = None
        self._relay: Relay | None = None
        self._cut_at_s = self._mended_at_s = 0.0

    async def run(self) -> Outcome:
        """Start, run until the time is over or a signal comes, then drain, verify and stop everything."""
        self._stop, self._failure = asyncio.Event(), asyncio.get_running_loop().create_future()
        self._handle_signals()
        self.layout.make()
        try:
            return await self._run()
        finally:
            await self._end()
            if self._relay is not None:
                await self._relay.close()

    async def _run(self) -> Outcome:
        history = await self._start()
        first = asyncio.create_task(self._await_first_prediction(history), name="first prediction")
        await self._live(history)
        first.cancel()
        return await self._finish(history)

    # -- start ------------------------------------------------------------------------------------------------------

    async def _start(self) -> History:
        """All parts, each when what it needs is there; the packs last, so that nobody misses a message."""
        self._warn()
        self._say(f"broker: {self.layout.broker_text()}")
        if self.layout.embedded:
            await self._start_part(self.layout.broker_part())
            await self._until(self._broker_answers, "the broker to answer")
        await self._leave_broker(
            []
        )  # a demo that was killed may have left messages of a time that is ahead of ours
        await self._start_part(postgres := self.layout.postgres_part())
        self._say("starting PostgreSQL, agent and bridge …")
        dsn = await self._until(self._address, f"PostgreSQL (log: {postgres.log}) to answer")
        if self.settings.outage_s:
            self._relay = Relay(self.layout.mqtt.host, self.layout.mqtt.port)
            await self._relay.open()
            self.layout.uplink_port = self._relay.port
        self.layout.write_config(dsn)
        self._agent, self._bridge = self.layout.agent_part(), self.layout.bridge_part()
        await self._start_part(self._bridge)
        await self._start_part(self._agent)
        self.history = history = History(dsn, self.settings.fleet, now_ms())
        ends = self.layout.endpoints
        await self._until(lambda: figures.connected(ends.bridge_metrics), "the bridge to reach the broker")
        await self._until(lambda: _quietly(history.ready), "the bridge to make its tables")
        await self._until(lambda: figures.connected(ends.agent_metrics), "the agent to reach the broker")
        await self._start_part(packs := self.layout.packs_part())
        # It says so when it publishes; told to end before that, it would end without its summary.
        await self._until(lambda: _size(packs.log) > 0, "the packs to publish")
        return history

    def _warn(self) -> None:
        s = self.settings
        if s.step_s > GAP_S:
            self._say(
                f"WARNING: with hz = {s.hz:g} and speedup = {s.speedup:g} a pack's messages are {s.step_s:g} s of device time apart; "
                f"beyond {GAP_S:g} s the gateway does not know what flowed in between: no capacity is measured, remaining life (RUL) "
                f"never answers. Set speedup to {GAP_S * s.hz:g} at most, or hz to {s.speedup / GAP_S:.3g} at least."
            )

    async def _start_part(self, part: Part) -> None:
        self.parts.append(part)
        await part.start()
        self._watch(part)

    def _watch(self, part: Part) -> None:
        watcher = asyncio.create_task(part.ended(), name=f"watch {part.name}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._part_ended)

    def _part_ended(self, watcher: asyncio.Task[None]) -> None:
        self._watchers.discard(watcher)
        error = None if watcher.cancelled() else watcher.exception()
        if error is not None and not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # it may be that nobody waits any more

    def _broker_answers(self) -> bool:
        s = self.settings
        return broker.probe("127.0.0.1", s.broker_port) == "mqtt" and broker.listens(
            "127.0.0.1", s.broker_mqtt5_port
        )

    def _address(self) -> str:
        text = self.layout.address.read_text() if self.layout.address.exists() else ""
        return text.strip() if text.endswith("\n") else ""

    async def _until(self, condition: Callable[[], T], what: str, *, stoppable: bool = True) -> T:
        """The condition's first true value; it is asked in a thread and may block a little."""

        async def poll() -> T:
            while not (value := await asyncio.to_thread(condition)):  # noqa: ASYNC110  # other processes set no event
                await asyncio.sleep(POLL_S / 2)
            return value

        try:
            async with asyncio.timeout(self.settings.start_s):
                return await self._guarded(poll(), stoppable=stoppable)
        except TimeoutError:
            found = "".join(f"\n  {log}: {lines[-1]}" for log, lines in self._errors().items())
            waited = f"waited {self.settings.start_s:g} s (setting start_s) in vain for {what}"
            raise PartFailedError(f"{waited}; logs: {self.layout.logs}{found}") from None

    async def _guarded(self, work: Coroutine[Any, Any, T], *, stoppable: bool = False) -> T:
        """The result of `work`, unless a part ends by itself meanwhile or, if `stoppable`, the user stops the demo."""
        task = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stop.wait())
        waited: set[Awaitable[Any]] = {task, self._failure, *([stopping] if stoppable else [])}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
            if self._failure.done():
                self._failure.result()
            if not task.done():
                raise Stopped
            return task.result()
        finally:
            for each in (task, stopping):
                each.cancel()

    async def _await_first_prediction(self, history: History) -> None:
        while not await asyncio.to_thread(_quietly, history.predicted):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        self._startup_s = round(process_age_s(), 1)

    # -- the run ------------------------------------------------------------------------------------------------------

    async def _live(self, history: History) -> None:
        started_s, rates = time.monotonic(), Rates()
        outage = asyncio.create_task(self._outage(), name="outage")
        without_agent = self._kill_agent()
        try:
            with make_view(self._facts(history), self.console) as view:
                showing = self._show(view, rates, started_s)
                with contextlib.suppress(TimeoutError, Stopped):
                    async with asyncio.timeout(self.settings.seconds or None):
                        await self._guarded(showing, stoppable=True)
        finally:
            outage.cancel()
            if self._relay is not None:
                self._relay.mend()
        if without_agent is not None:
            self._agent_outage.end()
            await without_agent
            await self._until(
                lambda: figures.connected(self.layout.endpoints.agent_metrics),
                "the agent to be back",
                stoppable=False,
            )

    def _kill_agent(self) -> asyncio.Task[None] | None:
        """Begin what the settings say of an outage of the agent; None: nothing."""
        s = self.settings
        self._agent_outage = AgentOutage(self._agent, s.agent_outage_after_s, s.agent_outage_s, self._watch)
        return (
            asyncio.create_task(self._agent_outage.run(), name="agent outage") if s.agent_outage_s else None
        )

    async def _outage(self) -> None:
        """Cut the gateway's way to the cloud once, for as long as the settings say."""
        if self._relay is None:
            return
        await asyncio.sleep(self.settings.outage_after_s)
        self._cut_at_s = time.monotonic()
        self._relay.cut()
        await asyncio.sleep(self.settings.outage_s)
        self._relay.mend()
        self._mended_at_s = time.monotonic()

    def _uplink_text(self) -> str:
        """What the demo itself knows of the way to the cloud; empty where it has no part in it."""
        now_s, s = time.monotonic(), self.settings
        if self._relay is None:
            return ""
        if self._mended_at_s:
            return f"mended {now_s - self._mended_at_s:.0f} s ago"
        if self._cut_at_s:
            since_s = now_s - self._cut_at_s
            return f"cut {since_s:.0f} s ago, for {max(0.0, s.outage_s - since_s):.0f} s more"
        return "whole"

    def _facts(self, history: History) -> Facts:
        s = self.settings
        ends = f"ends after {s.seconds:g} s or at Ctrl-C" if s.seconds else "ends at Ctrl-C"
        return Facts(
            urls=self.layout.urls(history.dsn), broker=self.layout.broker_text(), packs=s.packs, hz=s.hz,
            speedup=s.speedup, logs=str(self.layout.logs), ends=ends,
        )  # fmt: skip

    async def _show(self, view: View, rates: Rates, started_s: float) -> None:
        now, received, rows = figures.Figures(), 0.0, 0.0
        while True:
            try:
                now = await asyncio.to_thread(figures.read, self.layout.endpoints)
                received, rows = rates.add(now)
                told = True
            except (
                OSError,
                ValueError,
            ):  # a part that is busy is shown a second later; one that was killed is told of
                told = not self._agent.running
            if told:
                rss = {part.name: part.rss_mb() for part in (self._agent, self._bridge)}
                running_s, uplink = time.monotonic() - started_s, self._uplink_text()
                view.show(Snapshot(running_s, now, received, rows, rss, uplink, self._agent_outage.text()))
            await asyncio.sleep(SHOW_EVERY_S)

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _finish(self, history: History) -> Outcome:
        """Drain from the packs to the database; what is measured is read before the part that knows it ends."""
        self._say("stopping the packs, waiting for the last rows …")
        unclean = [await self._packs.stop(STOP_PACKS_S)]
        said = self._read_published()
        await self._guarded(self._drained(history, said))
        last = await asyncio.to_thread(_last_figures, self.layout.endpoints)
        memory = Memory(self._agent.rss_mb(), self._bridge.rss_mb())
        unclean += [await part.stop() for part in (self._agent, self._bridge)]
        counts = await asyncio.to_thread(history.counts, said.packs)
        await self._leave_broker(list(said.packs))
        unclean += [await part.stop() for part in reversed(self.parts) if part.running]
        summary = Summary(
            published=said.published, rows=counts.rows, missing=counts.missing, duplicates=counts.duplicates,
            dead_letters=counts.dead_letters, predictions=counts.predictions, alerts=counts.alerts,
            latency_ms=Latency(last.p50_ms, last.p99_ms), rss_mb=memory, startup_s=self._startup_s,
        )  # fmt: skip
        return Outcome(summary, [text for text in unclean if text], self._errors())

    @property
    def _packs(self) -> Part:
        return next(part for part in self.parts if part.name == "packs")

    def _read_published(self) -> Published:
        try:
            return msgspec.json.decode(self.layout.published.read_bytes(), type=Published)
        except (OSError, msgspec.DecodeError) as error:
            raise PartFailedError(
                f"the packs did not say what they published ({error}); log: {self._packs.log}"
            ) from None

    async def _drained(self, history: History, said: Published) -> None:
        """Wait until every published message is a row, as long as rows still come."""
        boots = sorted({item.boot for item in said.packs.values()})
        rows, deadline_s = -1, 0.0
        while (now := await asyncio.to_thread(history.rows, boots)) < said.published:
            if now > rows:
                rows, deadline_s = now, time.monotonic() + self.settings.drain_s
            elif time.monotonic() > deadline_s:
                return  # the ledger says what is missing
            await asyncio.sleep(POLL_S)

    async def _leave_broker(self, packs: list[str]) -> None:
        """Remove from a broker that is not ours what the demo left there."""
        if not self.layout.embedded:
            await broker.forget(self.layout.mqtt, self.layout.client_ids(), self.layout.retained(packs))

    def _errors(self) -> dict[str, list[str]]:
        found = {str(part.log): list(part.errors()) for part in self.parts}
        found[str(self.layout.server_log)] = list(error_lines(self.layout.server_log, self._logged_before))
        return {log: lines for log, lines in found.items() if lines}

    async def _end(self) -> None:
        """End what still runs, in order; at a second signal at once."""
        try:
            for part in self._in_order():
                await part.stop()
        finally:
            for part in self.parts:
                part.kill()
            for watcher in list(self._watchers):
                watcher.cancel()

    def _in_order(self) -> list[Part]:
        """Packs, agent, bridge, then what they stand on."""
        order = ("packs", "agent", "bridge", "postgres", "broker")
        return sorted(self.parts, key=lambda part: order.index(part.name))

    def _handle_signals(self) -> None:
        loop, main = asyncio.get_running_loop(), asyncio.current_task()
        assert main is not None

        def on_signal() -> None:
            if self._stop.is_set():
                main.cancel()
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, on_signal)

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def process_age_s() -> float:
    """Seconds since this command was started: interpreter and imports belong to the start."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        return uptime_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED_S


def _last_figures(endpoints: figures.Endpoints) -> figures.Figures:
    try:
        return figures.read(endpoints)
    except (OSError, ValueError):
        return figures.Figures()


def _quietly(question: Callable[[], bool]) -> bool:
    """False while the database cannot be asked yet."""
    import psycopg2

    try:
        return question()
    except psycopg2.Error:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
