"""Policies of one plan that cannot stand together, and why. Both executors ask before they start.

A plan names a step policy for each pool and one router for all of them. Most combinations
compose: chunked prefill, swaps, shared prefixes and live moves act on different moments of a
request. Those here would either fail while serving or be without effect, which is worse than an
error. Leaves out what depends on the model or on the machine; the executors say that themselves.
"""

from collections.abc import Iterator

from plimsoll.spec.errors import SpecError
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    FairSwap,
    KvPoolRouter,
    LeastWorkRouter,
    Nano,
    Pool,
    PrefixGroups,
    ServingPlan,
    SplitFuse,
)

__all__ = ["check_policies", "conflicts"]


def conflicts(plan: ServingPlan) -> Iterator[str]:
    """Every conflict of a plan in a sentence, with what to do; none if it can be served."""
    if not plan.pools:
        yield "pools is empty; a plan needs at least one pool"
        return
    yield from _roles(plan)
    yield from _moves(plan)
    yield from _steps(plan)
    yield from _scaling(plan)
    yield from _loans(plan)
    yield from _batches(plan)
    yield from _streams(plan)
    if plan.router.kind == "prefix-affine" and not all(pool.prefix_caching for pool in plan.pools):
        yield (
            "router prefix-affine looks for replicas that hold a prefix, and a pool keeps none; "
            "set prefix_caching: true, or take another router"
        )


def _roles(plan: ServingPlan) -> Iterator[str]:
    roles = {pool.role for pool in plan.pools}
    apart = isinstance(plan.router, DisaggRouter)
    if apart and not (roles & {"prefill", "both"} and roles & {"decode", "both"}):
        yield "the disaggregated router needs a prefill and a decode pool"
    if not apart and roles != {"both"}:
        yield (
            f"pools have roles {', '.join(sorted(roles))}, which need the disaggregated router, "
            f"not {plan.router.kind}"
        )


def _moves(plan: ServingPlan) -> Iterator[str]:
    """Live moves copy blocks one to one, between replicas that run one step at a time."""
    if not getattr(plan.router, "migrate", False):
        return
    instead = f"set migrate: false under router {plan.router.kind}, or take another router"
    if any(pool.parallel.pp > 1 for pool in plan.pools):
        yield f"requests do not move live between pipelines (pp above 1); {instead}"
    sizes = sorted({pool.block_tokens for pool in plan.pools})
    if len(sizes) > 1:
        yield (
            "requests do not move live between pools whose blocks hold "
            f"{' and '.join(map(str, sizes))} tokens; give them one block_tokens, or {instead}"
        )


def _steps(plan: ServingPlan) -> Iterator[str]:
    for pool in plan.pools:
        policy = pool.policy
        if isinstance(policy, ChunkedPrefill) and policy.ahead and pool.parallel.pp > 1:
            yield (
                "steps are not formed ahead in a pipeline, whose stages have other steps in "
                "flight already; set ahead: false, or pp: 1"
            )
        if isinstance(policy, FairSwap):
            yield from _swaps(plan, pool)
        chunked = isinstance(policy, ChunkedPrefill | SplitFuse | FairSwap | Nano | PrefixGroups)
        budget = policy.token_budget if chunked else 0
        if budget and budget < pool.max_num_seqs:
            yield (
                f"token budget {budget} is below max_num_seqs {pool.max_num_seqs}, so decodes "
                "alone can exceed it; raise the budget or lower max_num_seqs"
            )


def _swaps(plan: ServingPlan, pool: Pool) -> Iterator[str]:
    """A swap manager copies blocks of one owner, beside the steps of one stage."""
    if pool.prefix_caching:
        yield (
            "prefix_caching is true in a pool of policy fairswap, whose copies are of blocks that "
            "one request owns; set prefix_caching: false"
        )
    if pool.parallel.pp > 1:
        yield (
            "requests of a pipeline are not swapped beside its steps (policy fairswap with pp "
            "above 1); set pp: 1 or take another policy"
        )
    if isinstance(plan.router, DisaggRouter):
        yield (
            "policy fairswap changes priorities where prompts and decodes share a replica, the "
            "router is disaggregated; take another policy or another router"
        )


