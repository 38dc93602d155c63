"""The end of a charge session in the step: capacity from it, the filter over sessions, the SoH model's vector.

The rules of `voltflow.battery.kernel` apply.
"""

from __future__ import annotations

from typing import Final

from voltflow.battery.features import SESSION_MIN_SOC_PCT
from voltflow.battery.ops import INF, NAN, emit, index, known, least, most, sqrt
from voltflow.battery.records import Pack, Row, State, Work
from voltflow.battery.tables import SOC_AT_V, VOLT_CELLS, VOLT_LOW, VOLT_PER_CELL

SESSION_PAUSE_MS: Final = 300_000.0
SESSION_GAP_MS: Final = 1_800_000.0
REPORT_SOC: Final = 0.02
CAPACITY_SOC: Final = SESSION_MIN_SOC_PCT / 100.0
CAPACITY_GAP_SHARE: Final = 0.2
CAPACITY_SIGMA: Final = 0.10
"""A session's capacity is published up to this relative standard deviation."""


def close_session(s: State, x: Row, p: Pack, w: Work) -> None:
    """End the session after a pause or a long silence; until then a pause's small currents belong to it."""
    pause_ms = x.ts_ms - s.session_last_ms
    if pause_ms > SESSION_GAP_MS or (pause_ms > SESSION_PAUSE_MS and not w.charging):
        span = s.soc - s.session_soc
        s.session = 0.0
        if span >= REPORT_SOC:
            end_session(s, x, p, w)
    else:
        s.session_ah += 0.0 if w.charging else w.moved_ah


def end_session(s: State, x: Row, p: Pack, w: Work) -> None:
    """Charge over the window of open-circuit SoC = capacity; its error from the curve's slope at both ends."""
    doubt_v = 0.15 * p.r_nominal_ohm * s.r_rel * s.arrhenius * most(s.current_a, 0.0 - s.current_a)
    w.rest_v = s.session_rest_v
    w.doubt_v = p.session_sigma_v + most(s.session_doubt_v, 0.0 - s.session_doubt_v)
    soc_told(s, x, p, w)
    w.soc_low = w.soc_told
    low_sigma = w.soc_doubt
    w.rest_v = s.rest_v
    w.doubt_v = p.session_sigma_v + doubt_v
    soc_told(s, x, p, w)
    w.soc_high = w.soc_told
    high_sigma = w.soc_doubt
    span = most(w.soc_high - w.soc_low, 0.02)
    w.depth = s.soc - s.session_soc
    w.capacity_rel = least(s.session_ah * p.per_rated_ah / span, 3.0)
    w.capacity_sigma = least(
        w.capacity_rel * sqrt(low_sigma * low_sigma + high_sigma * high_sigma) / span, 3.0
    )
    w.gap_share = s.session_gap_s / most(s.session_s, 1.0)
    w.capacity_told = w.depth >= CAPACITY_SOC and s.session_ah > 0.0
    if w.capacity_told:
        learn_capacity(s, x, p, w)
        emit_soh(s, x, p, w)
    trusted = w.capacity_told and w.capacity_sigma < CAPACITY_SIGMA and w.gap_share < CAPACITY_GAP_SHARE
    per_s = 1.0 / most(s.session_s, 1.0)
    emit(
        w,
        "session",
        start_ms=s.session_start_ms,
        end_ms=s.session_last_ms,
        soc_start_pct=100.0 * s.session_soc,
        soc_end_pct=100.0 * s.soc,
        charge_ah=s.session_ah,
        capacity_est_ah=w.capacity_rel / p.per_rated_ah if trusted else NAN,
        temp_avg_c=s.session_temp * per_s if known(s.temp_c) else NAN,
        current_avg_a=s.session_ah * 3600.0 * per_s,
    )


