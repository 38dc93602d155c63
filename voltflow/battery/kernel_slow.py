"""The rare parts of the step: moving means every 10 s and every minute, feature vectors.

The rules of `voltflow.battery.kernel` apply.
"""

from __future__ import annotations

from typing import Final

from voltflow.battery.ops import NAN, emit, gains, index, known, least, log10, most, sqrt
from voltflow.battery.records import Pack, Row, State, Work
from voltflow.battery.tables import (
    ARRHENIUS,
    TEMP_CELLS,
    TEMP_LOW_C,
)

MINUTE_S: Final = 59.0
HOUR_S: Final = 3599.0
FIVE_DAYS_S: Final = 432_000.0
THIRTY_DAYS_S: Final = 2_592_000.0
BMS_SOC_VAR: Final = 0.0025
BMS_SOC_PERIOD_S: Final = 3600.0
LOAD_C_RATE: Final = 0.2
SETTLED_S: Final = 600.0
FOUR_HOURS_S: Final = 14400.0
FADE_MIN_VARIANCE: Final = 0.04
"""Variance of the sessions' cycles (in 100 EFC) from which a slope is more than noise: sigma 20 cycles."""


def tick(s: State, x: Row, p: Pack, w: Work) -> None:
    """About every 10 s: means of current and temperature, the BMS's SoC; then the temperature model's vector."""
    silent_s = w.dt_s if w.gap else 0.0
    w.span_s = s.tick_s + silent_s
    w.g60, w.g300, w.g600, w.g900, w.g1800, w.g3600 = gains(w.span_s)
    per_s = 1.0 / w.span_s
    square = s.sum_c2 * per_s
    s.c_300 += w.g300 * (s.sum_c * per_s - s.c_300)
    s.c2_60 += w.g60 * (square - s.c2_60)
    s.c2_300 += w.g300 * (square - s.c2_300)
    s.c2_900 += w.g900 * (square - s.c2_900)
    s.c2_3600 += w.g3600 * (square - s.c2_3600)
    if known(x.speed_kmh):
        s.speed_300 += w.g300 * (x.speed_kmh - s.speed_300)
    temperatures(s, x, p, w)
    if known(x.efc):
        s.efc = x.efc
    if known(x.soc_pct):
        bms_soc(s, x, p, w)
    s.minute_s += s.tick_s
    s.silent_s += silent_s
    s.sum_c2 = 0.0
    s.sum_c = 0.0
    s.tick_s = 0.0
    emit_temperature(s, x, p, w)
    if s.minute_s >= MINUTE_S or w.gap:
        minute(s, x, p, w)
    if s.hour_s >= HOUR_S or w.capacity_told:
        emit_rul(s, x, p, w)


def temperatures(s: State, x: Row, p: Pack, w: Work) -> None:
    """Mean cell temperature with what is there, the Arrhenius factor, moving means of the highest."""
    w.temp_c = x.cell_temp_avg_c
    if not known(w.temp_c):
        w.temp_c = 0.5 * (x.cell_temp_min_c + x.cell_temp_max_c)
    if not known(w.temp_c):
        w.temp_c = x.cell_temp_max_c
    if known(w.temp_c):
        s.temp_c = w.temp_c
        place = least(most(w.temp_c - TEMP_LOW_C, 0.0), TEMP_CELLS)
        cell = index(place)
        low = ARRHENIUS[cell + p.temp_base]
        s.arrhenius = low + (ARRHENIUS[cell + p.temp_base + 1] - low) * (place - cell)
    if known(x.cell_temp_max_c):
        high_c = x.cell_temp_max_c
        s.temp_60 = s.temp_60 + w.g60 * (high_c - s.temp_60) if known(s.temp_60) else high_c
        s.temp_300 = s.temp_300 + w.g300 * (high_c - s.temp_300) if known(s.temp_300) else high_c
        s.temp_900 = s.temp_900 + w.g900 * (high_c - s.temp_900) if known(s.temp_900) else high_c


