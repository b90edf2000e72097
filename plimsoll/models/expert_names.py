"""Stored names of experts: one tensor a matrix and expert, against our stacks.

Two spellings exist: ``gate_proj``, ``up_proj``, ``down_proj`` (Qwen, DeepSeek) and ``w1``, ``w3``,
``w2`` in ``block_sparse_moe`` (Mixtral). Layers from ``num_hidden_layers`` on are heads that
predict several tokens at once; they are not loaded. Left out: experts stored as stacks.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from plimsoll.models.checkpoint_names import Part, plain_export, plain_place

__all__ = ["export_experts", "export_mixtral", "place_experts", "place_mixtral"]

_STORED = re.compile(r"(.*\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_STACKED = re.compile(r"(.*\.experts)\.(gate_proj|up_proj|down_proj)")
_LAYER = re.compile(r"layers\.(\d+)\.")
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_PLAIN = {short: name for name, short in _MIXTRAL.items()}


def place_experts(name: str, tensor: Tensor, config: Mapping[str, Any]) -> Iterator[Part]:
    """Each expert's matrix to its place in the stack."""
    for part in plain_place(name, tensor, config):
        layer = _LAYER.match(part.name)
        if layer and int(layer[1]) >= config["num_hidden_layers"]:
            continue
        found = _STORED.fullmatch(part.name)
        if found:
            matrix = _PLAIN.get(found[3], found[3])
            yield Part(f"{found[1]}.{matrix}", tensor, (int(found[2]),))
        else:
            yield part


def export_experts(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The stacks as one tensor an expert."""
    stored: dict[str, Tensor] = {}
    for name, tensor in plain_export(tensors, config).items():
        found = _STACKED.fullmatch(name)
        if found:
            for expert, matrix in enumerate(tensor.unbind()):
                stored[f"{found[1]}.{expert}.{found[2]}.weight"] = matrix
        else:
            stored[name] = tensor
    return stored


def place_mixtral(name: str, tensor: Tensor, config: Mapping[str, Any]) -> Iterator[Part]:
    """``place_experts`` with Mixtral's name of the block."""
    yield from place_experts(name.replace(".block_sparse_moe.", ".mlp."), tensor, config)


def export_mixtral(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """``export_experts`` with Mixtral's names."""
    stored = {}
    for name, tensor in export_experts(tensors, config).items():
        found = _STORED.fullmatch(name)
        if found:
            name = f"{found[1]}.{found[2]}.{_MIXTRAL[found[3]]}.weight"
        stored[name.replace(".mlp.", ".block_sparse_moe.")] = tensor
    return stored
