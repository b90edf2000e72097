"""Which coefficients each operator has, where a fit starts and may go, and what they predict.

Every prediction calls the package's own formula, so what is fitted is what answers use.
"""

from typing import Any

import numpy as np

from plimsoll.cost.attention import decode_work, prefill_work
from plimsoll.cost.collectives import Fabric, all_reduce_work, exchange_work
from plimsoll.cost.efficiency import (
    CollectiveRates,
    DecodeRates,
    GemmRates,
    MoeRates,
    PrefillRates,
    StateRates,
)
from plimsoll.cost.gemm import gemm_work
from plimsoll.cost.moe import grouped_work
from plimsoll.cost.state_space import state_decode_work, state_prefill_work
from plimsoll.spec.dtype import DType
from scripts.kernel_fit import Model
from scripts.kernel_tables import Group

__all__ = ["ENGINES", "MODELS", "collective_rates", "rates_of"]

ENGINES = ("vllm", "sglang", "trtllm")
_GEMM_FORMATS = (DType.BF16, DType.FP8, DType.FP8_BLOCK, DType.INT8, DType.NVFP4)
_NARROW = (DType.FP8, DType.FP8_BLOCK, DType.NVFP4)
_MOE_FORMATS = (DType.BF16, DType.FP8, DType.FP8_BLOCK, DType.NVFP4, DType.MXFP4)
_EXPANDED_FORMATS = (DType.INT4, DType.MXFP4)
_SAME_AS = {
    DType.FP16: DType.BF16,
    DType.FP32: DType.BF16,
    DType.INT4: DType.BF16,
    DType.MXFP8: DType.FP8,
    DType.INT8: DType.FP8,
    DType.MXFP4: DType.NVFP4,
}
_US = 1e-6
_TIMED_EAGER = ("vllm", DType.FP8_BLOCK)
"""Measured only without graph capture: the rows cannot tell this apart from host time."""

