"""The `influx out` node: readings, estimates and predictions as points in InfluxDB."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from voltflow.engine.network_sink import NetworkSink
from voltflow.message import Msg
from voltflow.node import Context, Rejected, SinkUnavailable, config, node

if TYPE_CHECKING:
    from influxdb_client.client.influxdb_client import InfluxDBClient

log = logging.getLogger(__name__)

Item = tuple[Msg, str]
"""A message and its line."""


MAX_WAIT_S = 300
"""The longest wait that a server may ask for."""


class Refusal(NamedTuple):
    """What a server refused: the lines by their place with the reason where it names them, else any of them."""

    text: str
    lines: dict[int, str]


@node("influx out", category="storage", color="#b9a0d8", icon="db.svg")
class InfluxOut(NetworkSink):
    """Write points to InfluxDB 2, or what speaks its `/api/v2/write`: tags fleet and pack, the device's time.

    Measurements are `telemetry` and `alert`; other messages have no place here and are passed over. A point is known by
    pack and time: a repeated message changes nothing, but of two messages of a pack with one time the later stays.
    While the server is away or overloaded batches wait, as long as it asks for (Retry-After). A point it refuses becomes a
    dead letter, the others are written.
    """

    url: str = config(help="address of the server", example="http://influx.example.org:8086")
    token: str = config("", help="API token", secret=True)
    org: str = config("voltflow", help="organisation")
    bucket: str = config("voltflow", help="bucket")
    timeout_s: float = config(
        10.0, help="wait for an answer at most", unit="s", low=0.1, high=300, advanced=True
    )

    # state
    points: int = 0
    passed_over: int = 0
    refused: int = 0
    error: str = ""
    wait_until_s: float = 0.0

    async def start(self, ctx: Context) -> None:
        from influxdb_client.client.influxdb_client import InfluxDBClient
        from influxdb_client.client.write_api import SYNCHRONOUS

        self._client: InfluxDBClient = InfluxDBClient(
            url=self.url, token=self.token, org=self.org, timeout=int(self.timeout_s * 1000), enable_gzip=True
        )
        self._api = self._client.write_api(write_options=SYNCHRONOUS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="influx-out")

    async def write(self, msgs: list[Msg]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, msgs)

    def _write(self, msgs: list[Msg]) -> None:
        if (left_s := self.wait_until_s - time.monotonic()) > 0:
            raise SinkUnavailable(f"{self.error}; asked to wait, {left_s:.0f} s more")
        refused: list[tuple[Msg, str]] = []
        items = self._lines(msgs, refused)
        self._store(items, refused)
        self.error = ""
        if refused:
            self.refused += len(refused)
            raise Rejected(refused)

    def _lines(self, msgs: list[Msg], refused: list[tuple[Msg, str]]) -> list[Item]:
        from cloud.influx_lines import line
        from cloud.rows import TABLES, decode
        from voltflow.topics import parse

        items: list[Item] = []
        for msg in msgs:
            topic = parse(msg.topic)
            if topic is None or topic.kind not in ("twin", "alert"):
                self.passed_over += 1
                continue
            try:
                kind, decoded = decode(msg)
            except ValueError as error:
                refused.append((msg, str(error)))
                continue
            items.append((msg, line(TABLES[kind].name, TABLES[kind].columns, decoded.row)))
        return items

    def _store(self, items: list[Item], refused: list[tuple[Msg, str]]) -> None:
        """Write the lines; those the server names are refused, and where it names none they are halved until the refused
        ones stand alone. Points of a partial write that were taken are written again, which changes nothing."""
        if not items:
            return
        answer = self._post([text for _, text in items])
        if answer is None:
            self.points += len(items)
        elif answer.lines:
            refused += [(items[place][0], f"{answer.text}: {why}") for place, why in answer.lines.items()]
            self._store([item for place, item in enumerate(items) if place not in answer.lines], refused)
        elif len(items) == 1:
            refused.append((items[0][0], answer.text))
        else:
            middle = len(items) // 2
            self._store(items[:middle], refused)
            self._store(items[middle:], refused)

    def _post(self, lines: list[str]) -> Refusal | None:
        """None when the server has them, or what it refused; raises SinkUnavailable for all other trouble."""
        from influxdb_client.client.exceptions import InfluxDBError
        from urllib3.exceptions import HTTPError

        from cloud.influx_lines import refused_lines

        try:
            self._api.write(self.bucket, self.org, "\n".join(lines), write_precision="ms")  # type: ignore[arg-type]
        except InfluxDBError as error:
            status = getattr(error.response, "status", None)
            text = f"influx answered {status}: {error.message or error}"[:500]
            if status in (400, 413, 422):  # not line protocol, too large, out of the bucket's time
                return Refusal(text, refused_lines(getattr(error.response, "data", b"") or b"", len(lines)))
            self._wait_for(error.retry_after)
            self._unavailable(text, error)
        except (HTTPError, OSError) as error:
            self._unavailable(f"influx {self.url}: {error}", error)
        return None

    def _wait_for(self, retry_after: str | None) -> None:
        """Ask nothing of the server before the time it names; a date instead of seconds is not understood."""
        seconds = int(retry_after) if retry_after and retry_after.isdecimal() else 0
        self.wait_until_s = time.monotonic() + min(seconds, MAX_WAIT_S)

    def _unavailable(self, text: str, error: Exception) -> None:
        self.error = text
        raise SinkUnavailable(text) from error

    async def stop(self) -> None:
        self._thread.shutdown()
        self._client.close()  # type: ignore[no-untyped-call]

    def trouble(self) -> str:
        return self.error

    def status(self) -> dict[str, Any]:
        return {
            "points": self.points,
            "passed_over": self.passed_over,
            "refused": self.refused,
            "error": self.error,
        }
