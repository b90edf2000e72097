"""One attention layer as one device sees it after tensor parallelism.

KV heads are divided over the devices of a group; where there are fewer of them than devices they
are copied. Latent attention keeps one vector a token whatever the heads, so every device reads all
of it; its prompts unfold the latent into per-head keys and values first. Compressed attention
keeps one entry for several tokens beside a window of plain ones.
Source: arXiv 2305.13245 (grouped heads), 2405.04434 (latent), 2512.02556 (indexer).
"""

from typing import NamedTuple

from plimsoll.spec.dtype import DType
from plimsoll.spec.model import Attention, Indexer, LatentAttention

__all__ = ["AttentionShape", "attention_shapes", "indexer_shape"]


class AttentionShape(NamedTuple):
    """Sizes of one kernel. A stream is one KV head; ``group`` query heads share it.

    ``pair_flops`` and ``prefill_flops`` are of one query head and one key; ``query_bytes`` what
    a new token's queries and outputs move; ``expand_flops`` what a cached token costs a prompt
    chunk that must unfold it. ``limit`` tokens are visible at most (0: all); ``chunk`` marks
    aligned chunks. ``narrow_math``: an 8-bit cache also multiplies in 8 bits in prompts.
    """

    heads: float
    streams: float
    group: float
    stream_values: float
    value_bytes: float
    pair_flops: float
    prefill_flops: float
    query_bytes: float
    prefill_kv_bytes: float
    expand_flops: float = 0.0
    limit: int = 0
    chunk: bool = False
    tokens_per_entry: float = 1.0
    narrow_math: bool = False

    @property
    def kv_bytes(self) -> float:
        """Bytes one visible token holds on this device."""
        return self.streams * self.stream_values * self.value_bytes / self.tokens_per_entry


def attention_shapes(
    mixer: Attention | LatentAttention, *, tp: int, kv_dtype: DType
) -> tuple[AttentionShape, ...]:
    """The kernels of one layer on one of ``tp`` devices (two where KV is also compressed)."""
    heads = float(-(-mixer.num_heads // tp))
    if isinstance(mixer, LatentAttention):
        return (_latent(mixer, heads, kv_dtype),)
    streams = float(-(-mixer.num_kv_heads // tp))
    v_dim = mixer.v_head_dim or mixer.head_dim
    values = mixer.head_dim if mixer.keys_are_values else mixer.head_dim + v_dim
    flops = 2.0 * (mixer.head_dim + v_dim)
    limits = [limit for limit in (mixer.window, mixer.chunk) if limit]
    top_k = mixer.indexer.top_k if mixer.indexer is not None else 0
    plain = AttentionShape(
        heads=heads,
        streams=streams,
        group=heads / streams,
        stream_values=float(values),
        value_bytes=kv_dtype.bytes,
        pair_flops=flops,
        prefill_flops=flops,
        query_bytes=2.0 * heads * (mixer.head_dim + v_dim),
        prefill_kv_bytes=2.0 * streams * values,
        limit=min(limits, default=0 if mixer.kv_reduction > 1 else top_k),
        chunk=mixer.chunk > 0 and mixer.window == 0,
        narrow_math=True,
    )
    if mixer.kv_reduction == 1:
        return (plain,)
    packed = plain._replace(
        tokens_per_entry=float(mixer.kv_reduction),
        limit=top_k * mixer.kv_reduction,
        chunk=False,
        query_bytes=0.0,
        prefill_kv_bytes=plain.prefill_kv_bytes / mixer.kv_reduction,
    )
    return (plain, packed) if plain.limit else (packed,)


def _latent(mixer: LatentAttention, heads: float, kv_dtype: DType) -> AttentionShape:
    latent = mixer.kv_lora_rank + mixer.qk_rope_head_dim
    qk = mixer.qk_nope_head_dim + mixer.qk_rope_head_dim
    unfolded = mixer.qk_nope_head_dim + mixer.v_head_dim
    return AttentionShape(
        heads=heads,
        streams=1.0,
        group=heads,
        stream_values=float(latent),
        value_bytes=kv_dtype.bytes,
        pair_flops=2.0 * (latent + mixer.kv_lora_rank),
        prefill_flops=2.0 * (qk + mixer.v_head_dim),
        query_bytes=2.0 * heads * (qk + mixer.v_head_dim),
        prefill_kv_bytes=2.0 * heads * (qk + mixer.v_head_dim),
        expand_flops=2.0 * heads * mixer.kv_lora_rank * unfolded,
        limit=mixer.indexer.top_k if mixer.indexer is not None else 0,
    )


def indexer_shape(indexer: Indexer) -> AttentionShape:
    """The scorer of sparse attention: every head meets every cached key; nothing is summed.

    Indexers are not divided by tensor parallelism; their keys are cached in 8 bits.
    """
    flops = 2.0 * indexer.head_dim
    keys = float(indexer.num_key_heads * indexer.head_dim)
    return AttentionShape(
        heads=float(indexer.num_heads),
        streams=float(indexer.num_key_heads),
        group=indexer.num_heads / indexer.num_key_heads,
        stream_values=float(indexer.head_dim),
        value_bytes=DType.FP8.bytes,
        pair_flops=flops,
        prefill_flops=flops,
        query_bytes=2.0 * indexer.num_heads * indexer.head_dim,
        prefill_kv_bytes=keys,
        tokens_per_entry=float(indexer.block_tokens),
        narrow_math=True,
    )
