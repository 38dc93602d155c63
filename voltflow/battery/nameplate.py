"""What a pack's nameplate says, and the constants that the kernel makes of it."""

from __future__ import annotations

from math import nan
from typing import Final, NamedTuple

from voltflow.battery.chemistry import CHEMISTRIES, NMC
from voltflow.battery.records import Pack
from voltflow.battery.tables import OCV_POINTS, ORDER, TEMP_POINTS, VOLT_POINTS

_UNKNOWN: Final = len(ORDER) - 1
_PLATEAU_SIGMA: Final = 0.2
_SLOPE_SIGMA: Final = 0.05


class Nameplate(NamedTuple):
    """As `bms.state/1` gives it; None = not known."""

    chemistry: str | None = None
    capacity_rated_ah: float | None = None
    cells_series: int | None = None


def pack_data(nameplate: Nameplate) -> tuple[float, ...]:
    """The fields of `records.Pack` in order. Without a capacity there is no estimate; without a chemistry voltage tells
    nothing, and the charge is counted from the BMS's state of charge on."""
    chemistry, capacity_ah, cells = nameplate
    place = _UNKNOWN if chemistry is None else list(CHEMISTRIES).index(chemistry)
    cell = NMC if chemistry is None else CHEMISTRIES[chemistry]
    per_ah = 1.0 / capacity_ah if capacity_ah else nan
    unknown = nan if chemistry is None else 0.0
    pack = Pack(
        per_rated_ah=per_ah,
        per_cells=1.0 / cells if cells else nan,
        curve=unknown,
        r_nominal_ohm=0.001 * cell.r0_mohm_ah * per_ah + unknown,
        rc_ratio=(cell.r1_mohm_ah + cell.r2_mohm_ah) / cell.r0_mohm_ah,
        session_sigma_v=cell.ocv_sigma_v + cell.hysteresis_v,
        ocv_var=(cell.ocv_sigma_v + 2.0 * cell.hysteresis_v) ** 2,
        start_var=(_PLATEAU_SIGMA if chemistry == "LFP" else _SLOPE_SIGMA) ** 2,
        edge1_v=cell.charge_edges_v[0],
        edge2_v=cell.charge_edges_v[1],
        edge3_v=cell.charge_edges_v[2],
        edge4_v=cell.charge_edges_v[3],
        is_lfp=(1.0 if chemistry == "LFP" else 0.0) + unknown,
        is_nca=(1.0 if chemistry == "NCA" else 0.0) + unknown,
        ocv_base=place * OCV_POINTS,
        volt_base=place * VOLT_POINTS,
        temp_base=place * TEMP_POINTS,
    )
    return tuple(float(getattr(pack, name)) for name in Pack.__slots__)
