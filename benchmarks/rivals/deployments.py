"""A measured row as the rivals' drivers read it: one plain description of a deployment.

Standard library only, since the drivers run inside each rival's own environment. Models are named
as the rivals ship them, so that none asks a network. The replicas of an aggregated row are its
requests in flight over those that one replica holds. Blank worker counts of a disaggregated row
become one worker of each kind; ``assumed`` then says so, and its error is counted apart. A size
of zero counts as blank.
Left out: nothing is guessed about precision; a blank stays the rival's own default.
"""

import csv
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SHIPPED_AS = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-R1",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
    "zhipuai/GLM-5": "zai-org/GLM-5",
}
SIZES = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Equal workers of one kind; ``batch`` is requests an attention rank."""

    count: int
    batch: int
    sizes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What was measured: a model on workers, and the closed loop it served."""

    id: str
    model: str
    system: str
    backend: str
    backend_version: str | None
    gemm_quant_mode: str | None
    moe_quant_mode: str | None
    isl: int
    osl: int
    concurrency: int
    workers: dict[str, Workers] = field(default_factory=dict)
    assumed: str = ""

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode have workers of their own."""
        return "prefill" in self.workers


def _workers(row: dict[str, str], prefix: str, count: int, batch: int) -> Workers:
    stated = {name: int(row[prefix + name] or 0) for name in SIZES}
    sizes = {name: degree for name, degree in stated.items() if degree > 0}
    return Workers(count=count, batch=batch, sizes=sizes)


def deployment(row: dict[str, str]) -> Deployment:
    """A row of the measured file, read."""
    assumed = ""
    if row["mode"] == "agg":
        batch = max(1, int(row["batch_size_per_attention_rank"]))
        held = batch * max(1, int(row["attention_dp_size"] or 1))
        concurrency = int(row["concurrency"] or held)
        count = max(1, round(concurrency / held))
        workers = {"aggregated": _workers(row, "", count, batch)}
    else:
        counts = {stage: int(row[f"{stage}_num_workers"] or 1) for stage in ("prefill", "decode")}
        if not row["decode_num_workers"]:
            assumed = "one prefill and one decode worker"
        decode_ranks = counts["decode"] * max(1, int(row["decode_attention_dp_size"] or 1))
        held = int(row["decode_batch_size"] or 1) * decode_ranks
        concurrency = int(row["concurrency"] or held)
        decode_batch = int(row["decode_batch_size"] or math.ceil(concurrency / decode_ranks))
        prefill_batch = int(row["prefill_batch_size"] or 1)
        workers = {
            "prefill": _workers(row, "prefill_", counts["prefill"], prefill_batch),
            "decode": _workers(row, "decode_", counts["decode"], decode_batch),
        }
    return Deployment(
        id=row["id"],
        model=SHIPPED_AS.get(row["model_path"], row["model_path"]),
        system=row["system"],
        backend=row["backend"],
        backend_version=row["backend_version"] or None,
        gemm_quant_mode=row["gemm_quant_mode"] or None,
        moe_quant_mode=row["moe_quant_mode"] or None,
        isl=int(row["isl"]),
        osl=int(row["osl"]),
        concurrency=concurrency,
        workers=workers,
        assumed=assumed,
    )


def predictions(
    path: str, predict: Callable[[Deployment], dict[str, object]]
) -> Iterator[dict[str, object]]:
    """An answer a row of a file; whatever a rival raises becomes the reason it has none."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        asked = deployment(row)
        answer: dict[str, object] = {"id": asked.id, "assumed": asked.assumed}
        try:
            answer |= predict(asked)
        except Exception as error:  # a rival may raise anything
            answer["reason"] = " ".join(f"{type(error).__name__}: {error}".split())
        yield answer


def timed_predictions(
    path: str, predict: Callable[[Deployment], dict[str, object]]
) -> dict[str, object]:
    """All answers of a file and the CPU seconds they took; says how far it is on stderr."""
    started_s = time.process_time()
    rows = []
    for i, row in enumerate(predictions(path, predict), start=1):
        rows.append(row)
        if i % 20 == 0:
            print(f"{i} rows, {time.process_time() - started_s:.0f} CPU s", file=sys.stderr)
    return {"cpu_s": time.process_time() - started_s, "rows": rows}
