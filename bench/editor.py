"""`python -m bench.editor`: how soon the editor can be used, what it costs the agent's memory, and what looking costs the flow.

The agent with its default flow and a debug node behind it, a broker, load source and sink, each a process of its own, and a
real Chromium. First a small fleet, without and with the editor open, then full speed in turns: nobody looks, an editor on
another machine (all that the gateway sends it is read), the editor in Chromium here, which also takes CPU from everybody.
docs/benchmarks.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from bench.board import Board
from bench.editor_report import BEGIN, END, LOOKING, Figures, Visit, Who, Window
from bench.loss_report import put_into
from bench.measure import Load, Plan, Rig, drained, say
from bench.systems import REPOSITORY, Agent, Process
from tests import servers
from tests.editors import chromium, need_files

PAGE = REPOSITORY / "docs" / "benchmarks.md"
PACKS, RATE = 20, 40.0
"""As many packs and messages/s as a demo has."""
LOAD_PACKS = 1000
WARM_UP_S = 2.0
DEBUG = "bench-debug"
USABLE = """(() => {
    const usable = () => document.querySelector(".red-ui-flow-node") && document.querySelector(".red-ui-palette-node")
        && document.querySelector("#red-ui-header-toolbar:not(.hide)")
        && !document.querySelector("#red-ui-loading-progress:not([style*=none])");
    const look = () => {
        if (usable()) window.usableMs = performance.now();
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
})()"""
"""Runs in the page before it does: at the first frame with flow, palette and buttons, the time since the visit began."""
ASKED = """() => {
    const entries = [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")];
    const sent = entries.filter(entry => entry.transferSize > 0);
    return [sent.length, sent.reduce((sum, entry) => sum + entry.transferSize, 0)];
}"""

EXAMPLES = """\
examples:
  python -m bench.editor --write           about five minutes; into docs/benchmarks.md
  python -m bench.editor --quick           to see whether it works; its figures say nothing

Nothing else should run on the machine meanwhile.
"""


class WatchedAgent(Agent):
    """The default flow with a debug node on everything that leaves."""

    name = "agent-with-editor"
    editor = ""

    def command(self, port: int, folder: Path) -> list[str]:
        nodes = json.loads((REPOSITORY / "edge" / "flows.json").read_text())
        for node in nodes:
            if node["type"] == "alert":
                node["wires"][0].append(DEBUG)
                place = {"z": node["z"], "x": node["x"], "y": node["y"] + 200}
        debug = {
            "id": DEBUG,
            "type": "debug",
            "name": "",
            "active": False,
            "tosidebar": True,
            "complete": "payload",
            "wires": [],
        }
        path = folder / "bench.json"
        path.write_text(json.dumps([*nodes, {**debug, **place}]))
        command = [*super().command(port, folder), "--flow", str(path)]
        self.editor = f"http://127.0.0.1:{command[command.index('--api-port') + 1]}/editor/"
        return command

    def debug(self, *, on: bool) -> None:
        """Press the debug node's button."""
        verb = "enable" if on else "disable"
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.editor}debug/{DEBUG}/{verb}", method="POST"), timeout=30
        ):
            pass


@contextlib.contextmanager
def stage(packs: int, seconds: float) -> Iterator[tuple[Rig, WatchedAgent, Process]]:
    """A fresh agent with a fleet."""
    system = WatchedAgent()
    with servers.mosquitto() as broker, tempfile.TemporaryDirectory(prefix="voltflow-bench-") as folder:
        rig = Rig(broker, Load(packs=packs), Plan(seconds=seconds), Path(folder))
        rig.publish_nameplates()
        with system.running(broker.port) as process:
            yield rig, system, process


# -- opening it, and memory -------------------------------------------------------------------------------------------


def visits(browser: Any, url: str, count: int) -> tuple[list[Visit], list[Visit]]:
    """So many visits with nothing cached, and so many again."""
    cold, warm = [], []
    for _ in range(count):
        context = browser.new_context(viewport={"width": 1500, "height": 900})
        context.add_init_script(USABLE)
        for found in (cold, warm):
            page = context.new_page()
            found.append(_visit(page, url))
            page.close()
        context.close()
    return cold, warm


def _visit(page: Any, url: str) -> Visit:
    page.goto(url)
    page.wait_for_function("() => window.usableMs", timeout=120_000)
    page.wait_for_function("() => window.monaco", timeout=120_000)  # its text editor comes later
    page.wait_for_load_state("networkidle")
    requests, size = page.evaluate(ASKED)
    return Visit(page.evaluate("() => window.usableMs") / 1000, requests, size)


def memory(process: Process, seconds: float) -> list[float]:
    """Twice a second."""
    found, end_s = [], time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(0.5)
        process.check()
        found.append(process.rss_mb())
    return found


def small_fleet(figures: Figures, browser: Any, count: int, seconds: float) -> None:
    """Memory before an editor was ever open, the visits, memory with one open."""
    with stage(figures.packs, seconds) as (rig, system, process):
        longest_s = 2 * seconds + 30 * count + 60
        with rig.board(longest_s, figures.rate) as board, rig.sink(board, system.out_filters(), 0):
            rig.wait_until_ready(board, process)
            with rig.source(board, rate=figures.rate):
                board.set("go", 1)
                say("memory, no editor")
                time.sleep(seconds)
                figures.rss_mb = memory(process, seconds)
                say("visits")
                figures.cold, figures.warm = visits(browser, system.editor, count)
                say("memory, the editor is open")
                system.debug(on=True)
                with opened(browser, system.editor) as page:
                    page.locator(".red-ui-debug-msg").first.wait_for()
                    time.sleep(seconds)
                    figures.rss_open_mb = memory(process, seconds)
                board.set("stop", 1)


