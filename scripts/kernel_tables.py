"""Kernel timings as arrays, grouped so that one call of an operator formula predicts a group.

A group is one device, engine and number format. Rows are drawn at random, evenly over devices and
engines; none is left out for its value. Where even the smallest shapes of a group take long, the
calls were timed without graph capture and the host set the pace: ``host_s`` is that floor.
Message sizes of collectives count elements, as the times of 8- and 16-bit rows show.
Source of the rows: ai-dynamo/aiconfigurator, commit 095f58a (Apache-2.0).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plimsoll.cost.attention_shape import AttentionShape
from plimsoll.cost.gemm import Multiply, multiply_format
from plimsoll.cost.moe import MoeShape
from plimsoll.cost.routing import ExpertLoad, expert_load
from plimsoll.cost.state_space import StateShape
from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import load_device
from plimsoll.spec.hardware import Device

__all__ = ["DATA", "DEVICES", "Group", "TABLES"]

DATA = Path(__file__).resolve().parents[1] / "../shared/data/kernels"
DEVICES = {
    "a100_sxm": load_device("A100-SXM-80"),
    "l40s": load_device("L40S"),
    "h100_sxm": load_device("H100-SXM"),
    "b200_sxm": load_device("B200-SXM"),
    "gb200": load_device("GB200"),
}
_FORMATS = {
    "bfloat16": DType.BF16,
    "fp8": DType.FP8,
    "fp8_block": DType.FP8_BLOCK,
    "nvfp4": DType.NVFP4,
    "int4_wo": DType.INT4,
    "int8_wo": DType.INT8,
    "sq": DType.INT8,
    "w4a16_mxfp4": DType.MXFP4,
    "w4a8_mxfp4_mxfp8": DType.MXFP4,
}
_EXPANDED = {"int8_wo", "int4_wo", "w4a16_mxfp4"}
_PLAIN_WIDTHS = (1856, 2688, 5120)
"""Expert widths of the measured models whose experts have two matrices instead of three."""

Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that one call predicts; ``sizes`` are what the formula takes beside device and rates."""

    device: Device
    engine: str
    label: str
    sizes: Arrays
    latency_s: np.ndarray
    host_s: float


