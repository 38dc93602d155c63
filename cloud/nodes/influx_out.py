"""The `influx out` node: readings, estimates and predictions as points in InfluxDB."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from voltflow.message import Msg
from voltflow.node import Context, Rejected, Sink, SinkUnavailable, config, node

if TYPE_CHECKING:
    from influxdb_client.client.influxdb_client import InfluxDBClient

    from cloud.rows import Column, Row

log = logging.getLogger(__name__)

Item = tuple[Msg, str]
"""A message and its line."""


@node("influx out", category="storage", color="#b9a0d8", icon="db.svg")
class InfluxOut(Sink):
    """Write points to InfluxDB 2, or what speaks its `/api/v2/write`: tags fleet and pack, the device's time.

    Measurements are `telemetry` and `alert`; other messages have no place here and are passed over. A point is known by
    pack and time: a repeated message changes nothing, but of two messages of a pack with one time the later stays.
    While the server is away batches wait. A point it refuses becomes a dead letter, the others are written.
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
        refused: list[tuple[Msg, str]] = []
        items = self._lines(msgs, refused)
        self._store(items, refused)
        self.error = ""
        if refused:
            self.refused += len(refused)
            raise Rejected(refused)

    def _lines(self, msgs: list[Msg], refused: list[tuple[Msg, str]]) -> list[Item]:
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
        """Write the lines; where the server refuses, halve until the refused ones stand alone. Points of a partial
        write that were taken are written again, which changes nothing."""
        if not items:
            return
        reason = self._post([text for _, text in items])
        if not reason:
            self.points += len(items)
        elif len(items) == 1:
            refused.append((items[0][0], reason))
        else:
            middle = len(items) // 2
            self._store(items[:middle], refused)
            self._store(items[middle:], refused)

    def _post(self, lines: list[str]) -> str:
        """Empty when the server has them, or why it refused; raises SinkUnavailable for all other trouble."""
        from influxdb_client.client.exceptions import InfluxDBError
        from urllib3.exceptions import HTTPError

        try:
            self._api.write(self.bucket, self.org, "\n".join(lines), write_precision="ms")  # type: ignore[arg-type]
        except InfluxDBError as error:
            status = getattr(error.response, "status", None)
            text = f"influx answered {status}: {error.message or error}"[:500]
            if status in (400, 413, 422):  # not line protocol, too large, out of the bucket's time
                return text
            self._unavailable(text, error)
        except (HTTPError, OSError) as error:
            self._unavailable(f"influx {self.url}: {error}", error)
        return ""

    def _unavailable(self, text: str, error: Exception) -> None:
        self.error = text
        raise SinkUnavailable(text) from error

    async def stop(self) -> None:
        self._thread.shutdown()
        self._client.close()  # type: ignore[no-untyped-call]

    def status(self) -> dict[str, Any]:
        return {
            "points": self.points,
            "passed_over": self.passed_over,
            "refused": self.refused,
            "error": self.error,
        }


_TAGS = frozenset({"fleet", "pack"})


def line(measurement: str, columns: Iterable[Column], row: Row) -> str:
    """A row in line protocol: what is null is left out, times become milliseconds, `ts` is the point's time.

    >>> from cloud.rows import Column
    >>> names = [Column("fleet", "text"), Column("pack", "text"), Column("seq", "bigint"), Column("ts", "ms")]
    >>> line("telemetry", names, ("f", "p", 7, 1700000000000))
    'telemetry,fleet=f,pack=p seq=7i 1700000000000'
    """
    values = {column.name: (column.kind, value) for column, value in zip(columns, row, strict=True)}
    fields = ",".join(
        f"{name}={_field(kind, value)}"
        for name, (kind, value) in values.items()
        if value is not None and name not in _TAGS and name != "ts"
    )
    return f"{measurement},fleet={values['fleet'][1]},pack={values['pack'][1]} {fields} {values['ts'][1]}"


def _field(kind: str, value: Any) -> str:
    if kind == "float":
        return repr(float(value))
    if kind == "boolean":
        return "true" if value else "false"
    if kind in ("bigint", "integer", "ms"):
        return f"{value}i"
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\0", "")
    return f'"{text}"'
