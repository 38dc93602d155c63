"""The command `cloud-bridge`: run the bridge, show its settings, migrate the database, check a flow, dead letters."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence

from cloud import backup, dead_cli
from cloud.backup import BackupError
from cloud.bridge import Bridge, BridgeSettings, NoSinkError, problems
from cloud.dead_cli import DeadError
from voltflow import __version__
from voltflow.flow.flow import FlowError
from voltflow.log_levels import LogLevels
from voltflow.node import ConfigError
from voltflow.options import Parser
from voltflow.program import give_large_buffers_back, set_up_logging, stop_on_signals
from voltflow.settings import Loaded, SettingsError, add_arguments, explain, load

log = logging.getLogger(__name__)

EXAMPLES = """examples:
  VOLTFLOW_BRIDGE_DATABASE=postgresql://voltflow@localhost/voltflow cloud-bridge run
  cloud-bridge run --mqtt-host broker.example.org --kafka-bootstrap kafka:9092   history and Kafka
  cloud-bridge run --sinks kafka                  only Kafka, whatever else is configured
  cloud-bridge config                             the effective settings and where each comes from
  cloud-bridge migrate                            make or update the tables, and end
  cloud-bridge check --flow my-flows.json         say what is wrong with a flow, start nothing
  cloud-bridge backup --out history.backup        the history in one file; `cloud-bridge restore` puts it back
  cloud-bridge dead list                          messages that were refused; see also dead show, replay, drop

Every setting can also stand in the table [bridge] of voltflow.toml or in the environment as VOLTFLOW_BRIDGE_<NAME>.
Secrets (the database's connection string, passwords, tokens) are not taken from the command line.
"""

Command = Callable[[Loaded[BridgeSettings]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cloud-bridge`; 0 when all went well, 1 when the work failed, 2 when it could not start."""
    args = _parser().parse_args(argv)
    try:
        loaded = load(BridgeSettings, "bridge", args)
        if args.action == "dead":
            return dead_cli.run(args, loaded)
        if args.action in {"backup", "restore"}:
            return backup.run(args, loaded)
        command: Command = args.run
        return command(loaded)
    except (DeadError, BackupError) as error:
        _complain(str(error))
        return 2
    except FlowError as error:
        _complain("\n".join(str(problem) for problem in error.problems))
        return 2
    except (SettingsError, NoSinkError, ConfigError, OSError) as error:
        _complain(str(error))
        return 2


def _complain(text: str) -> None:
    print(f"cloud-bridge: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="cloud-bridge",
        description="Takes what gateways publish from MQTT to PostgreSQL/TimescaleDB, Kafka and InfluxDB: "
        "every message exactly one row.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cloud-bridge {__version__}")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    commands: list[tuple[str, Command, str]] = [
        ("run", _run, "run the bridge until SIGTERM or Ctrl-C"),
        ("config", _config, "print the effective settings and where each comes from"),
        ("migrate", _migrate, "bring the database's tables up to date"),
        ("check", _check, "say what is wrong with the flow under these settings"),
    ]
    for name, command, text in commands:
        action = actions.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(action, BridgeSettings)
        action.set_defaults(run=command)
    dead_cli.add_parser(actions)
    backup.add_parsers(actions)
    return parser


def _run(loaded: Loaded[BridgeSettings]) -> int:
    for noisy in ("kafka", "urllib3"):  # they log each attempt to reconnect; the sink says it once
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    levels = set_up_logging(loaded.values)
    give_large_buffers_back()
    return asyncio.run(_run_until_signal(Bridge(loaded.values), levels, loaded.again))


async def _run_until_signal(bridge: Bridge, levels: LogLevels, again: Callable[[], BridgeSettings]) -> int:
    levels.follow_signals(again)
    clean = await bridge.run(stop_on_signals())
    log.info("stopped%s", "" if clean else " with batches under way; the broker sends them again")
    return 0


def _config(loaded: Loaded[BridgeSettings]) -> int:
    print(explain(loaded))
    return 0


def _migrate(loaded: Loaded[BridgeSettings]) -> int:
    import psycopg2

    from cloud.migrate import SchemaError, current_version, migrate

    if not loaded.values.database:
        raise SettingsError("database is not set: give its connection string as VOLTFLOW_BRIDGE_DATABASE")
    try:
        with contextlib.closing(psycopg2.connect(loaded.values.database, connect_timeout=10)) as conn:
            applied = migrate(conn)
            version = current_version(conn)
    except (psycopg2.Error, SchemaError) as error:
        _complain(f"the database cannot be migrated: {str(error).strip()}")
        return 1
    for item in applied:
        print(f"applied {item.version:04d}_{item.name}")
    print(f"the schema is at version {version}")
    return 0


def _check(loaded: Loaded[BridgeSettings]) -> int:
    found = list(problems(loaded.values))
    for text in found:
        print(text)
    if not found:
        print(f"the flow is fine; sinks: {', '.join(loaded.values.active_sinks) or 'those of the flow'}")
    return 1 if any(text.startswith("error") for text in found) else 0


if __name__ == "__main__":
    sys.exit(main())
