"""Mixtral: Mistral's layers with a mixture of experts as feed-forward part.

Every layer has experts; the router's weights of the chosen ones sum to one. Left out: jitter and
the load-balancing loss of training. Source: arXiv 2401.04088.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.dimensions import read_dimensions
from plimsoll.models.grouped_attention import GroupedAttention, kv_shapes
from plimsoll.models.layers import activation
from plimsoll.models.llama import PreNormLayer
from plimsoll.models.moe import Experts, GatedUnit, MoeMlp, Router
from plimsoll.models.rope import Rotary, read_rope
from plimsoll.spec.hf.fields import Fields

__all__ = ["Mixtral", "gated_unit"]


class Mixtral(DecoderStack):
    """A window of ``sliding_window`` tokens in all layers, if given."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        dims = read_dimensions(config)
        fields = Fields(config, where="config.json")
        num_experts = fields.optional("num_local_experts", "num_experts", default=8, least=1)
        top_k = fields.optional("num_experts_per_tok", default=2, least=1, most=num_experts)
        rotary = Rotary(read_rope(config, dims.head_dim, theta=1_000_000.0))
        unit = gated_unit(dims.activation)
        layers = [
            PreNormLayer(
                GroupedAttention(index, dims, rotary, window=config.get("sliding_window") or 0),
                MoeMlp(
                    Router(dims.hidden, num_experts, top_k, normalize=True),
                    Experts(dims.hidden, dims.intermediate, num_experts, unit),
                ),
                dims.hidden,
                dims.eps,
            )
            for index in range(dims.num_layers)
        ]
        super().__init__(config, dims, layers, kv_shapes(dims))


def gated_unit(act: str) -> GatedUnit:
    """act(gate) * up."""
    function = activation(act)

    def unit(gate: Tensor, up: Tensor) -> Tensor:
        return function(gate) * up

    return unit
