"""One plan under simulation: what it has been seen to carry, and the next look at it.

Open loop: bisection on the rate around what is known. Closed loop, or when the objective is
latency: one run, which says how fast requests are at the load itself. A look is a picklable
callable, so that rounds of looks can run in other processes.
"""

from dataclasses import dataclass, replace

import numpy as np

from plimsoll.planning.combine import Estimate
from plimsoll.planning.goodput import Goodput, sustained_rate
from plimsoll.planning.judging import Judge, Verdict
from plimsoll.planning.objective import Objective, Scale, score
from plimsoll.planning.offered_load import at_rate, busiest_slice
from plimsoll.spec.errors import InfeasibleError
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.workload import Workload

__all__ = ["CheckLook", "RateLook", "RunLook", "Trial", "trial_score"]

_LEAST_SHARE = 0.01
_CANNOT_START = "cannot start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate with what simulation has shown of it so far.

    ``rate_per_s`` held in the last look; ``run`` is the last verdict at a load of the
    workload's own, ``e2e_s`` the mean time to the last token in it. ``policies`` names what
    varies the plan of the estimate, if anything does.
    """

    index: int
    estimate: Estimate
    plan: ServingPlan
    policies: str = ""
    rate_per_s: float = 0.0
    found: Goodput | None = None
    run: Verdict | None = None
    e2e_s: float = float("inf")
    runs: int = 0

    @property
    def looked(self) -> bool:
        """Whether it has been simulated at all."""
        return self.runs > 0


def trial_score(
    trial: Trial, objective: Objective, scale: Scale, *, load_per_s: float, output_tokens: float
) -> float:
    """The objective from simulated figures; -inf for a plan that held nothing or misses the load.

    A plan within a hundredth of the load stays in play: the check on the workload decides.
    """
    if trial.rate_per_s <= 0 or trial.rate_per_s < load_per_s * (1 - _LEAST_SHARE):
        return float("-inf")
    value = score(
        objective,
        scale,
        capacity_per_s=np.asarray(trial.rate_per_s),
        load_per_s=load_per_s,
        output_tokens=output_tokens,
        e2e_s=np.asarray(trial.e2e_s),
    )
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLook:
    """Find the rate a trial's plan sustains, starting from what is known of it."""

    judge: Judge
    workload: Workload
    duration_s: float
    max_runs: int
    tolerance: float
    spread: float

    def __call__(self, trial: Trial) -> Trial:
        """The trial with its new rate."""
        known = trial.found
        guess = trial.estimate.rate_per_s
        if known is not None:
            seen = known.rate_per_s or known.ceiling_per_s / 2
            trusted = seen / guess if guess > 0 else 1.0
            # A short look errs as much as the closed forms do, unless they differ widely.
            guess = (guess * seen) ** 0.5 if 0.5 < trusted < 2 else seen
        try:
            found = sustained_rate(
                self.judge,
                trial.plan,
                self.workload,
                guess_per_s=guess,
                duration_s=self.duration_s,
                tolerance=self.tolerance,
                max_runs=self.max_runs,
                spread=self.spread,
            )
        except InfeasibleError:
            return _dead(trial)
        e2e = _mean_e2e(found.verdict)
        return replace(
            trial,
            rate_per_s=found.rate_per_s,
            found=found,
            e2e_s=e2e,
            runs=trial.runs + found.num_runs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLook:
    """Run a trial's plan on a slice of the workload (closed loop), or at a given rate."""

    judge: Judge
    workload: Workload
    num_requests: int
    rate_per_s: float = 0.0

    def __call__(self, trial: Trial) -> Trial:
        """The trial with its run; its rate is what it carried if the promise was kept."""
        if self.rate_per_s:
            offered = at_rate(self.workload, self.rate_per_s, self.num_requests / self.rate_per_s)
        else:
            offered = busiest_slice(self.workload, self.num_requests)
        try:
            verdict = self.judge(trial.plan, offered)
        except InfeasibleError:
            return _dead(trial)
        rate = self.rate_per_s or verdict.requests_per_s
        return replace(
            trial,
            rate_per_s=rate if verdict.holds else 0.0,
            run=verdict,
            e2e_s=_mean_e2e(verdict),
            runs=trial.runs + 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLook:
    """Run a trial's plan on the workload itself and remember the verdict, nothing else."""

    judge: Judge
    workload: Workload

    def __call__(self, trial: Trial) -> Trial:
        """The trial with ``run`` replaced."""
        try:
            verdict = self.judge(trial.plan, self.workload)
        except InfeasibleError:
            return _dead(trial)
        return replace(trial, run=verdict, e2e_s=_mean_e2e(verdict), runs=trial.runs + 1)


def _mean_e2e(verdict: Verdict | None) -> float:
    summary = verdict.summary if verdict is not None else None
    if summary is None or summary.e2e_s is None:
        return float("inf")
    return summary.e2e_s.mean


def _dead(trial: Trial) -> Trial:
    nothing = Verdict(
        holds=False,
        missed=_CANNOT_START,
        shortfall=float("inf"),
        good_fraction=0.0,
        requests_per_s=0.0,
        output_tokens_per_s=0.0,
    )
    return replace(trial, rate_per_s=0.0, run=nothing, runs=trial.runs + 1)
