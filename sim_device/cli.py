"""`sim-device`: simulated packs on MQTT, recorded data replayed as a BMS would send it, training data."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sim_device import dataset
from sim_device.options import CommonSettings, Settings
from sim_device.publish import Summary
from sim_device.replay import replay
from sim_device.run import run
from voltflow.battery.chemistry import CHEMISTRIES
from voltflow.options import Parser
from voltflow.program import set_up_logging, stop_on_signals
from voltflow.settings import Loaded, SettingsError, add_arguments, explain, load

RUN_EXAMPLES = """\
examples:
  sim-device run                                    ten packs, 2 messages a second each, until Ctrl-C
  sim-device run --packs 1000 --hz 2                a fleet in real time
  sim-device run --packs 20 --hz 10 --speedup 300   five hours of device time in a minute
  sim-device run --packs 5 --seconds 10 --json      print what was published and confirmed as JSON
  sim-device run --seconds 60 --linger-s 600        then stay to publish again what somebody misses (topic cmd)

At --speedup S each message is S/hz seconds of device time after the one before it (ts_ms starts now and runs ahead);
the rate of messages stays --hz. Physics is cut into steps of 30 s at most. A charge of 30 % of the battery takes 15
minutes (DC) to two hours (AC) of device time: with --hz 10 --speedup 300 charges end, and with them every model has
an answer, within a minute. Values above 1200 leave more than two minutes between messages at that rate.

Nothing is dropped: when the broker does not confirm, the fleet stops and waits (setting window). Stop with Ctrl-C or
SIGTERM: the packs go offline, the summary is printed, the exit code is 0 (1 if anything was not confirmed). If the
program is killed, each pack's last will says offline (not with --connections shared).
"""
REPLAY_EXAMPLES = """\
examples:
  sim-device replay V01.csv --speedup 0             as fast as the broker confirms
  sim-device replay V01.csv V08.csv --speedup 600   side by side, ten minutes a second
  sim-device replay own.csv --nameplate CAR7=NMC:96:150   chemistry, cells in series, rated Ah for the birth message

Columns: vehicle_id, timestamp (or timestamp_placeholder_year), charging_state (GB/T 32960: 1 to 4), and any of
speed_kmh odometer_km pack_voltage_V pack_current_A soc_pct cell_voltage_max_V cell_voltage_min_V cell_temp_max_C
cell_temp_min_C; the current is discharge-positive in the file and turned. GB/T's invalid and abnormal codes and empty
cells become null, named in quality.invalid; other impossible values are sent as they are, the gateway judges them.
Times are sent as recorded, in the order of the file.
"""
CONFIG_EXAMPLES = """\
examples:
  sim-device config                        effective settings, each with where it comes from
  sim-device config --packs 100 > voltflow.toml
"""
DATASET_EXAMPLES = """\
examples:
  sim-device dataset --packs 150 --out /tmp/fleet            six visits of five days, 10 s steps
  sim-device dataset --packs 60 --kind faults --out /tmp/faults --seed 2
  sim-device dataset --packs 4 --visits 1 --days 1 --step-s 60 --out /tmp/sample