_GEMM = (
    ("launch_s", 2 * _US, 0.3 * _US, 10 * _US),
    ("memory_fraction", 0.8, 0.3, 1.0),
    ("sharpness", 2.1, 1.0, 8.0),
    ("rounding_fraction", 0.33, 0.02, 0.98),
    ("wave_s", 0.5 * _US, 0.01 * _US, 5 * _US),
    ("quantize_memory_fraction", 0.5, 0.05, 2.0),
    *((f"compute_fraction.{f}", 0.75, 0.1, 1.2) for f in _GEMM_FORMATS),
    *(
        (f"quantize_s.{e}.{f}", 3 * _US, 0.1 * _US, (6 if (e, f) == _TIMED_EAGER else 15) * _US)
        for e in ENGINES
        for f in _NARROW
    ),
)
_PREFILL = (
    ("launch_s", 12 * _US, 2 * _US, 30 * _US),
    ("compute_fraction", 0.7, 0.02, 1.0),
    ("gain_8bit", 1.5, 0.5, 2.0),
    ("exponential_s", 5e-11, 1e-12, 1e-9),
    ("block_s", 0.5 * _US, 0.01 * _US, 50 * _US),
    ("imbalance", 0.5, 0.01, 2.0),
    ("overlap", 2.0, 1.0, 8.0),
    ("waste_tokens", 32.0, 1.0, 1500.0),
    ("kv_fraction", 0.5, 0.03, 1.2),
    ("short_block_s", 1 * _US, 0.01 * _US, 50 * _US),
)
_DECODE = (
    ("launch_s", 12 * _US, 2 * _US, 25 * _US),
    ("memory_fraction", 0.9, 0.1, 1.2),
    ("memory_fraction_8bit", 0.8, 0.05, 1.2),
    ("compute_fraction", 0.4, 0.01, 1.0),
    ("compute_fraction_8bit", 0.4, 0.01, 1.0),
    ("padding_heads", 10.0, 0.1, 200.0),
    ("wide_penalty", 0.3, 0.01, 30.0),
    ("sharpness", 3.0, 1.0, 8.0),
    ("stream_s", 1 * _US, 0.05 * _US, 30 * _US),
    ("head_s", 0.1 * _US, 0.005 * _US, 5 * _US),
    ("serial_s", 1e-10, 1e-12, 5e-8),
)
_MOE = (
    ("launch_s", 20 * _US, 3 * _US, 80 * _US),
    ("memory_fraction", 0.8, 0.1, 1.2),
    ("sharpness", 2.0, 1.0, 8.0),
    ("tile_least_tokens", 16.0, 0.3, 128.0),
    ("tile_growth", 1.0, 0.05, 16.0),
    ("tile_most_tokens", 64.0, 8.0, 512.0),
    ("wave_s", 0.5 * _US, 0.02 * _US, 20 * _US),
    ("depth_s", 1e-9, 1e-11, 1e-8),
    ("activation_fraction", 0.5, 0.02, 1.2),
    ("foreign_share", 0.3, 0.001, 1.5),
    *((f"compute_fraction.{f}", 0.5, 0.03, 1.0) for f in _MOE_FORMATS),
    *((f"expanded_fraction.{f}", 0.4, 0.03, 1.0) for f in _EXPANDED_FORMATS),
)
_ASYNCHRONOUS = {"marlin": 0.0, "triton": 0.5}
"""Not fitted: Marlin issues warp-wide instructions; Triton's code lies between (others: 1)."""
_ALL_REDUCE = (
    ("launch_s", 4 * _US, 0.5 * _US, 30 * _US),
    ("member_s", 0.2 * _US, 0.001 * _US, 5 * _US),
    ("one_shot_fraction", 0.5, 0.05, 1.5),
    ("two_shot_s", 4 * _US, 0.1 * _US, 60 * _US),
    ("two_shot_fraction", 0.8, 0.05, 1.5),
    ("large_s", 30 * _US, 1 * _US, 120 * _US),
    ("large_fraction", 0.75, 0.05, 1.5),
    ("contention", 1.5, 0.5, 3.0),
)
_EXCHANGE = (
    ("exchange_launch_s", 8 * _US, 0.5 * _US, 60 * _US),
    ("exchange_member_s", 0.8 * _US, 0.001 * _US, 8 * _US),
    ("exchange_ramp_s", 15 * _US, 0.1 * _US, 300 * _US),
    ("exchange_ramp_bytes", 3e5, 1e4, 1e7),
    ("exchange_fraction", 0.6, 0.05, 1.5),
    ("contention", 1.5, 0.5, 3.0),
)
_STATE = (
    ("decode_launch_s", 8 * _US, 1 * _US, 60 * _US),
    ("decode_memory_fraction", 0.6, 0.05, 1.2),
    ("prefill_launch_s", 30 * _US, 2 * _US, 150 * _US),
    ("prefill_compute_fraction", 0.15, 0.01, 1.0),
    ("prefill_memory_fraction", 0.5, 0.03, 1.2),
)
_COPY_FRACTION = 0.85
"""Of bandwidth; without graph capture a message is first copied to a buffer that peers can read."""
_REST: dict[str, float] = {
    "launch_s": 0.0,
    "member_s": 0.0,
    "one_shot_fraction": 1.0,
    "two_shot_s": 0.0,
    "two_shot_fraction": 1.0,
    "large_s": 0.0,
    "large_fraction": 1.0,
    "contention": 1.0,
    "exchange_launch_s": 0.0,
    "exchange_member_s": 0.0,
    "exchange_ramp_s": 0.0,
    "exchange_ramp_bytes": 1.0,
    "exchange_fraction": 1.0,
    "scale_out_fraction": 0.8,
}


def _nested(values: dict[str, float]) -> dict[str, Any]:
    """``a.b.c`` keys as nested dicts."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        place = found
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    return found


def _all_formats(fractions: dict[str, float]) -> dict[DType, float]:
    found = {DType(name): value for name, value in fractions.items()}
    for other, like in _SAME_AS.items():
        found.setdefault(other, found[like])
    return found


def rates_of(operator: str, values: dict[str, float], kernel: str = "") -> Any:
    """The package's coefficients of an operator (all-reduce and exchange: see below)."""
    nested = _nested(values)
    if operator == "gemm":
        nested["compute_fraction"] = _all_formats(nested["compute_fraction"])
        nested["quantize_s"] = {
            engine: {DType(name): value for name, value in by_format.items()}
            for engine, by_format in nested["quantize_s"].items()
        }
        return GemmRates(**nested)
    if operator == "moe":
        nested["compute_fraction"] = _all_formats(nested["compute_fraction"])
        expanded = {DType(name): value for name, value in nested["expanded_fraction"].items()}
        nested["expanded_fraction"] = {f: expanded.get(f, expanded[DType.INT4]) for f in DType}
        return MoeRates(asynchronous=_ASYNCHRONOUS.get(kernel, 1.0), **nested)
    if operator == "state":
        return StateRates(**nested)
    return (PrefillRates if operator.endswith("prefill") else DecodeRates)(**nested)


