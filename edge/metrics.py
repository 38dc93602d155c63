"""The gateway's Prometheus metrics: the packs under the seed's names, the engine, the process.

Everything is read when Prometheus asks. A series whose value is not known is absent. At most `metrics_max_packs` packs get
series of their own, the most worrying ones; all packs are in the `battery_fleet_…` aggregates. docs/metrics.md lists all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge import comparison
from edge.answers import age_s, online
from edge.bands import is_silent, worry
from edge.clock_metrics import ClockCollector
from edge.fleet_metrics import FleetCollector
from edge.gaps import EVENTS
from edge.health_metrics import HealthCollector
from edge.model_metrics import ModelCollector
from edge.quantities import insulation_ohm_per_v, power_w, predicted, spread_v
from edge.state import AppState
from edge.stream import Streams
from edge.survey import Survey
from edge.twin import PackTwin
from voltflow.clock import receive_clock
from voltflow.metrics import EngineCollector
from voltflow.state.metrics import StateCollector
from voltflow.telemetry import Telemetry

Value = Callable[[PackTwin], float | None]


def _measured(read: Callable[[Telemetry], float | None]) -> Value:
    return lambda twin: None if (telemetry := twin.telemetry) is None else read(telemetry)


def _bound(model: str, end: Literal["low", "high"]) -> Value:
    def read(twin: PackTwin) -> float | None:
        prediction = twin.predictions.get(model)
        return None if prediction is None else getattr(prediction, end)

    return read


def _insulation_ohm(telemetry: Telemetry) -> float | None:
    return None if telemetry.insulation_kohm is None else telemetry.insulation_kohm * 1000


PACK_GAUGES: dict[str, tuple[str, Value]] = {
    "battery_soc_actual": ("State of charge the BMS reports, percent.", _measured(lambda t: t.soc_pct)),
    "battery_soh_actual": (
        "State of health measured by the last charge session over half the capacity, percent.",
        lambda twin: comparison.soh_actual(twin)[0],
    ),
    "battery_soh_predicted": ("Predicted state of health, percent.", lambda twin: predicted(twin, "soh")),
    "battery_temp_actual": (
        "Highest cell temperature, degrees Celsius.",
        _measured(lambda t: t.cell_temp_max_c),
    ),
    "battery_temp_predicted": (
        "Highest cell temperature predicted for 10 minutes after the prediction, degrees Celsius.",
        lambda twin: predicted(twin, "temperature"),
    ),
    "battery_rul_actual": (
        "Remaining equivalent full cycles; known only in hindsight, so a gateway has no series.",
        lambda _: None,
    ),
    "battery_rul_predicted": (
        "Predicted equivalent full cycles until 80 percent of the rated capacity.",
        lambda twin: predicted(twin, "rul"),
    ),
    "battery_failure_actual": (
        "Whether a critical fault came within 7 days; known only in hindsight, so a gateway has no series.",
        lambda _: None,
    ),
    "battery_failure_predicted": (
        "Predicted probability of a critical fault in 7 days, percent.",
        lambda twin: predicted(twin, "failure"),
    ),
    "battery_voltage": ("Pack voltage, volts.", _measured(lambda t: t.pack_voltage_v)),
    "battery_current": (
        "Pack current, amperes, positive into the battery.",
        _measured(lambda t: t.pack_current_a),
    ),
    "battery_power": ("Power, watts, positive into the battery.", _measured(power_w)),
    "battery_soc_estimated": (
        "State of charge as the gateway's own filter estimates it, percent.",
        lambda twin: twin.estimate.soc_pct,
    ),
    "battery_rul_predicted_low": (
        "Lower end of the 80 percent interval of the remaining cycles.",
        _bound("rul", "low"),
    ),
    "battery_rul_predicted_high": ("Upper end of that interval.", _bound("rul", "high")),
    "battery_cell_spread_volts": ("Highest minus lowest cell voltage.", _measured(spread_v)),
    "battery_insulation_ohms": ("Insulation resistance the BMS reports.", _measured(_insulation_ohm)),
    "battery_insulation_ohms_per_volt": (
        "Insulation resistance for each volt of the pack; ISO 6469-3 asks for 100.",
        _measured(insulation_ohm_per_v),
    ),
    "battery_online": (
        "1 since the device's birth message, 0 since its last will; absent where it sent neither.",
        online,
    ),
    "battery_silent": ("1 where the gateway has heard nothing of the pack for `silent_after_s`.", is_silent),
    "battery_message_age_seconds": (
        "Since the pack's last message came.",
        lambda twin: age_s(twin, receive_clock.now_s()) if twin.telemetry else None,
    ),
    "battery_active_alerts": ("Alerts that are raised and not cleared.", lambda twin: len(twin.alerts)),
    "battery_worry": ("Points by which packs are sorted, the most worrying first.", worry),
}
"""Help and value by the name of the series."""


class TwinCollector(Collector):
    """The most worrying packs one by one, and what the flow found wrong with the messages of all."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        survey = self._state.surveyor.look()
        for name, (text, value) in PACK_GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=["fleet", "pack"])
            for twin in survey.chosen:
                if (number := value(twin)) is not None:
                    family.add_metric([twin.fleet, twin.pack], number)
            yield family
        yield from self._messages(survey)

    def _messages(self, survey: Survey) -> Iterator[Metric]:
        invalid = CounterMetricFamily(
            "voltflow_invalid_values", "Values that could not be and were made null.", labels=["field"]
        )
        for name, count in sorted(dict(self._state.store.invalid_fields).items()):
            invalid.add_metric([name], count)
        yield invalid
        yield from self._sequences(survey)
        late = survey.columns["late"].sum()
        yield CounterMetricFamily("voltflow_late_messages", "Messages not newer than the pack's last.", late)

    def _sequences(self, survey: Survey) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "voltflow_sequence",
            "Messages asked for again (asked), received so (filled), given up, duplicate, of a number that went back; "
            "requests; identity conflicts; restarts of devices (new_boot).",
            labels=["event"],
        )
        counted = dict(self._state.store.sequence_events)
        for event in EVENTS:
            events.add_metric([event], counted.get(event, 0))
        yield events
        yield GaugeMetricFamily(
            "voltflow_sequence_holes_open",
            "Ranges of missing messages that are not given up.",
            survey.columns["holes"].sum(),
        )


class StreamCollector(Collector):
    """The clients of `/api/stream`."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def collect(self) -> Iterable[Metric]:
        streams = self._streams
        yield GaugeMetricFamily("voltflow_stream_clients", "Open event streams.", len(streams.clients))
        yield CounterMetricFamily("voltflow_stream_events", "Events queued for clients.", streams.events)
        yield CounterMetricFamily(
            "voltflow_stream_dropped_events", "Events that too slow clients lost.", streams.dropped
        )


def make_registry(state: AppState, streams: Streams | None = None) -> CollectorRegistry:
    """Everything `/metrics` answers, in a registry of its own."""
    registry = CollectorRegistry()
    registry.register(TwinCollector(state))
    registry.register(FleetCollector(state.surveyor))
    registry.register(ModelCollector(state))
    registry.register(HealthCollector(state))
    registry.register(EngineCollector(state.engine))
    registry.register(ClockCollector(state.store))
    if state.durable is not None:
        registry.register(StateCollector(state.durable))
    if streams is not None:
        registry.register(StreamCollector(streams))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
