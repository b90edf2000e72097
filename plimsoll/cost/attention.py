"""Time of softmax attention on one device: prompt chunks with a cached prefix, and decodes.

Decode reads every visible cached token once, so bytes bind, with arithmetic beside it where many
query heads share a KV head (latent attention: all of them), and work per stream where sequences
are short. Prefill multiplies every visible (query, key) pair and takes its exponential; blocks of
128 queries are spread over the cores, the longest block stands partly alone, and chunks shorter
than a block leave part of it idle. A window, an aligned chunk or a sparse indexer limits what is
visible; the indexer itself scores the whole context. Leaves out differences in length inside a
decode batch.
Source: arXiv 2205.14135, 2307.08691, 2407.08608, 2405.04434; library/calibration/kernels.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.attention_shape import AttentionShape
from plimsoll.cost.efficiency import DecodeRates, PrefillRates, latency_scale
from plimsoll.cost.roofline import Floats, Work
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device

__all__ = [
    "PrefillLine",
    "decode_work",
    "half_peak",
    "prefill_line",
    "prefill_work",
    "visible_context",
    "visible_pairs",
]

_BLOCK = 128.0
_WIDE_HEADS = 32.0
_STREAM_FRACTION = 0.8
"""Share of bandwidth that queries, outputs and cached tokens move at; not fitted."""


def half_peak(device: Device) -> float:
    """FLOP/s of 16-bit matrix multiplies (of fp32 where nothing smaller is listed)."""
    peaks = device.peak_flops_per_s
    for dtype in (DType.BF16, DType.FP16, DType.FP32):
        if dtype in peaks:
            return peaks[dtype]
    return device.flops_per_s(DType.BF16)


def visible_context(batch: float, context: Floats, shape: AttentionShape) -> Floats:
    """Total tokens that ``batch`` decodes with ``context`` in all attend to."""
    return np.minimum(context, batch * shape.limit) if shape.limit else context


def decode_work(
    batch: float | Floats,
    visible: Floats,
    shape: AttentionShape,
    *,
    device: Device,
    rates: DecodeRates,
) -> Work:
    """One new token for each of ``batch`` sequences that see ``visible`` tokens in all."""
    scale = latency_scale(device)
    wide = shape.value_bytes > 1.5
    tokens = visible * shape.streams / shape.tokens_per_entry
    streams = batch * shape.streams
    flops = tokens * shape.group * shape.pair_flops
    moved = tokens * shape.stream_values * shape.value_bytes
    queries = batch * shape.query_bytes
    memory_fraction = np.where(wide, rates.memory_fraction, rates.memory_fraction_8bit)
    compute_fraction = np.where(wide, rates.compute_fraction, rates.compute_fraction_8bit)
    heads = (
        shape.group
        + rates.padding_heads
        + rates.wide_penalty * np.maximum(0.0, shape.group - _WIDE_HEADS)
    )
    bandwidth = device.memory_bytes_per_s
    memory_s = moved / (bandwidth * memory_fraction) + queries / (bandwidth * _STREAM_FRACTION)
    compute_s = tokens * heads * shape.pair_flops / (half_peak(device) * compute_fraction)
    core_s = (rates.stream_s + rates.head_s * shape.group) * streams * scale / device.num_cores
    serial_s = rates.serial_s * scale * visible / batch * shape.stream_values / 256.0
    p = rates.sharpness
    top = np.maximum(np.maximum(memory_s, compute_s), np.maximum(core_s, 1e-30))
    joint_s = top * ((memory_s / top) ** p + (compute_s / top) ** p + (core_s / top) ** p) ** (
        1.0 / p
    )
    launch_s = rates.launch_s * scale
    time_s = launch_s + joint_s + serial_s
    return Work(time_s, flops, moved + queries, compute_s, memory_s, launch_s)


def visible_pairs(new: int, cached: int, limit: int, chunk: bool = False) -> float:
    """(query, key) pairs of ``new`` tokens after ``cached`` ones, each seeing itself and before.

    ``limit`` > 0 lets a query see that many latest tokens; with ``chunk`` it sees back to the
    start of its own aligned chunk of that length.
    """
    if limit == 0:
        return new * (cached + 0.5 * (new + 1))
    if chunk:
        return _chunk_pairs(cached + new, limit) - _chunk_pairs(cached, limit)
    growing = min(new, max(0, limit - cached))
    return growing * (cached + 0.5 * (growing + 1)) + (new - growing) * limit


def _chunk_pairs(tokens: int, chunk: int) -> float:
    whole, rest = divmod(tokens, chunk)
    return 0.5 * (whole * chunk * (chunk + 1) + rest * (rest + 1))


class PrefillLine(NamedTuple):
    """Prompt attention of one layer as a plane: seconds fixed, and per pair, new token, cached
    token, and token of the longest span (tokens one block of queries sees)."""

    fixed_s: float
    pair_s: float
    new_s: float
    cached_s: float
    span_s: float


def prefill_line(shape: AttentionShape, *, device: Device, rates: PrefillRates) -> PrefillLine:
    """The coefficients of prompt attention for one layer on one device."""
    scale = latency_scale(device)
    cores = device.num_cores
    narrow = shape.narrow_math * (shape.value_bytes < 1.5)
    gain = 1.0 + (rates.gain_8bit - 1.0) * narrow
    peak = half_peak(device) * rates.compute_fraction * gain
    matrix_s = shape.prefill_flops / peak * cores
    exponential_s = rates.exponential_s * scale
    p = rates.overlap
    score_s = (matrix_s**p + exponential_s**p) ** (1.0 / p)
    bandwidth = device.memory_bytes_per_s * _STREAM_FRACTION
    heads_per_core = shape.heads / cores
    pair_s = heads_per_core * score_s / shape.tokens_per_entry
    new_s = (
        heads_per_core * (rates.waste_tokens * score_s + rates.block_s * scale / _BLOCK)
        + shape.query_bytes / bandwidth
        + shape.prefill_kv_bytes / (device.memory_bytes_per_s * rates.kv_fraction)
    )
    cached_s = (
        shape.expand_flops / (half_peak(device) * rates.compute_fraction)
        + shape.prefill_kv_bytes / bandwidth
    )
    span_s = rates.imbalance * _BLOCK * score_s / shape.tokens_per_entry
    return PrefillLine(rates.launch_s * scale, pair_s, new_s, cached_s, span_s)


def prefill_work(
    pairs: float | Floats,
    new: float | Floats,
    cached: float | Floats,
    span: float | Floats,
    shape: AttentionShape,
    *,
    device: Device,
    rates: PrefillRates,
    short: float | Floats = 0.0,
) -> Work:
    """Prompt chunks of one step together: totals of visible pairs, new and cached tokens.

    ``span`` is the most tokens that one query of any chunk sees; ``short`` how many tokens the
    chunks are short of a block of 128 queries, in all.
    """
    line = prefill_line(shape, device=device, rates=rates)
    compute_s = np.asarray(line.pair_s * pairs + line.span_s * span)
    idle_s = rates.short_block_s * latency_scale(device) * short / _BLOCK
    idle_s = idle_s * shape.heads / device.num_cores
    memory_s = np.asarray(line.new_s * new + line.cached_s * cached + idle_s)
    scored = pairs * shape.heads / shape.tokens_per_entry
    flops = np.asarray(scored * shape.prefill_flops + cached * shape.expand_flops)
    moved = np.asarray((new + cached) * shape.prefill_kv_bytes + new * shape.query_bytes)
    return Work(
        line.fixed_s + compute_s + memory_s, flops, moved, compute_s, memory_s, line.fixed_s
    )
