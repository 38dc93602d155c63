"""Prometheus metrics of all packs of a fleet together: none is left out of them, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge.bands import BANDS, Band
from edge.survey import Column, Survey, Surveyor

Aggregate = Callable[[Column], float]

FLEET_GAUGES: dict[str, tuple[str, str, Aggregate]] = {
    "battery_fleet_soc_mean": ("soc", "Mean state of charge, percent.", np.mean),
    "battery_fleet_soh_predicted_mean": ("soh", "Mean predicted state of health, percent.", np.mean),
    "battery_fleet_soh_predicted_min": ("soh", "Lowest predicted state of health, percent.", np.min),
    "battery_fleet_temp_max": ("temperature", "Highest cell temperature, degrees Celsius.", np.max),
    "battery_fleet_rul_predicted_min": ("rul", "Fewest predicted remaining cycles.", np.min),
    "battery_fleet_failure_predicted_max": (
        "failure", "Highest predicted failure probability, percent.", np.max,
    ),
    "battery_fleet_cell_spread_volts_max": (
        "spread_v", "Widest difference between the highest and the lowest cell voltage of a pack.", np.max,
    ),
    "battery_fleet_insulation_ohms_per_volt_min": (
        "insulation_ohm_per_v", "Lowest insulation resistance for each volt of the pack; ISO 6469-3 asks for 100.", np.min,
    ),
    "battery_fleet_power_watts": ("power_w", "Power of all packs together, positive into the batteries.", np.sum),
    "battery_fleet_silent_packs": ("is_silent", "Packs that the gateway has not heard of for `silent_after_s`.", np.sum),
    "battery_fleet_offline_packs": ("is_offline", "Packs that said goodbye, or whose last will came.", np.sum),
    "battery_fleet_voltage_residual_volts": (
        "voltage_residual_v", "How far the cell voltages are from the twins' models: mean of the absolute differences.",
        lambda values: float(np.abs(values).mean()),
    ),
    "battery_fleet_soc_residual": (
        "soc_residual_pct",
        "How far the states of charge that the BMS report are from the twins': mean of the absolute differences, percent.",
        lambda values: float(np.abs(values).mean()),
    ),
}  # fmt: skip
"""Column, help and aggregate by the name of the series."""

DISTRIBUTIONS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "battery_fleet_soc_distribution": (
        "soc", "Packs by state of charge, percent.", (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
    ),
    "battery_fleet_soh_predicted_distribution": (
        "soh", "Packs by predicted state of health, percent.", (60, 65, 70, 75, 80, 85, 90, 92.5, 95, 97.5, 100),
    ),
    "battery_fleet_temp_distribution": (
        "temperature", "Packs by highest cell temperature, degrees Celsius.", (-10, 0, 10, 20, 25, 30, 35, 40, 45, 50, 60),
    ),
    "battery_fleet_rul_predicted_distribution": (
        "rul", "Packs by predicted remaining equivalent full cycles.", (0, 50, 100, 250, 500, 750, 1000, 1500, 2000, 3000),
    ),
    "battery_fleet_failure_predicted_distribution": (
        "failure", "Packs by predicted failure probability, percent.", (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 80, 100),
    ),
}  # fmt: skip
"""Column, help and upper limits of the buckets by the name of the series."""

GRADES = ("good", "fair", "poor", "unknown")


class FleetCollector(Collector):
    """Each fleet's packs together; the fleets beyond a limit are one."""

    def __init__(self, surveyor: Surveyor) -> None:
        self._surveyor = surveyor

    def collect(self) -> Iterable[Metric]:
        survey = self._surveyor.look()
        yield _packs(survey)
        yield from _gauges(survey)
        yield _bands(survey)
        yield from _distributions(survey)
        yield _alerts(survey)
        yield GaugeMetricFamily(
            "voltflow_packs_without_series", "Packs beyond the limit of packs with series of their own.",
            survey.packs - len(survey.chosen),
        )  # fmt: skip
        yield GaugeMetricFamily(
            "voltflow_survey_seconds",
            "What the last look at all packs for these metrics took; it stands for at least 20 times as long.",
            survey.cost_s,
        )


def _by_fleet(survey: Survey, column: str) -> Iterator[tuple[str, Column]]:
    """The known values of each fleet's packs."""
    values = survey.columns[column]
    for place, fleet in enumerate(survey.fleets):
        of_fleet = values[survey.fleet_of == place]
        yield fleet, of_fleet[~np.isnan(of_fleet)]


def _sizes(survey: Survey) -> list[int]:
    """How many packs each fleet has."""
    return [int(size) for size in np.bincount(survey.fleet_of, minlength=len(survey.fleets))]


def _packs(survey: Survey) -> Metric:
    family = GaugeMetricFamily("battery_fleet_packs", "Packs this gateway knows.", labels=["fleet"])
    for fleet, size in zip(survey.fleets, _sizes(survey), strict=True):
        family.add_metric([fleet], size)
    return family


def _gauges(survey: Survey) -> Iterator[Metric]:
    for name, (column, text, aggregate) in FLEET_GAUGES.items():
        family = GaugeMetricFamily(name, text, labels=["fleet"])
        for fleet, known in _by_fleet(survey, column):
            if len(known):
                family.add_metric([fleet], float(aggregate(known)))
        yield family


def _bands(survey: Survey) -> Metric:
    family = GaugeMetricFamily(
        "battery_fleet_band_packs",
        "Packs by what people are to think of a quantity (soc and temperature as measured, the others as predicted).",
        labels=["fleet", "quantity", "band"],
    )
    for quantity, band in BANDS.items():
        for size, (fleet, known) in zip(_sizes(survey), _by_fleet(survey, quantity), strict=True):
            counts = [*_graded(known, band), size - len(known)]
            for grade, count in zip(GRADES, counts, strict=True):
                family.add_metric([fleet, quantity, grade], count)
    return family


def _graded(values: Column, band: Band) -> tuple[int, int, int]:
    """How many are good, fair, poor: as `Band.of`, for many values at once."""
    sign = 1 if band.poor > band.fair else -1
    beyond_fair, beyond_poor = (int((sign * values > sign * limit).sum()) for limit in (band.fair, band.poor))
    return len(values) - beyond_fair, beyond_fair - beyond_poor, beyond_poor


def _distributions(survey: Survey) -> Iterator[Metric]:
    for name, (column, text, limits) in DISTRIBUTIONS.items():
        family = GaugeHistogramMetricFamily(name, text, labels=["fleet"])
        for fleet, known in _by_fleet(survey, column):
            buckets = [(f"{limit:g}", float((known <= limit).sum())) for limit in limits]
            family.add_metric([fleet], [*buckets, ("+Inf", float(len(known)))], gsum_value=float(known.sum()))
        yield family


def _alerts(survey: Survey) -> Metric:
    family = GaugeMetricFamily(
        "battery_fleet_alerts",
        "Alerts that are raised and not cleared.",
        labels=["fleet", "code", "severity"],
    )
    for labels, count in sorted(survey.alerts.items()):
        family.add_metric(list(labels), count)
    return family
