"""What a target cannot express is refused: the message names field, reason and way out."""

import re
from dataclasses import replace

import pytest

from plimsoll.report.export import EXPORTERS, ExportContext, PoolFacts, export_plan
from plimsoll.spec.dtype import DType
from plimsoll.spec.errors import InfeasibleError, SpecError, UnsupportedError
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    OrcaConfig,
    Parallel,
    Pool,
    PrefillFirst,
    PrefixAffineRouter,
    RoundRobinRouter,
    ServingPlan,
    SplitFuse,
)
from plimsoll.spec.slo import Slo, SloTarget
from tests.export_plans import COLOCATED, DISAGGREGATED, context, workload


def pool(**changes: object) -> ServingPlan:
    return replace(COLOCATED, pools=(replace(COLOCATED.pools[0], **changes),))  # type: ignore[arg-type]


def on(engine: str, plan: ServingPlan) -> ServingPlan:
    return replace(plan, engine=engine)  # type: ignore[arg-type]


CASES = [
    ("vllm", pool(policy=OrcaConfig()), "pools[0].policy.kind = orca"),
    ("vllm", pool(policy=PrefillFirst(preempt="swap")), "pools[0].policy.kind = prefill-first"),
    ("vllm", pool(policy=SplitFuse()), "pools[0].policy.kind = splitfuse"),
    ("vllm", pool(policy=ChunkedPrefill(preempt="swap")), "pools[0].policy.preempt = swap"),
    (
        "vllm",
        pool(policy=ChunkedPrefill(max_partial_prefills=3)),
        "pools[0].policy.max_partial_prefills = 3",
    ),
    ("vllm", pool(block_tokens=10), "pools[0].block_tokens = 10"),
    ("vllm", pool(parallel=Parallel(tp=4, ep=2)), "pools[0].parallel.ep = 2"),
    ("vllm", pool(parallel=Parallel(tp=3, pp=4)), "pools[0].parallel = 12 devices a replica"),
    ("vllm", pool(parallel=Parallel(attention_dp=3)), "pools[0].policy.token_budget = 2048"),
    ("vllm", pool(max_num_seqs=4096), "pools[0].max_num_seqs = 4096"),
    ("vllm", replace(COLOCATED, weight_dtype=DType.INT4), "weight_dtype = int4"),
    ("vllm", replace(COLOCATED, weight_dtype=DType.NVFP4), "weight_dtype = nvfp4"),
    ("vllm", replace(COLOCATED, kv_dtype=DType.INT4), "kv_dtype = int4"),
    ("vllm", on("sglang", COLOCATED), "engine = sglang"),
    ("sglang", COLOCATED, "engine = vllm"),
    ("sglang", on("sglang", pool(policy=OrcaConfig())), "pools[0].policy.kind = orca"),
    (
        "sglang",
        on("sglang", pool(policy=PrefillFirst())),
        "pools[0].policy.max_batched_tokens = 8192",
    ),
    (
        "sglang",
        on("sglang", pool(policy=ChunkedPrefill(token_budget=1000))),
        "pools[0].policy.token_budget = 1000",
    ),
    ("sglang", on("sglang", replace(COLOCATED, kv_dtype=DType.FP16)), "kv_dtype = fp16"),
    ("sglang", on("sglang", replace(COLOCATED, weight_dtype=DType.INT4)), "weight_dtype = int4"),
    ("trtllm", on("trtllm", replace(COLOCATED, weight_dtype=DType.FP8)), "weight_dtype = fp8"),
    (
        "trtllm",
        on("trtllm", replace(COLOCATED, router=PrefixAffineRouter())),
        "router.kind = prefix-affine",
    ),
    (
        "trtllm",
        on("trtllm", pool(parallel=Parallel(tp=2, attention_dp=2))),
        "pools[0].parallel.tp = 2 with attention_dp 2",
    ),
    ("trtllm", on("trtllm", pool(parallel=Parallel(tp=16))), "pools[0].parallel = 16 devices"),
    ("kubernetes", on("trtllm", COLOCATED), "engine = trtllm with several engines"),
    ("dynamo", on("trtllm", COLOCATED), "engine = trtllm"),
    ("dynamo", replace(COLOCATED, router=PrefixAffineRouter()), "router.kind = prefix-affine"),
    ("llm-d", replace(COLOCATED, router=RoundRobinRouter()), "router.kind = round-robin"),
    ("llm-d", on("sglang", COLOCATED), "engine = sglang"),
    ("llm-d", replace(COLOCATED, pools=COLOCATED.pools * 2), "pools = 2 pools of role both"),
]


