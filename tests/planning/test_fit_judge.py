"""Plans judged on published fits: sides alone, links, promises nobody can keep."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.cost.fits import published_fit
from plimsoll.planning.disagg import DisaggSpace, search_disagg
from plimsoll.planning.fit_judge import FitJudge
from plimsoll.planning.goodput import goodput
from plimsoll.spec.errors import InfeasibleError, SpecError
from plimsoll.spec.plan import DisaggRouter, Parallel, Pool, PrefillFirst, ServingPlan
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.workload import Workload

JUDGE = FitJudge(
    model="opt-13b", devices_per_node=2, node_bytes_per_s=300e9, fabric_bytes_per_s=3e9
)


def promise(ttft_s, tpot_s):
    return Slo(
        targets=(
            SloTarget(metric="ttft", percentile=90, bound_s=ttft_s),
            SloTarget(metric="tpot", percentile=90, bound_s=tpot_s),
        )
    )


def pool(role, tp=1, pp=1, replicas=1):
    return Pool(
        role=role,
        device="A100-SXM-80",
        replicas=replicas,
        parallel=Parallel(tp=tp, pp=pp),
        policy=PrefillFirst(),
        max_num_seqs=128,
    )


def plan(*pools, slo=None):
    whole = {p.role for p in pools} == {"prefill", "decode"}
    made = ServingPlan(
        model="opt-13b", fleet="8xA100-SXM-80", pools=pools, slo=slo or promise(0.25, 0.1)
    )
    return replace(made, router=DisaggRouter()) if whole else made


def traffic(n=50, gap_s=1.0, prompt=500, output=50):
    return Workload(
        name="even",
        arrival_s=np.arange(n) * gap_s,
        prompt_tokens=np.full(n, prompt),
        output_tokens=np.full(n, output),
    )


class Counting:
    def __init__(self, judge):
        self.judge, self.calls = judge, 0

    def __call__(self, plan, workload):
        self.calls += 1
        return self.judge(plan, workload)


@pytest.mark.parametrize(
    ("slo", "missed"), [(promise(0.01, 0.1), "TTFT p90"), (promise(0.25, 0.001), "TPOT p90")]
)
def test_a_limit_below_one_request_is_infeasible_at_once(slo, missed):
    judge = Counting(JUDGE)
    with pytest.raises(InfeasibleError, match="infeasible at any rate") as caught:
        goodput(plan(pool("prefill"), pool("decode")), traffic(), slo, judge=judge)
    assert caught.value.binding == missed
    assert judge.calls == 1


def test_the_search_says_so_too():
    space = DisaggSpace(
        model="opt-13b",
        device="A100-SXM-80",
        num_nodes=1,
        devices_per_node=2,
        shapes=(Parallel(tp=1),),
    )
    with pytest.raises(InfeasibleError, match="infeasible at any rate"):
        search_disagg(
            space,
            traffic(),
            promise(0.01, 0.1),
            judge=JUDGE,
            affinity="high",
            duration_s=10.0,
            tolerance=0.5,
        )


def test_a_model_that_does_not_fit_is_refused_with_the_shapes_that_do():
    judge = replace(JUDGE, model="opt-66b")
    with pytest.raises(InfeasibleError, match="fitted at tp 2, 3, 4, 8"):
        judge(plan(pool("both")), traffic())


def test_prefill_alone_is_judged_on_first_tokens():
    verdict = JUDGE(plan(pool("prefill"), slo=promise(0.25, 1e-6)), traffic())
    assert verdict.holds
    record = JUDGE.record(plan(pool("prefill")), traffic())
    alone_s = published_fit("opt-13b", tp=1).clock.step_s([(500, 0)], 0, 0)
    assert record.requests.ttft_s == pytest.approx(np.full(50, alone_s))
    assert (record.requests.output_tokens == 1).all()


def test_decode_alone_gets_its_prompts_for_nothing():
    assert JUDGE(plan(pool("decode"), slo=promise(1e-6, 0.1)), traffic()).holds
    record = JUDGE.record(plan(pool("decode")), traffic(gap_s=10.0))
    clock = published_fit("opt-13b", tp=1).clock
    expected_s = np.mean([clock.step_s((), 1, 500 + k) for k in range(1, 50)])
    assert record.requests.tpot_s == pytest.approx(np.full(50, expected_s), rel=1e-4)


def test_a_side_without_a_target_is_refused():
    only_first = Slo(targets=(SloTarget(metric="ttft", percentile=90, bound_s=1.0),))
    with pytest.raises(SpecError, match="decode replicas alone"):
        JUDGE(plan(pool("decode"), slo=only_first), traffic())


def test_kv_crosses_the_fabric_only_between_nodes():
    near = JUDGE.record(plan(pool("prefill"), pool("decode")), traffic(gap_s=5.0))
    far = JUDGE.record(plan(pool("prefill", tp=2), pool("decode")), traffic(gap_s=5.0))
    moved = 500 * published_fit("opt-13b", tp=1).kv_bytes_per_token
    clock = published_fit("opt-13b", tp=1).clock
    steps_s = sum(clock.step_s((), 1, 500 + k) for k in range(1, 50))
    for record, bytes_per_s in ((near, 300e9), (far, 3e9)):
        decode_s = record.requests.finished_s - record.requests.first_token_s
        assert decode_s == pytest.approx(np.full(50, steps_s + moved / bytes_per_s), rel=1e-6)


def test_rival_engine_is_slower_and_only_where_colocated():
    rival = replace(JUDGE, colocated_engine="vllm")
    together = [j.record(plan(pool("both")), traffic()).requests.ttft_s for j in (JUDGE, rival)]
    assert (together[1] > together[0]).all()
    apart = [
        j.record(plan(pool("prefill"), pool("decode")), traffic()).requests.ttft_s
        for j in (JUDGE, rival)
    ]
    assert np.array_equal(*apart)


def test_decode_memory_can_be_capped():
    capped = replace(JUDGE, max_decode_tokens=2000)
    record = capped.record(plan(pool("prefill"), pool("decode")), traffic(gap_s=0.05))
    assert (record.requests.status == 0).all()
    decode = record.steps.instance == 1
    assert record.steps.used_blocks[decode].max() <= 125


def test_same_seed_same_verdict():
    asked = plan(pool("prefill"), pool("decode"))
    assert JUDGE(asked, traffic()) == JUDGE(asked, traffic())
