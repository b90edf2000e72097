"""How a model is cut over the devices of a replica: which degrees are possible, who holds what.

Tensor parallelism cuts heads and widths, and replicates KV heads when there are fewer of them
than devices; experts are spread over ``ep`` devices and their width over the rest. Pipeline
stages hold layers as vLLM splits them: evenly, what is left over going to the stages before
the last. Left out: padding of the vocabulary, uneven placement of experts.
"""

import functools
import math

from plimsoll.spec.errors import SpecError
from plimsoll.spec.model import (
    Attention,
    DenseFfn,
    LatentAttention,
    Layer,
    LayerFormats,
    LinearAttention,
    Mixer,
    ModelSpec,
    MoeFfn,
    NoMixer,
    Quantization,
    StateSpace,
)
from plimsoll.spec.parameters import Weight, layer_weights, outer_weights, weight_format
from plimsoll.spec.plan import Parallel

__all__ = ["check_parallel", "stage_groups", "stage_layers", "stage_weight_bytes", "valid_tp"]


def _mixer_degrees(mixer: Mixer, tp: int) -> bool:
    """Whether ``tp`` devices can share the mixer's heads."""
    if isinstance(mixer, Attention):
        shares = mixer.num_kv_heads % tp == 0 or tp % mixer.num_kv_heads == 0
        groups = mixer.o_lora_rank == 0 or mixer.o_groups % tp == 0
        return mixer.num_heads % tp == 0 and shares and groups
    if isinstance(mixer, LatentAttention):
        return mixer.num_heads % tp == 0
    if isinstance(mixer, LinearAttention):
        return mixer.num_k_heads % tp == 0 and mixer.num_v_heads % tp == 0
    if isinstance(mixer, StateSpace):
        shares = mixer.num_groups % tp == 0 or tp % mixer.num_groups == 0
        return mixer.num_heads % tp == 0 and shares
    return True


def _ffn_degrees(layer: Layer, tp: int) -> bool:
    if isinstance(layer.ffn, DenseFfn):
        return layer.ffn.intermediate % tp == 0
    if isinstance(layer.ffn, MoeFfn):
        return (layer.ffn.shared_intermediate + layer.ffn.dense_intermediate) % tp == 0
    return True


@functools.lru_cache(maxsize=256)
def _valid_tp(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    heads = 1
    for layer in layers:
        mixer = layer.mixer
        if not isinstance(mixer, NoMixer):
            count = mixer.num_v_heads if isinstance(mixer, LinearAttention) else mixer.num_heads
            heads = count if heads == 1 else math.gcd(heads, count)
    return tuple(
        tp
        for tp in range(1, heads + 1)
        if heads % tp == 0
        and all(_mixer_degrees(layer.mixer, tp) and _ffn_degrees(layer, tp) for layer in layers)
    )


def valid_tp(model: ModelSpec) -> tuple[int, ...]:
    """Tensor-parallel degrees that divide the model's heads and feed-forward widths.

    KV heads may be fewer than the degree: then they are replicated.
    """
    return _valid_tp(tuple(dict.fromkeys(group.layer for group in model.layers)))


def check_parallel(model: ModelSpec, parallel: Parallel) -> None:
    """Refuse a cut that the model's shapes do not allow.

    Raises:
        SpecError: naming the degree, what it does not divide, and the degrees that would do.
    """
    degrees = valid_tp(model)
    if parallel.tp not in degrees:
        listed = ", ".join(str(d) for d in degrees)
        raise SpecError(
            f"tp = {parallel.tp} does not divide the heads and widths of {model.name}; "
            f"use one of {listed}"
        )
    if parallel.pp > model.num_layers:
        raise SpecError(
            f"pp = {parallel.pp} is more than the {model.num_layers} layers of {model.name}"
        )
    parts = [g.layer.ffn for g in model.layers if isinstance(g.layer.ffn, MoeFfn)]
    devices = parallel.tp * parallel.attention_dp
    if parallel.ep > 1 and not parts:
        raise SpecError(f"ep = {parallel.ep}: {model.name} has no experts; use ep = 1")
    if devices % parallel.ep:
        raise SpecError(f"ep = {parallel.ep} does not divide tp * attention_dp = {devices} devices")
    for ffn in dict.fromkeys(parts):
        if ffn.num_experts % parallel.ep:
            raise SpecError(
                f"ep = {parallel.ep} does not divide the {ffn.num_experts} experts of {model.name}"
            )
        if ffn.intermediate % parallel.moe_tp:
            raise SpecError(
                f"the experts of {model.name} are {ffn.intermediate} wide, which {parallel.moe_tp} "
                f"devices cannot share; raise ep from {parallel.ep}"
            )


def stage_layers(num_layers: int, pp: int) -> tuple[int, ...]:
    """Layers of each pipeline stage; the stages just before the last take what is left over."""
    counts = [num_layers // pp] * pp
    for index in range(num_layers % pp):
        counts[pp - 2 - index if pp > 1 + index else pp - 1] += 1
    return tuple(counts)


def stage_groups(model: ModelSpec, pp: int) -> list[list[tuple[int, Layer]]]:
    """The (count, layer) runs of each of ``pp`` pipeline stages."""
    stages: list[list[tuple[int, Layer]]] = []
    runs = [(group.count, group.layer) for group in model.layers]
    position, left = 0, runs[0][0]
    for size in stage_layers(model.num_layers, pp):
        stage: list[tuple[int, Layer]] = []
        while size:
            take = min(size, left)
            stage.append((take, runs[position][1]))
            size, left = size - take, left - take
            if not left and position + 1 < len(runs):
                position += 1
                left = runs[position][0]
        stages.append(stage)
    return stages


def _device_parameters(weight: Weight, parallel: Parallel) -> float:
    """Parameters of ``weight`` that one device holds."""
    match weight.cut:
        case "whole":
            return float(weight.parameters)
        case "split":
            return weight.parameters / parallel.tp
        case "units":
            held = -(-weight.units // parallel.tp)
            return weight.parameters / weight.units * held
        case "experts":
            held = -(-weight.units // parallel.ep)
            return weight.parameters / weight.units * held / parallel.moe_tp


def _device_bytes(
    weights: tuple[Weight, ...],
    parallel: Parallel,
    quantization: Quantization,
    formats: LayerFormats | None = None,
) -> float:
    return sum(
        _device_parameters(weight, parallel) * weight_format(weight, quantization, formats).bytes
        for weight in weights
    )


def stage_weight_bytes(model: ModelSpec, parallel: Parallel) -> tuple[float, ...]:
    """Bytes of weights on one device of each pipeline stage, as the model stores them.

    The embedding and the vision tower lie on the first stage, the head and the final norm on
    the last; a tied embedding is on both.
    """
    result = []
    stages = stage_groups(model, parallel.pp)
    for index, stage in enumerate(stages):
        held = sum(
            count
            * _device_bytes(
                layer_weights(layer, model.hidden_size, model.streams),
                parallel,
                model.quantization,
                layer.formats,
            )
            for count, layer in stage
        )
        first, last = index == 0, index == len(stages) - 1
        outer = []
        for weight in outer_weights(model):
            at_start = weight.part in ("embedding", "vision") or weight.name == "positions"
            tied = weight.part == "embedding" and model.tied_embeddings
            if (first and at_start) or (last and (not at_start or tied)):
                outer.append(weight)
        held += _device_bytes(tuple(outer), parallel, model.quantization)
        result.append(held)
    return tuple(result)
