"""Phi-3 and Phi-4-mini: Llama's layers, with fused matrices in the checkpoint.

Queries, keys and values are stored as one matrix, gate and up as another; they are split on
loading and joined again on saving. Heads may be turned in part, and long-context versions stretch
by measured factors (``longrope``). Left out: dropout, Phi-3-small and -MoE, LoRA of the
multimodal versions. Source: arXiv 2404.14219.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from plimsoll.models.checkpoint_names import Part, plain_export, plain_place
from plimsoll.models.dimensions import read_dimensions
from plimsoll.models.llama import PreNormDecoder
from plimsoll.spec.errors import SpecError

__all__ = ["Phi3", "export_phi3", "place_phi3"]

_FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


class Phi3(PreNormDecoder):
    """Llama with one window for all layers; null or absence means none."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        window = config.get("sliding_window") or 0
        super().__init__(
            _without_old_rope_name(config), windows=[window] * read_dimensions(config).num_layers
        )


def _without_old_rope_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """Phi-3 called its ``longrope`` "yarn" for a while."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, Mapping) or "long_factor" not in scaling:
        return dict(config)
    return {**config, "rope_scaling": {**scaling, "type": "longrope", "rope_type": "longrope"}}


def place_phi3(name: str, tensor: Tensor, config: Mapping[str, Any]) -> Iterator[Part]:
    """Fused matrices as their parts, the rest as it is."""
    for part in plain_place(name, tensor, config):
        fused = next((f for f in _FUSED if part.name.endswith(f"{f}.weight")), "")
        if not fused:
            yield part
            continue
        dims = read_dimensions(config)
        keys = dims.num_kv_heads * dims.head_dim
        rows = [dims.num_heads * dims.head_dim, keys, keys]
        if fused == "mlp.gate_up_proj":
            rows = [dims.intermediate] * 2
        if tensor.shape[0] != sum(rows):
            raise SpecError(f"{name} has {tensor.shape[0]} rows; expected {sum(rows)}")
        for own, piece in zip(_FUSED[fused], tensor.split(rows), strict=True):
            yield Part(part.name.replace(fused, own), piece)


def export_phi3(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Stored names, with the fused matrices."""
    left = dict(tensors)
    for first in tensors:
        for fused, own in _FUSED.items():
            if own[0] in first:
                names = [first.replace(own[0], part) for part in own]
                left[first.replace(own[0], fused)] = torch.cat([left.pop(n) for n in names])
    return plain_export(left, config)
