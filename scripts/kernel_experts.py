"""What the expert-layer timings measured: which kernel ran, and which pairs it computed.

Several engines run the same kernels, so rows are grouped by kernel: Triton's fused one, Marlin,
CUTLASS, CUTLASS without tactics tuned for the shape, and TensorRT-LLM's generated kernels (those
of mxfp4 apart: their tiles grow otherwise). SGLang's collector filled choices of experts on
other devices with the first local expert (collector/sglang/collect_moe.py clamps -1 to 0), for
whole models at a time: sharing such a model's experts between two devices saves next to nothing.
Those rows computed every choice of the tokens that reached the device.
Source: ai-dynamo/aiconfigurator, commit 095f58a (Apache-2.0).
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from plimsoll.cost.routing import ExpertLoad, expert_load

__all__ = ["KERNELS", "computes_all", "kernel_name", "matrices", "measured_load"]

KERNELS = ("triton", "marlin", "cutlass", "cutlass-untuned", "trtllm-gen", "trtllm-gen-mxfp4")
_MARKS = {
    "marlin": "marlin",
    "modeloptfp8moe_flashinfer_cutlass": "cutlass-untuned",
    "sglang_flashinfer_cutlass": "cutlass-untuned",
    "flashinfer_trtllm": "trtllm-gen",
    "triton": "triton",
    "vllm_fused_moe": "triton",
    "cutlass": "cutlass",
    "nongated": "cutlass",
}
_MODEL = ["moe_dtype", "kernel_source", "hidden_size", "inter_size", "topk", "num_experts"]
_PLAIN_WIDTHS = (1856, 2688, 5120)
"""Expert widths of the measured models whose experts have two matrices instead of three."""
_ALWAYS_GATED = ("0.5.10", "0.14.0", "1.0.0")
"""Versions whose collectors timed three matrices for every model."""
_SAVES_NOTHING = 0.85
_SPREAD = 1.3
"""Of the choices on one device over its tokens: 1 - exp(-1.3 x) of all tokens reach it."""


def kernel_name(source: str, weight: str, family: str) -> str:
    """The kernel behind a row's ``kernel_source``."""
    found = next((name for mark, name in _MARKS.items() if mark in source), "")
    if not found:  # TensorRT-LLM's own layer
        found = "trtllm-gen" if family == "blackwell" else "cutlass"
    return f"{found}-mxfp4" if found == "trtllm-gen" and "mxfp4" in weight else found


def computes_all(table: pl.DataFrame) -> Iterator[tuple[object, ...]]:
    """Models (format, kernel, sizes) of one file whose foreign choices were computed as well."""
    even = table.filter((pl.col("moe_tp_size") == 1) & (pl.col("distribution") == "balanced"))
    for key, rows in even.group_by(_MODEL, maintain_order=True):
        last = rows.filter(pl.col("num_tokens") == rows["num_tokens"].max())
        alone, shared = (last.filter(pl.col("moe_ep_size") == ep)["latency"] for ep in (1, 2))
        if not len(alone) or not len(shared) or rows["topk"][0] == 1:
            continue
        if np.mean(shared.to_numpy()) > _SAVES_NOTHING * np.mean(alone.to_numpy()):
            yield key


def matrices(part: pl.DataFrame) -> np.ndarray:
    """Matrices of an expert, as timed."""
    plain = part["inter_size"].is_in(_PLAIN_WIDTHS) & ~part["version"].is_in(_ALWAYS_GATED)
    return np.where(plain.to_numpy(), 2.0, 3.0)


def measured_load(part: pl.DataFrame) -> ExpertLoad:
    """What each row of ``part`` computed, on the busiest device."""
    tokens, top_k, experts, groups = (
        part[c].to_numpy().astype(float)
        for c in ("num_tokens", "topk", "num_experts", "moe_ep_size")
    )
    name = part["distribution"].to_numpy()
    even = name == "balanced"
    load = expert_load(
        tokens,
        num_experts=experts,
        top_k=top_k,
        groups=groups,
        exponent=np.where(name == "power_law_1.2", 1.2, 1.01),
    )
    mean = np.maximum(1.0, tokens * top_k / groups)
    local = np.maximum(1.0, experts / groups)
    hit = np.where(even, np.minimum(local, mean), load.experts_hit)
    pairs = np.where(even, mean, load.pairs)
    reached = np.where(
        even, np.minimum(tokens, pairs), tokens * (1.0 - np.exp(-_SPREAD * pairs / tokens))
    )
    whole = part["computes_all"].to_numpy() & (groups > 1)
    pairs = np.where(whole, reached * top_k, pairs)
    return ExpertLoad(hit, pairs, np.where(whole, pairs, load.choices))
