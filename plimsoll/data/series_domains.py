"""Generators of series, one a domain: six to train on and two kept for tests alone.

Each draws its own parameters a series and returns standard values (level 0, spread of order 1)
with what is known of their entropy: nats of the point ``lead`` steps after the cut, given the
parameters, the hidden state and all values before the cut. Exact for seasonal, autoregressive,
switching, holiday and walk series; for counts exact up to the overlap of jittered whole numbers
(below 1e-3 nats); a lower bound (noise alone) for chaotic maps and relaxation oscillators, where a
true state seen through noise is forgotten. Leaves out: several variates, covariates, calendars.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

__all__ = ["OOD_DOMAINS", "TRAIN_DOMAINS", "Drawn", "normal_entropy"]

Floats = npt.NDArray[np.float64]
_BURN = 200
_HALF_LOG = 0.5 * np.log(2 * np.pi * np.e)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """``values`` [n, t] and ``bound_nats`` [n, leads] of the last ``leads`` points."""

    values: Floats
    bound_nats: Floats


Generator = Callable[[np.random.Generator, int, int, int], Drawn]
"""(random numbers, series, points, leads) -> what was drawn."""


def normal_entropy(std: npt.ArrayLike) -> Floats:
    """Differential entropy of a Gaussian, nats."""
    return _HALF_LOG + np.log(np.asarray(std, dtype=np.float64))


def _noisy(rng: np.random.Generator, clean: Floats, noise: Floats, leads: int) -> Drawn:
    """Clean values [n, t] with Gaussian noise of ``noise`` [n, 1]."""
    values = clean + noise * rng.normal(size=clean.shape)
    return Drawn(values=values, bound_nats=np.repeat(normal_entropy(noise), leads, axis=1))


def _noise(rng: np.random.Generator, num: int) -> Floats:
    return np.exp(rng.uniform(np.log(0.05), np.log(0.3), (num, 1)))


def _seasonal(rng: np.random.Generator, num: int, length: int, leads: int) -> Drawn:
    """One to three sines of unrelated periods from 6 to 48."""
    time = np.arange(length)
    clean = np.zeros((num, length))
    for wave in range(3):
        period = np.exp(rng.uniform(np.log(6), np.log(48), (num, 1)))
        size = rng.uniform(0.3, 1.2, (num, 1)) * (rng.random((num, 1)) < (1.0, 0.6, 0.3)[wave])
        clean += size * np.sin(2 * np.pi * (time / period + rng.random((num, 1))))
    return _noisy(rng, clean, _noise(rng, num), leads)


def _autoregressive(rng: np.random.Generator, num: int, length: int, leads: int) -> Drawn:
    """AR(1) to AR(3), stable since drawn by partial correlations, of unit variance."""
    order = rng.integers(1, 4, num)
    partial = rng.uniform(-0.6, 0.95, (num, 3))
    partial[:, 1:] *= 0.8
    partial *= np.arange(3) < order[:, None]
    weights = np.zeros((num, 3))
    left = np.ones(num)
    for step in range(3):  # Durbin and Levinson
        last = partial[:, step]
        weights[:, :step] -= last[:, None] * weights[:, :step][:, ::-1]
        weights[:, step] = last
        left *= 1 - last**2
    std = np.sqrt(left)[:, None]
    shocks = std * rng.normal(size=(num, length + _BURN))
    values = np.zeros((num, length + _BURN + 3))
    for step in range(length + _BURN):
        past = values[:, step : step + 3][:, ::-1]
        values[:, step + 3] = (weights * past).sum(axis=1) + shocks[:, step]
    answers = np.zeros((num, leads + 3))
    answers[:, 2] = 1.0
    for lead in range(1, leads):
        answers[:, lead + 2] = (weights * answers[:, lead - 1 : lead + 2][:, ::-1]).sum(axis=1)
    spread = std * np.sqrt(np.cumsum(answers[:, 2 : leads + 2] ** 2, axis=1))
    return Drawn(values=values[:, -length:], bound_nats=normal_entropy(spread))


def _switching(rng: np.random.Generator, num: int, length: int, leads: int) -> Drawn:
    """Two levels, left with a chance a step of 1/40 to 1/8."""
    leave = 1 / rng.uniform(8, 40, (num, 1))
    gap = rng.uniform(1.0, 3.0, (num, 1))
    noise = _noise(rng, num)
    flips = rng.random((num, length)) < leave
    state = (np.cumsum(flips, axis=1) + rng.integers(0, 2, (num, 1))) % 2
    values = gap * (state - 0.5) + noise * rng.normal(size=(num, length))
    stay = 0.5 + 0.5 * (1 - 2 * leave) ** np.arange(1, leads + 1)
    return Drawn(values=values, bound_nats=normal_entropy(noise) + _mixing(stay, gap / noise))


def _mixing(share: Floats, apart: Floats) -> Floats:
    """What drawing from one of two unit Gaussians, ``apart`` standard deviations from each other,
    adds to the entropy of one; ``share`` that of the first."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    weights = weights / weights.sum()
    added = np.zeros(np.broadcast_shapes(share.shape, apart.shape))
    for mine, sign in ((share, 1.0), (1 - share, -1.0)):
        for node, weight in zip(nodes, weights, strict=True):
            # ratio of the other's density to this one's, at ``node`` from this one's center
            other = np.exp(np.minimum(-0.5 * apart**2 + sign * apart * node, 600.0))
            both = mine + (1 - mine) * other
            added -= weight * mine * np.log(np.maximum(both, 1e-300))
    return added