The same arguments make the same files. What is in them: datasets/README.md
"""


Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except SettingsError as error:
        print(f"sim-device: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        named = isinstance(error, OSError) and error.filename and error.strerror
        print(f"sim-device: {f'{error.filename}: {error.strerror}' if named else error}", file=sys.stderr)  # type: ignore[union-attr]
        return 1


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(prog="sim-device", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_replay(commands)
    _add_dataset(commands)
    config = _command(
        commands, "config", "print the effective settings and where each comes from", CONFIG_EXAMPLES
    )
    add_arguments(config, Settings)
    config.set_defaults(run=_config)
    return parser


def _command(
    commands: Commands[argparse.ArgumentParser], name: str, text: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def _add_run(commands: Commands[argparse.ArgumentParser]) -> None:
    sub = _command(commands, "run", "publish the telemetry of a simulated fleet", RUN_EXAMPLES)
    sub.add_argument("--json", action="store_true", help="print the summary as JSON on standard output")
    add_arguments(sub, Settings)
    sub.set_defaults(run=_run)


def _add_replay(commands: Commands[argparse.ArgumentParser]) -> None:
    sub = _command(commands, "replay", "publish recorded vehicle data", REPLAY_EXAMPLES)
    sub.add_argument(
        "files", nargs="+", type=Path, metavar="FILE.csv", help="recordings, one vehicle per file"
    )
    sub.add_argument("--nameplate", action="append", default=[], type=_nameplate, metavar="PACK=CHEMISTRY[:CELLS[:AH]]",
                     help="what is known about a pack, for its birth message; may be given again")  # fmt: skip
    sub.add_argument("--json", action="store_true", help="print the summary as JSON on standard output")
    add_arguments(sub, CommonSettings)
    sub.set_defaults(run=_replay)


def _add_dataset(commands: Commands[argparse.ArgumentParser]) -> None:
    sub = _command(commands, "dataset", "make training data from a fleet visited several times over its life",
                   DATASET_EXAMPLES)  # fmt: skip
    sub.add_argument("--packs", type=_count, required=True, help="number of packs")
    sub.add_argument(
        "--visits", type=_count, default=6, help="looks at each pack, 500 days apart (default 6)"
    )
    sub.add_argument("--days", type=_count, default=5, help="days of each visit (default 5)")
    sub.add_argument(
        "--step-s", type=_step, default=10.0, help="seconds between messages, 0.5 to 600 (default 10)"
    )
    sub.add_argument("--seed", type=int, default=1, help="another seed is another fleet (default 1)")
    sub.add_argument(
        "--kind", choices=sorted(dataset.PREVALENCE), default="fleet",
        help="fleet: realistic share of faults; faults: half of the packs of each visit have one",
    )  # fmt: skip
    sub.add_argument("--out", type=Path, required=True, help="folder for the files, created if needed")
    sub.set_defaults(run=_dataset)


def _run(args: argparse.Namespace) -> int:
    loaded = load(Settings, "sim", args)
    if loaded.values.speedup <= 0:
        raise SettingsError("speedup = 0 is not allowed for run, it must be above 0; 0 is for replay")
    return _publish(loaded, lambda: run(loaded.values, stop_on_signals()), args.json)


def _replay(args: argparse.Namespace) -> int:
    loaded, nameplates = load(Settings, "sim", args), dict(args.nameplate)
    return _publish(
        loaded, lambda: replay(loaded.values, args.files, stop_on_signals(), nameplates), args.json
    )


def _publish(loaded: Loaded[Settings], publish: Callable[[], Awaitable[Summary]], as_json: bool) -> int:
    logging.getLogger("sim_device").setLevel(logging.INFO)  # what it publishes where, and how far it is
    levels = set_up_logging(loaded.values)

    async def work() -> Summary:
        levels.follow_signals(loaded.again)
        return await publish()

    summary = asyncio.run(work())
    print(msgspec.json.encode(summary).decode() if as_json else summary.text())
    if not summary.complete:
        print("sim-device: not everything was confirmed by the broker", file=sys.stderr)
    return 0 if summary.complete else 1


def _config(args: argparse.Namespace) -> int:
    print(explain(load(Settings, "sim", args)))
    return 0


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


def _nameplate(text: str) -> tuple[str, dict[str, Any]]:
    pack, _, known = text.partition("=")
    parts = known.split(":")
    try:
        values = {"chemistry": parts[0], "cells_series": int(parts[1]) if len(parts) > 1 and parts[1] else None,
                  "capacity_rated_ah": float(parts[2]) if len(parts) > 2 else None}  # fmt: skip
    except ValueError:
        values = {"chemistry": None}
    if values["chemistry"] not in CHEMISTRIES or len(parts) > 3:
        shown = ", ".join(CHEMISTRIES)
        raise argparse.ArgumentTypeError(
            f"{text!r} is not PACK=CHEMISTRY[:CELLS[:AH]]; chemistries are {shown}"
        )
    return pack, {key: value for key, value in values.items() if value is not None}


def _step(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 600.0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed, it must be a number of seconds, 0.5 to 600"
        )
    return value


if __name__ == "__main__":
    sys.exit(main())
