"""The command `voltflow ledger verify`."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from voltflow.ledger.ledger import Entry, LedgerError, Progress, Range, Report, load_expected, verify

DATABASE_VARIABLE = "VOLTFLOW_BRIDGE_DATABASE"
LINES_OF_A_BOOT = 10

EXAMPLES = """examples:
  voltflow ledger verify                          the database is VOLTFLOW_BRIDGE_DATABASE, or `database` in voltflow.toml
  voltflow ledger verify --pack SIM000001 --pack SIM000002
  voltflow ledger verify --fleet demo --since 48h    what devices measured in the last two days
  voltflow ledger verify --jobs 4                 a big history on a server with processors to spare
  voltflow ledger verify --json | jq .missing
  sim-device run --packs 20 --json > sent.json
  voltflow ledger verify --expected sent.json     finds lost tails and wholly lost packs too

exit status: 0 every message is exactly one row, or a dead letter or a loss explains it; 1 something is missing or
doubled; 2 the history cannot be read, or has nothing of a pack or fleet that was named
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ledger` to the `voltflow` command; `args.run(args)` runs it and returns the exit status."""
    ledger = subparsers.add_parser("ledger", help="what was delivered, lost, doubled or late")
    actions = ledger.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "verify", help="find holes and duplicates in the history", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="From the sequence numbers in the history, for each pack and boot: what was delivered, lost and "
        "explained, lost and unexplained, doubled, late. What devices say they published is the other side.",
    )  # fmt: skip
    check.add_argument(
        "--database", metavar="DSN", help="connection string without a password (see PGPASSWORD, ~/.pgpass)"
    )
    check.add_argument("--config", metavar="FILE", help="settings file with the bridge's database")
    check.add_argument(
        "--expected", metavar="FILE", type=Path, help="JSON summary of sim-device: what was published"
    )
    check.add_argument(
        "--pack", action="append", default=[], help="only this pack; may be given several times"
    )
    check.add_argument("--fleet", default="", help="only this fleet")
    check.add_argument(
        "--since",
        metavar="TIME",
        type=moment,
        help="only what devices measured since: 2026-03-01, 90m, 48h, 7d",
    )
    check.add_argument("--jobs", metavar="N", type=int, default=1, help="connections that read side by side")
    check.add_argument("--json", action="store_true", help="print the whole ledger as JSON")
    check.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run `voltflow ledger verify`."""
    try:
        report = verify(
            _database(args, os.environ),
            load_expected(args.expected) if args.expected else None,
            None if args.json else _progress(),
            packs=args.pack, fleet=args.fleet, since=args.since, jobs=max(1, args.jobs),
        )  # fmt: skip
        _not_for_nothing(report, args)
    except LedgerError as error:
        print(f"voltflow ledger: {error}", file=sys.stderr)
        return 2
    print(as_json(report) if args.json else text(report))
    return 0 if report.ok else 1


def _not_for_nothing(report: Report, args: argparse.Namespace) -> None:
    """A name with a slip of the pen must not look like a ledger in which all is well."""
    within = f" since {args.since:%Y-%m-%d %H:%M} UTC" if args.since else ""
    unknown = [pack for pack in args.pack if pack not in {entry.pack for entry in report.entries}]
    if unknown:
        fleet = f" of fleet {args.fleet!r}" if args.fleet else ""
        raise LedgerError(
            f"the history has nothing of pack {', '.join(map(repr, unknown))}{fleet}{within}: check --pack"
        )
    if args.fleet and args.fleet not in {entry.fleet for entry in report.entries}:
        raise LedgerError(f"the history has nothing of fleet {args.fleet!r}{within}: check --fleet")


_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def moment(text: str) -> dt.datetime:
    """A time from ISO text, UTC where it says no zone, or from an age such as `90m`, `48h`, `7d`.

    >>> moment("2026-03-01T12:00").isoformat()
    '2026-03-01T12:00:00+00:00'
    """
    if match := re.fullmatch(r"(\d+)([smhdw])", text):
        return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(match[1]) * _AGES[match[2]])
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time: use an age (90m, 48h, 7d) or a date (2026-03-01, 2026-03-01T12:00)"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def as_json(report: Report) -> str:
    """The ledger for programs: the report's fields, `ok`, and the classes by their names in `text`."""
    fields = msgspec.to_builtins(report)
    classes = {
        "delivered": report.received,
        "lost_explained": report.explained,
        "lost_unexplained": report.missing,
        "duplicate": report.duplicates,
        "late": report.late,
        "expired": report.expired,
    }
    entries = fields.pop("entries")
    return msgspec.json.format(
        msgspec.json.encode({"ok": report.ok, "classes": classes, **fields, "entries": entries})
    ).decode()


def text(report: Report) -> str:
    """The ledger for people: the classes, then each boot where something is to be said."""
    lines = [
        f"{name:<20} {'not counted: there is no index telemetry_late' if count is None else f'{count:>15,}'}"
        for name, count in report.classes.items()
    ]
    if report.reasons:
        lines[1] += "   " + ", ".join(f"{why}: {count:,}" for why, count in report.reasons.items())
    lines.append(f"{report.rows:,} rows, {len(report.entries):,} boots, {report.dead_letters:,} dead letters")
    if not report.entries:
        lines.append("nothing to verify: no message is known here")
    for entry in report.entries:
        lines += _lines(entry)
    return "\n".join(lines)


def _lines(entry: Entry) -> list[str]:
    lines = []
    for what, ranges in (
        ("missing", entry.missing), ("duplicate", entry.duplicates), ("lost, explained:", entry.explained),
    ):  # fmt: skip
        lines += [_range_line(entry, what, item) for item in ranges[:LINES_OF_A_BOOT]]
        if len(ranges) > LINES_OF_A_BOOT:
            lines.append(
                f"  … and {len(ranges) - LINES_OF_A_BOOT} more ranges {what.strip(':')} (--json has all)"
            )
    return lines


def _range_line(entry: Entry, what: str, item: Range) -> str:
    numbers = (
        f"seq {item.first}" if item.count == 1 else f"seq {item.first}–{item.last}, {item.count:,} messages"
    )
    why = f"  {item.why}" if item.why else ""
    return f"  {entry.fleet}/{entry.pack} boot {entry.boot}: {what} {numbers}{why}"


def _database(args: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """The connection string: option, environment, settings file. The file is read without the bridge's other
    settings, which only `cloud-bridge` knows."""
    given: str = args.database or environ.get(DATABASE_VARIABLE, "")
    if given:
        return given
    named = args.config or environ.get("VOLTFLOW_CONFIG")
    for path in [Path(named)] if named else [Path("voltflow.toml"), Path("/etc/voltflow/voltflow.toml")]:
        found = _from_file(path, must_exist=bool(named))
        if found:
            return found
    raise LedgerError(
        f"no database is given: use --database, {DATABASE_VARIABLE} or `database` in the table [bridge]"
    )


def _from_file(path: Path, *, must_exist: bool) -> str | None:
    try:
        table = tomllib.loads(path.read_text("utf-8")).get("bridge", {})
        if "database_file" in table:
            return (path.parent / str(table["database_file"])).read_text("utf-8").strip()
        return str(table.get("database", ""))
    except FileNotFoundError:
        if must_exist:
            raise LedgerError(f"settings file {path} is not there") from None
        return None
    except (OSError, ValueError) as error:
        raise LedgerError(f"settings file {path} cannot be read: {error}") from None


def _progress() -> Progress | None:
    """Rows read, on a terminal only, and only when it takes long enough to wonder."""
    if not sys.stderr.isatty():
        return None
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        seconds = time.monotonic() - started
        if seconds > 1:
            speed = f"{done / seconds / 1e6:.1f} million a second"
            line = f"\r{done / 1e6:,.1f} of about {total / 1e6:,.1f} million rows, {speed} "
            print(line, end="\n" if done >= total else "", file=sys.stderr, flush=True)

    return show
