"""`python -m bench` (or `make bench ARGS=…`): Voltflow beside bare gmqtt and genuine Node-RED, on this machine."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from bench.bridge import measure_bridge
from bench.measure import Load, Plan, Result, measure, rig_limit, say
from bench.report import Report, machine, markdown, render
from bench.systems import SYSTEMS
from tests import servers

PACKS = (10, 1000, 10_000)
BESIDE_PACKS = 1000
"""How many packs the load has for all but the default flow, whose cost is to be the same for all of `PACKS`."""
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
PARTS = (*SYSTEMS, "rig", "bridge")

EXAMPLES = """\
examples:
  make bench                                               everything, three rounds: about twenty minutes
  make bench ARGS="--quick"                                a smoke test of a few seconds; its figures say nothing
  python -m bench --only agent,node-red --packs 1000       two systems beside each other
  python -m bench --only trivial,bare --payload short --seconds 20 --rounds 5
  python -m bench --json bench/results/today.json          keep the result
  python -m bench --render bench/results/today.json        put a kept result into docs/benchmarks.md

Nothing else should run on the machine meanwhile; CPU per message is the steadiest figure. docs/benchmarks.md says what
is measured and how to read it. Node-RED is installed by: npm --prefix bench/npm ci
"""


class Case(msgspec.Struct, frozen=True):
    """One measurement: which system with which load."""

    system: str
    load: Load


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 when everything asked for was measured and no message was lost, doubled or failed."""
    args = _parser().parse_args(argv)
    if args.render:
        try:
            render(msgspec.json.decode(args.render.read_bytes(), type=Report), args.page)
        except (OSError, ValueError) as error:
            print(f"bench: cannot render {args.render} into {args.page}: {error}", file=sys.stderr)
            return 2
        return 0
    signal.signal(signal.SIGTERM, _ended)
    warnings.filterwarnings(
        "ignore", "XDG_RUNTIME_DIR is not set"
    )  # platformdirs, for the embedded PostgreSQL
    report = Report(machine=machine(), plan=_plan(args), rounds=args.rounds)
    try:
        _run(report, args)
    except servers.Missing as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped; what was measured so far:")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    print(markdown(report))
    return 0 if all(_is_sound(result) for result in report.results) else 1


def _ended(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m bench", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--only",
        type=_choice(PARTS),
        default=PARTS,
        metavar="PART,…",
        help=f"what to measure: {', '.join(PARTS)}",
    )
    add(
        "--packs",
        type=_numbers,
        default=PACKS,
        metavar="N,…",
        help="packs of the load (default: 10,1000,10000)",
    )
    add("--payload", type=_choice(("full", "short")), default=("full", "short"), metavar="KIND,…",
        help="full: all of bms.telemetry/1, about 840 bytes; short: about 350 (default: full,short)")  # fmt: skip
    add("--seconds", type=float, default=10.0, help="measured time at full speed (default: 10)")
    add("--warm-up", type=float, default=3.0, help="seconds before it (default: 3)")
    add("--latency", type=float, default=8.0, help="seconds at 2,000 messages/s, 0: none (default: 8)")
    add("--rounds", type=int, default=3, help="rounds, in rotated order (default: 3)")
    add("--window", type=int, default=4000, help="messages between source and sink at most (default: 4000)")
    add("--rows", type=int, default=60_000, help="rows for the bridge and the bare loops (default: 60000)")
    add("--json", type=Path, metavar="FILE", help="write the result there")
    add(
        "--quick",
        action="store_true",
        help="agent and bare gmqtt for two seconds each: does everything count?",
    )
    add("--render", type=Path, metavar="FILE", help="measure nothing: put a kept result into the page")
    add(
        "--page",
        type=Path,
        default=PAGE,
        metavar="PAGE",
        help="the page for --render (default: docs/benchmarks.md)",
    )
    return parser


def _choice(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is not one of {', '.join(known)}")
        return chosen

    return parse


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if not all(1 <= number <= 99_999 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: a load has 1 to 99999 packs")
    return numbers


def _plan(args: argparse.Namespace) -> Plan:
    if args.quick:
        args.only, args.packs, args.payload, args.rounds = ("agent", "bare"), (10,), ("full",), 1
        return Plan(seconds=1.0, warm_up_s=0.5, latency_s=1.0, window=1000)
    return Plan(seconds=args.seconds, warm_up_s=args.warm_up, latency_s=args.latency, window=args.window)


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    """The default flow with every number of packs; everything else beside it with one of them."""
    beside = BESIDE_PACKS if BESIDE_PACKS in args.packs else args.packs[0]
    for payload in args.payload:
        for name in (name for name in args.only if name in SYSTEMS):
            every = name == "agent" and payload == args.payload[0]
            for packs in args.packs if every else (beside,):
                if not (name == "agent-every" and payload != args.payload[0]):
                    yield Case(name, Load(packs=packs, payload=payload))


def _run(report: Report, args: argparse.Namespace) -> None:
    cases = list(_cases(args))
    for round_ in range(args.rounds):
        if "rig" in args.only:
            _measure_rig(report, args)
        shift = round_ * len(cases) // args.rounds
        for place, case in enumerate(cases[shift:] + cases[:shift]):
            say(f"round {round_ + 1}/{args.rounds}, {place + 1}/{len(cases)}: {case.system}, "
                f"{case.load.packs} packs, {case.load.payload} payload")  # fmt: skip
            report.results.append(_measured(case, report.plan))
        if "bridge" in args.only:
            say(f"round {round_ + 1}/{args.rounds}: bridge")
            report.bridge.append(measure_bridge(args.rows))


def _measure_rig(report: Report, args: argparse.Namespace) -> None:
    for payload in args.payload:
        for with_sink in (False, True):
            say(f"rig, {payload} payload, {'with' if with_sink else 'without'} sink")
            load = Load(packs=BESIDE_PACKS, payload=payload)
            report.rig.append(rig_limit(load, report.plan, with_sink=with_sink))


def _measured(case: Case, plan: Plan) -> Result:
    """A system that cannot be measured is a row that says why; the others go on."""
    system = SYSTEMS[case.system]
    reason = system.missing()
    try:
        result = measure(system, case.load, plan) if not reason else None
    except (RuntimeError, AssertionError, OSError) as error:
        reason, result = str(error), None
    if result is None:
        say(f"  cannot be measured: {reason}")
        return Result(
            system=case.system, packs=case.load.packs, payload=case.load.payload, payload_bytes=0, messages_s=0,
            cpu_us=0, broker_us=0, source_us=0, sink_us=0, rss_idle_mb=0, rss_loaded_mb=0, published=0, missing=0,
            again=0, dead=0, strange=0, error=reason,
        )  # fmt: skip
    say(f"  {result.messages_s:,.0f} messages/s, {result.cpu_us:.1f} µs, missing {result.missing}")
    return result


def _is_sound(result: Result) -> bool:
    faults = result.missing + result.latency_missing + result.again + result.dead + result.strange
    return not result.error and not faults


if __name__ == "__main__":
    sys.exit(main())
