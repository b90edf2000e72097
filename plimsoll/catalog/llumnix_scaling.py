"""Llumnix with a number of instances that follows the load: instance-hours at equal tail latency.

Both sides scale by the same rule (``serving/routers/autoscaled.py``: cluster freeness beyond a mark
for 10 s, then 10 s of rest, a start takes 20 s) from one to sixteen instances, all up at first. The
rival dispatches by least demand and moves nothing, so a draining instance waits for its last
request; its marks are the cheapest of a list with which its P99 first token is at most 1.1 times
ours, else all sixteen stay up. Instance-hours count starts and drains. Traffic is stationary with
bursts, so a fixed fleet of the right size, known afterwards, is shown beside it.
Source: arXiv 2406.03243 section 6.5 (thresholds against cost at similar P99 first token).
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from plimsoll.catalog import llumnix_setting as setting
from plimsoll.catalog.contract import AtLeast, Check, Context, Measured, Report
from plimsoll.serving.policy import Action, ClusterPolicy, InstView, View
from plimsoll.serving.routers import AutoscaledPolicy, FreenessPolicy, LeastDemandPolicy

__all__ = ["SCALING_CHECKS"]

_CV = 4.0
_PER_S = 1.0
_START_S = 20.0
_MARKS = (300.0, 1200.0)
_RIVAL_MARKS = (
    (300.0, 1200.0),
    (500.0, 2000.0),
    (800.0, 3000.0),
    (1000.0, 3750.0),
    (1200.0, 4500.0),
    (1500.0, 5500.0),
)
_ALL_UP = (0.0, math.inf)
_SLACK = 1.1
_FLEETS = (4, 5, 6)
Floats = npt.NDArray[np.float64]


class _Lingering(FreenessPolicy):
    """Moves as ever, but none out of an instance that drains."""

    def _steps(self, inst: InstView, num_waiting: int | None) -> float:
        if not inst.admits:
            return self.low_steps  # neither short of room nor a target
        return FreenessPolicy._steps(self, inst, num_waiting)

    def _leaving(self, view: View, moving: dict[int, tuple[int, int]]) -> list[Action]:
        return []


_ROUTERS: dict[str, Callable[[], ClusterPolicy]] = {
    "freeness": FreenessPolicy,
    "no moves": lambda: FreenessPolicy(migrate=False),
    "no moves out of draining": _Lingering,
    "least-demand": LeastDemandPolicy,
}


@functools.lru_cache(maxsize=256)
def _scaled(name: str, marks: tuple[float, float], per_s: float, seed: int) -> tuple[float, Floats]:
    """Instance-hours, and the first-token times, of one run."""
    router = AutoscaledPolicy(_ROUTERS[name](), low_steps=marks[0], high_steps=marks[1])
    if marks == _ALL_UP:
        router.min_instances = setting.NUM_INSTANCES
    load = setting.traffic("L", per_s, seed, cv=_CV)
    run = setting.serve(load, router, start_s=_START_S)
    spans = run.meta.get("up_spans") or [(0, 0.0, setting.NUM_INSTANCES * run.meta["end_s"])]
    hours = sum(stop - start for _, start, stop in spans) / 3600
    return float(hours), run.requests.ttft_s


def _together(
    name: str, marks: tuple[float, float], per_s: float, seeds: Sequence[int]
) -> tuple[float, float]:
    """Instance-hours and P99 first token over all seeds."""
    runs = [_scaled(name, marks, per_s, seed) for seed in seeds]
    p99_s = float(np.quantile(np.concatenate([ttft for _, ttft in runs]), 0.99))
    return sum(hours for hours, _ in runs), p99_s


def _rival(p99_s: float, per_s: float, seeds: Sequence[int]) -> tuple[float, float, float]:
    """The cheapest marks of the rival with at most so much: hours, P99 first token, low mark."""
    tried = [(*_together("least-demand", m, per_s, seeds), m[0]) for m in _RIVAL_MARKS]
    enough = [one for one in tried if one[1] <= _SLACK * p99_s]
    return min(enough, default=(*_together("least-demand", _ALL_UP, per_s, seeds), math.inf))


def _fewer(ours: str) -> Callable[[Context], Measured]:
    """Share of the rival's instance-hours that is saved at its P99 first token or better."""

    def compute(context: Context) -> Measured:
        shares, shown = [], ""
        for seeds in (context.seeds, *((seed,) for seed in context.seeds)):
            hours, p99_s = _together(ours, _MARKS, _PER_S, seeds)
            theirs, their_p99_s, mark = _rival(p99_s, _PER_S, seeds)
            shares.append(1 - hours / theirs)
            shown = shown or (
                f"{ours} with marks {_MARKS[0]:g} and {_MARKS[1]:g}: {hours:.2f} h, P99 first "
                f"token {p99_s:.1f} s; least-demand from its low mark {mark:g}: {theirs:.2f} h, "
                f"{their_p99_s:.1f} s"
            )
        detail = (
            f"{_PER_S:g} request/s of CV {_CV:g}, 5,000 requests a seed, starts of {_START_S:g} s, "
            f"both scaled by one rule: {shown}; the range is of single seeds"
        )
        return Measured(value=shares[0], values=tuple(shares[1:]), detail=detail)

    return compute


def _regimes(context: Context) -> Measured:
    """Where less is saved, what the moves out of draining instances save alone, fixed fleets."""
    seeds = context.seeds[:2]
    shares, rows = [], []
    for per_s in (_PER_S, 2.0, 3.0):
        hours, p99_s = _together("freeness", _MARKS, per_s, seeds)
        theirs, their_p99_s, _ = _rival(p99_s, per_s, seeds)
        shares.append(1 - hours / theirs)
        rows.append(
            f"{per_s:g}/s {shares[-1]:.0%} ({hours:.1f} h at {p99_s:.1f} s for {theirs:.1f} h at "
            f"{their_p99_s:.1f} s)"
        )
    hours, p99_s = _together("no moves out of draining", _MARKS, _PER_S, seeds)
    rows.append(f"no moves out of draining instances {hours:.1f} h at {p99_s:.1f} s")
    for num in _FLEETS:
        runs = [
            setting.serve(
                setting.traffic("L", _PER_S, seed, cv=_CV), LeastDemandPolicy(), num_instances=num
            )
            for seed in seeds
        ]
        hours = num * sum(run.meta["end_s"] for run in runs) / 3600
        p99_s = float(np.quantile(np.concatenate([run.requests.ttft_s for run in runs]), 0.99))
        rows.append(f"{num} fixed {hours:.1f} h at {p99_s:.1f} s")
    return Measured(value=min(shares), values=tuple(shares), detail="; ".join(rows))


SCALING_CHECKS = (
    Check(
        claim="cost",
        title="fewer instance-hours at 1 request/s than least-demand scaled alike, equal P99",
        how="simulated",
        band=AtLeast(0.2),
        compute=_fewer("freeness"),
        unit="less",
        ablation=_fewer("no moves"),
        ablation_title="without moves, draining waits",
        slow=True,
    ),
    Check(
        claim="cost",
        title="instance-hours saved from 1 to 3 requests/s, and what fixed fleets take",
        how="simulated",
        band=Report("where load moves little a fixed fleet of the right size does as well"),
        compute=_regimes,
        unit="less",
        slow=True,
    ),
)
