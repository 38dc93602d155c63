"""One step of a pack's twin: Kalman filter, resistance, charge sessions, moving means, feature vectors.

`step(s, x, p, w)` moves the state `s` of the pack `p` by one message `x`; `w` is scratch. It is written for one pack
in plain floats. `voltflow.battery.ops` derives from this very source the loop over many messages of one pack and the
numpy form over many packs at once, so the rules of what may be written here are: assignments to names and to
attributes of s and w, if/else, calls of other step functions with (s, x, p, w), `known`, `least`, `most`, tables,
`emit`. No loop, no return. A division must be safe where the `if` around it is false.

NaN is "not known" everywhere, and it must never get into the state: whatever is taken over is asked with `known`
first. Exception: with an unknown rated capacity everything electrical stays NaN until the nameplate arrives, and then
the pack starts anew.

The estimator: average cell = OCV(soc) + v_rc + R0 i (i positive into the battery), an extended Kalman filter with the
states soc and v_rc (Plett, J. Power Sources 134 (2004) 262-292, part 3). One RC element of 60 s stands for both of the
cell's. Its measurement noise is model error, which does not average out at a higher message rate: so the variance is
that of one independent measurement per CORRELATION_S. The BMS's own SoC enters as a measurement of 5 % once an hour:
enough to hold an LFP pack on its plateau, where voltage tells nothing, and too weak to make the estimate its copy.
"""

from __future__ import annotations

from typing import Final

from voltflow.battery.kernel_session import close_session
from voltflow.battery.kernel_slow import tick
from voltflow.battery.ops import INF, NAN, gain_rc, index, known, least, most
from voltflow.battery.records import Pack, Row, State, Work
from voltflow.battery.tables import OCV_CELLS, OCV_V, SOC_AT_V, VOLT_CELLS, VOLT_LOW, VOLT_PER_CELL

GAP_S: Final = 120.0
"""Longer than this without a message: the current in between is unknown."""
FOREVER_S: Final = 1e9
TICK_S: Final = 9.75
"""Moving means move this often; a little under 10 s, as 0.1 Hz messages arrive with jitter."""
DAY_S: Final = 86400.0
CORRELATION_S: Final = 600.0
SURPRISE: Final = 9.0
"""Squared residual over its variance, three sigma, from which the state of charge is taken for lost."""
REST_C_RATE: Final = 0.02
PACK_VOLTAGE_VAR: Final = 4e-5
"""Of a cell voltage read off the pack's: 1 V of resolution over 91 cells, leads and contacts included."""
STEP_C_RATE: Final = 0.05
STEP_MAX_S: Final = 12.0
STEP_FORGET: Final = 0.995


def step(s: State, x: Row, p: Pack, w: Work) -> None:
    """Move the state by one message that is later than the last one."""
    clock(s, x, p, w)
    w.capacity_told = False
    if s.session > 0.0:
        close_session(s, x, p, w)
    measure(s, x, p, w)
    predict(s, x, p, w)
    if w.gap:
        bridge_gap(s, x, p, w)
    resistance(s, x, p, w)
    correct(s, x, p, w)
    if w.charging:
        charge(s, x, p, w)
    if w.tick:
        tick(s, x, p, w)
    s.current_a = w.current_a
    s.voltage_v = w.cell_v
    s.voltage_source = w.source


def clock(s: State, x: Row, p: Pack, w: Work) -> None:
    """Time since the last message, the current and the charge moved in between, whether it charges or rests."""
    w.dt_s = (x.ts_ms - s.last_ms) * 0.001 if known(s.last_ms) else FOREVER_S
    w.gap = w.dt_s > GAP_S
    w.heard_s = 0.0 if w.gap else w.dt_s
    held_a = 0.0 if w.gap else s.current_a
    w.current_a = x.pack_current_a if known(x.pack_current_a) else held_a
    w.mid_a = 0.5 * (w.current_a + s.current_a)
    w.moved_ah = w.mid_a * w.heard_s * (1.0 / 3600.0)
    w.c_rate = w.current_a * p.per_rated_ah
    w.resting = -REST_C_RATE < w.c_rate < REST_C_RATE
    w.charging = x.charging == 1.0
    if not known(x.charging):
        w.charging = w.c_rate > 0.03 and not (x.speed_kmh > 0.0)
    s.tick_s += w.heard_s
    s.sum_c2 += w.c_rate * w.c_rate * w.heard_s if known(w.c_rate) else 0.0
    s.sum_c += w.c_rate * w.heard_s if known(w.c_rate) else 0.0
    w.tick = s.tick_s >= TICK_S or w.gap
    s.rest_s = s.rest_s + w.heard_s if w.resting else 0.0
    s.last_ms = x.ts_ms


