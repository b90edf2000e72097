"""The plans that differ from a given one by one policy, and the reasons why some make no sense.

Step policies and routers are varied one at a time, everything else stays: model, devices, cuts,
limits; only fairswap keeps no prefixes, since its copies are of one owner's blocks. Disaggregation
splits the same replicas into prefill and decode pools. A variant that cannot run, or cannot differ,
carries the reason instead of a plan.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from plimsoll.spec.errors import SpecError, suggest
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    FairSwap,
    FreenessRouter,
    LeastDemandRouter,
    LeastWorkRouter,
    OrcaConfig,
    Pool,
    PrefillFirst,
    PrefixAffineRouter,
    RoundRobinRouter,
    RouterConfig,
    ServingPlan,
    SplitFuse,
    StepPolicyConfig,
)
from plimsoll.spec.workload import Workload

__all__ = ["POLICY_NAMES", "Variant", "chosen", "composed", "variants"]

_MOST_SPLITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """``plans``: one, or for disaggregation the splits to try; none: ``why_not`` says why.

    ``kind`` is what is varied.
    """

    name: str
    kind: str
    plans: tuple[ServingPlan, ...] = ()
    why_not: str = ""


def _step_policies(pool: Pool) -> dict[str, StepPolicyConfig]:
    budget = getattr(pool.policy, "token_budget", 0) or ChunkedPrefill().token_budget
    budget = max(budget, pool.max_num_seqs)
    return {
        "orca": OrcaConfig(),
        "prefill-first": PrefillFirst(),
        "prefill-first, swap": PrefillFirst(preempt="swap"),
        "chunked-prefill": ChunkedPrefill(token_budget=budget),
        "chunked-prefill, swap": ChunkedPrefill(token_budget=budget, preempt="swap"),
        "chunked-prefill, ahead": ChunkedPrefill(token_budget=budget, ahead=True),
        "splitfuse": SplitFuse(token_budget=budget),
        _FAIR: FairSwap(token_budget=budget),
    }


_ROUTERS: dict[str, RouterConfig] = {
    "round-robin": RoundRobinRouter(),
    "least-work": LeastWorkRouter(),
    "least-demand": LeastDemandRouter(),
    "prefix-affine": PrefixAffineRouter(),
    "freeness": FreenessRouter(),
}
_APART = "disaggregated"
_FAIR = "fairswap"

POLICY_NAMES: tuple[str, ...] = (
    *_step_policies(Pool(device="")),
    *_ROUTERS,
    _APART,
)
"""What can be asked for."""


def chosen(text: str) -> tuple[str, ...]:
    """The policies of a ``--policies`` option: "all", or names separated by semicolons or commas
    (a name may hold a comma itself).

    Raises:
        SpecError: an unknown name.
    """
    if text.strip() == "all":
        return POLICY_NAMES
    found: list[str] = []
    parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    while parts:
        pair = ", ".join(parts[:2])
        name = pair if pair in POLICY_NAMES else parts[0]
        if name not in POLICY_NAMES:
            raise SpecError(
                f"--policies: no policy {name!r}; there are all, {'; '.join(POLICY_NAMES)}."
                f"{suggest(name, POLICY_NAMES)}"
            )
        parts = parts[name.count(",") + 1 :]
        found.append(name)
    if not found:
        raise SpecError("--policies: nothing named; use all, or names such as freeness,orca")
    return tuple(dict.fromkeys(found))


def variants(
    plan: ServingPlan, workload: Workload, names: tuple[str, ...] = POLICY_NAMES
) -> Iterator[Variant]:
    """One for each name, in the order of ``POLICY_NAMES``."""
    for name in POLICY_NAMES:
        if name not in names:
            continue
        if name in _ROUTERS:
            yield _routed(plan, workload, name)
        elif name == _APART:
            yield _apart(plan)
        else:
            yield _stepped(plan, name)


def _stepped(plan: ServingPlan, name: str) -> Variant:
    why = ""
    pipelined = any(pool.parallel.pp > 1 for pool in plan.pools)
    if name == "chunked-prefill, ahead" and pipelined:
        why = "the stages of a pipeline have other steps in flight already"
    elif name == _FAIR and pipelined:
        why = "requests of a pipeline are not swapped beside its steps"
    elif name == _FAIR and isinstance(plan.router, DisaggRouter):
        why = "priorities change where prompts and decodes share a replica"
    if why:
        return Variant(name=name, kind="step policy", why_not=why)
    if name == _FAIR:  # its copies are of blocks that one request owns
        plan = replace(
            plan, pools=tuple(replace(pool, prefix_caching=False) for pool in plan.pools)
        )
    pools = tuple(replace(pool, policy=_step_policies(pool)[name]) for pool in plan.pools)
    return Variant(name=name, kind="step policy", plans=(replace(plan, pools=pools),))


def _routed(plan: ServingPlan, workload: Workload, name: str) -> Variant:
    replicas = sum(pool.replicas for pool in plan.pools)
    why = ""
    if isinstance(plan.router, DisaggRouter):
        why = "prefill and decode are apart, where the router hands over between them"
    elif replicas == 1:
        why = "one replica: there is nothing to choose"
    elif name == "prefix-affine" and not len(workload.prefix_keys):
        why = "no two requests of this workload share a prefix"
    elif name == "prefix-affine" and not all(pool.prefix_caching for pool in plan.pools):
        why = "the plan keeps no prefixes; set prefix_caching"
    elif name == "freeness" and any(pool.parallel.pp > 1 for pool in plan.pools):
        why = "requests do not move live between pipelines"
    elif name == "freeness" and len({pool.block_tokens for pool in plan.pools}) > 1:
        why = "requests do not move live between pools of different block sizes"
    if why:
        return Variant(name=name, kind="router", why_not=why)
    return Variant(name=name, kind="router", plans=(replace(plan, router=_ROUTERS[name]),))


def _apart(plan: ServingPlan) -> Variant:
    why = ""
    if isinstance(plan.router, DisaggRouter):
        return Variant(name=_APART, kind="placement", plans=(plan,))
    if len(plan.pools) > 1:
        why = "the plan has pools of different kinds; which of them should prefill is not tried"
    elif plan.pools[0].replicas < 2:
        why = "one replica cannot be split into prefill and decode"
    if why:
        return Variant(name=_APART, kind="placement", why_not=why)
    pool = plan.pools[0]
    counts = range(1, pool.replicas)
    step = max(1, -(-len(counts) // _MOST_SPLITS))
    plans = tuple(
        replace(
            plan,
            router=DisaggRouter(),
            pools=(
                replace(pool, role="prefill", replicas=num),
                replace(pool, role="decode", replicas=pool.replicas - num),
            ),
        )
        for num in counts[::step]
    )
    return Variant(name=_APART, kind="placement", plans=plans)


def composed(plan: ServingPlan, step: ServingPlan, routed: ServingPlan) -> ServingPlan:
    """``plan`` with the step policies of one variant and the router of another."""
    return replace(plan, pools=step.pools, router=routed.router)
