"""How many parameters a model has, matrix by matrix, and how many bytes they take.

Every count follows from the shapes in :mod:`plimsoll.spec.model`; nothing is looked up. A
``Weight`` also says how tensor and expert parallelism cut it, so that the bytes on one device
are a sum over the same list.

Conventions. *Total* counts the language model and its vision tower, tied embeddings once, and
leaves out multi-token-prediction heads unless asked. *Active* counts what one token multiplies:
the mixers, the dense and shared feed-forward parts, ``top_k`` routed experts, routers, norms and
the output head; the input embedding is a look-up and counts only with ``embedding=True``.
Published figures differ: OpenAI and DeepSeek count as here, Mistral, Moonshot and Qwen add the
embedding, Zhipu and MiniMax leave the head out (``head=False``).

Left out: buffers (rotary tables, masks) and padding of the vocabulary. The mixers' matrices and
their sources are in ``spec/mixer_weights.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from plimsoll.spec.dtype import DType
from plimsoll.spec.mixer_weights import Weight, mixer_weights
from plimsoll.spec.model import (
    DenseFfn,
    Ffn,
    Layer,
    LayerFormats,
    LayerGroup,
    ModelSpec,
    MoeFfn,
    Quantization,
)
from plimsoll.spec.streams import prefix_weights, weighing_weights

__all__ = [
    "ParameterCounts",
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


def layer_weights(layer: Layer, hidden: int, streams: int = 1) -> tuple[Weight, ...]:
    """Every matrix of one layer of a model of width ``hidden`` with so many streams."""
    weights = list(mixer_weights(layer.mixer, hidden))
    weights.extend(_ffn_weights(layer.ffn, hidden))
    if layer.num_norms:
        count = layer.num_norms * hidden
        weights.append(Weight(name="norms", part="norms", parameters=count, cut="whole"))
    if layer.extra_parameters:
        count = layer.extra_parameters
        weights.append(Weight(name="other", part="other", parameters=count, cut="whole"))
    weights.extend(prefix_weights(layer, streams))
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
    weights.extend(weighing_weights(model.hidden_size, model.streams))
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
        for weight in layer_weights(group.layer, model.hidden_size, model.streams):
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


def active_parameters(model: ModelSpec, *, embedding: bool = False, head: bool = True) -> int:
    """Parameters one text token multiplies; those of the layers once for each stream.

    With ``embedding`` the input table counts whole, without ``head`` the output head does not
    count: the two other conventions in use (see the top of this file).
    """
    active = 0.0
    for group in model.layers:
        for weight in layer_weights(group.layer, model.hidden_size, model.streams):
            active += model.streams * group.count * weight.parameters * weight.active
    tied = model.tied_embeddings
    for weight in outer_weights(model):
        share = weight.active
        if weight.part == "embedding":
            share = 1.0 if embedding or (tied and head) else 0.0
        elif weight.part == "lm-head" and not head:
            share = 0.0
        active += weight.parameters * share
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
        for weight in layer_weights(group.layer, model.hidden_size, model.streams):
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
