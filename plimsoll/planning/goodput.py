"""The highest rate a plan sustains within its SLO, found by simulating its own traffic.

Bisection on the rate: each probe plays the workload at that rate for a fixed time and asks
whether the promise was kept, and by how much; the next rate aims at where it would just be. The
bracket starts at a guess and widens faster and faster; the answer is the highest rate that
held, so it is a lower bound within the tolerance. Closed loops have no rate to vary: one run
says what they carry.
Source: arXiv 2401.09670 section 4 (goodput by bisection on a trace-driven simulation).
"""

from dataclasses import dataclass, replace

from plimsoll.planning.judging import Judge, Verdict
from plimsoll.planning.offered_load import at_rate
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.slo import Slo
from plimsoll.spec.workload import Workload

__all__ = ["Goodput", "goodput", "sustained_rate"]

_TOLERANCE = 0.02
_MOST_PROBES = 24
_LEAST_FACTOR = 2.0**-20
_ELASTICITY = 0.8  # latencies rise a little faster than the rate
_MOST_STEP = 1.6
_WIDEST = 4.0
_LIGHT_FACTOR = 2.0**-10
_ALONE_REQUESTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """``rate_per_s`` held (0: none did), ``ceiling_per_s`` did not (inf: never failed).

    ``limit`` is what the lowest failing probe missed; ``verdict`` the run at ``rate_per_s``.
    """

    rate_per_s: float
    ceiling_per_s: float
    rate_per_s_per_device: float
    limit: str
    num_runs: int
    duration_s: float
    verdict: Verdict | None


def sustained_rate(
    judge: Judge,
    plan: ServingPlan,
    workload: Workload,
    *,
    guess_per_s: float,
    duration_s: float,
    tolerance: float = _TOLERANCE,
    max_runs: int = _MOST_PROBES,
    low_per_s: float = 0.0,
    high_per_s: float = float("inf"),
    spread: float = 2.0,
) -> Goodput:
    """Bisection from ``guess_per_s``; ``low_per_s`` is known to hold, ``high_per_s`` to fail.

    ``spread`` is the factor by which an open bracket is first widened, squared each time up to
    4. Stops at ``tolerance`` or after ``max_runs`` probes, three times as many if no rate held
    or none failed by then.

    Raises:
        SpecError: the guess is not positive.
    """
    if not 0 < guess_per_s < float("inf"):
        raise SpecError(f"first rate to try is {guess_per_s:g}/s; expected a positive number")
    low, high = low_per_s, high_per_s
    rate, leap = guess_per_s, spread
    runs, limit = 0, ""
    held: Verdict | None = None
    while runs < max_runs or (runs < 3 * max_runs and (low == 0 or high == float("inf"))):
        rate = max(2, round(rate * duration_s)) / duration_s  # whole requests
        if not low < rate < high:
            break
        verdict = judge(plan, at_rate(workload, rate, duration_s))
        runs += 1
        if verdict.holds:
            low, held = rate, verdict
        else:
            high, limit = rate, verdict.missed
        aim = rate * _toward(verdict)
        if high == float("inf"):
            rate, leap = max(min(aim, low * leap**3), low * leap), min(leap**2, _WIDEST)
        elif low == 0:
            rate, leap = min(max(aim, high / leap**3), high / leap), min(leap**2, _WIDEST)
            if rate < guess_per_s * _LEAST_FACTOR:
                break
        elif high / low <= 1 + tolerance:
            break
        else:
            inside = 1 + 0.8 * tolerance
            middle = (low * high) ** 0.5
            rate = middle if runs % 2 or not low * inside < aim < high / inside else aim
    return Goodput(
        rate_per_s=low,
        ceiling_per_s=high,
        rate_per_s_per_device=low / plan.num_devices,
        limit=limit,
        num_runs=runs,
        duration_s=duration_s,
        verdict=held,
    )


def _toward(verdict: Verdict) -> float:
    """Factor on the rate that would bring the worst latency near its bound."""
    if verdict.shortfall <= 0:
        return _MOST_STEP
    aim = float(verdict.shortfall**-_ELASTICITY)
    return min(max(aim, 1 / _MOST_STEP), _MOST_STEP)


def goodput(
    plan: ServingPlan,
    workload: Workload,
    slo: Slo,
    *,
    judge: Judge,
    duration_s: float = 400.0,
    guess_per_s: float = 0.0,
    tolerance: float = _TOLERANCE,
) -> Goodput:
    """The highest rate at which ``plan`` keeps ``slo`` on traffic like ``workload``.

    ``guess_per_s`` 0: the workload's own rate.

    Raises:
        InfeasibleError: requests far apart already miss the SLO: no rate is low enough.
        SpecError: a closed-loop workload.
    """
    if workload.num_in_flight:
        raise SpecError(
            f"workload {workload.name} is a closed loop: the number in flight sets the rate; "
            "simulate it, or give arrivals"
        )
    asked = replace(plan, slo=slo)
    start = guess_per_s or workload.rate_per_s or 1.0
    lightest = min(start * _LIGHT_FACTOR, 1.0 / duration_s)
    alone = judge(asked, at_rate(workload, lightest, _ALONE_REQUESTS / lightest))
    if not alone.holds:
        raise InfeasibleError(
            f"infeasible at any rate: requests far apart already miss {alone.missed} "
            f"(by a factor of {alone.shortfall:.3g})",
            binding=alone.missed,
            nearest=f"{plan.num_devices} devices, {alone.shortfall:.3g} times the bound",
            change=f"a bound {alone.shortfall:.3g} times looser, or more devices a replica",
        )
    return sustained_rate(
        judge, asked, workload, guess_per_s=start, duration_s=duration_s, tolerance=tolerance
    )
