"""Qwen3-MoE: Qwen3's attention with a mixture of experts in most or all layers.

``mlp_only_layers`` and ``decoder_sparse_step`` say which layers are dense. Left out: the
load-balancing loss. Source: arXiv 2505.09388.
"""

from collections.abc import Mapping
from typing import Any

from plimsoll.models.decoder_stack import DecoderStack
from plimsoll.models.dimensions import read_dimensions
from plimsoll.models.grouped_attention import GroupedAttention, kv_shapes
from plimsoll.models.layers import GatedMlp
from plimsoll.models.llama import PreNormLayer
from plimsoll.models.mixtral import gated_unit
from plimsoll.models.moe import Experts, MoeMlp, Router
from plimsoll.models.rope import Rotary, read_rope
from plimsoll.spec.hf.fields import Fields

__all__ = ["Qwen3Moe"]


class Qwen3Moe(DecoderStack):
    """All layers have the window of ``sliding_window`` tokens where ``use_sliding_window``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        dims = read_dimensions(config)
        fields = Fields(config, where="config.json")
        num_experts = fields.required("num_experts", "num_local_experts")
        top_k = fields.required("num_experts_per_tok", most=num_experts)
        width = fields.required("moe_intermediate_size")
        fields.check_missing()
        step = fields.optional("decoder_sparse_step", default=1, least=1)
        dense = set(config.get("mlp_only_layers") or ())
        normalize = fields.flag("norm_topk_prob")
        bias = fields.flag("attention_bias")
        window = (config.get("sliding_window") or 0) if fields.flag("use_sliding_window") else 0
        rotary = Rotary(read_rope(config, dims.head_dim))
        unit = gated_unit(dims.activation)

        def mlp(index: int) -> GatedMlp | MoeMlp:
            if index in dense or (index + 1) % step:
                return GatedMlp(dims.hidden, dims.intermediate, dims.activation)
            return MoeMlp(
                Router(dims.hidden, num_experts, top_k, normalize=normalize),
                Experts(dims.hidden, width, num_experts, unit),
            )

        layers = [
            PreNormLayer(
                GroupedAttention(
                    index,
                    dims,
                    rotary,
                    qkv_bias=bias,
                    output_bias=bias,
                    qk_norm=True,
                    window=window,
                ),
                mlp(index),
                dims.hidden,
                dims.eps,
            )
            for index in range(dims.num_layers)
        ]
        super().__init__(config, dims, layers, kv_shapes(dims))