def collective_rates(*parts: dict[str, float]) -> CollectiveRates:
    """All-reduce and exchange coefficients as one; the first part's ``contention`` stays."""
    merged = dict(_REST)
    for part in reversed(parts):
        merged.update(part)
    return CollectiveRates(**merged)


def _predict_gemm(group: Group, values: dict[str, float]) -> np.ndarray:
    rates = rates_of("gemm", values)
    s = group.sizes
    work = gemm_work(
        s["m"],
        s["n"],
        s["k"],
        how=s["how"],
        device=group.device,
        rates=rates,
        engine=group.engine,
    )
    return work.time_s


def _predict_prefill(group: Group, values: dict[str, float]) -> np.ndarray:
    rates, s = rates_of("prefill", values), group.sizes
    work = prefill_work(
        s["pairs"],
        s["new"],
        s["cached"],
        s["span"],
        s["shape"],
        device=group.device,
        rates=rates,
        short=s["short"],
    )
    return work.time_s


def _predict_decode(group: Group, values: dict[str, float]) -> np.ndarray:
    rates, s = rates_of("decode", values), group.sizes
    return decode_work(
        s["batch"], s["visible"], s["shape"], device=group.device, rates=rates
    ).time_s


def _predict_moe(group: Group, values: dict[str, float]) -> np.ndarray:
    rates, s = rates_of("moe", values, group.engine), group.sizes
    return grouped_work(
        s["load"], s["shape"], how=s["how"], device=group.device, rates=rates
    ).time_s


def _fabric(group: Group) -> Fabric:
    return Fabric(8, 1, group.device.scale_up, None)


def _predict_all_reduce(group: Group, values: dict[str, float]) -> np.ndarray:
    s = group.sizes
    rates = collective_rates(values)
    work = all_reduce_work(s["message"], _fabric(group), rates, members=s["members"])
    copied_bytes = s["copies"] * 2.0 * s["message"]
    return work.time_s + copied_bytes / (group.device.memory_bytes_per_s * _COPY_FRACTION)


def _predict_exchange(group: Group, values: dict[str, float]) -> np.ndarray:
    s = group.sizes
    rates = collective_rates(values)
    work = exchange_work(
        s["message"], _fabric(group), rates, members=s["members"], passes=s["passes"]
    )
    return work.time_s


def _predict_state(group: Group, values: dict[str, float]) -> np.ndarray:
    rates, s = rates_of("state", values), group.sizes
    work = state_decode_work if s["phase"] == "generation" else state_prefill_work
    return work(s["tokens"], s["shape"], device=group.device, rates=rates).time_s


MODELS = {
    "gemm": Model(name="gemm", coefficients=_GEMM, predict=_predict_gemm),
    "prefill": Model(name="prefill", coefficients=_PREFILL, predict=_predict_prefill),
    "decode": Model(name="decode", coefficients=_DECODE, predict=_predict_decode),
    "latent_prefill": Model(name="latent_prefill", coefficients=_PREFILL, predict=_predict_prefill),
    "latent_decode": Model(name="latent_decode", coefficients=_DECODE, predict=_predict_decode),
    "moe": Model(name="moe", coefficients=_MOE, predict=_predict_moe),
    "all_reduce": Model(name="all_reduce", coefficients=_ALL_REDUCE, predict=_predict_all_reduce),
    "exchange": Model(name="exchange", coefficients=_EXCHANGE, predict=_predict_exchange),
    "state": Model(name="state", coefficients=_STATE, predict=_predict_state),
}
