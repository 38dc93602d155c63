"""Read a simulated fleet's files (`datasets/README.md`), and have `sim-device dataset` make them.

The simulator is a program of its own: it is run, never imported, so that training sees only what it wrote.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud.training.errors import TrainError

Progress = Callable[[str], None]
NOT_SENT = -1
"""In the column `charging`: no message at this time."""
DONE = "complete.json"
TRUTH = ("truth_soc_pct", "truth_soh_pct", "truth_cell_temp_max_c")


class Fault(msgspec.Struct, frozen=True):
    """A defect: `critical_ms` is null for one that stays mild."""

    kind: str
    onset_ms: int
    severity: float
    critical_ms: int | None = None


class Visit(msgspec.Struct, frozen=True):
    """Labels of one pack at one visit; remaining life is null and `rul_censored` where beyond the horizon."""

    visit: int
    start_ms: int
    age_days: float
    efc: float
    soh_pct: float
    rul_days: float | None
    rul_efc: float | None
    rul_censored: bool
    faults: list[Fault] = []


class Pack(msgspec.Struct, frozen=True):
    """Nameplate and labels of one pack."""

    id: str
    chemistry: str
    capacity_rated_ah: float
    cells_series: int
    climate: str
    visits: list[Visit]


class Plan(msgspec.Struct, frozen=True):
    """What to simulate; its own name is the folder of the cache."""

    kind: str
    packs: int
    visits: int
    days: int
    step_s: float
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.kind}-p{self.packs}-v{self.visits}-d{self.days}-s{self.step_s:g}-k{self.seed}"

    def arguments(self) -> list[str]:
        """The options of `sim-device dataset` for this plan."""
        names = {"packs": self.packs, "visits": self.visits, "days": self.days, "seed": self.seed}
        options = [text for name, value in names.items() for text in (f"--{name}", str(value))]
        return [*options, "--step-s", f"{self.step_s:g}", "--kind", self.kind]


@dataclass(frozen=True)
class Dataset:
    """A folder with `packs.json` and `visitVV_dayDD.npz` of arrays (time, pack)."""

    folder: Path

    @cached_property
    def packs(self) -> list[Pack]:
        path = self.folder / "packs.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=list[Pack])
        except (OSError, msgspec.DecodeError) as error:
            raise TrainError(f"{path} cannot be read: {error}; delete {self.folder} and run again") from None

    @property
    def visits(self) -> int:
        return max((len(pack.visits) for pack in self.packs), default=0)

    def days(self, visit: int) -> list[Path]:
        """The files of a visit in time order."""
        return sorted(self.folder.glob(f"visit{visit:02d}_day*.npz"))

    def column(self, visit: int, name: str) -> NDArray[Any]:
        """One array of a whole visit, days joined along time."""
        return np.concatenate([_read(path, [name])[name] for path in self.days(visit)])

    def chunks(self, visit: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The BMS's arrays of each day (float64 but for `ts_ms` and `charging`); truth is left out."""
        for path in self.days(visit):
            yield _read(path, None)

    def hash(self) -> str:
        """SHA-256 over names and content of all files: what a model was trained on."""
        total = hashlib.sha256()
        for path in sorted([self.folder / "packs.json", *self.folder.glob("visit*.npz")]):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.name} {digest}\n".encode())
        return total.hexdigest()


def _read(path: Path, names: list[str] | None) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as archive:
            wanted = names or [name for name in archive.files if name not in TRUTH]
            return {name: archive[name] for name in wanted}
    except (OSError, ValueError, KeyError) as error:
        raise TrainError(f"{path} cannot be read: {error}; delete {path.parent} and run again") from None


def make(plan: Plan, cache: Path, progress: Progress) -> Dataset:
    """The dataset of a plan: from the cache when complete, else simulated now (a part is never taken for the whole)."""
    folder = cache / plan.folder
    if (folder / DONE).is_file():
        progress(f"data: {folder} is there")
        return Dataset(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _simulate([*simulator(), "dataset", *plan.arguments(), "--out", str(partial)], progress)
    (partial / DONE).write_text(json.dumps(msgspec.to_builtins(plan)) + "\n")
    partial.rename(folder)
    return Dataset(folder)


def simulator() -> list[str]:
    """The command `sim-device` of this installation, or of the path."""
    beside = Path(sys.executable).with_name("sim-device")
    found = str(beside) if beside.is_file() else shutil.which("sim-device")
    if found is None:
        raise TrainError(
            "sim-device is not installed, it makes the training data: pip install 'voltflow[sim,train]'"
        )
    return [found]


def _simulate(command: list[str], progress: Progress) -> None:
    """Run the simulator, its last words become the error when it fails."""
    progress("data: " + " ".join(command[1:]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        tail: list[str] = []
        for line in process.stdout:
            tail = [*tail[-9:], line.rstrip()]
            progress(f"data: {line.rstrip()}")
    if process.returncode:
        raise TrainError(f"{' '.join(command)} ended with {process.returncode}:\n" + "\n".join(tail))
