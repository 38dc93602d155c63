"""The command `cloud-bridge dead`: list, show, replay, drop dead letters."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from cloud.bridge import BridgeSettings
from cloud.dead import Letter, Publish, Wanted, count, find, is_row, mark, replay
from voltflow.ledger.cli import moment
from voltflow.settings import Loaded, SettingsError, add_arguments

EXAMPLES = """examples:
  cloud-bridge dead list                                what nobody has dealt with yet, the newest first
  cloud-bridge dead list --node validate --since 24h --json
  cloud-bridge dead show --id 3f2a                      the original bytes; an id may be cut short
  cloud-bridge dead replay --error 'balancing_cells'    after the cause is gone: through the flow again
  cloud-bridge dead drop --pack SIM000001 --until 2026-03-01 --yes

A letter of a gateway goes back through that gateway, one of a bridge to the bridge's broker. A message that is a row
already does not become a second one. Dropped letters stay in the database and go on explaining the hole.

exit status: 0 all was done; 1 some letters were refused; 2 it could not be done
"""
PUBLISH_TIMEOUT_S = 15.0
SHOWN_BYTES = 4096


class DeadError(Exception):
    """It cannot be done; the message says what to do."""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `dead` to `cloud-bridge`; `run(args, loaded)` runs it and returns the exit status."""
    dead = actions.add_parser("dead", help="list, show, replay or drop dead letters")
    commands = dead.add_subparsers(dest="dead_action", required=True, metavar="ACTION")
    for name, command, text in (
        ("list", _list, "list letters, the newest first"),
        ("show", _show, "show letters with their original bytes"),
        ("replay", _replay, "send the original bytes of letters through the flow again"),
        ("drop", _drop, "put letters aside: nothing will be done about them"),
    ):
        parser = commands.add_parser(
            name, help=text, description=text, epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        if name != "list":
            parser.add_argument("letter", nargs="?", default="", metavar="ID", help="as --id")
        _add_filters(parser, changes=name in {"replay", "drop"})
        add_arguments(parser, BridgeSettings)
        parser.set_defaults(dead=command)


def _add_filters(parser: argparse.ArgumentParser, *, changes: bool) -> None:
    parser.add_argument("--node", default="", help="only letters of this node")
    parser.add_argument("--error", default="", help="only where the error contains this text")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="from this time: 2026-03-01, 90m, 48h, 7d"
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="before this time")
    parser.add_argument("--pack", default="", help="only letters of this pack")
    parser.add_argument("--id", default="", help="only this letter, or those whose id begins so")
    parser.add_argument(
        "--limit",
        type=_positive,
        metavar="N",
        default=1000 if changes else 100,
        help="so many at most (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    if changes:
        parser.add_argument("--yes", action="store_true", help="do not ask")
    else:
        parser.add_argument("--all", action="store_true", help="those too that were replayed or dropped")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def run(args: argparse.Namespace, loaded: Loaded[BridgeSettings]) -> int:
    """Run `cloud-bridge dead …`; raises SettingsError, DeadError."""
    import psycopg2

    if not loaded.values.database:
        raise SettingsError("database is not set: give its connection string as VOLTFLOW_BRIDGE_DATABASE")
    try:
        with contextlib.closing(psycopg2.connect(loaded.values.database, connect_timeout=10)) as conn:
            return int(args.dead(conn, args, loaded.values))
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn) as error:
        first = str(error).splitlines()[0]
        raise DeadError(
            f"the database is not up to date ({first}); `cloud-bridge migrate` does that"
        ) from None
    except psycopg2.Error as error:
        raise DeadError(f"the database cannot be used: {str(error).strip()}") from None


def _wanted(args: argparse.Namespace) -> Wanted:
    return Wanted(
        args.node,
        args.error,
        args.since,
        args.until,
        args.pack,
        args.id or getattr(args, "letter", ""),
        getattr(args, "all", False),
    )


# -- looking --------------------------------------------------------------------------------------------------------


def _list(conn: Any, args: argparse.Namespace, settings: BridgeSettings) -> int:
    letters = find(conn, _wanted(args), args.limit)
    if args.json:
        print(_json([_fields(letter) for letter in letters]))
        return 0
    for letter in letters:
        print(_line(letter))
    total = count(conn, _wanted(args))
    more = f"; {total - len(letters)} more (--limit)" if total > len(letters) else ""
    print(f"{len(letters)} letter(s){more}")
    return 0


def _line(letter: Letter) -> str:
    about = f"{letter.fleet}/{letter.pack or '?'}" + (
        "" if letter.seq is None else f" {letter.boot}:{letter.seq}"
    )
    state = "" if letter.state == "open" else f"  [{letter.state}]"
    return f"{letter.time:%Y-%m-%d %H:%M:%S}  {letter.id[:12]:12}  {about}  {letter.gateway}/{letter.node}: {letter.error[:120]}{state}"