def bms_soc(s: State, x: Row, p: Pack, w: Work) -> None:
    """The BMS's state of charge as a weak measurement."""
    s.bms_soc_pct = x.soc_pct
    if known(s.soc):
        ahead = 0.01 * x.soc_pct - s.soc
        # Time heard, not time passed: after a silence, or at the start, it would otherwise be taken over whole.
        share = BMS_SOC_PERIOD_S / most(s.tick_s, 0.001)
        per = 1.0 / (s.p00 + BMS_SOC_VAR * share)
        k0 = s.p00 * per
        k1 = s.p01 * per
        s.soc += k0 * ahead
        s.rc_v += k1 * ahead
        s.p11 -= k1 * s.p01
        s.p01 -= k0 * s.p01
        s.p00 -= k0 * s.p00


def emit_temperature(s: State, x: Row, p: Pack, w: Work) -> None:
    """The vector of the temperature model."""
    session_s = 0.001 * (x.ts_ms - s.session_start_ms) if s.session > 0.0 else 0.0
    emit(
        w,
        "temperature",
        cell_temp_max_c=x.cell_temp_max_c,
        cell_temp_spread_c=x.cell_temp_max_c - x.cell_temp_min_c,
        temp_max_minus_1min_c=x.cell_temp_max_c - s.temp_60,
        temp_max_minus_5min_c=x.cell_temp_max_c - s.temp_300,
        temp_max_minus_15min_c=x.cell_temp_max_c - s.temp_900,
        c_rate=w.c_rate,
        c_rate_5min=s.c_300,
        c_rate_sq_1min=s.c2_60,
        c_rate_sq_5min=s.c2_300,
        c_rate_sq_15min=s.c2_900,
        soc_est_pct=100.0 * s.soc,
        cell_voltage_v=w.cell_v,
        charging=1.0 if w.charging else 0.0,
        charging_s=least(session_s, FOUR_HOURS_S),
        resting_s=least(s.rest_s, FOUR_HOURS_S),
        speed_kmh=x.speed_kmh,
        speed_5min_kmh=s.speed_300,
        coolant_inlet_minus_max_c=x.coolant_inlet_c - x.cell_temp_max_c,
        coolant_rise_c=x.coolant_outlet_c - x.coolant_inlet_c,
        ambient_minus_max_c=x.ambient_c - x.cell_temp_max_c,
        resistance_rel=s.r_rel if s.steps > 10.0 else NAN,
    )


def minute(s: State, x: Row, p: Pack, w: Work) -> None:
    """About once a minute: what the failure model watches, short beside five days of observed time; shares of use."""
    span_s = s.minute_s + s.silent_s
    w.m60, w.m300, w.m600, w.m900, w.m1800, w.m3600 = gains(span_s)
    s.observed_s += s.minute_s
    w.long = s.minute_s / most(least(s.observed_s, FIVE_DAYS_S), 60.0)
    w.month = s.minute_s / most(least(s.observed_s, THIRTY_DAYS_S), 60.0)
    spreads(s, x, p, w)
    residuals(s, x, p, w)
    insulation(s, x, p, w)
    cooling(s, x, p, w)
    use(s, x, p, w)
    s.hour_s += span_s
    s.minute_s = 0.0
    s.silent_s = 0.0
    emit_failure(s, x, p, w)


