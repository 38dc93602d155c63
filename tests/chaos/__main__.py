"""`python -m tests.chaos`: real processes under a random schedule of faults, checked message by message."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.run import Options, run

EXAMPLES = """\
examples:
  python -m tests.chaos --rounds 200 --seed 7
  python -m tests.chaos --faults kill,freeze-agent        only these (a name, or how several begin)
  python -m tests.chaos --seed 7 --first 31 --rounds 1    one round again
  python -m tests.chaos --rounds 200 --report /tmp/chaos  writes /tmp/chaos.json and /tmp/chaos.md

Needs root for networks, disks and what they carry; what is not possible is left out and named (with CI set it fails).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0 when every round was fine, 1 when one was not."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="python -m tests.chaos", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--rounds", type=int, default=25, metavar="N", help="rounds to play (default 25)")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="another seed is another schedule (default 1)"
    )
    parser.add_argument(
        "--first", type=int, default=1, metavar="N", help="begin with this round of the schedule"
    )
    parser.add_argument("--faults", default="", metavar="A,B", help="only these faults")
    parser.add_argument("--keep", action="store_true", help="keep the logs, also when all went well")
    parser.add_argument("--go-on", action="store_true", help="do not end at the first round that fails")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write FILE.json and FILE.md")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that networks and disks are taken down
    faults = [name for name in args.faults.split(",") if name]
    options = Options(args.rounds, args.seed, args.first, faults, args.keep, args.go_on)
    report = run(options, lambda text: print(text, flush=True))
    print(report.text(), flush=True)
    if args.report:
        report.write(args.report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
