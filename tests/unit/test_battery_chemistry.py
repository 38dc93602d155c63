"""Nominal chemistry data: monotone curves, ranges that exclude what real fleets send for "invalid"."""

from __future__ import annotations

import itertools
from typing import get_type_hints

import pytest

from voltflow.battery.chemistry import (
    CHEMISTRIES,
    arrhenius,
    ocv_v,
    soc_from_ocv,
    valid_ranges,
)
from voltflow.telemetry import Telemetry

SENTINELS = {
    "cell_voltage_min_v": [0.0, 65.535, 65535.0],
    "cell_voltage_max_v": [0.0, 65.535, 65535.0],
    "cell_temp_min_c": [-40.0, 214.0, 255.0],
    "cell_temp_max_c": [-40.0, 215.0, 255.0],
    "pack_voltage_v": [1310.7, 6553.5],
    "soc_pct": [254.0, 255.0],
    "insulation_kohm": [65534.0, 65535.0],
    "speed_kmh": [6553.5],
    "pack_current_a": [5553.5],
}


@pytest.mark.parametrize("name", sorted(CHEMISTRIES))
def test_ocv_rises_strictly(name: str) -> None:
    cell = CHEMISTRIES[name]
    assert len(cell.ocv_soc) == len(cell.ocv_v)
    assert (cell.ocv_soc[0], cell.ocv_soc[-1]) == (0.0, 1.0)
    for curve in (cell.ocv_soc, cell.ocv_v, cell.charge_edges_v):
        assert all(b > a for a, b in itertools.pairwise(curve))


def test_lfp_keeps_its_plateau() -> None:
    assert ocv_v("LFP", 0.9) - ocv_v("LFP", 0.7) < 0.006


@pytest.mark.parametrize("name", sorted(CHEMISTRIES))
@pytest.mark.parametrize("soc", [0.0, 0.13, 0.5, 0.77, 1.0])
def test_soc_from_ocv_inverts(name: str, soc: float) -> None:
    assert soc_from_ocv(name, ocv_v(name, soc)) == pytest.approx(soc, abs=1e-12)


@pytest.mark.parametrize("chemistry", [None, *sorted(CHEMISTRIES)])
@pytest.mark.parametrize("field", sorted(SENTINELS))
def test_valid_ranges_exclude_invalid_codes(chemistry: str | None, field: str) -> None:
    low, high = valid_ranges(chemistry)[field]
    assert all(not low <= value <= high for value in SENTINELS[field])


def test_valid_ranges_cover_every_numeric_telemetry_field() -> None:
    hints = get_type_hints(Telemetry)
    numeric = {name for name, hint in hints.items() if hint in (float | None, int | None)}
    assert numeric - {"sent_ms"} <= set(valid_ranges())


def test_valid_ranges_of_unknown_chemistry_are_the_union() -> None:
    assert valid_ranges(None)["cell_voltage_max_v"] == (1.5, 4.5)


def test_arrhenius_is_one_at_the_reference() -> None:
    assert arrhenius(22_000.0, 25.0) == 1.0
    assert arrhenius(22_000.0, -10.0) > 3.0