def spreads(s: State, x: Row, p: Pack, w: Work) -> None:
    """Spread of the cell voltages: all, at rest (charge), under load (resistance); the pack's voltage beside the cells'."""
    spread = 1000.0 * (x.cell_voltage_max_v - x.cell_voltage_min_v)
    loaded = w.c_rate > LOAD_C_RATE or w.c_rate < -LOAD_C_RATE
    if known(spread):
        s.spread = s.spread + w.m600 * (spread - s.spread) if known(s.spread) else spread
        if w.resting and s.rest_s > SETTLED_S:
            weak = 1000.0 * (w.cell_v - x.cell_voltage_min_v)
            s.spread_rest = (
                s.spread_rest + w.m3600 * (spread - s.spread_rest) if known(s.spread_rest) else spread
            )
            s.weak_rest = s.weak_rest + w.m3600 * (weak - s.weak_rest) if known(s.weak_rest) else weak
            s.rest_n += 1.0
            long = most(w.long, 1.0 / s.rest_n)
            s.spread_rest_long += long * (s.spread_rest - s.spread_rest_long)
            s.weak_rest_long += long * (s.weak_rest - s.weak_rest_long)
        if loaded:
            s.spread_load = (
                s.spread_load + w.m1800 * (spread - s.spread_load) if known(s.spread_load) else spread
            )
            s.load_n += 1.0
            long = most(w.long, 1.0 / s.load_n)
            s.spread_load_long += long * (s.spread_load - s.spread_load_long)
    contact = 1000.0 * (x.pack_voltage_v * p.per_cells - w.cell_v)
    contact = contact if w.c_rate > 0.0 else 0.0 - contact
    if loaded and w.source < 2.5 and known(contact):
        s.contact = s.contact + w.m1800 * (contact - s.contact) if known(s.contact) else contact
        s.contact_n += 1.0
        s.contact_long += most(w.long, 1.0 / s.contact_n) * (s.contact - s.contact_long)


def residuals(s: State, x: Row, p: Pack, w: Work) -> None:
    """How far the measured voltage and the BMS's SoC lie from the twin's; the resistance's long mean."""
    if known(w.residual_v):
        residual = 1000.0 * w.residual_v
        size = most(residual, 0.0 - residual)
        s.residual = s.residual + w.m3600 * (residual - s.residual) if known(s.residual) else residual
        s.residual_abs = s.residual_abs + w.m3600 * (size - s.residual_abs) if known(s.residual_abs) else size
        s.residual_n += 1.0
        s.residual_long += most(w.long, 1.0 / s.residual_n) * (s.residual_abs - s.residual_long)
    apart = x.soc_pct - 100.0 * s.soc
    if known(apart):
        s.soc_apart = s.soc_apart + w.m3600 * (apart - s.soc_apart) if known(s.soc_apart) else apart
    if s.steps > 10.0:
        s.r_n += 1.0
        s.r_long += most(w.long, 1.0 / s.r_n) * (s.r_rel - s.r_long)


def insulation(s: State, x: Row, p: Pack, w: Work) -> None:
    """Insulation in Ω/V as its logarithm: it falls over decades."""
    ohm_per_v = 1000.0 * x.insulation_kohm / most(x.pack_voltage_v, 10.0)
    if known(ohm_per_v):
        value = log10(most(ohm_per_v, 1.0))
        s.insulation = s.insulation + w.m600 * (value - s.insulation) if known(s.insulation) else value
        s.insulation_n += 1.0
        s.insulation_long += most(w.long, 1.0 / s.insulation_n) * (s.insulation - s.insulation_long)


def cooling(s: State, x: Row, p: Pack, w: Work) -> None:
    """Probes against each other and against the coolant."""
    spread = x.cell_temp_max_c - x.cell_temp_min_c
    if known(spread):
        s.probe = s.probe + w.m600 * (spread - s.probe) if known(s.probe) else spread
        s.probe_n += 1.0
        s.probe_long += most(w.long, 1.0 / s.probe_n) * (s.probe - s.probe_long)
    over = x.cell_temp_max_c - x.coolant_inlet_c
    if known(over):
        s.over = s.over + w.m1800 * (over - s.over) if known(s.over) else over
        s.over_n += 1.0
        s.over_long += most(w.long, 1.0 / s.over_n) * (s.over - s.over_long)
    rise = x.coolant_outlet_c - x.coolant_inlet_c
    if known(rise):
        s.rise = s.rise + w.m1800 * (rise - s.rise) if known(s.rise) else rise


