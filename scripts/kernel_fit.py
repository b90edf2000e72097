"""Robust fits of operator coefficients: least squares on the logarithm of time.

Coefficients are fitted as logarithms, with a soft-l1 loss so that stray rows do not pull, and a
weak pull towards a prior (the fit on more devices), which decides what a few rows cannot. Rows of
20 microseconds and more count fully, shorter ones less, rows that only show the host's call time
hardly at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from scripts.kernel_tables import Group

__all__ = ["Model", "fit", "host_bound", "relative_errors"]

LONG_S = 20e-6
_SHORT_WEIGHT = 0.3
_LOSS_SCALE = 0.15
_PULL = 1.0
_HOST_REACH = 2.0
_HOST_WEIGHT = 0.05
"""Rows the host set the pace of say little of the device."""
_HOST_SHOWS = 1.5
"""Rows within this much of a group's floor are counted apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One operator: its coefficients (name, start, least, most) and how they predict a group."""

    name: str
    coefficients: tuple[tuple[str, float, float, float], ...]
    predict: Callable[[Group, dict[str, float]], np.ndarray]

    def start(self) -> dict[str, float]:
        """Where a fit without a prior begins."""
        return {name: value for name, value, _, _ in self.coefficients}


def fit(model: Model, groups: Sequence[Group], prior: dict[str, float]) -> dict[str, float]:
    """Coefficients that predict ``groups`` best, near ``prior`` where the rows do not say."""
    names = [name for name, *_ in model.coefficients]
    low = np.log([least for _, _, least, _ in model.coefficients])
    high = np.log([most for *_, most in model.coefficients])
    start = np.clip(np.log([prior[name] for name in names]), low, high)
    targets = [np.log(group.latency_s) for group in groups]
    weights = [_weights(group) for group in groups]

    def residuals(x: np.ndarray) -> np.ndarray:
        values = dict(zip(names, np.exp(x), strict=True))
        parts: list[Any] = [_PULL * (x - start)]
        for group, target, weight in zip(groups, targets, weights, strict=True):
            seconds = np.maximum(model.predict(group, values), group.host_s)
            parts.append((np.log(seconds) - target) * weight)
        return np.concatenate(parts)

    inside = np.clip(start, low + 1e-6, high - 1e-6)
    found = least_squares(
        residuals,
        inside,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=_LOSS_SCALE,
        diff_step=1e-3,
        max_nfev=40,
    )
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def _weights(group: Group) -> np.ndarray:
    long = np.where(group.latency_s >= LONG_S, 1.0, _SHORT_WEIGHT)
    return np.where(group.latency_s < _HOST_REACH * group.host_s, _HOST_WEIGHT, long)


def relative_errors(
    model: Model, group: Group, values: dict[str, float], *, floor_s: float
) -> np.ndarray:
    """|predicted / measured - 1| of the rows of 20 microseconds and more.

    ``floor_s`` is what a call takes the host at least, where it was timed without graph capture.
    """
    seconds = np.maximum(model.predict(group, values), floor_s)
    return np.abs(seconds / group.latency_s - 1.0)[group.latency_s >= LONG_S]


def host_bound(group: Group) -> np.ndarray:
    """Which rows of 20 microseconds and more show the host's call time rather than the device."""
    long = group.latency_s >= LONG_S
    return (group.latency_s < _HOST_SHOWS * group.host_s)[long]
