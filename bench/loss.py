"""`python -m bench.loss`: the same outages and kills for Voltflow and for genuine Node-RED; what is lost, what is doubled."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from bench.loss_report import BEGIN, END, PAGE, Report, put_into
from bench.loss_run import SCENARIOS, Plan, Scenario, Trial, run_trial, title
from bench.loss_systems import SYSTEMS, System
from bench.measure import say
from tests import servers

EXAMPLES = """\
examples:
  python -m bench.loss                                       everything, one round: about a quarter of an hour
  python -m bench.loss --rounds 3 --report bench/results/loss --write    keep the result, and put it into docs/loss.md
  python -m bench.loss --only voltflow,node-red --scenarios A --qos 1    a part of it
  python -m bench.loss --messages 2000 --quiet 3             faults a tenth as long; a smoke test
  python -m bench.loss --render bench/results/loss.json      put a kept result into docs/loss.md

Nothing else should run on the machine meanwhile. docs/loss.md says what is measured and how to read it. Node-RED is
installed by: npm --prefix bench/npm ci
"""

Case = tuple[Scenario, type[System], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when everything asked for was measured. What a system lost is a result and no failure."""
    args = _parser().parse_args(argv)
    if args.render:
        report = msgspec.json.decode(args.render.read_bytes(), type=Report)
        put_into(args.page, BEGIN, END, report.markdown())
        return 0
    signal.signal(signal.SIGTERM, _ended)
    report = Report(command=_command(argv), plan=_plan(args), rounds=args.rounds)
    try:
        for case in _cases(args):
            report.trials.append(_tried(*case, report.plan))
    except servers.Missing as error:
        print(f"bench.loss: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped; what was measured so far:")
    print(report.markdown())
    if args.report:
        report.write(args.report)
    if args.write:
        put_into(args.page, BEGIN, END, report.markdown())
    return 1 if not report.trials or any(trial.error for trial in report.trials) else 0


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    """Systems take turns, so that a load of the machine meets all of them."""
    cases = [(SCENARIOS[scenario], SYSTEMS[system], qos)
             for scenario in args.scenarios for qos in args.qos for system in args.only
             if qos in SYSTEMS[system].qualities and qos in SCENARIOS[scenario].qualities]  # fmt: skip
    for round_ in range(args.rounds):
        for place, (scenario, system, qos) in enumerate(cases):
            say(f"round {round_ + 1}/{args.rounds}, {place + 1}/{len(cases)}: {scenario.name}, "
                f"{title(scenario.name, _plan(args))}: {system.title}, QoS {qos}")  # fmt: skip
            yield scenario, system, qos


def _tried(scenario: Scenario, system: type[System], qos: int, plan: Plan) -> Trial:
    """A trial that is not possible is a row that says why; the others go on."""
    error = system.missing()
    if not error:
        try:
            trial = run_trial(scenario, system, qos, plan)
        except (RuntimeError, AssertionError, OSError) as problem:
            error = str(problem)
        else:
            say(
                f"  sent {trial.published}, lost {trial.lost}, doubled {trial.doubled}, recovered {_times(trial)}"
            )
            return trial
    say(f"  cannot be measured: {error}")
    return Trial(scenario=scenario.name, system=system.name, qos=qos, error=error)


def _times(trial: Trial) -> str:
    return ", ".join(f"{found.all_there_s:.1f} s" if found else "never" for found in trial.recoveries)


def _plan(args: argparse.Namespace) -> Plan:
    return Plan(messages=args.messages, rate=args.rate, packs=args.packs, quiet_s=args.quiet)


def _command(argv: Sequence[str] | None) -> str:
    """As it is to be typed to get the same; without what only says where the result goes."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("--report", "--page"):
        if name in words:
            del words[words.index(name) : words.index(name) + 2]
    return " ".join(["python -m bench.loss", *(word for word in words if word != "--write")])


def _ended(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m bench.loss", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--rounds", type=int, default=1, metavar="N", help="rounds (default 1)")
    add("--only", type=_systems, default=tuple(SYSTEMS), metavar="A,B",
        help=f"only these systems (a name, or how several begin): {', '.join(SYSTEMS)}")  # fmt: skip
    add(
        "--scenarios",
        type=_scenarios,
        default=tuple(SCENARIOS),
        metavar="A,B",
        help="only these (default all)",
    )
    add("--qos", type=_qualities, default=(1, 2), metavar="N,N", help="only these (default 1,2)")
    add(
        "--messages",
        type=int,
        default=20_000,
        metavar="N",
        help="of a load; the faults' times go with it (default 20000)",
    )
    add("--rate", type=float, default=1000.0, metavar="N", help="messages/s (default 1000)")
    add("--packs", type=int, default=100, metavar="N", help="packs that send them (default 100)")
    add(
        "--quiet",
        type=float,
        default=10.0,
        metavar="S",
        help="nothing came for so long: it is over (default 10)",
    )
    add("--report", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    add("--write", action="store_true", help="put the tables into the page")
    add("--render", type=Path, metavar="FILE.json", help="measure nothing, put a kept result into the page")
    add("--page", type=Path, default=PAGE, metavar="FILE", help=f"which page (default docs/{PAGE.name})")
    return parser


def _systems(text: str) -> tuple[str, ...]:
    chosen = [name for name in SYSTEMS if any(name.startswith(word) for word in text.split(","))]
    if not all(any(name.startswith(word) for name in SYSTEMS) for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text}: systems are {', '.join(SYSTEMS)}")
    return tuple(chosen)


def _scenarios(text: str) -> tuple[str, ...]:
    chosen = tuple(text.upper().split(","))
    if not set(chosen) <= set(SCENARIOS):
        raise argparse.ArgumentTypeError(f"{text}: scenarios are {', '.join(SCENARIOS)}")
    return chosen


def _qualities(text: str) -> tuple[int, ...]:
    if not set(text.split(",")) <= {"1", "2"}:
        raise argparse.ArgumentTypeError(f"{text}: with QoS 0 nothing is promised; choose from 1,2")
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
