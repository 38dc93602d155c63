"""The battery management system: what its sensors, its own estimators and its radio make of the truth.

Its state of charge is an estimate (a current sensor with offset and gain error, corrected at rest where the
open-circuit voltage tells anything), so it differs from the truth, most of all for LFP. Values are quantised as real
ones are, some are invalid (NaN here, null and named in `quality.invalid` on the wire), and some messages are never
sent; `seq` counts what is sent, so a gap in time is no hole in `seq`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim_device.duty import CHARGE, REST
from sim_device.packs import CELLS, CHEMISTRY_NAMES
from sim_device.plant import Plant, Truth

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NUMERIC = (
    "speed_kmh", "odometer_km", "pack_voltage_v", "pack_current_a", "soc_pct", "soh_bms_pct",
    "cell_voltage_min_v", "cell_voltage_max_v", "cell_voltage_avg_v", "cell_voltage_min_id", "cell_voltage_max_id",
    "cell_temp_min_c", "cell_temp_max_c", "cell_temp_avg_c", "coolant_inlet_c", "coolant_outlet_c", "ambient_c",
    "insulation_kohm", "limit_charge_kw", "limit_discharge_kw", "charge_throughput_ah", "discharge_throughput_ah",
    "efc", "balancing_cells", "alarm_level",
)  # fmt: skip
"""The numeric fields of `bms.telemetry/1` that this BMS reports."""
WHOLE_NUMBERS = frozenset({"cell_voltage_min_id", "cell_voltage_max_id", "balancing_cells", "alarm_level"})

CAN_FAIL = (
    "cell_voltage_min_v", "cell_voltage_max_v", "cell_temp_min_c", "cell_temp_max_c", "pack_voltage_v", "ambient_c",
    "insulation_kohm", "coolant_outlet_c", "speed_kmh",
)  # fmt: skip
INVALID_SHARE = 0.002
CHATTER_SHARE, CHATTER_INVALID = 0.04, 0.3
"""A few packs lose one cell voltage in a third of their messages, as two of the three vehicles of the field month do."""

SHORT_GAPS_PER_S, SHORT_GAP_S = 10.0 / 86400.0, 180.0
LONG_GAPS_PER_S, LONG_GAP_S = 0.2 / 3600.0, 7200.0
LONG_SHARE_PARKED = LONG_GAPS_PER_S / (LONG_GAPS_PER_S + SHORT_GAPS_PER_S)
"""Gaps as in the field month: some of minutes at any time, and hours while parked."""

SETTLED_S, CORRECTION_TAU_S = 1800.0, 1800.0
START_ERROR = {"NMC": 0.012, "LFP": 0.035, "NCA": 0.012}

OHM_PER_V_WARNING, OHM_PER_V_CRITICAL = 500.0, 100.0
ALARM_TEMP_C = (50.0, 55.0, 60.0)
ALARM_SPREAD_V = (0.12, 0.20, 0.35)
DTC_INSULATION, DTC_TEMPERATURE, DTC_SPREAD = "P0AA6", "P0A7E", "P0BBD"
INVERSE_V = np.arange(2.0, 4.4, 0.001)


class Bms:
    """One BMS for every pack. `read` after each step of the plant: NUMERIC by name, NaN where invalid."""

    def __init__(self, plant: Plant, seed: int, *, gaps: bool = True) -> None:
        n, packs = len(plant.packs), plant.packs
        self.packs, self.plant, self.gaps = packs, plant, gaps
        self.rng = np.random.default_rng([seed, 11])
        self._inverse = np.stack([np.interp(INVERSE_V, cell.ocv_v, cell.ocv_soc) for cell in CELLS])
        self._is_lfp = packs.chemistry == CHEMISTRY_NAMES.index("LFP")
        sigma = np.array([START_ERROR[name] for name in packs.chemistry_names()])
        self.soc = np.clip(plant.circuit.state.soc + sigma * self.rng.normal(size=n), 0.02, 0.99)
        self.soh = np.clip(plant.capacity_ah / packs.capacity_rated_ah + packs.soh_bias, 0.4, 1.0)
        self._rest_s = np.zeros(n)
        self._gap_until_s = np.zeros(n)
        self._weakest = self.rng.integers(1, packs.cells_series.astype(int) + 1)
        self._fullest = self.rng.integers(1, packs.cells_series.astype(int) + 1)
        self._chatter = np.flatnonzero(self.rng.random(n) < CHATTER_SHARE)
        self.published: Bools = np.ones(n, bool)
        self.charging: Bools = np.zeros(n, bool)
        self.truth: Truth | None = None

    def read(self, truth: Truth, step_s: float) -> dict[str, Floats]:
        """What the BMS reports after a step."""
        self.truth = truth
        self._estimate_soc(truth, step_s)
        self.charging = truth.mode == CHARGE
        values = self._electrical(truth) | self._temperatures(truth) | self._counters(truth)
        values["insulation_kohm"] = self._insulation(truth)
        values["balancing_cells"] = np.where(self.charging & (truth.soc > 0.85), 4.0, 0.0)
        values["alarm_level"] = self._alarm(values)
        self._invalidate(values)
        self.published = self._gaps(truth, step_s)
        return {name: values[name] for name in NUMERIC}

    def dtc(self, i: int, values: dict[str, Floats]) -> list[str]:
        """Trouble codes of one pack."""
        causes = self._levels(values)
        return [code for code, level in zip((DTC_TEMPERATURE, DTC_SPREAD, DTC_INSULATION), causes, strict=True)
                if level[i] >= 2]  # fmt: skip

    # -- estimators ---------------------------------------------------------------------------------------------

    def _estimate_soc(self, truth: Truth, step_s: float) -> None:
        """Count what the sensor shows; at rest pull to the nominal OCV where it is steep; 100 % when full."""
        resting = truth.mode == REST
        measured_a = np.where(
            resting, 0.0, truth.current_a * self.packs.current_gain - self.packs.current_offset_a
        )
        soc = self.soc - measured_a * step_s / (3600.0 * self.packs.capacity_rated_ah * self.soh)
        self._rest_s = np.where(resting, self._rest_s + step_s, 0.0)
        settled = self._rest_s > SETTLED_S
        if settled.any():
            place = ((truth.cell_avg_v - INVERSE_V[0]) * 1000.0).astype(np.int64)
            told = self._inverse[self.packs.chemistry, np.clip(place, 0, len(INVERSE_V) - 1)]
            knows = settled & (~self._is_lfp | (told < 0.12) | (told > 0.985))
            soc = np.where(knows, soc + (told - soc) * (1.0 - np.exp(-step_s / CORRECTION_TAU_S)), soc)
        full = (truth.mode == CHARGE) & (truth.soc > 0.995)
        self.soc = np.clip(np.where(full, 1.0, soc), 0.0, 1.0)

    def _levels(self, values: dict[str, Floats]) -> tuple[NDArray[np.int64], ...]:
        """Alarm level (0–3) by cause: temperature, cell spread, insulation."""
        spread_v = values["cell_voltage_max_v"] - values["cell_voltage_min_v"]
        ohm_per_v = values["insulation_kohm"] * 1000.0 / np.maximum(values["pack_voltage_v"], 1.0)
        insulation = np.where(
            ohm_per_v < OHM_PER_V_CRITICAL, 3, np.where(ohm_per_v < OHM_PER_V_WARNING, 2, 0)
        )
        temp = np.searchsorted(ALARM_TEMP_C, np.nan_to_num(values["cell_temp_max_c"]), "right")
        return temp, np.searchsorted(ALARM_SPREAD_V, np.nan_to_num(spread_v), "right"), insulation

    def _alarm(self, values: dict[str, Floats]) -> Floats:
        return np.asarray(np.maximum.reduce(self._levels(values)), float)

    # -- sensors ------------------------------------------------------------------------------------------------

    def _noise(self, sigma: float) -> Floats:
        return self.rng.normal(0.0, sigma, len(self.packs))

    def _electrical(self, truth: Truth) -> dict[str, Floats]:
        packs, resting = self.packs, truth.mode == REST
        shown_a = -truth.current_a * packs.current_gain + packs.current_offset_a + self._noise(0.06)
        cells = np.stack([truth.cell_min_v, truth.cell_avg_v, truth.cell_max_v])
        cells = np.sort(np.round(cells + self.rng.normal(0.0, 0.0010, cells.shape), 3), axis=0)
        step = packs.soc_resolution
        return {
            "pack_voltage_v": np.round(truth.pack_v + self._noise(0.08), 1),
            "pack_current_a": np.where(resting, 0.0, np.round(shown_a, 1)),  # contactors open
            "soc_pct": np.where(step == 1.0, np.round(self.soc * 100.0), np.round(self.soc * 100.0, 1)),
            "soh_bms_pct": np.round(self.soh * 200.0) / 2.0,
            "cell_voltage_min_v": cells[0],
            "cell_voltage_avg_v": cells[1],
            "cell_voltage_max_v": cells[2],
            "cell_voltage_min_id": self._weakest.astype(float),
            "cell_voltage_max_id": self._fullest.astype(float),
            "limit_charge_kw": np.round(truth.charge_limit_a * truth.pack_v / 1000.0, 1),
            "limit_discharge_kw": np.round(truth.discharge_limit_a * truth.pack_v / 1000.0, 1),
        }

    def _temperatures(self, truth: Truth) -> dict[str, Floats]:
        probes = np.stack([truth.temp_min_c, truth.temp_avg_c, truth.temp_max_c])
        probes = np.sort(np.round(probes + self.rng.normal(0.0, 0.15, probes.shape)), axis=0)
        return {
            "cell_temp_min_c": probes[0],
            "cell_temp_avg_c": probes[1],
            "cell_temp_max_c": probes[2],
            "coolant_inlet_c": np.round(2.0 * truth.inlet_c) / 2.0,
            "coolant_outlet_c": np.round(2.0 * truth.outlet_c) / 2.0,
            "ambient_c": np.round(2.0 * (truth.ambient_c + self._noise(0.2))) / 2.0,
        }

    def _counters(self, truth: Truth) -> dict[str, Floats]:
        plant, gain = self.plant, self.packs.current_gain
        charged, used = plant.charged_ah * gain, plant.throughput_ah * gain
        return {
            "speed_kmh": np.round(truth.speed_mps * 3.6, 1),
            "odometer_km": np.round(truth.odometer_m / 1000.0, 1),
            "charge_throughput_ah": np.round(charged, 1),
            "discharge_throughput_ah": np.round(used, 1),
            "efc": np.round(0.5 * (charged + used) / self.packs.capacity_rated_ah, 2),
        }

    def _insulation(self, truth: Truth) -> Floats:
        noise = np.exp(self._noise(0.03))
        return np.minimum(np.round(truth.insulation_ohm * noise / 1000.0), 50_000.0)

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def _invalidate(self, values: dict[str, Floats]) -> None:
        """Set some values to NaN: any sensor now and then, and one cell voltage of the packs that chatter."""
        rng = self.rng
        for i in np.flatnonzero(rng.random(len(self.packs)) < INVALID_SHARE):
            values[CAN_FAIL[rng.integers(len(CAN_FAIL))]][i] = np.nan
        if len(self._chatter):
            lost = self._chatter[rng.random(len(self._chatter)) < CHATTER_INVALID]
            name = "cell_voltage_min_v" if rng.random() < 0.5 else "cell_voltage_max_v"
            values[name][lost] = np.nan

    def _gaps(self, truth: Truth, step_s: float) -> Bools:
        """Which packs send this message."""
        if not self.gaps:
            return np.ones(len(self.packs), bool)
        rng, parked = self.rng, (truth.mode == REST) & (self._rest_s > 900.0)
        chance = step_s * np.where(parked, SHORT_GAPS_PER_S + LONG_GAPS_PER_S, SHORT_GAPS_PER_S)
        sending = truth.t_s >= self._gap_until_s
        for i in np.flatnonzero(sending & (rng.random(len(self.packs)) < chance)):
            typical_s = LONG_GAP_S if parked[i] and rng.random() < LONG_SHARE_PARKED else SHORT_GAP_S
            self._gap_until_s[i] = truth.t_s[i] + typical_s * rng.lognormal(0.0, 0.7)
        return np.asarray(truth.t_s >= self._gap_until_s)
