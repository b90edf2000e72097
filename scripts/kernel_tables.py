"""Kernel timings as arrays, grouped so that one call of an operator formula predicts a group.

A group is one device, engine and number format (experts: and kernel). Rows are drawn at random,
evenly over devices and engines; none is left out for its value. Where even the smallest shapes of
a group take long, the calls were timed without graph capture and the host set the pace: ``host_s``
is that floor.
Message sizes of collectives count elements, as the times of 8- and 16-bit rows show.
Source of the rows: ai-dynamo/aiconfigurator, commit 095f58a (Apache-2.0).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plimsoll.cost.attention_shape import AttentionShape
from plimsoll.cost.gemm import Multiply, multiply_format
from plimsoll.cost.moe import MoeShape
from plimsoll.cost.state_space import StateShape
from plimsoll.spec.dtype import DType
from plimsoll.spec.fleet import load_device
from plimsoll.spec.hardware import Device
from scripts.kernel_experts import computes_all, kernel_name, matrices, measured_load

__all__ = ["DATA", "DEVICES", "Group", "TABLES", "moe_kernels"]

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
_MOE_LIKE = {
    DType.FP32: DType.BF16,
    DType.FP16: DType.BF16,
    DType.INT8: DType.FP8,
    DType.MXFP8: DType.FP8,
    DType.INT4_G32: DType.INT4,
}
"""Formats whose experts were not measured, and one that they run like."""
_BLOCK = 128.0
"""Queries that one core attends for at once."""

Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that one call predicts; ``sizes`` are what the formula takes beside device and rates.

    ``engine`` is whose coefficients they share: an engine, or a kernel that several engines run.
    """

    device: Device
    engine: str
    label: str
    sizes: Arrays
    latency_s: np.ndarray
    host_s: float


def _read(
    operator: str,
    num_rows: int,
    mark: Callable[[pl.DataFrame, str], pl.DataFrame] = lambda table, device: table,
) -> pl.DataFrame:
    """Rows of an operator from all files, at most ``num_rows``, evenly from each file.

    ``mark`` adds columns that need a whole file (and its device) to be known.
    """
    files = sorted(DATA.glob(f"*/{operator}.*.parquet"))
    if not files:
        raise SystemExit(f"{DATA}: no files for {operator}; the kernel timings are needed here")
    generator = np.random.default_rng(0)
    parts = []
    for file in files:
        table = mark(pl.read_parquet(file), file.parent.name)
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
    runner: str = "engine_",
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
                engine=part[runner][0],
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
        "short": batch * np.maximum(0.0, _BLOCK - length),
    }


def _kernels(table: pl.DataFrame, device: str) -> pl.DataFrame:
    """Expert-layer rows of one file with their kernel, and whether they computed all choices."""
    whole = set(computes_all(table)) if table["framework"][0].lower() == "sglang" else set()
    columns = ("moe_dtype", "kernel_source", "hidden_size", "inter_size", "topk", "num_experts")
    family = DEVICES[device].family
    return table.with_columns(
        kernel_=pl.Series(
            [
                kernel_name(source, weight, family)
                for source, weight in table.select("kernel_source", "moe_dtype").iter_rows()
            ]
        ),
        computes_all=pl.Series([row in whole for row in table.select(*columns).iter_rows()]),
    )


def moe_kernels(families: Sequence[str]) -> dict[str, dict[DType, str]]:
    """Which kernel each engine runs experts of a format with, on devices of ``families``.

    The one with most rows: the engine's, else any engine's; of the format, else of one it runs
    like. Formats that none of these devices multiplies run as 4-bit weights do.
    """
    counts: Counter[tuple[str, str, DType, str]] = Counter()
    for file in sorted(DATA.glob("*/moe.*.parquet")):
        device, engine = DEVICES[file.parent.name], file.name.split(".")[1].split("-")[0]
        columns = ["kernel_source", "moe_dtype"]
        table = pl.read_parquet(file, columns=columns)
        for source, weight, rows in table.group_by(columns).len().rows():
            kernel = kernel_name(source, weight, device.family)
            counts[engine, device.family, _FORMATS[weight], kernel] += rows
    native = {f for d in DEVICES.values() if d.family in families for f in d.peak_flops_per_s}

    def commonest(weight: DType, engines: Collection[str], places: Collection[str]) -> str:
        found: Counter[str] = Counter()
        for (engine, place, what, kernel), rows in counts.items():
            if what is weight and engine in engines and place in places:
                found[kernel] += rows
        return max(found, key=found.__getitem__, default="")

    def choose(engine: str, weight: DType) -> str:
        like = [weight, _MOE_LIKE.get(weight, weight)]
        like = [*like, DType.FP8] if weight.math in native else [*like, DType.INT4]
        for who in ((engine,), engines):
            for one in like:
                if found := commonest(one, who, families):
                    return found
        return commonest(DType.INT4, engines, places)

    engines = sorted({engine for engine, *_ in counts})
    places = {place for _, place, *_ in counts}
    return {engine: {f: choose(engine, f) for f in DType} for engine in engines}


def _moe() -> list[Group]:
    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        c = _numbers(part, "hidden_size", "inter_size", "moe_tp_size")
        shape = MoeShape(
            width=c["hidden_size"],
            inner=c["inter_size"] / c["moe_tp_size"],
            matrices=matrices(part),
            num_experts=0.0,
            top_k=0.0,
            groups=1.0,
            exponent=0.0,
        )
        how = _multiply(part["moe_dtype"][0], device)
        return {"load": measured_load(part), "shape": shape, "how": how}

    return _groups(
        _read("moe", 24000, _kernels),
        ["moe_dtype", "kernel_"],
        sizes,
        floor_s=80e-6,
        label=lambda part: str(part["moe_dtype"][0]),
        runner="kernel_",
    )


def _all_reduce() -> list[Group]:
    table = _read("custom_allreduce", 10**6)

    def sizes(part: pl.DataFrame, device: Device) -> Arrays:
        c = _numbers(part, "message_size", "num_gpus")
        copies = float(part["kernel_source"][0].endswith("eager"))
        message = 2.0 * c["message_size"]
        return {"message": message, "members": c["num_gpus"], "copies": copies}

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