def measure(s: State, x: Row, p: Pack, w: Work) -> None:
    """The average cell's voltage from the best source there is; the source is kept, as steps between two lie."""
    w.cell_v = x.cell_voltage_avg_v
    w.source = 1.0
    w.source_var = 0.0
    if not known(w.cell_v):
        w.cell_v = 0.5 * (x.cell_voltage_min_v + x.cell_voltage_max_v)
        w.source = 2.0
        if not known(w.cell_v):
            w.cell_v = x.pack_voltage_v * p.per_cells
            w.source = 3.0
            w.source_var = PACK_VOLTAGE_VAR
    w.cell_v += p.curve


def predict(s: State, x: Row, p: Pack, w: Work) -> None:
    """Coulomb counting and the RC voltage; variances grow with the current sensor's gain and offset error."""
    w.a = gain_rc(w.dt_s)
    b = 1.0 - w.a
    b2 = b * b
    if not known(s.soc):
        start_soc(s, x, p, w)
    w.r0_ohm = p.r_nominal_ohm * s.r_rel * s.arrhenius
    # Diffusion does not grow in step with R0, so the RC element follows the resistance found only half way.
    w.r1_ohm = p.rc_ratio * p.r_nominal_ohm * s.arrhenius * (0.5 + 0.5 * s.r_rel)
    r1_a = w.r1_ohm * w.mid_a
    before_v = s.rc_v
    s.soc += w.moved_ah * p.per_rated_ah * s.per_capacity
    s.rc_v += w.a * (r1_a - s.rc_v)
    w.rc_step_v = s.rc_v - before_v
    s.p00 += w.heard_s * (1e-9 + 3e-8 * w.c_rate * w.c_rate)
    s.p01 *= b
    s.p11 = b2 * s.p11 + (1.0 - b2) * (4e-6 + 0.09 * r1_a * r1_a)


def start_soc(s: State, x: Row, p: Pack, w: Work) -> None:
    """A first state of charge: what the BMS says unless the voltage contradicts, else what that says, else half."""
    if known(p.per_rated_ah):
        s.soc = 0.5
        s.p00 = 0.09
        if known(w.cell_v):
            place = (w.cell_v - p.r_nominal_ohm * w.current_a - VOLT_LOW) * VOLT_PER_CELL
            place = least(most(place, 0.0), VOLT_CELLS)
            s.soc = SOC_AT_V[index(place) + p.volt_base]
            s.p00 = p.start_var
        ahead = 0.01 * x.soc_pct - s.soc
        if ahead * ahead < SURPRISE * s.p00:
            s.soc += ahead
            s.p00 = 0.01


def bridge_gap(s: State, x: Row, p: Pack, w: Work) -> None:
    """After a silence: the SoC moves by what the BMS's moved, diffusion is over, and little is certain."""
    moved = 0.01 * (x.soc_pct - s.bms_soc_pct)
    if known(moved) and known(s.soc):
        s.soc += moved
        quiet = -0.006 < moved < 0.006 and w.resting and w.dt_s < FOREVER_S
        s.rest_s = s.rest_s + w.dt_s if quiet else s.rest_s
    slack = 4e-4 + 1e-8 * least(w.dt_s, DAY_S)
    s.p00 = least(s.p00 + slack, 0.09)
    s.p01 = 0.0
    doubt_v = 0.003 + 0.5 * w.r1_ohm * w.current_a
    s.p11 = doubt_v * doubt_v if known(doubt_v) else 1e-5
    s.rc_v = 0.0


def resistance(s: State, x: Row, p: Pack, w: Work) -> None:
    """Recursive least squares over steps of the current; both sides are scaled to the nominal resistance at 25 °C."""
    step_a = w.current_a - s.current_a
    step_c = step_a * p.per_rated_ah
    large = step_c > STEP_C_RATE or step_c < -STEP_C_RATE
    if large and w.dt_s <= STEP_MAX_S and w.source == s.voltage_source:
        expected_v = step_a * p.r_nominal_ohm * s.arrhenius
        drift_v = w.rc_step_v + w.moved_ah * p.per_rated_ah * s.per_capacity * s.ocv_slope_v
        seen_v = w.cell_v - s.voltage_v - drift_v
        square = expected_v * expected_v
        ratio_square = seen_v * expected_v
        if 0.15 * square < ratio_square < 6.0 * square:
            s.step_num = STEP_FORGET * s.step_num + ratio_square
            s.step_den = STEP_FORGET * s.step_den + square
            s.r_rel = s.step_num / s.step_den
            s.steps += 1.0


