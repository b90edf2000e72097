"""The solved perceptron when difficulty is judged by a probe, and when easy examples are kept.

A probe at ``angle`` to the teacher gives margins z; the fraction f with the smallest |z| (hard) or
the largest (easy) is kept of alpha_tot·N examples, labelled by the teacher. With q the part of the
teacher's field that the probe does not see (y = z·cos + q·sin), a student of overlap rho with the
probe and c with what the probe misses has the field rho·z + c·q + sigma·g, where
sigma² = 1 - rho² - c² and q, g are normal. The largest margin kappa is where

  min over (rho, c) of  (alpha · E[(kappa - sign(y)·(rho·z + c·q + sigma·g))²_+])^(1/2)  -  sigma

passes zero, and the minimum's place gives R = rho·cos + c·sin, error arccos(R)/pi. The mean over
g is closed, z and q are integrated in pieces cut where the field changes sign. At angle 0 with
hard examples this is ``laws/pruning.py``, by another way.
Left out: probes that learned from the same examples.
Source: arXiv 2206.14486, appendix A (there as three equations); written as the convex Gaussian
min-max problem of arXiv 1408.4837.
"""

from typing import Literal

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import erfcinv, ndtr

from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.errors import SpecError

__all__ = ["probe_error"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(14)
_EDGE = 8.0
_WIDTHS = np.array([-6.0, -2.0, 0.0, 2.0, 6.0])
_CUTS = np.array([0.0, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0])
_AWAY = ((_CUTS[1:] + _CUTS[:-1])[:, None] / 2 + np.diff(_CUTS)[:, None] / 2 * _NODES).ravel()
_AWAY_WEIGHTS = (np.diff(_CUTS)[:, None] / 2 * _WEIGHTS).ravel()


def probe_error(
    alpha_tot: float, f: float, *, angle: float = 0.0, keep: Literal["hard", "easy"] = "hard"
) -> float:
    """Error of the student; ``angle`` in radians, 0 to less than a right angle.

    Raises:
        SpecError: a fraction outside (0, 1], no examples, or an angle that is none of these.
    """
    if not 0 < f <= 1:
        raise SpecError(f"a fraction kept of {f:g}; expected more than 0 and at most 1")
    if not (np.isfinite(alpha_tot) and alpha_tot > 0):
        raise SpecError(f"{alpha_tot:g} examples a dimension; expected a number above zero")
    if not 0 <= angle < np.pi / 2:
        raise SpecError(f"an angle of {angle:g}; expected 0 to less than pi/2 radians")
    cut = float(np.sqrt(2) * erfcinv(1 - f if keep == "hard" else f)) if f < 1 else _EDGE
    span = (0.0, min(cut, _EDGE)) if keep == "hard" else (cut if f < 1 else 0.0, _EDGE)
    place = np.array([0.9, angle])

    def lowest(kappa: float) -> float:
        nonlocal place
        found = minimize(
            _slack,
            place,
            args=(kappa, alpha_tot, angle, span),
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-12, "maxiter": 400},
        )
        place = found.x
        return float(found.fun)

    high = 0.5
    while lowest(high) < 0:
        high *= 2
    kappa = float(brentq(lowest, 0.0, high, xtol=1e-7))
    lowest(kappa)
    rho, c, _ = _overlaps(place)
    overlap = rho * np.cos(angle) + c * np.sin(angle)
    return float(np.arccos(np.clip(overlap, -1, 1)) / np.pi)


def _overlaps(place: Floats) -> tuple[float, float, float]:
    """(rho, c, sigma) of (artanh of the length of (rho, c), its direction)."""
    length = float(np.tanh(place[0]))
    sigma = float(1 / np.cosh(min(abs(place[0]), 300.0)))
    return length * float(np.cos(place[1])), length * float(np.sin(place[1])), sigma


def _pieces(low: float, high: float, bends: Floats) -> tuple[Floats, Floats]:
    cuts = np.concatenate([np.linspace(low, high, 5), bends[(bends > low) & (bends < high)]])
    cuts = np.unique(cuts)
    half = np.diff(cuts)[:, None] / 2
    t = ((cuts[1:] + cuts[:-1])[:, None] / 2 + half * _NODES).ravel()
    weight = (half * _WEIGHTS).ravel() * np.exp(-t * t / 2) / np.sqrt(2 * np.pi)
    return t, weight


def _slack(
    place: Floats, kappa: float, alpha_tot: float, angle: float, span: tuple[float, float]
) -> float:
    """What is to be minimised; z > 0 counts twice."""
    rho, c, sigma = _overlaps(place)
    z, by_z = _pieces(*span, sigma * np.abs(_WIDTHS))
    if angle < 1e-9:
        wide = float(np.hypot(sigma, c))
        return float(np.sqrt(2 * alpha_tot * (by_z @ _short(kappa - rho * z, wide)))) - sigma
    total = 0.0
    turn = np.clip(-z / np.tan(angle), -_EDGE, _EDGE)[:, None]  # where the teacher's field turns
    for sign in (1.0, -1.0):
        room = _EDGE - sign * turn  # from there to the edge
        q = turn + sign * room * _AWAY
        density = np.exp(-q * q / 2) / np.sqrt(2 * np.pi) * room * _AWAY_WEIGHTS
        short = _short(kappa - sign * (rho * z[:, None] + c * q), sigma)
        total += float(by_z @ (density * short).sum(axis=1))
    return float(np.sqrt(2 * alpha_tot * total)) - sigma


def _short(gap: Floats, sigma: float) -> Floats:
    """E[(gap - sigma·g)²_+] over a normal g."""
    ratio = gap / sigma
    bell = np.exp(-np.minimum(ratio * ratio, 1400.0) / 2) / np.sqrt(2 * np.pi)
    return (gap**2 + sigma**2) * ndtr(ratio) + gap * sigma * bell
