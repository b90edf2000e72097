"""A plan that contradicts itself is refused by both executors, with the reason and the way out."""

from dataclasses import replace

import pytest

from plimsoll.serving.conflicts import check_policies, conflicts
from plimsoll.serving.simulate.run import simulate_plan
from plimsoll.spec.errors import SpecError
from plimsoll.spec.fleet import parse_fleet
from plimsoll.spec.model_files import load_model
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    FairSwap,
    FreenessRouter,
    KvPoolRouter,
    Parallel,
    Pool,
    PrefillFirst,
    PrefixAffineRouter,
    PrefixGroups,
    Scaling,
    ServingPlan,
    SplitFuse,
)
from plimsoll.spec.workload_files import load_workload

POOL = Pool(device="A100-80G", replicas=2)
PLAN = ServingPlan(model="llama-3.1-8b", fleet="4xA100-80G", pools=(POOL,))


def plan(*pools, router=None):
    return replace(PLAN, pools=pools or PLAN.pools, router=router or PLAN.router)


CASES = {
    "no pools": (replace(PLAN, pools=()), "at least one pool"),
    "one side only": (
        plan(replace(POOL, role="prefill"), router=DisaggRouter()),
        "a prefill and a decode pool",
    ),
    "roles without the router": (
        plan(replace(POOL, role="prefill"), replace(POOL, role="decode")),
        "need the disaggregated router",
    ),
    "moves between pipelines": (
        plan(replace(POOL, parallel=Parallel(pp=2)), router=FreenessRouter()),
        "pp above 1",
    ),
    "moves between unlike blocks": (
        plan(POOL, replace(POOL, block_tokens=32), router=FreenessRouter()),
        "16 and 32 tokens",
    ),
    "ahead in a pipeline": (
        plan(replace(POOL, parallel=Parallel(pp=2), policy=ChunkedPrefill(ahead=True))),
        "ahead: false",
    ),
    "budget below the batch": (
        plan(replace(POOL, policy=SplitFuse(token_budget=100), max_num_seqs=128)),
        "below max_num_seqs 128",
    ),
    "swap groups with shared prefixes": (
        plan(replace(POOL, policy=FairSwap())),
        "blocks that one request owns",
    ),
    "swap groups in a pipeline": (
        plan(
            replace(POOL, policy=FairSwap(), prefix_caching=False, parallel=Parallel(pp=2)),
        ),
        "beside its steps",
    ),
    "swap groups apart": (
        plan(
            replace(POOL, role="prefill", prefix_caching=False, policy=FairSwap()),
            replace(POOL, role="decode", prefix_caching=False),
            router=DisaggRouter(),
        ),
        "changes priorities",
    ),
    "loans between pipelines": (
        plan(replace(POOL, parallel=Parallel(pp=2)), router=KvPoolRouter()),
        "pipelines do not lend",
    ),
    "loans between unlike blocks": (
        plan(POOL, replace(POOL, block_tokens=32), router=KvPoolRouter()),
        "do not lend each other",
    ),
    "loans of what is swapped": (
        plan(
            replace(POOL, policy=FairSwap(), prefix_caching=False),
            router=KvPoolRouter(),
        ),
        "blocks that are all here",
    ),
    "loans on an engine without": (
        replace(plan(router=KvPoolRouter()), engine="plimsoll"),
        "not measured for engine plimsoll",
    ),
    "a batch and a router": (
        plan(replace(POOL, policy=PrefixGroups()), router=FreenessRouter()),
        "deals the batch itself",
    ),
    "a batch and pools of another kind": (
        plan(replace(POOL, policy=PrefixGroups()), POOL),
        "the same in every pool",
    ),
    "a batch without a cache": (
        plan(replace(POOL, policy=PrefixGroups(), prefix_caching=False)),
        "a pool keeps none",
    ),
    "a batch and replicas that come and go": (
        replace(plan(replace(POOL, policy=PrefixGroups())), scaling=Scaling()),
        "leave scaling out",
    ),
    "affinity without a cache": (
        plan(replace(POOL, prefix_caching=False), router=PrefixAffineRouter()),
        "prefix_caching: true",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_conflict_is_refused_with_its_reason(name):
    bad, reason = CASES[name]
    with pytest.raises(SpecError, match=reason):
        check_policies(bad)
    with pytest.raises(SpecError, match=reason):
        simulate_plan(
            bad,
            load_model("llama-3.1-8b"),
            parse_fleet(bad.fleet),
            load_workload("chat", num_requests=5),
        )


def test_the_first_of_several_is_told_with_their_number():
    pool = replace(POOL, parallel=Parallel(pp=2), policy=ChunkedPrefill(ahead=True))
    bad = plan(pool, router=FreenessRouter())
    assert len(list(conflicts(bad))) == 2
    with pytest.raises(SpecError, match=r"1 more of the kind"):
        check_policies(bad)


def test_what_composes_is_not_refused():
    swapping = replace(POOL, policy=ChunkedPrefill(preempt="swap"))
    good = [
        plan(swapping, router=FreenessRouter()),
        plan(replace(POOL, parallel=Parallel(pp=2)), router=FreenessRouter(migrate=False)),
        plan(
            replace(POOL, role="prefill", policy=PrefillFirst()),
            replace(swapping, role="decode"),
            router=DisaggRouter(),
        ),
        plan(replace(POOL, policy=SplitFuse(token_budget=0))),
    ]
    assert [list(conflicts(one)) for one in good] == [[]] * len(good)