# -- what looking costs -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(browser: Any, url: str) -> Iterator[Any]:
    """The editor, used, in a window of its own."""
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    context.add_init_script(USABLE)
    page = context.new_page()
    _visit(page, url)
    try:
        yield page
    finally:
        context.close()


@contextlib.contextmanager
def reading(url: str) -> Iterator[Callable[[], int]]:
    """Reads what an editor is sent; the answer says how many debug messages that were so far."""
    shown = 0

    def read(connection: ClientConnection) -> None:
        nonlocal shown
        with contextlib.suppress(ConnectionClosed):
            while True:
                shown += connection.recv(decode=False).count(b'"topic":"debug"')

    with connect(f"{url.replace('http', 'ws', 1)}comms", proxy=None, max_size=None) as connection:
        reader = threading.Thread(target=read, args=(connection,))
        reader.start()
        yield lambda: shown
    reader.join()


@contextlib.contextmanager
def looking(who: Who, browser: Any, system: WatchedAgent) -> Iterator[Callable[[], int]]:
    """Somebody, or nobody; the answer says how many debug messages were seen so far."""
    system.debug(on=who != "nobody")
    if who == "nobody":
        yield lambda: 0
    elif who == "elsewhere":
        with reading(system.editor) as shown:
            yield shown
    else:
        with opened(browser, system.editor) as page:
            yield lambda: int(page.locator(".red-ui-debug-msg").count())


def full_speed(
    rig: Rig, system: WatchedAgent, process: Process, first_round: int, board: Board, seconds: float
) -> Window:
    """Some seconds of it; the rest of a window is filled in by who looks."""
    with rig.sink(board, system.out_filters(), first_round, patient=True):
        if not first_round:
            rig.wait_until_ready(board, process)
        with rig.source(board, window=rig.plan.window, first_round=first_round) as sender:
            board.set("go", 1)
            time.sleep(WARM_UP_S)
            began_s, came, cpu_s = time.monotonic(), board.get("received"), process.cpu_s()
            time.sleep(seconds)
            process.check()
            took_s, count = time.monotonic() - began_s, max(1, board.get("received") - came)
            cpu_us = (process.cpu_s() - cpu_s) / count * 1e6
            board.set("stop", 1)
            drained(board, sender)
    lost, doubled = board.verdict()
    return Window(count / took_s, cpu_us, 0, lost + board.get("dead") + board.get("strange"), doubled)


def in_turns(figures: Figures, browser: Any, rounds: int, seconds: float) -> None:
    """Every way of looking once a round, in rotated order, after one window that does not count."""
    with stage(figures.load_packs, seconds) as (rig, system, process):
        step = 0

        def window(who: Who) -> Window:
            nonlocal step
            with rig.board(WARM_UP_S + seconds + 2, 0) as board:
                if not step:
                    full_speed(rig, system, process, 0, board, 1.0)
                    step += board.rounds
            with rig.board(WARM_UP_S + seconds + 2, 0) as board, looking(who, browser, system) as shown:
                found = full_speed(rig, system, process, step, board, seconds)
                step += board.rounds
                return Window(found.messages_s, found.cpu_us, shown(), found.lost, found.doubled)

        order = list(LOOKING)
        for round_ in range(rounds):
            shift = round_ % len(order)
            for who in order[shift:] + order[:shift]:
                found = window(who)
                figures.windows[who].append(found)
                say(
                    f"round {round_ + 1}/{rounds}, {who}: {found.messages_s:,.0f} messages/s, {found.cpu_us:.1f} µs"
                )


# -- the command ------------------------------------------------------------------------------------------------------


def run(figures: Figures, args: argparse.Namespace) -> None:
    """Measure and fill in."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise servers.Missing("playwright is not installed: pip install 'voltflow[test]'") from None
    need_files()
    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        small_fleet(figures, browser, args.visits, args.memory_s)
        in_turns(figures, browser, args.rounds, args.seconds)
        browser.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every message came once and whoever looked saw some."""
    args = _parser().parse_args(argv)
    if args.quick:
        args.visits, args.memory_s, args.rounds, args.seconds = 1, 2.0, 1, 1.0
    signal.signal(signal.SIGTERM, _ended)
    figures = Figures(command="python -m bench.editor", packs=PACKS, rate=RATE, load_packs=LOAD_PACKS)
    try:
        if args.render:
            figures = Figures.read(args.render)
        else:
            run(figures, args)
    except (servers.Missing, RuntimeError, AssertionError) as error:
        print(f"bench.editor: {error}", file=sys.stderr)
        return 2
    print(figures.markdown())
    if args.report:
        figures.write(args.report)
    if args.write or args.render:
        put_into(args.page, BEGIN, END, figures.markdown())
    return 0 if figures.is_sound else 1


def _ended(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m bench.editor", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add: Callable[..., Any] = parser.add_argument
    add("--visits", type=int, default=7, metavar="N", help="first visits, and as many again (default 7)")
    add("--memory-s", type=float, default=12.0, metavar="S", help="how long memory is looked at (default 12)")
    add(
        "--rounds",
        type=int,
        default=4,
        metavar="N",
        help="windows at full speed for each who looks (default 4)",
    )
    add("--seconds", type=float, default=8.0, metavar="S", help="length of a window (default 8)")
    add("--quick", action="store_true", help="all of it as short as can be: does everything count?")
    add("--report", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    add("--write", action="store_true", help="put the table into the page")
    add("--render", type=Path, metavar="FILE.json", help="measure nothing, put a kept result into the page")
    add("--page", type=Path, default=PAGE, metavar="FILE", help=f"which page (default docs/{PAGE.name})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
