"""What a model is, layer by layer: shapes and number formats, never a family name.

A model is a run-length list of identical layers. A layer is a *mixer* (how tokens exchange
information: attention, latent attention, linear attention, state space, or none) and a
feed-forward part (dense, mixture of experts, or none). Everything a cost or memory question
needs follows from these shapes; ``spec/parameters.py`` counts them.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plimsoll.spec.dtype import DType
from plimsoll.spec.io import PLAIN

__all__ = [
    "Attention",
    "DenseFfn",
    "Ffn",
    "Indexer",
    "LatentAttention",
    "Layer",
    "LayerFormats",
    "LayerGroup",
    "LinearAttention",
    "Mixer",
    "ModelSpec",
    "MoeFfn",
    "NoFfn",
    "NoMixer",
    "Quantization",
    "StateSpace",
    "VisionTower",
]

Positive = Annotated[int, Field(gt=0, le=2**40)]
NotNegative = Annotated[int, Field(ge=0, le=2**40)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """Sparse attention: a light scorer picks ``top_k`` earlier tokens a query attends to.

    Its own keys are cached: ``num_key_heads * head_dim`` values a token.
    ``shared`` layers reuse the choice of the layer before and hold no indexer weights.
    ``block_tokens`` is the unit of choice (1: single tokens).
    """

    __pydantic_config__: ClassVar = PLAIN
    num_heads: Positive
    head_dim: Positive
    top_k: Positive
    num_key_heads: Positive = 1
    block_tokens: Positive = 1
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Softmax attention with grouped KV heads (MHA: equal counts, MQA: one KV head).

    ``window`` limits a query to that many latest tokens (sliding window); ``chunk`` to its
    own chunk of that length; 0 means unlimited. ``kv_reduction`` > 1 keeps one compressed
    KV entry for that many tokens; a ``window`` beside it are the latest tokens that are kept
    uncompressed as well. ``keys_are_values``: one tensor is cached for both.
    ``values_from_keys``: there is no value projection, but keys and values are both cached.
    ``kv_from_layer_below``: the layer reuses an earlier layer's KV and caches nothing.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["attention"] = "attention"
    num_heads: Positive
    num_kv_heads: Positive
    head_dim: Positive
    v_head_dim: NotNegative = 0
    """0: the same as ``head_dim``."""
    window: NotNegative = 0
    chunk: NotNegative = 0
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    sinks: bool = False
    output_gate: bool = False
    keys_are_values: bool = False
    values_from_keys: bool = False
    kv_from_layer_below: bool = False
    kv_reduction: Positive = 1
    q_lora_rank: NotNegative = 0
    o_lora_rank: NotNegative = 0
    o_groups: Positive = 1
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA): one compressed KV vector a token for all heads.

    Cached a token: ``kv_lora_rank + qk_rope_head_dim`` values, whatever the head count.
    ``q_lora_rank`` 0 means queries are projected directly. Source: arXiv 2405.04434.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["mla"] = "mla"
    num_heads: Positive
    q_lora_rank: NotNegative
    kv_lora_rank: Positive
    qk_nope_head_dim: Positive
    qk_rope_head_dim: NotNegative
    v_head_dim: Positive
    output_gate: bool = False
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Gated delta-rule linear attention: a fixed-size state a sequence, no KV that grows.

    State: ``num_v_heads * head_k_dim * head_v_dim`` values plus the convolution tail.
    ``gate_rank`` 0: full-rank output gate. Source: arXiv 2412.06464.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["linear-attention"] = "linear-attention"
    num_k_heads: Positive
    num_v_heads: Positive
    head_k_dim: Positive
    head_v_dim: Positive
    conv_kernel: NotNegative = 4
    output_gate: bool = True
    gate_rank: NotNegative = 0
    per_channel_decay: bool = False
    decay_rank: NotNegative = 0
    state_dtype: DType = DType.FP32


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpace:
    """Mamba-2 state-space mixer: a fixed-size state a sequence. Source: arXiv 2405.21060."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["state-space"] = "state-space"
    num_heads: Positive
    head_dim: Positive
    state_size: Positive
    num_groups: Positive
    conv_kernel: NotNegative = 4
    conv_bias: bool = True
    projection_bias: bool = False
    state_dtype: DType = DType.FP32


