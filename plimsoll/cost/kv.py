"""What a sequence leaves in the cache: bytes a token that grow, and a state that does not.

Each layer falls in one of two kinds. *Growing* layers (full attention, latent attention,
compressed attention, indexer keys) keep something of every token. *Bounded* layers (sliding
window, chunked attention, linear attention, state space) hold at most a fixed number of bytes a
sequence. Byte counts are exact for the tensors the reference implementations cache:

- attention: ``kv_heads * (k_dim + v_dim)`` values a token, K only where one tensor is both;
- latent attention: ``kv_lora_rank + rope_dim`` values a token, for all heads together;
- compressed attention: one entry for ``kv_reduction`` tokens beside a short window, and, in
  fp32, the running sums of the block that is not yet complete;
- indexer keys: one byte a value and a 4-byte scale a key, whatever the KV format;
- linear attention and state space: the state in its own format, plus the convolution's last
  ``kernel - 1`` inputs in the activation format (bf16).

Tensor parallelism splits KV heads, state heads and state groups; where there are fewer of them
than devices they are replicated. Latent KV, compressed KV and indexer keys are the same on every
device. Left out: rounding up to whole blocks (``cost/memory.py`` does that) and alignment padding.
Source: arXiv 2405.04434 (latent), 2405.21060 (state space), 2412.06464 (gated delta rule),
2512.02556 (indexer, its fp8 keys).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from plimsoll.spec.dtype import DType
from plimsoll.spec.model import (
    Attention,
    Indexer,
    LatentAttention,
    LayerGroup,
    LinearAttention,
    Mixer,
    ModelSpec,
    StateSpace,
)
from plimsoll.spec.streams import PREFIX_TOKENS

__all__ = [
    "MixerCache",
    "groups_kv_bytes_per_token",
    "groups_state_bytes_per_sequence",
    "kv_bytes",
    "kv_bytes_per_token",
    "mixer_cache",
    "state_bytes_per_sequence",
]

_TAIL_BYTES = DType.BF16.bytes
_INDEX_SCALE_BYTES = 4.0
_SUM_BYTES = DType.FP32.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerCache:
    """What one layer caches for one sequence on one device.

    ``entry_bytes`` are kept once for every ``entry_tokens`` tokens, without bound;
    ``token_bytes`` for each token, without bound; ``bounded_token_bytes`` for the latest
    ``bound_tokens`` tokens; ``fixed_bytes`` always.
    """

    token_bytes: float = 0.0
    entry_bytes: float = 0.0
    entry_tokens: int = 1
    bounded_token_bytes: float = 0.0
    bound_tokens: int = 0
    fixed_bytes: float = 0.0

    @property
    def growth_bytes_per_token(self) -> float:
        """Bytes one more token adds in the long run."""
        return self.token_bytes + self.entry_bytes / self.entry_tokens

    @property
    def cap_bytes(self) -> float:
        """Bytes of everything that does not grow, once it is full."""
        return self.fixed_bytes + self.bounded_token_bytes * self.bound_tokens

    def bytes_at(self, num_tokens: int) -> float:
        """Bytes held after ``num_tokens`` tokens."""
        if num_tokens == 0:
            return 0.0
        return (
            self.fixed_bytes
            + self.token_bytes * num_tokens
            + self.entry_bytes * (num_tokens // self.entry_tokens)
            + self.bounded_token_bytes * min(num_tokens, self.bound_tokens)
        )


def _per_device(units: int, tp: int) -> int:
    return -(-units // tp)


def _index_bytes(indexer: Indexer | None) -> float:
    if indexer is None or indexer.shared:
        return 0.0
    return indexer.num_key_heads * (indexer.head_dim + _INDEX_SCALE_BYTES)


def _attention_cache(mixer: Attention, kv_dtype: DType, tp: int) -> MixerCache:
    if mixer.kv_from_layer_below:
        return MixerCache()
    values = 0 if mixer.keys_are_values else (mixer.v_head_dim or mixer.head_dim)
    kv_heads = _per_device(mixer.num_kv_heads, tp)
    token_bytes = kv_heads * (mixer.head_dim + values) * kv_dtype.bytes
    index_bytes = _index_bytes(mixer.indexer)
    if mixer.kv_reduction > 1:
        overlap = 2 if mixer.indexer is not None else 1
        dims = kv_heads * mixer.head_dim
        if mixer.indexer is not None:
            dims += mixer.indexer.num_key_heads * mixer.indexer.head_dim
        sums = 2 * (overlap * mixer.kv_reduction) * (overlap * dims) * _SUM_BYTES
        return MixerCache(
            entry_bytes=token_bytes + index_bytes,
            entry_tokens=mixer.kv_reduction,
            bounded_token_bytes=token_bytes if mixer.window else 0.0,
            bound_tokens=mixer.window,
            fixed_bytes=sums,
        )
    limits = [limit for limit in (mixer.window, mixer.chunk) if limit]
    if limits:
        return MixerCache(
            token_bytes=index_bytes, bounded_token_bytes=token_bytes, bound_tokens=min(limits)
        )
    return MixerCache(token_bytes=token_bytes + index_bytes)


def mixer_cache(mixer: Mixer, kv_dtype: DType, tp: int = 1) -> MixerCache:
    """What a layer with this mixer caches on one of ``tp`` devices."""
    if isinstance(mixer, Attention):
        return _attention_cache(mixer, kv_dtype, tp)
    if isinstance(mixer, LatentAttention):
        latent = (mixer.kv_lora_rank + mixer.qk_rope_head_dim) * kv_dtype.bytes
        return MixerCache(token_bytes=latent + _index_bytes(mixer.indexer))
    if isinstance(mixer, LinearAttention):
        k_heads = _per_device(mixer.num_k_heads, tp)
        v_heads = _per_device(mixer.num_v_heads, tp)
        state = v_heads * mixer.head_k_dim * mixer.head_v_dim * mixer.state_dtype.bytes
        channels = 2 * k_heads * mixer.head_k_dim + v_heads * mixer.head_v_dim
        tail = max(mixer.conv_kernel - 1, 0) * channels * _TAIL_BYTES
        return MixerCache(fixed_bytes=state + tail)
    if isinstance(mixer, StateSpace):
        inner = _per_device(mixer.num_heads, tp) * mixer.head_dim
        state = inner * mixer.state_size * mixer.state_dtype.bytes
        channels = inner + 2 * _per_device(mixer.num_groups, tp) * mixer.state_size
        tail = max(mixer.conv_kernel - 1, 0) * channels * _TAIL_BYTES
        return MixerCache(fixed_bytes=state + tail)
    return MixerCache()


def groups_kv_bytes_per_token(groups: Iterable[LayerGroup], kv_dtype: DType, tp: int = 1) -> float:
    """Bytes a token that ``groups`` of layers keep without bound, on one of ``tp`` devices."""
    return sum(
        group.count * mixer_cache(group.layer.mixer, kv_dtype, tp).growth_bytes_per_token
        for group in groups
    )


def groups_state_bytes_per_sequence(
    groups: Iterable[LayerGroup], kv_dtype: DType, tp: int = 1
) -> float:
    """Bytes a sequence that ``groups`` hold at most beside what grows, on one of ``tp``."""
    return sum(
        group.count * mixer_cache(group.layer.mixer, kv_dtype, tp).cap_bytes for group in groups
    )


def kv_bytes_per_token(model: ModelSpec, kv_dtype: DType, tp: int = 1) -> float:
    """Bytes each further token of a long sequence adds to the cache of one of ``tp`` devices, in
    all streams.

    Llama-3.1-70B in bf16: 80 layers x 2 x 8 heads x 128 x 2 B = 327,680 B.
    """
    return model.streams * groups_kv_bytes_per_token(model.layers, kv_dtype, tp)


def state_bytes_per_sequence(model: ModelSpec, kv_dtype: DType, tp: int = 1) -> float:
    """Bytes of bounded layers at their cap, and of fixed states, on one of ``tp`` devices."""
    return model.streams * groups_state_bytes_per_sequence(model.layers, kv_dtype, tp)


def kv_bytes(model: ModelSpec, num_tokens: int, kv_dtype: DType, tp: int = 1) -> float:
    """Exact bytes one sequence of ``num_tokens`` holds on one of ``tp`` devices.

    With P streams those of P * (``num_tokens`` + 48) tokens. Else never more than ``num_tokens *
    kv_bytes_per_token + state_bytes_per_sequence``.
    """
    if num_tokens and model.streams > 1:
        num_tokens += PREFIX_TOKENS
    return model.streams * sum(
        group.count * mixer_cache(group.layer.mixer, kv_dtype, tp).bytes_at(num_tokens)
        for group in model.layers
    )
