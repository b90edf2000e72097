"""The matrices of a token mixer: attention, latent attention, linear attention, state space.

Counts follow the reference implementations. A :class:`Weight` also says how tensor and expert
parallelism cut it. Left out: buffers (rotary tables, masks).
Source: arXiv 2405.04434 (latent attention), 2405.21060 (Mamba-2), 2412.06464 (gated delta rule),
2510.26692 (decay per channel), 2512.02556 (indexer).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from plimsoll.spec.model import (
    Attention,
    Indexer,
    LatentAttention,
    LinearAttention,
    Mixer,
    StateSpace,
)

__all__ = ["Cut", "Part", "Weight", "mixer_weights"]

Part = Literal[
    "mixer",
    "mixer-output",
    "ffn",
    "experts",
    "shared-experts",
    "router",
    "norms",
    "embedding",
    "lm-head",
    "vision",
    "other",
]
Cut = Literal["whole", "split", "units", "experts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One matrix, or several that are stored and cut alike.

    ``cut`` says what tensor parallelism of degree t leaves on a device: ``whole`` everything,
    ``split`` a t-th, ``units`` ``ceil(units / t)`` of ``units`` (KV heads, which replicate when
    there are fewer than t), ``experts`` its share of ``units`` experts and of their width.
    ``active`` is the fraction of the parameters that one token multiplies.
    """

    name: str
    part: Part
    parameters: int
    cut: Cut = "split"
    units: int = 1
    active: float = 1.0


def _indexer_weights(
    indexer: Indexer, hidden: int, query_rank: int, *, pooled_keys: bool = False
) -> Iterator[Weight]:
    """Queries, head weights and keys; pooled keys come from a compressor of their own."""
    if indexer.shared:
        return
    scores = (query_rank or hidden) * indexer.head_dim * indexer.num_heads
    scores += hidden * indexer.num_heads
    yield Weight(name="indexer", part="mixer", parameters=scores, cut="whole")
    if not pooled_keys:
        keys = indexer.num_key_heads * indexer.head_dim
        yield Weight(name="indexer keys", part="mixer", parameters=hidden * keys, cut="whole")
        yield Weight(name="indexer norm", part="norms", parameters=2 * keys, cut="whole")


def _attention_weights(mixer: Attention, hidden: int) -> Iterator[Weight]:
    v_dim = mixer.v_head_dim or mixer.head_dim
    queries, keys = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
    values, outputs = mixer.num_kv_heads * v_dim, mixer.num_heads * v_dim
    no_values = mixer.keys_are_values or mixer.values_from_keys
    if mixer.q_lora_rank:
        down = Weight(
            name="query down", part="mixer", parameters=hidden * mixer.q_lora_rank, cut="whole"
        )
        yield down
        yield Weight(name="query norm", part="norms", parameters=mixer.q_lora_rank, cut="whole")
    projected = queries + (outputs if mixer.output_gate else 0)
    yield Weight(
        name="query",
        part="mixer",
        parameters=(mixer.q_lora_rank or hidden) * projected + (projected if mixer.qkv_bias else 0),
    )
    if not mixer.kv_from_layer_below:
        width = keys if no_values else keys + values
        yield Weight(
            name="key and value",
            part="mixer",
            parameters=hidden * width + (width if mixer.qkv_bias else 0),
            cut="units",
            units=mixer.num_kv_heads,
        )
    if mixer.o_lora_rank:
        low = mixer.o_groups * mixer.o_lora_rank
        first = outputs // mixer.o_groups * low
        yield Weight(name="output down", part="mixer-output", parameters=first)
        yield Weight(name="output", part="mixer-output", parameters=low * hidden)
    else:
        yield Weight(
            name="output",
            part="mixer-output",
            parameters=outputs * hidden + (hidden if mixer.output_bias else 0),
        )
    if mixer.kv_reduction > 1:
        yield from _compressor_weights(mixer, hidden)
    small = (2 * mixer.head_dim if mixer.qk_norm else 0) + (mixer.num_heads if mixer.sinks else 0)
    if small:
        yield Weight(name="head norms and sinks", part="norms", parameters=small, cut="whole")
    if mixer.indexer is not None:
        pooled = mixer.kv_reduction > 1
        yield from _indexer_weights(mixer.indexer, hidden, mixer.q_lora_rank, pooled_keys=pooled)


