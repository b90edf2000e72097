"""Plans and contexts for the export tests, and what is left of a file without its comments."""

import re
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from plimsoll.report.export import ExportContext, PoolFacts
from plimsoll.spec.dtype import DType
from plimsoll.spec.plan import (
    ChunkedPrefill,
    DisaggRouter,
    LeastWorkRouter,
    Parallel,
    Pool,
    PrefixAffineRouter,
    RoundRobinRouter,
    ServingPlan,
)
from plimsoll.spec.slo import Slo, SloTarget
from plimsoll.spec.workload import Workload

FACTS = PoolFacts(
    devices_per_host=8,
    vendor="nvidia",
    product="NVIDIA H100 80GB HBM3",
    device_memory_bytes=85.0e9,
    weight_bytes=17.5e9,
    activation_bytes=2.0e9,
    runtime_bytes=1.0e9,
)
MODEL = "meta-llama/Llama-3.1-70B-Instruct"
SLO = Slo(
    targets=(
        SloTarget(metric="ttft", percentile=99, bound_s=2.0),
        SloTarget(metric="tpot", percentile=95, bound_s=0.06),
    )
)
COLOCATED = ServingPlan(
    model="llama-3.1-70b",
    fleet="8xH100-SXM",
    pools=(Pool(device="H100-SXM", replicas=2, parallel=Parallel(tp=4), max_num_seqs=128),),
    slo=SLO,
    notes=("chosen by search",),
)
DISAGGREGATED = ServingPlan(
    model="llama-3.1-70b",
    fleet="3x(8xH100-SXM)",
    pools=(
        Pool(role="prefill", device="H100-SXM", replicas=2, parallel=Parallel(tp=4)),
        Pool(role="decode", device="H100-SXM", parallel=Parallel(tp=16), memory_fraction=0.92),
    ),
    router=DisaggRouter(),
    slo=SLO,
)
EXPERTS = ServingPlan(
    model="qwen3-235b-a22b",
    fleet="2x(8xH100-SXM)",
    kv_dtype=DType.FP8,
    max_model_len=32768,
    pools=(
        Pool(
            device="H100-SXM",
            parallel=Parallel(tp=1, attention_dp=16, ep=16),
            policy=ChunkedPrefill(token_budget=32768),
            max_num_seqs=1024,
            block_tokens=64,
            prefix_caching=False,
        ),
    ),
    router=RoundRobinRouter(),
)
PAIRS = (
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("trtllm", "trtllm"),
    ("kubernetes", "vllm"),
    ("kubernetes", "sglang"),
    ("kubernetes", "trtllm"),
    ("dynamo", "vllm"),
    ("dynamo", "sglang"),
    ("llm-d", "vllm"),
)
"""Targets that start engines, with each engine they know."""


def workload(*, num_in_flight: int = 0) -> Workload:
    """Four requests; the second shares two blocks of 16 tokens with the first."""
    return Workload(
        name="four",
        arrival_s=np.array([5.0, 5.5, 6.0, 9.25]),
        prompt_tokens=np.array([40, 36, 16, 7]),
        output_tokens=np.array([8, 9, 10, 11]),
        prefix_keys=np.array([71, 72, 73, 71, 72]),
        prefix_start=np.array([0, 3, 5, 5, 5]),
        prefix_block_tokens=16,
        num_in_flight=num_in_flight,
    )


def context(plan: ServingPlan, **changes: object) -> ExportContext:
    """The context of a plan in these tests: a bf16 checkpoint with 128k of context."""
    base = ExportContext(
        model=MODEL,
        context_tokens=131072,
        pools=(FACTS,) * len(plan.pools),
        checkpoint_dtype=DType.BF16,
        workload=workload(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def without_comments(text: str) -> str:
    """``text`` without the lines a machine ignores."""
    return re.sub(r"^\s*#.*\n", "", text, flags=re.M)


@st.composite
def plans(draw: st.DrawFn, engine: str = "vllm", *, single: bool = False) -> ServingPlan:
    """Plans the engine can express, over one or more hosts; ``single``: one replica in all."""
    disaggregated = not single and draw(st.booleans())
    hosts_fit = engine == "trtllm"

    def pool(role: str) -> Pool:
        dp = draw(st.sampled_from((1, 1, 2, 4)))
        tp = draw(st.sampled_from((1, 2, 4)))
        if engine == "trtllm" and dp > 1:
            tp = 1
        room = 8 // (tp * dp) if hosts_fit else 4
        pp = draw(st.sampled_from((1, 2))) if room >= 2 and not disaggregated else 1
        if tp * dp * pp > 8 and (tp * dp * pp) % 8:
            pp = 1
        seqs = dp * draw(st.integers(1, 64))
        return Pool(
            role=role,  # type: ignore[arg-type]
            device="H100-SXM",
            replicas=1 if single else draw(st.integers(1, 3)),
            parallel=Parallel(
                tp=tp, pp=pp, attention_dp=dp, ep=draw(st.sampled_from((1, tp * dp)))
            ),
            policy=ChunkedPrefill(token_budget=dp * 64 * draw(st.integers(1, 100))),
            max_num_seqs=seqs,
            memory_fraction=draw(st.integers(50, 97)) / 100,
            block_tokens=draw(st.sampled_from((16, 32, 64))),
            prefix_caching=draw(st.booleans()),
        )

    router = draw(st.sampled_from((RoundRobinRouter(), LeastWorkRouter(), PrefixAffineRouter())))
    return ServingPlan(
        model="any",
        fleet="4x(8xH100-SXM)",
        engine=engine,  # type: ignore[arg-type]
        kv_dtype=draw(st.sampled_from((None, DType.FP8))),
        max_model_len=draw(st.sampled_from((0, 4096, 32768))),
        pools=(pool("prefill"), pool("decode")) if disaggregated else (pool("both"),),
        router=DisaggRouter() if disaggregated else router,
    )
