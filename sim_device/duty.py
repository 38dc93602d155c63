"""What the drivers do: trips, parking, plugging in. Events are rare and decided pack by pack with its own generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim_device.packs import Packs
from sim_device.trips import ROADS, TRACE_S, TRACES, Trips, trips

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REST, DRIVE, CHARGE = 0, 1, 2
DAY_S, HOUR_S = 86400.0, 3600.0
NEVER = np.inf
LOWEST_SOC = 0.08
AUX_W, HVAC_W_PER_K, HVAC_MAX_W = 350.0, 85.0, 3000.0
CUTOFF_C_RATE = 0.045
"""A charge is complete when the current at constant voltage has fallen below this."""
TRIPS_PER_DAY_WAKE_H = 15.0


class Duty:
    """State of every pack's day: `mode`, the trace it drives, the charger it hangs on."""

    def __init__(
        self,
        packs: Packs,
        rngs: list[np.random.Generator],
        t_s: Floats,
        soc: Floats,
        busy: bool,
        activity: Floats | None = None,
    ) -> None:
        n = len(packs)
        self.packs = packs
        self.trips: Trips = trips()
        self.rngs = rngs
        self.per_day = packs.trips_per_day * (1.0 if activity is None else activity)
        self.mode = np.zeros(n, np.int64)
        self.next_s = np.zeros(n)
        self.trace = np.zeros(n, np.int64)
        self.trace_s = np.zeros(n)
        self.style = np.ones(n)
        self.charger_w = np.zeros(n)
        self.is_dc = np.zeros(n, bool)
        self.plugged = np.zeros(n, bool)
        for i in range(n):
            self._begin(i, float(t_s[i]), float(soc[i]), busy)

    def _begin(self, i: int, t_s: float, soc: float, busy: bool) -> None:
        """Where a pack is when the simulation starts; `busy`: a third each charging, driving, about to leave."""
        rng = self.rngs[i]
        if not busy:
            self.next_s[i] = self._departure(i, t_s)
        elif soc < 0.2 or self.packs.number[i] % 3 == 0:
            self._plug_in(i)
        elif self.packs.number[i] % 3 == 1:
            self._depart(i, t_s)
        else:
            self.next_s[i] = t_s + rng.uniform(60.0, 900.0)

    # -- every step ---------------------------------------------------------------------------------------------

    def update(self, t_s: Floats, soc: Floats, current_a: Floats, capacity_ah: Floats) -> None:
        """Let begin and end what is due at `t_s`; `current_a` is that of the last step (charging < 0)."""
        full = (soc >= self.packs.charge_to) | (
            (current_a > -CUTOFF_C_RATE * capacity_ah) & (soc > 0.9) & (current_a < 0)
        )
        due = (t_s >= self.next_s) | ((self.mode == CHARGE) & full)
        due |= (self.mode == DRIVE) & (soc < LOWEST_SOC)
        for i in np.flatnonzero(due):
            self._event(int(i), float(t_s[i]), float(soc[i]), bool(full[i]))

    def drive_power_w(self, step_s: float, ambient_c: Floats) -> tuple[Floats, Floats, Floats]:
        """Mean power at the battery, distance (m) and speed (m/s) of the coming step; advances the traces."""
        driving = self.mode == DRIVE
        tables, trace, start = self.trips, self.trace, self.trace_s
        energy_j = tables.between(tables.energy_j, trace, start, step_s)
        distance_m = np.where(driving, tables.between(tables.distance_m, trace, start, step_s), 0.0)
        aux_w = AUX_W + np.minimum(HVAC_W_PER_K * np.abs(ambient_c - 21.0), HVAC_MAX_W)
        traction_w = energy_j / step_s * self.packs.consumption
        power_w = np.where(
            driving, np.where(traction_w > 0, traction_w * self.style, traction_w) + aux_w, 0.0
        )
        self.trace_s = np.where(driving, (start + step_s) % TRACE_S, start)
        speed = np.where(driving, tables.speed_mps[trace, self.trace_s.astype(np.int64)], 0.0)
        return power_w, distance_m, speed

    # -- events -------------------------------------------------------------------------------------------------

    def _event(self, i: int, t_s: float, soc: float, full: bool) -> None:
        if self.mode[i] == CHARGE:
            self.mode[i], self.plugged[i] = REST, full
            self.next_s[i] = self._departure(i, t_s + 600.0)
        elif self.mode[i] == DRIVE:
            self.mode[i] = REST
            self._park(i, t_s, soc)
        elif soc < 0.12 or (self.plugged[i] and not full and soc < self.packs.charge_to[i] - 0.1):
            self._plug_in(i)
        else:
            self._depart(i, t_s)

    def _park(self, i: int, t_s: float, soc: float) -> None:
        """After a trip: plug in when low, sometimes just because there is a charger."""
        rng = self.rngs[i]
        top_up = rng.random() < 0.06 and soc < self.packs.charge_to[i] - 0.15
        if soc < self.packs.plug_below[i] or top_up:
            self.plugged[i] = True
            self.next_s[i] = t_s + rng.uniform(120.0, 1200.0)
        else:
            self.next_s[i] = self._departure(i, t_s)

    def _plug_in(self, i: int) -> None:
        rng, packs = self.rngs[i], self.packs
        self.is_dc[i] = rng.random() < packs.dc_share[i]
        self.charger_w[i] = packs.dc_power_w[i] if self.is_dc[i] else packs.ac_power_w[i]
        self.mode[i], self.plugged[i], self.next_s[i] = CHARGE, True, NEVER

    def _depart(self, i: int, t_s: float) -> None:
        rng, packs = self.rngs[i], self.packs
        road = int(rng.choice(len(ROADS), p=packs.road[i]))
        self.trace[i] = road + len(ROADS) * int(rng.integers(TRACES // len(ROADS)))
        self.trace_s[i] = rng.uniform(0.0, TRACE_S * 0.99)
        self.style[i] = 1.35 if rng.random() < 0.06 else rng.uniform(0.92, 1.10)  # now and then hard driving
        length_s = np.clip(packs.trip_s[i] * rng.lognormal(-0.1, 0.45), 240.0, 3.0 * HOUR_S)
        self.mode[i], self.plugged[i], self.next_s[i] = DRIVE, False, t_s + length_s

    def _departure(self, i: int, t_s: float) -> float:
        """When the next trip starts: spread over the waking day, else next morning."""
        rng, packs = self.rngs[i], self.packs
        mean_s = max(TRIPS_PER_DAY_WAKE_H * HOUR_S / self.per_day[i] - packs.trip_s[i], 300.0)
        leave_s = t_s + np.clip(rng.exponential(mean_s), 180.0, 8.0 * HOUR_S)
        hour = leave_s % DAY_S / HOUR_S
        if 6.0 <= hour <= 22.0:
            return float(leave_s)
        midnight = leave_s - leave_s % DAY_S + (DAY_S if hour > 22.0 else 0.0)
        return float(midnight + rng.uniform(6.0, 9.0) * HOUR_S)


def efc_per_day(packs: Packs) -> Floats:
    """Expected full cycles a day of this way of driving, for the years between two looks at a pack."""
    table = trips()
    per_s = table.energy_j[:, TRACE_S] / TRACE_S
    road_w = np.stack([per_s[r :: len(ROADS)].mean() for r in range(len(ROADS))])
    power_w = packs.road @ road_w * packs.consumption + AUX_W + HVAC_W_PER_K * 9.0
    hours = packs.trips_per_day * packs.trip_s / HOUR_S
    return np.asarray(power_w * hours / 1000.0 / packs.energy_kwh())
