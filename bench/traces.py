"""What the packs of the load say: recorded once from the simulator, so that the source only has to put it together.

A trace is what one simulated pack reports, one message a second of device time. Every message is cut behind `sent_ms`:
what stands before it is made by the source (pack, seq, times), what stands after it is kept here as bytes.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

START_S = 1_790_000_000.0
STEP_S = 1.0
SEED = 7
SHORT = (
    "charging_state", "pack_voltage_v", "pack_current_a", "soc_pct", "cell_voltage_min_v", "cell_voltage_max_v",
    "cell_voltage_avg_v", "cell_temp_min_c", "cell_temp_max_c", "efc",
)  # fmt: skip
"""What the short payload keeps: about 350 bytes, as in the table of the design."""
_REPOSITORY = Path(__file__).resolve().parent.parent
_CACHE = _REPOSITORY / ".voltflow" / "bench"


@dataclass(frozen=True)
class Traces:
    """`tails[trace][step]` is the end of a message, from the comma behind `sent_ms`; `states` the nameplates."""

    tails: list[list[bytes]]
    states: list[dict[str, Any]]


def traces(packs: int, payload: str, *, brief: bool = False) -> tuple[Path, Traces]:
    """The traces for a load of so many packs, from the cache where they are; and the file that holds them.

    Few packs get through device time fast and need long traces; many packs share a hundred different ones. `brief`:
    for a run of a few seconds that only shows that everything counts.
    """
    count, steps = (packs, 7200) if packs <= 20 else (min(packs, 100), 1200)
    if brief:
        count, steps = min(packs, 10), 200
    path = _CACHE / f"traces-{count}-{steps}-{payload}-{_version()}.pickle"
    if not path.exists():
        made = _simulate(count, steps, payload)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(pickle.dumps(made))
        temporary.replace(path)
        return path, made
    return path, load(path)


def load(path: Path) -> Traces:
    """From the file that `traces` names."""
    with path.open("rb") as file:
        made: Traces = pickle.load(file)
    return made


def _version() -> str:
    """Changes with the simulator and with this file."""
    digest = hashlib.sha256()
    for source in sorted([*(_REPOSITORY / "sim_device").glob("*.py"), Path(__file__)]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:10]


def _simulate(count: int, steps: int, payload: str) -> Traces:
    from sim_device import encode
    from sim_device.options import Settings
    from sim_device.run import Simulation

    simulation = Simulation(Settings(packs=count, hz=1.0 / STEP_S, seed=SEED, gaps=False), START_S)
    states = [msgspec.to_builtins(state) for state in encode.birth(simulation.packs, 1, 0)]
    tails: list[list[bytes]] = [[] for _ in range(count)]
    for _ in range(steps):
        reading, _ = simulation.advance(1)
        for i, tail in enumerate(tails):
            tail.append(_tail(reading.encode(i, 0, 0), payload))
    return Traces(tails, states)


_HEAD = re.compile(rb'\{.*?"sent_ms":0')


def _tail(message: bytes, payload: str) -> bytes:
    head = _HEAD.match(message)
    assert head is not None, f"the simulator's messages have changed: {message[:200]!r}"
    if payload == "full":
        return message[head.end() :]
    fields = msgspec.json.decode(message)
    return b"," + msgspec.json.encode({name: fields[name] for name in SHORT})[1:]
