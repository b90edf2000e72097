"""How many parameters a model has, matrix by matrix, and how many bytes they take.

Every count follows from the shapes in :mod:`plimsoll.spec.model`; nothing is looked up. A
:class:`Weight` also says how tensor and expert parallelism cut it, so that the bytes on one
device are a sum over the same list.

Conventions. *Total* counts the language model and its vision tower, tied embeddings once, and
leaves out multi-token-prediction heads unless asked. *Active* counts what one token multiplies:
the mixers, the dense and shared feed-forward parts, ``top_k`` routed experts, routers, norms and
the output head; the input embedding is a look-up and counts only with ``embedding=True``. OpenAI,
DeepSeek and Moonshot publish active figures without it, Mistral and Qwen with it.

Left out: buffers (rotary tables, masks) and padding of the vocabulary.
Source: the shapes are those of the reference implementations, arXiv 2405.04434 (MLA),
2405.21060 (Mamba-2), 2412.06464 (gated delta rule), 2510.26692 (KDA), 2512.02556 (indexer).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from plimsoll.spec.dtype import DType
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    Ffn,
    Indexer,
    LatentAttention,
    Layer,
    LayerFormats,
    LayerGroup,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    NoFfn,
    NoMixer,
    Quantization,
    StateSpace,
)

__all__ = [
    "Cut",
    "ParameterCounts",
    "Part",
    "Weight",
    "active_parameters",
    "layer_parameters",
    "layer_weights",
    "outer_weights",
    "parameter_counts",
    "total_parameters",
    "weight_bytes",
    "weight_format",
    "with_weight_dtype",
]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Parameters by part; ``mtp`` are multi-token-prediction heads, not in ``total``."""

    mixers: int
    ffn: int
    experts: int
    shared_experts: int
    routers: int
    norms: int
    embedding: int
    lm_head: int
    vision: int
    other: int
    mtp: int

    @property
    def total(self) -> int:
        """All parts but the multi-token-prediction heads."""
        return (
            self.mixers
            + self.ffn
            + self.experts
            + self.shared_experts
            + self.routers
            + self.norms
            + self.embedding
            + self.lm_head
            + self.vision
            + self.other
        )


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


def _dense(hidden: int, width: int, *, gated: bool, bias: bool) -> int:
    up = 2 if gated else 1
    return (up + 1) * hidden * width + ((up * width + hidden) if bias else 0)


def _ffn_weights(ffn: Ffn, hidden: int) -> Iterator[Weight]:
    if isinstance(ffn, DenseFfn):
        count = _dense(hidden, ffn.intermediate, gated=ffn.gated, bias=ffn.bias)
        yield Weight(name="feed-forward", part="ffn", parameters=count)
    elif isinstance(ffn, MoeFfn):
        inner = ffn.latent_dim or hidden
        one = _dense(inner, ffn.intermediate, gated=ffn.gated, bias=ffn.bias)
        yield Weight(
            name="experts",
            part="experts",
            parameters=ffn.num_experts * one,
            cut="experts",
            units=ffn.num_experts,
            active=ffn.top_k / ffn.num_experts,
        )
        router = ffn.num_experts * (hidden + (1 if ffn.router_bias else 0))
        yield Weight(name="router", part="router", parameters=router, cut="whole")
        if ffn.latent_dim:
            latent = 2 * hidden * ffn.latent_dim
            yield Weight(name="latent in and out", part="ffn", parameters=latent, cut="whole")
        if ffn.shared_intermediate:
            shared = _dense(hidden, ffn.shared_intermediate, gated=ffn.gated, bias=ffn.bias)
            yield Weight(name="shared experts", part="shared-experts", parameters=shared)
        if ffn.shared_gate:
            yield Weight(name="shared gate", part="router", parameters=hidden, cut="whole")
        if ffn.dense_intermediate:
            dense = _dense(hidden, ffn.dense_intermediate, gated=ffn.gated, bias=ffn.bias)
            yield Weight(name="feed-forward", part="ffn", parameters=dense)
    else:
        assert isinstance(ffn, NoFfn)


def layer_weights(layer: Layer, hidden: int) -> tuple[Weight, ...]:
    """Every matrix of one layer of a model of width ``hidden``."""
    mixer, weights = layer.mixer, list[Weight]()
    if isinstance(mixer, Attention):
        weights.extend(_attention_weights(mixer, hidden))
    elif isinstance(mixer, LatentAttention):
        weights.extend(_latent_weights(mixer, hidden))
    elif isinstance(mixer, LinearAttention):
        weights.extend(_linear_weights(mixer, hidden))
    elif isinstance(mixer, StateSpace):
        weights.extend(_state_space_weights(mixer, hidden))
    else:
        assert isinstance(mixer, NoMixer)
    weights.extend(_ffn_weights(layer.ffn, hidden))
    if layer.num_norms:
        count = layer.num_norms * hidden
        weights.append(Weight(name="norms", part="norms", parameters=count, cut="whole"))
    if layer.extra_parameters:
        count = layer.extra_parameters
        weights.append(Weight(name="other", part="other", parameters=count, cut="whole"))
    return tuple(weights)


