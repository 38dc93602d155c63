"""The four records that the kernel works on: a pack's state, one message, the pack's nameplate data, scratch values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

_NAN: Final = float("nan")


@dataclass(slots=True)
class Row:
    """The numeric fields of one telemetry message that the twin reads; NaN where missing."""

    ts_ms: float = _NAN
    charging: float = _NAN
    pack_voltage_v: float = _NAN
    pack_current_a: float = _NAN
    soc_pct: float = _NAN
    cell_voltage_min_v: float = _NAN
    cell_voltage_max_v: float = _NAN
    cell_voltage_avg_v: float = _NAN
    cell_temp_min_c: float = _NAN
    cell_temp_max_c: float = _NAN
    cell_temp_avg_c: float = _NAN
    coolant_inlet_c: float = _NAN
    coolant_outlet_c: float = _NAN
    ambient_c: float = _NAN
    insulation_kohm: float = _NAN
    speed_kmh: float = _NAN
    efc: float = _NAN


@dataclass(slots=True)
class Pack:
    """What follows from a pack's nameplate; see `voltflow.battery.twin_states.pack_data`."""

    per_rated_ah: float
    """1 / rated capacity; NaN when unknown, which keeps the electrical estimates off."""
    per_cells: float
    """1 / cells in series; NaN when unknown."""
    curve: float
    """0; NaN when the chemistry, and with it the open-circuit curve, is unknown: voltage then tells nothing."""
    r_nominal_ohm: float
    """NaN when chemistry or capacity is unknown."""
    rc_ratio: float
    """Resistance of the RC element over R0."""
    session_sigma_v: float
    """Of a rest voltage at either end of a charge session."""
    ocv_var: float
    start_var: float
    """Variance of a first state of charge that was read off the voltage."""
    edge1_v: float
    edge2_v: float
    edge3_v: float
    edge4_v: float
    is_lfp: float
    is_nca: float
    ocv_base: int
    volt_base: int
    temp_base: int


@dataclass(slots=True)
class State:
    """What is remembered of a pack. Groups: clock, filter, resistance, session, capacity, means."""

    last_ms: float = _NAN
    current_a: float = 0.0
    voltage_v: float = _NAN
    voltage_source: float = 0.0
    tick_s: float = 0.0
    minute_s: float = 0.0
    hour_s: float = 0.0
    silent_s: float = 0.0
    observed_s: float = 0.0
    sum_c: float = 0.0
    sum_c2: float = 0.0
    rest_s: float = 0.0

    soc: float = _NAN
    rc_v: float = 0.0
    p00: float = 0.09
    p01: float = 0.0
    p11: float = 1e-5
    ocv_slope_v: float = 0.0
    rest_v: float = _NAN
    bms_soc_pct: float = _NAN
    arrhenius: float = 1.0

    r_rel: float = 1.0
    step_num: float = 0.01
    step_den: float = 0.01
    steps: float = 0.0
    r_long: float = 0.0
    r_n: float = 0.0

    session: float = 0.0
    session_start_ms: float = 0.0
    session_last_ms: float = 0.0
    session_soc: float = _NAN
    session_rest_v: float = _NAN
    session_doubt_v: float = 0.0
    session_ah: float = 0.0
    session_s: float = 0.0
    session_gap_s: float = 0.0
    session_peak_a: float = 0.0
    session_cv_ah: float = 0.0
    session_temp: float = 0.0
    session_residual: float = 0.0
    edge1_ah: float = _NAN
    edge2_ah: float = _NAN
    edge3_ah: float = _NAN
    edge4_ah: float = _NAN

    capacity: float = 0.95
    capacity_var: float = 0.0064
    per_capacity: float = 1.0 / 0.95
    capacity_ms: float = _NAN
    sessions: float = 0.0
    depth: float = 0.0
    session_c: float = 0.0
    fade_w: float = 0.0
    fade_x: float = 0.0
    fade_y: float = 0.0
    fade_xx: float = 0.0
    fade_xy: float = 0.0

    c_300: float = 0.0
    c2_60: float = 0.0
    c2_300: float = 0.0
    c2_900: float = 0.0
    c2_3600: float = 0.0
    c2_month: float = 0.0
    speed_300: float = 0.0
    temp_c: float = _NAN
    temp_60: float = _NAN
    temp_300: float = _NAN
    temp_900: float = _NAN
    efc: float = _NAN
    efc_first: float = _NAN
    efc_first_ms: float = _NAN

    spread: float = _NAN
    spread_rest: float = _NAN
    spread_rest_long: float = 0.0
    weak_rest: float = _NAN
    weak_rest_long: float = 0.0
    rest_n: float = 0.0
    spread_load: float = _NAN
    spread_load_long: float = 0.0
    load_n: float = 0.0
    contact: float = _NAN
    contact_long: float = 0.0
    contact_n: float = 0.0
    residual: float = _NAN
    residual_abs: float = _NAN
    residual_long: float = 0.0
    residual_n: float = 0.0
    soc_apart: float = _NAN
    insulation: float = _NAN
    insulation_long: float = 0.0
    insulation_n: float = 0.0
    probe: float = _NAN
    probe_long: float = 0.0
    probe_n: float = 0.0
    over: float = _NAN
    over_long: float = 0.0
    over_n: float = 0.0
    rise: float = _NAN

    temp_month: float = _NAN
    cold: float = 0.0
    warm: float = 0.0
    hot: float = 0.0
    soc_month: float = _NAN
    full: float = 0.0


@dataclass(slots=True)
class Work:
    """Values of one step that several of its parts read; `emitted` is filled only by the plain form."""

    dt_s: float = 0.0
    heard_s: float = 0.0
    gap: bool = False
    tick: bool = False
    charging: bool = False
    resting: bool = False
    current_a: float = 0.0
    mid_a: float = 0.0
    moved_ah: float = 0.0
    c_rate: float = 0.0
    cell_v: float = 0.0
    source: float = 0.0
    source_var: float = 0.0
    a: float = 0.0
    r0_ohm: float = 0.0
    r1_ohm: float = 0.0
    rc_step_v: float = 0.0
    residual_v: float = 0.0
    temp_c: float = 0.0
    span_s: float = 0.0
    g60: float = 0.0
    g300: float = 0.0
    g600: float = 0.0
    g900: float = 0.0
    g1800: float = 0.0
    g3600: float = 0.0
    m60: float = 0.0
    m300: float = 0.0
    m600: float = 0.0
    m900: float = 0.0
    m1800: float = 0.0
    m3600: float = 0.0
    long: float = 0.0
    month: float = 0.0
    rest_v: float = 0.0
    doubt_v: float = 0.0
    soc_told: float = 0.0
    soc_doubt: float = 0.0
    soc_low: float = 0.0
    soc_high: float = 0.0
    depth: float = 0.0
    capacity_rel: float = 0.0
    capacity_sigma: float = 0.0
    gap_share: float = 0.0
    capacity_told: bool = False
    emitted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
