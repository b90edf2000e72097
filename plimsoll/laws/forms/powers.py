"""Sums of powers: what the forms of Chinchilla's family are made of, and how to start their fits.

A loss E + Σ c_j·u_j with u_j a known power of an input is linear in E and the c_j once the
exponents are given. Starts are therefore a grid over exponents only, each with the best
non-negative factors: few, and near.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import nnls

from plimsoll.laws.forms.contract import Floats

__all__ = ["linear_starts", "log_sum"]

_TINY = 1e-12


def log_sum(parts: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    """ln of a sum of exponentials, and the share of each part in it."""
    stacked = np.stack(np.broadcast_arrays(*parts))
    top = stacked.max(axis=0)
    shares = np.exp(stacked - top)
    total = shares.sum(axis=0)
    return top + np.log(total), [share / total for share in shares]


def linear_starts(
    exponents: Floats, columns: Callable[[Floats], list[Floats]], loss: Floats, *, keep: int
) -> tuple[Floats, Floats]:
    """The ``keep`` best rows of ``exponents`` and their factors (the constant first), by squared
    relative error. Factors of zero become a small share of the loss, so that they have a
    logarithm."""
    found = []
    for row in exponents:
        design = np.stack([np.ones_like(loss), *columns(row)], axis=1) / loss[:, None]
        scale = design.max(axis=0)
        factors, error = nnls(design / scale, np.ones_like(loss))
        least = _TINY + 1e-3 / max(1, design.shape[1])
        found.append((error, row, np.maximum(factors, least) / scale))
    found.sort(key=lambda one: one[0])
    best = found[:keep]
    return np.array([row for _, row, _ in best]), np.array([f for _, _, f in best])
