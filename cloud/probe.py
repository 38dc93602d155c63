"""Plain rows of each table, to find out whether the database stores any; they are never committed."""

from __future__ import annotations

from typing import Any

import msgspec

from cloud.rows import Row, decode
from voltflow.message import Msg, now_ms
from voltflow.telemetry import Alert, Dead, Estimate, Loss, State, Telemetry, TwinPrediction

FLEET, PACK = "voltflow", "probe"


def probe_row(kind: str) -> Row:
    """A row of a kind with nothing special in it.

    >>> probe_row("loss")
    ('voltflow', 'probe', 0, 0, 0, 'quota', 'probe')
    """
    message = Msg(f"ev/v1/{FLEET}/{PACK}/{kind}", msgspec.json.encode(_message(kind, now_ms())))
    return decode(message)[1].row


def _message(kind: str, time_ms: int) -> Any:
    if kind == "twin":
        reading = Telemetry(schema_="bms.telemetry/1", pack=PACK, boot=0, seq=0, ts_ms=time_ms)
        return TwinPrediction(
            schema_="twin.prediction/1", fleet=FLEET, pack=PACK, boot=0, seq=0, ts_ms=time_ms, gateway=PACK,
            flow_rev="", received_ms=time_ms, telemetry=reading, estimate=Estimate(),
        )  # fmt: skip
    if kind == "alert":
        return Alert(
            "alert/1", FLEET, PACK, 0, 0, "probe", "info", "raised", time_ms, time_ms, 0.0, 0.0, "", ""
        )
    if kind == "dead":
        return Dead("dead/1", PACK, PACK, "", "", b"", 0, "", time_ms)
    if kind == "loss":
        return Loss("loss/1", FLEET, PACK, 0, 0, 0, "quota", PACK)
    return State(schema_="bms.state/1", pack=PACK, online=False)
