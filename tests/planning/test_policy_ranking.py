"""Every policy on one plan: what is tried, what is not and why, and that the order is right."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.planning.judging import Verdict
from plimsoll.planning.policy_ranking import rank
from plimsoll.planning.policy_variants import POLICY_NAMES, chosen, variants
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.io import from_data, plain
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    FairSwap,
    FreenessRouter,
    Nano,
    OrcaConfig,
    Parallel,
    Pool,
    PrefillFirst,
    ServingPlan,
    SplitFuse,
)
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.workload import Workload

SLO = Slo(targets=(SloTarget(metric="ttft", percentile=99, bound_s=1.0),))
PLAN = ServingPlan(model="toy", fleet="4xL40S", pools=(Pool(device="L40S", replicas=4),), slo=SLO)
WORK = Workload(
    name="steady",
    arrival_s=np.arange(100) * 0.5,
    prompt_tokens=np.full(100, 100),
    output_tokens=np.full(100, 10),
)


def capacity(plan: ServingPlan) -> float:
    """A world in which each policy carries a known rate."""
    policy = plan.pools[0].policy
    rates = {ChunkedPrefill: 8.0, PrefillFirst: 6.0, OrcaConfig: 1.0, SplitFuse: 9.0, FairSwap: 2.0}
    rate = rates.get(type(policy), 5.0)
    if isinstance(plan.router, FreenessRouter):
        rate *= 1.25
    if isinstance(plan.router, DisaggRouter):
        rate = {1: 4.0, 2: 11.0, 3: 5.0}[plan.pools[0].replicas]
    return rate


def judge(plan: ServingPlan, workload: Workload) -> Verdict:
    ratio = workload.rate_per_s / capacity(plan)
    return Verdict(
        holds=ratio <= 1,
        missed="" if ratio <= 1 else "TTFT p99",
        shortfall=ratio,
        good_fraction=1.0,
        requests_per_s=workload.rate_per_s,
        output_tokens_per_s=1.0,
    )


def ranking(plan=PLAN, names=POLICY_NAMES, parts=(WORK, WORK)):
    return rank(
        plan,
        variants(plan, WORK, names),
        parts,
        judge=judge,
        guess_per_s=3.0,
        duration_s=200.0,
    )


def test_the_order_is_that_of_the_world():
    found = ranking()
    assert found.own.rate_per_s == pytest.approx(8.0, rel=0.04)
    rates = {one.name: one.rate_per_s for one in found.policies if one.rates_per_s}
    expected = {
        "splitfuse + freeness": 9.0 * 1.25,
        "disaggregated": 11.0,
        "freeness": 10.0,
        "splitfuse": 9.0,
        "prefill-first": 6.0,
        "fairswap": 2.0,
        "orca": 1.0,
    }
    for name, rate in expected.items():
        assert rates[name] == pytest.approx(rate, rel=0.04), name
    shown = [one.name for one in found.policies if one.name in expected]
    assert shown == list(expected)
    assert all(len(one.rates_per_s) == 2 for one in found.policies if one.rates_per_s)


def test_where_a_promise_holds_and_fails_in_turns_equals_stop_at_equal_rates():
    """Routers alike in this world: any difference would come from where a search began."""

    def jagged(plan, workload):
        smooth = judge(plan, workload)
        rate = workload.rate_per_s
        holds = rate < 2 or (rate < 12 and int(rate * 5) % 2 == 0)
        return replace(smooth, holds=holds, missed="" if holds else "TTFT p99")

    found = rank(
        PLAN,
        variants(PLAN, WORK, ("round-robin", "least-demand", "least-work", "prefill-first")),
        (WORK, WORK, WORK),
        judge=jagged,
        guess_per_s=3.0,
        duration_s=200.0,
    )
    rates = {one.rates_per_s for one in found.policies if one.name != "prefill-first"}
    assert rates == {found.own.rates_per_s}
    assert len(set(found.own.rates_per_s)) == 1, "and draws alike too"


def test_the_best_split_is_the_one_reported():
    (apart,) = ranking(names=("disaggregated",)).policies
    assert apart.plan is not None
    assert [pool.replicas for pool in apart.plan.pools] == [2, 2]
    assert [pool.role for pool in apart.plan.pools] == ["prefill", "decode"]


def test_a_plan_that_keeps_its_promise_at_no_rate_says_so():
    def never(plan, workload):
        return replace(judge(plan, workload), holds=False, missed="TPOT p99", shortfall=9.0)

    with pytest.raises(InfeasibleError, match="at no rate: it misses TPOT p99"):
        rank(PLAN, (), (WORK,), judge=never, guess_per_s=3.0, duration_s=200.0)


def why_not(plan, workload=WORK):
    return {v.name: v.why_not for v in variants(plan, workload) if not v.plans}


def test_what_makes_no_sense_carries_the_reason():
    found = why_not(PLAN)
    assert "toy" in found.pop("nano"), "an overlap plan needs a model that is known"
    assert "no rate to raise" in found.pop("prefix-groups")
    assert found == {"prefix-affine": "no two requests of this workload share a prefix"}
    alone = replace(PLAN, pools=(Pool(device="L40S"),))
    found = why_not(alone)
    assert "nothing to choose" in found["freeness"] == found["round-robin"]
    assert "cannot be split" in found["disaggregated"]
    pipelined = replace(PLAN, pools=(replace(PLAN.pools[0], parallel=Parallel(pp=2)),))
    found = why_not(pipelined)
    assert "pipelines" in found["freeness"] and "in flight" in found["chunked-prefill, ahead"]
    assert "pipeline" in found["fairswap"]
    apart = next(v for v in variants(PLAN, WORK) if v.name == "disaggregated").plans[0]
    found = why_not(apart)
    assert "hands over" in found["least-work"] and "disaggregated" not in found
    assert "share a replica" in found["fairswap"]
    mixed = replace(PLAN, pools=(PLAN.pools[0], replace(PLAN.pools[0], block_tokens=32)))
    found = why_not(mixed)
    assert "16 and 32 tokens" in found["freeness"] and "different kinds" in found["disaggregated"]


def test_all_variants_differ_from_the_plan_in_one_thing():
    for variant in variants(PLAN, WORK):
        for plan in variant.plans:
            if variant.kind == "step policy":
                assert plan.router == PLAN.router
                own = PLAN.pools[0]
                caching = variant.name != "fairswap" and own.prefix_caching
                same = replace(own, policy=plan.pools[0].policy, prefix_caching=caching)
                assert plan.pools == (same,)
            elif variant.kind == "router":
                assert plan.pools == PLAN.pools
            else:
                assert plan.num_devices == PLAN.num_devices


def test_the_variant_with_overlap_holds_its_plan_as_plain_data():
    plan = replace(
        PLAN, model="llama-3-8b", fleet="1xA100-SXM-80", pools=(Pool(device="A100-SXM-80"),)
    )
    work = replace(WORK, output_tokens=np.full(100, 100))
    (variant,) = variants(plan, work, ("nano",))
    policy = variant.plans[0].pools[0].policy
    assert isinstance(policy, Nano) and policy.overlap is not None
    assert policy.mean_output_tokens == 100 and policy.overlap.batch_tokens == 2048
    assert from_data(ServingPlan, plain(variant.plans[0]), where="plan") == variant.plans[0]
    apart = replace(plan.pools[0], role="decode")
    (left_out,) = variants(replace(plan, pools=(apart,)), work, ("nano",))
    assert "prefill and decode are apart" in left_out.why_not


def test_names_hold_commas():
    assert chosen("all") == POLICY_NAMES
    assert chosen("orca, chunked-prefill, swap,freeness") == (
        "orca",
        "chunked-prefill, swap",
        "freeness",
    )
    assert chosen("prefill-first;orca;orca") == ("prefill-first", "orca")
    with pytest.raises(SpecError, match="no policy 'freenes'.*freeness"):
        chosen("freenes")
    with pytest.raises(SpecError, match="nothing named"):
        chosen(" , ")
