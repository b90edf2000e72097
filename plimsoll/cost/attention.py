"""Time of softmax attention on one device: prompt chunks with a cached prefix, and decodes.

Decode reads every visible cached token once, so bytes bind, with arithmetic beside it when many
query heads share a KV head (MLA: all of them). Prefill multiplies every visible (query, key)
pair. A window, a chunk or a sparse indexer limits what is visible; the indexer itself scores the
whole context. Sequences of a batch are taken at their mean length.
Leaves out differences in length inside a batch. Source: arXiv 2205.14135, 2307.08691, 2405.04434.
"""

from typing import NamedTuple

import numpy as np

from plimsoll.cost.efficiency import AttentionRates
from plimsoll.cost.roofline import Floats, Work, soft_maximum
from plimsoll.spec.dtype import DType
from plimsoll.spec.hardware import Device
from plimsoll.spec.model import Attention, Indexer, LatentAttention

__all__ = [
    "AttentionShape",
    "attention_shape",
    "decode_work",
    "indexer_shape",
    "prefill_work",
    "visible_pairs",
]


class AttentionShape(NamedTuple):
    """One attention layer as one device sees it, after tensor parallelism.

    ``decode_flops`` and ``prefill_flops`` are of one (query token, key token) pair, all heads;
    ``kv_bytes`` what a cached token holds; ``query_bytes`` what a query token reads and writes;
    ``expand_flops`` what a cached token costs a prompt chunk that must unfold it (MLA).
    ``limit`` tokens are visible at most (0: all); ``chunk`` marks aligned chunks.
    """

    decode_flops: float
    prefill_flops: float
    kv_bytes: float
    query_bytes: float
    expand_flops: float
    limit: int
    chunk: bool
    streams: float
    """Independent (KV head) streams of one sequence."""


def attention_shape(
    mixer: Attention | LatentAttention, *, tp: int, kv_dtype: DType
) -> AttentionShape:
    """The layer's share on one of ``tp`` devices; KV heads fewer than ``tp`` are copied."""
    heads = -(-mixer.num_heads // tp)
    if isinstance(mixer, LatentAttention):
        latent = mixer.kv_lora_rank + mixer.qk_rope_head_dim
        qk = mixer.qk_nope_head_dim + mixer.qk_rope_head_dim
        top_k = mixer.indexer.top_k if mixer.indexer is not None else 0
        unfolded = mixer.qk_nope_head_dim + mixer.v_head_dim
        return AttentionShape(
            decode_flops=2.0 * heads * (latent + mixer.kv_lora_rank),
            prefill_flops=2.0 * heads * (qk + mixer.v_head_dim),
            kv_bytes=latent * kv_dtype.bytes,
            query_bytes=2.0 * heads * (qk + mixer.v_head_dim),
            expand_flops=2.0 * heads * mixer.kv_lora_rank * unfolded,
            limit=top_k,
            chunk=False,
            streams=1.0,
        )
    kv_heads = max(1.0, mixer.num_kv_heads / tp)
    v_dim = mixer.v_head_dim or mixer.head_dim
    stored = mixer.head_dim if mixer.keys_are_values else mixer.head_dim + v_dim
    flops = 2.0 * heads * (mixer.head_dim + v_dim) / mixer.kv_reduction
    limits = [n for n in (mixer.window, mixer.chunk) if n]
    if mixer.indexer is not None:
        limits.append(mixer.indexer.top_k)
    return AttentionShape(
        decode_flops=flops,
        prefill_flops=flops,
        kv_bytes=kv_heads * stored * kv_dtype.bytes / mixer.kv_reduction,
        query_bytes=2.0 * heads * (mixer.head_dim + v_dim),
        expand_flops=0.0,
        limit=min(limits, default=0),
        chunk=mixer.chunk > 0 and mixer.window == 0,
        streams=kv_heads,
    )


def indexer_shape(indexer: Indexer) -> AttentionShape:
    """The scorer of sparse attention: every head meets every cached key; nothing is summed.

    Indexers are not divided by tensor parallelism; their keys are cached in 8 bits.
    """
    flops = 2.0 * indexer.num_heads * indexer.head_dim / indexer.block_tokens
    keys = indexer.num_key_heads * indexer.head_dim * DType.FP8.bytes / indexer.block_tokens
    return AttentionShape(
        decode_flops=flops,
        prefill_flops=flops,
        kv_bytes=keys,
        query_bytes=2.0 * indexer.num_heads * indexer.head_dim,
        expand_flops=0.0,
        limit=0,
        chunk=False,
        streams=1.0,
    )


def _half_peak(device: Device) -> float:
    peaks = device.peak_flops_per_s
    for dtype in (DType.BF16, DType.FP16, DType.FP32):
        if dtype in peaks:
            return peaks[dtype]
    return device.flops_per_s(DType.BF16)


def decode_work(
    batch: float, context: Floats, shape: AttentionShape, *, device: Device, rates: AttentionRates
) -> Work:
    """One new token for each of ``batch`` sequences, for an array of total contexts."""
    visible = np.minimum(context, batch * shape.limit) if shape.limit else context
    flops = visible * shape.decode_flops
    moved = visible * shape.kv_bytes + batch * shape.query_bytes
    compute_s = flops / (_half_peak(device) * rates.decode_compute_fraction)
    memory_s = moved / (device.memory_bytes_per_s * rates.decode_memory_fraction)
    time_s = rates.decode_launch_s + soft_maximum(compute_s, memory_s, rates.sharpness)
    return Work(time_s, flops, moved, compute_s, memory_s, rates.decode_launch_s)


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


def prefill_work(
    pairs: Floats,
    new: Floats,
    cached: Floats,
    shape: AttentionShape,
    *,
    device: Device,
    rates: AttentionRates,
) -> Work:
    """Prompt chunks of one step together: totals of visible pairs, new and cached tokens."""
    flops = pairs * shape.prefill_flops + cached * shape.expand_flops
    moved = (new + cached) * shape.kv_bytes + new * shape.query_bytes
    compute_s = flops / (_half_peak(device) * rates.prefill_compute_fraction)
    memory_s = moved / (device.memory_bytes_per_s * rates.prefill_memory_fraction)
    time_s = rates.prefill_launch_s + compute_s + memory_s
    return Work(time_s, flops, moved, compute_s, memory_s, rates.prefill_launch_s)
