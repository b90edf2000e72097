"""Deployment tables and rows for tests, and a predictor that needs no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal, Workers
from plimsoll.spec.origin import Origin

HEADER = (
    "id,measured,model_path,system,backend,backend_version,precision,gemm_quant_mode,"
    "moe_quant_mode,mode,isl,osl,concurrency,batch_size_per_attention_rank,tp_size,pp_size,"
    "attention_dp_size,moe_tp_size,moe_ep_size,prefill_batch_size,prefill_num_workers,"
    "prefill_tp_size,prefill_pp_size,prefill_attention_dp_size,prefill_moe_tp_size,"
    "prefill_moe_ep_size,decode_batch_size,decode_num_workers,decode_tp_size,decode_pp_size,"
    "decode_attention_dp_size,decode_moe_tp_size,decode_moe_ep_size,ttft_ms,tpot_ms"
)
AGG = (
    "a1,2026-01-02,org/one,h100_sxm,vllm,0.9.1,fp8,fp8,,agg,1024,128,16,16,2,1,,1.0,1,"
    + "," * 14
    + "200,10.0"
)
DISAGG = "d1,,org/two,gb200,trtllm,,fp4,nvfp4,nvfp4,disagg,8192,1024,64.0" + "," * 6
DISAGG += ",1,2,4,1,1,1,4,16,3,8,1,1,1,8,500,8"


def cells(line: str, **changes: str) -> str:
    """A line of the table with some cells changed, named by column."""
    row = dict(zip(HEADER.split(","), line.split(","), strict=True))
    assert set(changes) <= set(row)
    return ",".join((row | changes).values())


def write_table(path: Path, *lines: str, header: str = HEADER) -> Path:
    """A file of these lines."""
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def twice_the_truth(rows: Sequence[DeploymentRow]) -> list[Prediction | Refusal]:
    """TPOT as measured, TTFT at twice that; models of "none/" are refused."""
    answers: list[Prediction | Refusal] = []
    for row in rows:
        if row.model.startswith("none/"):
            answers.append(Refusal(reason=f"model {row.model} is not known"))
            continue
        ttft_s = 2 * (row.ttft_ms or 100.0) / 1e3
        tpot_s = (row.tpot_ms or 10.0) / 1e3
        answers.append(
            Prediction(
                ttft_s=ttft_s,
                tpot_s=tpot_s,
                ttft_low_s=0.8 * ttft_s,
                ttft_high_s=1.2 * ttft_s,
                tpot_low_s=0.9 * tpot_s,
                tpot_high_s=1.1 * tpot_s,
                origin=Origin.CALIBRATED.value,
                note="experts balanced, as assumed" if row.moe_format else "",
            )
        )
    return answers


def aggregated(**changes: Any) -> DeploymentRow:
    """Llama-3.1-8B on one H100, 16 in flight, with some columns changed."""
    row: dict[str, Any] = {
        "line": 2,
        "model": "llama-3.1-8b",
        "system": "h100_sxm",
        "backend": "vllm",
        "precision": "fp8",
        "mode": "agg",
        "isl": 1000,
        "osl": 500,
        "concurrency": 16,
        "workers": cut_of(),
    }
    return DeploymentRow(**(row | changes))


def disaggregated(**changes: Any) -> DeploymentRow:
    """DeepSeek-R1 on GB200: two prefill workers of 4 devices, three of 8 that decode."""
    row: dict[str, Any] = {
        "line": 2,
        "model": "deepseek-r1",
        "system": "gb200",
        "backend": "trtllm",
        "precision": "fp8",
        "mode": "disagg",
        "isl": 1000,
        "osl": 500,
        "concurrency": 192,
        "prefill": cut_of(2, tp=4, ep=4),
        "decode": cut_of(3, tp=8, ep=8),
    }
    return DeploymentRow(**(row | changes))


def cut_of(count: int = 1, *, tp: int = 1, dp: int = 1, ep: int = 1, batch: int = 0) -> Workers:
    """Workers of ``tp`` times ``dp`` devices, experts cut by width over what ``ep`` leaves."""
    width = max(1, tp * dp // ep)
    return Workers(count=count, tp=tp, pp=1, attention_dp=dp, moe_tp=width, moe_ep=ep, batch=batch)


SERVED = {
    "dense": aggregated(isl=2000),
    "dense-tp2": aggregated(
        model="qwen3-32b", system="h200_sxm", backend="sglang", workers=cut_of(tp=2)
    ),
    "dense-a100": aggregated(
        model="gemma-2-27b", system="a100_sxm", precision="bf16", workers=cut_of(tp=4)
    ),
    "narrow-experts": aggregated(model="gpt-oss-120b", system="b200_sxm", precision="fp4"),
    "experts-mi300x": aggregated(
        model="mixtral-8x7b", system="mi300x", precision="bf16", workers=cut_of(tp=4)
    ),
    "latent-tp8": aggregated(
        model="deepseek-r1", system="b200_sxm", backend="trtllm", workers=cut_of(tp=8, ep=8)
    ),
    "latent-ranks": aggregated(
        model="deepseek-r1", system="b200_sxm", backend="sglang", workers=cut_of(dp=8, ep=8)
    ),
    "sparse": aggregated(
        model="glm-5", system="b200_sxm", backend="sglang", workers=cut_of(tp=8, ep=8)
    ),
    "linear": aggregated(model="qwen3.5-397b-a17b", system="b200_sxm", workers=cut_of(tp=8)),
    "state-space": aggregated(
        model="nemotron-h-56b", system="h200_sxm", precision="bf16", workers=cut_of(tp=4)
    ),
}
"""Aggregated rows whose memory holds many long requests, by kind of model and cut."""
APART = {
    "latent": disaggregated(),
    "latent-ranks": disaggregated(
        precision="fp4", prefill=cut_of(2, dp=4, ep=4), decode=cut_of(2, dp=16, ep=16)
    ),
    "sparse": disaggregated(model="glm-5", system="b200_sxm", backend="sglang"),
    "dense": disaggregated(
        model="llama-3.1-70b", system="h100_sxm", prefill=cut_of(1, tp=4), decode=cut_of(1, tp=8)
    ),
    "experts": disaggregated(
        model="qwen3-235b-a22b", backend="vllm", prefill=cut_of(2, tp=4), decode=cut_of(2, tp=8)
    ),
}
"""Disaggregated rows that name every count, likewise."""
