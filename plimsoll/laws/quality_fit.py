"""Fit the laws of quality: an exhaustive grid, then finer grids around its best cell.

Gradient fits of these laws are unstable (a, b and tau trade off), so every pair of a and tau on a
grid is tried, a shared by all pools, tau and b of each pool, d given; b alone, in which the error
is smooth, is refined in each cell, and the cells around the best in a and tau are cut finer.
Squared error of the error itself. A value at the edge of its range is said to be unidentified, as
is tau when no run went beyond its first epoch.
Source: arXiv 2404.07177, appendix; ``grid_search.py`` of its repository.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.quality import (
    EffectiveData,
    QualityLaw,
    QualityPool,
    RepeatUtility,
    effective_samples,
    epoch_ends,
    utility_exponent,
)
from plimsoll.spec.errors import InfeasibleError, SpecError

__all__ = [
    "A_RANGE",
    "B_RANGE",
    "TAU_RANGE",
    "FittedPools",
    "PoolRuns",
    "fit_floor",
    "fit_pools",
]

_LEAST_RUNS = 3
_ZOOMS = 4
_A_POINTS = 9
_TAU_ROUNDS = 3
_TAU_POINTS = 9
_B_POINTS = 25
_B_STEPS = 8
A_RANGE = (1e-4, 1.0)
B_RANGE = (0.005, 0.5)
TAU_RANGE = (1.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRuns:
    """``error`` [n] of models trained on ``seen`` [n] samples of a pool of ``samples``."""

    name: str
    samples: float
    seen: Floats
    error: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPools:
    """``unidentified``: in words, which parameters the runs do not fix. ``residual``: mean squared
    error over all runs."""

    law: QualityLaw
    pools: tuple[QualityPool, ...]
    residual: float
    unidentified: tuple[str, ...]


def fit_pools(
    runs: Sequence[PoolRuns],
    *,
    d: float,
    kind: Literal["utility", "data"] = "utility",
    normaliser: float = 1.0,
    values: int = 100,
    a: tuple[float, float] = A_RANGE,
    b: tuple[float, float] = B_RANGE,
    tau: tuple[float, float] = TAU_RANGE,
) -> FittedPools:
    """One law for all pools; ``values`` of each parameter on the grid, ``b`` in size.

    ``tau`` (inf, inf) fits without fading.

    Raises:
        SpecError: runs that do not match, errors not above ``d``, less than one sample.
        InfeasibleError: fewer than three runs of a pool.
    """
    if not runs:
        raise SpecError("no runs to fit; expected those of one pool or more")
    for one in runs:
        _check(one, d)
    ends = [[epoch_ends(n, r.samples) / normaliser for n in r.seen.tolist()] for r in runs]
    taus = _axis(tau, values)
    grid = _axis(a, values)
    best_a, found, cost = 0.0, [(0.0, 0.0)] * len(runs), np.inf
    for _ in range(_ZOOMS):
        fits = [_profile(r, e, grid, b, taus, d, kind) for r, e in zip(runs, ends, strict=True)]
        costs = np.sum([by_a for by_a, _, _ in fits], axis=0)
        at = int(np.argmin(costs))
        if costs[at] < cost:
            best_a, cost = float(grid[at]), float(costs[at])
            found = [(float(pb[at]), float(pt[at])) for _, pb, pt in fits]
        grid = np.geomspace(grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)], _A_POINTS)
    law: QualityLaw = (
        RepeatUtility(a=best_a, d=d, normaliser=normaliser)
        if kind == "utility"
        else EffectiveData(a=best_a, d=d, normaliser=normaliser)
    )
    pools = tuple(
        QualityPool(name=r.name, samples=r.samples, b=-pb, tau=pt)
        for r, (pb, pt) in zip(runs, found, strict=True)
    )
    notes = [f"a = {best_a:.3g} at the edge of its range"] if _at_edge(best_a, a) else []
    for pool, r in zip(pools, runs, strict=True):
        if _at_edge(-pool.b, b):
            notes.append(f"{pool.name}: b = {pool.b:.3g} at the edge of its range")
        if (r.seen <= r.samples).all():
            notes.append(f"{pool.name}: tau, since no run went beyond the first epoch")
        elif _at_edge(pool.tau, tau):
            notes.append(f"{pool.name}: tau = {pool.tau:.3g} at the edge of its range")
    total = sum(len(r.seen) for r in runs)
    return FittedPools(law=law, pools=pools, residual=cost / total, unidentified=tuple(notes))


def fit_floor(
    runs: Sequence[PoolRuns],
    floors: Floats,
    *,
    kind: Literal["utility", "data"] = "utility",
    normaliser: float = 1.0,
    values: int = 40,
    a: tuple[float, float] = A_RANGE,
    b: tuple[float, float] = B_RANGE,
    tau: tuple[float, float] = TAU_RANGE,
) -> FittedPools:
    """The best fit over several values of d, for when it is not known.

    Raises:
        SpecError, InfeasibleError: as ``fit_pools``.
    """
    fits = [
        fit_pools(runs, d=d, kind=kind, normaliser=normaliser, values=values, a=a, b=b, tau=tau)
        for d in floors.tolist()
    ]
    return min(fits, key=lambda fitted: fitted.residual)


def _check(one: PoolRuns, d: float) -> None:
    if len(one.seen) != len(one.error):
        raise SpecError(f"pool {one.name}: {len(one.seen)} of seen, {len(one.error)} of error")
    if len(one.seen) < _LEAST_RUNS:
        raise InfeasibleError(
            f"pool {one.name}: {len(one.seen)} runs for b and tau",
            binding=f"runs: {len(one.seen)} of {_LEAST_RUNS}",
            change=f"measure {_LEAST_RUNS - len(one.seen)} more",
        )
    low = float(one.error.min())
    if not np.isfinite(one.error).all() or low <= d:
        raise SpecError(
            f"pool {one.name}: an error of {low:.4g} is not above d = {d:.4g}; expected errors "
            "(not accuracies) above what stays, so lower d"
        )


def _axis(box: tuple[float, float], values: int) -> Floats:
    low, high = box
    if low == high:
        return np.array([low])
    return np.geomspace(low, high, values)


def _at_edge(value: float, box: tuple[float, float]) -> bool:
    return box[0] != box[1] and bool(np.isclose(value, box, rtol=1e-3).any())


def _profile(
    r: PoolRuns,
    ends: Sequence[Floats],
    a: Floats,
    b: tuple[float, float],
    taus: Floats,
    d: float,
    kind: Literal["utility", "data"],
) -> tuple[Floats, Floats, Floats]:
    """For each a, the least squared error of a pool over b and tau, and the two; [a] each."""
    tried = np.broadcast_to(taus, (len(a), len(taus)))
    rows = np.arange(len(a))
    cost, at_b, at_tau = np.full(len(a), np.inf), np.zeros(len(a)), np.zeros(len(a))
    for _ in range(_TAU_ROUNDS):
        measure = utility_exponent if kind == "utility" else _log_effective
        logs = np.stack([measure(e, tried) for e in ends], axis=-1)
        fitted_b, costs = _fit_b(np.log(a)[:, None, None] + logs, r.error - d, b)
        pick = costs.argmin(axis=1)
        better = costs[rows, pick] < cost
        cost = np.where(better, costs[rows, pick], cost)
        at_b = np.where(better, fitted_b[rows, pick], at_b)
        at_tau = np.where(better, tried[rows, pick], at_tau)
        if len(taus) == 1:
            break
        below = tried[rows, np.maximum(pick - 1, 0)]
        above = tried[rows, np.minimum(pick + 1, tried.shape[1] - 1)]
        tried = below[:, None] + (above - below)[:, None] * np.linspace(0, 1, _TAU_POINTS)
    return cost, at_b, at_tau


def _fit_b(inner: Floats, target: Floats, box: tuple[float, float]) -> tuple[Floats, Floats]:
    """The best size of b in its range for each [a, tau] of ``inner`` [a, tau, runs], with its
    squared error: a grid, then Gauss-Newton in this one parameter, kept where it is better."""

    def cost_of(b: Floats) -> tuple[Floats, Floats]:
        with np.errstate(over="ignore"):
            model = np.exp(np.minimum(-b[..., None] * inner, 50.0))
        return model, ((model - target) ** 2).sum(axis=-1)

    best = np.full(inner.shape[:2], box[0])
    lowest = cost_of(best)[1]
    for b in np.geomspace(*box, _B_POINTS)[1:].tolist():
        cost = cost_of(np.full_like(best, b))[1]
        best, lowest = np.where(cost < lowest, b, best), np.minimum(cost, lowest)
    for _ in range(_B_STEPS):
        model = cost_of(best)[0]
        slope = -inner * model
        step = ((target - model) * slope).sum(-1) / np.maximum((slope**2).sum(-1), 1e-300)
        tried = np.clip(best + step, *box)
        cost = cost_of(tried)[1]
        best, lowest = np.where(cost < lowest, tried, best), np.minimum(cost, lowest)
    return best, lowest


def _log_effective(ends: Floats, tau: Floats) -> Floats:
    return np.log(effective_samples(ends, tau))