def _compressor_weights(mixer: Attention, hidden: int) -> Iterator[Weight]:
    """Pooling of ``kv_reduction`` tokens into one entry: values, gates, positions.

    Compression by few tokens overlaps its blocks, which doubles the width of the projections;
    that is where an indexer is needed as well, and it pools its keys in the same way.
    """
    overlap = 2 if mixer.indexer is not None else 1
    dims = [mixer.num_kv_heads * mixer.head_dim]
    if mixer.indexer is not None:
        dims.append(mixer.indexer.num_key_heads * mixer.indexer.head_dim)
    for dim in dims:
        width = overlap * dim
        yield Weight(
            name="compressor",
            part="mixer",
            parameters=2 * hidden * width + mixer.kv_reduction * width,
            cut="whole",
        )
        yield Weight(name="compressor norm", part="norms", parameters=dim, cut="whole")


def _latent_weights(mixer: LatentAttention, hidden: int) -> Iterator[Weight]:
    heads = mixer.num_heads
    query_width = heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim)
    if mixer.q_lora_rank:
        yield Weight(
            name="query down", part="mixer", parameters=hidden * mixer.q_lora_rank, cut="whole"
        )
    yield Weight(name="query", part="mixer", parameters=(mixer.q_lora_rank or hidden) * query_width)
    yield Weight(
        name="key and value down",
        part="mixer",
        parameters=hidden * (mixer.kv_lora_rank + mixer.qk_rope_head_dim),
        cut="whole",
    )
    up = heads * (mixer.qk_nope_head_dim + mixer.v_head_dim)
    yield Weight(name="key and value up", part="mixer", parameters=mixer.kv_lora_rank * up)
    outputs = heads * mixer.v_head_dim
    if mixer.output_gate:
        yield Weight(name="output gate", part="mixer", parameters=hidden * outputs)
    yield Weight(name="output", part="mixer-output", parameters=outputs * hidden)
    norms = mixer.q_lora_rank + mixer.kv_lora_rank
    yield Weight(name="latent norms", part="norms", parameters=norms, cut="whole")
    if mixer.indexer is not None:
        yield from _indexer_weights(mixer.indexer, hidden, mixer.q_lora_rank)


def _linear_weights(mixer: LinearAttention, hidden: int) -> Iterator[Weight]:
    keys = mixer.num_k_heads * mixer.head_k_dim
    values = mixer.num_v_heads * mixer.head_v_dim
    yield Weight(name="query, key, value", part="mixer", parameters=hidden * (2 * keys + values))
    if mixer.output_gate:
        gate = hidden * values
        if mixer.gate_rank:
            gate = (hidden + values) * mixer.gate_rank
        yield Weight(name="output gate", part="mixer", parameters=gate)
    decays = mixer.num_v_heads * (mixer.head_k_dim if mixer.per_channel_decay else 1)
    decay = hidden * decays
    if mixer.decay_rank:
        decay = (hidden + decays) * mixer.decay_rank
    rates = hidden * mixer.num_v_heads + mixer.num_v_heads + decays
    yield Weight(name="decay and write strength", part="mixer", parameters=decay + rates)
    convolution = (2 * keys + values) * mixer.conv_kernel
    yield Weight(name="convolution", part="mixer", parameters=convolution)
    yield Weight(name="output norm", part="norms", parameters=mixer.head_v_dim, cut="whole")
    yield Weight(name="output", part="mixer-output", parameters=values * hidden)


def _state_space_weights(mixer: StateSpace, hidden: int) -> Iterator[Weight]:
    inner = mixer.num_heads * mixer.head_dim
    shared = 2 * mixer.num_groups * mixer.state_size
    bias = 1 if mixer.projection_bias else 0
    taps = mixer.conv_kernel + (1 if mixer.conv_bias and mixer.conv_kernel else 0)
    yield Weight(
        name="input",
        part="mixer",
        parameters=(hidden + bias) * (2 * inner + mixer.num_heads) + inner * taps,
    )
    yield Weight(
        name="state input and output",
        part="mixer",
        parameters=(hidden + bias + taps) * shared,
        cut="units",
        units=mixer.num_groups,
    )
    yield Weight(name="rates and skips", part="mixer", parameters=3 * mixer.num_heads)
    yield Weight(name="output norm", part="norms", parameters=inner)
    yield Weight(
        name="output", part="mixer-output", parameters=inner * hidden + (hidden if bias else 0)
    )


def mixer_weights(mixer: Mixer, hidden: int) -> Iterator[Weight]:
    """Every matrix of a mixer in a model of width ``hidden``; nothing where there is no mixer."""
    if isinstance(mixer, Attention):
        yield from _attention_weights(mixer, hidden)
    elif isinstance(mixer, LatentAttention):
        yield from _latent_weights(mixer, hidden)
    elif isinstance(mixer, LinearAttention):
        yield from _linear_weights(mixer, hidden)
    elif isinstance(mixer, StateSpace):
        yield from _state_space_weights(mixer, hidden)