@dataclass(frozen=True, slots=True, kw_only=True)
class NoMixer:
    """The layer has no token mixer (a feed-forward layer on its own)."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["none"] = "none"


Mixer = Annotated[
    Attention | LatentAttention | LinearAttention | StateSpace | NoMixer,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFfn:
    """``gated``: three matrices (gate, up, down); otherwise two."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["dense"] = "dense"
    intermediate: Positive
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeFfn:
    """Mixture of experts: each token meets ``top_k`` of ``num_experts``, and shared experts.

    ``shared_intermediate`` is the total width of all shared experts, 0 for none.
    ``latent_dim`` > 0: routed experts work on a projection of that width.
    ``dense_intermediate``: a dense feed-forward beside the experts in the same layer, 0 for none.
    """

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["moe"] = "moe"
    num_experts: Positive
    top_k: Positive
    intermediate: Positive
    shared_intermediate: NotNegative = 0
    shared_gate: bool = False
    dense_intermediate: NotNegative = 0
    gated: bool = True
    bias: bool = False
    router_bias: bool = False
    latent_dim: NotNegative = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoFfn:
    """The layer has no feed-forward part."""

    __pydantic_config__: ClassVar = PLAIN
    kind: Literal["none"] = "none"


Ffn = Annotated[DenseFfn | MoeFfn | NoFfn, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFormats:
    """Number formats of one layer's matrices, where a checkpoint treats layers unequally.

    ``mixer_output`` is the mixer's output projection; None: the same as ``mixer``.
    """

    __pydantic_config__: ClassVar = PLAIN
    mixer: DType = DType.BF16
    mixer_output: DType | None = None
    ffn: DType = DType.BF16
    experts: DType = DType.BF16
    shared_experts: DType = DType.BF16


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer; ``num_norms`` vectors of the hidden width; ``extra_parameters`` for
    small parts that no other field describes (hyper-connections, per-layer scalars)."""

    __pydantic_config__: ClassVar = PLAIN
    mixer: Mixer
    ffn: Ffn
    num_norms: NotNegative = 2
    extra_parameters: NotNegative = 0
    formats: LayerFormats | None = None
    """None: the formats of ``ModelSpec.quantization``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """``count`` identical layers in a row."""

    __pydantic_config__: ClassVar = PLAIN
    count: Positive
    layer: Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Number formats by part of the model, as its files store them."""

    __pydantic_config__: ClassVar = PLAIN
    mixer: DType = DType.BF16
    mixer_output: DType | None = None
    """The mixer's output projection; None: the same as ``mixer``."""
    ffn: DType = DType.BF16
    experts: DType = DType.BF16
    shared_experts: DType = DType.BF16
    embedding: DType = DType.BF16
    lm_head: DType = DType.BF16
    kv_cache: DType = DType.BF16
    method: str = "none"
    """The checkpoint's own word: none, fp8, modelopt, awq, gptq, mxfp4, compressed-tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTower:
    """An image encoder beside the language model: its size is exact, its shape a summary."""

    __pydantic_config__: ClassVar = PLAIN
    num_layers: Positive
    hidden_size: Positive
    parameters: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder model; derived counts are in ``spec/parameters.py``.

    ``max_context`` tokens; ``mtp`` are the extra layers of multi-token-prediction heads,
    stored with the weights and run only when speculating. ``assumptions`` say in words what
    the configuration left open and how it was read.
    """

    __pydantic_config__: ClassVar = PLAIN
    FORMAT_VERSION: ClassVar[int] = 1
    format_version: Literal[1] = 1
    name: str
    hidden_size: Positive
    vocab_size: Positive
    max_context: Positive
    layers: tuple[LayerGroup, ...] = field(default=())
    tied_embeddings: bool = False
    position_embeddings: NotNegative = 0
    """Learned position vectors (OPT, GPT-2), 0 for rotary and the like."""
    quantization: Quantization = field(default_factory=Quantization)
    mtp: tuple[LayerGroup, ...] = field(default=())
    vision: VisionTower | None = None
    extra_parameters: NotNegative = 0
    streams: Positive = 1
    """Parallel streams that its weights are for (``spec/streams.py``)."""
    source: str = ""
    as_of: str = ""
    assumptions: tuple[str, ...] = field(default=())

    @property
    def num_layers(self) -> int:
        """Decoder layers, multi-token-prediction heads not counted."""
        return sum(group.count for group in self.layers)
