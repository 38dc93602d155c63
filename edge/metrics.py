"""The gateway's Prometheus metrics: the packs under the seed's names, the engine, the process.

Everything is read when Prometheus asks. A series whose value is not known is absent. At most `MAX_PACKS` packs get
series of their own, the most worrying ones; all packs are in the `battery_fleet_…` aggregates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge import comparison
from edge.answers import power_kw
from edge.bands import predicted
from edge.clock_metrics import ClockCollector
from edge.gaps import EVENTS
from edge.state import AppState
from edge.stream import Streams
from edge.twin import PackTwin
from voltflow.battery.features import FEATURES
from voltflow.metrics import EngineCollector
from voltflow.state.metrics import StateCollector
from voltflow.telemetry import Telemetry

MAX_PACKS = 200
MAX_FLEETS = 100

Value = Callable[[PackTwin], float | None]


def _measured(read: Callable[[Telemetry], float | None]) -> Value:
    return lambda twin: None if (telemetry := twin.telemetry) is None else read(telemetry)


def _power_w(telemetry: Telemetry) -> float | None:
    kilowatt = power_kw(telemetry)
    return None if kilowatt is None else kilowatt * 1000


def _temperature(twin: PackTwin) -> comparison.Compared | None:
    return comparison.temperature(twin) if "temperature" in twin.joined else None


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
    "battery_power": ("Power, watts, positive into the battery.", _measured(_power_w)),
}
"""Help and value by the name of the series."""

_FLEET_GAUGES: dict[str, tuple[str, str, Callable[[list[float]], float]]] = {
    "battery_fleet_soc_mean": ("battery_soc_actual", "Mean state of charge, percent.", lambda v: sum(v) / len(v)),
    "battery_fleet_soh_predicted_mean": (
        "battery_soh_predicted", "Mean predicted state of health, percent.", lambda v: sum(v) / len(v),
    ),
    "battery_fleet_soh_predicted_min": ("battery_soh_predicted", "Lowest predicted state of health, percent.", min),
    "battery_fleet_temp_max": ("battery_temp_actual", "Highest cell temperature, degrees Celsius.", max),
    "battery_fleet_rul_predicted_min": ("battery_rul_predicted", "Fewest predicted remaining cycles.", min),
    "battery_fleet_failure_predicted_max": (
        "battery_failure_predicted", "Highest predicted failure probability, percent.", max,
    ),
}  # fmt: skip
"""Source series, help and aggregate by the name of the series; over all packs of a fleet."""


class TwinCollector(Collector):
    """The packs, the models and what the flow found wrong with messages."""

    def __init__(self, state: AppState, max_packs: int = MAX_PACKS) -> None:
        self._state = state
        self._max_packs = max_packs

    def collect(self) -> Iterable[Metric]:
        packs = self._state.roster.ranked()
        yield from self._packs(packs)
        yield from self._fleets(packs)
        yield from self._accuracy(packs)
        yield from self._models()
        yield from self._messages(packs)

    def _packs(self, packs: list[PackTwin]) -> Iterator[Metric]:
        for name, (text, value) in PACK_GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=["fleet", "pack"])
            for twin in packs[: self._max_packs]:
                if (number := value(twin)) is not None:
                    family.add_metric([twin.fleet, twin.pack], number)
            yield family
        yield GaugeMetricFamily(
            "voltflow_packs_without_series", "Packs beyond the limit of packs with series of their own.",
            max(0, len(packs) - self._max_packs),
        )  # fmt: skip

    @staticmethod
    def _fleets(packs: list[PackTwin]) -> Iterator[Metric]:
        by_fleet: dict[str, list[PackTwin]] = {}
        for twin in packs:
            by_fleet.setdefault(twin.fleet, []).append(twin)
        largest = sorted(by_fleet.items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_FLEETS]
        count = GaugeMetricFamily("battery_fleet_packs", "Packs this gateway knows.", labels=["fleet"])
        for fleet, twins in largest:
            count.add_metric([fleet], len(twins))
        yield count
        for name, (source, text, aggregate) in _FLEET_GAUGES.items():
            family, value = GaugeMetricFamily(name, text, labels=["fleet"]), PACK_GAUGES[source][1]
            for fleet, twins in largest:
                if known := [number for twin in twins if (number := value(twin)) is not None]:
                    family.add_metric([fleet], aggregate(known))
            yield family

    @staticmethod
    def _accuracy(packs: list[PackTwin]) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "prediction_accuracy", "Mean accuracy over the packs whose actual value is known, percent.",
            labels=["metric"],
        )  # fmt: skip
        found: dict[str, list[float]] = {}
        for twin in packs:
            if (compared := _temperature(twin)) is not None and compared.accuracy is not None:
                found.setdefault("temperature", []).append(compared.accuracy)
            answer, (actual, _) = predicted(twin, "soh"), comparison.soh_actual(twin)
            if answer is not None and actual is not None:
                found.setdefault("soh", []).append(comparison.accuracy_pct("soh", actual, answer))
        for metric, values in sorted(found.items()):
            family.add_metric([metric], sum(values) / len(values))
        yield family

    def _models(self) -> Iterator[Metric]:
        made = dict(self._state.store.predictions_made)
        family = CounterMetricFamily("predictions", "Predictions made, without null ones.", labels=["model"])
        for model in dict.fromkeys([*FEATURES, *made]):
            family.add_metric([model], made.get(model, 0))
        yield family
        yield CounterMetricFamily(
            "model_training",
            "Trainings done here: always 0, a gateway runs models and the cloud trains them.",
            0,
        )

    def _messages(self, packs: list[PackTwin]) -> Iterator[Metric]:
        invalid = CounterMetricFamily(
            "voltflow_invalid_values", "Values that could not be and were made null.", labels=["field"]
        )
        for name, count in sorted(dict(self._state.store.invalid_fields).items()):
            invalid.add_metric([name], count)
        yield invalid
        yield from self._sequences(packs)
        late = sum(twin.late for twin in packs)
        yield CounterMetricFamily("voltflow_late_messages", "Messages not newer than the pack's last.", late)

    def _sequences(self, packs: list[PackTwin]) -> Iterator[Metric]:
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
        holes = sum(1 for twin in packs for _ in twin.sequence.open_holes())
        yield GaugeMetricFamily(
            "voltflow_sequence_holes_open", "Ranges of missing messages that are not given up.", holes
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
    registry.register(EngineCollector(state.engine))
    registry.register(ClockCollector(state.store))
    if state.durable is not None:
        registry.register(StateCollector(state.durable))
    if streams is not None:
        registry.register(StreamCollector(streams))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
