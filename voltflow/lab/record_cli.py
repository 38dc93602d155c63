"""`voltflow flow record`, and what `voltflow flow diff --replay` adds."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from voltflow.flow.flow import Flow
from voltflow.lab.record import FolderWriter, Recorded, Writer, select
from voltflow.lab.replay import filters_of, replay
from voltflow.message import Msg
from voltflow.mqtt.codec import check_filter
from voltflow.mqtt.link import Delivery, MqttLink, MqttOptions, tls_context
from voltflow.node import process_env
from voltflow.program import stop_on_signals

FOLDER: Final = Path(".voltflow/recordings")
CONNECT_S: Final = 10.0
FLUSH_S: Final = 1.0
MOST_MESSAGES: Final = 200_000
"""That a replay runs on: what both flows make of them has to be kept."""

HELP: Final = """\
Record what comes from a broker, with the times, to try flows on it later (`voltflow flow diff OLD NEW --replay FILE`).

It subscribes beside whoever else does, with a session of its own, and changes nothing at the broker. What is recorded may
hold everything that devices say: keep it as carefully as the broker's own data.
"""
EXAMPLES: Final = """\
examples:
  voltflow flow record --flow edge/flows.json --seconds 600 traffic.jsonl.gz
  voltflow flow record --broker 192.0.2.7:1883 --topic 'ev/v1/+/+/telemetry' --seconds 60 traffic.jsonl.gz
  voltflow flow record --flow edge/flows.json --follow --keep-h 24 .voltflow/recordings
  voltflow flow diff old.json new.json --replay 'last 1h'       on what was recorded into that folder
