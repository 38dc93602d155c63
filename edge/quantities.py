"""What follows from one message's telemetry; None where a value that it takes is not known.

>>> from voltflow.telemetry import Telemetry
>>> reading = Telemetry("bms.telemetry/1", "P1", 1, 0, 0, pack_voltage_v=400.0, insulation_kohm=40.0)
>>> insulation_ohm_per_v(reading), spread_v(reading)
(100.0, None)
"""

from __future__ import annotations

from voltflow.telemetry import Telemetry


def spread_v(telemetry: Telemetry) -> float | None:
    """Highest minus lowest cell voltage, volts."""
    low, high = telemetry.cell_voltage_min_v, telemetry.cell_voltage_max_v
    return None if low is None or high is None else high - low


def insulation_ohm_per_v(telemetry: Telemetry) -> float | None:
    """Insulation resistance for each volt of the pack; ISO 6469-3 asks for 100 Ω/V. A pack without voltage has none."""
    kilohm, volt = telemetry.insulation_kohm, telemetry.pack_voltage_v
    return None if kilohm is None or not volt else kilohm * 1000 / volt


def power_w(telemetry: Telemetry) -> float | None:
    """Power into the battery, watts."""
    volt, ampere = telemetry.pack_voltage_v, telemetry.pack_current_a
    return None if volt is None or ampere is None else volt * ampere
