"""Messages as a gateway publishes them, and nodes as the engine starts them, for the tests of the cloud side."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from voltflow import topics
from voltflow.message import Msg, now_ms
from voltflow.node import Context, Sink
from voltflow.telemetry import (
    Alert,
    Dead,
    Estimate,
    Joined,
    Loss,
    Prediction,
    Quality,
    State,
    Telemetry,
    TwinPrediction,
)

BOOT = 1_764_000_000
TS_MS = 1_764_000_000_000
FLEET = "demo"

N = TypeVar("N", bound=Sink)


def twin(
    seq: int, pack: str = "SIM000001", *, boot: int = BOOT, ts_ms: int | None = None, **telemetry: Any
) -> Msg:
    """A twin message; `telemetry` replaces fields of the reading."""
    ts_ms = TS_MS + 500 * seq if ts_ms is None else ts_ms
    reading = Telemetry(
        **{
            "schema_": "bms.telemetry/1", "pack": pack, "boot": boot, "seq": seq, "ts_ms": ts_ms,
            "sent_ms": now_ms() - 5, "vehicle_state": "driving", "pack_voltage_v": 356.4,
            "pack_current_a": -42.7, "soc_pct": 61.0 + seq / 1000, "cell_voltage_min_id": 17, "dtc": ["P0A80", "U1:00.2-x"],
            "quality": Quality(invalid=["ambient_c"]), **telemetry,
        }
    )  # fmt: skip
    message = TwinPrediction(
        schema_="twin.prediction/1", fleet=FLEET, pack=pack, boot=boot, seq=seq, ts_ms=ts_ms, gateway="gw-1",
        flow_rev="a1b2c3", received_ms=now_ms(), telemetry=reading, chemistry="NMC", capacity_rated_ah=150.0,
        estimate=Estimate(soc_pct=60.5, soc_sigma_pct=0.1 + 0.2, voltage_residual_mv=-1e-9),
        predictions={
            "temperature": Prediction("c", "0123456789ab", 23.75, 22.0, 25.5, ts_ms, ts_ms + 600_000),
            "rul": Prediction("efc", "cdef01234567", reason="no charge session yet"),
            "plating": Prediction("1", "ffff01234567", 0.25),
        },
        joined={"temperature": Joined(23.5, 24.0, ts_ms - 600_000, ts_ms, "c")},
    )  # fmt: skip
    return Msg(topics.TWIN.of(FLEET, pack), msgspec.json.encode(message), received_ms=now_ms())


def changed(msg: Msg, **fields: Any) -> Msg:
    """The message with other values."""
    return Msg(msg.topic, msgspec.json.encode({**msgspec.json.decode(msg.payload), **fields}))


def alert(seq: int, pack: str = "SIM000001", state: Any = "raised") -> Msg:
    message = Alert(
        "alert/1",
        FLEET,
        pack,
        BOOT,
        seq,
        "over_temperature",
        "critical",
        state,
        TS_MS,
        TS_MS,
        61.0,
        60.0,
        "°C",
        "hot",
    )
    return Msg(topics.ALERT.of(FLEET, pack), msgspec.json.encode(message))


def dead(pack: str = "SIM000001", seq: int | None = None, **fields: Any) -> Msg:
    values = {
        "gateway": "gw-1", "node": "validate", "error": "not JSON", "topic": f"ev/v1/{FLEET}/{pack}/telemetry",
        "payload": b"\x00\xff'\\", "size_bytes": 4, "sha256": "00" * 32, "received_ms": TS_MS,
        "pack": pack if seq is not None else None, "boot": BOOT if seq is not None else None, "seq": seq,
        "id": secrets.token_hex(16), **fields,
    }  # fmt: skip
    return Msg(topics.DEAD.of(FLEET, pack), msgspec.json.encode(Dead(schema_="dead/1", **values)))


def loss(first: int, last: int, pack: str = "SIM000001") -> Msg:
    message = Loss("loss/1", FLEET, pack, BOOT, first, last, "quota", "gw-1")
    return Msg(topics.LOSS.of(FLEET, pack), msgspec.json.encode(message))


def state(pack: str = "SIM000001", *, online: bool = True, **fields: Any) -> Msg:
    message = State(schema_="bms.state/1", pack=pack, online=online, **fields)
    return Msg(topics.STATE.of(FLEET, pack), msgspec.json.encode(message))


def context(gateway: str = "bridge-test") -> Context:
    return Context({}, {}, gateway, "rev", Path(tempfile.gettempdir()))


def run_sink(sink: N, use: Callable[[N], Awaitable[None]]) -> None:
    """Start a sink, use it, stop it, in an event loop of its own."""

    async def main() -> None:
        sink.id = "sink"
        await sink.start(context())
        try:
            await use(sink)
        finally:
            await sink.stop()

    asyncio.run(main())


def query(dsn: str, sql: str, parameters: Any = None) -> list[Mapping[str, Any]]:
    """The rows as dicts, over a connection of its own."""
    import psycopg2
    from psycopg2.extras import RealDictCursor

    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute(sql, parameters)
            found = list(cursor.fetchall())
        connection.commit()
    finally:
        connection.close()
    return found
