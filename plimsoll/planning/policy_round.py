"""The last round of a search: the leaders again under other policies.

The closed forms do not tell policies apart that decide on what happens (routers, live moves,
preemption by swap, steps formed ahead), so these are not part of the ranked space. The best plan
of each mode is varied by one policy at a time, then by the best step policy with the best router,
each simulated as long as the leaders were. A variant is taken only if it carries clearly more
than the plan it varies (rates are resolved to a few percent) and the engine has it. Apart or
together is not varied here, since the space holds both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from plimsoll.planning.plan_space import Mode
from plimsoll.planning.policy_variants import composed, variants
from plimsoll.planning.trials import Trial
from plimsoll.planning.workers import Workers
from plimsoll.spec.plan import DisaggRouter, ServingPlan
from plimsoll.spec.workload import Workload

__all__ = ["PolicyRound", "Tried", "leaders", "policy_round"]

_WORTH = 0.05
_PLACEMENT = "placement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A leader under another policy.

    ``change`` of the objective's score against the leader itself, None where the promise is
    missed or it was not run. ``why_not``: why it was not run, or why it is not taken though it
    may carry more.
    """

    on: ServingPlan
    policies: str
    change: float | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRound:
    """``trials``: those given, with the variants worth taking in their places by key."""

    trials: list[Trial]
    tried: tuple[Tried, ...]


def _mode(plan: ServingPlan) -> Mode:
    return "disaggregated" if isinstance(plan.router, DisaggRouter) else "aggregated"


def leaders(trials: Sequence[Trial], key: Callable[[Trial], float]) -> list[Trial]:
    """The best trial of each mode that kept the promise and was probed as long as the best."""
    found: dict[Mode, Trial] = {}
    longest = max((t.found.duration_s for t in trials if t.found), default=0.0)
    for trial in sorted(trials, key=lambda t: (-key(t), t.index)):
        probed = trial.found.duration_s if trial.found else longest
        if key(trial) > float("-inf") and probed >= longest:
            found.setdefault(_mode(trial.plan), trial)
    return list(found.values())


def policy_round(
    trials: list[Trial],
    workload: Workload,
    names: tuple[str, ...],
    *,
    lacks: Callable[[ServingPlan], str],
    look: Callable[[Trial], Trial],
    key: Callable[[Trial], float],
    workers: Workers,
    seen: Callable[[Trial], None],
) -> PolicyRound:
    """Vary the leaders of ``trials`` by the policies ``names``.

    ``lacks`` says why a plan cannot be taken, "" if it can; it is simulated all the same.
    """
    tried: list[Tried] = []
    taken: list[Trial] = []
    number = 1 + max((t.index for t in trials), default=0)

    def simulated(parent: Trial, many: Sequence[tuple[str, ServingPlan]]) -> list[Trial]:
        nonlocal number
        asked = [
            replace(parent, index=number + i, plan=plan, policies=name, runs=0)
            for i, (name, plan) in enumerate(many)
        ]
        number += len(asked)
        found = []
        for trial in workers.map(look, asked):
            found.append(trial)
            seen(trial)
            change = _change(key(trial), key(parent))
            tried.append(
                Tried(
                    on=parent.plan,
                    policies=trial.policies,
                    change=change,
                    why_not=lacks(trial.plan),
                )
            )
        return found

    def worth(trial: Trial, parent: Trial) -> bool:
        change = _change(key(trial), key(parent))
        return change is not None and change > _WORTH and not lacks(trial.plan)

    for parent in leaders(trials, key):
        options = []
        for variant in variants(parent.plan, workload, names):
            if variant.kind == _PLACEMENT:
                continue
            if not variant.plans:
                tried.append(Tried(on=parent.plan, policies=variant.name, why_not=variant.why_not))
            elif variant.plans[0] != parent.plan:
                options.append(variant)
        found = simulated(parent, [(v.name, v.plans[0]) for v in options])
        best: dict[str, Trial] = {}
        for variant, trial in zip(options, found, strict=True):
            before = best.get(variant.kind)
            if worth(trial, parent) and (before is None or key(trial) > key(before)):
                best[variant.kind] = trial
        step, routed = best.get("step policy"), best.get("router")
        if step is not None and routed is not None:
            plan = composed(parent.plan, step.plan, routed.plan)
            found += simulated(parent, [(f"{step.policies} + {routed.policies}", plan)])
        taken += [trial for trial in found if worth(trial, parent)]
    order = sorted([*trials[:1], *taken], key=lambda t: (-key(t), t.index))
    return PolicyRound(trials=[*order, *trials[1:]], tried=tuple(tried))


def _change(value: float, reference: float) -> float | None:
    if value == float("-inf"):
        return None
    return (value - reference) / abs(reference)
