"""Pools of four qualities, made and trained on: does the law fitted on each alone pick unions?

Inputs are Gaussian in 100 dimensions, labels those of a linear teacher, of which a pool's share
of noise is replaced at random (none, 10, 25 and 45 %, so that half of these are wrong). A
logistic student takes steps of stochastic gradient over its pool, shuffled anew each epoch. Its
error is that on clean inputs, exact from the angle to the teacher. Every setting is repeated
with fresh teachers, pools and orders, and the mean error is what is fitted and compared.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import spearmanr

from plimsoll.laws.forms.contract import Floats
from plimsoll.laws.quality import best_pool
from plimsoll.laws.quality_fit import FittedPools, PoolRuns, fit_pools

__all__ = ["BUDGETS", "NOISE", "Outcome", "outcome", "trained"]

NOISE = (0.0, 0.10, 0.25, 0.45)
BUDGETS = (0.75, 3.0, 8.0, 16.0)
"""In pools; the last is shown, not judged."""

_DIM = 100
_SAMPLES = 400
_RATE = 0.1
_BATCH = 8
_REPEATS = 24
_MARKS = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """``predicted`` and ``measured`` errors [budgets, unions], the union of the best 1, 2, …"""

    fitted: FittedPools
    predicted: Floats
    measured: Floats

    def gap(self, budgets: int) -> float:
        """Error of the union chosen above that of the best, largest over the first budgets."""
        rows = np.arange(budgets)
        chosen = self.measured[rows, self.predicted[:budgets].argmin(axis=1)]
        return float((chosen - self.measured[:budgets].min(axis=1)).max())

    def rank_correlation(self, budgets: int) -> float:
        """Spearman's, of predicted and measured errors over unions and budgets."""
        found = spearmanr(self.predicted[:budgets].ravel(), self.measured[:budgets].ravel())
        return float(found.statistic)

    def best_only_loses(self, budgets: int) -> float:
        """Error of the best pool alone above that of the best union, largest over budgets."""
        return float((self.measured[:budgets, 0] - self.measured[:budgets].min(axis=1)).max())


@functools.cache
def trained(seed: int) -> tuple[Floats, Floats]:
    """Mean errors of pools alone [pools, marks] and of unions [budgets, unions]."""
    alone, unions = [], []
    for repeat in range(_REPEATS):
        rng = np.random.default_rng([seed, repeat])
        teacher = rng.normal(size=_DIM)
        pools = [_pool(rng, teacher, noise) for noise in NOISE]
        marks = [int(f * _SAMPLES) for f in _MARKS]
        budgets = [int(f * _SAMPLES) for f in BUDGETS]
        alone.append([_train(*pool, teacher, marks, rng) for pool in pools])
        row = []
        for count in range(1, len(pools) + 1):
            x = np.concatenate([pool[0] for pool in pools[:count]])
            y = np.concatenate([pool[1] for pool in pools[:count]])
            row.append(_train(x, y, teacher, budgets, rng))
        unions.append(row)
    return np.mean(alone, axis=0), np.mean(unions, axis=0).T


def _pool(rng: np.random.Generator, teacher: Floats, noise: float) -> tuple[Floats, Floats]:
    x = rng.normal(size=(_SAMPLES, _DIM))
    y = (x @ teacher > 0).astype(float)
    replaced = rng.random(_SAMPLES) < noise
    return x, np.where(replaced, rng.integers(0, 2, _SAMPLES), y)


def _train(
    x: Floats, y: Floats, teacher: Floats, marks: list[int], rng: np.random.Generator
) -> list[float]:
    """Clean error after each of ``marks`` samples, one run."""
    student, seen, errors = np.zeros(_DIM), 0, []
    while len(errors) < len(marks):
        order = rng.permutation(len(x))
        for first in range(0, len(x), _BATCH):
            batch = order[first : first + _BATCH]
            wrong = 1 / (1 + np.exp(-(x[batch] @ student))) - y[batch]
            student -= _RATE * (x[batch].T @ wrong) / len(batch)
            seen += len(batch)
            while len(errors) < len(marks) and seen >= marks[len(errors)]:
                errors.append(_error(student, teacher))
            if len(errors) == len(marks):
                break
    return errors


def _error(student: Floats, teacher: Floats) -> float:
    cosine = student @ teacher / (np.linalg.norm(student) * np.linalg.norm(teacher))
    return float(np.arccos(np.clip(cosine, -1, 1)) / np.pi)


@functools.cache
def outcome(
    seed: int, kind: Literal["utility", "data"] = "utility", *, fading: bool = True
) -> Outcome:
    """Fit pools alone over at most four repetitions, predict every union at every budget."""
    alone, unions = trained(seed)
    seen = np.array(_MARKS) * _SAMPLES
    runs = [
        PoolRuns(name=f"{noise:.0%} noise", samples=_SAMPLES, seen=seen, error=errors)
        for noise, errors in zip(NOISE, alone, strict=True)
    ]
    fitted = fit_pools(
        runs,
        d=0.0,
        kind=kind,
        normaliser=_SAMPLES,
        values=40,
        a=(1e-3, 1e6),
        b=(0.005, 3.0),
        tau=(0.2, 30.0) if fading else (np.inf, np.inf),
    )
    predicted = [best_pool(fitted.law, fitted.pools, f * _SAMPLES).errors for f in BUDGETS]
    return Outcome(fitted=fitted, predicted=np.array(predicted), measured=unions)
