"""The plant: every pack's true physics, advanced together. What a BMS makes of it is bms.py's matter.

plant = Plant(packs, start_s=1.7e9)
truth = plant.step(10.0)      # arrays of one value per pack
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_device import ageing, faults
from sim_device.cell import Circuit
from sim_device.duty import CHARGE, DRIVE, Duty, efc_per_day
from sim_device.packs import CELLS, Packs
from sim_device.thermal import Heat, Thermal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_STEP_S = 30.0
"""Longer steps are cut by the callers: trips, thresholds and constant-voltage charging need this resolution."""
AMBIENT_PERIOD_S = 300.0
AGEING_PERIOD_S = 3600.0
SELF_DISCHARGE_PER_DAY = 0.0007
INVERTER_W = 150e3


@dataclass
class Truth:
    """What is really the case at the end of a step; one value per pack, current > 0 = discharge."""

    t_s: Floats
    mode: Ints
    plugged: NDArray[np.bool_]
    speed_mps: Floats
    odometer_m: Floats
    current_a: Floats
    pack_v: Floats
    cell_avg_v: Floats
    cell_min_v: Floats
    cell_max_v: Floats
    soc: Floats
    soh: Floats
    temp_max_c: Floats
    temp_min_c: Floats
    temp_avg_c: Floats
    core_c: Floats
    inlet_c: Floats
    outlet_c: Floats
    ambient_c: Floats
    insulation_ohm: Floats
    charge_limit_a: Floats
    discharge_limit_a: Floats
    heat_w: Floats
    power_w: Floats
    """mean over the step at the terminals"""
    chemical_w: Floats
    """mean over the step of what leaves the electromotive force (OCV and hysteresis): power plus heat"""
    thermal: Heat


class Plant:
    """The state of all packs. `start_s` may be one time for all or one per pack (seconds since 1970)."""

    def __init__(
        self,
        packs: Packs,
        start_s: float | Floats,
        *,
        health: ageing.Health | None = None,
        defects: faults.Faults | None = None,
        activity: Floats | None = None,
        busy: bool = False,
    ) -> None:
        n = len(packs)
        rngs = packs.generators()
        self.packs, self.t_s = packs, np.broadcast_to(np.asarray(start_s, float), (n,)).copy()
        self.health = health or ageing.new_health(n)
        self.defects = defects or faults.no_faults(n)
        self._ageing, self._weather = ageing.Ageing(packs), packs.weather()
        self._refresh_health()
        self._volts = np.array([CELLS[c].charge_end_v for c in packs.chemistry])
        self._volts_low = np.array([CELLS[c].discharge_end_v for c in packs.chemistry])
        drawn = np.array([rng.random() for rng in rngs])
        soc = 0.12 + 0.4 * drawn if busy else (0.35 + 0.55 * drawn) * packs.charge_to
        self.duty = Duty(packs, rngs, self.t_s, soc, busy, activity)
        self.circuit = Circuit(packs, soc)
        self._ambient_c, self._ambient_due = self._weather.ambient_c(self.t_s), 0.0
        warm_c = np.maximum(self._ambient_c + 4.0, 2.0)
        self.thermal = Thermal(packs.energy_kwh(), packs.heat_ua_scale, warm_c)
        self.odometer_m = self.health.efc * packs.energy_kwh() / 0.17 * 1000.0
        self.throughput_ah = self.health.efc * packs.capacity_rated_ah
        self.charged_ah = self.throughput_ah * 1.004
        self.lost_soc = self._lost_at_start()
        self._current_a = np.zeros(n)
        self._sums = np.zeros((4, n))
        self._sum_s = 0.0

    @property
    def capacity_ah(self) -> Floats:
        """What the packs really hold now."""
        return self._capacity_ah

    def step(self, step_s: float) -> Truth:
        """Advance all packs by `step_s` (at most MAX_STEP_S)."""
        self.t_s = self.t_s + step_s
        self._update_ambient(step_s)
        cooling = self.defects.cooling(self.t_s) if self.defects.any else np.ones(len(self.packs))
        circuit, duty = self.circuit, self.duty
        duty.update(self.t_s, circuit.state.soc, self._current_a, self._capacity_ah)
        drive_w, distance_m, speed = duty.drive_power_w(step_s, self._ambient_c)
        circuit.prepare(step_s, self.thermal.cell_c, self._capacity_ah, self._growth)
        limits = self._limits()
        current = self._current(drive_w, *limits)
        flow = current + SELF_DISCHARGE_PER_DAY * self._capacity_ah / 24.0
        electric = circuit.advance(flow)
        leak_w, hot_c = self._short(step_s, electric.ocv_v)
        n_cells = self.packs.cells_series
        heat_w = electric.heat_w * n_cells + leak_w
        thermal = self.thermal.advance(step_s, heat_w, self._ambient_c, duty.mode != 0, cooling)
        self._current_a = current
        self.odometer_m = self.odometer_m + distance_m
        self._count(step_s, current)
        spread = self._cell_spread(electric.voltage_v, electric.ocv_slope, current)
        probes = self._probes(hot_c)
        power_w, chemical_w = electric.voltage_mean_v * flow * n_cells, electric.emf_mean_v * flow * n_cells
        return Truth(
            self.t_s, duty.mode.copy(), duty.plugged.copy(), speed, self.odometer_m, current,
            electric.voltage_v * n_cells, electric.voltage_v, *spread, circuit.state.soc, self._soh, *probes,
            self.thermal.cell_c, *self.thermal.coolant_ports_c(cooling), self._ambient_c, self._insulation(), *limits,
            heat_w, power_w, chemical_w, thermal,
        )  # fmt: skip

    # -- current ------------------------------------------------------------------------------------------------

    def _limits(self) -> tuple[Floats, Floats]:
        """Charge and discharge limit in A, both > 0: cold and a full battery take little, an empty one gives little."""
        soc, temp_c = self.circuit.state.soc, self.thermal.cell_c
        cold = np.clip((temp_c + 10.0) / 30.0, 0.05, 1.0) * np.clip((60.0 - temp_c) / 10.0, 0.0, 1.0)
        taper = np.interp(soc, (0.0, 0.5, 0.8, 0.95, 1.0), (1.0, 1.0, 0.45, 0.2, 0.1))
        charge_a = 1.6 * self.packs.capacity_rated_ah * cold * taper
        give = np.clip(soc / 0.12, 0.05, 1.0) * np.clip((65.0 - temp_c) / 10.0, 0.1, 1.0)
        return charge_a, 2.6 * self.packs.capacity_rated_ah * give * np.clip((temp_c + 30.0) / 40.0, 0.2, 1.0)

    def _current(self, drive_w: Floats, charge_a: Floats, discharge_a: Floats) -> Floats:
        """The current of the step: drive power, or the charger's power until the cells reach their end voltage."""
        circuit, duty, n_cells = self.circuit, self.duty, self.packs.cells_series
        charging, driving = duty.mode == CHARGE, duty.mode == DRIVE
        wanted_w = np.where(charging, -duty.charger_w, np.minimum(drive_w, INVERTER_W))
        current = circuit.current_for_power(wanted_w / n_cells)
        highest = circuit.current_for_voltage(self._volts - 0.01)
        lowest = circuit.current_for_voltage(self._volts_low)
        current = np.minimum(np.maximum(current, np.minimum(highest, 0.0)), np.maximum(lowest, 0.0))
        regen_a = np.where(self.circuit.state.soc > 0.97, 0.0, charge_a)
        current = np.minimum(np.maximum(current, -np.where(charging, charge_a, regen_a)), discharge_a)
        return np.where(charging | driving, current, 0.0)

    # -- what is seen of single cells and probes ---------------------------------------------------------------

    def _cell_spread(self, cell_v: Floats, slope: Floats, current: Floats) -> tuple[Floats, Floats]:
        """Lowest and highest cell: spread of charge and of resistance, and the shorted group."""
        p = self.packs
        charge_v = np.minimum(slope, 1.5) * p.soc_spread
        ohmic_v = np.abs(current) * self.circuit.r0 * p.r_spread
        lowest = cell_v - charge_v - ohmic_v - p.cell_noise_v
        if self.defects.any:
            soc = self.circuit.state.soc
            fall = self.circuit.ocv.volts(soc) - self.circuit.ocv.volts(soc - self.lost_soc)
            lowest = np.where(self.lost_soc > 0, np.minimum(lowest, cell_v - fall - 0.5 * charge_v), lowest)
        return lowest, cell_v + charge_v + ohmic_v + p.cell_noise_v

    def _probes(self, hot_c: Floats) -> tuple[Floats, Floats, Floats]:
        """Highest, lowest and mean probe: a static spread, more where heat flows to the coolant, and a hot group."""
        t = self.thermal
        flow = np.abs(t.cell_c - t.coolant_c)
        half = 0.5 * (self.packs.probe_spread_c + 0.3 * np.minimum(flow, 12.0))
        return t.probe_c + np.maximum(half, hot_c), t.probe_c - half, t.probe_c

    def _short(self, step_s: float, ocv_v: Floats) -> tuple[Floats, Floats]:
        """Heat of an internal short (W) and how much hotter its group is (K); drains the group, balancing fills it."""
        if not self.defects.any:
            return np.zeros(len(self.packs)), np.zeros(len(self.packs))
        leak_a = ocv_v / self.defects.short_ohm(self.t_s)
        soc = self.circuit.state.soc
        balanced_a = np.where((soc > 0.85) & (self.duty.mode == CHARGE), faults.BALANCING_A, 0.0)
        moved = (leak_a - balanced_a) * step_s / (3600.0 * self._capacity_ah)
        self.lost_soc = np.clip(self.lost_soc + np.where(leak_a > 0, moved, 0.0), 0.0, np.maximum(soc, 0.02))
        leak_w = leak_a * ocv_v
        return leak_w, 0.8 * leak_w

    def _insulation(self) -> Floats:
        """Insulation against the chassis, Ω: the pack's own, less when wet, parallel to a fault's path."""
        own = self.packs.insulation_ohm * self._dry
        return 1.0 / (1.0 / own + 1.0 / self.defects.insulation_ohm(self.t_s)) if self.defects.any else own

    # -- slow things --------------------------------------------------------------------------------------------

    def _update_ambient(self, step_s: float) -> None:
        self._ambient_due -= step_s
        if self._ambient_due <= 0:
            self._ambient_due = AMBIENT_PERIOD_S
            self._ambient_c = self._weather.ambient_c(self.t_s)
            self._dry = 1.0 - 0.7 * self._weather.rain(self.t_s)

    def _count(self, step_s: float, current: Floats) -> None:
        """Throughput, and what the hourly ageing step needs."""
        moved_ah = current * step_s / 3600.0
        self.throughput_ah = self.throughput_ah + np.maximum(moved_ah, 0.0)
        self.charged_ah = self.charged_ah + np.maximum(-moved_ah, 0.0)
        self._sums += (
            np.array([self.thermal.cell_c, self.circuit.state.soc, np.abs(current), current**2]) * step_s
        )
        self._sum_s += step_s
        if self._sum_s >= AGEING_PERIOD_S:
            self._age()

    def _age(self) -> None:
        temp_c, soc, amps, squares = self._sums / self._sum_s
        days, rated = self._sum_s / 86400.0, self.packs.capacity_rated_ah
        rate = np.sqrt(squares) / rated
        stress = ageing.Stress(temp_c, soc, np.full(len(soc), 0.5), rate, amps * 24.0 / 2.0 / rated)
        self.health = self._ageing.advance(self.health, days, stress)
        self._refresh_health()
        self._sums[:], self._sum_s = 0.0, 0.0

    def _refresh_health(self) -> None:
        p = self.packs
        self._soh = p.capacity_scale * (1.0 - self.health.loss)
        self._capacity_ah = p.capacity_rated_ah * self._soh
        self._growth = 1.0 + p.r_growth * self.health.loss

    def _lost_at_start(self) -> Floats:
        if not self.defects.any:
            return np.zeros(len(self.packs))
        lost = np.zeros(len(self.packs))
        for start in np.unique(self.t_s):
            here = self.t_s == start
            lost[here] = self.defects.lost_soc(float(start), self._capacity_ah)[here]
        return lost


def life_stress(packs: Packs, t_s: float, activity: Floats) -> ageing.Stress:
    """Mean stress of ordinary life in the season of `t_s`, to fast-forward over months between two looks."""
    ambient = packs.weather().season_c(t_s)
    temp_c = np.clip(ambient + 5.0, 2.0, 33.0)
    depth = packs.charge_to - packs.plug_below
    soc = packs.charge_to - 0.5 * depth
    rate = 0.12 + 0.35 * packs.dc_share
    return ageing.Stress(temp_c, soc, depth, rate, efc_per_day(packs) * activity)