def _show(conn: Any, args: argparse.Namespace, settings: BridgeSettings) -> int:
    letters = find(conn, _wanted(args), args.limit)
    if not letters:
        raise DeadError("there is no such letter (--all looks at replayed and dropped ones too)")
    if args.json:
        shown = [
            {
                **_fields(letter),
                "payload": base64.b64encode(letter.payload).decode(),
                "row": is_row(conn, letter),
            }
            for letter in letters
        ]
        print(_json(shown))
    else:
        print("\n\n".join("\n".join(_description(letter, is_row(conn, letter))) for letter in letters))
    return 0


def _description(letter: Letter, row: bool | None) -> Iterator[str]:
    answers = {True: "yes", False: "no", None: "not known: its key could not be read"}
    kept = f", the first {len(letter.payload)} are kept" if letter.truncated else ""
    yield f"id        {letter.id}"
    yield f"time      {letter.time.isoformat()}"
    yield f"state     {letter.state}"
    yield f"from      {letter.gateway}, node {letter.node}"
    yield f"error     {letter.error}"
    yield f"topic     {letter.topic}"
    yield f"message   pack {letter.pack}, boot {letter.boot}, seq {letter.seq}"
    yield f"is a row  {answers[row]}"
    yield f"bytes     {letter.size_bytes}{kept}, SHA-256 {letter.sha256}"
    yield _readable(letter.payload[:SHOWN_BYTES])
    if len(letter.payload) > SHOWN_BYTES:
        yield f"… {len(letter.payload) - SHOWN_BYTES} more bytes (--json has all)"


def _readable(data: bytes) -> str:
    """The bytes as text where they are text, else in hexadecimal."""
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode()
        if all(c.isprintable() or c in "\n\t\r" for c in text):
            return text
    return data.hex(" ")


def _fields(letter: Letter) -> dict[str, Any]:
    fields = msgspec.structs.asdict(letter)
    del fields["payload"]
    return {**fields, "state": letter.state}


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()


# -- doing ----------------------------------------------------------------------------------------------------------


def _drop(conn: Any, args: argparse.Namespace, settings: BridgeSettings) -> int:
    letters = _agreed(conn, args, "drop")
    dropped = mark(conn, letters, "dropped")
    print(_json({"dropped": dropped}) if args.json else f"{dropped} letter(s) dropped")
    return 0


def _replay(conn: Any, args: argparse.Namespace, settings: BridgeSettings) -> int:
    letters = _agreed(conn, args, "replay")
    refused = asyncio.run(_send(conn, letters, settings)) if letters else []
    sent = len(letters) - len(refused)
    if args.json:
        reasons = [{"id": letter.id, "reason": reason} for letter, reason in refused]
        print(_json({"replayed": sent, "refused": reasons}))
    else:
        for letter, reason in refused:
            print(f"not sent: {letter.id}: {reason}")
        print(f"{sent} letter(s) sent again, {len(refused)} refused")
    return 1 if refused else 0


def _agreed(conn: Any, args: argparse.Namespace, what: str) -> list[Letter]:
    """The open letters that are meant; more than one only when the user says so."""
    letters = find(conn, _wanted(args), args.limit)
    if len(letters) > 1 and not args.yes:
        total = count(conn, _wanted(args))
        if not sys.stdin.isatty():
            raise DeadError(f"{total} letters fit: name one with --id, or say --yes")
        left = f" (of {total}; --limit)" if total > len(letters) else ""
        print(f"{what} {len(letters)} letters{left}? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            return []
    return letters


async def _send(conn: Any, letters: Sequence[Letter], settings: BridgeSettings) -> list[tuple[Letter, str]]:
    async with _publisher(settings) as publish:
        return await replay(conn, letters, publish)


@contextlib.asynccontextmanager
async def _publisher(settings: BridgeSettings) -> AsyncIterator[Publish]:
    """Publishes at the bridge's broker, as a client of its own."""
    from voltflow.mqtt.codec import NO_SUBSCRIBER, reason_text
    from voltflow.mqtt.link import MqttLink, MqttOptions, PublishRefused, tls_context

    s = settings
    tls = tls_context(s.mqtt_ca, s.mqtt_cert, s.mqtt_key) if s.mqtt_tls else None
    options = MqttOptions(
        host=s.mqtt_host, port=s.mqtt_port, client_id=f"voltflow-dead-{s.bridge_name}-{os.getpid()}"[:128],
        username=s.mqtt_user, password=s.mqtt_password, tls=tls, clean_start=True, session_expiry_s=0,
    )  # fmt: skip
    link = MqttLink(options, name="cloud-bridge dead")

    async def publish(topic: str, payload: bytes) -> None:
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await link.publish_batch([(topic, payload)], needs_subscriber=True)
        except PublishRefused as error:
            code = error.refused[0][1]
            nobody = f"nobody listens to {topic}: is the gateway or bridge connected to this broker?"
            raise ValueError(
                nobody if code == NO_SUBSCRIBER else f"the broker refused it: {reason_text(code)}"
            ) from None
        except TimeoutError:
            raise DeadError(
                f"the broker mqtt_host = '{s.mqtt_host}', mqtt_port = {s.mqtt_port} does not answer: {link.last_error}"
            ) from None

    await link.open()
    try:
        yield publish
    finally:
        await link.close(timeout_s=2.0)
