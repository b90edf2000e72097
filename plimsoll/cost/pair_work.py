"""What two tokens cost each other in one layer: the least work of attention, whole model.

A few numbers a kernel: FLOPs of a visible (query, key) pair in decode and in prefill, bytes of a
cached token, and how far a query sees. Indexers score every earlier token and count as a kernel
of their own. Compressed caches divide by the tokens of an entry. Layers with a state of fixed
size multiply it per token instead: once to write, once to read, and once more to correct it under
the delta rule. Sizes come from ``cost/attention_shape.py`` on one device; what kernels reach of
them, and chunked forms that multiply more, are not asked here.
Source: arXiv 2405.08944 (the floor), 2405.04434 (latent attention), 2412.06464 (delta rule).
"""

from typing import NamedTuple

from plimsoll.cost.attention import visible_pairs
from plimsoll.cost.attention_shape import AttentionShape, attention_shapes, indexer_shape
from plimsoll.spec.dtype import DType
from plimsoll.spec.model import Attention, LatentAttention, LinearAttention, StateSpace

__all__ = ["PairWork", "pair_work", "state_flops"]


class PairWork(NamedTuple):
    """One attention kernel of one layer; ``limit`` 0: a query sees everything before it."""

    decode_flops: float
    prefill_flops: float
    token_bytes: float
    limit: int
    chunk: bool
    scores_only: bool

    def prefill_pairs(self, num_tokens: int) -> float:
        """Visible pairs of a whole prompt, each token with itself and those before."""
        return visible_pairs(num_tokens, 0, self.limit, self.chunk)


def _of(shape: AttentionShape, *, scores_only: bool) -> PairWork:
    per_entry = float(shape.heads) / shape.tokens_per_entry
    return PairWork(
        decode_flops=per_entry * float(shape.pair_flops),
        prefill_flops=per_entry * float(shape.prefill_flops),
        token_bytes=float(shape.kv_bytes),
        limit=int(shape.limit),
        chunk=shape.chunk,
        scores_only=scores_only,
    )


def pair_work(mixer: Attention | LatentAttention, kv_dtype: DType) -> tuple[PairWork, ...]:
    """The kernels of a layer with this mixer, its indexer last."""
    shapes = attention_shapes(mixer, tp=1, kv_dtype=kv_dtype)
    parts = [_of(shape, scores_only=False) for shape in shapes]
    if mixer.indexer is not None and not mixer.indexer.shared:
        parts.append(_of(indexer_shape(mixer.indexer), scores_only=True))
    return tuple(parts)


def state_flops(mixer: LinearAttention | StateSpace) -> float:
    """FLOPs of one token with the state of one layer."""
    if isinstance(mixer, LinearAttention):
        return 6.0 * mixer.num_v_heads * mixer.head_k_dim * mixer.head_v_dim
    return 4.0 * mixer.num_heads * mixer.head_dim * mixer.state_size
