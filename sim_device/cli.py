"""`sim-device`: simulated packs on MQTT, recorded data replayed as a BMS would send it, training data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sim_device import dataset
from voltflow.settings import SettingsError

DATASET_EXAMPLES = """\
examples:
  sim-device dataset --packs 150 --out /tmp/fleet            six visits of five days, 10 s steps
  sim-device dataset --packs 60 --kind faults --out /tmp/faults --seed 2
  sim-device dataset --packs 4 --visits 1 --days 1 --step-s 60 --out /tmp/sample

The same arguments make the same files. What is in them: datasets/README.md
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except SettingsError as error:
        print(f"sim-device: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"sim-device: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sim-device", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_dataset(commands)
    return parser


Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def _add_dataset(commands: Commands[argparse.ArgumentParser]) -> None:
    sub = commands.add_parser(
        "dataset",
        help="make training data from a simulated fleet",
        description="Make training data: a fleet visited several times over its life.",
        epilog=DATASET_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("--packs", type=_count, required=True, help="number of packs")
    sub.add_argument("--visits", type=_count, default=6, help="looks at each pack, 500 days apart (default 6)")
    sub.add_argument("--days", type=_count, default=5, help="days of each visit (default 5)")
    sub.add_argument("--step-s", type=_step, default=10.0, help="seconds between messages, 0.5 to 600 (default 10)")
    sub.add_argument("--seed", type=int, default=1, help="another seed is another fleet (default 1)")
    sub.add_argument(
        "--kind", choices=sorted(dataset.PREVALENCE), default="fleet",
        help="fleet: realistic share of faults; faults: half of the packs of each visit have one",
    )  # fmt: skip
    sub.add_argument("--out", type=Path, required=True, help="folder for the files, created if needed")
    sub.set_defaults(run=_dataset)


def _dataset(args: argparse.Namespace) -> int:
    plan = dataset.Plan(args.packs, args.visits, args.days, args.step_s, args.seed, args.kind)
    written = dataset.write_dataset(plan, args.out, lambda text: print(text, file=sys.stderr, flush=True))
    size_mb = sum(path.stat().st_size for path in written) / 1e6
    print(f"{len(written)} files, {size_mb:.0f} MB in {args.out}")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed, it must be a whole number from 1")
    return int(text)


def _step(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 600.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed, it must be a number of seconds, 0.5 to 600")
    return value


if __name__ == "__main__":
    sys.exit(main())
