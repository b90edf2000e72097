"""Block top-k against dense at equal cost, on long sums of a tiny model: what the checks compute.

Both write the same problems with the same weights. A limit of tokens cuts what is not finished;
for a budget of equivalent FLOPs a problem, each takes the limit (and block top-k the number of
positions a step) that solves most within it. Budgets are shares of what dense generations cost
that are not cut.
"""

import functools
from dataclasses import dataclass

import numpy as np

from plimsoll.catalog.contract import Context, Measured
from plimsoll.catalog.kinetics_sparse import BLOCK, DIGITS, Setting, dense_gap, generations, trained
from plimsoll.cost.testtime import B200_INTENSITY
from plimsoll.laws.testtime import Choice, allocate, choices
from plimsoll.spec.errors import InfeasibleError

__all__ = ["SHARES", "Solved", "gain", "gain_with_all", "gap", "solved"]

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Budgets, of the cost of dense generations that are not cut."""
_KEPT = (2 * BLOCK, 4 * BLOCK)
_EACH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """Shares of problems solved, one value a budget of ``SHARES``."""

    dense: tuple[float, ...]
    sparse: tuple[float, ...]
    blind: tuple[float, ...]


def _choices(seed: int, setting: Setting) -> list[Choice]:
    made = generations(trained(seed), setting, each=_EACH, seed=1000 + seed)
    return choices([made], trials=(1,), limits=range(1, DIGITS + 1))


@functools.cache
def solved(seed: int) -> Solved:
    """Of one model; its training and all generations take a few minutes."""
    dense = _choices(seed, Setting())
    whole = max(one.eflops(B200_INTENSITY) for one in dense)
    sparse = [one for kept in _KEPT for one in _choices(seed, Setting(budget=kept))]
    blind = [one for kept in _KEPT for one in _choices(seed, Setting(budget=kept, blind=True))]

    def by_budget(found: list[Choice]) -> tuple[float, ...]:
        return tuple(_best(found, share * whole) for share in SHARES)

    return Solved(dense=by_budget(dense), sparse=by_budget(sparse), blind=by_budget(blind))


def _best(found: list[Choice], eflops: float) -> float:
    try:
        return allocate(found, eflops, intensity=B200_INTENSITY).accuracy
    except InfeasibleError:
        return 0.0


def gain(context: Context, *, blind: bool) -> Measured:
    """Points more than dense, the lesser of the two lowest budgets; the least of the seeds."""
    found = [solved(seed) for seed in context.seeds]
    values = []
    for one in found:
        other = one.blind if blind else one.sparse
        values.append(100 * min(b - a for a, b in zip(one.dense[:2], other[:2], strict=True)))
    return Measured(value=min(values), values=tuple(values), detail=_detail(found))


def gain_with_all(context: Context) -> Measured:
    """Points more than dense where dense generations need not be cut; middle of the seeds."""
    found = [solved(seed) for seed in context.seeds]
    values = tuple(100 * (one.sparse[-1] - one.dense[-1]) for one in found)
    return Measured(value=float(np.median(values)), values=values, detail=_detail(found))


def _detail(found: list[Solved]) -> str:
    parts = []
    for at, share in enumerate(SHARES):
        dense, sparse, blind = (
            np.mean([getattr(one, name)[at] for one in found])
            for name in ("dense", "sparse", "blind")
        )
        parts.append(f"{share:g}: dense {dense:.0%}, top-k {sparse:.0%}, random blocks {blind:.0%}")
    return (
        f"sums of 4 to {DIGITS} digits, {_EACH} problems a length, all totals right; lines of "
        "scratch are blocks and token tables start as sums of directions, which favours block "
        "top-k; "
        f"{B200_INTENSITY:g} FLOPs a byte; solved by share of the whole dense cost (mean of "
        f"{len(found)} models): {'; '.join(parts)}"
    )


def gap(context: Context, *, room: bool) -> Measured:
    """Largest difference of scores from dense attention, as a share of the largest score."""
    budget = 3 * DIGITS if room else 2 * BLOCK
    values = tuple(dense_gap(trained(seed), budget=budget, seed=seed) for seed in context.seeds)
    return Measured(
        value=max(values),
        values=values,
        detail=f"96 positions at the end, budget {budget}, step by step against one dense pass",
    )
