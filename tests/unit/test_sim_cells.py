"""The simulator's single cells: they agree with the telemetry beside them, and stay the same cells."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from sim_device import encode
from sim_device.bms import Bms
from sim_device.cells import CellReader
from sim_device.packs import draw_packs
from sim_device.plant import Plant
from voltflow.telemetry import Cells, Telemetry, decode_telemetry

START_S = 1.72e9


class Fleet:
    """A few packs, read once a call."""

    def __init__(self) -> None:
        self.bms = Bms(Plant(draw_packs(8, seed=3), START_S), seed=3)
        self.cells = CellReader(3)

    def read(self, **values: float) -> list[tuple[Telemetry, Cells]]:
        read = self.bms.read(self.bms.plant.step(10.0), 10.0)
        for name, value in values.items():
            read[name] = np.full(8, value)
        reading = encode.Reading(self.bms, read, 1, 2)
        return [
            (
                decode_telemetry(reading.encode(i, 0, 0)),
                msgspec.json.decode(reading.encode_cells(i, self.cells), type=Cells),
            )
            for i in range(8)
        ]


def test_lowest_and_highest_cell_are_those_of_the_telemetry() -> None:
    fleet = Fleet()
    for telemetry, cells in fleet.read():
        assert telemetry.cell_voltage_min_v is not None
        assert telemetry.cell_voltage_max_v is not None
        assert telemetry.cell_voltage_min_id is not None
        assert cells.pack == telemetry.pack
        known = [value for value in cells.voltages_mv if value is not None]
        assert min(known) == cells.voltages_mv[telemetry.cell_voltage_min_id - 1]
        assert min(known) == pytest.approx(1000 * telemetry.cell_voltage_min_v)
        assert max(known) == pytest.approx(1000 * telemetry.cell_voltage_max_v)
        assert len(set(known)) > 3, "not all alike"
        probes = [value for value in cells.temps_c if value is not None]
        assert (max(probes), min(probes)) == (telemetry.cell_temp_max_c, telemetry.cell_temp_min_c)


def test_a_high_cell_stays_a_high_cell() -> None:
    fleet = Fleet()
    first = fleet.read()[0][1].voltages_mv
    later = fleet.read()[0][1].voltages_mv
    order = [np.argsort(np.array(values, dtype=float))[-20:].tolist() for values in (first, later)]
    assert len(set(order[0]) & set(order[1])) > 15


def test_as_many_cells_are_balanced_as_the_telemetry_says() -> None:
    for number in (0.0, 4.0):
        for telemetry, cells in Fleet().read(balancing_cells=number):
            assert cells.balancing is not None
            assert sum(cells.balancing) == telemetry.balancing_cells == number


def test_what_a_sensor_lost_is_null() -> None:
    telemetry, cells = Fleet().read(cell_voltage_min_v=np.nan, cell_temp_max_c=np.nan)[0]
    assert telemetry.cell_voltage_min_id is not None
    assert cells.voltages_mv[telemetry.cell_voltage_min_id - 1] is None
    assert cells.voltages_mv.count(None) == 1
    assert set(cells.temps_c) == {None}
