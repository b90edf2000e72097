"""No field of a plan is dropped: changing it changes what runs, or is refused by name."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plimsoll.report.export import export_plan
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, SpecError, UnsupportedError
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    FairSwap,
    OrcaConfig,
    Pool,
    PrefillFirst,
    PrefixAffineRouter,
    RoundRobinRouter,
    ServingPlan,
    SplitFuse,
)
from plimsoll.spec.slo import Slo, SloTarget
from tests.export_plans import PAIRS, context, plans, without_comments

REFUSALS = (UnsupportedError, SpecError, InfeasibleError)
Change = Callable[[ServingPlan], ServingPlan]


def in_pool(change: Callable[[Pool], Pool]) -> Change:
    return lambda plan: replace(plan, pools=(change(plan.pools[0]), *plan.pools[1:]))


def degree(name: str) -> Change:
    def change(pool: Pool) -> Pool:
        doubled = getattr(pool.parallel, name) * 2
        return replace(pool, parallel=replace(pool.parallel, **{name: doubled}))

    return in_pool(change)


def other_router(plan: ServingPlan) -> ServingPlan:
    return replace(
        plan,
        router=PrefixAffineRouter() if plan.router.kind == "round-robin" else RoundRobinRouter(),
    )


RUNS = {
    "engine": lambda p: replace(p, engine="sglang" if p.engine != "sglang" else "vllm"),
    "kv_dtype": lambda p: replace(p, kv_dtype=DType.NVFP4),
    "weight_dtype": lambda p: replace(p, weight_dtype=DType.FP8),
    "max_model_len": lambda p: replace(p, max_model_len=p.max_model_len + 2048),
    "replicas": in_pool(lambda q: replace(q, replicas=q.replicas + 1)),
    "role": in_pool(lambda q: replace(q, role="decode" if q.role != "decode" else "both")),
    "tp": degree("tp"),
    "pp": degree("pp"),
    "attention_dp": degree("attention_dp"),
    "ep": degree("ep"),
    "orca": in_pool(lambda q: replace(q, policy=OrcaConfig())),
    "splitfuse": in_pool(lambda q: replace(q, policy=SplitFuse(token_budget=512))),
    "fairswap": in_pool(lambda q: replace(q, policy=FairSwap())),
    "prefill-first": in_pool(lambda q: replace(q, policy=PrefillFirst(max_batched_tokens=200_000))),
    "token_budget": in_pool(
        lambda q: replace(q, policy=ChunkedPrefill(token_budget=q.policy.token_budget * 2))
    ),
    "max_partial_prefills": in_pool(
        lambda q: replace(q, policy=replace(q.policy, max_partial_prefills=2))
    ),
    "preempt": in_pool(lambda q: replace(q, policy=replace(q.policy, preempt="swap"))),
    "max_num_seqs": in_pool(lambda q: replace(q, max_num_seqs=q.max_num_seqs * 2)),
    "memory_fraction": in_pool(lambda q: replace(q, memory_fraction=q.memory_fraction - 0.05)),
    "block_tokens": in_pool(lambda q: replace(q, block_tokens=q.block_tokens * 2)),
    "prefix_caching": in_pool(lambda q: replace(q, prefix_caching=not q.prefix_caching)),
}
STATED = {
    "model": lambda p: replace(p, model="other"),
    "fleet": lambda p: replace(p, fleet="other"),
    "notes": lambda p: replace(p, notes=(*p.notes, "one more")),
    "slo": lambda p: replace(
        p, slo=Slo(targets=(SloTarget(metric="e2e", percentile=50, bound_s=1.5),))
    ),
    "device": in_pool(lambda q: replace(q, device="H200-SXM")),
    "router": other_router,
}
"""What no engine takes: stated in the opening comment (the router runs where it chooses)."""


def running_text(plan: ServingPlan, target: str) -> str:
    files = export_plan(plan, target, context(plan))
    return "".join(f"{f.name}\n{without_comments(f.text)}" for f in files)


@pytest.mark.parametrize("field", RUNS)
@pytest.mark.parametrize(("target", "engine"), PAIRS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_changed_field_changes_what_runs_or_is_refused(
    target: str, engine: str, field: str, data: st.DataObject
) -> None:
    plan = data.draw(plans(engine, single=(target, engine) == ("kubernetes", "trtllm")))
    try:
        before = running_text(plan, target)
    except REFUSALS:
        assume(False)
        raise
    try:
        after = running_text(RUNS[field](plan), target)
    except REFUSALS as refusal:
        assert target in str(refusal)
        return
    assert after != before


@pytest.mark.parametrize("field", STATED)
@pytest.mark.parametrize(("target", "engine"), PAIRS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_what_no_engine_takes_is_stated(
    target: str, engine: str, field: str, data: st.DataObject
) -> None:
    plan = data.draw(plans(engine, single=(target, engine) == ("kubernetes", "trtllm")))
    changed = STATED[field](plan)
    try:
        before = export_plan(plan, target, context(plan))
        after = export_plan(changed, target, context(changed))
    except REFUSALS:
        return
    assert {f.text for f in before if "#" in f.text}.isdisjoint(f.text for f in after)


@pytest.mark.parametrize("target", ["vllm", "sglang", "kubernetes"])
def test_router_settings_run_where_there_is_a_choice(target: str) -> None:
    engine = target if target != "kubernetes" else "vllm"
    base = ServingPlan(
        model="m",
        fleet="2xH100-SXM",
        engine=engine,  # type: ignore[arg-type]
        pools=(Pool(device="H100-SXM", replicas=2),),
        router=PrefixAffineRouter(max_load_ratio=1.5),
    )
    texts = {
        running_text(replace(base, router=router), target)
        for router in (
            base.router,
            PrefixAffineRouter(max_load_ratio=2.0),
            RoundRobinRouter(),
            ServingPlan(model="m", fleet="", pools=base.pools).router,
        )
    }
    assert len(texts) == 4


def test_the_share_of_transferred_requests_is_refused_not_dropped() -> None:
    pools = (Pool(role="prefill", device="a"), Pool(role="decode", device="a"))
    plan = ServingPlan(
        model="m", fleet="2xa", pools=pools, router=DisaggRouter(unstarted_fraction=0.3)
    )
    for target in ("vllm", "kubernetes", "dynamo", "llm-d"):
        with pytest.raises(UnsupportedError, match=r"router\.unstarted_fraction = 0\.3"):
            export_plan(plan, target, context(plan))
