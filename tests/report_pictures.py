"""One picture of each kind with plausible content, for tests of what draws them."""

import numpy as np

from plimsoll.report.document import KeyNumber, Report, Table
from plimsoll.report.from_run import latency_cdf, request_timeline
from plimsoll.report.pictures import (
    BreakdownBar,
    BreakdownPart,
    LoadCurvePicture,
    LoadPoint,
    MemoryPart,
    MemoryWaterfall,
    ParetoPicture,
    ParetoPoint,
    RooflineDot,
    RooflinePicture,
    Spread,
    TimeBreakdown,
)
from plimsoll.report.summary_tables import key_numbers, percentile_table, verdict_table
from plimsoll.serving.metrics import good_requests, summarize
from plimsoll.spec.origin import Number, Origin
from plimsoll.spec.slo import Slo, SloTarget
from tests import law_answers
from tests.fcfs_run import poisson_run

SLO = Slo(
    targets=(
        SloTarget(metric="ttft", percentile=99, bound_s=0.5),
        SloTarget(metric="tpot", percentile=99, bound_s=0.02),
    )
)


def pareto():
    points = []
    for tp in (1, 2, 4, 8):
        for batch in (4, 8, 16, 32, 64, 128, 256):
            step_s = 0.004 + 0.016 / tp + 0.0004 * batch / tp + 0.001 * (tp > 1) * tp / 4
            user, gpu = 1 / step_s, batch / step_s / tp
            points.append((user, gpu, tp, batch))
    best = {p for p in points if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)}
    good = [p for p in best if p[0] >= 40]
    chosen = max(good, key=lambda p: p[1])
    return ParetoPicture(
        title=f"TP {chosen[2]} carries most at 40 tokens/s/user or more",
        points=tuple(
            ParetoPoint(
                tokens_per_s_per_user=p[0],
                tokens_per_s_per_gpu=p[1],
                num_gpus=8,
                family=f"TP {p[2]} x {8 // p[2]}",
                label=f"TP {p[2]} x {8 // p[2]}, batch {p[3]}",
                frontier=p in best,
                meets_slo=p[0] >= 40,
                chosen=p == chosen,
            )
            for p in points
        ),
        min_tokens_per_s_per_user=40.0,
    )


def runs():
    return {
        "2 replicas": poisson_run(num=500, rate_per_s=16.0, num_instances=2, base_s=0.012)[0],
        "1 replica": poisson_run(num=500, rate_per_s=16.0, base_s=0.012, max_num_seqs=24)[0],
    }


def cdf():
    return latency_cdf(runs(), "ttft", SLO)


def timeline():
    record = runs()["1 replica"]
    return request_timeline(record, good_requests(record, SLO), start_s=18.0, most_rows=60)


def load_curve():
    rng = np.random.default_rng(0)
    points = []
    for rate in (2, 4, 6, 8, 10, 12, 14, 16):
        good = rate if rate <= 10 else 10 - 2.2 * (rate - 10)
        good = max(good, 0.3)
        late = 0.2 / max(1 - rate / 12, 0.02)
        spread = 0.02 + 0.05 * (rate > 8) + rng.random() * 0.02
        points.append(
            LoadPoint(
                request_rate_per_s=rate,
                goodput_requests_per_s=Spread(
                    mean=good, low=good * (1 - spread), high=min(good * (1 + spread), rate)
                ),
                latency_s=Spread(mean=late, low=late * (1 - 2 * spread), high=late * (1 + spread)),
            )
        )
    return LoadCurvePicture(
        title="The plan keeps its promise up to 10 req/s",
        latency_name="P99 TTFT",
        points=tuple(points),
        num_seeds=3,
        knee_rate_per_s=10.0,
        bound_s=2.0,
    )


def memory():
    gib = 2.0**30
    return MemoryWaterfall(
        title="KV cache gets 43 % of each H100 (80 GB)",
        parts=(
            MemoryPart(name="weights", size_bytes=32.9 * gib),
            MemoryPart(name="KV cache", size_bytes=32.2 * gib),
            MemoryPart(name="activations", size_bytes=2.1 * gib, origin=Origin.MODELED),
            MemoryPart(name="graphs", size_bytes=0.9 * gib, origin=Origin.MODELED),
            MemoryPart(name="runtime reserve", size_bytes=0.8 * gib, origin=Origin.MODELED),
        ),
        limit_bytes=71.1 * gib,
        capacity_bytes=79.0 * gib,
    )


