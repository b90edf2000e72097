"""Deployment tables for tests, and a predictor that needs no model."""

from collections.abc import Sequence
from pathlib import Path

from plimsoll.spec.deployment import DeploymentRow, Prediction, Refusal
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