def _counts(rng: np.random.Generator, num: int, length: int, leads: int) -> Drawn:
    """Intermittent demand: none most of the time, else one or more, with a jitter of 0.08."""
    chance = rng.uniform(0.1, 0.5, (num, 1))
    rate = rng.uniform(0.2, 2.0, (num, 1))
    some = rng.random((num, length)) < chance
    counts = some * (1 + rng.poisson(np.broadcast_to(rate, (num, length))))
    jitter = 0.08
    number = np.arange(30)
    of_rate = number * np.log(rate) - rate - gammaln(number + 1)
    surprise = -(np.exp(of_rate) * of_rate).sum(axis=1, keepdims=True)
    rare = -chance * np.log(chance) - (1 - chance) * np.log1p(-chance) + chance * surprise
    values = counts + jitter * rng.normal(size=counts.shape)
    return Drawn(values=values, bound_nats=np.repeat(rare + normal_entropy(jitter), leads, axis=1))


def _holidays(rng: np.random.Generator, num: int, length: int, leads: int) -> Drawn:
    """A straight trend with a peak or dip of one to four points every 12 to 40."""
    time = np.arange(length)
    period = rng.integers(12, 41, (num, 1))
    width = rng.integers(1, 5, (num, 1))
    height = rng.uniform(0.8, 3.0, (num, 1)) * rng.choice([-1.0, 1.0], (num, 1))
    away = (time + rng.integers(0, 40, (num, 1))) % period < width
    clean = rng.uniform(-0.02, 0.02, (num, 1)) * time + height * away
    return _noisy(rng, clean, _noise(rng, num), leads)


def _chaotic(rng: np.random.Generator, num: int, length: int, leads: int) -> Drawn:
    """The logistic map, r from 3.4 (four-cycles) to 3.9 (chaos), seen with a little noise."""
    r = rng.uniform(3.4, 3.9, num)
    x = rng.uniform(0.2, 0.8, num)
    clean = np.empty((num, length))
    for step in range(_BURN + length):
        x = r * x * (1 - x)
        if step >= _BURN:
            clean[:, step - _BURN] = x
    return _noisy(rng, 4 * (clean - 0.6), rng.uniform(0.05, 0.15, (num, 1)), leads)


def _relaxation(rng: np.random.Generator, num: int, length: int, leads: int) -> Drawn:
    """Van der Pol's oscillator, stiffness 0.5 to 4, sampled 12 to 40 times a cycle."""
    stiff = rng.uniform(0.5, 4.0, num)
    cycle = 2 * np.pi * np.sqrt(1 + (stiff / 3.1) ** 2)  # near its true length
    inner = 24
    step = cycle / rng.uniform(12, 40, num) / inner
    x, v = rng.uniform(-2, 2, num), rng.uniform(-1, 1, num)
    clean = np.empty((num, length))
    for at in range(_BURN + length):
        for _ in range(inner):
            v = v + step * (stiff * (1 - x * x) * v - x)
            x = x + step * v
        if at >= _BURN:
            clean[:, at - _BURN] = x
    return _noisy(rng, 0.7 * clean, _noise(rng, num), leads)


def _walk(rng: np.random.Generator, num: int, length: int, leads: int) -> Drawn:
    """A random walk with a drift, which seldom comes near zero with a level of 5 added."""
    step = rng.uniform(0.03, 0.12, (num, 1))
    drift = step * rng.uniform(-0.1, 0.1, (num, 1))
    values = np.cumsum(drift + step * rng.normal(size=(num, length)), axis=1)
    spread = step * np.sqrt(np.arange(1, leads + 1))
    return Drawn(values=values, bound_nats=normal_entropy(spread))


TRAIN_DOMAINS: dict[str, Generator] = {
    "seasonal": _seasonal,
    "autoregressive": _autoregressive,
    "switching": _switching,
    "counts": _counts,
    "holidays": _holidays,
    "chaotic": _chaotic,
}
"""What models are trained on."""

OOD_DOMAINS: dict[str, Generator] = {"relaxation": _relaxation, "walk": _walk}
"""Out of distribution: never trained on, and no code of theirs is."""
