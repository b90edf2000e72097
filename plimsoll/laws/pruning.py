"""What pruning by difficulty can gain, in a model that is solved: a perceptron and its teacher.

Inputs are Gaussian in N dimensions, labels a linear teacher's. Of alpha_tot·N examples the
fraction f of smallest teacher margin (the hard ones) is kept, and the student of largest margin,
without a bias, is trained on these alpha = f·alpha_tot examples a dimension. For N to infinity
its overlap R with the teacher and its margin kappa solve, with s = 1 - R^2 and
gamma = H^-1((1 - f)/2),

  R = 2·alpha/(f·sqrt(2·pi·s))
      · ∫_{-inf}^{kappa} Dt e^(-R²t²/2s)·[1 - e^(-gamma(gamma - 2Rt)/2s)]·(kappa - t)
  s = 2·alpha/f · ∫_{-inf}^{kappa} Dt [H(-Rt/√s) - H(-(Rt - gamma)/√s)]·(kappa - t)²

and the error is arccos(R)/pi. f = 1 is the classical perceptron on examples at random. The
integrands bend within a width of sqrt(s) around 0 and gamma/R, which the quadrature cuts at;
solved for u = -ln(1 - R), so that R near one keeps its digits. What random pruning leaves is
``perceptron_error(alpha, 1)``.
Left out here, and in ``rough_pruning.py``: a teacher known only roughly, keeping easy examples.
Left out: other models.
Source: arXiv 2206.14486, section 2 and appendix A, with a perfect probe.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfcinv, ndtr

from plimsoll.laws.forms.contract import Floats
from plimsoll.spec.errors import SpecError

__all__ = ["ParetoPoint", "Perceptron", "pareto", "perceptron", "perceptron_error"]

_FLOOR = -12.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_WIDTHS = np.array([-16.0, -8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0])
_FIRST_U, _LARGEST_U, _U_STEP = 0.05, 60.0, 2.0
_FRACTIONS = np.geomspace(0.02, 1.0, 14)


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceptron:
    """``error`` on new examples, ``overlap`` R with the teacher and ``margin`` kappa reached."""

    error: float
    overlap: float
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """The best fraction to keep of the hardest when ``alpha`` examples a dimension are kept, and
    what a random choice of as many gives."""

    alpha: float
    fraction: float
    error: float
    random_error: float


def perceptron_error(alpha_tot: float, f: float) -> float:
    """Error of the student trained on the hardest fraction ``f`` of ``alpha_tot``·N examples.

    Raises:
        SpecError: a fraction outside (0, 1], or no examples.
    """
    return perceptron(alpha_tot, f).error


def perceptron(alpha_tot: float, f: float) -> Perceptron:
    """The solution of both equations.

    Raises:
        SpecError: a fraction outside (0, 1], or no examples.
    """
    if not 0 < f <= 1:
        raise SpecError(f"a fraction kept of {f:g}; expected more than 0 and at most 1")
    if not (np.isfinite(alpha_tot) and alpha_tot > 0):
        raise SpecError(f"{alpha_tot:g} examples a dimension; expected a number above zero")
    gamma = float(np.sqrt(2) * erfcinv(1 - f)) if f < 1 else float("inf")

    def excess(u: float) -> float:
        overlap, rest = _overlap(u)
        first, _ = _integrals(u, _margin(u, alpha_tot, gamma), gamma)
        return overlap - 2 * alpha_tot / np.sqrt(2 * np.pi * rest) * first

    low = _FIRST_U
    while excess(low) > 0:
        low /= _U_STEP
    high = low * _U_STEP
    while excess(high) < 0:
        low, high = high, high * _U_STEP
        if high > _LARGEST_U:
            raise SpecError(
                f"{alpha_tot:g} examples a dimension: the error is below what is resolved; "
                "expected fewer"
            )
    u = float(brentq(excess, low, high, xtol=1e-13, rtol=1e-12))
    overlap, rest = _overlap(u)
    return Perceptron(
        error=float(np.arctan2(np.sqrt(rest), overlap) / np.pi),
        overlap=overlap,
        margin=_margin(u, alpha_tot, gamma),
    )


def pareto(alpha: float, fractions: Floats = _FRACTIONS) -> ParetoPoint:
    """The least error with ``alpha`` kept examples a dimension, data being plentiful.

    Raises:
        SpecError: a fraction outside (0, 1], or no examples.
    """
    errors = [perceptron_error(alpha / f, f) for f in fractions.tolist()]
    at = int(np.argmin(errors))
    return ParetoPoint(
        alpha=alpha,
        fraction=float(fractions[at]),
        error=errors[at],
        random_error=perceptron_error(alpha, 1.0),
    )


def _overlap(u: float) -> tuple[float, float]:
    """(R, 1 - R²) of u = -ln(1 - R)."""
    overlap = float(-np.expm1(-u))
    return overlap, float(np.exp(-u)) * (1 + overlap)


def _margin(u: float, alpha_tot: float, gamma: float) -> float:
    """The margin that solves the second equation; its right side rises with it from zero."""
    _, rest = _overlap(u)

    def excess(kappa: float) -> float:
        return 2 * alpha_tot * _integrals(u, kappa, gamma)[1] - rest

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, _FLOOR + 1e-6, high, xtol=1e-12, rtol=1e-12))


def _integrals(u: float, kappa: float, gamma: float) -> tuple[float, float]:
    """Both integrals over t up to kappa."""
    overlap, rest = _overlap(u)
    width = np.sqrt(rest)
    bends = [0.0] if np.isinf(gamma) else [0.0, gamma / overlap]
    cuts = np.concatenate([bend + _WIDTHS * width / overlap for bend in bends])
    even = np.linspace(_FLOOR, kappa, 9)
    cuts = np.unique(np.concatenate([even, cuts[(cuts > _FLOOR) & (cuts < kappa)]]))
    half = np.diff(cuts)[:, None] / 2
    t = ((cuts[1:] + cuts[:-1])[:, None] / 2 + half * _NODES).ravel()
    weight = (half * _WEIGHTS).ravel() * np.exp(-t * t / 2) / np.sqrt(2 * np.pi)
    along = overlap * t
    bell = np.exp(-(along**2) / (2 * rest))
    share = ndtr(along / width)
    if not np.isinf(gamma):
        bell = bell - np.exp(-(along**2 + gamma * (gamma - 2 * along)) / (2 * rest))
        share = share - ndtr((along - gamma) / width)
    gap = kappa - t
    return float(weight @ (bell * gap)), float(weight @ (share * gap * gap))
