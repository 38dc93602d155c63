"""The `alert` node: raises and clears alerts on what the twin and the models say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edge.quantities import alerted, predicted
from edge.reading import Reading, twins_of
from edge.twin import PackTwin, TwinStore
from voltflow import topics
from voltflow.message import Msg
from voltflow.node import Context, Transform, config, node
from voltflow.telemetry import Alert as AlertMessage
from voltflow.telemetry import TwinPrediction

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True)
class Rule:
    """Raised at `limit` or beyond, cleared when the value is back by `margin`. `above`: which side is bad. `unit` is
    spelled as in the names of the contract's fields and in the predictions: c, pct, mv."""

    code: str
    severity: Severity
    limit: float
    margin: float
    unit: str
    above: bool
    text: str

    def state(self, value: float, *, active: bool) -> bool:
        """Whether the alert stands at this value."""
        limit = self.limit - self.margin if active and self.above else self.limit
        limit = self.limit + self.margin if active and not self.above else limit
        return value >= limit if self.above else value <= limit


@node("alert", category="battery", color="#f6c177", icon="font-awesome/fa-bell", outputs=2)
class Alert(Transform):
    """Raise an alert when a value passes its limit and clear it when it is back, with hysteresis.

    Output 1 passes every message on; output 2 gives `alert/1` messages, one when an alert is raised and one when it is
    cleared. An unknown value changes nothing, and late messages are not looked at. Active alerts stand over a restart;
    one that was raised just before a crash may be raised a second time, when its message comes again.
    """

    temp_warning_c: float = config(
        45.0, help="highest cell temperature, warning", unit="°C", low=-40, high=150
    )
    temp_critical_c: float = config(
        60.0, help="highest cell temperature, critical", unit="°C", low=-40, high=150
    )
    temp_predicted_c: float = config(
        50.0, help="predicted highest cell temperature in 10 min", unit="°C", low=-40, high=150
    )
    spread_mv: float = config(150.0, help="highest minus lowest cell voltage", unit="mV", low=1, high=5000)
    soc_low_pct: float = config(5.0, help="state of charge", unit="%", low=0, high=100)
    insulation_ohm_per_v: float = config(
        100.0, help="insulation; ISO 6469-3 asks for at least 100 Ω/V", unit="Ω/V", low=1, high=100_000
    )
    failure_pct: float = config(
        60.0, help="probability of a critical fault in 7 days", unit="%", low=0, high=100
    )
    bms_alarm_level: int = config(2, help="alarm level of the BMS", low=1, high=3)

    async def start(self, ctx: Context) -> None:
        self._store = ctx.service(TwinStore)
        self._rules = self._make_rules()
        self._hottest_c = min(self.temp_warning_c, self.temp_critical_c)

    def process(self, msgs: list[Msg]) -> tuple[list[Msg], list[Msg]]:
        alerts: list[Msg] = []
        twins, is_calm = twins_of(msgs), self._is_calm
        packs = [self._pack_of(msg.payload, twin) for msg, twin in zip(msgs, twins, strict=True)]
        for msg, twin, pack in zip(msgs, twins, packs, strict=True):
            if not twin.late and (pack.alerts or not is_calm(twin)):
                self._look(msg, twin, pack, alerts)
        return msgs, alerts

    def _pack_of(self, payload: Any, twin: TwinPrediction) -> PackTwin:
        store = self._store
        return (
            store.packs[payload.slot] if isinstance(payload, Reading) else store.pack(twin.fleet, twin.pack)
        )

    def _is_calm(self, twin: TwinPrediction) -> bool:
        """Whether no rule would raise an alert. Says the same as the rules, which are only asked where something is wrong
        or was: most messages are calm, and asking eight rules costs four times as much."""
        telemetry = twin.telemetry
        temp, soc, level = telemetry.cell_temp_max_c, telemetry.soc_pct, telemetry.alarm_level
        low, high = telemetry.cell_voltage_min_v, telemetry.cell_voltage_max_v
        kohm, volt = telemetry.insulation_kohm, telemetry.pack_voltage_v
        return not (
            (temp is not None and temp >= self._hottest_c)
            or (soc is not None and soc <= self.soc_low_pct)
            or (level is not None and level >= self.bms_alarm_level)
            or (low is not None and high is not None and (high - low) * 1000 >= self.spread_mv)
            or (kohm is not None and volt and kohm * 1000 / volt <= self.insulation_ohm_per_v)
            or (twin.predictions and self._is_bad_ahead(twin))
        )

    def _is_bad_ahead(self, twin: TwinPrediction) -> bool:
        temp, failure = predicted(twin, "temperature"), predicted(twin, "failure")
        return (temp is not None and temp >= self.temp_predicted_c) or (
            failure is not None and failure >= self.failure_pct
        )

    def _look(self, msg: Msg, twin: TwinPrediction, pack: PackTwin, alerts: list[Msg]) -> None:
        for rule in self._rules:
            value = alerted(twin, rule.code)
            if value is None:
                continue
            active = rule.code in pack.alerts
            if rule.state(value, active=active) != active:
                alerts.append(self._change(msg, rule, twin, pack, value, raised=not active))
            if rule.code in pack.alerts:
                worst = pack.worst.get(rule.code, pack.alerts[rule.code].value)
                worse = max if rule.above else min
                pack.worst[rule.code] = value if worst is None else worse(worst, value)

    def _change(
        self, msg: Msg, rule: Rule, twin: TwinPrediction, pack: PackTwin, value: float, *, raised: bool
    ) -> Msg:
        since_ms = twin.ts_ms if raised else pack.alerts[rule.code].since_ms
        alert = AlertMessage(
            schema_="alert/1", fleet=twin.fleet, pack=twin.pack, boot=twin.boot, seq=twin.seq, code=rule.code,
            severity=rule.severity, state="raised" if raised else "cleared", since_ms=since_ms, ts_ms=twin.ts_ms,
            value=round(value, 3), limit=rule.limit, unit=rule.unit, text=rule.text,
        )  # fmt: skip
        self._store.on_alert(pack, alert)
        return msg.derive(topic=topics.ALERT.of(twin.fleet, twin.pack), payload=alert)

    def _make_rules(self) -> tuple[Rule, ...]:
        return (
            Rule("cell_temp_warning", "warning", self.temp_warning_c, 2.0, "c", True,
                 "the hottest cell is warm"),
            Rule("cell_temp_critical", "critical", self.temp_critical_c, 2.0, "c", True,
                 "the hottest cell is too hot: stop and keep away"),
            Rule("cell_temp_predicted", "warning", self.temp_predicted_c, 2.0, "c", True,
                 "the hottest cell will be hot in 10 minutes"),
            Rule("cell_spread", "warning", self.spread_mv, 30.0, "mv", True,
                 "cell voltages differ widely: balance or inspect"),
            Rule("soc_low", "info", self.soc_low_pct, 2.0, "pct", False,
                 "nearly empty"),
            Rule("insulation_low", "critical", self.insulation_ohm_per_v, 50.0, "ohm_per_v", False,
                 "insulation is too low: do not touch, have it inspected"),
            Rule("failure_likely", "critical", self.failure_pct, 10.0, "pct", True,
                 "a critical fault within 7 days is likely"),
            Rule("bms_alarm", "critical", float(self.bms_alarm_level), 0.5, "level", True,
                 "the battery management system reports an alarm"),
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        return {"active": sum(len(pack.alerts) for pack in self._store.packs)}
