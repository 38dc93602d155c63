"""The operations that the kernel may use beside arithmetic: in plain floats here, in numpy for `compiled`."""

from __future__ import annotations

from math import log10, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from voltflow.battery.records import Work

__all__ = ["INF", "NAN", "emit", "gain_rc", "gains", "index", "known", "least", "log10", "most", "sqrt"]

Array = NDArray[np.float64]
NAN: Final = float("nan")
INF: Final = float("inf")
RC_S: Final = 60.0
"""Time constant of the twin's one RC element."""
MEANS_S: Final = np.array([60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0])
_CACHED: Final = 4096
Six = tuple[float, float, float, float, float, float]


def known(value: float) -> bool:
    """Not NaN."""
    return value == value  # noqa: PLR0124 NaN is the only value that differs from itself


def least(value: float, limit: float) -> float:
    """The smaller; the limit when the value is not known."""
    return min(limit, value)


def most(value: float, limit: float) -> float:
    """The larger; the limit when the value is not known."""
    return max(limit, value)


def index(value: float) -> int:
    """A place in a table: what is in front of the decimal point."""
    return int(value)


def gain_rc(dt_s: float) -> float:
    """1 − exp(−dt/60 s)."""
    return GAIN_RC[dt_s]


def gains(dt_s: float) -> Six:
    """1 − exp(−dt/τ) for the time constants MEANS_S: the weight of a value after dt in an exponential mean."""
    return GAINS[dt_s]


def emit(w: Work, kind: str, **values: float) -> None:
    """Hand out a feature vector or the account of a session."""
    w.emitted.append((kind, values))


class _GainRc(dict[float, float]):
    """Messages come at few different intervals, so the exponential is looked up. Through numpy also for one value,
    so that both forms round alike."""

    def __missing__(self, dt_s: float) -> float:
        if len(self) >= _CACHED:
            self.clear()
        value = self[dt_s] = float(gain_rc_of(np.array([dt_s]))[0])
        return value


class _Gains(dict[float, Six]):
    """As _GainRc, for MEANS_S."""

    def __missing__(self, dt_s: float) -> Six:
        if len(self) >= _CACHED:
            self.clear()
        a, b, c, d, e, f = (float(row[0]) for row in gains_of(np.array([dt_s])))
        value = self[dt_s] = (a, b, c, d, e, f)
        return value


def gain_rc_of(dt_s: Array) -> Array:
    """`gain_rc` of an array."""
    return -np.expm1(dt_s * (-1.0 / RC_S))


def gains_of(dt_s: Array) -> Array:
    """`gains` of an array: shape (6, n)."""
    return -np.expm1(dt_s * (-1.0 / MEANS_S)[:, None])


GAIN_RC: Final = _GainRc()
GAINS: Final = _Gains()