def outer_weights(model: ModelSpec) -> tuple[Weight, ...]:
    """What lies outside the layers: embedding, head, final norm, positions, vision tower.

    A tied embedding is one matrix: it is listed as the embedding, and is active as the head.
    """
    table = model.vocab_size * model.hidden_size
    weights = [
        Weight(
            name="embedding",
            part="embedding",
            parameters=table,
            active=1.0 if model.tied_embeddings else 0.0,
        ),
        Weight(name="final norm", part="norms", parameters=model.hidden_size, cut="whole"),
    ]
    if not model.tied_embeddings:
        weights.append(Weight(name="head", part="lm-head", parameters=table))
    if model.position_embeddings:
        count = model.position_embeddings * model.hidden_size
        weights.append(
            Weight(name="positions", part="other", parameters=count, cut="whole", active=0.0)
        )
    if model.extra_parameters:
        count = model.extra_parameters
        weights.append(Weight(name="other", part="other", parameters=count, cut="whole"))
    if model.vision is not None:
        count = model.vision.parameters
        weights.append(Weight(name="vision tower", part="vision", parameters=count, active=0.0))
    return tuple(weights)


def layer_parameters(layer: Layer, hidden: int) -> int:
    """Parameters of one layer."""
    return sum(weight.parameters for weight in layer_weights(layer, hidden))


def _groups_parameters(groups: tuple[LayerGroup, ...], hidden: int) -> int:
    return sum(group.count * layer_parameters(group.layer, hidden) for group in groups)


def parameter_counts(model: ModelSpec) -> ParameterCounts:
    """Parameters of the whole model, by part."""
    by_part: dict[str, int] = {}
    for group in model.layers:
        for weight in layer_weights(group.layer, model.hidden_size):
            by_part[weight.part] = by_part.get(weight.part, 0) + group.count * weight.parameters
    for weight in outer_weights(model):
        by_part[weight.part] = by_part.get(weight.part, 0) + weight.parameters
    return ParameterCounts(
        mixers=by_part.get("mixer", 0) + by_part.get("mixer-output", 0),
        ffn=by_part.get("ffn", 0),
        experts=by_part.get("experts", 0),
        shared_experts=by_part.get("shared-experts", 0),
        routers=by_part.get("router", 0),
        norms=by_part.get("norms", 0),
        embedding=by_part.get("embedding", 0),
        lm_head=by_part.get("lm-head", 0),
        vision=by_part.get("vision", 0),
        other=by_part.get("other", 0),
        mtp=_groups_parameters(model.mtp, model.hidden_size),
    )


def total_parameters(model: ModelSpec, *, mtp: bool = False) -> int:
    """All parameters; with ``mtp`` those of the multi-token-prediction heads too."""
    counts = parameter_counts(model)
    return counts.total + (counts.mtp if mtp else 0)


def active_parameters(model: ModelSpec, *, embedding: bool = False) -> int:
    """Parameters one text token multiplies; with ``embedding`` the input table counts whole."""
    active = 0.0
    for group in model.layers:
        for weight in layer_weights(group.layer, model.hidden_size):
            active += group.count * weight.parameters * weight.active
    for weight in outer_weights(model):
        whole = embedding and weight.part == "embedding"
        active += weight.parameters * (1.0 if whole else weight.active)
    return round(active)


def weight_format(
    weight: Weight, quantization: Quantization, formats: LayerFormats | None = None
) -> DType:
    """The number format ``weight`` is stored in; ``formats`` are its layer's own, if any.

    Norms, routers and other small parts are stored at 16 bits or more in every checkpoint
    format known: as the embedding where that is not quantized, else in bf16.
    """
    source = formats or quantization
    match weight.part:
        case "mixer":
            return source.mixer
        case "mixer-output":
            return source.mixer_output or source.mixer
        case "ffn":
            return source.ffn
        case "experts":
            return source.experts
        case "shared-experts":
            return source.shared_experts
        case "embedding":
            return quantization.embedding
        case "lm-head":
            return quantization.lm_head
        case _:
            return quantization.embedding if quantization.embedding.bits >= 16 else DType.BF16


def weight_bytes(model: ModelSpec, *, mtp: bool = False) -> float:
    """Bytes of all weights as stored, scales of block formats included."""
    total = 0.0
    for group in model.layers + (model.mtp if mtp else ()):
        for weight in layer_weights(group.layer, model.hidden_size):
            stored = weight_format(weight, model.quantization, group.layer.formats)
            total += group.count * weight.parameters * stored.bytes
    for weight in outer_weights(model):
        total += weight.parameters * weight_format(weight, model.quantization).bytes
    return total


def with_weight_dtype(model: ModelSpec, dtype: DType | None) -> ModelSpec:
    """``model`` with its matrices stored in ``dtype``; None: as the checkpoint says.

    Formats under 16 bits apply to the matrices inside the layers; embedding and head stay as
    they are, which is what serving engines do when they quantize on loading. 16 and 32 bits
    apply to everything.
    """
    if dtype is None:
        return model
    wide = dtype.bits >= 16
    old = model.quantization
    quantization = Quantization(
        mixer=dtype,
        ffn=dtype,
        experts=dtype,
        shared_experts=dtype,
        embedding=dtype if wide else old.embedding,
        lm_head=dtype if wide else old.lm_head,
        kv_cache=old.kv_cache,
        method="none" if wide else dtype.value,
    )

    def plain_groups(groups: tuple[LayerGroup, ...]) -> tuple[LayerGroup, ...]:
        return tuple(
            replace(group, layer=replace(group.layer, formats=None))
            if group.layer.formats is not None
            else group
            for group in groups
        )

    return replace(
        model,
        quantization=quantization,
        layers=plain_groups(model.layers),
        mtp=plain_groups(model.mtp),
    )