def _scaling(plan: ServingPlan) -> Iterator[str]:
    scaling, num = plan.scaling, sum(pool.replicas for pool in plan.pools)
    if scaling is None:
        return
    if isinstance(plan.router, DisaggRouter):
        yield (
            "scaling is for pools that serve whole requests, the router is disaggregated; leave "
            "scaling out or use another router"
        )
    if scaling.min_instances > num:
        yield (
            f"scaling.min_instances {scaling.min_instances} is more than its {num} replicas, which "
            "are the most there can be; lower it or raise replicas"
        )
    elif not scaling.min_instances <= (scaling.first_instances or num) <= num:
        yield (
            f"scaling.first_instances {scaling.first_instances} is not from min_instances "
            f"{scaling.min_instances} to the {num} replicas; 0 starts all"
        )


def _loans(plan: ServingPlan) -> Iterator[str]:
    """Others hold whole blocks and answer questions in their own steps of one stage."""
    if not isinstance(plan.router, KvPoolRouter):
        return
    if any(pool.parallel.pp > 1 for pool in plan.pools):
        yield "pipelines do not lend KV memory (router kv-pool with pp above 1); set pp: 1"
    if len({pool.block_tokens for pool in plan.pools}) > 1:
        yield (
            "pools of different block sizes do not lend each other KV memory; give them one "
            "block_tokens, or take another router"
        )
    if any(isinstance(pool.policy, FairSwap) for pool in plan.pools):
        yield (
            "a swap manager's copies are of blocks that are all here, router kv-pool lends some to "
            "others; take another policy than fairswap, or another router"
        )
    if plan.engine == "plimsoll":
        yield (
            "attention to KV on other replicas is not measured for engine plimsoll; take another "
            "router, or simulate another engine"
        )


def _batches(plan: ServingPlan) -> Iterator[str]:
    """A batch known ahead is planned whole: who shares with whom, and where."""
    policies = [pool.policy for pool in plan.pools]
    if not any(isinstance(policy, PrefixGroups) for policy in policies):
        return
    if any(policy != policies[0] for policy in policies):
        yield "policy prefix-groups must be the same in every pool, or in none"
    if not isinstance(plan.router, LeastWorkRouter):
        yield (
            f"router {plan.router.kind} has no effect beside policy prefix-groups, which deals the "
            "batch itself; leave the router out"
        )
    if not all(pool.prefix_caching for pool in plan.pools):
        yield "policy prefix-groups shares prefixes, a pool keeps none; set prefix_caching: true"
    if plan.scaling is not None:
        yield "policy prefix-groups deals a batch to all replicas at once; leave scaling out"


def _streams(plan: ServingPlan) -> Iterator[str]:
    """Prefixes are cached before a request's own blocks, where these know no blocks."""
    if plan.streams == 1:
        return
    several = f"with {plan.streams} streams"
    if plan.engine == "plimsoll":
        yield (
            f"engine plimsoll runs every token once, not {several}; set streams: 1, or simulate "
            "another engine"
        )
    if isinstance(plan.router, KvPoolRouter):
        yield f"replicas do not lend KV memory {several} (router kv-pool); take another router"
    if any(isinstance(pool.policy, FairSwap) for pool in plan.pools):
        yield f"a swap manager does not copy prefixes {several} (policy fairswap); take another"
    if any(isinstance(p.policy, Nano) and p.policy.overlap is not None for p in plan.pools):
        yield f"layers are not overlapped {several}; set policy.overlap to null"


def check_policies(plan: ServingPlan) -> None:
    """Refuse a plan that contradicts itself.

    Raises:
        SpecError: the first conflict, and how many more there are.
    """
    found = list(conflicts(plan))
    if found:
        more = f" ({len(found) - 1} more of the kind)" if len(found) > 1 else ""
        raise SpecError(f"plan: {found[0]}{more}")
