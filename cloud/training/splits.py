"""Who is trained on, calibrated on and tested on: always whole packs, never rows.

A row-random split of a series lets a model recognise the pack; the same figures then look far better and are wrong
(docs/models.md shows both).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["train", "calibrate", "test"]
ROLES: tuple[Role, ...] = ("train", "calibrate", "test")
TEST_SHARE = 0.25
CALIBRATE_SHARE = 0.2
GOLDEN = 0.618033988749895


@dataclass(frozen=True)
class Split:
    """Role of each pack, by pack id."""

    roles: Mapping[str, Role]
    seed: int

    def mask(self, packs: NDArray[np.str_], role: Role) -> NDArray[np.bool_]:
        """Which rows belong to packs of this role.

        >>> Split({"a": "train", "b": "test"}, 0).mask(np.array(["a", "b", "a"]), "train").tolist()
        [True, False, True]
        """
        members = [pack for pack, of in self.roles.items() if of == role]
        return np.isin(packs, np.array(members, dtype=str))

    def counts(self) -> dict[str, int]:
        return {role: sum(of == role for of in self.roles.values()) for role in ROLES}

    def describe(self) -> str:
        """The split in words, for a card."""
        parts = ", ".join(f"{n} to {role}" for role, n in self.counts().items())
        return f"by pack, even over chemistry and climate (seed {self.seed}): {parts}"


def split_packs(strata: Mapping[str, tuple[str, ...]], seed: int) -> Split:
    """Deal packs out to the roles, evenly over the strata; `strata` is (dataset, chemistry, climate) by pack id.

    >>> split_packs({f"p{i}": ("fleet", "NMC", "hot") for i in range(20)}, seed=1).counts()
    {'train': 11, 'calibrate': 4, 'test': 5}
    """
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, ...], list[str]] = {}
    for pack in sorted(strata):
        groups.setdefault(strata[pack], []).append(pack)
    order = [pack for key in sorted(groups) for pack in _shuffled(groups[key], rng)]
    return Split(dict(zip(order, _dealt(len(order), rng), strict=True)), seed)


def _shuffled(packs: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [packs[i] for i in rng.permutation(len(packs))]


def _dealt(n: int, rng: np.random.Generator) -> list[Role]:
    """Roles for n packs in order of stratum: a low-discrepancy sequence, so that no stratum gets one role only."""
    places = (np.arange(n) * GOLDEN + rng.random()) % 1.0
    rank = np.argsort(np.argsort(places, kind="stable"), kind="stable")
    test, calibrate = round(n * TEST_SHARE), round(n * CALIBRATE_SHARE)
    return ["test" if r < test else "calibrate" if r < test + calibrate else "train" for r in rank]
