"""`python -m bench.soak`: a load for half an hour with a long outage of the uplink in it; what grows, what waits, what is lost.

Two brokers, the agent with its default flow, devices at a fixed rate and a careful cloud at the uplink, each a process of
its own. The uplink's broker is killed and started again later. Every second the agent's memory and spool are looked at;
every message is looked for at the end. docs/loss.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bench.loss_account import Account, Fault
from bench.loss_log import LIVE, REPLAYED, count
from bench.loss_report import PAGE, put_into
from bench.loss_run import Rig, rig
from bench.loss_systems import Voltflow
from bench.measure import say
from bench.soak_report import BEGIN, END, STEADY_S, Latency, Sample, Soak, draw
from tests import servers

WARM_UP_S = 60.0
"""Left out of what was before the outage: models are loaded, windows fill."""
QUIET_S = 10.0
SAY_EVERY = 10

EXAMPLES = """\
examples:
  python -m bench.soak --report bench/results/soak --write      30 minutes, 10 of them an outage; into docs/loss.md
  python -m bench.soak --minutes 3 --outage-minutes 1           to see whether it works

The load goes on for longer where the spool is not empty in time. Nothing else should run on the machine meanwhile.
"""


class SoakedAgent(Voltflow):
    """The default flow with room for the whole outage on disk: nothing is thinned, so every message is looked for."""

    options = ("--spool-max-mb", "8000", "--spool-protected-mb", "1000")


class Run:
    """One soak under way."""

    def __init__(self, rig: Rig, soak: Soak) -> None:
        self.rig, self.soak = rig, soak
        assert isinstance(rig.system, SoakedAgent)
        self.agent: SoakedAgent = rig.system

    def play(self) -> Account:
        """Before, outage, drain, after; then the end of the load."""
        soak, rig = self.soak, self.rig
        before_s = (soak.minutes - soak.outage_minutes) * 60 / 3
        rig.begin(soak.rate)
        self.sample_until(rig.began_s + before_s)
        begin_s = time.monotonic()
        rig.uplink.kill()
        say(f"uplink killed, exit code {rig.uplink.exit_code}; back in {soak.outage_minutes:g} minutes")
        self.sample_until(begin_s + soak.outage_minutes * 60)
        self.end_s = time.monotonic()
        rig.uplink.start()
        soak.fault = Fault("uplink killed", begin_s, self.end_s, f"exit code {rig.uplink.exit_code}")
        say("uplink back")
        self.drained_s = self._wait_for_empty_spool()
        steady_s = min(STEADY_S, soak.minutes * 60 / 6)
        self.sample_until(max(rig.began_s + soak.minutes * 60, self.drained_s + steady_s))
        rig.source.popen.terminate()
        return rig.finish(QUIET_S, 300.0)

    def _wait_for_empty_spool(self) -> float:
        """When it was empty; the end of patience where it never was."""
        longest_s = self.end_s + 3 * self.soak.minutes * 60
        came = count(self.rig.came)

        def drained() -> bool:
            return count(self.rig.came) > came and self.soak.samples[-1].backlog == 0

        self.sample_until(longest_s, drained)
        return time.monotonic()

    def sample_until(self, end_s: float, stop: Callable[[], bool] | None = None) -> None:
        """A sample a second until then, or until there is nothing more to wait for."""
        due_s = time.monotonic()
        while time.monotonic() < end_s:
            self.rig.check()
            self.rig.source.check()
            self._sample()
            if stop and stop():
                return
            due_s += 1.0
            time.sleep(max(0.0, min(due_s, end_s) - time.monotonic()))

    def _sample(self) -> None:
        spool, process = self.agent.backlog(), self.agent.process
        assert process is not None
        sample = Sample(time.monotonic() - self.rig.began_s, process.rss_mb(), spool["backlog_messages"],
                        spool["backlog_bytes"])  # fmt: skip
        self.soak.samples.append(sample)
        if len(self.soak.samples) % SAY_EVERY == 0:
            say(f"  {sample.at_s:5.0f} s: {sample.rss_mb:.0f} MB, {sample.backlog:,} messages ({sample.spool_bytes / 1e6:.0f} MB) "
                f"in the spool, {count(self.rig.sent):,} sent, {count(self.rig.came):,} came")  # fmt: skip

    # -- what it gave -----------------------------------------------------------------------------------------------

    def conclude(self, account: Account) -> None:
        """All figures that need every message."""
        soak, began_s, fault = self.soak, self.rig.began_s, self.soak.fault
        assert fault is not None
        soak.published, soak.lost, soak.explained = account.published, account.lost, account.explained
        soak.doubled, soak.replayed = account.doubled, account.replayed
        soak.disordered_live, soak.disordered_replayed = (
            account.disordered(LIVE),
            account.disordered(REPLAYED),
        )
        soak.spool = self.agent.spool()
        soak.spool_file_bytes = sum(
            path.stat().st_size
            for path in (self.agent.folder / "state" / "spool").rglob("*")
            if path.is_file()
        )
        recovery = account.recovery(fault.end_s)
        soak.again_s = recovery.again_s if recovery else -1.0
        soak.drain_s = self.drained_s - fault.end_s
        warm_s = began_s + min(WARM_UP_S, (fault.begin_s - began_s) / 3)
        soak.before = Latency.of(account.live_ms(warm_s, fault.begin_s - 1.0))
        soak.drain = Latency.of(account.live_ms(fault.end_s + soak.again_s, self.drained_s))
        soak.after = Latency.of(account.live_ms(self.drained_s, float("inf")))
        soak.count_by_second(account, began_s)
        soak.rss_before_mb = soak.memory_mb(fault.begin_s - began_s)
        soak.rss_after_mb = soak.memory_mb(soak.samples[-1].at_s)


def run(soak: Soak, packs: int) -> None:
    """Play it and fill in what it gave."""
    with rig(packs, brief=False) as it:
        it.start(SoakedAgent)
        under_way = Run(it, soak)
        under_way.conclude(under_way.play())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when nothing was lost and the spool was empty in the end."""
    args = _parser().parse_args(argv)
    if args.render:
        return _keep(Soak.read(args.render), args)
    if args.outage_minutes >= args.minutes:
        print(f"bench.soak: --outage-minutes {args.outage_minutes:g} leaves nothing of --minutes {args.minutes:g}; "
              "make the outage shorter", file=sys.stderr)  # fmt: skip
        return 2
    signal.signal(signal.SIGTERM, _ended)
    soak = Soak(command=_command(args), minutes=args.minutes, rate=args.rate, packs=args.packs,
                outage_minutes=args.outage_minutes)  # fmt: skip
    try:
        run(soak, args.packs)
    except (servers.Missing, RuntimeError, AssertionError) as error:
        print(f"bench.soak: {error}", file=sys.stderr)
        return 2
    print(soak.markdown())
    if args.report:
        soak.write(args.report)
    if args.write:
        _keep(soak, args)
    return 0 if soak.lost == soak.explained and not soak.spool["left_messages"] else 1


def _keep(soak: Soak, args: argparse.Namespace) -> int:
    """Into the page, with its picture."""
    picture: Path = args.page.parent / "img" / "soak.svg"
    draw(soak, picture)
    put_into(args.page, BEGIN, END, f"{soak.markdown()}\n![The soak, second by second](img/{picture.name})\n")
    return 0


def _command(args: argparse.Namespace) -> str:
    return f"python -m bench.soak --minutes {args.minutes:g} --rate {args.rate:g} --outage-minutes {args.outage_minutes:g}"


def _ended(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m bench.soak", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add: Any = parser.add_argument
    add("--minutes", type=float, default=30.0, metavar="N", help="length of the load (default 30)")
    add("--rate", type=float, default=2000.0, metavar="N", help="messages/s (default 2000)")
    add("--outage-minutes", type=float, default=10.0, metavar="N", help="length of the outage (default 10)")
    add("--packs", type=int, default=1000, metavar="N", help="packs that send them (default 1000)")
    add("--report", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    add("--write", action="store_true", help="put table and picture into the page")
    add("--render", type=Path, metavar="FILE.json", help="measure nothing, put a kept result into the page")
    add("--page", type=Path, default=PAGE, metavar="FILE", help=f"which page (default docs/{PAGE.name})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