def use(s: State, x: Row, p: Pack, w: Work) -> None:
    """What ages a pack, as means and shares of about 30 observed days."""
    if known(w.temp_c):
        s.temp_month = s.temp_month + w.month * (w.temp_c - s.temp_month) if known(s.temp_month) else w.temp_c
        s.cold += w.month * ((1.0 if w.temp_c < 10.0 else 0.0) - s.cold)
        s.warm += w.month * ((1.0 if w.temp_c > 30.0 else 0.0) - s.warm)
        s.hot += w.month * ((1.0 if w.temp_c > 40.0 else 0.0) - s.hot)
    if known(s.soc):
        s.soc_month = s.soc_month + w.month * (s.soc - s.soc_month) if known(s.soc_month) else s.soc
        s.full += w.month * ((1.0 if s.soc > 0.8 else 0.0) - s.full)
    s.c2_month += w.month * (s.c2_60 - s.c2_month)
    if known(x.efc) and not known(s.efc_first):
        s.efc_first = x.efc
        s.efc_first_ms = x.ts_ms


def emit_failure(s: State, x: Row, p: Pack, w: Work) -> None:
    """The vector of the failure model."""
    emit(
        w,
        "failure",
        spread_mv=s.spread,
        spread_rest_mv=s.spread_rest,
        spread_rest_trend_mv=s.spread_rest - s.spread_rest_long,
        spread_load_mv=s.spread_load,
        spread_load_trend_mv=s.spread_load - s.spread_load_long,
        weak_cell_rest_mv=s.weak_rest,
        weak_cell_rest_trend_mv=s.weak_rest - s.weak_rest_long,
        residual_mv=s.residual,
        residual_abs_mv=s.residual_abs,
        residual_abs_trend_mv=s.residual_abs - s.residual_long,
        resistance_rel=s.r_rel if s.steps > 10.0 else NAN,
        resistance_trend_rel=s.r_rel - s.r_long if s.steps > 10.0 else NAN,
        contact_mv=s.contact,
        contact_trend_mv=s.contact - s.contact_long,
        insulation_log10=s.insulation,
        insulation_trend=s.insulation - s.insulation_long,
        probe_spread_c=s.probe,
        probe_spread_trend_c=s.probe - s.probe_long,
        over_coolant_c=s.over,
        over_coolant_trend_c=s.over - s.over_long,
        coolant_rise_c=s.rise,
        soc_residual_pct=s.soc_apart,
        cell_temp_max_c=x.cell_temp_max_c,
        c_rate_sq_1h=s.c2_3600 if known(p.per_rated_ah) else NAN,
        resting=1.0 if w.resting else 0.0,
    )


def emit_rul(s: State, x: Row, p: Pack, w: Work) -> None:
    """The vector of the remaining-life model."""
    s.hour_s = 0.0
    days = (x.ts_ms - s.efc_first_ms) / 86_400_000.0
    slope = 100.0 * s.fade_xy / most(s.fade_xx, 1e-9)
    emit(
        w,
        "rul",
        capacity_filtered_pct=100.0 * s.capacity if s.sessions > 0.0 else NAN,
        capacity_sigma_pct=100.0 * sqrt(s.capacity_var),
        fade_pct_per_100efc=slope if s.fade_xx > FADE_MIN_VARIANCE * s.fade_w and s.sessions > 2.0 else NAN,
        sessions=s.sessions,
        resistance_rel=s.r_rel if s.steps > 10.0 else NAN,
        efc=s.efc,
        efc_per_day=(s.efc - s.efc_first) / most(days, 0.5) if days > 0.5 else NAN,
        temp_mean_c=s.temp_month,
        share_below_10c=s.cold,
        share_above_30c=s.warm,
        share_above_40c=s.hot,
        soc_mean_pct=100.0 * s.soc_month,
        share_soc_above_80=s.full,
        session_depth_pct=100.0 * s.depth if s.sessions > 0.0 else NAN,
        session_c_rate=s.session_c if s.sessions > 0.0 else NAN,
        c_rate_sq_30d=s.c2_month,
        is_lfp=p.is_lfp,
        is_nca=p.is_nca,
    )
