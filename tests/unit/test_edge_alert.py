"""The `alert` node: raised at the limit, cleared with hysteresis, and its short cut says what its rules say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge.nodes.alert import Alert
from edge.quantities import alerted
from edge.reading import Reading
from edge.twin import TwinStore
from voltflow.message import Msg
from voltflow.node import Context
from voltflow.telemetry import Prediction, Telemetry, TwinPrediction


def _node() -> Alert:
    node = Alert()
    store = TwinStore()
    store.pack("depot", "P1")
    asyncio.run(node.start(Context({}, {TwinStore: store}, "gw1", "rev", Path())))
    return node


NODE = _node()


def _twin(predictions: dict[str, float | None] | None = None, **values: Any) -> TwinPrediction:
    telemetry = Telemetry(
        schema_="bms.telemetry/1", pack="P1", boot=1, seq=0, ts_ms=1_700_000_000_000, **values
    )
    return TwinPrediction(
        schema_="twin.prediction/1", fleet="depot", pack="P1", boot=1, seq=0, ts_ms=telemetry.ts_ms, gateway="gw1",
        flow_rev="rev", received_ms=1, telemetry=telemetry,
        predictions={name: Prediction(unit="", model="0", value=value) for name, value in (predictions or {}).items()},
    )  # fmt: skip


def _around(*limits: float) -> st.SearchStrategy[float | None]:
    """Missing, just at a limit and its neighbourhood, or anything."""
    near = [limit + step for limit in limits for step in (-1.0, -1e-9, 0.0, 1e-9, 1.0)]
    return st.none() | st.sampled_from(near) | st.floats(-1000, 1000)


@given(
    temp=_around(NODE.temp_warning_c, NODE.temp_critical_c), soc=_around(NODE.soc_low_pct),
    level=st.none() | st.integers(0, 3), low=_around(3.6), high=_around(3.6, 3.75),
    kohm=_around(0.0, 35.0), volt=_around(0.0, 350.0),
    ahead=st.dictionaries(st.sampled_from(["temperature", "failure", "soh"]),
                          _around(NODE.temp_predicted_c, NODE.failure_pct)),
)  # fmt: skip
def test_calm_is_what_no_rule_would_raise(
    temp: float | None, soc: float | None, level: int | None, low: float | None, high: float | None,
    kohm: float | None, volt: float | None, ahead: dict[str, float | None],
) -> None:  # fmt: skip
    twin = _twin(
        ahead, cell_temp_max_c=temp, soc_pct=soc, alarm_level=level, cell_voltage_min_v=low, cell_voltage_max_v=high,
        insulation_kohm=kohm, pack_voltage_v=volt,
    )  # fmt: skip
    values = [(rule, alerted(twin, rule.code)) for rule in NODE._rules]
    raised = [rule.code for rule, value in values if value is not None and rule.state(value, active=False)]
    assert NODE._is_calm(twin) == (not raised), raised


def _codes(node: Alert, temp_c: float | None) -> list[tuple[str, str, str | None]]:
    """Code, state and unit of the alerts that a message with this temperature gives."""
    reading = Reading(_twin(cell_temp_max_c=temp_c), 0, None, 0)  # type: ignore[arg-type]
    _, alerts = node.process([Msg("ev/v1/depot/P1/twin", reading)])
    return [(msg.payload.code, msg.payload.state, msg.payload.unit) for msg in alerts]


def test_alert_stands_until_the_value_is_back_by_the_margin() -> None:
    node = _node()
    assert _codes(node, 44.9) == []
    assert _codes(node, 45.0) == [("cell_temp_warning", "raised", "c")]
    assert _codes(node, 46.0) == []
    assert _codes(node, 43.5) == []  # below the limit, within the margin
    assert _codes(node, None) == []
    assert _codes(node, 42.9) == [("cell_temp_warning", "cleared", "c")]
    assert _codes(node, 61.0) == [
        ("cell_temp_warning", "raised", "c"),
        ("cell_temp_critical", "raised", "c"),
    ]