def roofline():
    dots = []
    for name, decode, prefill in (
        ("qkv", 60, 900),
        ("attention", 8, 400),
        ("o", 62, 850),
        ("gate_up", 63, 1500),
        ("down", 63, 1400),
        ("lm_head", 64, 1000),
    ):
        for phase, intensity in (("decode", decode), ("prefill", prefill)):
            roof = min(989e12, intensity * 3.35e12)
            bound = "memory" if intensity * 3.35e12 < 989e12 else "compute"
            dots.append(
                RooflineDot(
                    name=name,
                    phase=phase,
                    flops_per_byte=intensity,
                    flops_per_s=roof * 0.7,
                    bound=bound,
                )
            )
    return RooflinePicture(
        title="Decode is bound by memory, prefill by arithmetic",
        device="H100-SXM",
        memory_bytes_per_s=3.35e12,
        peaks=(("bf16", 989e12), ("fp8", 1979e12)),
        dots=tuple(dots),
        origin=Origin.CALIBRATED,
    )


def breakdown():
    def bar(name, scale, shares):
        return BreakdownBar(
            name=name,
            parts=tuple(
                BreakdownPart(
                    name=n, kind=k, seconds=s * scale, hidden_s=h * scale, bound_s=b and b * scale
                )
                for n, k, s, h, b in shares
            ),
        )

    return TimeBreakdown(
        title="Two all-reduces a layer take a fifth of a decode step",
        bars=(
            bar(
                "decode, 64 requests",
                0.02,
                (
                    ("GEMM", "memory", 0.5, 0.0, 0.42),
                    ("attention", "memory", 0.18, 0.0, 0.15),
                    ("all-reduce", "collective", 0.2, 0.05, None),
                    ("norms", "memory", 0.04, 0.0, 0.01),
                    ("host", "host", 0.08, 0.0, None),
                ),
            ),
            bar(
                "prefill, 2,048 tokens",
                0.11,
                (
                    ("GEMM", "compute", 0.72, 0.0, 0.6),
                    ("attention", "compute", 0.09, 0.0, 0.05),
                    ("all-reduce", "collective", 0.15, 0.0, None),
                    ("norms", "memory", 0.03, 0.0, 0.01),
                    ("host", "host", 0.01, 0.0, None),
                ),
            ),
        ),
        origin=Origin.CALIBRATED,
    )


def all_pictures():
    mine = (pareto(), cdf(), load_curve(), timeline(), memory(), roofline(), breakdown())
    return (*mine, *law_answers.pictures())


def full_report():
    record = runs()["2 replicas"]
    summary = summarize(record, SLO, num_devices=8, usd_per_hour=20.0)
    return Report(
        title="2 x TP 4 on 8 H100-SXM carries 15.6 req/s of this traffic",
        subtitle="Llama-3.1-70B (bf16), 500 requests, P99 TTFT <= 500 ms, P99 TPOT <= 20 ms",
        command="plimsoll plan llama-3.1-70b --on 8xH100-SXM --ttft-p99 500ms --tpot-p99 20ms",
        assumptions=("0 % prefix hits", "Poisson arrivals <&> 'quoted' </script>"),
        key_numbers=(
            *key_numbers(summary, error_fraction=0.12),
            KeyNumber(
                name="Weights per GPU", number=Number(value=32.9, unit="GiB", origin=Origin.DERIVED)
            ),
        ),
        tables=(
            Table(
                title="Runners-up",
                columns=("plan", "goodput", "P99 TTFT", "P99 TPOT", "trades"),
                rows=(
                    ("* 2 x TP 4", "15.6 req/s", "310 ms", "18 ms", "chosen"),
                    (
                        "  1 x TP 8",
                        "11.2 req/s",
                        "250 ms",
                        "13 ms",
                        "faster tokens, fewer requests",
                    ),
                    ("  4 x TP 2", "-", "-", "-", "KV cache too small for the longest prompts"),
                ),
            ),
            percentile_table(summary),
            verdict_table(summary),
        ),
        pictures=all_pictures(),
        next_command="plimsoll export vllm plan.yaml",
        notes=("modeled numbers carry the typical error of their device class",),
    )