def _read(operator: str, num_rows: int) -> pl.DataFrame:
    """Rows of an operator from all files, at most ``num_rows``, evenly from each file."""
    files = sorted(DATA.glob(f"*/{operator}.*.parquet"))
    if not files:
        raise SystemExit(f"{DATA}: no files for {operator}; the kernel timings are needed here")
    generator = np.random.default_rng(0)
    parts = []
    for file in files:
        table = pl.read_parquet(file)
        most = max(1, num_rows // len(files))
        if table.height > most:
            table = table[np.sort(generator.permutation(table.height)[:most])]
        engine = file.name.split(".")[1].split("-")[0]
        names = {"device": file.parent.name, "engine": engine}
        parts.append(table.with_columns(**{f"{k}_": pl.lit(v) for k, v in names.items()}))
    return pl.concat(parts, how="diagonal_relaxed")


def _numbers(table: pl.DataFrame, *columns: str) -> Arrays:
    return {c: table[c].fill_null(0).to_numpy().astype(float) for c in columns}


def _groups(
    table: pl.DataFrame,
    keys: list[str],
    sizes: Callable[[pl.DataFrame, Device], Arrays],
    *,
    floor_s: float,
    label: Callable[[pl.DataFrame], str],
) -> list[Group]:
    found = []
    for part in table.partition_by(["device_", "engine_", *keys], maintain_order=True):
        device = DEVICES[part["device_"][0]]
        latency_s = part["latency"].to_numpy() / 1e3
        smallest_s = float(np.quantile(latency_s, 0.03))
        host_s = smallest_s if smallest_s > floor_s and part.height > 20 else 0.0
        found.append(
            Group(
                device=device,
                engine=part["engine_"][0],
                label=label(part),
                sizes=sizes(part, device),
                latency_s=latency_s,
                host_s=host_s,
            )
        )
    return found


def _multiply(name: str, device: Device) -> Multiply:
    weight = _FORMATS[name]
    if name in _EXPANDED:
        return Multiply(weight, DType.BF16, weight.bytes, 2.0, True)
    return multiply_format(weight, device)


def _gemm() -> list[Group]:
    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        how = _multiply(part["gemm_dtype"][0], device)
        return {**_numbers(part, "m", "n", "k"), "how": how}

    return _groups(
        _read("gemm", 16000),
        ["gemm_dtype"],
        sizes,
        floor_s=50e-6,
        label=lambda part: str(part["gemm_dtype"][0]),
    )


def _attention(operator: str) -> list[Group]:
    decode = operator.startswith("generation")
    table = _read(operator, 20000)
    if "window_size" not in table.columns:
        table = table.with_columns(window_size=pl.lit(0))

    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        c = _numbers(
            part,
            "batch_size",
            "isl",
            "num_heads",
            "num_key_value_heads",
            "head_dim",
            "step",
            "window_size",
        )
        format_column = "kv_cache_dtype" if decode else "attn_dtype"
        narrow = part[format_column].to_numpy() == "fp8"
        streams, dim = c["num_key_value_heads"], c["head_dim"]
        shape = AttentionShape(
            heads=c["num_heads"],
            streams=streams,
            group=c["num_heads"] / streams,
            stream_values=2 * dim,
            value_bytes=np.where(narrow, 1.0, 2.0),
            pair_flops=4 * dim,
            prefill_flops=4 * dim,
            query_bytes=4 * c["num_heads"] * dim,
            prefill_kv_bytes=4 * streams * dim,
            narrow_math=True,
        )
        length = c["step"] + 1 if decode else c["isl"]
        span = np.where(c["window_size"] > 0, np.minimum(c["window_size"], length), length)
        return _sequence_sizes(shape, c["batch_size"], length, span, decode)

    return _groups(
        table,
        ["attn_dtype", "kv_cache_dtype"],
        sizes,
        floor_s=50e-6,
        label=lambda part: f"kv {part['kv_cache_dtype'][0]}",
    )


def _latent(operator: str) -> list[Group]:
    decode = operator.startswith("generation")

    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        c = _numbers(part, "batch_size", "isl", "num_heads", "step")
        heads = c["num_heads"]
        narrow = part["kv_cache_dtype"].to_numpy() == "fp8"
        shape = AttentionShape(
            heads=heads,
            streams=1.0,
            group=heads,
            stream_values=576.0,
            value_bytes=np.where(narrow, 1.0, 2.0),
            pair_flops=2.0 * (576 + 512),
            prefill_flops=2.0 * (192 + 128),
            query_bytes=2.0 * heads * (192 + 128),
            prefill_kv_bytes=2.0 * heads * (192 + 128),
        )
        length = c["step"] + 1 if decode else c["isl"]
        return _sequence_sizes(shape, c["batch_size"], length, length, decode)

    return _groups(
        _read(operator, 14000),
        ["kernel_source", "kv_cache_dtype"],
        sizes,
        floor_s=50e-6,
        label=lambda part: f"kv {part['kv_cache_dtype'][0]}",
    )


def _sequence_sizes(
    shape: AttentionShape,
    batch: np.ndarray,
    length: np.ndarray,
    span: np.ndarray,
    decode: bool,
) -> Arrays:
    if decode:
        return {"shape": shape, "batch": batch, "visible": batch * span}
    pairs = span * (span + 1) / 2 + (length - span) * span
    return {
        "shape": shape,
        "pairs": batch * pairs,
        "new": batch * length,
        "cached": np.zeros_like(length),
        "span": span,
    }


def _moe() -> list[Group]:
    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        c = _numbers(
            part,
            "num_tokens",
            "hidden_size",
            "inter_size",
            "topk",
            "num_experts",
            "moe_tp_size",
            "moe_ep_size",
        )
        name = part["distribution"].to_numpy()
        exponent = np.where(name == "power_law_1.2", 1.2, np.where(name == "balanced", 0.0, 1.01))
        load = expert_load(
            c["num_tokens"],
            num_experts=c["num_experts"],
            top_k=c["topk"],
            groups=c["moe_ep_size"],
            exponent=exponent,
        )
        mean = c["num_tokens"] * c["topk"] / c["moe_ep_size"]
        local = np.maximum(1.0, c["num_experts"] / c["moe_ep_size"])
        even = exponent == 0
        load = ExpertLoad(
            np.where(even, np.minimum(local, np.maximum(mean, 1e-9)), load.experts_hit),
            np.where(even, mean, load.pairs),
        )
        shape = MoeShape(
            width=c["hidden_size"],
            inner=c["inter_size"] / c["moe_tp_size"],
            matrices=np.where(np.isin(c["inter_size"], _PLAIN_WIDTHS), 2.0, 3.0),
            num_experts=0.0,
            top_k=0.0,
            groups=1.0,
            exponent=0.0,
        )
        how = _multiply(part["moe_dtype"][0], device)
        return {"load": load, "mean": mean, "shape": shape, "how": how}

    return _groups(
        _read("moe", 24000),
        ["moe_dtype"],
        sizes,
        floor_s=80e-6,
        label=lambda part: str(part["moe_dtype"][0]),
    )


def _all_reduce() -> list[Group]:
    table = _read("custom_allreduce", 10**6)

    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        c = _numbers(part, "message_size", "num_gpus")
        return {"message": 2.0 * c["message_size"], "members": c["num_gpus"]}

    return _groups(
        table,
        ["kernel_source"],
        sizes,
        floor_s=15e-6,
        label=lambda part: "eager" if part["kernel_source"][0].endswith("eager") else "graph",
    )


def _exchange() -> list[Group]:
    table = _read("nccl", 10**6)

    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        c = _numbers(part, "message_size", "num_gpus")
        twice = 2.0 if part["op_name"][0] == "all_reduce" else 1.0
        return {
            "message": c["message_size"] * (2.0 if part["nccl_dtype"][0] == "half" else 1.0),
            "members": c["num_gpus"],
            "passes": twice,
        }

    return _groups(
        table,
        ["op_name", "nccl_dtype"],
        sizes,
        floor_s=50e-6,
        label=lambda part: str(part["op_name"][0]),
    )


def _state() -> list[Group]:
    table = _read("gdn", 10**6)
    keys = ["phase", "batch_size", "seq_len", "num_tokens", "num_k_heads", "num_v_heads"]
    keys = ["device_", "engine_", *keys, "head_k_dim", "head_v_dim"]
    whole = (
        table.group_by([*keys, "kernel_source"], maintain_order=True)
        .agg(pl.col("latency").mean())
        .group_by(keys, maintain_order=True)
        .agg(pl.col("latency").sum(), pl.len().alias("kernels"))
        .filter(pl.col("kernels") == 2)
    )

    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        c = _numbers(part, "batch_size", "num_tokens", "num_k_heads", "num_v_heads")
        keys_, values_ = c["num_k_heads"] * 128, c["num_v_heads"] * 128
        state = values_ * 128
        shape = StateShape(
            state_bytes=4 * state,
            token_bytes=(4 * (2 * keys_ + values_) + values_) * 2.0,
            token_flops=2.0 * 4 * state,
        )
        phase = part["phase"][0]
        tokens = c["batch_size"] if phase == "generation" else c["num_tokens"]
        return {"shape": shape, "tokens": tokens, "phase": phase}

    return _groups(whole, ["phase"], sizes, floor_s=80e-6, label=lambda part: str(part["phase"][0]))


def _named() -> Iterator[tuple[str, Callable[[], list[Group]]]]:
    yield "gemm", _gemm
    yield "prefill", lambda: _attention("context_attention")
    yield "decode", lambda: _attention("generation_attention")
    yield "latent_prefill", lambda: _latent("context_mla")
    yield "latent_decode", lambda: _latent("generation_mla")
    yield "moe", _moe
    yield "all_reduce", _all_reduce
    yield "exchange", _exchange
    yield "state", _state


TABLES = dict(_named())
