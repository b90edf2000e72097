"""Which policies help this plan on this traffic: goodput of each, its spread, and what it changed.

Goodput is the highest rate at which the promise holds (``planning.goodput``), found for each of
several draws of the workload; the spread is over draws. Every search starts from one rate, that
which a first search of the plan itself ended at: where a promise holds and fails in turns, where a
search starts decides where it stops. Why a policy helps or not is read off two
runs at one rate, that which the plan itself carries: what got better, what got worse, beyond 3 %.
The best step policy and the best router are tried together at the end.
Leaves out: the error of the clock, which is the same for all and hardly changes their order.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from plimsoll.planning.goodput import Goodput, sustained_rate
from plimsoll.planning.judging import Judge
from plimsoll.planning.offered_load import at_rate
from plimsoll.planning.policy_variants import Variant, composed
from plimsoll.spec.errors import InfeasibleError, PlimsollError
from plimsoll.spec.plan import ServingPlan
from plimsoll.spec.summary import Summary
from plimsoll.spec.workload import Workload

__all__ = ["VISIBLE", "Ranked", "Ranking", "rank"]

_TOLERANCE = 0.03
VISIBLE = 0.03
"""A relative difference below this is not worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One policy. ``rates_per_s``: the goodput in each draw, empty if it was not run; then
    ``why_not`` says why. ``summary`` is of the run at the plan's own rate."""

    name: str
    kind: str
    plan: ServingPlan | None
    rates_per_s: tuple[float, ...] = ()
    limit: str = ""
    why_not: str = ""
    summary: Summary | None = None

    @property
    def rate_per_s(self) -> float:
        """The median draw; -1 if it was not run."""
        return median(self.rates_per_s) if self.rates_per_s else -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """``own`` is the plan as it stands, ``policies`` from most goodput to least."""

    own: Ranked
    policies: tuple[Ranked, ...]
    rate_per_s: float
    """Where the effects were read."""
    duration_s: float
    num_draws: int


def rank(
    plan: ServingPlan,
    candidates: Iterable[Variant],
    parts: Sequence[Workload],
    *,
    judge: Judge,
    guess_per_s: float,
    duration_s: float,
    say: Callable[[str], None] = lambda name: None,
) -> Ranking:
    """Rank variants of ``plan`` on the draws ``parts`` of a workload.

    Raises:
        InfeasibleError: the plan itself keeps its promise at no rate.
    """

    def search(option: ServingPlan, part: Workload, start_per_s: float) -> Goodput:
        return sustained_rate(
            judge,
            option,
            part,
            guess_per_s=start_per_s,
            duration_s=duration_s,
            tolerance=_TOLERANCE,
            spread=1.25,
        )

    say("the plan itself")
    start_per_s = search(plan, parts[0], guess_per_s).rate_per_s or guess_per_s

    def found(name: str, kind: str, option: ServingPlan) -> Ranked:
        held = [search(option, part, start_per_s) for part in parts]
        rates = tuple(one.rate_per_s for one in held)
        limit = next((one.limit for one in held if one.limit), "")
        return Ranked(name=name, kind=kind, plan=option, rates_per_s=rates, limit=limit)

    own = found("as planned", "", plan)
    if own.rate_per_s <= 0:
        raise InfeasibleError(
            f"the plan keeps its promise at no rate: it misses {own.limit}",
            binding=own.limit,
            change="loosen the bound, or ask `plimsoll plan` for another plan",
        )
    common = at_rate(parts[0], own.rate_per_s, duration_s)

    def shown(ranked: Ranked) -> Ranked:
        assert ranked.plan is not None
        return replace(ranked, summary=judge(ranked.plan, common).summary)

    own = shown(own)
    ranked: list[Ranked] = []
    for variant in candidates:
        say(variant.name)
        if not variant.plans:
            ranked.append(
                Ranked(name=variant.name, kind=variant.kind, plan=None, why_not=variant.why_not)
            )
            continue
        if variant.plans == (plan,):
            ranked.append(replace(own, name=variant.name, kind=variant.kind))
            continue
        try:
            tries = [found(variant.name, variant.kind, p) for p in variant.plans]
        except PlimsollError as error:
            ranked.append(
                Ranked(name=variant.name, kind=variant.kind, plan=None, why_not=str(error))
            )
            continue
        ranked.append(shown(max(tries, key=lambda one: one.rate_per_s)))
    both = _best_of_both(plan, own, ranked)
    if both is not None:
        say(both[0])
        ranked.append(shown(found(both[0], "both", both[1])))
    ranked.sort(key=lambda one: -one.rate_per_s)
    return Ranking(
        own=own,
        policies=tuple(ranked),
        rate_per_s=own.rate_per_s,
        duration_s=duration_s,
        num_draws=len(parts),
    )


def _best_of_both(
    plan: ServingPlan, own: Ranked, ranked: Sequence[Ranked]
) -> tuple[str, ServingPlan] | None:
    """The best step policy with the best router, where both are better than the plan."""
    best: dict[str, Ranked] = {}
    for one in ranked:
        if one.plan is not None and one.rate_per_s > own.rate_per_s * (1 + VISIBLE):
            before = best.get(one.kind)
            if before is None or one.rate_per_s > before.rate_per_s:
                best[one.kind] = one
    step, routed = best.get("step policy"), best.get("router")
    if step is None or routed is None or step.plan is None or routed.plan is None:
        return None
    return f"{step.name} + {routed.name}", composed(plan, step.plan, routed.plan)