@pytest.mark.parametrize(("target", "plan", "says"), CASES, ids=[f"{t}-{s}" for t, _, s in CASES])
def test_the_message_names_the_field(target: str, plan: ServingPlan, says: str) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(f"export to {target}: {says}")) as refusal:
        export_plan(plan, target, context(plan))
    assert "; " in str(refusal.value)  # ... and says what to do


@pytest.mark.parametrize("target", ["vllm", "kubernetes", "dynamo", "llm-d"])
def test_pipelined_engines_do_not_hand_kv_over(target: str) -> None:
    pools = tuple(replace(p, parallel=Parallel(tp=4, pp=2)) for p in DISAGGREGATED.pools)
    plan = replace(DISAGGREGATED, pools=pools)
    with pytest.raises(UnsupportedError, match=r"pools\[0\]\.parallel\.pp = 2"):
        export_plan(plan, target, context(plan))


@pytest.mark.parametrize(
    ("checkpoint", "wanted"), [(None, DType.FP8), (DType.FP8, DType.BF16), (DType.INT4, DType.FP8)]
)
def test_a_quantized_or_unknown_checkpoint_is_not_converted(
    checkpoint: DType | None, wanted: DType
) -> None:
    for engine in ("vllm", "sglang"):
        plan = on(engine, replace(COLOCATED, weight_dtype=wanted))
        with pytest.raises(UnsupportedError, match=f"weight_dtype = {wanted.value}"):
            export_plan(plan, engine, context(plan, checkpoint_dtype=checkpoint))


def test_roles_and_router_must_agree() -> None:
    mixed = replace(COLOCATED, router=DisaggRouter())
    alone = replace(DISAGGREGATED, router=RoundRobinRouter())
    for plan in (mixed, alone):
        with pytest.raises(SpecError, match="roles"):
            export_plan(plan, "vllm", context(plan))


def test_context_must_belong_to_the_plan() -> None:
    with pytest.raises(SpecError, match="1 pools and the context facts of 0"):
        export_plan(COLOCATED, "vllm", context(COLOCATED, pools=()))
    with pytest.raises(SpecError, match="max_model_len = 200000"):
        export_plan(replace(COLOCATED, max_model_len=200_000), "vllm", context(COLOCATED))


def test_converted_fractions_need_the_memory_answer() -> None:
    bare = (PoolFacts(devices_per_host=8),)
    for engine in ("sglang", "trtllm"):
        plan = on(engine, COLOCATED)
        with pytest.raises(UnsupportedError, match=r"pools\[0\]\.memory_fraction"):
            export_plan(plan, engine, context(plan, pools=bare))


def test_no_room_for_kv_is_infeasible() -> None:
    facts = context(COLOCATED).pools[0]
    full = (replace(facts, weight_bytes=80e9),)
    for engine in ("sglang", "trtllm"):
        plan = on(engine, COLOCATED)
        with pytest.raises(InfeasibleError, match="no memory for KV"):
            export_plan(plan, engine, context(plan, pools=full))


def test_an_unlabeled_device_asks_for_its_label() -> None:
    facts = (replace(context(COLOCATED).pools[0], product=""),)
    with pytest.raises(UnsupportedError, match="node_selector"):
        export_plan(COLOCATED, "kubernetes", context(COLOCATED, pools=facts))
    label = {"H100-SXM": "example.com/gpu=h100"}
    given = context(COLOCATED, pools=facts, node_selector=label)
    (file,) = export_plan(COLOCATED, "kubernetes", given)
    assert "example.com/gpu: h100" in file.text


def test_bench_refuses_classes_sessions_and_no_load() -> None:
    target = SloTarget(metric="ttft", percentile=99, bound_s=1, request_class="chat")
    classed = replace(COLOCATED, slo=Slo(targets=(target,)))
    with pytest.raises(UnsupportedError, match=r"slo\.targets\[0\]\.request_class = chat"):
        export_plan(classed, "bench", context(classed))
    waiting = context(COLOCATED, workload=replace(workload(), sessions_wait=True))
    with pytest.raises(UnsupportedError, match="sessions_wait"):
        export_plan(COLOCATED, "bench", waiting)
    with pytest.raises(SpecError, match="no workload"):
        export_plan(COLOCATED, "bench", context(COLOCATED, workload=None))


def test_an_unknown_target_names_the_known_ones() -> None:
    plan = ServingPlan(model="m", fleet="a", pools=(Pool(device="a"),))
    facts = ExportContext(model="m", context_tokens=8, pools=(PoolFacts(devices_per_host=1),))
    with pytest.raises(SpecError, match=r"Did you mean dynamo\?"):
        export_plan(plan, "dinamo", facts)
    assert list(EXPORTERS) == [
        *("vllm", "sglang", "trtllm", "kubernetes", "dynamo", "llm-d", "bench")
    ]
