"""The plans that differ from a given one by one policy, and the reasons why some make no sense.

Step policies and routers are varied one at a time, everything else stays: model, devices, cuts,
limits; only fairswap keeps no prefixes, since its copies are of one owner's blocks. Disaggregation
splits the same replicas into prefill and decode pools. A variant that cannot run, or cannot differ,
carries the reason instead of a plan.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from plimsoll.planning.overlap_model import search_model_overlap
from plimsoll.serving.conflicts import conflicts
from plimsoll.serving.simulate.placement import Seat, seats
from plimsoll.spec.errors import PlimsollError, SpecError, suggest
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    FairSwap,
    FreenessRouter,
    KvPoolRouter,
    LeastDemandRouter,
    LeastWorkRouter,
    Nano,
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
from plimsoll.spec.planned_model import model_of_plan
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
    "kv-pool": KvPoolRouter(),
}
_NANO = "nano"
_GROUPS = "prefix-groups"
_APART = "disaggregated"
_FAIR = "fairswap"

_NO_BATCH = (
    "it plans a batch that is known ahead, which has no rate to raise; simulate a plan with it on "
    "a batch"
)

POLICY_NAMES: tuple[str, ...] = (
    *_step_policies(Pool(device="")),
    _NANO,
    _GROUPS,
    *_ROUTERS,
    _APART,
)
"""What can be asked for."""


def chosen(text: str, where: str = "--policies") -> tuple[str, ...]:
    """The policies of an option ``where``: "all", or names separated by semicolons or commas
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
                f"{where}: no policy {name!r}; there are all, {'; '.join(POLICY_NAMES)}."
                f"{suggest(name, POLICY_NAMES)}"
            )
        parts = parts[name.count(",") + 1 :]
        found.append(name)
    if not found:
        raise SpecError(f"{where}: nothing named; use all, or names such as freeness,orca")
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
        elif name == _GROUPS:
            yield Variant(name=_GROUPS, kind="step policy", why_not=_NO_BATCH)
        elif name == _NANO:
            yield _overlapped(plan, workload)
        else:
            yield _stepped(plan, name)


def _stepped(plan: ServingPlan, name: str) -> Variant:
    pools = tuple(replace(pool, policy=_step_policies(pool)[name]) for pool in plan.pools)
    if name == _FAIR:  # its copies are of blocks that one request owns
        pools = tuple(replace(pool, prefix_caching=False) for pool in pools)
    stepped = replace(plan, pools=pools)
    why = next(conflicts(stepped), "")
    if why:
        return Variant(name=name, kind="step policy", why_not=why)
    return Variant(name=name, kind="step policy", plans=(stepped,))


def _overlapped(plan: ServingPlan, workload: Workload) -> Variant:
    """NanoFlow's policy, with an overlap plan searched for each pool and the workload's lengths."""
    found: dict[Pool, StepPolicyConfig] = {}
    try:
        for seat in seats(plan, parse_fleet(plan.fleet)):
            if seat.pool not in found:
                found[seat.pool] = _nano(plan, seat, workload)
    except PlimsollError as error:
        return Variant(name=_NANO, kind="step policy", why_not=str(error))
    pools = tuple(replace(pool, policy=found[pool]) for pool in plan.pools)
    return Variant(name=_NANO, kind="step policy", plans=(replace(plan, pools=pools),))


def _nano(plan: ServingPlan, seat: Seat, workload: Workload) -> Nano:
    """A mixed dense batch needs prompts and decodes in one pool; steps of the package's own engine
    are not told apart by operator, so there nothing overlaps."""
    pool = seat.pool
    if isinstance(pool.policy, Nano):
        return pool.policy
    if pool.role != "both":
        raise SpecError("prefill and decode are apart, so no batch mixes them")
    budget = getattr(pool.policy, "token_budget", 0) or Nano().token_budget
    policy = Nano(
        token_budget=max(budget, pool.max_num_seqs),
        mean_output_tokens=float(workload.output_tokens.mean()),
    )
    if plan.engine == "plimsoll":
        return policy
    found = search_model_overlap(
        model_of_plan(plan),
        seat.device,
        pool.parallel,
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        batch_tokens=policy.token_budget,
        weight_dtype=plan.weight_dtype,
        kv_dtype=plan.kv_dtype,
        engine=plan.engine,
        devices_per_node=seat.devices_per_node,
        memory_fraction=pool.memory_fraction,
    )
    return replace(policy, overlap=found.plan)


def _routed(plan: ServingPlan, workload: Workload, name: str) -> Variant:
    replicas = sum(pool.replicas for pool in plan.pools)
    why = ""
    if isinstance(plan.router, DisaggRouter):
        why = "prefill and decode are apart, where the router hands over between them"
    elif replicas == 1:
        why = "one replica: there is nothing to choose"
    elif name == "prefix-affine" and not len(workload.prefix_keys):
        why = "no two requests of this workload share a prefix"
    routed = replace(plan, router=_ROUTERS[name])
    why = why or next(conflicts(routed), "")
    if why:
        return Variant(name=name, kind="router", why_not=why)
    return Variant(name=name, kind="router", plans=(routed,))


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