def soc_told(s: State, x: Row, p: Pack, w: Work) -> None:
    """State of charge at a rest voltage, and the larger of the distances to those at one sigma above and below.

    The slope at the point itself would call the foot of LFP's final rise certain, one sigma from the plateau.
    """
    place = least(most((w.rest_v - VOLT_LOW) * VOLT_PER_CELL, 0.0), VOLT_CELLS)
    w.soc_told = SOC_AT_V[index(place) + p.volt_base]
    place = least(most((w.rest_v - w.doubt_v - VOLT_LOW) * VOLT_PER_CELL, 0.0), VOLT_CELLS)
    below = w.soc_told - SOC_AT_V[index(place) + p.volt_base]
    place = least(most((w.rest_v + w.doubt_v - VOLT_LOW) * VOLT_PER_CELL, 0.0), VOLT_CELLS)
    above = SOC_AT_V[index(place) + p.volt_base] - w.soc_told
    w.soc_doubt = most(below, above)


def learn_capacity(s: State, x: Row, p: Pack, w: Work) -> None:
    """Scalar Kalman filter of relative capacity, and its slope over cycles by weighted least squares."""
    days = (x.ts_ms - s.capacity_ms) / 86_400_000.0 if known(s.capacity_ms) else 0.0
    s.capacity_ms = x.ts_ms
    s.capacity_var += 4e-6 * least(days, 1000.0)
    noise = w.capacity_sigma * w.capacity_sigma + 4e-4
    if 0.4 < w.capacity_rel < 1.4 and w.gap_share < CAPACITY_GAP_SHARE:
        k = s.capacity_var / (s.capacity_var + noise)
        s.capacity += k * (w.capacity_rel - s.capacity)
        s.capacity_var -= k * s.capacity_var
        s.per_capacity = 1.0 / s.capacity
        s.sessions += 1.0
        gain = 1.0 / least(s.sessions, 20.0)
        s.depth += gain * (w.depth - s.depth)
        s.session_c += gain * (s.session_ah * p.per_rated_ah * 3600.0 / most(s.session_s, 1.0) - s.session_c)
        if known(x.efc):
            cycles = 0.01 * x.efc
            weight = 1.0 / noise
            s.fade_w = 0.99 * s.fade_w + weight
            ahead = cycles - s.fade_x
            s.fade_x += ahead * weight / s.fade_w
            s.fade_y += (w.capacity_rel - s.fade_y) * weight / s.fade_w
            s.fade_xx = 0.99 * s.fade_xx + weight * ahead * (cycles - s.fade_x)
            s.fade_xy = 0.99 * s.fade_xy + weight * ahead * (w.capacity_rel - s.fade_y)


def emit_soh(s: State, x: Row, p: Pack, w: Work) -> None:
    """The vector of the SoH model."""
    window1 = (s.edge2_ah - s.edge1_ah) * p.per_rated_ah
    window2 = (s.edge3_ah - s.edge2_ah) * p.per_rated_ah
    window3 = (s.edge4_ah - s.edge3_ah) * p.per_rated_ah
    per_s = 1.0 / most(s.session_s, 1.0)
    emit(
        w,
        "soh",
        capacity_ocv_rel=w.capacity_rel,
        capacity_sigma_rel=w.capacity_sigma,
        capacity_filtered_rel=s.capacity,
        charge_window_1_rel=window1 if -INF < window1 < INF else NAN,
        charge_window_2_rel=window2 if -INF < window2 < INF else NAN,
        charge_window_3_rel=window3 if -INF < window3 < INF else NAN,
        charge_rel=s.session_ah * p.per_rated_ah,
        soc_start_pct=100.0 * w.soc_low,
        soc_end_pct=100.0 * w.soc_high,
        c_rate_avg=s.session_ah * p.per_rated_ah * 3600.0 * per_s,
        cv_share=s.session_cv_ah / most(s.session_ah, 0.001),
        temp_avg_c=s.session_temp * per_s if known(s.temp_c) else NAN,
        resistance_rel=s.r_rel if s.steps > 10.0 else NAN,
        residual_avg_mv=1000.0 * s.session_residual * per_s,
        gap_share=w.gap_share,
        efc=x.efc if known(x.efc) else s.efc,
        is_lfp=p.is_lfp,
        is_nca=p.is_nca,
    )
