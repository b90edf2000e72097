"""Robust least squares from many starts at once.

Minimises the mean of Huber's loss of ln-residuals over a box. All starts take their steps
together: Levenberg-Marquardt on weighted residuals (weights 1 within ``delta``, delta/|r|
beyond), each start with its own damping, coordinates at a bound held while the step would push
them out. The best few are then polished by L-BFGS-B on the same objective, whose gradient is
exact. Deterministic. Leaves out: noise in the inputs; losses of unlike precision.
Sources: Huber 1964; Moré 1978; Byrd et al. 1995 (scipy).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from plimsoll.laws.forms.contract import Floats, Inputs, LossForm

__all__ = ["Minimum", "huber", "minimise", "minimise_many"]

_STEPS = 50
_POLISHED = 1
_DAMPING = 1e-2
_GIVE_UP = 1e9


@dataclass(frozen=True, slots=True)
class Minimum:
    """``theta`` [k] and the mean Huber loss there; ``starts_near``: how many starts came within a
    percent of it, of ``num_starts``."""

    theta: Floats
    loss: float
    starts_near: int
    num_starts: int


def huber(residuals: Floats, delta: float) -> Floats:
    """Huber's loss, elementwise: r²/2 within delta, delta·(|r| − delta/2) beyond."""
    size = np.abs(residuals)
    return np.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))


def minimise(
    form: LossForm,
    x: Inputs,
    log_loss: Floats,
    *,
    delta: float,
    starts: Floats,
    steps: int = _STEPS,
    polished: int = _POLISHED,
) -> Minimum:
    """The lowest minimum found."""
    low = np.array([c.low for c in form.coordinates])
    high = np.array([c.high for c in form.coordinates])
    share = np.full_like(log_loss, 1 / len(log_loss))
    theta = np.clip(starts, low, high)
    theta, cost = _descend(form, x, log_loss, theta, low, high, delta, share, steps)
    order = np.argsort(cost, kind="stable")

    def objective(point: Floats) -> tuple[float, Floats]:
        residuals = form.log_loss(point, x) - log_loss
        clipped = np.clip(residuals, -delta, delta)
        value = float(huber(residuals, delta) @ share)
        slope = form.gradient(point, x).T @ (clipped * share)
        return value / delta, slope / delta  # of order one, or L-BFGS-B stops early

    best, lowest = theta[order[0]], float(cost[order[0]])
    for index in order[:polished]:
        found = minimize(
            objective,
            theta[index],
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low, high, strict=True)),
            options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-10},
        )
        if found.fun * delta < lowest:
            best, lowest = found.x, float(found.fun * delta)
    near = int((cost <= lowest * 1.01 + 1e-15).sum())
    return Minimum(theta=best, loss=lowest, starts_near=near, num_starts=len(starts))


def minimise_many(
    form: LossForm,
    x: Inputs,
    log_loss: Floats,
    *,
    delta: float,
    starts: Floats,
    counts: Floats,
    steps: int = _STEPS,
) -> Floats:
    """Minima of resampled points, [s, k]: row i of ``counts`` [s, n] says how often each point
    stands in sample i, which begins at row i of ``starts``."""
    low = np.array([c.low for c in form.coordinates])
    high = np.array([c.high for c in form.coordinates])
    share = counts / counts.sum(axis=1, keepdims=True)
    theta = np.clip(starts, low, high)
    return _descend(form, x, log_loss, theta, low, high, delta, share, steps)[0]


def _descend(
    form: LossForm,
    x: Inputs,
    log_loss: Floats,
    theta: Floats,
    low: Floats,
    high: Floats,
    delta: float,
    share: Floats,
    steps: int,
) -> tuple[Floats, Floats]:
    """Damped Gauss-Newton for all starts; their points and mean losses."""

    def cost_of(points: Floats) -> tuple[Floats, Floats]:
        with np.errstate(over="ignore", invalid="ignore"):
            residuals = form.log_loss(points, x) - log_loss
            cost = (huber(residuals, delta) * share).sum(axis=-1)
        return residuals, np.where(np.isfinite(cost), cost, np.inf)

    residuals, cost = cost_of(theta)
    alive = np.isfinite(cost)
    theta, residuals, cost = theta[alive], residuals[alive], cost[alive]
    share = share[alive] if share.ndim == 2 else share
    damping = np.full(len(theta), _DAMPING)
    size = theta.shape[1]
    diagonal = np.arange(size)
    for _ in range(steps):
        moving = damping < _GIVE_UP
        if not moving.any():
            break
        jacobian = form.gradient(theta, x)
        with np.errstate(over="ignore", invalid="ignore"):
            weight = share * np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
            right = -np.einsum("snk,sn->sk", jacobian, weight * residuals)
            normal = np.einsum("snk,sn,snl->skl", jacobian, weight, jacobian)
        held = ((theta <= low) & (right < 0)) | ((theta >= high) & (right > 0))
        right = np.where(held, 0.0, right)
        normal = np.where(held[:, :, None] | held[:, None, :], 0.0, normal)
        scale = np.einsum("skk->sk", normal).copy()
        scale = np.where(scale > 0, scale, scale.max(axis=1, keepdims=True) + 1e-300)
        normal[:, diagonal, diagonal] += damping[:, None] * scale + 1e-14 * scale
        normal = np.nan_to_num(normal, nan=0.0, posinf=0.0, neginf=0.0)
        normal[:, diagonal, diagonal] = np.where(
            normal[:, diagonal, diagonal] > 0, normal[:, diagonal, diagonal], 1.0
        )
        step = np.linalg.solve(normal, np.nan_to_num(right)[..., None])[..., 0]
        tried = np.clip(theta + step, low, high)
        new_residuals, new_cost = cost_of(tried)
        better = new_cost < cost
        gain = cost - new_cost
        theta = np.where(better[:, None], tried, theta)
        residuals = np.where(better[:, None], new_residuals, residuals)
        settled = better & (gain <= 1e-9 * cost)
        cost = np.where(better, new_cost, cost)
        damping = np.where(better, np.maximum(damping / 4, 1e-12), damping * 6)
        damping = np.where(settled, _GIVE_UP, damping)
    return theta, cost
