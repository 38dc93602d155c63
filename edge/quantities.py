"""What follows from one message's telemetry; None where a value that it takes is not known.

>>> from voltflow.telemetry import Telemetry
>>> reading = Telemetry("bms.telemetry/1", "P1", 1, 0, 0, pack_voltage_v=400.0, insulation_kohm=40.0)
>>> insulation_ohm_per_v(reading), spread_v(reading)
(100.0, None)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from voltflow.telemetry import Prediction, Telemetry


class Known(Protocol):
    """What is known of a pack: by its twin, or by a message on its way."""

    @property
    def telemetry(self) -> Telemetry | None: ...

    @property
    def predictions(self) -> Mapping[str, Prediction]: ...


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


def spread_mv(telemetry: Telemetry) -> float | None:
    """The same in millivolts, as alerts tell it."""
    spread = spread_v(telemetry)
    return None if spread is None else spread * 1000


def predicted(known: Known, model: str) -> float | None:
    """A model's last answer for the pack; None where there is none."""
    prediction = known.predictions.get(model)
    return None if prediction is None else prediction.value


MEASURED: dict[str, Callable[[Telemetry], float | None]] = {
    "cell_temp_warning": lambda telemetry: telemetry.cell_temp_max_c,
    "cell_temp_critical": lambda telemetry: telemetry.cell_temp_max_c,
    "cell_spread": spread_mv,
    "soc_low": lambda telemetry: telemetry.soc_pct,
    "insulation_low": insulation_ohm_per_v,
    "bms_alarm": lambda telemetry: telemetry.alarm_level,
}
"""What the `alert` node looks at, by the code of the alert, in the alert's unit."""

PREDICTED = {"cell_temp_predicted": "temperature", "failure_likely": "failure"}
"""The model whose answer it looks at, by the code of the alert."""


def alerted(known: Known, code: str) -> float | None:
    """What an alert of that code is about, as it is known now; None for other codes, and where it is not known."""
    if code in PREDICTED:
        return predicted(known, PREDICTED[code])
    measure, telemetry = MEASURED.get(code), known.telemetry
    return None if measure is None or telemetry is None else measure(telemetry)