def correct(s: State, x: Row, p: Pack, w: Work) -> None:
    """The voltage as a measurement of soc and v_rc."""
    w.residual_v = NAN
    if known(w.cell_v) and known(s.soc):
        place = s.soc * OCV_CELLS
        place = least(most(place, 0.0), OCV_CELLS - 1e-6)
        cell = index(place)
        low_v = OCV_V[cell + p.ocv_base]
        rise_v = OCV_V[cell + p.ocv_base + 1] - low_v
        s.ocv_slope_v = rise_v * OCV_CELLS
        ir_v = w.r0_ohm * w.current_a
        rest_v = w.cell_v - ir_v - s.rc_v
        w.residual_v = rest_v - low_v - rise_v * (place - cell)
        noise = p.ocv_var + w.source_var + 0.06 * ir_v * ir_v
        # A residual that the doubt cannot explain: the estimate is wrong, not the noise large. Learn fast again.
        explained = s.p00 * s.ocv_slope_v * s.ocv_slope_v + s.p11 + noise
        if w.residual_v * w.residual_v > SURPRISE * explained:
            s.p00 = most(s.p00, 0.04)
        noise *= most(CORRELATION_S / w.dt_s, 1.0)
        z0 = s.p00 * s.ocv_slope_v + s.p01
        z1 = s.p01 * s.ocv_slope_v + s.p11
        per = 1.0 / (z0 * s.ocv_slope_v + z1 + noise)
        k0 = z0 * per
        k1 = z1 * per
        s.soc += k0 * w.residual_v
        s.rc_v += k1 * w.residual_v
        s.p00 -= k0 * z0
        s.p01 -= k0 * z1
        s.p11 -= k1 * z1
        s.soc = least(most(s.soc, 0.0), 1.0)
        s.rest_v = s.rest_v + w.a * (rest_v - s.rest_v) if known(s.rest_v) else rest_v


def charge(s: State, x: Row, p: Pack, w: Work) -> None:
    """Start or continue a charge session; a silence within it counts with the mean of both currents."""
    if s.session == 0.0:
        begin_session(s, x, p, w)
    else:
        span_s = 0.001 * (x.ts_ms - s.session_last_ms)
        silent_s = w.dt_s if w.gap else 0.0
        moved_ah = w.moved_ah + w.mid_a * silent_s * (1.0 / 3600.0)
        s.session_gap_s += silent_s
        s.session_ah += moved_ah
        s.session_s += span_s
        s.session_peak_a = most(w.current_a, s.session_peak_a)
        s.session_cv_ah += moved_ah if w.current_a < 0.5 * s.session_peak_a else 0.0
        s.session_temp += s.temp_c * span_s if known(s.temp_c) else 0.0
        s.session_residual += w.residual_v * span_s if known(w.residual_v) else 0.0
        s.edge1_ah = s.session_ah if s.rest_v >= p.edge1_v and not known(s.edge1_ah) else s.edge1_ah
        s.edge2_ah = s.session_ah if s.rest_v >= p.edge2_v and not known(s.edge2_ah) else s.edge2_ah
        s.edge3_ah = s.session_ah if s.rest_v >= p.edge3_v and not known(s.edge3_ah) else s.edge3_ah
        s.edge4_ah = s.session_ah if s.rest_v >= p.edge4_v and not known(s.edge4_ah) else s.edge4_ah
    s.session_last_ms = x.ts_ms


def begin_session(s: State, x: Row, p: Pack, w: Work) -> None:
    """Remember where it began. A window whose lower edge already lies behind is not counted (edge -inf is never)."""
    s.session = 1.0
    s.session_start_ms = x.ts_ms
    s.session_soc = s.soc
    s.session_rest_v = s.rest_v
    s.session_doubt_v = 0.15 * w.r0_ohm * w.current_a
    s.session_ah = 0.0
    s.session_s = 0.0
    s.session_gap_s = 0.0
    s.session_peak_a = w.current_a
    s.session_cv_ah = 0.0
    s.session_temp = 0.0
    s.session_residual = 0.0
    s.edge1_ah = INF if s.rest_v >= p.edge1_v else NAN
    s.edge2_ah = INF if s.rest_v >= p.edge2_v else NAN
    s.edge3_ah = INF if s.rest_v >= p.edge3_v else NAN
    s.edge4_ah = INF if s.rest_v >= p.edge4_v else NAN