"""


def add_parser(flow: Any) -> None:
    """Add the action to those of `voltflow flow`."""
    parser = flow.add_parser(
        "record", help="record what comes from a broker, to try flows on it", description=HELP, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", type=Path, metavar="FILE|FOLDER", help="where to; a folder with --follow")
    parser.add_argument(
        "--broker", default="127.0.0.1:1883", metavar="HOST[:PORT]", help="default: %(default)s"
    )
    parser.add_argument("--flow", type=Path, metavar="FILE", help="the topics of its mqtt in nodes")
    parser.add_argument(
        "--topic", action="append", default=[], metavar="FILTER", help="a topic filter; may be given again"
    )
    parser.add_argument(
        "--seconds", type=float, metavar="N", help="end after so long; without it with Ctrl-C"
    )
    parser.add_argument("--follow", action="store_true", help="go on for ever, in files of ten minutes")
    parser.add_argument(
        "--keep-h",
        type=float,
        default=24.0,
        metavar="H",
        help="with --follow: drop what is older; %(default)s",
    )
    parser.add_argument(
        "--keep-mb", type=float, default=1000.0, metavar="MB", help="at most so much; default: %(default)s"
    )
    parser.add_argument("--user", default="", metavar="NAME", help="user name at the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="file that holds the password")
    parser.add_argument("--tls", action="store_true", help="encrypt the connection")
    parser.add_argument(
        "--ca", default="", metavar="FILE", help="authorities to trust; default: the system's"
    )
    parser.set_defaults(run=_record)


def _record(args: argparse.Namespace) -> int:
    topics = _topics(args)
    if args.follow == (args.seconds is not None):
        if args.follow:
            raise ValueError("--follow goes on for ever: leave out --seconds")
        print("until Ctrl-C, or with --seconds N", file=sys.stderr)
    options = _options(args)
    if args.follow:
        folder = FolderWriter(args.path, topics, args.keep_h * 3600, args.keep_mb * 1e6)
        count = asyncio.run(record(options, topics, lambda: folder, None))
    else:
        if args.path.exists():
            raise _is_there(args.path)
        count = asyncio.run(
            record(
                options,
                topics,
                lambda: _new_file(args.path, topics),
                args.seconds,
                most_bytes=args.keep_mb * 1e6,
            )
        )
    print(f"{args.path}: {count:,} messages of {', '.join(topics)}")
    return 0


def _new_file(path: Path, topics: Sequence[str]) -> Writer:
    try:
        return Writer(path, topics)
    except FileExistsError:
        raise _is_there(path) from None


def _is_there(path: Path) -> ValueError:
    return ValueError(f"{path} is there already: give another name, or remove it")


def _topics(args: argparse.Namespace) -> list[str]:
    topics = [check_filter(topic) for topic in args.topic]
    if args.flow is not None:
        topics += filters_of(Flow.load(args.flow), process_env())
    if not topics:
        raise ValueError(
            "say what to record: --flow FILE (the topics of its mqtt in nodes), or --topic FILTER"
        )
    return list(dict.fromkeys(topics))


def _options(args: argparse.Namespace) -> MqttOptions:
    host, _, port = args.broker.rpartition(":") if ":" in args.broker else (args.broker, "", "1883")
    if not port.isdecimal():
        raise ValueError(f"--broker {args.broker}: expected is HOST or HOST:PORT")
    password = args.password_file.read_text("utf-8").rstrip("\r\n") if args.password_file else ""
    return MqttOptions(
        host=host, port=int(port), client_id=f"voltflow-record-{os.getpid()}", username=args.user, password=password,
        tls=tls_context(args.ca) if args.tls else None, clean_start=True, session_expiry_s=0,
    )  # fmt: skip


class Sink(Protocol):
    """What a recording is written to."""

    count: int

    def add(self, item: Recorded) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


async def record(
    options: MqttOptions,
    topics: Sequence[str],
    make_sink: Callable[[], Sink],
    seconds: float | None,
    *,
    most_bytes: float = float("inf"),
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> int:
    """Record until a signal, or for so long; how many messages. The sink is made when the connection stands: where the broker
    cannot be reached there is nothing to tidy up. Raises ConnectionError then."""
    link = MqttLink(options, name="record")
    stop = stop_on_signals()
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.push_async_callback(link.close)
        await link.open()
        await _connected(link)
        sink = make_sink()
        cleanup.callback(sink.close)

        def receive(msg: Msg, delivery: Delivery | None) -> None:
            sink.add(Recorded(now_ms(), msg.topic, msg.payload, bool(msg.props and msg.props.get("retain"))))
            if delivery is not None:
                link.acknowledge([delivery])
            if isinstance(sink, Writer) and sink.count % 1000 == 0 and sink.size_bytes > most_bytes:
                stop.set()

        for topic in topics:
            link.subscribe(topic, 1, receive)
            cleanup.callback(link.release, topic, receive)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not stop.is_set():
                    await _wait(stop, FLUSH_S)
                    sink.flush()
    return sink.count


async def _connected(link: MqttLink) -> None:
    try:
        async with asyncio.timeout(CONNECT_S):
            await link.connected.wait()
    except TimeoutError:
        raise ConnectionError(
            f"no connection to {link.options.address} in {CONNECT_S:g} s: {link.last_error or 'no answer'}"
        ) from None


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


# -- flow diff --replay -------------------------------------------------------------------------------------------


def add_replay(diff: argparse.ArgumentParser) -> None:
    """The options of `voltflow flow diff` that run both flows on recorded traffic."""
    diff.add_argument(
        "--replay",
        metavar="FILE|'last 1h'",
        help="also run both on recorded traffic, and show what they give differently",
    )
    diff.add_argument("--recordings", type=Path, default=FOLDER, metavar="FOLDER",
                      help="where 'last 1h' looks (voltflow flow record --follow); default: %(default)s")  # fmt: skip


def replayed(old: Sequence[Any], new: Sequence[Any], what: str, folder: Path) -> tuple[list[str], bool]:
    """What both flows make of recorded traffic, for people, and whether that differs."""
    recorded, count = select(what, folder, MOST_MESSAGES)
    minutes = (recorded[-1].at_ms - recorded[0].at_ms) / 60_000
    left = "" if count == len(recorded) else f", the last of {count:,}"
    lines = [f"replayed {len(recorded):,} messages of {minutes:.1f} min{left}:"]
    found = replay(Flow(list(old)), Flow(list(new)), recorded, process_env())
    return [*lines, *(found or ["both flows give the same"])], bool(found)
