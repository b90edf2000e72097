"""Number formats on a model's layers: the common ones once, deviations on their layers.

The module names are those of the published checkpoints, as exclusion lists use them. Each part
of a layer is asked for by one name that stands for its largest matrices; small matrices that a
checkpoint treats differently (a decay projection) are counted with the part.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from plimsoll.spec.hf.quantization import CheckpointFormats
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    Layer,
    LayerFormats,
    LinearAttention,
    MoeFfn,
    NoMixer,
    Quantization,
    StateSpace,
)
from plimsoll.spec.parameters import layer_weights

__all__ = ["apply_formats"]

_PARTS = ("mixer", "mixer-output", "ffn", "experts", "shared-experts")
_ATTRIBUTES = {
    "mixer": "mixer",
    "mixer-output": "mixer_output",
    "ffn": "ffn",
    "experts": "experts",
    "shared-experts": "shared_experts",
}
_OUTPUT = ("self_attn.o_proj", "mixer.o_proj", "attn.wo_b", "attn.o_proj")

_EXPERTS = (
    "mlp.experts.0.gate_proj",
    "mixer.experts.0.up_proj",
    "ffn.experts.0.w1",
    "block_sparse_moe.experts.0.w1",
)


def _names(layer: Layer) -> dict[str, tuple[str, ...]]:
    """The names that stand for each part the layer has."""
    names: dict[str, tuple[str, ...]] = {}
    mixer, ffn = layer.mixer, layer.ffn
    if isinstance(mixer, StateSpace):
        names["mixer"] = ("mixer.in_proj", "mamba.in_proj")
        names["mixer-output"] = ("mixer.out_proj", "mamba.out_proj")
    elif isinstance(mixer, LinearAttention):
        names["mixer"] = ("linear_attn.in_proj_qkv", "linear_attn.in_proj_qkvz")
        names["mixer-output"] = ("linear_attn.out_proj",)
        if mixer.per_channel_decay:
            names["mixer"], names["mixer-output"] = ("self_attn.q_proj",), _OUTPUT
    elif not isinstance(mixer, NoMixer):
        plain = isinstance(mixer, Attention) and not mixer.q_lora_rank
        names["mixer"] = (
            ("self_attn.q_proj", "mixer.q_proj", "attn.q_proj")
            if plain
            else ("self_attn.q_b_proj", "attn.wq_b", "self_attn.kv_b_proj")
        )
        names["mixer-output"] = _OUTPUT
    if isinstance(ffn, MoeFfn):
        names["experts"] = ("experts.0.gate_proj",) if ffn.dense_intermediate else _EXPERTS
        if ffn.shared_intermediate:
            names["shared-experts"] = (
                "mlp.shared_experts.gate_proj",
                "mlp.shared_expert.gate_proj",
                "mixer.shared_experts.up_proj",
                "ffn.shared_experts.w1",
            )
        if ffn.dense_intermediate or ffn.latent_dim:
            names["ffn"] = ("mlp.gate_proj", "mixer.fc1_latent_proj")
    elif isinstance(ffn, DenseFfn):
        names["ffn"] = ("mlp.gate_proj", "mlp.up_proj", "mixer.up_proj", "ffn.w1")
    return names


def _layer_formats(
    layer: Layer, index: int, formats: CheckpointFormats, *, is_mtp: bool
) -> LayerFormats:
    found = {
        _ATTRIBUTES[part]: formats.of(index, part, names, is_mtp=is_mtp)
        for part, names in _names(layer).items()
    }
    return LayerFormats(**found)


def apply_formats(
    layers: Sequence[Layer],
    mtp: Sequence[Layer],
    formats: CheckpointFormats,
    *,
    hidden: int,
) -> tuple[Quantization, list[Layer], list[Layer]]:
    """The model's common formats, and its layers with those that deviate marked."""
    own = [_layer_formats(layer, i, formats, is_mtp=False) for i, layer in enumerate(layers)]
    votes: dict[str, Counter[str]] = {part: Counter() for part in _PARTS}
    sizes: dict[Layer, dict[str, int]] = {}
    for layer, found in zip(layers, own, strict=True):
        if layer not in sizes:
            sizes[layer] = dict.fromkeys(_names(layer), 0)
            for weight in layer_weights(layer, hidden):
                if weight.part in sizes[layer]:
                    sizes[layer][weight.part] += weight.parameters
        for part, parameters in sizes[layer].items():
            stored = getattr(found, _ATTRIBUTES[part]) or found.mixer
            votes[part][stored.value] += parameters
    common = {}
    for part in _PARTS:
        best = votes[part].most_common(1)
        common[_ATTRIBUTES[part]] = type(formats.base)(best[0][0]) if best else formats.base
    if common["mixer_output"] is common["mixer"]:
        common["mixer_output"] = None  # type: ignore[assignment]
    quantization = Quantization(
        **common,
        embedding=formats.base,
        lm_head=formats.lm_head,
        kv_cache=formats.kv_cache,
        method=formats.method,
    )
    marked = [_marked(layer, found, quantization) for layer, found in zip(layers, own, strict=True)]
    ahead = [
        _marked(
            layer,
            _layer_formats(layer, len(layers) + i, formats, is_mtp=True),
            quantization,
        )
        for i, layer in enumerate(mtp)
    ]
    return quantization, marked, ahead


def _marked(layer: Layer, found: LayerFormats, common: Quantization) -> Layer:
    """The layer, with formats of its own if any part it has deviates."""
    for part in _names(layer):
        name = _ATTRIBUTES[part]
        own = getattr(found, name) or found.mixer
        shared = getattr(common, name) or common.mixer
        if own is not shared:
            output = None if found.mixer_output is found.mixer else found.mixer_output
            return replace(layer, formats=replace(found, mixer_output=output))
    return layer
