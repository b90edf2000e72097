"""Perceptrons trained on what pruning leaves, to set beside the solved model.

Gaussian inputs in 200 dimensions, labels of a linear teacher; a fraction is kept by the size of
the teacher's margin (or of a probe's at an angle to it), and the separating plane of largest
margin through the origin is found exactly: as the shortest vector of the convex hull of the
examples turned to one side, by non-negative least squares. A bias, or examples not so turned,
would be another problem.
Source: arXiv 2206.14486; Lawson and Hanson 1974, chapter 23 (least-distance programming).
"""

import functools
from typing import Literal

import numpy as np
from scipy.optimize import nnls

from plimsoll.laws.forms.contract import Floats

__all__ = ["DIMENSIONS", "TRIALS", "largest_margin", "mean_error", "trial_error"]

DIMENSIONS = 200
TRIALS = 5

Way = Literal["hard", "easy", "random"]


def largest_margin(turned: Floats) -> Floats:
    """The w of least length with ``turned`` [n, d] · w >= 1 in every row."""
    num, dim = turned.shape
    columns = np.vstack([turned.T, np.ones(num)])
    target = np.append(np.zeros(dim), 1.0)
    multipliers, _ = nnls(columns, target)
    rest = columns @ multipliers - target
    return -rest[:dim] / rest[dim]


def trial_error(
    alpha_tot: float, f: float, way: Way, seed: int, *, angle: float = 0.0, dim: int = DIMENSIONS
) -> float:
    """Error on new examples of one student; ``angle`` in radians between probe and teacher."""
    rng = np.random.default_rng([seed, round(1000 * alpha_tot), round(1000 * f)])
    teacher, across = np.linalg.qr(rng.normal(size=(dim, 2)))[0].T
    probe = np.cos(angle) * teacher + np.sin(angle) * across
    x = rng.normal(size=(round(alpha_tot * dim), dim))
    order = np.argsort(np.abs(x @ probe), kind="stable")
    if way == "random":
        order = rng.permutation(len(x))
    count = round(f * len(x))
    kept = x[order[-count:] if way == "easy" else order[:count]]
    turned = kept * np.sign(kept @ teacher)[:, None] / np.sqrt(dim)
    student = largest_margin(turned)
    cosine = student @ teacher / np.linalg.norm(student)
    return float(np.arccos(np.clip(cosine, -1, 1)) / np.pi)


@functools.cache
def mean_error(alpha_tot: float, f: float, way: Way, seed: int, angle: float = 0.0) -> float:
    """Mean of ``TRIALS`` students."""
    trials = range(TRIALS * seed, TRIALS * (seed + 1))
    return float(np.mean([trial_error(alpha_tot, f, way, t, angle=angle) for t in trials]))
