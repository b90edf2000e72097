"""What a plan did on a workload, reduced to what a search compares; and who says so.

A judge takes a plan and a workload and returns a verdict. The simulator is the judge that
counts; tests use closed-form ones. A run *holds* when every target of the SLO is met at its
percentile and the queue did not grow over the run; with a joint share asked for, when at least
that share of requests meets every bound.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from plimsoll.spec.hardware import Fleet
from plimsoll.spec.model import ModelSpec
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.summary import Summary
from plimsoll.spec.workload import Workload

__all__ = ["Judge", "SimulatorJudge", "Verdict", "verdict_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One run. ``holds``: the promise was kept; ``missed``: the target or limit that was not.

    ``shortfall``: worst observed value over its bound (1 or less where kept, inf where never).
    """

    holds: bool
    missed: str
    shortfall: float
    good_fraction: float
    requests_per_s: float
    output_tokens_per_s: float
    summary: Summary | None = None


class Judge(Protocol):
    """Runs a plan on a workload; must be picklable and deterministic."""

    def __call__(self, plan: ServingPlan, workload: Workload) -> Verdict:
        """The verdict of one run."""
        ...


def verdict_of(summary: Summary, *, joint_fraction: float = 0.0) -> Verdict:
    """The verdict a summary amounts to; ``joint_fraction`` 0: each target's own percentile."""
    missed, shortfall = "", 0.0
    for target in summary.targets:
        bound = target.target.bound_s
        ratio = float("inf") if target.observed_s is None else target.observed_s / bound
        if target.num_requests == 0:
            ratio = 0.0
        if ratio > shortfall:
            shortfall = ratio
            if not target.met:
                missed = f"{target.target.metric.upper()} p{target.target.percentile:g}"
    good = summary.good_fraction if summary.good_fraction is not None else 0.0
    if joint_fraction:
        holds = good >= joint_fraction
        shortfall = joint_fraction / good if good > 0 else float("inf")
        missed = "" if holds else missed or f"{joint_fraction:.0%} of requests within the SLO"
    else:
        holds = all(target.met for target in summary.targets)
    if summary.status.rejected or summary.status.failed:
        holds, missed = False, missed or "requests rejected"
        shortfall = max(shortfall, 1.0 + 1e-9)
    if summary.saturation is not None and summary.saturation.saturated and holds:
        holds, missed = False, "throughput"
        shortfall = max(shortfall, summary.saturation.demand_ratio)
    return Verdict(
        holds=holds,
        missed=missed,
        shortfall=shortfall,
        good_fraction=good,
        requests_per_s=summary.requests_per_s,
        output_tokens_per_s=summary.output_tokens_per_s,
        summary=summary,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hopeless:
    """Says when so many requests are surely late that no outcome can keep the promise.

    A request that keeps every bound has ended ``longest_s`` after it arrived; more than
    ``allowed`` that have not mean that some target is missed.
    """

    arrival_s: npt.NDArray[np.float64]
    longest_s: float
    allowed: float

    def __call__(self, now_s: float, num_ended: int) -> bool:
        due = int(np.searchsorted(self.arrival_s, now_s - self.longest_s))
        return due - num_ended > self.allowed


def _hopeless(plan: ServingPlan, workload: Workload) -> _Hopeless | None:
    ttft, tpot, e2e = (plan.slo.bound_s(metric) for metric in ("ttft", "tpot", "e2e"))
    if any(t.request_class for t in plan.slo.targets) or workload.num_in_flight:
        return None
    longest = e2e
    if ttft is not None and tpot is not None:
        whole = ttft + tpot * int(workload.output_tokens.max())
        longest = whole if e2e is None else min(whole, e2e)
    if longest is None or workload.sessions_wait:
        return None
    misses = sum(1 - t.percentile / 100 for t in plan.slo.targets)
    return _Hopeless(
        arrival_s=workload.arrival_s,
        longest_s=longest,
        allowed=misses * len(workload) + len(plan.slo.targets),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorJudge:
    """The simulator on the plan's own policies, with the cost model as its clock.

    ``hurried`` stops a run as soon as it surely misses the promise; how badly is then unknown.
    """

    model: ModelSpec
    fleet: Fleet
    seed: int = 0
    joint_fraction: float = 0.0
    hurried: bool = False

    def __call__(self, plan: ServingPlan, workload: Workload) -> Verdict:
        """See ``Judge``."""
        from plimsoll.serving.metrics import summarize
        from plimsoll.serving.simulate.run import simulate_plan

        stop = _hopeless(plan, workload) if self.hurried and not self.joint_fraction else None
        record = simulate_plan(
            plan, self.model, self.fleet, workload, seed=self.seed, stop_if_hopeless=stop
        )
        summary = summarize(record, plan.slo, num_devices=plan.num_devices)
        return verdict_of(summary, joint_fraction=self.joint_fraction)
