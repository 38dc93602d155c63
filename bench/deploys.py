"""`python -m bench.deploys`: the flow is deployed every two seconds under load; what is lost, what waits, for how long.

Two brokers, the agent with a flow of several nodes, devices at a fixed rate and a careful cloud at the uplink, each a process
of its own, as in `bench.soak`. The flow is changed through the admin API as an editor does it: single properties, positions,
nodes added and removed, everything anew, connections, and now and then something wrong. docs/benchmarks.md says how to
read the figures.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from bench.deploys_flow import CHANGES, Change, changed, deploys, flow
from bench.deploys_report import BEGIN, END, Done, Storm
from bench.loss_log import count
from bench.loss_report import put_into
from bench.loss_run import Rig, rig
from bench.loss_systems import Voltflow, _get
from bench.measure import say
from bench.systems import REPOSITORY
from tests import servers
from voltflow.admin.client import AdminClient, AdminError

PAGE = REPOSITORY / "docs" / "benchmarks.md"
WARM_UP_S = 3.0
QUIET_S = 5.0
LONGEST_S = 120.0
BAD_REQUEST = 400
_COMPLAINT = re.compile(r"^\S+ \S+ (?:WARNING|ERROR|CRITICAL) +(.*)$", re.MULTILINE)

EXAMPLES = """\
examples:
  python -m bench.deploys --report bench/results/deploys --write    5 minutes, 150 deploys; into docs/benchmarks.md
  python -m bench.deploys --minutes 0.5                             to see whether it works

Nothing else should run on the machine meanwhile.
"""


class DeployedAgent(Voltflow):
    """The agent with the flow that is changed."""

    def command(self) -> list[str]:
        path = self.folder / "flow.json"
        path.write_text(json.dumps(flow()))
        return [*super().command(), "--flow", str(path)]

    def admin(self) -> AdminClient:
        return AdminClient(f"http://127.0.0.1:{self.api_port}/editor")

    def told(self) -> dict[str, Any]:
        """`/api/flow`."""
        return dict(msgspec.json.decode(_get(self.api_port, "/api/flow")))


class Run:
    """One storm under way."""

    def __init__(self, rig: Rig, storm: Storm) -> None:
        self.rig, self.storm = rig, storm
        assert isinstance(rig.system, DeployedAgent)
        self.agent: DeployedAgent = rig.system
        self.admin = self.agent.admin()

    def play(self) -> None:
        """Load, deploys, end of the load, account."""
        rig, storm = self.rig, self.storm
        rig.begin(storm.rate)
        self.wait_until(rig.began_s + WARM_UP_S)
        nodes, rev = self.admin.flows()
        due_s = time.monotonic()
        for number, change in islice(deploys(), max(1, round(storm.minutes * 60 / storm.period_s))):
            nodes, rev = self._deploy(nodes, rev, change, number)
            due_s += storm.period_s
            self.wait_until(due_s)
        rig.source.popen.terminate()
        storm.account_for(rig.finish(QUIET_S, LONGEST_S))
        storm.engine_deploys = self.agent.told()["deploys"]
        storm.complaints = _COMPLAINT.findall(self.agent.log)

    def _deploy(self, nodes: list[Any], rev: str, change: Change, number: int) -> tuple[list[Any], str]:
        """Do it and note how it went; the flow that runs then."""
        wanted, done = changed(nodes, change, number), Done(what=change.what, kind=change.kind, begin_s=time.monotonic(),
                                                            end_s=0.0, wrong=change.wrong)  # fmt: skip
        try:
            rev = self.admin.deploy(wanted, rev, change.kind)
            nodes = wanted
        except AdminError as error:
            if error.status != BAD_REQUEST:
                raise RuntimeError(
                    f"{change.what}: {error}; the agent said: {self.agent.log[-2000:]}"
                ) from None
            done.refused = str(error)
        done.end_s = time.monotonic()
        told = self.agent.told()
        if not rev.startswith(told["revision"]):
            raise RuntimeError(f"{change.what}: revision {rev} was deployed, and {told['revision']} runs")
        done.pause_s = 0.0 if done.refused else told["last_pause_s"]
        self.storm.deploys.append(done)
        if not done.as_it_should:
            say(f"  {change.what}: " + (f"refused: {done.refused}" if done.refused else "not refused"))
        if number % len(CHANGES) == 0:
            say(f"  {number} deploys, {count(self.rig.sent):,} sent, {count(self.rig.came):,} came")
        return nodes, rev

    def wait_until(self, end_s: float) -> None:
        while (left_s := end_s - time.monotonic()) > 0:
            self.rig.check()
            self.rig.source.check()
            time.sleep(min(left_s, 0.5))


def run(storm: Storm, packs: int) -> None:
    """Play it and fill in what it gave."""
    with rig(packs, brief=False) as it:
        it.start(DeployedAgent)
        Run(it, storm).play()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when nothing was lost, doubled or out of order and each deploy went as it should."""
    args = _parser().parse_args(argv)
    if args.render:
        return _keep(Storm.read(args.render), args)
    signal.signal(signal.SIGTERM, _ended)
    storm = Storm(command=_command(args), minutes=args.minutes, rate=args.rate, period_s=args.period)
    try:
        run(storm, args.packs)
    except (servers.Missing, RuntimeError, AssertionError, AdminError) as error:
        print(f"bench.deploys: {error}", file=sys.stderr)
        return 2
    print(storm.markdown())
    for line in dict.fromkeys(storm.complaints):
        print(f"the agent said: {line}", file=sys.stderr)
    if args.report:
        storm.write(args.report)
    if args.write:
        _keep(storm, args)
    return 0 if storm.sound else 1


def _keep(storm: Storm, args: argparse.Namespace) -> int:
    put_into(args.page, BEGIN, END, storm.markdown())
    return 0


def _command(args: argparse.Namespace) -> str:
    return f"python -m bench.deploys --minutes {args.minutes:g} --rate {args.rate:g} --period {args.period:g}"


def _ended(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m bench.deploys", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add: Callable[..., Any] = parser.add_argument
    add("--minutes", type=float, default=5.0, metavar="N", help="length of the storm (default 5)")
    add("--rate", type=float, default=2000.0, metavar="N", help="messages/s (default 2000)")
    add("--period", type=float, default=2.0, metavar="S", help="seconds between two deploys (default 2)")
    add("--packs", type=int, default=100, metavar="N", help="packs that send them (default 100)")
    add("--report", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    add("--write", action="store_true", help="put the tables into the page")
    add("--render", type=Path, metavar="FILE.json", help="measure nothing, put a kept result into the page")
    add("--page", type=Path, default=PAGE, metavar="FILE", help=f"which page (default docs/{PAGE.name})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
